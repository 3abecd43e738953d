//! What this process has charged to each of its budget leases, so that a later one can say it exactly.
//!
//! A lease of a process that died is written off as spent in full, unless the next process can say what was really
//! spent. This file is how it knows. Its promise is one-sided: at every moment the file says of each lease **at least**
//! what was spent and set aside, so that a refund worked out from it never gives money back that was spent.
//!
//! * [`Lease::cover`] is called after money was set aside and before it is spent. It writes (one pwrite(2)) only where the
//!   file says less than is charged now; a killed process loses nothing, for the operating system has it.
//! * [`Lease::settled`] is called after a settlement. It writes nothing; a thread lowers the file to what is charged,
//!   and syncs it, at most every 100 ms.
//! * After a power loss the last 100 ms may be missing. The file knows in which boot of the machine it was written; where
//!   that is another one and the file was not closed, what it says is [`Past::is_exact`]` == false`: no refund.
//!
//! Each lease has a place of its own (one sector, two alternating copies with checksums), so the file does not grow with
//! use, nothing is compacted, and a torn write leaves the copy before it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::boot;

mod slot;

pub use slot::BUDGET_BYTES_MAX;
use slot::{Head, SLOT_BYTES};

/// At most so often is the file lowered and synced.
const ROUND: Duration = Duration::from_millis(100);

/// What is charged to a lease now: spent and set aside.
///
/// An implementation that reads two atomics must read what is set aside first, and a settlement must add to what is
/// spent before it takes from what is set aside; else the sum may be too small for a moment.
pub trait Charged: Send + Sync {
    /// Nano-dollars, tokens or requests, as the budget counts.
    fn charged(&self) -> u64;

    /// How much more than is charged the file may say at most, whatever the headroom: more than can still be charged
    /// would be taken for spent by a later process. Asked each time before it is written.
    fn ahead_max(&self) -> u64 {
        u64::MAX
    }
}

impl<F: Fn() -> u64 + Send + Sync> Charged for F {
    fn charged(&self) -> u64 {
        self()
    }
}

/// Which lease.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The budget's id, as text; at most [`BUDGET_BYTES_MAX`] bytes.
    pub budget: Arc<str>,
    /// The window.
    pub epoch: u64,
    /// Which life of the node.
    pub incarnation: u64,
}

/// A lease of an earlier process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// Which.
    pub key: Key,
    /// At least what was spent and set aside when the process ended; exactly that, but for the lease's headroom, and
    /// for settlements of its last 100 ms.
    pub charged: u64,
    /// Whether that is certain. If not, a machine lost power: let the write-off stand.
    pub is_exact: bool,
}

/// The journal of this process.
#[derive(Debug)]
pub struct UsageJournal {
    shared: Arc<Shared>,
    /// Files of earlier processes.
    past: Mutex<Vec<PathBuf>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    file: File,
    path: PathBuf,
    boot_id: String,
    places: Mutex<Places>,
    /// Something may have to be lowered or synced.
    is_dirty: AtomicBool,
    wake: (Mutex<Wake>, Condvar),
    /// Serialises syncs.
    sync: Mutex<()>,
    write_errors: AtomicU64,
}

#[derive(Debug, Default)]
struct Wake {
    is_dirty: bool,
    is_stopping: bool,
}

#[derive(Debug, Default)]
struct Places {
    /// By number, but for place 0, which is the file's header.
    all: Vec<Option<Arc<Place>>>,
    free: Vec<u64>,
}

impl Places {
    /// A number that nothing has.
    fn free(&mut self) -> u64 {
        self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            self.all.len() as u64
        })
    }

    /// Puts `place` at its number, or says that the number is free.
    fn set(&mut self, number: u64, place: Option<Arc<Place>>) {
        if place.is_none() {
            self.free.push(number);
        }
        let at = usize::try_from(number - 1).ok();
        if let Some(it) = at.and_then(|at| self.all.get_mut(at)) {
            *it = place;
        }
    }

    fn used(&self) -> impl Iterator<Item = &Arc<Place>> {
        self.all.iter().flatten()
    }
}

struct Place {
    number: u64,
    head: Head,
    charged: Arc<dyn Charged>,
    headroom: u64,
    /// What the file says.
    written: AtomicU64,
    /// How often it was written; under this lock it is. `None`: it was closed, and what stands there may be another's.
    turn: Mutex<Option<u64>>,
}

