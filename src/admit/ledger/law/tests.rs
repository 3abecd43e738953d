use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use althing_domain::command::{Command, Expect, Op, Put};
use althing_domain::digest::Digest;
use althing_domain::id::Name;
use althing_domain::money::NanoUsd;
use althing_domain::object::{Object, Policy};
use althing_domain::policy::VirtualKey;
use althing_domain::state::{At, State};
use althing_domain::time::{Clock, UnixMillis};
use althing_storage::usage_journal::UsageJournal;
use parking_lot::Mutex;
use serde_json::json;

use super::LawLedger;
use crate::admit::agent::{Agent, Incarnation};
use crate::admit::ledger::{BudgetId, Level, Owner};
use crate::admit::{Ask, Cells, KeyLimits, LevelSpec, Mono, admit};
use crate::tasks::Tasks;

const USD: u64 = 1_000_000_000;

struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(0)
    }
}

/// The real state machine, with commits that take a while.
struct Law {
    state: Mutex<State>,
    commits: AtomicU64,
}

impl Law {
    fn apply(&self, op: Op) -> althing_domain::command::Reply {
        let mut state = self.state.lock();
        let at = At { index: state.index() + 1, time: UnixMillis(1_800_000_000_000) };
        self.commits.fetch_add(1, Ordering::Relaxed);
        let request_id = u128::from(at.index);
        state.apply(at, &Command { request_id, who: "test".to_owned(), op }).reply
    }
}

fn start(key: &VirtualKey, incarnation: u64, law: &Arc<Law>) -> (Arc<KeyLimits>, Tasks) {
    start_in(None, key, incarnation, law)
}

fn start_in(
    journal: Option<&std::path::Path>,
    key: &VirtualKey,
    incarnation: u64,
    law: &Arc<Law>,
) -> (Arc<KeyLimits>, Tasks) {
    let object = Object::from(key.clone());
    let put = Put { object, expect: Expect::Any, credential: Some(Digest::of(&[b"key"])) };
    law.apply(Op::Put(put));
    let (cells, signals) = Cells::new();
    let owner = Owner { level: Level::VirtualKey, name: key.name.clone(), provider: None };
    let limits = cells.limits_for(&[LevelSpec { owner, budgets: key.budgets(), rate: None }]);
    let behind = Arc::clone(law);
    let ledger = LawLedger::new(
        1,
        Box::new(move |op| {
            let law = Arc::clone(&behind);
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(3)).await;
                Ok(law.apply(op))
            })
        }),
    );
    let tasks = Tasks::default();
    let clock = Arc::new(StoppedClock);
    let mut agent =
        Agent::new((cells, signals), Arc::new(ledger), clock, Incarnation::new(incarnation));
    if let Some(dir) = journal {
        let (journal, past) = UsageJournal::open(dir).expect("a journal");
        agent = agent.journaled(journal, past);
    }
    tasks.spawn("lease-agent", agent.run(tasks.stop().clone()));
    (limits, tasks)
}

fn law() -> Arc<Law> {
    Arc::new(Law { state: Mutex::new(State::new()), commits: AtomicU64::new(0) })
}

fn key(limit_usd: &str) -> VirtualKey {
    let json = json!({ "name": "app", "budget": { "limit_usd": limit_usd, "period": "month" } });
    serde_json::from_value(json).expect("a key")
}

fn id() -> BudgetId {
    BudgetId::from("virtual-key:app:month")
}

