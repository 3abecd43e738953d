//! The life of one server: connecting, listing, checking, reconnecting, ending.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use althing_domain::id::Name;
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
use super::upstream::link::AskError;
use super::upstream::open::{OpenError, open};

/// Notices of changed tools within this time are one.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// A server that says its list is good for less is not asked more often than this.
const REFRESH_MIN: Duration = Duration::from_secs(10);
/// A connection that held this long lets the pauses between attempts start small again.
const STEADY: Duration = Duration::from_secs(30);
/// Checks in a row that may fail before the connection is given up.
const CHECKS_FAILED_MAX: u32 = 3;

/// Calls in a row that may go unanswered before silence is taken for a sign of death.
const UNANSWERED_MAX: u32 = 2;

/// How soon a server that failed a check is checked again.
const RECHECK: Duration = Duration::from_secs(5);
/// How long a server with calls in flight may be silent before it counts as hung.
const BUSY_MAX: Duration = Duration::from_secs(300);

/// Tells the federation that what a server offers, or its state, changed.
pub(crate) type Publish = Arc<dyn Fn() + Send + Sync>;

/// One server of the federation.
pub(crate) struct Server {
    name: Name,
    spec: ArcSwap<McpServer>,
    situation: Mutex<Situation>,
    connection: ArcSwapOption<Connection>,
    state: watch::Sender<State>,
    permits: Arc<Semaphore>,
    in_flight_max: usize,
    reconnect: Notify,
    suspicion: Notify,
    stop: CancellationToken,
    ended: CancellationToken,
    restarts: AtomicU64,
    /// Calls in a row that nothing came back for, while nothing else came either.
    unanswered: AtomicU32,
}