impl Place {
    /// What the file is to say where so much is charged.
    fn ahead_of(&self, charged: u64) -> u64 {
        charged.saturating_add(self.headroom.min(self.charged.ahead_max()))
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place")
            .field("number", &self.number)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

/// One lease of this process. Dropping it leaves what the file says; [`Lease::close`] takes it out.
#[derive(Debug, Clone)]
pub struct Lease {
    shared: Arc<Shared>,
    place: Arc<Place>,
}

impl Lease {
    /// Makes sure that the file says at least what is charged now. Call it after setting money aside and before
    /// spending it. One atomic read, or one pwrite(2).
    ///
    /// # Errors
    ///
    /// The disk refused. The call must not be made: were the process to die, its cost would be refunded.
    pub fn cover(&self) -> io::Result<()> {
        // Sequentially consistent with `lower`: either this reads what `lower` stored, or `lower` reads this charge.
        if self.place.charged.charged() <= self.place.written.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut turn = self.place.turn.lock();
        let charged = self.place.charged.charged();
        if charged <= self.place.written.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.shared.write(&self.place, &mut turn, self.place.ahead_of(charged))?;
        drop(turn);
        self.shared.touch();
        Ok(())
    }

    /// Says that less is charged than before: the file follows within 100 ms. Costs an atomic.
    pub fn settled(&self) {
        self.shared.touch();
    }

    /// Takes the lease out of the file: the law has its exact figure. Its place is used again, and what is charged from
    /// here on is not written anywhere.
    ///
    /// # Errors
    ///
    /// The disk refused; the lease stays in the file, which does no harm.
    pub fn close(self) -> io::Result<()> {
        let mut turn = self.place.turn.lock();
        if turn.is_none() {
            return Ok(());
        }
        self.shared.file.write_all_at(&[0; SLOT_BYTES], slot::offset(self.place.number))?;
        *turn = None;
        self.shared.places.lock().set(self.place.number, None);
        drop(turn);
        self.shared.touch();
        Ok(())
    }
}

impl UsageJournal {
    /// Opens the journal in `dir`, and reads what earlier processes left.
    ///
    /// # Errors
    ///
    /// The folder cannot be made, read or written. A damaged file is no error: of what it says only that is believed
    /// whose checksum is right, and the rest stays written off.
    pub fn open(dir: &Path) -> io::Result<(Self, Vec<Past>)> {
        Self::open_in_boot(dir, &boot::id())
    }

    fn open_in_boot(dir: &Path, boot_id: &str) -> io::Result<(Self, Vec<Past>)> {
        fs::create_dir_all(dir)?;
        let mut files: Vec<PathBuf> =
            fs::read_dir(dir)?.filter_map(|it| it.ok().map(|it| it.path())).collect();
        files.retain(|it| it.extension().is_some_and(|it| it == "leases"));
        files.sort();
        let mut past = Vec::new();
        for path in &files {
            read_past(path, boot_id, &mut past)?;
        }
        let last = files.last().and_then(|it| it.file_stem()).and_then(|it| it.to_str());
        let number =
            last.and_then(|it| u64::from_str_radix(it, 16).ok()).unwrap_or(0).wrapping_add(1);
        let path = dir.join(format!("{number:016x}.leases"));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        file.write_all_at(&slot::header(boot_id, slot::Ending::Open), 0)?;
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
        let shared = Arc::new(Shared {
            file,
            path,
            boot_id: boot_id.to_owned(),
            places: Mutex::default(),
            is_dirty: AtomicBool::new(false),
            wake: (Mutex::default(), Condvar::new()),
            sync: Mutex::new(()),
            write_errors: AtomicU64::new(0),
        });
        let worker = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("usage-journal".to_owned())
            .spawn(move || worker.run())?;
        Ok((Self { shared, past: Mutex::new(files), thread: Mutex::new(Some(thread)) }, past))
    }

    /// A place for a lease. With `headroom`, the file says so much more than is charged, and most calls of
    /// [`Lease::cover`] write nothing; a process that dies then counts up to that much as spent that was not.
    ///
    /// # Errors
    ///
    /// The budget's id is too long, or the disk refused: spend from the lease all the same, if a death may write it off.
    pub fn lease(&self, key: &Key, headroom: u64, charged: Arc<dyn Charged>) -> io::Result<Lease> {
        let now = charged.charged().saturating_add(headroom.min(charged.ahead_max()));
        let Some((head, first)) = Head::first(key, now) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the id of a budget is too long for the usage journal",
            ));
        };
        let number = self.shared.places.lock().free();
        let written = AtomicU64::new(now);
        let place =
            Arc::new(Place { number, head, charged, headroom, written, turn: Mutex::new(Some(0)) });
        let result = self.shared.file.write_all_at(&first, slot::offset(number));
        self.shared.places.lock().set(number, result.is_ok().then(|| Arc::clone(&place)));
        result?;
        self.shared.touch();
        Ok(Lease { shared: Arc::clone(&self.shared), place })
    }

    /// Whether there are files of earlier processes.
    #[must_use]
    pub fn has_past(&self) -> bool {
        !self.past.lock().is_empty()
    }

    /// Lets the files of earlier processes go: the law has heard of all that they said.
    ///
    /// # Errors
    ///
    /// A file cannot be deleted; it is read again at the next start, which does no harm.
    pub fn forget_past(&self) -> io::Result<()> {
        let mut past = self.past.lock();
        while let Some(path) = past.last() {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => past.pop(),
            };
        }
        Ok(())
    }

    /// Lowers what can be lowered, and returns when the disk has everything. Blocks.
    ///
    /// # Errors
    ///
    /// The disk refused.
    pub fn sync(&self) -> io::Result<()> {
        self.shared.round()
    }

    /// Writes of the background thread that the disk refused, since the start.
    #[must_use]
    pub fn write_errors(&self) -> u64 {
        self.shared.write_errors.load(Ordering::Relaxed)
    }

    /// Ends the thread, syncs, and notes that the file is whole. Leases must not be used afterwards. A file without
    /// leases is deleted. Blocks.
    ///
    /// # Errors
    ///
    /// The disk refused.
    pub fn close(self) -> io::Result<()> {
        self.stop();
        self.shared.round()?;
        if self.shared.places.lock().used().next().is_none() {
            return fs::remove_file(&self.shared.path);
        }
        self.shared
            .file
            .write_all_at(&slot::header(&self.shared.boot_id, slot::Ending::Closed), 0)?;
        self.shared.file.sync_data()
    }

    fn stop(&self) {
        self.shared.wake.0.lock().is_stopping = true;
        self.shared.wake.1.notify_all();
        let thread = self.thread.lock().take();
        if thread.is_some_and(|it| it.join().is_err()) {
            tracing::error!("the thread of the usage journal ended by a panic");
        }
    }
}

