use serde_json::json;

use super::{Ask, BudgetId, Grant, Level, View};
use crate::command::{Command, Expect, FinalLease, NodeAsks, NodeGrants, Op, Put, Reply};
use crate::money::NanoUsd;
use crate::object::{Kind, Object};
use crate::state::{At, State};
use crate::time::UnixMillis;

const HOUR: u64 = 3_600_000;
/// 2027-01-31T12:00:00Z.
const NOON: u64 = 1_801_396_800_000;

struct Ledger {
    state: State,
    index: u64,
    now: u64,
    id: &'static str,
}

/// What a node says: (window, used, returned, want, need).
type Words = (u64, u64, u64, u64, u64);

impl Ledger {
    fn new(budget: &serde_json::Value, id: &'static str) -> Self {
        let mut ledger = Self { state: State::new(), index: 0, now: NOON, id };
        ledger.set(budget);
        ledger
    }

    /// One budget of 1,000 nano-dollars that never starts anew.
    fn total() -> Self {
        Self::new(&json!({"limit_usd": "0.000001"}), "customer:acme:total")
    }

    fn set(&mut self, budget: &serde_json::Value) {
        let object =
            Object::deserialize_as(Kind::Customer, json!({"name": "acme", "budget": budget}))
                .expect("customer");
        self.apply(Op::Put(Put { object, expect: Expect::Any, credential: None }));
    }

    fn apply(&mut self, op: Op) -> Reply {
        self.index += 1;
        let command = Command { request_id: u128::from(self.index), who: "test".to_owned(), op };
        self.state.apply(At { index: self.index, time: UnixMillis(self.now) }, &command).reply
    }

