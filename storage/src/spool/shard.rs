//! The writing side: one file at a time, one write(2) a record.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::fs_port::{AppendFile, Fs};
use super::segment::{self, HEADER_BYTES, Segment};
use super::{SEGMENT_BYTES, frame};
use crate::record::{self, Record};

/// A buffer that grew beyond this for one large record is given back.
const BUFFER_KEPT_BYTES: usize = 64 * 1024;

/// What all shards share.
pub(super) struct Common {
    pub(super) dir: PathBuf,
    pub(super) fs: Box<dyn Fs>,
    /// Distinguishes the files of this life from those of others.
    pub(super) life: u64,
    pub(super) next_file: AtomicU64,
    /// Every file that may hold something to move, oldest first.
    pub(super) segments: Mutex<Vec<Arc<Segment>>>,
    /// Bytes that wait to be moved.
    pub(super) backlog: AtomicU64,
}

/// One worker's place to append to. Behind a lock that is contended only if more threads append than there are shards.
#[derive(Default)]
pub(super) struct Shard {
    open: Option<Open>,
    buffer: Vec<u8>,
}

struct Open {
    file: Box<dyn AppendFile>,
    segment: Arc<Segment>,
    length: u64,
}

impl Shard {
    /// Appends one record; when this returns, the operating system has it. Gives the backlog before and after.
    pub(super) fn append(&mut self, common: &Common, record: &Record) -> io::Result<Range<u64>> {
        if self.open.as_ref().is_some_and(|it| SEGMENT_BYTES <= it.length) {
            self.seal();
        }
        let open = match &mut self.open {
            Some(open) => open,
            empty => empty.insert(common.create()?),
        };
        self.buffer.clear();
        frame::write(&mut self.buffer, open.segment.salt, |out| record::encode(record, out));
        let count = self.buffer.len() as u64;
        if let Err(error) = write_whole(open.file.as_mut(), &self.buffer) {
            // A part may be there: cut it off, or else leave the file, whose reader stops at what was committed.
            if open.file.truncate(open.length).is_err() {
                self.seal();
            }
            return Err(error);
        }
        open.length += count;
        let before = common.backlog.fetch_add(count, Ordering::AcqRel);
        open.segment.committed.store(open.length, Ordering::Release);
        if BUFFER_KEPT_BYTES < self.buffer.capacity() {
            self.buffer = Vec::new();
        }
        Ok(before..before + count)
    }

    /// Ends the current file; the next append begins another.
    pub(super) fn seal(&mut self) {
        if let Some(open) = self.open.take() {
            open.segment.sealed.store(true, Ordering::Release);
        }
    }
}

impl Common {
    fn create(&self) -> io::Result<Open> {
        loop {
            let number = self.next_file.fetch_add(1, Ordering::Relaxed);
            let path = self.dir.join(format!("{:016x}-{number:08x}.spool", self.life));
            let mut file = match self.fs.create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other?,
            };
            let salt = rand::random();
            if let Err(error) = write_whole(file.as_mut(), &segment::header(salt)) {
                drop(file);
                // Best effort: an empty file is skipped when it is found.
                let _ = std::fs::remove_file(&path);
                return Err(error);
            }
            let segment = Arc::new(Segment::new(path, salt));
            self.segments.lock().push(Arc::clone(&segment));
            return Ok(Open { file, segment, length: HEADER_BYTES });
        }
    }
}

/// One write(2), and more only where the first took a part.
fn write_whole(file: &mut dyn AppendFile, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