impl Drop for UsageJournal {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// The caller holds the place's turn.
    fn write(&self, place: &Place, turn: &mut Option<u64>, value: u64) -> io::Result<()> {
        let Some(next) = turn.map(|it| it + 1) else { return Ok(()) };
        let (at, bytes) = place.head.copy(next, value);
        self.file.write_all_at(&bytes, slot::offset(place.number) + at)?;
        *turn = Some(next);
        place.written.store(value, Ordering::SeqCst);
        Ok(())
    }

    /// Lets the file say less where less is charged. Never below what is charged, whoever sets money aside meanwhile.
    fn lower(&self, place: &Place) -> io::Result<()> {
        let wanted = || place.ahead_of(place.charged.charged());
        let before = place.written.load(Ordering::SeqCst);
        if before <= wanted() {
            return Ok(());
        }
        let mut turn = place.turn.lock();
        let before = place.written.load(Ordering::SeqCst);
        let lower = wanted();
        if before <= lower {
            return Ok(());
        }
        // First say that the file will say less, so that whoever sets money aside from here on comes to the lock;
        // then look whether somebody did before.
        place.written.store(lower, Ordering::SeqCst);
        if lower < place.charged.charged() {
            place.written.store(before, Ordering::SeqCst);
            return Ok(());
        }
        let result = self.write(place, &mut turn, lower);
        if result.is_err() {
            place.written.store(before, Ordering::SeqCst);
        }
        result
    }

    fn round(&self) -> io::Result<()> {
        let _alone = self.sync.lock();
        let used: Vec<_> = self.places.lock().used().map(Arc::clone).collect();
        for place in used {
            self.lower(&place)?;
        }
        self.file.sync_data()
    }

    fn touch(&self) {
        if self.is_dirty.load(Ordering::Relaxed) || self.is_dirty.swap(true, Ordering::AcqRel) {
            return;
        }
        self.wake.0.lock().is_dirty = true;
        self.wake.1.notify_one();
    }

    fn run(&self) {
        loop {
            {
                let mut wake = self.wake.0.lock();
                while !wake.is_dirty && !wake.is_stopping {
                    self.wake.1.wait(&mut wake);
                }
                if !wake.is_stopping {
                    self.wake.1.wait_for(&mut wake, ROUND);
                }
                if wake.is_stopping {
                    return;
                }
                wake.is_dirty = false;
            }
            self.is_dirty.store(false, Ordering::Release);
            if let Err(error) = self.round() {
                self.write_errors.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "the usage journal cannot be written; after a crash leases count as spent in full");
                self.touch();
            }
        }
    }
}

fn read_past(path: &Path, boot_id: &str, past: &mut Vec<Past>) -> io::Result<()> {
    let bytes = fs::read(path)?;
    let mut slots = bytes.chunks(SLOT_BYTES);
    let header = slots.next().and_then(slot::parse_header);
    let is_exact = header.is_some_and(|(boot, ending)| {
        ending == slot::Ending::Closed || (!boot_id.is_empty() && boot == boot_id)
    });
    let mut damaged = 0u32;
    for bytes in slots {
        match slot::parse(bytes) {
            slot::Parsed::Free => {}
            slot::Parsed::Damaged => damaged += 1,
            slot::Parsed::Lease { key, charged, is_whole } => {
                damaged += u32::from(!is_whole);
                past.push(Past { key, charged, is_exact: is_exact && is_whole });
            }
        }
    }
    if 0 < damaged {
        tracing::warn!(path = %path.display(), damaged, "places of a usage journal are damaged: their leases stay written off");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
