use std::sync::Arc;

use althing_domain::id::Name;
use althing_domain::money::NanoUsd;
use althing_domain::policy::{Budget, BudgetMode, Period};
use proptest::prelude::{prop, proptest};

use super::{BudgetCell, Signal};
use crate::admit::lease::Hold;
use crate::admit::ledger::{BudgetId, Grant, Level, Owner};
use tokio::sync::mpsc;

fn cell(mode: BudgetMode) -> (Arc<BudgetCell>, mpsc::Receiver<Signal>) {
    let (signals, received) = mpsc::channel(16);
    let budget = Budget {
        limit_usd: NanoUsd(1_000),
        period: Period::Total,
        time_zone: None,
        mode,
        warn_at: Vec::new(),
    };
    let owner = Owner { level: Level::VirtualKey, name: Name::new("app"), provider: None };
    let id = BudgetId::from("virtual-key:app:total");
    (Arc::new(BudgetCell::new(id, owner, &budget, signals)), received)
}

fn unjournaled(_: u64, _: Arc<super::Figures>) -> Option<super::usage_journal::Lease> {
    None
}

fn grant(epoch: u64, granted: u64) -> Grant {
    Grant {
        budget: BudgetId::from("virtual-key:app:total"),
        epoch,
        granted: NanoUsd(granted),
        closed: false,
        recall: NanoUsd::ZERO,
        limit: NanoUsd(1_000),
        settled: NanoUsd::ZERO,
        outstanding: NanoUsd(granted),
        resets_at: None,
    }
}

#[test]
fn what_is_reserved_is_replaced_by_what_it_cost() {
    let (cell, _signals) = cell(BudgetMode::Strict);
    assert!(cell.reserve(1).is_err(), "nothing is granted yet");
    cell.granted(&grant(1, 100), &unjournaled);
    let hold = cell.reserve(70).expect("granted");
    assert!(cell.reserve(31).is_err());
    hold.settle(20);
    assert_eq!((cell.lease().avail(), cell.lease().used(), cell.lease().reserved()), (80, 20, 0));
}

#[test]
fn an_answer_that_comes_twice_grants_once() {
    let (cell, _signals) = cell(BudgetMode::Strict);
    cell.granted(&grant(1, 100), &unjournaled);
    cell.granted(&grant(1, 100), &unjournaled);
    cell.granted(&grant(1, 60), &unjournaled);
    assert_eq!(cell.lease().avail(), 100);
}

#[test]
fn an_upstream_that_states_an_absurd_usage_makes_no_money_from_nothing() {
    let (cell, _signals) = cell(BudgetMode::Strict);
    cell.granted(&grant(1, 100), &unjournaled);
    for _ in 0..3 {
        let held = Hold { lease: cell.lease(), amount: 0, next: None };
        held.settle(u64::MAX);
    }
    assert_eq!((cell.lease().avail(), cell.lease().used()), (0, u64::MAX));
    assert!(cell.reserve(1).is_err());
}

#[test]
fn a_request_that_outlives_its_lease_is_paid_from_the_one_after_it() {
    let (cell, _signals) = cell(BudgetMode::Strict);
    cell.granted(&grant(1, 100), &unjournaled);
    let mut hold = cell.reserve(40).expect("granted");
    // Taken for dead: a new lease of the same window.
    let old = cell.renew();
    assert!(cell.extend(&mut hold, 10).is_err(), "nothing is granted to the new life yet");
    cell.granted(&grant(1, 30), &unjournaled);
    assert!(cell.extend(&mut hold, 10).is_ok());
    hold.settle(45);
    assert_eq!((old[0].used(), cell.lease().used(), cell.lease().avail()), (40, 5, 25));
    assert!(old[0].is_quiet());
}

#[test]
fn what_calls_give_back_ends_a_denial_before_its_time() {
    let (cell, _signals) = cell(BudgetMode::Strict);
    cell.granted(&grant(1, 1_000), &unjournaled);
    let hold = cell.reserve(1_000).expect("all of it");
    assert!(cell.join_round(50).is_ok());
    cell.asks(0);
    cell.granted(&grant(1, 1_000), &unjournaled);
    assert_eq!(cell.denied(50), Err(super::Denied::Exhausted));
    assert!(cell.is_exhausted() && cell.join_round(50).is_err());
    hold.settle(10);
    cell.give_back_unused();
    let told = Grant { settled: NanoUsd(10), outstanding: NanoUsd::ZERO, ..grant(1, 1_000) };
    cell.granted(&told, &unjournaled);
    assert!(!cell.is_exhausted());
    assert!(cell.join_round(50).is_ok(), "990 can be asked for again");
    assert!(cell.slow.lock().need >= 50);
}

#[test]
fn money_on_its_way_back_to_a_slow_ledger_is_still_there() {
    let (cell, _signals) = cell(BudgetMode::Strict);
    cell.granted(&grant(1, 1_000), &unjournaled);
    let hold = cell.reserve(300).expect("granted");
    assert_eq!((cell.free(), cell.possible()), (700, 1_000));
    cell.give_back_unused();
    assert_eq!((cell.lease().avail(), cell.free(), cell.possible()), (0, 700, 1_000), "given back");
    let asks = cell.asks(0);
    assert_eq!((cell.free(), cell.possible()), (700, 1_000), "said, and not heard");
    assert_eq!(cell.late(500), super::Denied::Late, "it is the ledger that is late");
    assert_eq!(cell.late(701), super::Denied::Exhausted);
    let told = Grant { outstanding: NanoUsd(300), ..grant(1, 1_000) };
    cell.granted(&told, &unjournaled);
    asks.iter().for_each(|it| cell.sent(it));
    assert_eq!((cell.free(), cell.possible()), (700, 1_000), "the ledger has it");
    hold.settle(100);
    assert_eq!(cell.free(), 900);
}

