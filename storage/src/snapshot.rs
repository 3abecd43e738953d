//! Snapshots: the whole state up to one entry of the log, in one file.
//!
//! ```text
//! "ALSNAP01"  meta frame  zstd( { u32 length, record }*  u32::MAX  u64 count )
//! ```
//!
//! A record is whatever the state machine says, one at a time, so that neither writing nor reading needs the whole state in
//! memory. The meta frame has its own checksum, zstd has one over the content, and the count at the end shows a cut. A file is
//! written beside its place, synced and renamed. The two newest are kept.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::codec::{self, HEADER_BYTES, PAYLOAD_BYTES_MAX};
use crate::migrate;

const MAGIC: [u8; 8] = *b"ALSNAP01";
const SUFFIX: &str = "snap";
/// zstd's fastest of the ordinary levels: building is what writers wait for.
const LEVEL: i32 = 1;
const KEPT: usize = 2;
/// Not a length: the end of the records.
const END: u32 = u32::MAX;
/// The meta frame holds the membership of a cluster and little else.
const META_BYTES_MAX: usize = 1 << 20;

/// Why a snapshot cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk refuses.
    #[error("cannot {what} {path}", path = path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    /// The file is damaged, or of a newer version.
    #[error("the snapshot {path} is corrupt: {what}; restore a backup of the data directory or start with an empty one", path = path.display())]
    Corrupt { path: PathBuf, what: String },
    /// A record is longer than [`PAYLOAD_BYTES_MAX`].
    #[error("a record of {0} bytes is too large for a snapshot")]
    TooLarge(usize),
}

/// What a snapshot covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The last entry that is in it.
    pub index: u64,
    /// What the consensus layer wants to find again: log ids, membership.
    pub opaque: Vec<u8>,
}
crate::first_version!(Meta, "a snapshot's meta");

/// A snapshot on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub meta: Meta,
    pub path: PathBuf,
}

