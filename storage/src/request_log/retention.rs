//! Lets old files go: whole days, oldest first, by age and by what the disk may hold. Never today's.

use std::fs;
use std::path::{Path, PathBuf};

use super::day::{self, Day};
use super::schema;

/// How long and how much.
#[derive(Debug, Clone)]
pub(super) struct Retention {
    pub(super) dir: PathBuf,
    pub(super) bodies_dir: PathBuf,
    pub(super) keep_days: u32,
    pub(super) bodies_keep_days: u32,
    pub(super) disk_bytes_max: u64,
}

/// One thing that can be deleted.
#[derive(Debug)]
struct Held {
    day: Day,
    is_bodies: bool,
    files: Vec<PathBuf>,
    bytes: u64,
}

/// Deletes what is due. `close` is called before a day's files are deleted. Gives the bytes that are left.
pub(super) fn sweep(retention: &Retention, now_ms: u64, close: &mut dyn FnMut(Day)) -> u64 {
    let today = Day::of(now_ms);
    let mut held = gather(&retention.bodies_dir, true);
    held.append(&mut gather(&retention.dir, false));
    // Bodies go before the records of the same day.
    held.sort_by_key(|it| (it.day, !it.is_bodies));
    let mut bytes: u64 = held.iter().map(|it| it.bytes).sum();
    for item in held {
        let keep_days =
            if item.is_bodies { retention.bodies_keep_days } else { retention.keep_days };
        // `keep_days: 1` is today and yesterday: a record lives at least one whole day.
        let is_old = item.day < today.before(keep_days);
        let is_over = retention.disk_bytes_max < bytes && item.day < today;
        if !is_old && !is_over {
            continue;
        }
        close(item.day);
        tracing::info!(day = %item.day, bytes = item.bytes, is_bodies = item.is_bodies, is_old, "old records are deleted");
        if item.files.iter().rev().map(fs::remove_file).filter(Result::is_err).count() == 0 {
            bytes -= item.bytes;
        } else {
            tracing::warn!(day = %item.day, "old records cannot be deleted; it is tried again");
        }
    }
    if retention.disk_bytes_max < bytes {
        tracing::warn!(
            bytes,
            "today's records alone are more than `records.max_disk`; they are kept until tomorrow"
        );
    }
    bytes
}

/// Days with their files, damaged ones that were moved aside too.
fn gather(dir: &Path, is_bodies: bool) -> Vec<Held> {
    let mut held: Vec<Held> = Vec::new();
    for day in day::list(dir).unwrap_or_default() {
        let files: Vec<_> =
            schema::files_of(&day.file(dir)).into_iter().filter(|it| it.exists()).collect();
        held.push(Held { day, is_bodies, bytes: size(&files), files });
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|it| it.ends_with(".corrupt")) else { continue };
        let Some(day) = name.get(..10).and_then(Day::parse) else { continue };
        let files = vec![entry.path()];
        held.push(Held { day, is_bodies, bytes: size(&files), files });
    }
    held
}

fn size(files: &[PathBuf]) -> u64 {
    files.iter().filter_map(|it| fs::metadata(it).ok()).map(|it| it.len()).sum()
}
