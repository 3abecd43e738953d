use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use althing_domain::id::Name;
use althing_domain::money::NanoUsd;
use althing_domain::policy::{Budget, BudgetMode, Period, Rate, Span};
use althing_domain::time::{Clock, UnixMillis};

use super::agent::{Agent, Incarnation};
use super::ledger::memory::MemoryLedger;
use super::ledger::{BudgetId, Level, Owner};
use super::{
    Ask, Cells, HELD_WAIT_MAX, KeyLimits, LevelSpec, Mono, Refusal, admit, affordable, fair_part,
};
use crate::admit::budget::Denied;
use crate::error::{Code, Error};
use crate::tasks::Tasks;

const USD: u64 = 1_000_000_000;

struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(0)
    }
}

/// A node with its agent and a ledger.
struct Node {
    cells: Arc<Cells>,
    ledger: Arc<MemoryLedger>,
    tasks: Tasks,
}

impl Node {
    fn start(commit: Duration) -> Self {
        let (cells, signals) = Cells::new();
        let ledger = Arc::new(MemoryLedger::new(commit));
        let node = Self { cells, ledger, tasks: Tasks::default() };
        node.agent(signals);
        node
    }

    fn agent(&self, signals: tokio::sync::mpsc::Receiver<super::budget::Signal>) {
        let ends = (Arc::clone(&self.cells), signals);
        let ledger: Arc<MemoryLedger> = Arc::clone(&self.ledger);
        let agent = Agent::new(ends, ledger, Arc::new(StoppedClock), Incarnation::new(1));
        let stop = self.tasks.stop().clone();
        self.tasks.spawn("lease-agent", agent.run(stop));
    }

    fn limits(&self, levels: &[(Level, &str, Option<u64>, Option<Rate>)]) -> Arc<KeyLimits> {
        let budgets: Vec<_> = levels.iter().map(|it| it.2.map(budget)).collect();
        let specs: Vec<LevelSpec<'_>> = levels
            .iter()
            .zip(&budgets)
            .map(|((level, name, _, rate), budget)| LevelSpec {
                owner: Owner { level: *level, name: Name::new(name), provider: None },
                budgets: budget.iter().map(|it| (id(*level, name), it)).collect(),
                rate: rate.as_ref(),
            })
            .collect();
        for (level, name, limit, _) in levels {
            if let Some(limit) = limit {
                self.ledger.set_limit(&id(*level, name), NanoUsd(*limit));
            }
        }
        self.cells.limits_for(&specs)
    }
}

fn id(level: Level, name: &str) -> BudgetId {
    BudgetId::from(format!("{}:{name}:total", level.name()).as_str())
}

fn budget(limit: u64) -> Budget {
    Budget {
        limit_usd: NanoUsd(limit),
        period: Period::Total,
        time_zone: None,
        mode: BudgetMode::Strict,
        warn_at: Vec::new(),
    }
}

fn rate(requests: u64, tokens: u64, concurrent: u64) -> Rate {
    Rate {
        requests: NonZeroU64::new(requests),
        tokens: NonZeroU64::new(tokens),
        concurrent: NonZeroU64::new(concurrent),
        per: Span(NonZeroU64::new(60_000).expect("a minute")),
    }
}

fn ask(upper: u64) -> Ask {
    Ask { upper: NanoUsd(upper), tokens: 100, at: Mono::now() }
}