/// The directory of snapshots.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens the directory, which must exist, and removes what a crash left half written.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let store = Self { dir: dir.to_owned() };
        for path in store.files("tmp")? {
            fs::remove_file(&path).map_err(|e| io_error("remove", &path, e))?;
        }
        Ok(store)
    }

    /// Writes a snapshot, durably, and removes all but the newest two. Blocks: call it off the runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::TooLarge`]; older snapshots are then untouched.
    pub fn write(
        &self,
        meta: Meta,
        records: impl Iterator<Item = Vec<u8>>,
    ) -> Result<Snapshot, Error> {
        let path = self.place(meta.index);
        self.replace(&path, |file| write_content(file, &meta, records))?;
        Ok(Snapshot { meta, path })
    }

    /// Takes a copy of a snapshot that came from elsewhere, after checking all of it.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] and [`Error::Io`].
    pub fn import(&self, from: &Path) -> Result<Snapshot, Error> {
        let meta = verify(from)?;
        let path = self.place(meta.index);
        if path != from {
            self.replace(&path, |file| {
                let mut source = File::open(from).map_err(|e| io_error("read", from, e))?;
                io::copy(&mut source, file).map_err(|e| io_error("copy", from, e))?;
                Ok(())
            })?;
        }
        Ok(Snapshot { meta, path })
    }

    /// The snapshots that are there, newest first, as far as their meta can be read.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Result<Snapshot, Error>>, Error> {
        let mut files = self.files(SUFFIX)?;
        files.sort_unstable_by(|a, b| b.cmp(a));
        Ok(files
            .into_iter()
            .map(|path| Ok(Snapshot { meta: read_meta(&mut open(&path)?, &path)?, path }))
            .collect())
    }

    /// The snapshot to start from: the newest that is whole. An older one will do only if the log still holds what came
    /// after it, that is if `log_first`, the log's first entry, is not behind the one after its last.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] for the newest if neither it nor an older one will do.
    pub fn latest(&self, log_first: Option<u64>) -> Result<Option<Snapshot>, Error> {
        let mut broken = None;
        for found in self.list()? {
            let checked = found.and_then(|snapshot| verify(&snapshot.path).map(|_| snapshot));
            match checked {
                Ok(snapshot) if broken.is_none() => return Ok(Some(snapshot)),
                Ok(snapshot)
                    if log_first
                        .is_some_and(|first| first <= snapshot.meta.index.saturating_add(1)) =>
                {
                    tracing::warn!(path = %snapshot.path.display(), "starting from an older snapshot, since the newest is damaged; the log covers the difference");
                    return Ok(Some(snapshot));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(error = %error, "a snapshot is damaged");
                    broken.get_or_insert(error);
                }
            }
        }
        match broken {
            Some(error) => Err(error),
            None => Ok(None),
        }
    }

    fn place(&self, index: u64) -> PathBuf {
        self.dir.join(format!("{index:020}.{SUFFIX}"))
    }

    fn files(&self, suffix: &str) -> Result<Vec<PathBuf>, Error> {
        let entries = fs::read_dir(&self.dir).map_err(|e| io_error("read", &self.dir, e))?;
        let paths: io::Result<Vec<PathBuf>> =
            entries.map(|entry| entry.map(|entry| entry.path())).collect();
        let mut paths = paths.map_err(|e| io_error("read", &self.dir, e))?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == suffix));
        Ok(paths)
    }

    fn replace(
        &self,
        path: &Path,
        write: impl FnOnce(&mut File) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let new = path.with_extension("tmp");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .map_err(|e| io_error("create", &new, e))?;
        let done = write(&mut file).and_then(|()| {
            file.sync_all().map_err(|e| io_error("sync", &new, e))?;
            fs::rename(&new, path).map_err(|e| io_error("rename", &new, e))?;
            sync_dir(&self.dir)
        });
        if done.is_err() {
            // A full disk should not stay full because of what did not fit.
            let _ = fs::remove_file(&new);
            return done;
        }
        // The snapshot is there, whatever becomes of older ones.
        if let Err(error) = self.remove_old() {
            tracing::warn!(%error, "old snapshots cannot be removed");
        }
        Ok(())
    }

    fn remove_old(&self) -> Result<(), Error> {
        let mut files = self.files(SUFFIX)?;
        files.sort_unstable_by(|a, b| b.cmp(a));
        for path in files.iter().skip(KEPT) {
            fs::remove_file(path).map_err(|e| io_error("remove", path, e))?;
        }
        Ok(())
    }
}

impl Snapshot {
    /// Reads the records one by one.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::Corrupt`], here and from the iterator, which ends after an error.
    pub fn records(&self) -> Result<Records, Error> {
        Records::open(&self.path).map(|(_, records)| records)
    }
}

/// The records of a snapshot.
pub struct Records {
    path: PathBuf,
    source: zstd::Decoder<'static, BufReader<File>>,
    read: u64,
    is_done: bool,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records")
            .field("path", &self.path)
            .field("read", &self.read)
            .finish_non_exhaustive()
    }
}

impl Records {
    fn open(path: &Path) -> Result<(Meta, Self), Error> {
        let mut file = open(path)?;
        let meta = read_meta(&mut file, path)?;
        let source = zstd::Decoder::with_buffer(file).map_err(|e| io_error("read", path, e))?;
        Ok((meta, Self { path: path.to_owned(), source, read: 0, is_done: false }))
    }

