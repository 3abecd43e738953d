//! The life of one server: connecting, listing, checking, reconnecting, ending.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use althing_domain::policy::McpServer;
use althing_domain::time::UnixMillis;
use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::catalog::Offer;
use super::federation::{Context, Options, ServerStatus, State};
use super::upstream::connection::{Connection, Listing};
use super::upstream::open::{OpenError, open};

/// Notices of changed tools within this time are one.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// A server that says its list is good for less is not asked more often than this.
const REFRESH_MIN: Duration = Duration::from_secs(10);
/// A connection that held this long lets the pauses between attempts start small again.
const STEADY: Duration = Duration::from_secs(30);
/// Checks in a row that may fail before the connection is given up.
const CHECKS_FAILED_MAX: u32 = 3;

/// Tells the federation that what a server offers, or its state, changed.
pub(crate) type Publish = Arc<dyn Fn() + Send + Sync>;

/// One server of the federation.
pub(crate) struct Server {
    spec: ArcSwap<McpServer>,
    situation: Mutex<Situation>,
    connection: ArcSwapOption<Connection>,
    state: watch::Sender<State>,
    permits: Arc<Semaphore>,
    in_flight_max: usize,
    reconnect: Notify,
    stop: CancellationToken,
    ended: CancellationToken,
    restarts: AtomicU64,
}

#[derive(Debug)]
struct Situation {
    since: UnixMillis,
    last_error: Option<String>,
    /// As last listed. Kept while the server is down, so that lists (and prompt caches) stay as they are.
    tools: Vec<Arc<RawValue>>,
    protocol_version: Option<String>,
    server_info: Option<Arc<RawValue>>,
}

impl Server {
    /// A server that is not supervised yet.
    pub(crate) fn new(spec: Arc<McpServer>, options: &Options) -> Arc<Self> {
        let state = if spec.enabled { State::Connecting } else { State::Disabled };
        let in_flight_max = options.limits.in_flight_max.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            spec: ArcSwap::new(spec),
            situation: Mutex::new(Situation {
                since: options.clock.now(),
                last_error: None,
                tools: Vec::new(),
                protocol_version: None,
                server_info: None,
            }),
            connection: ArcSwapOption::empty(),
            state: watch::Sender::new(state),
            permits: Arc::new(Semaphore::new(in_flight_max)),
            in_flight_max,
            reconnect: Notify::new(),
            stop: options.tasks.stop().child_token(),
            ended: CancellationToken::new(),
            restarts: AtomicU64::new(0),
        })
    }

    /// Starts its supervisor.
    pub(crate) fn supervise(self: &Arc<Self>, context: &Arc<Context>, publish: Publish) {
        let supervisor = Supervisor {
            server: Arc::clone(self),
            context: Arc::clone(context),
            publish,
            pause: context.options.limits.backoff_min,
        };
        context.options.tasks.spawn("mcp.supervisor", supervisor.run());
    }

    pub(crate) fn spec(&self) -> Arc<McpServer> {
        self.spec.load_full()
    }

    /// Takes new settings that do not touch the connection.
    pub(crate) fn adopt(&self, spec: Arc<McpServer>) {
        self.spec.store(spec);
    }

    pub(crate) fn connection(&self) -> Option<Arc<Connection>> {
        self.connection.load_full()
    }

    pub(crate) fn permits(&self) -> &Arc<Semaphore> {
        &self.permits
    }

    pub(crate) fn in_flight_max(&self) -> usize {
        self.in_flight_max
    }

    pub(crate) fn state(&self) -> State {
        *self.state.borrow()
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        self.situation.lock().last_error.clone()
    }

    /// Waits until calls can be made on another connection than `old`, or `until`.
    pub(crate) async fn next_connection(
        &self,
        old: Option<&Arc<Connection>>,
        until: Instant,
    ) -> Option<Arc<Connection>> {
        let mut state = self.state.subscribe();
        let other = || {
            self.connection().filter(|it| {
                !old.is_some_and(|old| Arc::ptr_eq(it, old)) && !it.closed().is_cancelled()
            })
        };
        loop {
            if let Some(connection) = other() {
                return Some(connection);
            }
            let changed = tokio::time::timeout_at(until, state.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                return other();
            }
        }
    }

    /// Has it connect anew.
    pub(crate) fn reconnect(&self) {
        self.reconnect.notify_one();
    }

    /// Has it end: its calls in flight get the drain's bound.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Cancelled when it has ended.
    pub(crate) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Marks a server that was never supervised as ended.
    pub(crate) fn end_unsupervised(&self) {
        self.ended.cancel();
    }

    pub(crate) fn offer(&self) -> Offer {
        let is_ready = matches!(self.state(), State::Ready | State::Degraded);
        Offer { spec: self.spec(), tools: self.situation.lock().tools.clone(), is_ready }
    }

    pub(crate) fn status(&self, tools: usize) -> ServerStatus {
        let situation = self.situation.lock();
        ServerStatus {
            name: self.spec().name.clone(),
            state: self.state(),
            since: situation.since,
            last_error: situation.last_error.clone(),
            tools,
            protocol_version: situation.protocol_version.clone(),
            server_info: situation.server_info.clone(),
            restarts: self.restarts.load(Ordering::Relaxed),
        }
    }
}

