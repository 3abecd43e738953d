//! The wall clock of the process, and how much of it is believed.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use althing_domain::time::{Clock, UnixMillis};

/// The machine's wall clock as the system gives it, for what needs more than milliseconds.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock that everything else takes")]
pub fn wall() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        let since = wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The largest step of the wall clock that is followed.
pub const STEP_MAX: Duration = Duration::from_secs(600);

/// How much time went by since some moment, by a clock that nobody can set and that counts while the machine sleeps.
pub type Elapsed = Box<dyn Fn() -> Duration + Send + Sync>;

/// A wall clock whose jumps are not followed.
///
/// By the law's time budgets begin anew, and it never goes back; by it records are deleted. A clock that is set a month ahead, for
/// a second, would open next month's budgets now and not again before they are due. So the wall clock is compared with the
/// time that really went by, and where the two differ by more than [`STEP_MAX`], that one counts on, until the wall clock is back
/// or the process starts again: a start believes the clock.
pub struct SteadyClock {
    wall: Arc<dyn Clock>,
    elapsed: Elapsed,
    /// How far what is believed is ahead of the time that went by, in milliseconds. One number, so that callers meet at no lock.
    ahead_ms: AtomicU64,
    off_ms: AtomicI64,
}

impl std::fmt::Debug for SteadyClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SteadyClock").field("off_ms", &self.off_ms).finish_non_exhaustive()
    }
}

impl SteadyClock {
    /// Over the wall clock, judged by the time since the machine started.
    #[must_use]
    pub fn new(wall: Arc<dyn Clock>) -> Self {
        Self::judged_by(wall, Box::new(since_boot))
    }

    /// Over `wall`, judged by `elapsed`.
    #[must_use]
    pub fn judged_by(wall: Arc<dyn Clock>, elapsed: Elapsed) -> Self {
        let ahead_ms = AtomicU64::new(wall.now().0.wrapping_sub(millis(elapsed())));
        Self { wall, elapsed, ahead_ms, off_ms: AtomicI64::new(0) }
    }

    /// How far the wall clock is ahead of what is believed (negative: behind), in milliseconds; zero while it is believed.
    #[must_use]
    pub fn off_ms(&self) -> i64 {
        // So that it is true now, also where nobody asked for the time for a while.
        let _ = self.now();
        self.off_ms.load(Ordering::Relaxed)
    }

    /// The earlier of what is believed and what the wall clock says: what is deleted by age is old by both.
    #[must_use]
    pub fn earliest(&self) -> UnixMillis {
        self.now().min(self.wall.now())
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> UnixMillis {
        let (wall, elapsed) = (self.wall.now().0, millis((self.elapsed)()));
        let expected = self.ahead_ms.load(Ordering::Relaxed).wrapping_add(elapsed);
        let is_believed = u128::from(wall.abs_diff(expected)) <= STEP_MAX.as_millis();
        let off = if is_believed {
            // Both clocks are rounded, each for itself: a millisecond is no step, and all workers read this.
            if 1 < wall.abs_diff(expected) {
                self.ahead_ms.store(wall.wrapping_sub(elapsed), Ordering::Relaxed);
            }
            0
        } else {
            let size = i64::try_from(wall.abs_diff(expected)).unwrap_or(i64::MAX);
            if wall < expected { -size } else { size }
        };
        if off == 0 && self.off_ms.load(Ordering::Relaxed) == 0 {
            return UnixMillis(wall);
        }
        let was = self.off_ms.swap(off, Ordering::Relaxed);
        if was == 0 && off != 0 {
            tracing::error!(
                off_ms = off,
                "the clock of this machine jumped: budgets and retention go on by the time that really passed; set the clock right, or start the node again if it is right now"
            );
        } else if was != 0 && off == 0 {
            tracing::info!("the clock of this machine is believed again");
        }
        UnixMillis(if is_believed { wall } else { expected })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_800_000_000_000;
    const YEAR: u64 = 365 * 86_400_000;

    struct Set(AtomicU64);

    impl Clock for Set {
        fn now(&self) -> UnixMillis {
            UnixMillis(self.0.load(Ordering::Relaxed))
        }
    }

    /// A clock that is set by hand, and time that passes by hand.
    fn clock() -> (Arc<Set>, Arc<AtomicU64>, SteadyClock) {
        let (wall, passed) = (Arc::new(Set(AtomicU64::new(START))), Arc::new(AtomicU64::new(7)));
        let elapsed = Arc::clone(&passed);
        let elapsed = Box::new(move || Duration::from_millis(elapsed.load(Ordering::Relaxed)));
        let steady = SteadyClock::judged_by(Arc::clone(&wall) as Arc<dyn Clock>, elapsed);
        (wall, passed, steady)
    }

    #[test]
    fn a_jump_is_not_followed_and_time_goes_on_as_it_passes() {
        for jump in [YEAR.cast_signed(), -86_400_000] {
            let (wall, passed, steady) = clock();
            wall.0.store(START.saturating_add_signed(jump), Ordering::Relaxed);
            assert_eq!(steady.now(), UnixMillis(START));
            assert_eq!(steady.off_ms(), jump);
            passed.store(5_007, Ordering::Relaxed);
            wall.0.fetch_add(5_000, Ordering::Relaxed);
            assert_eq!(steady.now(), UnixMillis(START + 5_000));
            let earliest = START.saturating_add_signed(jump.min(0)) + 5_000;
            assert_eq!(steady.earliest(), UnixMillis(earliest));
            wall.0.store(START + 5_001, Ordering::Relaxed);
            assert_eq!((steady.now(), steady.off_ms()), (UnixMillis(START + 5_001), 0));
        }
    }

    #[test]
    fn small_steps_long_silence_and_sleep_are_followed() {
        let (wall, passed, steady) = clock();
        wall.0.store(START - 500_000, Ordering::Relaxed);
        assert_eq!(steady.now(), UnixMillis(START - 500_000), "an ordinary correction");
        wall.0.fetch_add(YEAR, Ordering::Relaxed);
        passed.fetch_add(YEAR, Ordering::Relaxed);
        assert_eq!(steady.now(), UnixMillis(START - 500_000 + YEAR));
        assert_eq!(steady.off_ms(), 0);
    }

    #[test]
    fn the_real_one_agrees_with_the_system() {
        let steady = SteadyClock::new(Arc::new(SystemClock));
        let (before, now, after) = (SystemClock.now(), steady.now(), SystemClock.now());
        assert!(before <= now && now <= after && since_boot() > Duration::ZERO);
    }
}
