//! One call from the decision to make it to its outcome.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};
use tokio::time::Instant;

use super::{Limits, State};
use crate::mcp::call::{Call, CallError, CallOutcome};
use crate::mcp::catalog::ToolEntry;
use crate::mcp::supervisor::{Patience, Server};
use crate::mcp::upstream::connection::{Connection, call_error, read_result};
use crate::mcp::upstream::link::AskError;

/// How long a call waits for a place among those in flight.
const QUEUE: Duration = Duration::from_secs(5);
/// How long a call that certainly did not run waits for a new connection.
const RECONNECT: Duration = Duration::from_secs(10);

/// Calls `tool`; sends it a second time only where that cannot make it run twice unasked.
pub(super) async fn execute(
    server: &Arc<Server>,
    tool: &ToolEntry,
    call: &Call,
    limits: &Limits,
) -> Result<CallOutcome, CallError> {
    let started = Instant::now();
    let timeout = server.spec().timeout.map_or(limits.call_timeout, |it| it.duration());
    let deadline = call.deadline.map_or(started + timeout, |it| it.min(started + timeout));
    let connection = connection(server, call, deadline).await?;
    let _place = place(server, call, deadline).await?;
    let called = connection.call(tool, call, deadline).await;
    match &called {
        // A caller's own, shorter deadline says nothing of the server.
        Err(AskError::Timeout(after)) if started + timeout <= deadline => {
            server.unanswered(&connection, *after);
        }
        Ok(_) => server.answered(),
        Err(_) => {}
    }
    let result = match called {
        Err(error)
            if matches!(error, AskError::NotSent(_)) && !connection.closed().is_cancelled() =>
        {
            server.suspect();
            Err(error)
        }
        Err(error) if may_repeat(&error, call.idempotent || tool.hints.idempotent) => {
            match again(server, &connection, deadline).await {
                Some(connection) => connection.call(tool, call, deadline).await,
                None => Err(error),
            }
        }
        other => other,
    };
    let (result, is_error) =
        result.map_err(|it| call_error(it, limits.result_bytes_max)).and_then(read_result)?;
    Ok(CallOutcome { result, is_error, latency: started.elapsed() })
}

/// The connection in use. A server that is being connected (it was changed, say) is waited for: a change drops no call.
async fn connection(
    server: &Arc<Server>,
    call: &Call,
    deadline: Instant,
) -> Result<Arc<Connection>, CallError> {
    if let Some(connection) = server.connection().filter(|it| !it.closed().is_cancelled()) {
        return Ok(connection);
    }
    if server.state() != State::Connecting {
        return Err(unavailable(server));
    }
    tokio::select! {
        biased;
        () = call.cancel.cancelled() => Err(CallError::Cancelled),
        next = server.next_connection(None, deadline.min(Instant::now() + RECONNECT), Patience::ThisAttempt) => next.ok_or_else(|| unavailable(server)),
    }
}

/// Whether the request certainly did not run, or may run twice.
fn may_repeat(error: &AskError, is_idempotent: bool) -> bool {
    match error {
        AskError::NotSent(_) => true,
        AskError::Lost(_) => is_idempotent,
        AskError::Unauthorized(_)
        | AskError::Timeout(_)
        | AskError::Cancelled
        | AskError::TooLarge
        | AskError::Malformed(_)
        | AskError::Rpc(_)
        | AskError::Status(_) => false,
    }
}

async fn again(
    server: &Arc<Server>,
    old: &Arc<Connection>,
    deadline: Instant,
) -> Option<Arc<Connection>> {
    // A request that was not sent on a connection that still stands would fail the same way again.
    if !old.closed().is_cancelled() {
        return None;
    }
    server
        .next_connection(Some(old), deadline.min(Instant::now() + RECONNECT), Patience::AllAttempts)
        .await
}

async fn place(
    server: &Server,
    call: &Call,
    deadline: Instant,
) -> Result<OwnedSemaphorePermit, CallError> {
    match Arc::clone(server.permits()).try_acquire_owned() {
        Ok(permit) => return Ok(permit),
        Err(TryAcquireError::Closed) => return Err(unavailable(server)),
        Err(TryAcquireError::NoPermits) => {}
    }
    let until = deadline.min(Instant::now() + QUEUE);
    tokio::select! {
        biased;
        () = call.cancel.cancelled() => Err(CallError::Cancelled),
        permit = Arc::clone(server.permits()).acquire_owned() => permit.map_err(|_| unavailable(server)),
        () = tokio::time::sleep_until(until) => Err(CallError::Busy { in_flight_max: server.in_flight_max() }),
    }
}

fn unavailable(server: &Server) -> CallError {
    let state = match server.state() {
        // Its connection ended a moment ago, and its supervisor has not said so yet.
        State::Ready | State::Degraded => State::Down,
        other => other,
    };
    let reason = server.last_error().unwrap_or_else(|| "it is not connected".to_owned());
    CallError::Unavailable { state, reason }
}
