//! The composition root: the only place that builds adapters and joins the parts.

mod first;
mod law;
mod ports;
mod run;
mod telemetry;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use althing_config::Config;
use althing_config::section;
use althing_domain::time::Clock;
use althing_storage::request_log::{self, RequestLog};
use althing_storage::usage_journal::UsageJournal;

use crate::admit::Cells;
use crate::admit::agent::{Agent, Incarnation};
use crate::api::{Api, Serves};
use crate::auth;
use crate::clock::{STEP_MAX, SteadyClock, SystemClock};
use crate::control::compile::Compiler;
use crate::control::view::View;
use crate::control::{self, Control};
use crate::execute::retry::RetryBudget;
use crate::gateway::{Gateway, KeepBodies, Settings};
use crate::listen::{Connections, Listener};
use crate::mcp::execute::Executor;
use crate::mcp::federation::{self, Federation};
use crate::mcp::inject::Shelf;
use crate::mcp::server::{Keys, Limits, McpServer};
use crate::mcp::upstream::GuardProgram;
use crate::secret::{NodeResolver, Resolver};
use crate::settle::{Recorder, WhenFull};
use crate::tasks::Tasks;
use crate::telemetry::metric::{self, Metrics};
use crate::telemetry::otlp::Flush;

pub use run::{print_started, run};

/// How long open requests may go on after the node was asked to end.
pub const DRAIN: Duration = Duration::from_secs(30);
const SHUTDOWN: Duration = Duration::from_secs(5);
/// How long the last traces and metrics may take.
const FLUSH: Duration = Duration::from_secs(5);
const DAY_MS: u64 = 86_400_000;

