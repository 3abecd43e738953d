//! What the stages share on one node.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use althing_domain::time::{Clock, UnixMillis};
use althing_storage::record::{Kind, Record};
use arc_swap::ArcSwap;
use http::HeaderMap;
use tokio::time::Instant;
use uuid::Uuid;

use crate::auth;
use crate::control::view::{KeyView, View};
use crate::error::{Code, Error};
use crate::execute::retry::RetryBudget;
use crate::listen::Connections;
use crate::mcp::Federation;
use crate::mcp::inject::Shelf;
use crate::settle::{Call, Recorder};
use crate::tasks::Tasks;
use crate::telemetry::metric::Metrics;
use crate::telemetry::otlp::Otlp;

/// Limits and switches of this node.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node's name, in records and answers.
    pub node: Arc<str>,
    /// Whether callers need a key.
    pub auth: auth::Mode,
    /// The longest request body.
    pub body_bytes_max: usize,
    /// The most bytes of a request's headers.
    pub header_bytes_max: usize,
    /// Requests in flight of one principal.
    pub requests_per_principal: u32,
    /// How long a call that does not stream may take in all.
    pub request_timeout: Duration,
    /// How long an upstream's stream may be silent.
    pub idle_stream: Duration,
    /// Whether bodies are kept with records.
    pub keep_bodies: KeepBodies,
    /// Whether tools' arguments are kept with records, beside their hash.
    pub keep_arguments: bool,
    /// Browsers' origins that may call.
    pub origins: Arc<[String]>,
    /// Whether the listener is on loopback only, so that `Host` must name it.
    pub loopback_only: bool,
}

/// Which bodies are kept with records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepBodies {
    /// None.
    Off,
    /// Those of calls that failed.
    Errors,
    /// All.
    All,
}

/// See the module.
pub struct Gateway {
    /// The law, compiled.
    pub views: Arc<ArcSwap<View>>,
    /// Where records go.
    pub recorder: Arc<Recorder>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Traces and metrics by OTLP, where that is on.
    pub otlp: Option<Arc<Otlp>>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// MCP upstreams.
    pub federation: Federation,
    /// Tools as they are put into requests.
    pub shelf: Shelf,
    /// Limits and switches.
    pub settings: Settings,
    /// The process's tasks.
    pub tasks: Tasks,
    /// How many retries the node still allows itself.
    pub retries: RetryBudget,
    /// Set when the node is about to end: readiness fails, connections close after their answer.
    pub draining: AtomicBool,
    /// The address of this node as people's browsers see it, once it is known.
    pub public_url: OnceLock<String>,
    /// Open connections of callers.
    pub connections: Arc<Connections>,
    /// Why policy cannot be written and money not granted, if they cannot.
    pub law_refuses: Box<dyn Fn() -> Option<&'static str> + Send + Sync>,
}

/// A request's own data, before any stage has looked at it.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Its id.
    pub id: Uuid,
    /// When its head was read.
    pub at: Instant,
    /// The same by the wall clock.
    pub wall: UnixMillis,
}

/// A fresh id: a UUID of version 7 (RFC 9562, section 5.7).
///
/// Its first 12 random bits are the fraction of its millisecond (section 6.2, method 3), so that ids are in order by a
/// quarter of a microsecond. The rest is this thread's own generator's: requests share no counter and ask the system for
/// nothing.
#[must_use]
pub fn new_id() -> Uuid {
    id_at(crate::clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default())
}

fn id_at(since: Duration) -> Uuid {
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let mut rest: [u8; 10] = rand::random();
    let fraction = u64::from(since.subsec_nanos() % 1_000_000) * 4096 / 1_000_000;
    let [.., high, low] = fraction.to_be_bytes();
    (rest[0], rest[1]) = (high, low);
    uuid::Builder::from_unix_timestamp_millis(millis, &rest).into_uuid()
}

/// A caller's place among its requests in flight; leaving it is its drop.
pub struct Seat(Arc<KeyView>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gateway {
    /// A request that arrives now. Clocks are read here once: what the request is judged by is when it came.
    #[must_use]
    pub fn arrive(&self) -> Arrival {
        Arrival { id: new_id(), at: Instant::now(), wall: self.clock.now() }
    }

    /// The caller of a request that came at `wall`, under the law as it is now.
    ///
    /// # Errors
    ///
    /// Those of [`auth::caller`].
    pub fn caller(
        &self,
        view: &View,
        headers: &HeaderMap,
        query: Option<&str>,
        wall: UnixMillis,
    ) -> Result<Arc<KeyView>, Error> {
        auth::caller(view, self.settings.auth, headers, query, wall)
            .inspect_err(|it| self.refused(it))
    }

    /// Counts a request that is refused before there is a call.
    pub fn refused(&self, error: &Error) {
        self.metrics.refused.with_label_values(&[error.code.name()]).inc();
    }

    /// Counts a request of `caller` in.
    ///
    /// # Errors
    ///
    /// [`Code::RateLimited`] where it has as many in flight as one principal may.
    pub fn seat(&self, caller: &Arc<KeyView>) -> Result<Seat, Error> {
        let limit = self.settings.requests_per_principal;
        let before = caller.in_flight.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(Arc::clone(caller));
        if before < limit {
            return Ok(seat);
        }
        let text = format!(
            "{limit} requests of this key are in flight on this node, as many as `limits.requests_per_principal` allows"
        );
        let error = Error::new(Code::RateLimited, text).with_retry_after(Duration::from_secs(1));
        self.refused(&error);
        Err(error)
    }

    /// Opens a call of `caller` once there is room for its record. `ready`: when the request was there whole.
    ///
    /// # Errors
    ///
    /// [`Code::RecordsFull`].
    pub async fn open_call(
        &self,
        (arrival, ready): (Arrival, Instant),
        kind: Kind,
        caller: &KeyView,
    ) -> Result<Box<Call>, Error> {
        let room = self.recorder.room().await.inspect_err(|it| self.refused(it))?;
        let (id, at) = (arrival.id.as_u128(), arrival.wall.0);
        let mut record = Record::new(id, at, Arc::clone(&self.settings.node), kind);
        record.key = Some(Arc::clone(&caller.label));
        record.team.clone_from(&caller.team_label);
        record.customer.clone_from(&caller.customer_label);
        Ok(Call::open(record, (arrival.at, ready), room, (&self.recorder, &self.metrics)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::id_at;

    #[test]
    fn ids_are_version_7_and_in_the_order_of_time_within_a_millisecond_too() {
        let mut last = id_at(Duration::from_millis(1_700_000_000_000));
        for step in 1..3_000 {
            let next =
                id_at(Duration::from_millis(1_700_000_000_000) + Duration::from_micros(step));
            assert!(last < next, "{last} {next}");
            assert_eq!((next.get_version_num(), next.get_variant()), (7, uuid::Variant::RFC4122));
            last = next;
        }
    }
}
