//! A limit on what a noisy server can write into our log.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Lines per window and source.
const LINES_MAX: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// Says which lines are logged, and how many were not.
#[derive(Debug, Default)]
pub(crate) struct Noise {
    window: Mutex<Option<Window>>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u32,
}

impl Noise {
    /// Whether one more line may be logged now; with it, how many were dropped in the last window.
    pub(crate) fn admit(&self) -> Option<u32> {
        let now = Instant::now();
        let mut window = self.window.lock();
        match window.as_mut() {
            Some(it) if now < it.since + WINDOW => {
                it.lines = it.lines.saturating_add(1);
                (it.lines <= LINES_MAX).then_some(0)
            }
            _ => {
                let dropped = window.as_ref().map_or(0, |it| it.lines.saturating_sub(LINES_MAX));
                *window = Some(Window { since: now, lines: 1 });
                Some(dropped)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LINES_MAX, Noise, WINDOW};

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_logged_in_part_and_counted() {
        let noise = Noise::default();
        let logged = (0..1000).filter(|_| noise.admit().is_some()).count();
        assert_eq!(logged, LINES_MAX as usize);
        tokio::time::advance(WINDOW).await;
        assert_eq!(noise.admit(), Some(1000 - LINES_MAX));
        assert_eq!(noise.admit(), Some(0));
    }
}