struct Supervisor {
    server: Arc<Server>,
    context: Arc<Context>,
    publish: Publish,
    pause: Duration,
}

/// Why a connection is no longer watched.
enum Over {
    Stopped,
    Lost(String),
    Asked,
}

impl Supervisor {
    async fn run(mut self) {
        let stop = self.server.stop.clone();
        loop {
            let opened = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                opened = self.connect() => opened,
            };
            match opened {
                Ok((connection, listing)) => {
                    let since = Instant::now();
                    self.ready(&connection, &listing);
                    let over = self.watch(&connection, listing.ttl).await;
                    if STEADY < since.elapsed() {
                        self.pause = self.context.options.limits.backoff_min;
                    }
                    if self.over(connection, over).await {
                        break;
                    }
                }
                Err(OpenError::Unauthorized(reason)) => self.set(State::Held, Some(reason)),
                Err(OpenError::Settings(reason) | OpenError::Failed(reason)) => {
                    self.set(State::Down, Some(reason));
                }
            }
            if self.rest().await {
                break;
            }
            self.server.restarts.fetch_add(1, Ordering::Relaxed);
        }
        self.server.connection.store(None);
        self.server.ended.cancel();
    }

    /// Opens a connection and lists its tools.
    async fn connect(&self) -> Result<(Arc<Connection>, Listing), OpenError> {
        let spec = self.server.spec();
        let connection = Arc::new(open(&spec, &self.context).await?);
        match connection.list().await {
            Ok(listing) => Ok((connection, listing)),
            Err(error) => {
                connection
                    .close("its tools cannot be listed", self.context.options.limits.drain)
                    .await;
                Err(OpenError::Failed(format!("its tools cannot be listed: {error}")))
            }
        }
    }

    fn ready(&self, connection: &Arc<Connection>, listing: &Listing) {
        let peer = connection.peer();
        {
            let mut situation = self.server.situation.lock();
            situation.protocol_version = Some(peer.agreed.version.clone());
            situation.server_info.clone_from(&peer.server_info);
            situation.tools.clone_from(&listing.tools);
        }
        self.server.connection.store(Some(Arc::clone(connection)));
        let name = &self.server.spec().name;
        tracing::info!(server.name = %name, tools = listing.tools.len(), version = peer.agreed.version, "server `{name}` is ready");
        self.set(State::Ready, None);
    }

    /// Looks after a connection until it is over.
    async fn watch(&self, connection: &Arc<Connection>, ttl: Option<Duration>) -> Over {
        let limits = &self.context.options.limits;
        let refresh_in = |ttl: Option<Duration>| {
            ttl.map_or(limits.refresh_every, |it| {
                it.clamp(REFRESH_MIN.min(limits.refresh_every), limits.refresh_every)
            })
        };
        let mut refresh_at = Instant::now() + refresh_in(ttl);
        let mut check_at = Instant::now() + limits.health_every;
        let mut failed = 0;
        loop {
            let outcome = tokio::select! {
                biased;
                () = self.server.stop.cancelled() => return Over::Stopped,
                () = connection.closed().cancelled() => return Over::Lost(connection.ended().unwrap_or_default()),
                () = self.server.reconnect.notified() => return Over::Asked,
                () = connection.tools_changed() => {
                    tokio::time::sleep(DEBOUNCE).await;
                    let refreshed = self.refresh(connection).await;
                    refresh_at = Instant::now() + refresh_in(refreshed.as_ref().ok().copied().flatten());
                    refreshed.map(drop)
                }
                () = tokio::time::sleep_until(refresh_at) => {
                    let refreshed = self.refresh(connection).await;
                    refresh_at = Instant::now() + refresh_in(refreshed.as_ref().ok().copied().flatten());
                    refreshed.map(drop)
                }
                () = tokio::time::sleep_until(check_at) => connection.ping().await.map_err(|it| format!("it gives no sign of life: {it}")),
            };
            check_at = Instant::now() + limits.health_every;
            match outcome {
                Ok(()) => {
                    failed = 0;
                    if self.server.state() == State::Degraded {
                        self.set(State::Ready, None);
                    }
                }
                Err(reason) => {
                    failed += 1;
                    if CHECKS_FAILED_MAX <= failed {
                        return Over::Lost(reason);
                    }
                    self.set(State::Degraded, Some(reason));
                }
            }
        }
    }

    /// Lists the tools again, and how long the list is good.
    async fn refresh(&self, connection: &Connection) -> Result<Option<Duration>, String> {
        match connection.list().await {
            Ok(listing) => {
                self.server.situation.lock().tools = listing.tools;
                (self.publish)();
                Ok(listing.ttl)
            }
            Err(error) => Err(format!("its tools cannot be listed: {error}")),
        }
    }

    /// Ends a connection. Whether the server is to end with it.
    async fn over(&mut self, connection: Arc<Connection>, over: Over) -> bool {
        let limits = &self.context.options.limits;
        self.server.connection.store(None);
        match over {
            Over::Lost(reason) => {
                self.set(State::Down, Some(reason));
                connection.close("it was lost", limits.drain).await;
                false
            }
            Over::Asked => {
                self.set(State::Connecting, None);
                self.pause = Duration::ZERO;
                self.drain().await;
                connection.close("it is connected anew", limits.drain).await;
                false
            }
            Over::Stopped => {
                self.drain().await;
                connection.close("it is ended", limits.drain).await;
                true
            }
        }
    }

    /// Waits for the calls in flight, within the bound.
    async fn drain(&self) {
        let all = u32::try_from(self.server.in_flight_max).unwrap_or(u32::MAX);
        drop(
            tokio::time::timeout(
                self.context.options.limits.drain,
                self.server.permits.acquire_many(all),
            )
            .await,
        );
    }

    /// Pauses before the next attempt, longer each time. Whether the server is to end.
    async fn rest(&mut self) -> bool {
        let limits = &self.context.options.limits;
        let pause = jittered(self.pause);
        self.pause = (self.pause * 2).clamp(limits.backoff_min, limits.backoff_max);
        tokio::select! {
            biased;
            () = self.server.stop.cancelled() => return true,
            () = self.server.reconnect.notified() => {}
            () = tokio::time::sleep(pause), if self.server.state() != State::Held => {}
        }
        if self.server.state() != State::Connecting {
            let last = self.server.last_error();
            self.set(State::Connecting, last);
        }
        false
    }

    fn set(&self, state: State, error: Option<String>) {
        let before = self.server.state.send_replace(state);
        if let (true, Some(reason)) = (before != state && state != State::Connecting, &error) {
            let name = &self.server.spec().name;
            tracing::warn!(server.name = %name, server.state = state.name(), "server `{name}` is {state}: {reason}");
        }
        {
            let mut situation = self.server.situation.lock();
            if before != state {
                situation.since = self.context.options.clock.now();
            }
            if error.is_some() || state == State::Ready {
                situation.last_error = error;
            }
        }
        (self.publish)();
    }
}

/// Between half of `pause` and all of it, so that nodes do not come back in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..=1.0))
}
