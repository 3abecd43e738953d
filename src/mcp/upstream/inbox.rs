//! What arrives from a server, and who waits for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use althing_domain::id::Name;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::jsonrpc::{self, Inbound, METHOD_NOT_FOUND, RpcError};
use super::noise::Noise;
use super::redact::Redactor;
use crate::mcp::call::Progress;

/// Why a request of ours has no result.
#[derive(Debug)]
pub(crate) enum NoResult {
    /// The server refused.
    Rpc(RpcError),
    /// The result is over the limit.
    TooLarge,
    /// The answer is not one.
    Malformed(String),
}

/// The answer to a request.
pub(crate) type Answer = Result<Box<RawValue>, NoResult>;

/// Where the messages of one connection arrive.
#[derive(Debug)]
pub(crate) struct Inbox {
    server: Name,
    result_bytes_max: usize,
    redactor: Arc<Redactor>,
    next_id: AtomicU64,
    waiting: Mutex<Waiting>,
    closed: CancellationToken,
    tools_changed: Notify,
    heard_at: Mutex<Instant>,
    noise: Noise,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: HashMap<u64, Waiter>,
    /// Why the connection ended, once it did: nothing waits from then on.
    ended: Option<String>,
}

#[derive(Debug)]
struct Waiter {
    answer: oneshot::Sender<Answer>,
    progress: Option<Progress>,
}

/// A request's place in the inbox; leaves it when dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) id: u64,
    pub(crate) answer: oneshot::Receiver<Answer>,
    inbox: Arc<Inbox>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.inbox.waiting.lock().requests.remove(&self.id);
    }
}

impl Inbox {
    pub(crate) fn new(server: Name, result_bytes_max: usize, redactor: Arc<Redactor>) -> Arc<Self> {
        Arc::new(Self {
            server,
            result_bytes_max,
            redactor,
            next_id: AtomicU64::new(1),
            waiting: Mutex::default(),
            closed: CancellationToken::new(),
            tools_changed: Notify::new(),
            heard_at: Mutex::new(Instant::now()),
            noise: Noise::default(),
        })
    }

    /// Takes a place for a request. `Err` says why the connection has ended.
    pub(crate) fn register(self: &Arc<Self>, progress: Option<Progress>) -> Result<Ticket, String> {
        let id = self.next_id();
        let (sender, answer) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if let Some(reason) = &waiting.ended {
            return Err(reason.clone());
        }
        waiting.requests.insert(id, Waiter { answer: sender, progress });
        Ok(Ticket { id, answer, inbox: Arc::clone(self) })
    }

    /// An id for a request whose answer nobody waits for.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether somebody waits for the answer to the request `id`.
    pub(crate) fn is_waiting(&self, id: u64) -> bool {
        self.waiting.lock().requests.contains_key(&id)
    }

    /// Ends the connection: nobody waits any longer. The first reason stands.
    pub(crate) fn end(&self, reason: impl Into<String>) {
        let mut waiting = self.waiting.lock();
        if waiting.ended.is_none() {
            waiting.ended = Some(reason.into());
        }
        // Dropping the senders wakes the waiters.
        let orphans = std::mem::take(&mut waiting.requests);
        drop(waiting);
        drop(orphans);
        self.closed.cancel();
    }

    /// Why the connection ended, once it did.
    pub(crate) fn ended(&self) -> Option<String> {
        self.waiting.lock().ended.clone()
    }

    /// Cancelled when the connection has ended.
    pub(crate) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// Waits until the server says that its tools changed. Many such notices at once are one.
    pub(crate) async fn tools_changed(&self) {
        self.tools_changed.notified().await;
    }

    /// How long nothing came from the server.
    pub(crate) fn silent_for(&self) -> Duration {
        self.heard_at.lock().elapsed()
    }

    /// The largest result that is taken, in bytes.
    pub(crate) fn result_bytes_max(&self) -> usize {
        self.result_bytes_max
    }

    /// The server's name.
    pub(crate) fn server(&self) -> &Name {
        &self.server
    }

    /// Takes one message. Returns what is to be sent back.
    pub(crate) fn accept(&self, text: &str) -> Vec<String> {
        *self.heard_at.lock() = Instant::now();
        match jsonrpc::parse(text) {
            Ok(messages) => messages.into_iter().filter_map(|it| self.dispatch(it)).collect(),
            Err(problem) => {
                self.complain(&format!("sent {problem}"));
                Vec::new()
            }
        }
    }

