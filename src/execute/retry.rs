//! When to try again. Only before the caller's first byte, and only as often as the node can afford.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use rand::RngExt;

/// Attempts of one request, over all its targets.
pub const ATTEMPTS_MAX: u32 = 6;
/// Attempts at one target, with all its keys.
pub const ATTEMPTS_PER_TARGET_MAX: u32 = 3;
/// Longer than this, an upstream's `Retry-After` is the caller's to wait for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(2);
const BACKOFF_BASE: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Retries are at most a fifth of recent requests, so that a failing upstream is not hit harder than a healthy one.
#[derive(Debug)]
pub struct RetryBudget {
    /// In fifths of a retry.
    tokens: AtomicI64,
}

const COST: i64 = 5;
const EARN: i64 = 1;
const START: i64 = 50 * COST;
const MAX: i64 = 200 * COST;

impl Default for RetryBudget {
    fn default() -> Self {
        Self { tokens: AtomicI64::new(START) }
    }
}

impl RetryBudget {
    /// A request came.
    pub fn earn(&self) {
        if self.tokens.load(Ordering::Relaxed) < MAX {
            self.tokens.fetch_add(EARN, Ordering::Relaxed);
        }
    }

    /// Whether one more retry is within the budget; if so, it is taken.
    pub fn spend(&self) -> bool {
        let before = self.tokens.fetch_sub(COST, Ordering::Relaxed);
        if before < COST {
            self.tokens.fetch_add(COST, Ordering::Relaxed);
            return false;
        }
        true
    }
}

/// What to do about an upstream's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is an answer.
    Answer,
    /// Another key may do better: this one is refused or used up.
    OtherKey,
    /// The upstream is in trouble: the same again, later, or elsewhere.
    Again,
    /// Waiting for it took as long as it may, and it may have been made and billed: another target may be faster, the
    /// same one is not asked twice.
    Elsewhere,
    /// The request is at fault: nobody else will take it either.
    Final,
}

/// Judges a status.
#[must_use]
pub fn judge(status: StatusCode) -> Verdict {
    match status.as_u16() {
        200..=299 => Verdict::Answer,
        401 | 402 | 403 | 429 => Verdict::OtherKey,
        504 | 524 => Verdict::Elsewhere,
        // A redirect is not followed: our credential is for one host.
        300..=399 | 408 | 409 | 425 | 500..=599 => Verdict::Again,
        _ => Verdict::Final,
    }
}

/// Whether a status says that somebody on the way gave up waiting for the reply, which may have been made and billed.
#[must_use]
pub fn is_lost(status: StatusCode) -> bool {
    // 524: Cloudflare's.
    matches!(status.as_u16(), 504 | 524)
}

/// How long to wait before attempt `attempt` (from 1), by the upstream's word where it is short; `None`: too long to wait here.
#[must_use]
pub fn pause(attempt: u32, headers: Option<&HeaderMap>) -> Option<Duration> {
    let asked = headers.and_then(retry_after);
    if let Some(asked) = asked {
        return (asked <= RETRY_AFTER_MAX).then_some(asked);
    }
    let ceiling = BACKOFF_BASE.saturating_mul(1 << attempt.min(5)).min(BACKOFF_MAX);
    let half = ceiling / 2;
    let jitter = rand::rng().random_range(0..=u64::try_from(half.as_millis()).unwrap_or(0));
    Some(half + Duration::from_millis(jitter))
}

/// `Retry-After` in seconds, or `retry-after-ms`. Dates are left to the caller.
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    if let Some(millis) =
        headers.get("retry-after-ms").and_then(|it| it.to_str().ok()?.parse::<u64>().ok())
    {
        return Some(Duration::from_millis(millis));
    }
    headers
        .get(header::RETRY_AFTER)
        .and_then(|it| it.to_str().ok()?.parse::<u64>().ok())
        .map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, HeaderValue, StatusCode};

    use super::{RetryBudget, Verdict, judge, pause};

    #[test]
    fn retries_end_at_a_fifth_of_the_requests() {
        let budget = RetryBudget::default();
        let free = std::iter::from_fn(|| budget.spend().then_some(())).count();
        assert_eq!(free, 50);
        (0..100).for_each(|_| budget.earn());
        assert_eq!(std::iter::from_fn(|| budget.spend().then_some(())).count(), 20);
    }

    #[test]
    fn the_requests_own_fault_is_not_tried_elsewhere() {
        assert_eq!(judge(StatusCode::BAD_REQUEST), Verdict::Final);
        assert_eq!(judge(StatusCode::TOO_MANY_REQUESTS), Verdict::OtherKey);
        assert_eq!(judge(StatusCode::BAD_GATEWAY), Verdict::Again);
        assert_eq!(judge(StatusCode::GATEWAY_TIMEOUT), Verdict::Elsewhere, "it may be billed");
        assert_eq!(judge(StatusCode::FOUND), Verdict::Again, "a redirect is no reply");
    }

    #[test]
    fn a_short_wait_is_waited_and_a_long_one_is_the_callers() {
        let headers = |text| {
            HeaderMap::from_iter([(http::header::RETRY_AFTER, HeaderValue::from_static(text))])
        };
        assert_eq!(pause(1, Some(&headers("1"))), Some(Duration::from_secs(1)));
        assert_eq!(pause(1, Some(&headers("60"))), None);
        assert!(pause(1, None).expect("backs off") <= Duration::from_millis(100));
    }
}