    fn batch(
        &mut self,
        node: u64,
        incarnation: u64,
        (epoch, used, returned, want, need): Words,
    ) -> NodeGrants {
        let [used, returned, want, need] = [used, returned, want, need].map(NanoUsd);
        let ask = Ask { budget: self.id.into(), epoch, used, returned, want, need };
        match self.apply(Op::LeaseBatch(vec![NodeAsks { node, incarnation, asks: vec![ask] }])) {
            Reply::Leases(mut replies) => replies.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn ask(&mut self, node: u64, words: Words) -> Grant {
        self.batch(node, 1, words).grants.remove(0)
    }

    fn last(&mut self, node: u64, incarnation: u64, epoch: u64, used: u64) {
        let leases = vec![FinalLease { budget: self.id.into(), epoch, used: NanoUsd(used) }];
        self.apply(Op::Final { node, incarnation, leases });
    }

    fn view(&self) -> View {
        self.state.budget(self.id, UnixMillis(self.now)).expect("budget")
    }

    fn figures(&self) -> (u64, u64, u64) {
        let view = self.view();
        (view.settled.0, view.outstanding.0, view.available.0)
    }
}

#[test]
fn a_slice_is_a_twentieth_of_the_limit_and_what_waits_gets_more() {
    let mut ledger = Ledger::total();
    assert_eq!(ledger.ask(1, (0, 0, 0, 400, 0)).granted, NanoUsd(50));
    // Asking again does not pile it up; a request that waits is let through.
    assert_eq!(ledger.ask(1, (1, 0, 0, 400, 0)).granted, NanoUsd(50));
    assert_eq!(ledger.ask(1, (1, 0, 0, 400, 300)).granted, NanoUsd(350));
    assert_eq!(ledger.figures(), (0, 350, 650));
    // What was used may be held anew.
    assert_eq!(ledger.ask(1, (1, 350, 0, 400, 0)).granted, NanoUsd(400));
}

#[test]
fn slices_shrink_as_the_end_comes_near() {
    let mut ledger = Ledger::total();
    ledger.ask(1, (0, 0, 0, 960, 960));
    ledger.ask(1, (1, 960, 0, 0, 0));
    assert_eq!(
        ledger.ask(2, (0, 0, 0, 40, 0)).granted,
        NanoUsd(10),
        "half of what is left, for each of two"
    );
    assert_eq!(ledger.ask(1, (1, 960, 0, 40, 0)).granted, NanoUsd(967));
    assert_eq!(ledger.ask(3, (0, 0, 0, 40, 40)).granted, NanoUsd(23), "never more than is left");
    assert_eq!(ledger.figures(), (960, 40, 0));
}

#[test]
fn a_budget_of_nothing_grants_nothing() {
    let mut ledger = Ledger::new(&json!({"limit_usd": "0"}), "customer:acme:total");
    assert_eq!(ledger.ask(1, (0, 0, 0, 9, 9)).granted, NanoUsd::ZERO);
}

#[test]
fn what_comes_twice_or_late_changes_nothing() {
    let mut ledger = Ledger::total();
    ledger.ask(1, (0, 0, 0, 100, 100));
    ledger.ask(1, (1, 60, 20, 0, 0));
    let figures = ledger.figures();
    assert_eq!(figures, (60, 20, 920));
    ledger.ask(1, (1, 60, 20, 0, 0));
    ledger.ask(1, (1, 10, 5, 0, 0));
    ledger.ask(1, (99, 90, 90, 0, 0));
    assert_eq!(ledger.figures(), figures);
}

#[test]
fn a_dead_node_s_slice_counts_as_spent_until_its_exact_figure_comes() {
    let mut ledger = Ledger::total();
    ledger.ask(1, (0, 0, 0, 100, 100));
    ledger.ask(1, (1, 30, 0, 0, 0));
    let close = |ledger: &mut Ledger| ledger.apply(Op::CloseLease { node: 1, incarnation: 1 });
    assert_eq!(close(&mut ledger), Reply::Closed { written_off: NanoUsd(70) });
    assert_eq!(close(&mut ledger), Reply::Closed { written_off: NanoUsd::ZERO });
    assert_eq!((ledger.figures(), ledger.view().written_off), ((100, 0, 900), NanoUsd(70)));
    assert_eq!(ledger.state.audit().entries().last().expect("entry").action, "written-off");
    // A closed lease is ignored, and the node is told.
    assert!(ledger.ask(1, (1, 80, 0, 50, 50)).closed);
    assert_eq!(ledger.figures(), (100, 0, 900));
    ledger.last(1, 1, 1, 45);
    assert_eq!((ledger.figures(), ledger.view().written_off), ((45, 0, 955), NanoUsd::ZERO));
    ledger.last(1, 1, 1, 10);
    ledger.last(1, 1, 1, 99);
    assert_eq!(ledger.figures(), (45, 0, 955), "once");
}

#[test]
fn a_new_life_ends_the_one_before_and_an_old_one_is_not_heard() {
    let mut ledger = Ledger::total();
    ledger.ask(1, (0, 0, 0, 100, 100));
    let reply = ledger.batch(1, 2, (0, 0, 0, 50, 50));
    assert_eq!((reply.grants[0].granted, ledger.figures()), (NanoUsd(50), (100, 50, 850)));
    assert!(ledger.batch(1, 1, (1, 70, 0, 50, 50)).stale);
    assert_eq!(ledger.figures(), (100, 50, 850));
    ledger.last(1, 1, 1, 70);
    assert_eq!(ledger.figures(), (70, 50, 880), "its journal still is");
    assert_eq!(ledger.state.incarnation(1), Some(2));
}

#[test]
fn a_graceful_end_settles_what_was_used_and_frees_the_rest() {
    let mut ledger = Ledger::total();
    ledger.ask(1, (0, 0, 0, 100, 100));
    assert_eq!(ledger.state.budgets_of_node(1).len(), 1);
    ledger.last(1, 1, 1, 40);
    assert_eq!(ledger.figures(), (40, 0, 960));
    assert_eq!(ledger.state.budgets_of_node(1), []);
    assert!(ledger.ask(1, (1, 50, 0, 10, 10)).closed);
    assert_eq!(ledger.figures(), (40, 0, 960));
}

#[test]
fn a_lowered_limit_is_recalled_by_each_node_s_part() {
    let mut ledger = Ledger::total();
    ledger.ask(1, (0, 0, 0, 300, 300));
    ledger.ask(2, (0, 0, 0, 100, 100));
    ledger.set(&json!({"limit_usd": "0.0000002"}));
    assert_eq!(ledger.ask(1, (1, 0, 0, 50, 50)).recall, NanoUsd(150));
    assert_eq!(ledger.ask(2, (1, 0, 0, 0, 0)).recall, NanoUsd(50));
    assert_eq!(
        ledger.ask(1, (1, 0, 150, 50, 50)).granted,
        NanoUsd(300),
        "no grant until the sum is below"
    );
    ledger.ask(2, (1, 0, 100, 0, 0));
    assert_eq!(ledger.ask(1, (1, 0, 150, 50, 50)).granted, NanoUsd(350));
    assert_eq!(ledger.figures(), (0, 200, 0));
}

#[test]
fn a_soft_budget_counts_what_passes_it_and_then_grants_nothing() {
    let mut ledger =
        Ledger::new(&json!({"limit_usd": "0.000001", "mode": "soft"}), "customer:acme:total");
    ledger.ask(1, (0, 0, 0, 100, 100));
    // Nothing was reserved, so more was used than granted: it is charged, not lost.
    ledger.ask(1, (1, 1_200, 0, 0, 0));
    assert_eq!(ledger.figures(), (1_200, 0, 0));
    assert_eq!(ledger.ask(1, (1, 1_300, 0, 50, 50)).granted, NanoUsd(100));
    assert_eq!(ledger.figures(), (1_300, 0, 0));
    ledger.apply(Op::CloseLease { node: 1, incarnation: 1 });
    assert_eq!(ledger.figures(), (1_300, 0, 0));
}

#[test]
fn a_new_window_starts_from_zero_and_the_last_one_is_still_settled() {
    let mut ledger =
        Ledger::new(&json!({"limit_usd": "0.000001", "period": "day"}), "customer:acme:day");
    let first = ledger.ask(1, (0, 0, 0, 1_000, 1_000));
    assert_eq!(first.resets_at.expect("end").to_rfc3339(), "2027-02-01T00:00:00.000Z");
    ledger.now += 12 * HOUR;
    assert_eq!(ledger.figures(), (0, 0, 1_000), "seen before any command");
    // The report is of the old window, the grant of the new one.
    let second = ledger.ask(1, (first.epoch, 700, 0, 100, 100));
    assert_ne!(second.epoch, first.epoch);
    assert_eq!((second.granted, ledger.figures()), (NanoUsd(100), (0, 100, 900)));
    ledger.last(1, 1, first.epoch, 750);
    assert_eq!(ledger.figures(), (0, 100, 900));
    // One of a window that is long forgotten does nothing.
    ledger.last(1, 1, 77, 750);
    assert_eq!(ledger.figures(), (0, 100, 900));
}

#[test]
fn rolling_spending_counts_until_it_is_a_whole_period_old() {
    let mut ledger =
        Ledger::new(&json!({"limit_usd": "0.000001", "period": "6h"}), "customer:acme:6h");
    let epoch = ledger.ask(1, (0, 0, 0, 1_000, 1_000)).epoch;
    ledger.ask(1, (epoch, 600, 0, 0, 0));
    ledger.now += 3 * HOUR;
    ledger.ask(1, (epoch, 1_000, 0, 0, 0));
    assert_eq!(ledger.ask(2, (0, 0, 0, 100, 100)).granted, NanoUsd::ZERO);
    ledger.now += 3 * HOUR;
    assert_eq!(ledger.figures(), (1_000, 0, 0), "not a moment before");
    let view = ledger.view();
    ledger.now = view.resets_at.expect("end").0;
    assert!(ledger.now <= NOON + 6 * HOUR + HOUR / 10);
    assert_eq!(ledger.figures(), (400, 0, 600));
    let grant = ledger.ask(2, (0, 0, 0, 700, 700));
    assert_eq!((grant.granted, grant.epoch), (NanoUsd(600), epoch));
    ledger.now += 4 * HOUR;
    assert_eq!(
        ledger.figures(),
        (0, 600, 400),
        "what is handed out counts as long as it may be spent"
    );
}

#[test]
fn a_rolling_refund_goes_where_the_write_off_was() {
    let mut ledger =
        Ledger::new(&json!({"limit_usd": "0.000001", "period": "6h"}), "customer:acme:6h");
    let epoch = ledger.ask(1, (0, 0, 0, 500, 500)).epoch;
    ledger.apply(Op::CloseLease { node: 1, incarnation: 1 });
    ledger.now += HOUR;
    ledger.last(1, 1, epoch, 200);
    assert_eq!(ledger.figures(), (200, 0, 800));
    ledger.now += 6 * HOUR;
    assert_eq!(ledger.figures(), (0, 0, 1_000));
}

#[test]
fn a_deleted_budget_is_unknown_and_its_name_starts_anew() {
    let mut ledger = Ledger::total();
    ledger.ask(1, (0, 0, 0, 1_000, 1_000));
    ledger.set(&json!([]));
    assert_eq!(ledger.batch(1, 1, (1, 500, 0, 9, 9)).unknown, [BudgetId::from(ledger.id)]);
    ledger.set(&json!({"limit_usd": "0.000001"}));
    let grant = ledger.ask(1, (1, 500, 0, 10, 10));
    assert_eq!((grant.granted, grant.epoch), (NanoUsd(10), ledger.index - 1));
    assert_eq!(
        ledger.figures(),
        (0, 10, 990),
        "a late report of the old one is none of the new one"
    );
}

#[test]
fn one_node_alone_can_spend_all_of_it() {
    let mut ledger = Ledger::total();
    let (mut used, mut granted) = (0, ledger.ask(1, (0, 0, 0, 7, 7)).granted.0);
    while 7 <= granted - used {
        used += 7;
        granted = ledger.ask(1, (1, used, 0, 7, 7)).granted.0;
    }
    assert!(1_000 - 7 < used && used <= 1_000, "{used}");
}

#[test]
fn an_id_names_its_owner() {
    let owner =
        BudgetId::from("key-provider:app:open*:month:Europe/Berlin").owner().expect("owner");
    assert_eq!(
        (owner.level, owner.name.as_str(), owner.provider.as_deref()),
        (Level::KeyProvider, "app", Some("open*"))
    );
    assert_eq!(BudgetId::from("nonsense").owner(), None);
}

#[test]
fn reordering_budgets_moves_no_money_between_them() {
    let both = |first: &str, second: &str| json!([{"limit_usd": "5", "period": first}, {"limit_usd": "5", "period": second}]);
    let mut ledger = Ledger::new(&both("day", "month"), "customer:acme:day");
    let epoch = ledger.ask(1, (0, 0, 0, 100, 100)).epoch;
    ledger.ask(1, (epoch, 100, 0, 0, 0));
    ledger.set(&both("month", "day"));
    assert_eq!(ledger.view().settled, NanoUsd(100));
    assert_eq!(
        ledger.state.budget("customer:acme:month", UnixMillis(ledger.now)).expect("month").settled,
        NanoUsd::ZERO
    );
}

#[test]
fn a_window_that_is_forgotten_is_forgotten_of_every_node() {
    let mut ledger =
        Ledger::new(&json!({"limit_usd": "0.000001", "period": "day"}), "customer:acme:day");
    for node in [2, 1, 1, 1] {
        ledger.ask(node, (0, 0, 0, 10, 10));
        ledger.now += 24 * HOUR;
    }
    assert_eq!(ledger.state.budgets_of_node(1).len(), 1);
    assert_eq!(ledger.state.budgets_of_node(2), [], "else a restored snapshot would differ");
}
