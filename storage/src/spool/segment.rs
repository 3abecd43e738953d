//! One spool file: its header, what of it holds, and how far it was moved.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::frame::{self, Found};
use crate::record::{self, Record};

/// Bytes before the first frame: magic, salt, checksum.
pub(super) const HEADER_BYTES: u64 = 16;
const HEADER_LENGTH: usize = 16;
const MAGIC: [u8; 8] = *b"ALSPOOL\x01";
/// Read at once, unless a frame is longer.
const READ_BYTES: u64 = 1024 * 1024;

/// What the writer of a file and its reader share.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) salt: u32,
    /// Bytes that are whole frames; nothing behind it counts.
    pub(super) committed: AtomicU64,
    /// Bytes whose records are in the database.
    pub(super) moved: AtomicU64,
    /// Nobody writes here any more.
    pub(super) sealed: AtomicBool,
}

impl Segment {
    pub(super) fn new(path: PathBuf, salt: u32) -> Self {
        Self {
            path,
            salt,
            committed: AtomicU64::new(HEADER_BYTES),
            moved: AtomicU64::new(HEADER_BYTES),
            sealed: AtomicBool::new(false),
        }
    }

    /// A file that an earlier life left. `None`: it has no readable header.
    pub(super) fn left_over(path: &Path) -> io::Result<Option<Self>> {
        let length = fs::metadata(path)?.len();
        let mut header = [0; HEADER_LENGTH];
        let whole = File::open(path)?.read_exact_at(&mut header, 0).is_ok();
        let Some(salt) = parse_header(&header).filter(|_| whole) else { return Ok(None) };
        let segment = Self::new(path.to_owned(), salt);
        segment.committed.store(length, Ordering::Relaxed);
        segment.sealed.store(true, Ordering::Relaxed);
        let moved = read_mark(&mark_path(path)).unwrap_or(HEADER_BYTES);
        segment.moved.store(moved.clamp(HEADER_BYTES, length), Ordering::Relaxed);
        Ok(Some(segment))
    }

    /// Bytes that wait to be moved.
    pub(super) fn backlog(&self) -> u64 {
        self.committed.load(Ordering::Acquire).saturating_sub(self.moved.load(Ordering::Acquire))
    }
}

pub(super) fn header(salt: u32) -> [u8; HEADER_LENGTH] {
    let mut header = [0; HEADER_LENGTH];
    let (magic, rest) = header.split_at_mut(8);
    magic.copy_from_slice(&MAGIC);
    let (first, second) = rest.split_at_mut(4);
    first.copy_from_slice(&salt.to_le_bytes());
    second.copy_from_slice(&crc32fast::hash(&salt.to_le_bytes()).to_le_bytes());
    header
}

fn parse_header(header: &[u8; HEADER_LENGTH]) -> Option<u32> {
    let (magic, rest) = header.split_first_chunk::<8>()?;
    let (salt, rest) = rest.split_first_chunk::<4>()?;
    let checksum = rest.first_chunk::<4>()?;
    let is_right = *magic == MAGIC && crc32fast::hash(salt) == u32::from_le_bytes(*checksum);
    is_right.then(|| u32::from_le_bytes(*salt))
}

pub(super) fn mark_path(path: &Path) -> PathBuf {
    path.with_extension("mark")
}

fn read_mark(path: &Path) -> Option<u64> {
    let bytes: [u8; 12] = fs::read(path).ok()?.try_into().ok()?;
    let (moved, checksum) = bytes.split_first_chunk::<8>()?;
    (crc32fast::hash(moved).to_le_bytes() == checksum).then(|| u64::from_le_bytes(*moved))
}

/// What one look at a file gave.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) records: Vec<Record>,
    /// Where the next look begins.
    pub(super) end: u64,
    /// Bytes in the middle that were no frames.
    pub(super) damaged_bytes: u64,
    /// Frames that were right, but hold no record that this version knows.
    pub(super) undecodable: u64,
    /// Bytes of an unfinished frame at the very end.
    pub(super) torn_bytes: u64,
}

