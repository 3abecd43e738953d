//! The data directory: who may use it, what wrote it, and which node it belongs to.
//!
//! ```text
//! FORMAT            version of the layout
//! LOCK              held while a process uses the directory; names its process id
//! node.json         this node's id, and how often it has started
//! cluster.secret    the key that wraps the others (see `seal`)
//! raft.redb         the log              snapshots/   the state up to some entry
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The layout that this build writes.
const FORMAT: u32 = 1;
const FORMAT_FILE: &str = "FORMAT";
const LOCK_FILE: &str = "LOCK";
const NODE_FILE: &str = "node.json";
const LOG_FILE: &str = "raft.redb";
const SNAPSHOTS: &str = "snapshots";
/// None of the small files is longer.
const SMALL_BYTES_MAX: u64 = 64 << 10;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It cannot be created, read or written.
    #[error("cannot {what} {path}", path = path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    /// Another process has it.
    #[error("the data directory {path} is locked by another althing{holder}; stop it, or give this one a data_dir of its own", path = path.display())]
    Locked { path: PathBuf, holder: String },
    /// A newer version of althing has been here.
    #[error("the data directory {path} was written by a newer version of althing (format {found}; this one reads up to {FORMAT}); upgrade it, or restore a backup", path = path.display())]
    Newer { path: PathBuf, found: u32 },
    /// It holds something that is not ours.
    #[error("{path} is not empty and is not a data directory of althing; choose another data_dir", path = path.display())]
    Foreign { path: PathBuf },
    /// A file is damaged or missing.
    #[error("the data directory {path} is corrupt: {file}: {what}; restore a backup or start with an empty directory", path = path.display())]
    Corrupt { path: PathBuf, file: &'static str, what: String },
    /// The operating system gives no random numbers.
    #[error("cannot draw a random node id: the operating system gives no random numbers")]
    Random,
}

/// Which node this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// 63 random bits, drawn when the directory was made. Never used again by another directory.
    pub node_id: u64,
    /// 1 at the first start and one more at each later one.
    pub incarnation: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    node_id: u64,
    incarnation: u64,
    /// The log has been created: from then on its absence is a loss and not a first start.
    has_log: bool,
}

/// A data directory that is ours while this lives.
#[derive(Debug)]
pub struct Dir {
    path: PathBuf,
    identity: Identity,
    has_log: bool,
    /// Holds the lock.
    _lock: File,
}

impl Dir {
    /// Opens the data directory `path`, making it if it is not there, and counts this start durably.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] while another process has it; [`Error::Newer`], [`Error::Foreign`] and [`Error::Corrupt`] for what is in it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if !path.is_dir() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|e| io_error("create the data directory", path, e))?;
            let above = path.parent().filter(|it| !it.as_os_str().is_empty());
            let above = above.unwrap_or_else(|| Path::new("."));
            let synced = File::open(above).and_then(|it| it.sync_all());
            synced.map_err(|e| io_error("sync", above, e))?;
        }
        let is_new = check_format(path)?;
        let lock = lock(path)?;
        // Looked at again under the lock: two first starts may have raced to here.
        let is_new = is_new && check_format(path)?;
        if is_new {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))
                .map_err(|e| io_error("restrict the permissions of", path, e))?;
            first_start(path)?;
        }
        let mut node = read_node(path)?;
        if node.has_log && !path.join(LOG_FILE).is_file() {
            return Err(corrupt(path, LOG_FILE, "the raft log is missing"));
        }
        node.incarnation += 1;
        write_node(path, &node)?;
        let snapshots = path.join(SNAPSHOTS);
        if !snapshots.is_dir() {
            let made = fs::DirBuilder::new().mode(0o700).create(&snapshots);
            made.map_err(|e| io_error("create", &snapshots, e))?;
        }
        Ok(Self {
            path: path.to_owned(),
            identity: Identity { node_id: node.node_id, incarnation: node.incarnation },
            has_log: node.has_log,
            _lock: lock,
        })
    }

    /// Which node this is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the raft log is.
    #[must_use]
    pub fn raft_log(&self) -> PathBuf {
        self.path.join(LOG_FILE)
    }

    /// Where snapshots are.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.path.join(SNAPSHOTS)
    }

    /// Whether it was noted that the raft log exists.
    #[must_use]
    pub const fn has_log(&self) -> bool {
        self.has_log
    }

    /// Notes durably that the raft log exists, so that its loss is noticed. Call it before anything is acknowledged.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn log_created(&mut self) -> Result<(), Error> {
        if self.has_log {
            return Ok(());
        }
        write_node(
            &self.path,
            &NodeFile {
                node_id: self.identity.node_id,
                incarnation: self.identity.incarnation,
                has_log: true,
            },
        )?;
        self.has_log = true;
        Ok(())
    }
}