/// Why the node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration asks for what cannot be.
    #[error("{0}")]
    Config(String),
    /// The law cannot be opened.
    #[error(transparent)]
    Law(#[from] control::StartError),
    /// Records cannot be opened.
    #[error("the records in {dir} cannot be opened: {source}")]
    Records {
        /// Where.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Which.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// TLS cannot be served.
    #[error(transparent)]
    Tls(#[from] crate::listen::tls::Error),
    /// Metrics do not register.
    #[error(transparent)]
    Metrics(#[from] metric::Error),
    /// A first command was not taken.
    #[error("{0}")]
    First(String),
    /// The law failed while the node ran.
    #[error("the law failed on this node: {0}")]
    Failed(althing_cluster::Failure),
}

/// What a start made and tells once.
#[derive(Debug)]
pub struct Started {
    /// Where it listens.
    pub address: std::net::SocketAddr,
    /// Where administration listens, where it has an address of its own.
    pub admin_address: Option<std::net::SocketAddr>,
    /// Whether it speaks TLS.
    pub is_tls: bool,
    /// The admin key, where one was made.
    pub admin_key: Option<secrecy::SecretString>,
    /// Virtual keys that were made for the file's policy, by name.
    pub virtual_keys: Vec<(String, secrecy::SecretString)>,
}

/// A node that is up.
pub struct Node {
    control: Control,
    log: Arc<RequestLog>,
    gateway: Arc<Gateway>,
    listeners: Vec<(Listener, Arc<Api>)>,
    tasks: Tasks,
    /// Streams of MCP clients, which end by themselves only with the client: asked to end when the node begins to drain.
    streams: Tasks,
    agent: tokio::task::JoinHandle<()>,
    agent_stop: tokio_util::sync::CancellationToken,
    flush: Option<Flush>,
    /// What the start made and tells once.
    pub started: Started,
}

impl Node {
    /// Opens the law, joins the parts, binds the socket.
    ///
    /// # Errors
    ///
    /// [`Error`], in sentences for whoever starts it.
    pub async fn start(config: Config, apply_file: bool) -> Result<Self, Error> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let tasks = Tasks::default();
        let metrics = Arc::new(Metrics::new()?);
        let (control, steady) = open_law(&config, &clock).await?;

        let (cells, signals) = Cells::new();
        let views = compile(&control, &cells);
        let (agent, agent_stop) = start_agent(&control, &cells, signals, &clock, &tasks);

        let log = Arc::new(open_log(&config, &steady)?);
        let recorder = start_recorder(&config, &log, &tasks);

        let (otlp, flush) = telemetry::start(&config, &control, &metrics)?.unzip();

        let federation = federation(&control, &config, &clock, &tasks);
        let leading = control.clone();
        let gateway = Arc::new(Gateway {
            views,
            recorder,
            metrics,
            otlp,
            clock: Arc::clone(&clock),
            federation: federation.clone(),
            shelf: Shelf::default(),
            settings: settings(&config),
            tasks: tasks.clone(),
            retries: RetryBudget::default(),
            draining: AtomicBool::new(false),
            public_url: OnceLock::new(),
            connections: Arc::new(Connections::default()),
            law_refuses: Box::new(move || law_refuses(&leading)),
        });

        let admin = ports::admin(&control, &gateway, &log, &config, &steady);
        // Before anything is written: a key that is told once must not be made by a start that then fails.
        let ((listener, address), apart) = bind_all(&config).await?;
        let streams = tasks.apart();
        let mcp = mcp_server(&control, &federation, &clock, &streams);
        let first = first::writes(&admin, &config, apply_file).await?;
        ports::follow_servers(&control, &federation, &tasks);
        // Set once, here.
        let _ = gateway.public_url.set(public_url(&config, address));
        let executor = Executor::new(Arc::new(federation), tasks.clone());
        let admin = crate::api::admin::router(admin);
        let api = |serves: Serves| {
            let (mcp, executor, admin) = (mcp.clone(), executor.clone(), admin.clone());
            Arc::new(Api::new((&gateway, mcp, executor, admin), serves))
        };
        let admin_address = apart.as_ref().map(|it| it.1);
        let listeners = match apart {
            None => vec![(listener, api(Serves::All))],
            Some((apart, _)) => vec![(listener, api(Serves::Data)), (apart, api(Serves::Admin))],
        };
        warm_up(&tasks);
        let started = Started {
            address,
            admin_address,
            is_tls: config.tls.is_some(),
            admin_key: first.admin_key,
            virtual_keys: first.virtual_keys,
        };
        Ok(Self {
            control,
            log,
            gateway,
            listeners,
            tasks,
            streams,
            agent,
            agent_stop,
            flush,
            started,
        })
    }

    /// What the stages share, for tests and benches in this process.
    #[must_use]
    pub const fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Serves until it is `asked` to end, then drains: readiness fails, open requests end, at most [`DRAIN`], or until it is asked again.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] where it ended because the law failed on this node.
    pub async fn serve(self, asked: impl AsyncFn()) -> Result<(), Error> {
        let Self {
            control, log, gateway, listeners, tasks, streams, agent, agent_stop, flush, ..
        } = self;
        let accept = Tasks::default();
        let connections = Arc::clone(&gateway.connections);
        let mut failure = control.failure();
        let serving: Vec<_> = listeners
            .into_iter()
            .map(|(listener, api)| {
                let (accept, connections) = (accept.clone(), Arc::clone(&connections));
                tasks.spawn("listener", async move {
                    if !listener.serve(api, accept, connections, DRAIN).await {
                        tracing::warn!(
                            "some requests were still open when the time to drain was over"
                        );
                    }
                })
            })
            .collect();
        let ended = tokio::select! {
            () = asked() => {
                tracing::info!("asked to end: draining for at most {DRAIN:?}");
                Ok(())
            }
            why = failed(&mut failure) => {
                tracing::error!(%why, "the law failed on this node: ending");
                Err(Error::Failed(why))
            }
        };
        gateway.draining.store(true, std::sync::atomic::Ordering::Relaxed);
        accept.stop().cancel();
        streams.stop().cancel();
        let cut: Vec<_> = serving.iter().map(tokio::task::JoinHandle::abort_handle).collect();
        let drained = async {
            for it in serving {
                if it.await.is_err() {
                    tracing::warn!("a listener's task failed");
                }
            }
        };
        tokio::select! {
            () = drained => {}
            () = asked() => {
                tracing::warn!("asked to end again: open requests are cut");
                cut.iter().for_each(tokio::task::AbortHandle::abort);
            }
        }
        gateway.federation.shutdown(SHUTDOWN).await;
        agent_stop.cancel();
        // It ends by itself, within its exchange's time limit.
        let _ = tokio::time::timeout(SHUTDOWN, agent).await;
        let (ended_tasks, ended_streams) =
            tokio::join!(tasks.shutdown(SHUTDOWN), streams.shutdown(SHUTDOWN));
        if !(ended_tasks && ended_streams) {
            tracing::warn!("some tasks did not end in time");
        }
        // Last of the calls' tasks: each that has ended is in it.
        if let Some(flush) = flush
            && !flush.flush(FLUSH).await
        {
            tracing::warn!("the collector did not take the last traces and metrics in time");
        }
        control.shutdown().await;
        let log = tokio::task::spawn_blocking(move || log.shutdown());
        let _ = tokio::time::timeout(SHUTDOWN, log).await;
        ended
    }
}

/// Why the law takes no commands, for machines that ask whether the node is ready.
fn law_refuses(control: &Control) -> Option<&'static str> {
    let status = control.status();
    match status.refusal {
        Some(althing_cluster::ProposeError::Storage(_)) => Some("the disk refuses to store policy"),
        Some(_) => Some("the law has stopped on this node"),
        None if status.leader.is_none() => Some("the node cannot reach a quorum"),
        None => None,
    }
}

