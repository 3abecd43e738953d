//! Monotonic time as a number, so that rate cells are plain arithmetic and tests move it by hand.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

/// Nanoseconds since the process first asked. Never steps back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mono(pub u64);

impl Mono {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self::of(Instant::now())
    }

    /// The moment `at`. What is before the process first asked is its start.
    #[must_use]
    pub fn of(at: Instant) -> Self {
        static START: OnceLock<Instant> = OnceLock::new();
        let start = *START.get_or_init(Instant::now);
        Self::after(at.saturating_duration_since(start))
    }

    /// The time `since` after the start.
    #[must_use]
    pub fn after(since: Duration) -> Self {
        Self(nanos(since))
    }

    /// This much later.
    #[must_use]
    pub fn plus(self, more: Duration) -> Self {
        Self(self.0.saturating_add(nanos(more)))
    }
}

/// `span` in nanoseconds; the largest number there is where it is longer (584 years).
#[must_use]
pub fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