/// Gives leases a place in `journal`, with more headroom than they will be granted.
fn journaled<'a>(
    journal: &'a super::usage_journal::UsageJournal,
) -> impl Fn(u64, Arc<super::Figures>) -> Option<super::usage_journal::Lease> + 'a {
    |epoch, figures| {
        let budget = Arc::from("virtual-key:app:total");
        let key = super::usage_journal::Key { budget, epoch, incarnation: 1 };
        journal.lease(&key, 500, figures).ok()
    }
}

#[test]
fn the_journal_says_no_more_than_was_granted_and_nothing_extra_when_nothing_runs() {
    let dir = tempfile::tempdir().expect("a folder");
    let open = || super::usage_journal::UsageJournal::open(dir.path()).expect("a journal");
    let charged = || open().1.into_iter().map(|it| it.charged).max();
    let (journal, _) = open();
    let (cell, _signals) = cell(BudgetMode::Strict);
    cell.granted(&grant(1, 100), &journaled(&journal));
    assert_eq!(charged(), Some(0), "granted is not spent");
    let hold = cell.reserve(30).expect("granted");
    assert_eq!(charged(), Some(100), "while something runs, up to all that was granted");
    hold.settle(20);
    journal.sync().expect("written");
    assert_eq!(charged(), Some(20), "idle: exact");
}

#[test]
fn a_request_is_charged_to_the_window_that_admitted_it() {
    let (cell, _signals) = cell(BudgetMode::Strict);
    cell.granted(&grant(1, 100), &unjournaled);
    let hold = cell.reserve(40).expect("granted");
    let old = cell.lease();
    cell.granted(&grant(2, 50), &unjournaled);

    assert_eq!(old.returned(), 60, "what was left of the old window goes back");
    assert_eq!(cell.lease().avail(), 50);
    hold.settle(30);
    assert_eq!((old.used(), cell.lease().used()), (30, 0));

    let asks = cell.asks(0);
    let told: Vec<_> = asks.iter().map(|it| (it.epoch, it.used.0, it.returned.0)).collect();
    assert_eq!(told, [(1, 30, 70)], "the old window is reported to its last unit");
    asks.iter().for_each(|it| cell.sent(it));
    assert!(cell.asks(0).is_empty(), "and then never again");
}

#[test]
fn a_stream_across_the_turn_of_a_window_pays_in_both() {
    let (cell, _signals) = cell(BudgetMode::Strict);
    cell.granted(&grant(1, 40), &unjournaled);
    let mut hold = cell.reserve(40).expect("granted");
    assert!(cell.extend(&mut hold, 10).is_err());
    let old = cell.lease();
    cell.granted(&grant(2, 50), &unjournaled);
    assert!(cell.extend(&mut hold, 10).is_ok());
    assert!(cell.extend(&mut hold, 5).is_ok());
    assert_eq!(hold.amount(), 55);
    hold.settle(52);
    assert_eq!((old.used(), cell.lease().used()), (40, 12));
    assert_eq!(cell.lease().avail(), 38);
}

#[test]
fn a_soft_budget_lets_in_while_anything_is_left_and_counts_afterwards() {
    let (cell, _signals) = cell(BudgetMode::Soft);
    assert!(cell.reserve(0).is_err());
    cell.granted(&grant(1, 10), &unjournaled);
    let holds: Vec<Hold> = (0..5).filter_map(|_| cell.reserve(1_000).ok()).collect();
    assert_eq!(holds.len(), 5);
    holds.into_iter().for_each(|it| it.settle(8));
    assert_eq!(cell.lease().used(), 40);
    assert!(cell.reserve(0).is_err(), "overdrawn");
}

#[test]
fn a_recalled_slice_gives_back_only_what_is_free() {
    let (cell, _signals) = cell(BudgetMode::Strict);
    cell.granted(&grant(1, 100), &unjournaled);
    let hold = cell.reserve(70).expect("granted");
    cell.granted(&Grant { recall: NanoUsd(50), ..grant(1, 100) }, &unjournaled);
    assert_eq!((cell.lease().avail(), cell.lease().returned()), (0, 30));
    hold.settle(10);
    assert_eq!(cell.lease().avail(), 60);
}

proptest! {
    /// The reference: every figure of a lease adds up to what was granted, whatever happens in which order.
    #[test]
    fn the_figures_always_add_up(
        steps in prop::collection::vec((0_u8..6, 0_u64..60, 0_u64..80), 1..120),
    ) {
        let (cell, _signals) = cell(BudgetMode::Strict);
        let (mut total, mut holds, mut spent) = (0, Vec::<Hold>::new(), 0_u64);
        for (what, a, b) in steps {
            match what {
                0 => {
                    total += a;
                    cell.granted(&grant(1, total), &unjournaled);
                }
                1 => holds.extend(cell.reserve(a)),
                2 => if let Some(hold) = holds.pop() {
                    let cost = b.min(hold.amount());
                    spent += cost;
                    hold.settle(cost);
                },
                3 => if let Some(hold) = holds.first_mut() {
                    let _ = cell.extend(hold, a);
                },
                4 => if let Some(hold) = holds.first_mut() {
                    hold.shrink(b);
                },
                _ => cell.give_back_unused(),
            }
            let lease = cell.lease();
            let held: u64 = holds.iter().map(Hold::amount).sum();
            assert_eq!(lease.reserved(), held);
            assert_eq!(lease.used(), spent);
            assert_eq!(lease.avail() + lease.used() + lease.reserved() + lease.returned(), total);
        }
    }
}
