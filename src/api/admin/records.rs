//! What the routes over the request log share: the log, and a bound on how many questions it answers at once.

use std::sync::Arc;
use std::time::Duration;

use althing_storage::request_log::{QueryError, RequestLog};
use axum::Router;
use axum::routing::get;
use tokio::sync::Semaphore;

use super::{logs, usage};
use crate::error::{Code, Error};

/// Questions that are answered at once; each holds a thread. Others wait.
const QUESTIONS_MAX: usize = 4;
/// How long a question may take, and how long one may wait for its turn.
const WITHIN: Duration = Duration::from_secs(10);
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The request log behind the routes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Records {
    log: Arc<RequestLog>,
    turns: Arc<Semaphore>,
}

/// `/api/logs`, `/api/logs/{id}` and `/api/usage`. Whoever mounts it checks who asks.
pub fn router(log: Arc<RequestLog>) -> Router {
    let records = Records { log, turns: Arc::new(Semaphore::new(QUESTIONS_MAX)) };
    Router::new()
        .route("/api/logs", get(logs::list))
        .route("/api/logs/{id}", get(logs::one))
        .route("/api/usage", get(usage::usage))
        .with_state(records)
}

impl Records {
    /// Asks the log, on a thread that may block. The question ends within its time even if nobody waits for it.
    ///
    /// # Errors
    ///
    /// What the question gives, as a caller sees it.
    pub async fn ask<T, F>(&self, question: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&RequestLog, Duration) -> Result<T, QueryError> + Send + 'static,
    {
        let busy = || {
            Error::new(Code::Overloaded, "too many questions to the request log at once")
                .with_retry_after(RETRY_AFTER)
        };
        let turn = tokio::time::timeout(WITHIN, Arc::clone(&self.turns).acquire_owned()).await;
        let turn = turn.ok().and_then(Result::ok).ok_or_else(busy)?;
        let log = Arc::clone(&self.log);
        let answer = tokio::task::spawn_blocking(move || {
            let answer = question(&log, WITHIN);
            drop(turn);
            answer
        });
        match answer.await {
            Ok(answer) => answer.map_err(|it| refuse(&it)),
            Err(error) => {
                tracing::error!(%error, "a question to the request log ended by a panic");
                Err(Error::of(Code::Internal))
            }
        }
    }
}

fn refuse(error: &QueryError) -> Error {
    match error {
        QueryError::TimedOut(_) => {
            Error::new(Code::Overloaded, error.to_string()).with_retry_after(RETRY_AFTER)
        }
        QueryError::TooManyGroups(_) => Error::field("group_by", error),
        _ => {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::error!(%error, cause, "a question to the request log failed");
            Error::of(Code::Internal)
        }
    }
}

#[cfg(test)]
mod tests;
