//! The lease protocol against a reference ledger, in random interleavings.
//!
//! Nodes ask, spend, give back, crash, come back and are taken for dead wrongly; messages
//! are lost, doubled and late. The reference knows what each request really costs. After
//! every step: what was really spent never passes the limit, and the law has always set
//! aside at least as much. [`Wrong`] plants known mistakes, to show that this would notice.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use serde_json::json;

use super::{Ask, BudgetId, Grant, View};
use crate::command::{Command, Expect, FinalLease, NodeAsks, Op, Put, Reply};
use crate::money::NanoUsd;
use crate::object::{Kind, Object};
use crate::state::{At, State};
use crate::time::UnixMillis;

const BUDGET: &str = "customer:acme:day";
const NODES: usize = 3;
const LIMIT: u64 = 20;
const DAY: u64 = 86_400_000;

/// A mistake in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// Reports say what was spent since the last one.
    ReportsAsDeltas,
    /// Returns say what was given back since the last one.
    ReturnsAsDeltas,
    /// What a dead node held is taken back as not spent.
    DeadReclaimedAsUnspent,
    /// A new life of a node frees what the last one held.
    NewLifeFreesTheOld,
    /// A node ends a lease while requests run.
    FinalInFlight,
}

#[derive(Debug, Clone)]
enum Step {
    /// Ask, hear and be answered with nothing in between, as nearly always.
    Trade {
        node: usize,
        want: u64,
    },
    Ask {
        node: usize,
        want: u64,
    },
    Deliver {
        which: usize,
        again: bool,
    },
    LoseMessage {
        which: usize,
    },
    Answer {
        which: usize,
        again: bool,
    },
    LoseAnswer {
        which: usize,
    },
    Start {
        node: usize,
        reserve: u64,
        cost: u64,
    },
    Finish {
        node: usize,
        which: usize,
    },
    Return {
        node: usize,
        amount: u64,
    },
    Final {
        node: usize,
    },
    Crash {
        node: usize,
        keeps_journal: bool,
    },
    LateFinal {
        which: usize,
    },
    Close {
        node: usize,
    },
    Wait {
        hours: u64,
    },
    Limit {
        usd: u64,
    },
    Snapshot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = || 0..NODES;
    let which = || any::<usize>();
    let step = prop_oneof![
        12 => (node(), 1..8_u64).prop_map(|(node, want)| Step::Trade { node, want }),
        6 => (node(), 1..8_u64).prop_map(|(node, want)| Step::Ask { node, want }),
        6 => (which(), any::<bool>()).prop_map(|(which, again)| Step::Deliver { which, again }),
        1 => which().prop_map(|which| Step::LoseMessage { which }),
        6 => (which(), any::<bool>()).prop_map(|(which, again)| Step::Answer { which, again }),
        1 => which().prop_map(|which| Step::LoseAnswer { which }),
        16 => (node(), 1..6_u64, 0..6_u64).prop_map(|(node, reserve, cost)| Step::Start { node, reserve, cost: cost.min(reserve) }),
        10 => (node(), which()).prop_map(|(node, which)| Step::Finish { node, which }),
        2 => (node(), 1..4_u64).prop_map(|(node, amount)| Step::Return { node, amount }),
        1 => node().prop_map(|node| Step::Final { node }),
        1 => (node(), any::<bool>()).prop_map(|(node, keeps_journal)| Step::Crash { node, keeps_journal }),
        2 => which().prop_map(|which| Step::LateFinal { which }),
        1 => node().prop_map(|node| Step::Close { node }),
        1 => prop_oneof![3 => Just(1_u64), 1 => Just(13)].prop_map(|hours| Step::Wait { hours }),
        1 => (5..30_u64).prop_map(|usd| Step::Limit { usd }),
        1 => Just(Step::Snapshot),
    ];
    prop::collection::vec(step, 1..200)
}

/// (node, life, window): which lease.
type LeaseKey = (u64, u64, u64);

/// A node's side of a lease.
#[derive(Debug, Clone, Default)]
struct Local {
    granted: u64,
    used: u64,
    returned: u64,
    running: Vec<(u64, u64)>,
}

impl Local {
    fn available(&self) -> u64 {
        let reserved: u64 = self.running.iter().map(|(reserve, _)| reserve).sum();
        self.granted - self.returned - self.used - reserved
    }
}

#[derive(Debug, Clone, Default)]
struct Node {
    life: u64,
    /// The window that new requests are charged to; 0 before the first grant.
    epoch: u64,
    leases: BTreeMap<u64, Local>,
}

#[derive(Debug, Clone)]
enum Message {
    Ask { node: u64, life: u64, ask: Ask },
    Final { node: u64, life: u64, epoch: u64, used: u64 },
}