    fn next_record(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut length = [0; 4];
        self.fill(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length == END {
            let mut count = [0; 8];
            self.fill(&mut count)?;
            if u64::from_le_bytes(count) != self.read {
                return Err(corrupt(&self.path, "it holds another number of records than it says"));
            }
            // Reading to the end makes zstd compare its checksum.
            return match self.source.read(&mut [0; 1]) {
                Ok(0) => Ok(None),
                Ok(_) => Err(corrupt(&self.path, "there is something behind its end")),
                Err(e) => Err(read_error(&self.path, e)),
            };
        }
        let length = length as usize;
        if length > PAYLOAD_BYTES_MAX {
            return Err(corrupt(&self.path, "a record is too long"));
        }
        let mut record = Vec::new();
        let got = self.source.by_ref().take(length as u64).read_to_end(&mut record);
        if got.map_err(|e| read_error(&self.path, e))? != length {
            return Err(corrupt(&self.path, "it ends in the middle of a record"));
        }
        self.read += 1;
        Ok(Some(record))
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), Error> {
        self.source.read_exact(out).map_err(|e| read_error(&self.path, e))
    }
}

impl Iterator for Records {
    type Item = Result<Vec<u8>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let next = self.next_record().transpose();
        self.is_done = !matches!(next, Some(Ok(_)));
        next
    }
}

/// Reads all of a snapshot and returns its meta.
fn verify(path: &Path) -> Result<Meta, Error> {
    let (meta, records) = Records::open(path)?;
    for record in records {
        record?;
    }
    Ok(meta)
}

fn write_content(
    file: &mut File,
    meta: &Meta,
    records: impl Iterator<Item = Vec<u8>>,
) -> Result<(), Error> {
    let failed = |e: io::Error| io_error("write", Path::new("a snapshot"), e);
    let mut out = BufWriter::new(file);
    let meta = migrate::write(meta).map_err(|e| failed(io::Error::other(e)))?;
    out.write_all(&MAGIC).and_then(|()| out.write_all(&meta)).map_err(failed)?;
    let mut out = zstd::Encoder::new(out, LEVEL).map_err(failed)?;
    out.include_checksum(true).map_err(failed)?;
    let mut count = 0_u64;
    for record in records {
        let length = u32::try_from(record.len()).ok().filter(|_| record.len() <= PAYLOAD_BYTES_MAX);
        let length = length.ok_or(Error::TooLarge(record.len()))?;
        out.write_all(&length.to_le_bytes())
            .and_then(|()| out.write_all(&record))
            .map_err(failed)?;
        count += 1;
    }
    out.write_all(&END.to_le_bytes())
        .and_then(|()| out.write_all(&count.to_le_bytes()))
        .map_err(failed)?;
    out.finish().and_then(|mut out| out.flush()).map_err(failed)
}

fn open(path: &Path) -> Result<BufReader<File>, Error> {
    File::open(path).map(BufReader::new).map_err(|e| io_error("read", path, e))
}

fn read_meta(file: &mut BufReader<File>, path: &Path) -> Result<Meta, Error> {
    let mut start = [0; MAGIC.len() + HEADER_BYTES];
    file.read_exact(&mut start).map_err(|e| read_error(path, e))?;
    let (magic, header) = start.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(corrupt(path, "it does not start as a snapshot does"));
    }
    // The length is at bytes 3 to 7 of a frame; the frame is read again as a whole below.
    let length = header
        .get(3..7)
        .and_then(|b| b.try_into().ok())
        .map_or(usize::MAX, |b| u32::from_le_bytes(b) as usize);
    if length > META_BYTES_MAX {
        return Err(corrupt(path, "its meta is too long"));
    }
    let mut frame = header.to_vec();
    let got = file
        .by_ref()
        .take(length as u64)
        .read_to_end(&mut frame)
        .map_err(|e| read_error(path, e))?;
    if got != length {
        return Err(corrupt(path, "it ends in the middle of its meta"));
    }
    migrate::read(&frame).map_err(|e: codec::Error| corrupt(path, &e.to_string()))
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| io_error("sync", dir, e))
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { what, path: path.to_owned(), source }
}

fn corrupt(path: &Path, what: &str) -> Error {
    Error::Corrupt { path: path.to_owned(), what: what.to_owned() }
}

/// zstd reports damage as an error of I/O without an error number of the operating system.
fn read_error(path: &Path, error: io::Error) -> Error {
    if error.raw_os_error().is_some() {
        io_error("read", path, error)
    } else {
        corrupt(path, &error.to_string())
    }
}

#[cfg(test)]
mod tests;
