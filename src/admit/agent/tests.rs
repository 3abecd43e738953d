use std::sync::Arc;
use std::time::Duration;

use althing_domain::id::Name;
use althing_domain::money::NanoUsd;
use althing_domain::policy::{Budget, BudgetMode, Period};
use althing_domain::time::{Clock, UnixMillis};
use async_trait::async_trait;
use parking_lot::Mutex;

use super::{Agent, IDLE_AFTER, Incarnation, REPORT_EVERY, REPORTS_MAX};
use crate::admit::budget::Denied;
use crate::admit::ledger::memory::MemoryLedger;
use crate::admit::ledger::{Answer, Batch, BudgetId, Finished, Ledger, LedgerError, Level, Owner};
use crate::admit::{Ask, Cells, KeyLimits, LevelSpec, Mono, Refusal, admit};
use crate::tasks::Tasks;

struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(0)
    }
}

/// A ledger that can be cut off, and whose answers can be lost.
struct Flaky {
    inner: MemoryLedger,
    mood: Mutex<Mood>,
}

#[derive(Clone, Copy)]
enum Mood {
    Fine,
    CutOff,
    FullDisk,
    LosesAnswers,
}

#[async_trait]
impl Ledger for Flaky {
    async fn batch(&self, batch: Batch) -> Result<Answer, LedgerError> {
        let mood = *self.mood.lock();
        match mood {
            Mood::CutOff => Err(LedgerError::NoQuorum),
            Mood::FullDisk => Err(LedgerError::Unwritable),
            Mood::LosesAnswers => {
                self.inner.batch(batch).await?;
                Err(LedgerError::Failed("the answer was lost".to_owned()))
            }
            Mood::Fine => self.inner.batch(batch).await,
        }
    }

    async fn finish(&self, finished: Vec<Finished>) -> Result<(), LedgerError> {
        self.inner.finish(finished).await
    }
}

/// A ledger that notes how many asks each batch has.
struct Counting {
    inner: MemoryLedger,
    reports: Mutex<Vec<usize>>,
}

#[async_trait]
impl Ledger for Counting {
    async fn batch(&self, batch: Batch) -> Result<Answer, LedgerError> {
        self.reports.lock().push(batch.asks.len());
        self.inner.batch(batch).await
    }

    async fn finish(&self, finished: Vec<Finished>) -> Result<(), LedgerError> {
        self.inner.finish(finished).await
    }
}

fn id() -> BudgetId {
    BudgetId::from("virtual-key:app:total")
}

fn start(limit: u64) -> (Arc<Flaky>, Arc<KeyLimits>, Tasks) {
    let (cells, signals) = Cells::new();
    let budget = Budget {
        limit_usd: NanoUsd(limit),
        period: Period::Total,
        time_zone: None,
        mode: BudgetMode::Strict,
        warn_at: Vec::new(),
    };
    let owner = Owner { level: Level::VirtualKey, name: Name::new("app"), provider: None };
    let limits =
        cells.limits_for(&[LevelSpec { owner, budgets: vec![(id(), &budget)], rate: None }]);
    let inner = MemoryLedger::new(Duration::from_millis(1));
    inner.set_limit(&id(), NanoUsd(limit));
    let ledger = Arc::new(Flaky { inner, mood: Mutex::new(Mood::Fine) });
    let tasks = Tasks::default();
    let port: Arc<Flaky> = Arc::clone(&ledger);
    let agent = Agent::new((cells, signals), port, Arc::new(StoppedClock), Incarnation::new(7));
    tasks.spawn("lease-agent", agent.run(tasks.stop().clone()));
    (ledger, limits, tasks)
}

fn ask(upper: u64) -> Ask {
    Ask { upper: NanoUsd(upper), tokens: 0, at: Mono::now() }
}