/// The reading side of a file.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) segment: Arc<Segment>,
    /// Something in it was not right: it is kept aside in the end, not deleted.
    pub(super) is_damaged: bool,
    file: File,
    mark: Option<File>,
}

impl Source {
    pub(super) fn open(segment: Arc<Segment>) -> io::Result<Self> {
        let file = File::open(&segment.path)?;
        Ok(Self { segment, is_damaged: false, file, mark: None })
    }

    /// The next records, at most `count`, from where the last move ended.
    pub(super) fn read(&self, count: usize) -> io::Result<Part> {
        let from = self.segment.moved.load(Ordering::Acquire);
        let until = self.segment.committed.load(Ordering::Acquire);
        let mut want = READ_BYTES;
        loop {
            let available = until.saturating_sub(from);
            let mut bytes = vec![0; usize::try_from(available.min(want)).unwrap_or(0)];
            let missing = bytes.len() - read_some(&self.file, &mut bytes, from)?;
            bytes.truncate(bytes.len() - missing);
            // Somebody cut the file: what is gone stays gone, the rest is read to its end.
            let is_all = available <= want || 0 < missing;
            let mut part = parse(&bytes, self.segment.salt, is_all, count);
            if part.end == 0 && !is_all {
                want = u64::MAX;
                continue;
            }
            let is_through = 0 < missing && part.end == bytes.len() as u64;
            part.damaged_bytes += if is_through { available - part.end } else { 0 };
            part.end = if is_through { until } else { from + part.end };
            return Ok(part);
        }
    }

    /// Remembers that everything before `end` is in the database. Not synced: after a power loss, a part is moved
    /// again and found to be there already.
    pub(super) fn mark(&mut self, end: u64) -> io::Result<()> {
        self.segment.moved.store(end, Ordering::Release);
        let mark = match &mut self.mark {
            Some(mark) => mark,
            empty => {
                let path = mark_path(&self.segment.path);
                empty.insert(File::options().write(true).create(true).truncate(false).open(path)?)
            }
        };
        let mut bytes = [0; 12];
        let (moved, checksum) = bytes.split_at_mut(8);
        moved.copy_from_slice(&end.to_le_bytes());
        checksum.copy_from_slice(&crc32fast::hash(&end.to_le_bytes()).to_le_bytes());
        mark.write_all_at(&bytes, 0)
    }

    pub(super) fn is_done(&self) -> bool {
        self.segment.sealed.load(Ordering::Acquire) && self.segment.backlog() == 0
    }
}

/// Reads until `bytes` is full or the file ends; says how much it got.
fn read_some(file: &File, bytes: &mut [u8], from: u64) -> io::Result<usize> {
    let mut got = 0;
    while let Some(rest) = bytes.get_mut(got..).filter(|it| !it.is_empty()) {
        match file.read_at(rest, from + got as u64) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

/// Reads frames. With `is_all`, damage is skipped; without, it ends the reading, to be looked at with all bytes.
fn parse(bytes: &[u8], salt: u32, is_all: bool, count: usize) -> Part {
    let mut part = Part::default();
    let mut at = 0;
    while at < bytes.len() && part.records.len() < count {
        match frame::at(bytes, at, salt) {
            Found::Frame { payload, end } => {
                match record::decode(payload) {
                    Ok(record) => part.records.push(record),
                    Err(_) => part.undecodable += 1,
                }
                at = end;
            }
            Found::Incomplete | Found::Damaged if !is_all => break,
            Found::Incomplete | Found::Damaged => match frame::next(bytes, at + 1, salt) {
                Some(next) => {
                    part.damaged_bytes += (next - at) as u64;
                    at = next;
                }
                None => {
                    part.torn_bytes += (bytes.len() - at) as u64;
                    at = bytes.len();
                }
            },
        }
    }
    part.end = at as u64;
    part
}