struct World {
    wrong: Wrong,
    state: State,
    index: u64,
    now: u64,
    nodes: Vec<Node>,
    messages: Vec<Message>,
    answers: Vec<(u64, u64, Grant)>,
    /// Exact ends that a crashed node's journal can still tell.
    journal: Vec<(LeaseKey, u64)>,
    /// What requests really cost, by window.
    spent: BTreeMap<u64, u64>,
    /// What each lease would truthfully be reported as, at most.
    truth: BTreeMap<LeaseKey, u64>,
    /// The most that may be spent in a window: its limit, or what was handed out when the limit was lowered.
    ceiling: BTreeMap<u64, u64>,
    limit: u64,
    /// For the mistakes: what was sent already, and what has arrived.
    sent: BTreeMap<LeaseKey, (u64, u64)>,
    arrived: BTreeMap<LeaseKey, (u64, u64)>,
    dead: BTreeSet<(u64, u64)>,
}

fn pick(length: usize, which: usize) -> Option<usize> {
    which.checked_rem(length)
}

impl World {
    fn new(wrong: Wrong) -> Self {
        let mut world = Self {
            wrong,
            state: State::new(),
            index: 0,
            now: 20_000 * DAY,
            nodes: vec![Node::default(); NODES],
            messages: Vec::new(),
            answers: Vec::new(),
            journal: Vec::new(),
            spent: BTreeMap::new(),
            truth: BTreeMap::new(),
            ceiling: BTreeMap::new(),
            limit: LIMIT,
            sent: BTreeMap::new(),
            arrived: BTreeMap::new(),
            dead: BTreeSet::new(),
        };
        world.set_limit(LIMIT);
        for node in &mut world.nodes {
            node.life = 1;
        }
        world
    }

    fn apply(&mut self, op: Op) -> Reply {
        self.index += 1;
        let command = Command { request_id: u128::from(self.index), who: "model".to_owned(), op };
        self.state.apply(At { index: self.index, time: UnixMillis(self.now) }, &command).reply
    }

    fn set_limit(&mut self, nanos: u64) {
        let json =
            json!({"name": "acme", "budget": {"limit_usd": NanoUsd(nanos), "period": "day"}});
        let object = Object::deserialize_as(Kind::Customer, json).expect("customer");
        self.apply(Op::Put(Put { object, expect: Expect::Any, credential: None }));
        self.limit = nanos;
    }