    /// Answers the request `id` in the server's stead.
    pub(crate) fn resolve(&self, id: u64, answer: Answer) {
        let waiter = self.waiting.lock().requests.remove(&id);
        match waiter {
            // The caller may have gone meanwhile: then nobody wants the answer.
            Some(waiter) => drop(waiter.answer.send(answer)),
            None => self.complain("answered a request that nobody waits for"),
        }
    }

    fn dispatch(&self, message: Inbound<'_>) -> Option<String> {
        match message {
            Inbound::Answer { id: Some(id), body } => {
                self.resolve(id, self.read_answer(body));
                None
            }
            Inbound::Answer { id: None, body } => {
                let error =
                    body.err().and_then(jsonrpc::error).map(|it| format!(": {}", self.clean(it)));
                self.complain(&format!("answered without a known id{}", error.unwrap_or_default()));
                None
            }
            Inbound::Request { id, method } => Some(answer_request(id, &method)),
            Inbound::Notification { method, params } => {
                self.notice(&method, params);
                None
            }
        }
    }

    fn read_answer(&self, body: Result<&RawValue, &RawValue>) -> Answer {
        match body {
            Ok(result) if self.result_bytes_max < result.get().len() => Err(NoResult::TooLarge),
            Ok(result) => Ok(result.to_owned()),
            Err(error) => Err(match jsonrpc::error(error) {
                Some(error) => NoResult::Rpc(self.clean(error)),
                None => NoResult::Malformed("its error is no JSON-RPC error".to_owned()),
            }),
        }
    }

    /// A server may repeat in an error what it was given: a header, a variable.
    pub(crate) fn clean(&self, mut error: RpcError) -> RpcError {
        error.message = self.redactor.clean(&error.message);
        error.data =
            error.data.and_then(|it| RawValue::from_string(self.redactor.clean(it.get())).ok());
        error
    }

    fn notice(&self, method: &str, params: Option<&RawValue>) {
        match method {
            "notifications/progress" => {
                if let Some(params) = params {
                    self.progress(params);
                }
            }
            "notifications/tools/list_changed" => self.tools_changed.notify_one(),
            "notifications/message" => {
                if self.noise.admit().is_some() {
                    tracing::debug!(server.name = %self.server, "server `{}` sent a log message", self.server);
                }
            }
            "notifications/cancelled"
            | "notifications/subscriptions/acknowledged"
            | "notifications/resources/list_changed"
            | "notifications/resources/updated"
            | "notifications/prompts/list_changed" => {}
            _ => self.complain("sent a notification of a kind that is not known"),
        }
    }

    fn progress(&self, params: &RawValue) {
        let Ok(members) = jsonrpc::members(params.get()) else { return };
        let token = members.iter().find(|(key, _)| key == "progressToken").map(|(_, it)| it.get());
        let Some(id) = token.and_then(|it| it.trim_matches('"').parse::<u64>().ok()) else {
            return;
        };
        let progress = self.waiting.lock().requests.get(&id).and_then(|it| it.progress.clone());
        let Some(progress) = progress else { return };
        let params = jsonrpc::object(members.iter().map(|(key, value)| {
            (&**key, if key == "progressToken" { progress.token.get() } else { value.get() })
        }));
        // A full or closed queue drops it: progress is advice, and must not hold up answers.
        if let Ok(params) = RawValue::from_string(params) {
            drop(progress.sender.try_send(params));
        }
    }

    /// Logs what a server did wrong, not too often and never with the message's content.
    pub(crate) fn complain(&self, what: &str) {
        if let Some(dropped) = self.noise.admit() {
            tracing::debug!(
                server.name = %self.server, dropped, "server `{}` {what}; ignored", self.server
            );
        }
    }
}

/// What a server may ask of us now: a ping. The rest is refused until the gateway carries it to callers.
fn answer_request(id: &RawValue, method: &str) -> String {
    match method {
        "ping" => jsonrpc::answer(id, "{}"),
        "roots/list" => jsonrpc::answer(id, r#"{"roots":[]}"#),
        _ => jsonrpc::refusal(id, METHOD_NOT_FOUND, "this client does not offer that method"),
    }
}

#[cfg(test)]
mod tests;
