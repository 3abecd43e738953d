//! Which calls were made under which idempotency key. In memory: a restart forgets it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Executed;
use crate::error::{Code, Error};

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// The most keys of one principal. The oldest answered one makes room.
const KEYS_MAX: usize = 1000;
/// The most bytes of answers of one principal: the oldest make room.
const PRINCIPAL_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most bytes of answers of all: what does not fit is not kept.
const TOTAL_BYTES_MAX: usize = 256 * 1024 * 1024;

pub(super) type Outcome = Result<Executed, Error>;
/// Where an outcome will be told.
pub(super) type Waiting = watch::Receiver<Option<Outcome>>;

/// The book.
#[derive(Debug, Default)]
pub(super) struct Book {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    principals: HashMap<String, VecDeque<Line>>,
    bytes: usize,
}

#[derive(Debug)]
struct Line {
    key: String,
    /// The SHA-256 of what was asked.
    content: [u8; 32],
    /// The tool that was asked for, as policy calls it: its answer is for who may call it.
    tool: Option<Arc<str>>,
    waiting: Waiting,
    since: Instant,
    /// The size of the answer; `None` while the call runs.
    bytes: Option<usize>,
}

/// What a key is.
pub(super) enum Entry {
    /// Not used before: the call is to be made, and its outcome sent.
    New(watch::Sender<Option<Outcome>>, Waiting),
    /// Used for this very call, of this tool.
    Known(Waiting, Option<Arc<str>>),
}

impl Book {
    /// Looks `key` up, and notes it where it is new.
    pub(super) fn enter(
        &self,
        principal: &str,
        key: &str,
        (content, tool): ([u8; 32], Option<Arc<str>>),
    ) -> Result<Entry, Error> {
        let mut inner = self.inner.lock();
        inner.expire(principal);
        let lines = inner.principals.entry(principal.to_owned()).or_default();
        if let Some(line) = lines.iter().find(|it| it.key == key) {
            return if line.content == content {
                Ok(Entry::Known(line.waiting.clone(), line.tool.clone()))
            } else {
                Err(Error::new(
                    Code::Conflict,
                    "this `idempotency-key` was used for another call: use a new one for each call",
                )
                .with_param("idempotency-key"))
            };
        }
        if KEYS_MAX <= lines.len() {
            let Some(oldest) = lines.iter().position(|it| it.bytes.is_some()) else {
                return Err(Error::new(Code::Overloaded, "too many calls of this key run at once")
                    .with_retry_after(Duration::from_secs(1)));
            };
            let gone = lines.remove(oldest).and_then(|it| it.bytes).unwrap_or(0);
            inner.bytes -= gone;
        }
        let (sender, waiting) = watch::channel(None);
        let line = Line {
            key: key.to_owned(),
            content,
            tool,
            waiting: waiting.clone(),
            since: Instant::now(),
            bytes: None,
        };
        inner.principals.entry(principal.to_owned()).or_default().push_back(line);
        Ok(Entry::New(sender, waiting))
    }

    /// Notes that the call is over: its answer is kept, unless nothing was done and another try may do it.
    pub(super) fn settle(&self, principal: &str, key: &str, outcome: &Outcome) {
        let bytes = match outcome {
            Ok(executed) => executed.body.len(),
            Err(error) if may_have_run(error.code) => error.message.len(),
            Err(_) => return self.forget(principal, key),
        };
        let mut inner = self.inner.lock();
        let total = inner.bytes;
        let Some(lines) = inner.principals.get_mut(principal) else { return };
        let mut own: usize = lines.iter().filter_map(|it| it.bytes).sum();
        let mut freed = 0;
        while PRINCIPAL_BYTES_MAX < own + bytes {
            let oldest = lines.iter().position(|it| it.bytes.is_some());
            let Some(gone) = oldest.and_then(|it| lines.remove(it)).and_then(|it| it.bytes) else {
                break;
            };
            own -= gone;
            freed += gone;
        }
        if TOTAL_BYTES_MAX < total - freed + bytes {
            lines.retain(|it| it.key != key);
            inner.bytes -= freed;
        } else if let Some(line) = lines.iter_mut().find(|it| it.key == key) {
            line.bytes = Some(bytes);
            inner.bytes = total - freed + bytes;
        }
    }

    /// Forgets a key whose call was not made.
    pub(super) fn forget(&self, principal: &str, key: &str) {
        let mut inner = self.inner.lock();
        if let Some(lines) = inner.principals.get_mut(principal) {
            lines.retain(|it| it.key != key);
            if lines.is_empty() {
                inner.principals.remove(principal);
            }
        }
    }
}

impl Inner {
    /// Drops what is over its time: of `principal`, and of all where the book is nearly full.
    fn expire(&mut self, principal: &str) {
        let now = Instant::now();
        let mut freed = 0;
        let mut prune = |lines: &mut VecDeque<Line>| {
            lines.retain(|it| {
                // A line whose call vanished (it panicked) has nobody left to tell its outcome.
                let vanished = it.bytes.is_none() && it.waiting.has_changed().is_err();
                let is_old = it.bytes.is_some() && KEPT <= now.duration_since(it.since);
                if is_old {
                    freed += it.bytes.unwrap_or(0);
                }
                !vanished && !is_old
            });
        };
        if TOTAL_BYTES_MAX / 2 < self.bytes {
            self.principals.values_mut().for_each(&mut prune);
            self.principals.retain(|_, lines| !lines.is_empty());
        } else if let Some(lines) = self.principals.get_mut(principal) {
            prune(lines);
        }
        self.bytes -= freed;
    }
}

/// Waits for the outcome of a call.
pub(super) async fn outcome(mut waiting: Waiting) -> Outcome {
    let told = waiting.wait_for(Option::is_some).await.map(|it| it.clone());
    match told {
        Ok(Some(outcome)) => outcome,
        _ => Err(Error::of(Code::Internal)),
    }
}

/// Whether the tool may have run although there is no result: then the same answer is given again, and no second
/// call is made.
const fn may_have_run(code: Code) -> bool {
    matches!(
        code,
        Code::OutcomeUnknown
            | Code::UpstreamTimeout
            | Code::UpstreamFailed
            | Code::UpstreamMalformed
            | Code::ResultTooLarge
            | Code::Cancelled
            | Code::Internal
    )
}