fn settled(law: &Law) -> (NanoUsd, NanoUsd) {
    let view = law.state.lock().budget(id().as_str(), UnixMillis(0)).expect("the budget");
    (view.settled, view.outstanding)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_ledger_gives_200_callers_a_whole_dollar_and_not_a_nano_more() {
    let law = law();
    let (limits, tasks) = start(&key("1"), 1, &law);
    let billed = Arc::new(AtomicU64::new(0));
    let callers: Vec<_> = (0..200_u64)
        .map(|caller| {
            let (limits, billed) = (Arc::clone(&limits), Arc::clone(&billed));
            tasks.spawn("caller", async move {
                for call in 0..40_u64 {
                    let upper = 1_000_000 + (caller * 7 + call) % 20 * 1_000_000;
                    let ask = Ask { upper: NanoUsd(upper), tokens: 0, at: Mono::now() };
                    let Ok(ticket) = admit(&limits, ask).await else { continue };
                    let running = ticket.start();
                    let cost = upper * (30 + (caller + call) % 71) / 100;
                    let total = billed.fetch_add(cost, Ordering::SeqCst) + cost;
                    assert!(total <= USD, "overshot: {total}");
                    tokio::time::sleep(Duration::from_millis(1 + call % 5)).await;
                    running.settle(NanoUsd(cost), 0);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("no panic");
    }
    let billed = billed.load(Ordering::SeqCst);
    assert!(USD * 95 / 100 <= billed, "only {billed} of {USD}");
    assert!(tasks.shutdown(Duration::from_secs(20)).await);
    assert_eq!(tasks.panics(), 0);
    assert_eq!(settled(&law), (NanoUsd(billed), NanoUsd::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_restarts_after_a_clean_end_loses_nothing() {
    let law = law();
    let (limits, tasks) = start(&key("1"), 1, &law);
    let ask = |upper| Ask { upper: NanoUsd(upper), tokens: 0, at: Mono::now() };
    admit(&limits, ask(USD / 2)).await.expect("half").start().settle(NanoUsd(USD / 2), 0);
    assert!(tasks.shutdown(Duration::from_secs(5)).await);
    assert_eq!(settled(&law), (NanoUsd(USD / 2), NanoUsd::ZERO));

    let (limits, _tasks) = start(&key("1"), 2, &law);
    let _half = admit(&limits, ask(USD / 2)).await.expect("the other half");
    admit(&limits, ask(1)).await.expect_err("not more");
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_lowered_holds_at_once_and_one_that_is_raised_frees_money() {
    let law = law();
    let (limits, _tasks) = start(&key("1"), 1, &law);
    let ask = |upper| Ask { upper: NanoUsd(upper), tokens: 0, at: Mono::now() };
    admit(&limits, ask(USD / 2)).await.expect("half").start().settle(NanoUsd(USD / 2), 0);
    let change = |limit: &str| {
        let object = Object::from(key(limit));
        law.apply(Op::Put(Put { object, expect: Expect::Any, credential: None }));
    };
    change("0.4");
    tokio::time::sleep(Duration::from_secs(1)).await;
    admit(&limits, ask(1)).await.expect_err("over the new limit");
    change("2");
    tokio::time::sleep(crate::admit::budget::EXHAUSTED_FOR).await;
    drop(admit(&limits, ask(USD)).await.expect("within the new limit"));
}

#[test]
fn names_of_levels_are_those_of_the_law() {
    let key = key("1");
    let ids: Vec<_> = key.budgets().into_iter().map(|(id, _)| id).collect();
    assert_eq!((ids, key.name), (vec![id()], Name::new("app")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_is_charged_what_it_spent_and_what_still_ran() {
    let (law, dir) = (law(), tempfile::tempdir().expect("a folder"));
    let (limits, killed) = start_in(Some(dir.path()), &key("1"), 1, &law);
    let ask = |upper| Ask { upper: NanoUsd(upper), tokens: 0, at: Mono::now() };
    let cent = USD / 100;
    admit(&limits, ask(30 * cent)).await.expect("within").start().settle(NanoUsd(20 * cent), 0);
    // Killed with a request on its way: nothing of it is settled, and nobody says a last word.
    let running = admit(&limits, ask(5 * cent)).await.expect("within").start();
    std::mem::forget(running);
    tokio::time::sleep(Duration::from_millis(400)).await;

    let (limits, tasks) = start_in(Some(dir.path()), &key("1"), 2, &law);
    admit(&limits, ask(cent)).await.expect("within").start().settle(NanoUsd(cent), 0);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let charged = settled(&law).0.0;
    let exact = 26 * cent;
    assert!((exact..=exact + cent).contains(&charged), "{charged} for {exact}");
    drop(admit(&limits, ask(73 * cent)).await.expect("the rest can be spent"));
    assert!(tasks.shutdown(Duration::from_secs(5)).await);
    drop(killed);
}