async fn spend(limits: &Arc<KeyLimits>, upper: u64) -> Result<(), Refusal> {
    let running = admit(limits, ask(upper)).await?.start();
    running.settle(NanoUsd(upper), 0);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_was_spent_is_reported_within_a_quarter_of_a_second() {
    let (ledger, limits, _tasks) = start(10_000);
    spend(&limits, 120).await.expect("within");
    tokio::time::sleep(REPORT_EVERY * 2).await;
    assert_eq!(ledger.inner.account(&id()).settled, 120);
}

#[tokio::test(start_paused = true)]
async fn reports_on_many_budgets_take_turns_and_none_is_forgotten() {
    const COUNT: usize = REPORTS_MAX * 5 / 2;
    let (cells, signals) = Cells::new();
    let ledger = Arc::new(Counting {
        inner: MemoryLedger::new(Duration::from_millis(1)),
        reports: Mutex::default(),
    });
    let budget = Budget {
        limit_usd: NanoUsd(10_000),
        period: Period::Total,
        time_zone: None,
        mode: BudgetMode::Strict,
        warn_at: Vec::new(),
    };
    let all: Vec<_> = (0..COUNT)
        .map(|number| {
            let id = BudgetId::from(format!("virtual-key:{number}:total").as_str());
            ledger.inner.set_limit(&id, NanoUsd(10_000));
            let name = Name::from(number.to_string());
            let owner = Owner { level: Level::VirtualKey, name, provider: None };
            let budgets = vec![(id.clone(), &budget)];
            (id, cells.limits_for(&[LevelSpec { owner, budgets, rate: None }]))
        })
        .collect();
    let tasks = Tasks::default();
    let port: Arc<Counting> = Arc::clone(&ledger);
    let agent = Agent::new((cells, signals), port, Arc::new(StoppedClock), Incarnation::new(7));
    tasks.spawn("lease-agent", agent.run(tasks.stop().clone()));
    for (_, limits) in &all {
        spend(limits, 10).await.expect("a first slice");
    }
    tokio::time::sleep(REPORT_EVERY * 8).await;
    // Out of the slice that is there, so that nothing is asked for.
    ledger.reports.lock().clear();
    for (_, limits) in &all {
        spend(limits, 10).await.expect("of the slice");
    }
    tokio::time::sleep(REPORT_EVERY * 8).await;
    let most = ledger.reports.lock().iter().copied().max();
    assert_eq!(most, Some(REPORTS_MAX));
    for (id, _) in &all {
        assert_eq!(ledger.inner.account(id).settled, 20, "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_idles_gives_its_slice_back() {
    let (ledger, limits, _tasks) = start(10_000);
    spend(&limits, 120).await.expect("within");
    tokio::time::sleep(REPORT_EVERY * 2).await;
    assert!(0 < ledger.inner.account(&id()).outstanding());
    tokio::time::sleep(IDLE_AFTER + REPORT_EVERY * 4).await;
    let account = ledger.inner.account(&id());
    assert_eq!((account.settled, account.outstanding()), (120, 0));

    let quiet = account.asked;
    tokio::time::sleep(IDLE_AFTER * 2).await;
    assert_eq!(ledger.inner.account(&id()).asked, quiet, "and has nothing more to say");
    spend(&limits, 50).await.expect("until it is used again");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_loses_no_money() {
    let (ledger, limits, _tasks) = start(1_000);
    *ledger.mood.lock() = Mood::LosesAnswers;
    let refusal = spend(&limits, 600).await.expect_err("no answer");
    let Refusal::Budget(why) = refusal else { panic!("{refusal:?}") };
    assert_eq!(why.denied, Denied::NoQuorum);
    *ledger.mood.lock() = Mood::Fine;
    spend(&limits, 600).await.expect("the cumulative grant comes with the next answer");
    spend(&limits, 400).await.expect("to the last unit");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_cut_off_spends_what_it_holds_and_then_refuses() {
    let (ledger, limits, _tasks) = start(10_000);
    spend(&limits, 100).await.expect("within");
    *ledger.mood.lock() = Mood::CutOff;
    let held = limits.budgets()[0].lease().avail();
    assert!(0 < held);
    spend(&limits, held).await.expect("its own slice");
    let refusal = spend(&limits, 1).await.expect_err("no more");
    let Refusal::Budget(why) = refusal else { panic!("{refusal:?}") };
    assert_eq!(why.denied, Denied::NoQuorum);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_not_told_as_a_lost_quorum() {
    let (ledger, limits, _tasks) = start(1_000);
    *ledger.mood.lock() = Mood::FullDisk;
    let refusal = spend(&limits, 600).await.expect_err("nothing is granted");
    assert!(refusal.to_string().contains("free space"), "{refusal}");
    assert_eq!(crate::error::Error::from(refusal).code, crate::error::Code::StorageFull);
}

#[tokio::test(start_paused = true)]
async fn a_node_wrongly_taken_for_dead_goes_on_anew_and_gets_the_difference_back() {
    let (ledger, limits, _tasks) = start(10_000);
    let running = admit(&limits, ask(300)).await.expect("within").start();
    ledger.inner.write_off(&id());
    let written_off = ledger.inner.account(&id()).settled;
    assert!(300 <= written_off);

    // The node hears of it with its next ask, and asks again as another incarnation.
    let _ = spend(&limits, 5_000).await;
    spend(&limits, 5_000).await.expect("under a new lease");
    running.settle(NanoUsd(100), 0);
    tokio::time::sleep(REPORT_EVERY * 4).await;
    let account = ledger.inner.account(&id());
    assert_eq!(
        account.settled, 5_100,
        "the write-off is replaced by the exact figure: {account:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_new_window_starts_from_zero_at_once() {
    let (ledger, limits, _tasks) = start(1_000);
    spend(&limits, 1_000).await.expect("all of it");
    spend(&limits, 1).await.expect_err("none left");
    ledger.inner.turn(&id());
    tokio::time::sleep(crate::admit::budget::EXHAUSTED_FOR).await;
    spend(&limits, 1_000).await.expect("the next window");
    assert_eq!(limits.budgets()[0].lease().epoch(), 2);
}

#[tokio::test(start_paused = true)]
async fn small_change_goes_back_so_that_another_node_can_use_it() {
    let (ledger, limits, _tasks) = start(1_000);
    let running = admit(&limits, ask(970)).await.expect("within").start();
    let _ = spend(&limits, 100).await.expect_err("30 are left");
    let _ = spend(&limits, 100).await.expect_err("30 are left");
    tokio::time::sleep(REPORT_EVERY * 3).await;
    assert_eq!(limits.budgets()[0].lease().avail(), 0);
    assert_eq!(ledger.inner.account(&id()).outstanding(), 970);
    running.settle(NanoUsd(970), 0);
    tokio::time::sleep(REPORT_EVERY * 2).await;
    spend(&limits, 30).await.expect("and is here again when it fits");
}

#[tokio::test(start_paused = true)]
async fn at_shutdown_every_lease_is_closed_for_its_exact_figure() {
    let (ledger, limits, tasks) = start(10_000);
    spend(&limits, 120).await.expect("within");
    assert!(tasks.shutdown(Duration::from_secs(10)).await);
    let account = ledger.inner.account(&id());
    assert_eq!((account.settled, account.outstanding()), (120, 0));
    assert!(account.leases.values().all(|it| it.closed.is_some()));
    spend(&limits, 1).await.expect_err("nothing is spent after the last word");
}

#[test]
fn a_life_that_was_renewed_is_never_taken_for_the_next_process() {
    let renewed = Incarnation::of_start(1);
    (0..1_000).for_each(|_| renewed.next());
    assert!(renewed.get() < Incarnation::of_start(2).get());
}
