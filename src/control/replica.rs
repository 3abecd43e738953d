//! The law as a state machine of the cluster: all that joins `domain` and `cluster`.

use std::sync::Arc;

use althing_cluster::{At, Frozen, RestoreError, StateMachine, Unknown};
use althing_domain::apply::Changes;
use althing_domain::command::{Command, Reply};
use althing_domain::snapshot::Record;
use althing_domain::state::{self, State};
use althing_domain::time::UnixMillis;
use althing_storage::snapshot;
use arc_swap::ArcSwap;
use parking_lot::Mutex;

/// The state that every request reads. A read costs a few nanoseconds, and never waits.
pub(super) type Published = Arc<ArcSwap<State>>;

/// Follows the law: called with what a command changed, or with nothing where the whole state is another (a snapshot).
///
/// Called before the command is acknowledged, so what follows from the law holds when its writer hears of it.
pub type Follower = Box<dyn FnMut(&State, Option<&Changes>) + Send>;

/// Where the follower is put once the node is up.
pub(super) type Follow = Arc<Mutex<Option<Follower>>>;

/// What the law answered, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The log index at which the command took effect: an earlier one, if it is a repeat.
    pub index: u64,
    /// The answer. A refusal is one.
    pub reply: Reply,
}

/// This node's copy of the law.
#[derive(Default)]
pub(super) struct Replica {
    state: State,
    published: Published,
    follow: Follow,
    /// What was applied and not published yet.
    unpublished: Vec<Changes>,
    is_restored: bool,
}

impl Replica {
    /// An empty law, and where its readers find it.
    pub(super) fn new() -> (Self, Published, Follow) {
        let replica = Self::default();
        let (published, follow) = (Arc::clone(&replica.published), Arc::clone(&replica.follow));
        (replica, published, follow)
    }
}

impl StateMachine for Replica {
    type Reply = Committed;

    fn apply(&mut self, at: At, command: &[u8]) -> Result<Committed, Unknown> {
        let command = Command::decode(command).map_err(|error| Unknown(described(&error)))?;
        let at = state::At { index: at.index, time: UnixMillis(at.time_ms) };
        let outcome = self.state.apply(at, &command);
        if !outcome.changes.is_empty() {
            self.unpublished.push(outcome.changes);
        }
        Ok(Committed { index: outcome.index, reply: outcome.reply })
    }

    fn publish(&mut self, _: u64) {
        // Entries of the cluster's own (elections, members) change nothing here.
        if self.published.load().index() != self.state.index() {
            self.published.store(Arc::new(self.state.clone()));
        }
        let changes = std::mem::take(&mut self.unpublished);
        let is_restored = std::mem::take(&mut self.is_restored);
        if changes.is_empty() && !is_restored {
            return;
        }
        if let Some(follower) = self.follow.lock().as_mut() {
            if is_restored {
                follower(&self.state, None);
            } else {
                changes.iter().for_each(|it| follower(&self.state, Some(it)));
            }
        }
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(FrozenLaw(self.state.clone()))
    }

    fn restore(
        &mut self,
        records: &mut dyn Iterator<Item = Result<Vec<u8>, snapshot::Error>>,
    ) -> Result<(), RestoreError> {
        let mut failed = None;
        let read = std::iter::from_fn(|| {
            let record = records.next()?.map_err(RestoreError::from).and_then(|it| split(&it));
            record.map_err(|error| failed = Some(error)).ok()
        });
        // The domain notices that records are missing, so the error that ended them is the better answer.
        let restored = State::from_records(read);
        if let Some(error) = failed {
            return Err(error);
        }
        self.state = restored.map_err(|error| RestoreError::Unknown(described(&error)))?;
        self.unpublished.clear();
        self.is_restored = true;
        Ok(())
    }
}

struct FrozenLaw(State);

impl Frozen for FrozenLaw {
    fn records(&self) -> Box<dyn Iterator<Item = Vec<u8>> + '_> {
        Box::new(self.0.to_records().map(|(kind, body)| {
            let mut record = kind.to_le_bytes().to_vec();
            record.extend_from_slice(&body);
            record
        }))
    }
}

fn split(record: &[u8]) -> Result<Record, RestoreError> {
    let short = || RestoreError::Unknown("a record is shorter than its kind".to_owned());
    let (kind, body) = record.split_first_chunk::<2>().ok_or_else(short)?;
    Ok((u16::from_le_bytes(*kind), body.to_vec()))
}

/// An error with its cause.
fn described(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