/// Keeps the compiled view equal to the law.
fn compile(control: &Control, cells: &Arc<Cells>) -> Arc<arc_swap::ArcSwap<View>> {
    let opener = control.clone();
    let secrets: Arc<dyn Resolver> = Arc::new(NodeResolver::new(Box::new(move |sealed, place| {
        place.open(opener.data_key(), sealed)
    })));
    let hasher = control.clone();
    let mut compiler = Compiler::new(
        Arc::clone(cells),
        secrets,
        Arc::new(move |shown| hasher.data_key().hasher().hash(shown)),
    );
    let views = compiler.views();
    control.follow(Box::new(move |state, changes| match changes {
        Some(changes) => compiler.update(state, changes),
        None => compiler.rebuild(state),
    }));
    views
}

fn start_agent(
    control: &Control,
    cells: &Arc<Cells>,
    signals: tokio::sync::mpsc::Receiver<crate::admit::budget::Signal>,
    clock: &Arc<dyn Clock>,
    tasks: &Tasks,
) -> (tokio::task::JoinHandle<()>, tokio_util::sync::CancellationToken) {
    let incarnation = Incarnation::of_start(control.identity().incarnation);
    let ledger = Arc::new(law::ledger(control));
    let agent = Agent::new((Arc::clone(cells), signals), ledger, Arc::clone(clock), incarnation);
    let agent = match UsageJournal::open(&control.dir().join("usage")) {
        Ok((journal, past)) => agent.journaled(journal, past),
        Err(error) => {
            tracing::warn!(%error, "no usage journal: if this process dies, what it holds of budgets is written off");
            agent
        }
    };
    let stop = tokio_util::sync::CancellationToken::new();
    (tasks.spawn("budget agent", agent.run(stop.clone())), stop)
}

/// Opens the law, by a clock whose jumps are not followed.
async fn open_law(
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> Result<(Control, Arc<SteadyClock>), Error> {
    let mut options = control::Options::new(config.node.data_dir.clone());
    options.name = config.node.name.to_string();
    let steady = Arc::new(SteadyClock::new(Arc::clone(clock)));
    let control = Control::start(options, Arc::clone(&steady) as Arc<dyn Clock>).await?;
    tell_of_time(&control, clock.as_ref());
    Ok((control, steady))
}

fn start_recorder(config: &Config, log: &RequestLog, tasks: &Tasks) -> Arc<Recorder> {
    let when_full = match config.records.when_full {
        section::WhenFull::Wait => WhenFull::Wait,
        section::WhenFull::Refuse => WhenFull::Refuse,
    };
    Recorder::start(log.spool().clone(), when_full, tasks)
}

/// Says so where the law's time is ahead of the clock: a life of this node, or another node, had a clock that was.
fn tell_of_time(control: &Control, clock: &dyn Clock) {
    let ahead_ms = control.state().now().0.saturating_sub(clock.now().0);
    if STEP_MAX.as_millis() < u128::from(ahead_ms) {
        tracing::error!(
            ahead_ms,
            "the law's time is ahead of this machine's clock: budgets begin anew only when the clock has come there"
        );
    }
}

fn open_log(config: &Config, clock: &Arc<SteadyClock>) -> Result<RequestLog, Error> {
    let dir = config.node.data_dir.join("records");
    let mut options = request_log::Options::new(&dir);
    let days = config.records.keep.0.get().div_ceil(DAY_MS);
    options.keep_days = u32::try_from(days).unwrap_or(u32::MAX);
    options.bodies_keep_days = options.keep_days;
    options.disk_bytes_max = config.records.max_disk.0;
    let clock = Arc::clone(clock);
    let clock: request_log::Clock = Arc::new(move || clock.earliest().0);
    RequestLog::open(&options, clock).map_err(|source| Error::Records { dir, source })
}

fn federation(
    control: &Control,
    config: &Config,
    clock: &Arc<dyn Clock>,
    tasks: &Tasks,
) -> Federation {
    let limits = federation::Limits {
        result_bytes_max: config.limits.mcp_result.bytes(),
        ..federation::Limits::default()
    };
    Federation::new(federation::Options {
        tasks: tasks.clone(),
        clock: Arc::clone(clock),
        secrets: Arc::new(ports::UpstreamSecrets::new(control)),
        tokens: Arc::new(law::LawTokens(control.clone())),
        guard: GuardProgram { program: running_program(), arguments: vec!["stdio-guard".into()] },
        limits,
    })
}

/// The address of this node as people's browsers see it.
fn public_url(config: &Config, address: std::net::SocketAddr) -> String {
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    config.public_url.clone().unwrap_or_else(|| format!("{scheme}://{address}"))
}

/// The program that runs now, also where its file was replaced since: a guard of another version could not be
/// relied on, and `current_exe` would name a file that is gone.
fn running_program() -> PathBuf {
    const RUNNING: &str = "/proc/self/exe";
    if std::path::Path::new(RUNNING).exists() {
        return PathBuf::from(RUNNING);
    }
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("althing"))
}

