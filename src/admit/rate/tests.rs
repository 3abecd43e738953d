use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use althing_domain::id::Name;
use althing_domain::policy::{Rate, Span};
use proptest::prelude::{prop, proptest};

use super::RateCell;
use crate::admit::ledger::{Level, Owner};
use crate::admit::mono::Mono;

fn owner() -> Owner {
    Owner { level: Level::Team, name: Name::new("web"), provider: None }
}

fn cell(requests: u64, tokens: u64, concurrent: u64, per_ms: u64) -> RateCell {
    let per = Span(NonZeroU64::new(per_ms).expect("a period"));
    let rate = Rate {
        requests: NonZeroU64::new(requests),
        tokens: NonZeroU64::new(tokens),
        concurrent: NonZeroU64::new(concurrent),
        per,
    };
    RateCell::new(owner(), &rate)
}

fn at(ms: u64) -> Mono {
    Mono::after(Duration::from_millis(ms))
}

#[test]
fn a_full_bucket_gives_its_limit_and_refills_evenly() {
    let cell = cell(3, 0, 0, 60_000);
    for _ in 0..3 {
        cell.take_request(at(5)).expect("within the limit");
    }
    let empty = cell.take_request(at(5)).expect_err("the fourth");
    assert_eq!(empty.retry_after, Duration::from_secs(20));
    assert_eq!(cell.requests_left(at(5)).expect("limited").remaining, 0);

    cell.take_request(at(20_005)).expect("one third of a minute later");
    assert!(cell.take_request(at(20_006)).is_err());
}

#[test]
fn no_limit_lets_everything_through_and_shows_nothing() {
    let cell = cell(0, 0, 0, 1_000);
    for _ in 0..10_000 {
        cell.take_request(at(0)).expect("not limited");
    }
    assert_eq!(cell.take_tokens(at(0), u64::MAX), Ok(0));
    assert_eq!((cell.requests_left(at(0)), cell.tokens_left(at(0))), (None, None));
}

#[test]
fn tokens_that_were_set_aside_and_not_used_come_back() {
    let cell = cell(0, 1_000, 0, 60_000);
    let taken = cell.take_tokens(at(0), 900).expect("within");
    assert!(cell.take_tokens(at(0), 200).is_err());
    cell.correct_tokens(at(0), taken, 100);
    assert_eq!(cell.tokens_left(at(0)).expect("limited").remaining, 900);
}

#[test]
fn an_estimate_above_the_bucket_takes_all_of_it_and_a_debt_is_bounded() {
    let cell = cell(0, 1_000, 0, 60_000);
    let taken = cell.take_tokens(at(0), 50_000).expect("a full bucket takes it");
    assert_eq!(taken, 1_000);
    cell.correct_tokens(at(0), taken, 5_000_000);
    let empty = cell.take_tokens(at(0), 1).expect_err("in debt");
    assert!(empty.retry_after <= Duration::from_secs(61), "{empty:?}");
}

#[test]
fn a_changed_limit_keeps_what_was_used() {
    let cell = cell(10, 0, 0, 60_000);
    for _ in 0..10 {
        cell.take_request(at(0)).expect("within");
    }
    let per = Span(NonZeroU64::new(60_000).expect("a period"));
    let more = Rate { requests: NonZeroU64::new(20), tokens: None, concurrent: None, per };
    cell.update(&more);
    assert!(
        cell.take_request(at(0)).is_err(),
        "the bucket was empty and is not refilled by a change"
    );
    cell.take_request(at(3_000)).expect("it refills at the new pace");
}

#[test]
fn calls_in_flight_are_bounded_under_contention() {
    let cell = cell(0, 0, 5, 1_000);
    let most = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    if cell.enter().is_ok() {
                        most.fetch_max(cell.in_flight(), Ordering::Relaxed);
                        cell.leave();
                    }
                }
            });
        }
    });
    assert_eq!(cell.in_flight(), 0);
    // `in_flight` also shows those that are just being turned away: one a thread at most.
    assert!(most.load(Ordering::Relaxed) <= 5 + 8, "{most:?}");
    (0..5).for_each(|_| cell.enter().expect("free again"));
    assert_eq!(cell.enter(), Err(5));
}

proptest! {
    #[test]
    fn in_any_interval_at_most_the_rate_and_one_bucket_pass(
        steps in prop::collection::vec((0_u64..2_000, 1_u64..40), 1..200),
    ) {
        let cell = cell(0, 100, 0, 10_000);
        let mut now = 0;
        let mut passed: Vec<(u64, u64)> = Vec::new();
        for (wait, amount) in steps {
            now += wait;
            if cell.take_tokens(at(now), amount).is_ok() {
                passed.push((now, amount));
            }
        }
        for (from, (start, _)) in passed.iter().enumerate() {
            let mut sum = 0;
            for (end, amount) in &passed[from..] {
                sum += amount;
                let allowed = 100 + (end - start) * 100 / 10_000 + 1;
                assert!(sum <= allowed, "{sum} from {start} to {end}");
            }
        }
    }
}
