//! The reading side: takes records out in batches, and lets go of files whose records are safe elsewhere.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::segment::{Part, Segment, Source, mark_path};
use super::{QUARANTINE, Shared};
use crate::record::Record;

/// Damaged files that are kept for a person to look at; the oldest go first.
const QUARANTINE_FILES_MAX: usize = 16;

/// A batch that has as much is enough, however few its records: bodies make them large. The last file that is read
/// may add its length.
const BATCH_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Takes records out of a spool. There is one.
#[derive(Debug)]
pub(crate) struct Drain {
    shared: Arc<Shared>,
    sources: Vec<Source>,
    /// Where the next round begins, so that a busy file does not starve the others.
    turn: usize,
}

/// Records that were read, and which files they came from.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// In the order of each file.
    pub(crate) records: Vec<Record>,
    parts: Vec<(Arc<Segment>, u64)>,
    /// A file could not be read; the others were.
    pub(crate) is_partial: bool,
}

impl Batch {
    /// Whether nothing waits, readable or not.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

impl Drain {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, sources: Vec::new(), turn: 0 }
    }

    /// The next records, at most `count`. The same ones again until [`Drain::commit`].
    pub(crate) fn next(&mut self, count: usize) -> Batch {
        let is_partial = !self.discover();
        let mut batch = Batch { is_partial, ..Batch::default() };
        let files = self.sources.len();
        let mut bytes = 0;
        for step in 0..files {
            let left = count.saturating_sub(batch.records.len());
            let Some(source) = self.sources.get_mut((self.turn + step) % files) else { continue };
            if left == 0 || BATCH_BYTES_MAX <= bytes || source.segment.backlog() == 0 {
                continue;
            }
            let mut part = match source.read(left) {
                Ok(part) => part,
                Err(error) => {
                    tracing::error!(%error, path = %source.segment.path.display(), "a spool file cannot be read; it is tried again");
                    batch.is_partial = true;
                    continue;
                }
            };
            note_damage(&self.shared, source, &part);
            bytes += part.end.saturating_sub(source.segment.moved.load(Ordering::Acquire));
            batch.records.append(&mut part.records);
            batch.parts.push((Arc::clone(&source.segment), part.end));
        }
        self.turn = self.turn.wrapping_add(1);
        batch
    }

    /// Says that what `batch` holds is in the database.
    pub(crate) fn commit(&mut self, batch: &Batch) {
        for (segment, end) in &batch.parts {
            let Some(source) = self.sources.iter_mut().find(|it| Arc::ptr_eq(&it.segment, segment))
            else {
                continue;
            };
            let freed = end.saturating_sub(segment.moved.load(Ordering::Acquire));
            if let Err(error) = source.mark(*end) {
                tracing::warn!(%error, "the mark of a spool file cannot be written; after a restart its records are moved again");
            }
            self.shared.common.backlog.fetch_sub(freed, Ordering::AcqRel);
        }
        self.shared.room.notify_waiters();
        // Through the lock, so that a flush between its look and its sleep does not miss it.
        drop(self.shared.progress.0.lock());
        self.shared.progress.1.notify_all();
    }

    /// Deletes the files that are through with. Before, and only if there are any, `sync` makes the database safe
    /// from a power loss; if it cannot, the files stay.
    pub(crate) fn let_go(&mut self, sync: impl FnOnce() -> bool) {
        if !self.sources.iter().any(Source::is_done) || !sync() {
            return;
        }
        self.sources.retain(|source| {
            if !source.is_done() {
                return true;
            }
            let path = &source.segment.path;
            if source.is_damaged {
                quarantine(path);
            } else if let Err(error) = fs::remove_file(path) {
                tracing::warn!(%error, path = %path.display(), "a spool file that is through with cannot be deleted");
            }
            // Best effort: a mark without its file is removed at the next start.
            let _ = fs::remove_file(mark_path(path));
            self.shared.common.segments.lock().retain(|it| !Arc::ptr_eq(it, &source.segment));
            false
        });
    }

    /// Finds new files. Says whether all could be opened.
    fn discover(&mut self) -> bool {
        let mut is_whole = true;
        let known = self.shared.common.segments.lock().clone();
        for segment in known {
            if self.sources.iter().any(|it| Arc::ptr_eq(&it.segment, &segment)) {
                continue;
            }
            match Source::open(Arc::clone(&segment)) {
                Ok(source) => self.sources.push(source),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    tracing::error!(path = %segment.path.display(), "a spool file is gone: its records are lost");
                    self.shared.common.backlog.fetch_sub(segment.backlog(), Ordering::AcqRel);
                    segment
                        .moved
                        .store(segment.committed.load(Ordering::Acquire), Ordering::Release);
                    self.shared.common.segments.lock().retain(|it| !Arc::ptr_eq(it, &segment));
                }
                Err(error) => {
                    tracing::error!(%error, path = %segment.path.display(), "a spool file cannot be opened; it is tried again");
                    is_whole = false;
                }
            }
        }
        is_whole
    }
}

fn note_damage(shared: &Shared, source: &mut Source, part: &Part) {
    let path = source.segment.path.display();
    if 0 < part.torn_bytes {
        shared.counters.torn_frames.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%path, bytes = part.torn_bytes, "a spool file ends within a record: the write was never finished, it is skipped");
    }
    if 0 < part.damaged_bytes || 0 < part.undecodable {
        source.is_damaged = true;
        shared.counters.damaged_frames.fetch_add(part.undecodable.max(1), Ordering::Relaxed);
        tracing::error!(%path, bytes = part.damaged_bytes, undecodable = part.undecodable,
            "a spool file is damaged: records in it are lost; the file is kept in quarantine");
    }
}

/// Moves a file aside, keeping the number of such files bounded.
pub(super) fn quarantine(path: &Path) {
    let (Some(dir), Some(name)) = (path.parent().map(|it| it.join(QUARANTINE)), path.file_name())
    else {
        return;
    };
    let result =
        fs::create_dir_all(&dir).and_then(|()| fs::rename(path, dir.join(name))).and_then(|()| {
            let mut files: Vec<_> =
                fs::read_dir(&dir)?.filter_map(|it| it.ok().map(|it| it.path())).collect();
            files.sort();
            let surplus = files.len().saturating_sub(QUARANTINE_FILES_MAX);
            files.iter().take(surplus).try_for_each(fs::remove_file)
        });
    if let Err(error) = result {
        tracing::error!(%error, path = %path.display(), "a damaged spool file cannot be put into quarantine");
    }
}