/// Whether the directory is new; an error if it is not for us.
fn check_format(path: &Path) -> Result<bool, Error> {
    let Some(text) = read_small(path, FORMAT_FILE)? else {
        let mut names =
            fs::read_dir(path).map_err(|e| io_error("read the data directory", path, e))?;
        // A first start that was cut short leaves these and nothing else.
        let ours = [LOCK_FILE, NODE_FILE, "node.json.tmp", "FORMAT.tmp", "lost+found"];
        let foreign = names.any(|entry| {
            entry.is_ok_and(|entry| !ours.iter().any(|name| entry.file_name() == *name))
        });
        return if foreign { Err(Error::Foreign { path: path.to_owned() }) } else { Ok(true) };
    };
    let found = text.trim().strip_prefix("althing ").and_then(|n| n.parse::<u32>().ok());
    match found {
        Some(FORMAT) => Ok(false),
        Some(found) if found > FORMAT => Err(Error::Newer { path: path.to_owned(), found }),
        _ => Err(corrupt(path, FORMAT_FILE, "it does not say which format the directory has")),
    }
}

fn first_start(path: &Path) -> Result<(), Error> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Random)?;
    // Zero is kept free, and 63 bits fit the signed integers of SQLite and JSON.
    let node_id = (u64::from_le_bytes(bytes) >> 1).max(1);
    write_node(path, &NodeFile { node_id, incarnation: 0, has_log: false })?;
    // The last file, since a directory with it is complete.
    write_atomically(path, FORMAT_FILE, format!("althing {FORMAT}\n").as_bytes())
}

fn lock(path: &Path) -> Result<File, Error> {
    let file = path.join(LOCK_FILE);
    let mut handle = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&file)
        .map_err(|e| io_error("open", &file, e))?;
    match handle.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let read = handle.take(20).read_to_string(&mut pid);
            let pid = read.ok().and_then(|_| pid.trim().parse::<u32>().ok());
            let holder = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
            return Err(Error::Locked { path: path.to_owned(), holder });
        }
        Err(TryLockError::Error(e)) => return Err(io_error("lock", &file, e)),
    }
    handle
        .set_len(0)
        .and_then(|()| writeln!(handle, "{}", std::process::id()))
        .map_err(|e| io_error("write", &file, e))?;
    Ok(handle)
}

fn read_node(path: &Path) -> Result<NodeFile, Error> {
    let text = read_small(path, NODE_FILE)?
        .ok_or_else(|| corrupt(path, NODE_FILE, "the file is missing"))?;
    let node: NodeFile =
        serde_json::from_str(&text).map_err(|e| corrupt(path, NODE_FILE, &e.to_string()))?;
    if node.node_id == 0 || node.node_id > i64::MAX.unsigned_abs() {
        return Err(corrupt(path, NODE_FILE, "the node id is not a number of 63 bits"));
    }
    Ok(node)
}

fn write_node(path: &Path, node: &NodeFile) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(node)
        .map_err(|e| io_error("write", &path.join(NODE_FILE), e.into()))?;
    write_atomically(path, NODE_FILE, &text)
}

fn read_small(path: &Path, name: &'static str) -> Result<Option<String>, Error> {
    let file = path.join(name);
    let handle = match File::open(&file) {
        Ok(handle) => handle,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error("read", &file, e)),
    };
    let mut text = String::new();
    match handle.take(SMALL_BYTES_MAX).read_to_string(&mut text) {
        Ok(_) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            Err(corrupt(path, name, "it is not text"))
        }
        Err(e) => Err(io_error("read", &file, e)),
    }
}

/// Replaces a small file so that it holds the old or the new content whenever the power goes. Readable by its owner only.
pub(crate) fn write_atomically(
    path: &Path,
    name: &'static str,
    content: &[u8],
) -> Result<(), Error> {
    let file = path.join(name);
    let new = path.join(format!("{name}.tmp"));
    let write = || -> io::Result<()> {
        let mut handle =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        handle.write_all(content)?;
        handle.sync_all()?;
        fs::rename(&new, &file)?;
        File::open(path)?.sync_all()
    };
    write().map_err(|e| io_error("write", &file, e))
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { what, path: path.to_owned(), source }
}

fn corrupt(path: &Path, file: &'static str, what: &str) -> Error {
    Error::Corrupt { path: path.to_owned(), file, what: what.to_owned() }
}

#[cfg(test)]
mod tests;