    fn view(&self) -> View {
        self.state.budget(BUDGET, UnixMillis(self.now)).expect("budget")
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Trade { node, want } => {
                self.ask(node, want);
                let message = self.messages.pop().expect("just sent");
                self.deliver(message);
                let answer = self.answers.pop().expect("just given");
                self.answer(answer);
            }
            Step::Ask { node, want } => self.ask(node, want),
            Step::Deliver { which, again } => {
                if let Some(at) = pick(self.messages.len(), which) {
                    let message =
                        if again { self.messages[at].clone() } else { self.messages.remove(at) };
                    self.deliver(message);
                }
            }
            Step::LoseMessage { which } => {
                if let Some(at) = pick(self.messages.len(), which) {
                    self.messages.remove(at);
                }
            }
            Step::Answer { which, again } => {
                if let Some(at) = pick(self.answers.len(), which) {
                    let answer =
                        if again { self.answers[at].clone() } else { self.answers.remove(at) };
                    self.answer(answer);
                }
            }
            Step::LoseAnswer { which } => {
                if let Some(at) = pick(self.answers.len(), which) {
                    self.answers.remove(at);
                }
            }
            Step::Start { node, reserve, cost } => self.start(node, reserve, cost),
            Step::Finish { node, which } => self.finish(node, which),
            Step::Return { node, amount } => {
                let node = &mut self.nodes[node];
                if let Some(lease) = node.leases.get_mut(&node.epoch) {
                    lease.returned += amount.min(lease.available());
                }
            }
            Step::Final { node } => self.end(node),
            Step::Crash { node, keeps_journal } => self.crash(node, keeps_journal),
            Step::LateFinal { which } => {
                if let Some(at) = pick(self.journal.len(), which) {
                    let ((node, life, epoch), used) = self.journal[at];
                    self.messages.push(Message::Final { node, life, epoch, used });
                }
            }
            Step::Close { node } => self.close(node),
            Step::Wait { hours } => {
                self.now += hours * DAY / 24;
                self.apply(Op::Tick);
            }
            Step::Limit { usd } => {
                self.set_limit(usd);
                let view = self.view();
                let out = view.settled.0 + view.outstanding.0;
                self.ceiling.insert(self.real_epoch(), usd.max(out));
            }
            Step::Snapshot => {
                let back = State::from_records(self.state.to_records()).expect("reads");
                // Else a node that was sent a snapshot would go on another way than one that was there all along.
                assert_eq!(format!("{:?}", self.state.derived), format!("{:?}", back.derived));
                self.state = back;
            }
        }
    }

    /// The number of the window, where the law has opened it already; 0 between its end and the next command about it.
    fn real_epoch(&self) -> u64 {
        let account = self.state.account(&BudgetId::from(BUDGET)).expect("account");
        let fresh = account.view(UnixMillis(0)).resets_at.is_some_and(|end| self.now < end.0);
        if fresh { account.view(UnixMillis(0)).epoch } else { 0 }
    }

    fn ask(&mut self, at: usize, want: u64) {
        let node = &self.nodes[at];
        let (id, life, epoch) = (at as u64, node.life, node.epoch);
        let lease = node.leases.get(&epoch).cloned().unwrap_or_default();
        let sent = self.sent.entry((id, life, epoch)).or_default();
        let delta = |is: bool, now: u64, before: u64| NanoUsd(if is { now - before } else { now });
        let ask = Ask {
            budget: BUDGET.into(),
            epoch,
            used: delta(self.wrong == Wrong::ReportsAsDeltas, lease.used, sent.0),
            returned: delta(self.wrong == Wrong::ReturnsAsDeltas, lease.returned, sent.1),
            want: NanoUsd(want),
            need: NanoUsd(want),
        };
        *sent = (lease.used, lease.returned);
        self.messages.push(Message::Ask { node: id, life, ask });
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Ask { node, life, mut ask } => {
                let arrived = self.arrived.entry((node, life, ask.epoch)).or_default();
                if self.wrong == Wrong::ReportsAsDeltas {
                    arrived.0 += ask.used.0;
                    ask.used = NanoUsd(arrived.0);
                }
                if self.wrong == Wrong::ReturnsAsDeltas {
                    arrived.1 += ask.returned.0;
                    ask.returned = NanoUsd(arrived.1);
                }
                if self.wrong == Wrong::NewLifeFreesTheOld {
                    self.reclaim(node, life - 1);
                }
                let batch = NodeAsks { node, incarnation: life, asks: vec![ask] };
                let Reply::Leases(replies) = self.apply(Op::LeaseBatch(vec![batch])) else {
                    panic!("leases")
                };
                for reply in replies {
                    self.answers.extend(reply.grants.into_iter().map(|grant| (node, life, grant)));
                }
            }
            Message::Final { node, life, epoch, used } => {
                let leases = vec![FinalLease { budget: BUDGET.into(), epoch, used: NanoUsd(used) }];
                self.apply(Op::Final { node, incarnation: life, leases });
            }
        }
    }

    /// A node keeps the highest figure, whatever order answers come in.
    fn answer(&mut self, (id, life, grant): (u64, u64, Grant)) {
        let node = &mut self.nodes[usize::try_from(id).expect("small")];
        if node.life != life {
            return;
        }
        if grant.closed {
            // Taken for dead: go on as a new life; what the old one used is told exactly when nothing runs any more.
            for (epoch, lease) in std::mem::take(&mut node.leases) {
                let reserved: u64 = lease.running.iter().map(|(reserve, _)| reserve).sum();
                self.journal.push(((id, life, epoch), lease.used + reserved));
            }
            node.life += 1;
            node.epoch = 0;
            return;
        }
        if grant.epoch < node.epoch || grant.granted == NanoUsd::ZERO {
            return;
        }
        node.epoch = grant.epoch;
        let lease = node.leases.entry(grant.epoch).or_default();
        lease.granted = lease.granted.max(grant.granted.0);
    }

    fn start(&mut self, at: usize, reserve: u64, cost: u64) {
        let node = &mut self.nodes[at];
        let Some(lease) = node.leases.get_mut(&node.epoch) else { return };
        if reserve <= lease.available() {
            lease.running.push((reserve, cost));
            // The provider may bill it from now on, whatever becomes of the node.
            *self.spent.entry(node.epoch).or_default() += cost;
            *self.truth.entry((at as u64, node.life, node.epoch)).or_default() += reserve;
        }
    }

    fn finish(&mut self, at: usize, which: usize) {
        let node = &mut self.nodes[at];
        let epochs: Vec<u64> = node.leases.keys().copied().collect();
        let Some(epoch) = pick(epochs.len(), which).map(|it| epochs[it]) else { return };
        let lease = node.leases.get_mut(&epoch).expect("lease");
        if let Some((_, cost)) = lease.running.pop() {
            lease.used += cost;
        }
    }

    /// A node ends its leases for good, and goes on as a new life.
    fn end(&mut self, at: usize) {
        let wrong = self.wrong == Wrong::FinalInFlight;
        let node = &mut self.nodes[at];
        if node.leases.values().any(|it| !it.running.is_empty()) && !wrong {
            return;
        }
        for (epoch, lease) in std::mem::take(&mut node.leases) {
            self.messages.push(Message::Final {
                node: at as u64,
                life: node.life,
                epoch,
                used: lease.used,
            });
        }
        node.life += 1;
        node.epoch = 0;
    }

    fn crash(&mut self, at: usize, keeps_journal: bool) {
        let node = &mut self.nodes[at];
        for (epoch, lease) in std::mem::take(&mut node.leases) {
            let reserved: u64 = lease.running.iter().map(|(reserve, _)| reserve).sum();
            if keeps_journal {
                self.journal.push(((at as u64, node.life, epoch), lease.used + reserved));
            }
        }
        node.life += 1;
        node.epoch = 0;
    }

    fn close(&mut self, at: usize) {
        let (node, incarnation) = (at as u64, self.nodes[at].life);
        self.dead.insert((node, incarnation));
        if self.wrong == Wrong::DeadReclaimedAsUnspent {
            self.reclaim(node, incarnation);
        }
        self.apply(Op::CloseLease { node, incarnation });
    }

    /// A mistake: ends a lease for what is known of it, though more may have been spent.
    fn reclaim(&mut self, node: u64, life: u64) {
        let known = self.view();
        let leases: Vec<_> = known
            .leases
            .iter()
            .filter(|it| it.lease.node == node && it.lease.incarnation <= life)
            .collect();
        for held in leases.into_iter().filter(|it| it.lease.is_open()) {
            let last =
                FinalLease { budget: BUDGET.into(), epoch: known.epoch, used: held.lease.used };
            self.apply(Op::Final { node, incarnation: held.lease.incarnation, leases: vec![last] });
        }
    }

    fn check(&self) -> Result<(), String> {
        let view = self.view();
        let (settled, outstanding) = (view.settled.0, view.outstanding.0);
        let epoch = self.real_epoch();
        let ceiling = self.ceiling.get(&epoch).copied().unwrap_or(self.limit);
        if ceiling < settled + outstanding {
            return Err(format!("settled {settled} + outstanding {outstanding} > {ceiling}"));
        }
        for (epoch, spent) in &self.spent {
            let ceiling = self.ceiling.get(epoch).copied().expect("noted when it opened");
            if ceiling < *spent {
                return Err(format!("{spent} was really spent in window {epoch}, of {ceiling}"));
            }
        }
        let spent = self.spent.get(&epoch).copied().unwrap_or(0);
        if settled + outstanding < spent {
            return Err(format!(
                "{spent} was really spent, and only {settled} + {outstanding} set aside"
            ));
        }
        let truth: u64 =
            self.truth.iter().filter(|((.., it), _)| *it == epoch).map(|(_, it)| it).sum();
        if truth + view.written_off.0 < settled {
            return Err(format!(
                "{settled} is settled: more than {truth} reserved and {} written off",
                view.written_off.0
            ));
        }
        let recall: u64 = view.leases.iter().map(|it| it.recall.0).sum();
        let excess = (settled + outstanding).saturating_sub(view.limit.0).min(outstanding);
        if recall < excess {
            return Err(format!("{recall} is recalled, of {excess} beyond the limit"));
        }
        Ok(())
    }
}