/// A dollar, 200 callers that never pause, each call up to two cents and in truth less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dollar_hammered_by_200_callers_is_never_passed_and_nearly_all_of_it_is_used() {
    let node = Node::start(Duration::from_millis(2));
    let limits = node.limits(&[
        (Level::Customer, "acme", Some(5 * USD), None),
        (Level::VirtualKey, "app", Some(USD), None),
    ]);
    let (billed, served) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    for caller in 0..200_u64 {
        let (limits, billed, served) =
            (Arc::clone(&limits), Arc::clone(&billed), Arc::clone(&served));
        let stop = node.tasks.stop().clone();
        node.tasks.spawn("caller", async move {
            for call in 0..50_u64 {
                let upper = 1_000_000 + (caller * 7 + call) % 20 * 1_000_000;
                if stop.is_cancelled() {
                    break;
                }
                let Ok(ticket) = admit(&limits, ask(upper)).await else { continue };
                let running = ticket.start();
                let cost = upper * (30 + (caller + call) % 71) / 100;
                let before = billed.fetch_add(cost, Ordering::SeqCst);
                assert!(before + cost <= USD, "overshot: {}", before + cost);
                tokio::time::sleep(Duration::from_millis(1 + (caller + call) % 5)).await;
                running.settle(NanoUsd(cost), 100);
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    node.tasks
        .stop()
        .cancelled()
        .now_or_later(Duration::from_secs(20), || {
            limits.budgets()[1].lease().reserved() == 0
                && USD * 95 / 100 <= billed.load(Ordering::SeqCst)
        })
        .await;
    let billed = billed.load(Ordering::SeqCst);
    assert!(USD * 95 / 100 <= billed, "only {billed} of {USD} used by {served:?} calls");
    assert!(node.tasks.shutdown(Duration::from_secs(20)).await);
    assert_eq!(node.tasks.panics(), 0);
    let account = node.ledger.account(&id(Level::VirtualKey, "app"));
    assert_eq!((account.settled, account.outstanding()), (billed, 0), "the last report is exact");
}

/// Polls a condition until it holds or the time is over.
trait NowOrLater: Future<Output = ()> + Sized {
    async fn now_or_later(self, within: Duration, holds: impl Fn() -> bool) {
        let deadline = tokio::time::Instant::now() + within;
        while !holds() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl<F: Future<Output = ()>> NowOrLater for F {}

#[tokio::test(start_paused = true)]
async fn a_budget_that_is_used_up_says_whose_it_is_and_what_is_still_affordable() {
    let node = Node::start(Duration::from_millis(1));
    let limits = node.limits(&[(Level::Team, "web", Some(1_000), None)]);
    let running = admit(&limits, ask(900)).await.expect("within").start();
    let refusal = admit(&limits, ask(200)).await.expect_err("only 100 are left");
    let Refusal::Budget(why) = &refusal else { panic!("{refusal:?}") };
    assert_eq!(why.denied, Denied::Exhausted, "100 more came, and are not enough");
    running.settle(NanoUsd(900), 10);

    let refusal = admit(&limits, ask(200)).await.expect_err("still only 100");
    let Refusal::Budget(why) = &refusal else { panic!("{refusal:?}") };
    assert_eq!(
        (why.denied, why.owner.name.as_str(), why.limit.0),
        (Denied::Exhausted, "web", 1_000)
    );
    assert_eq!((why.settled.0, why.affordable.0), (900, 100));
    let error = Error::from(refusal);
    assert_eq!(error.code, Code::BudgetExhausted);
    assert!(error.message.contains("team `web`"), "{error}");

    let ticket = admit(&limits, ask(why_affordable(&limits))).await.expect("clamped");
    drop(ticket);
}

fn why_affordable(limits: &KeyLimits) -> u64 {
    affordable(limits).0
}

#[tokio::test(start_paused = true)]
async fn a_ticket_dropped_before_the_call_costs_nothing() {
    let node = Node::start(Duration::ZERO);
    let limits = node.limits(&[(Level::VirtualKey, "app", Some(1_000), Some(rate(0, 1_000, 1)))]);
    let ticket = admit(&limits, ask(1_000)).await.expect("all of it");
    let busy = admit(&limits, ask(1)).await.expect_err("one at a time");
    assert_eq!(Error::from(busy).code, Code::RateLimited);
    drop(ticket);
    let lease = limits.budgets()[0].lease();
    assert_eq!((lease.avail(), lease.used(), lease.reserved()), (1_000, 0, 0));
    assert_eq!(limits.rates()[0].in_flight(), 0);
    assert_eq!(super::left(&limits, Mono::now()).tokens.expect("limited").remaining, 1_000);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_hangs_up_pays_for_what_was_metered() {
    let node = Node::start(Duration::ZERO);
    let limits = node.limits(&[(Level::VirtualKey, "app", Some(1_000), None)]);
    let lease = || limits.budgets()[0].lease();

    let mut running = admit(&limits, ask(100)).await.expect("within").start();
    running.meter(NanoUsd(30));
    drop(running);
    assert_eq!(lease().used(), 30);

    // Nothing metered: the whole reservation.
    drop(admit(&limits, ask(100)).await.expect("within").start());
    assert_eq!((lease().used(), lease().reserved()), (130, 0));
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_leaves_nothing_behind_at_any_level() {
    let node = Node::start(Duration::ZERO);
    let limits = node.limits(&[
        (Level::Customer, "acme", Some(10_000), Some(rate(10, 0, 5))),
        (Level::Team, "web", None, Some(rate(0, 10_000, 5))),
        (Level::VirtualKey, "app", Some(50), None),
    ]);
    admit(&limits, ask(60)).await.expect_err("the key has too little");
    assert_eq!(limits.budgets()[0].lease().reserved(), 0);
    assert!(limits.rates().iter().all(|it| it.in_flight() == 0));
    let left = super::left(&limits, Mono::now());
    assert_eq!(left.requests.expect("limited").remaining, 10);
    assert_eq!(left.tokens.expect("limited").remaining, 10_000);
}

#[tokio::test(start_paused = true)]
async fn money_that_others_have_set_aside_is_waited_for_and_money_that_is_spent_is_not() {
    let node = Node::start(Duration::ZERO);
    let limits = node.limits(&[(Level::VirtualKey, "app", Some(1_000), None)]);
    let first = admit(&limits, ask(900)).await.expect("within").start();
    let second = async { admit(&limits, ask(700)).await.map(|it| it.upper()) };
    let first = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        first.settle(NanoUsd(100), 10);
    };
    let (second, ()) = tokio::join!(second, first);
    assert_eq!(second, Ok(NanoUsd(700)), "the first did not need what it held");

    let began = tokio::time::Instant::now();
    admit(&limits, ask(901)).await.expect_err("a hundred are spent");
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());

    let held = admit(&limits, ask(900)).await.expect("the rest");
    let refusal = admit(&limits, ask(900)).await.expect_err("nothing came back");
    assert!(HELD_WAIT_MAX <= began.elapsed() && began.elapsed() < HELD_WAIT_MAX * 2);
    let text = refusal.to_string();
    assert!(text.contains("set aside for calls in flight here $0.0000009"), "{text}");
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_fair_part_leaves_something_for_those_who_come_after() {
    let node = Node::start(Duration::ZERO);
    let limits = node.limits(&[(Level::VirtualKey, "app", Some(1_000_000), None)]);
    let mut held = Vec::new();
    let mut before = u64::MAX;
    for running in 0..200 {
        let part = fair_part(&limits, UnixMillis(0)).0;
        assert!(0 < part && part <= before, "{part} beside {running}, {before} before");
        before = part;
        held.push(admit(&limits, ask(part)).await.expect("a part"));
        if running == 23 {
            // 1 / (24 * 25).
            assert!(1_600 < part, "{part}");
        }
    }
    assert!(5_000 / 2 < affordable(&limits).0);
    held.clear();
    assert_eq!(fair_part(&limits, UnixMillis(0)), NanoUsd(500_000));
}

#[tokio::test(start_paused = true)]
async fn another_target_takes_the_place_of_the_first() {
    let node = Node::start(Duration::ZERO);
    let own = node.limits(&[(Level::VirtualKey, "app", Some(1_000), None)]);
    let dear = node.limits(&[(Level::Provider, "dear", Some(100), None)]);
    let cheap = node.limits(&[(Level::Provider, "cheap", Some(1_000), Some(rate(0, 0, 1)))]);

    let mut ticket = admit(&own, ask(200)).await.expect("within");
    ticket.target(Some(&dear), &ask(200)).await.expect_err("more than the provider may cost");
    ticket.target(Some(&cheap), &ask(400)).await.expect("another one may");
    assert_eq!(own.budgets()[0].lease().reserved(), 400);
    assert_eq!(dear.budgets()[0].lease().reserved(), 0);
    let mut running = ticket.start();
    running.target(None, &ask(50)).await.expect("one without limits");
    assert_eq!(own.budgets()[0].lease().reserved(), 50);
    assert_eq!((cheap.budgets()[0].lease().used(), cheap.rates()[0].in_flight()), (0, 0));
    running.settle(NanoUsd(40), 10);
    assert_eq!(own.budgets()[0].lease().used(), 40);
}

#[test]
fn the_same_policy_is_the_same_cell_and_what_is_gone_is_swept() {
    let (cells, _signals) = Cells::new();
    let make = |name: &str| {
        let budget = budget(10);
        let rate = rate(1, 1, 1);
        let owner = Owner { level: Level::Team, name: Name::new(name), provider: None };
        let budgets = vec![(id(Level::Team, name), &budget)];
        cells.limits_for(&[LevelSpec { owner, budgets, rate: Some(&rate) }])
    };
    let (first, second, other) = (make("web"), make("web"), make("ops"));
    assert!(Arc::ptr_eq(&first.budgets()[0], &second.budgets()[0]));
    assert!(Arc::ptr_eq(&first.rates()[0], &second.rates()[0]));
    assert_eq!(cells.len(), (2, 2));
    drop(other);
    cells.sweep();
    assert_eq!(cells.len(), (1, 1));
}