fn settings(config: &Config) -> Settings {
    Settings {
        node: Arc::from(config.node.name.as_str()),
        auth: match config.auth {
            section::AuthMode::Keys => auth::Mode::Keys,
            section::AuthMode::Open => auth::Mode::Open,
        },
        body_bytes_max: config.limits.body.bytes(),
        header_bytes_max: config.limits.header.bytes(),
        requests_per_principal: config.limits.requests_per_principal.get(),
        request_timeout: config.limits.request_timeout.duration(),
        idle_stream: config.limits.idle_stream.duration(),
        keep_bodies: match config.records.bodies {
            section::Bodies::Off => KeepBodies::Off,
            section::Bodies::Errors => KeepBodies::Errors,
            section::Bodies::All => KeepBodies::All,
        },
        keep_arguments: config.records.arguments == section::Arguments::Full,
        origins: config.browsers.origins.clone().into(),
        loopback_only: config.listen.0.ip().is_loopback() && config.public_url.is_none(),
    }
}

type Bound = (Listener, std::net::SocketAddr);

/// The address of everything, and that of administration, where it has one of its own.
async fn bind_all(config: &Config) -> Result<(Bound, Option<Bound>), Error> {
    let all = bind(config, config.listen.0).await?;
    let apart = match config.admin.listen {
        None => None,
        Some(apart) => Some(bind(config, apart.0).await?),
    };
    Ok((all, apart))
}

async fn bind(
    config: &Config,
    address: std::net::SocketAddr,
) -> Result<(Listener, std::net::SocketAddr), Error> {
    let tls = match &config.tls {
        None => None,
        Some(tls) => {
            let cert = first::node_secret("tls.cert", &tls.cert)?;
            let key = first::node_secret("tls.key", &tls.key)?;
            let client_ca = tls
                .client_ca
                .as_ref()
                .map(|it| first::node_secret("tls.client_ca", it))
                .transpose()?;
            use secrecy::ExposeSecret;
            let client_ca = client_ca.as_ref().map(ExposeSecret::expose_secret);
            Some(crate::listen::tls::acceptor(
                cert.expose_secret(),
                key.expose_secret(),
                client_ca,
            )?)
        }
    };
    let failed = |source| Error::Bind { address, source };
    let listener =
        Listener::bind(address, tls, config.limits.header.bytes()).await.map_err(failed)?;
    let bound = listener.address().map_err(failed)?;
    Ok((listener, bound))
}

fn mcp_server(
    control: &Control,
    federation: &Federation,
    clock: &Arc<dyn Clock>,
    tasks: &Tasks,
) -> McpServer {
    // Handles must open on every node, so their keys follow from the cluster's own.
    let keys = Keys::new(&control.data_key().hasher().hash(b"althing/mcp-handles/2"));
    McpServer::new(crate::mcp::server::Options {
        catalogs: Arc::new(federation.clone()),
        law: control.changes(),
        keys,
        clock: Arc::clone(clock),
        tasks: tasks.clone(),
        limits: Limits::default(),
    })
}

/// Decodes the catalogue before the first request needs it.
fn warm_up(tasks: &Tasks) {
    tasks.spawn("catalogue", async {
        // Its panic would be counted by the blocking pool; there is nothing to do about it here.
        let _ = tokio::task::spawn_blocking(|| althing_llm::catalog::has_vendor("openai")).await;
    });
}

async fn failed(
    failure: &mut tokio::sync::watch::Receiver<Option<althing_cluster::Failure>>,
) -> althing_cluster::Failure {
    match failure.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(failure)) => failure.clone(),
        // The sender is gone: the node is ending anyway.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