fn run(wrong: Wrong, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut world = World::new(wrong);
    for (number, step) in steps.iter().enumerate() {
        // A window that nobody has lowered the limit in has the limit for its ceiling.
        world.take(step);
        let epoch = world.real_epoch();
        let limit = world.limit;
        world.ceiling.entry(epoch).or_insert(limit);
        world.ceiling.remove(&0);
        world.check().map_err(|what| {
            TestCaseError::fail(format!("after step {number}, {step:?}: {what}"))
        })?;
    }
    Ok(())
}

fn search(wrong: Wrong, cases: u32) -> Result<(), TestError<Vec<Step>>> {
    let config =
        Config { cases, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    TestRunner::new_with_rng(config, rng).run(&steps(), |steps| run(wrong, &steps))
}

#[test]
fn no_interleaving_spends_more_than_the_limit() {
    // Four times what PROPTEST_CASES says: a few seconds here, as long as one likes elsewhere.
    search(Wrong::Nothing, 4 * Config::default().cases).expect("holds");
}

#[test]
fn known_mistakes_are_found() {
    for wrong in [
        Wrong::ReportsAsDeltas,
        Wrong::ReturnsAsDeltas,
        Wrong::DeadReclaimedAsUnspent,
        Wrong::NewLifeFreesTheOld,
        Wrong::FinalInFlight,
    ] {
        assert!(search(wrong, 20_000).is_err(), "{wrong:?} is not found");
    }
}