/// For how long a connection is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Until the attempt that goes on fails.
    ThisAttempt,
    /// Through failed attempts too.
    AllAttempts,
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
    /// A server that is not supervised yet. It offers the tools of `old`, which had its name, until it has listed its own.
    pub(crate) fn new(spec: Arc<McpServer>, options: &Options, old: Option<&Self>) -> Arc<Self> {
        let state = if spec.enabled { State::Connecting } else { State::Disabled };
        let in_flight_max = options.limits.in_flight_max.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            name: spec.name.clone(),
            spec: ArcSwap::new(spec),
            situation: Mutex::new(Situation {
                since: options.clock.now(),
                last_error: None,
                tools: old.map(|it| it.situation.lock().tools.clone()).unwrap_or_default(),
                protocol_version: None,
                server_info: None,
            }),
            connection: ArcSwapOption::empty(),
            state: watch::Sender::new(state),
            permits: Arc::new(Semaphore::new(in_flight_max)),
            in_flight_max,
            reconnect: Notify::new(),
            suspicion: Notify::new(),
            stop: options.tasks.stop().child_token(),
            ended: CancellationToken::new(),
            restarts: AtomicU64::new(0),
            unanswered: AtomicU32::new(0),
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

    pub(crate) fn name(&self) -> &Name {
        &self.name
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
        patience: Patience,
    ) -> Option<Arc<Connection>> {
        let mut state = self.state.subscribe();
        let is_other = |it: &Arc<Connection>| {
            !old.is_some_and(|old| Arc::ptr_eq(it, old)) && !it.closed().is_cancelled()
        };
        loop {
            let now = *state.borrow_and_update();
            if let Some(connection) = self.connection().filter(is_other) {
                return Some(connection);
            }
            if patience == Patience::ThisAttempt && now != State::Connecting {
                return None;
            }
            let changed = tokio::time::timeout_at(until, state.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                return self.connection().filter(is_other);
            }
        }
    }

    /// Has it checked now: a call could not be sent.
    pub(crate) fn suspect(&self) {
        self.suspicion.notify_one();
    }

    /// Notes that a call had all of the server's time and no answer, and has the server checked if it said nothing at
    /// all meanwhile.
    pub(crate) fn unanswered(&self, connection: &Connection, waited: Duration) {
        if connection.silent_for() < waited {
            self.answered();
            return;
        }
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        self.suspect();
    }

    /// Notes that the server answers.
    pub(crate) fn answered(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
    }

    /// Whether calls in a row went unanswered: what is silent then is hung and not busy.
    fn leaves_unanswered(&self) -> bool {
        UNANSWERED_MAX <= self.unanswered.load(Ordering::Relaxed)
    }

    /// Has it connect anew.
    pub(crate) fn reconnect(&self) {
        self.reconnect.notify_one();
    }

    /// Has it end: its calls in flight get the drain's bound.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether it is ending.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
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
            name: self.name.clone(),
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
        self.server.answered();
        self.server.connection.store(Some(Arc::clone(connection)));
        let name = self.server.name();
        tracing::info!(server.name = %name, tools = listing.tools.len(), version = peer.agreed.version, "server `{name}` is ready");
        self.set(State::Ready, None);
    }

    /// Looks after a connection until it is over.
    async fn watch(&self, connection: &Arc<Connection>, ttl: Option<Duration>) -> Over {
        let limits = &self.context.options.limits;
        let mut refresh_at = Instant::now() + self.refresh_in(ttl);
        let mut check_at = Instant::now() + limits.health_every;
        let mut failed = 0;
        loop {
            let checked = tokio::select! {
                biased;
                () = self.server.stop.cancelled() => return Over::Stopped,
                () = connection.closed().cancelled() => return Over::Lost(connection.ended().unwrap_or_default()),
                () = self.server.reconnect.notified() => return Over::Asked,
                () = connection.tools_changed() => {
                    tokio::time::sleep(DEBOUNCE).await;
                    let refreshed = self.refresh(connection).await;
                    refresh_at = Instant::now() + self.refresh_in(refreshed.as_ref().ok().copied().flatten());
                    refreshed.map(drop)
                }
                () = tokio::time::sleep_until(refresh_at) => {
                    let refreshed = self.refresh(connection).await;
                    refresh_at = Instant::now() + self.refresh_in(refreshed.as_ref().ok().copied().flatten());
                    refreshed.map(drop)
                }
                () = self.server.suspicion.notified() => connection.ping(limits.health_timeout).await,
                () = tokio::time::sleep_until(check_at) => connection.ping(limits.health_timeout).await,
            };
            match checked {
                Ok(()) => {
                    failed = 0;
                    self.server.answered();
                    if self.server.state() == State::Degraded {
                        self.set(State::Ready, None);
                    }
                }
                Err(AskError::Timeout(_)) if self.is_busy(connection) => {}
                Err(error) => {
                    failed += 1;
                    let reason = format!("it gives no sign of life: {error}");
                    let is_dead =
                        matches!(error, AskError::NotSent(_)) || self.server.leaves_unanswered();
                    if CHECKS_FAILED_MAX <= failed || is_dead {
                        return Over::Lost(reason);
                    }
                    self.set(State::Degraded, Some(reason));
                }
            }
            check_at = Instant::now()
                + if failed == 0 { limits.health_every } else { limits.health_every.min(RECHECK) };
        }
    }

    /// When to list again: as the server says, within our bounds.
    fn refresh_in(&self, ttl: Option<Duration>) -> Duration {
        let most = self.context.options.limits.refresh_every;
        ttl.map_or(most, |it| it.clamp(REFRESH_MIN.min(most), most))
    }

    /// Whether silence is no sign of death: many servers do one thing at a time, and answer no ping meanwhile.
    fn is_busy(&self, connection: &Connection) -> bool {
        let has_calls = self.server.permits.available_permits() < self.server.in_flight_max;
        has_calls && connection.silent_for() < BUSY_MAX && !self.server.leaves_unanswered()
    }

    /// Lists the tools again, and how long the list is good.
    async fn refresh(&self, connection: &Connection) -> Result<Option<Duration>, AskError> {
        let listing = connection.list().await?;
        self.server.situation.lock().tools = listing.tools;
        (self.publish)();
        Ok(listing.ttl)
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
    ///
    /// A server that waits for a person is tried too, seldom: a proxy before it may have refused us in its stead,
    /// or a secret may be another now.
    async fn rest(&mut self) -> bool {
        let limits = &self.context.options.limits;
        let is_held = self.server.state() == State::Held;
        let pause = jittered(if is_held { limits.refresh_every } else { self.pause });
        self.pause = (self.pause * 2).clamp(limits.backoff_min, limits.backoff_max);
        tokio::select! {
            biased;
            () = self.server.stop.cancelled() => return true,
            () = self.server.reconnect.notified() => {}
            // It stays held meanwhile, so that no call waits for what will hardly come.
            () = tokio::time::sleep(pause) => if is_held { return false },
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
            let name = self.server.name();
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
