//! The composition root: the only place that builds adapters and joins the parts.

mod first;
mod law;
mod ports;
mod run;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use althing_config::Config;
use althing_config::section;
use althing_domain::time::Clock;
use althing_storage::request_log::{self, RequestLog};

use crate::admit::Cells;
use crate::admit::agent::{Agent, Incarnation};
use crate::api::Api;
use crate::auth;
use crate::clock::SystemClock;
use crate::control::compile::Compiler;
use crate::control::{self, Control};
use crate::execute::retry::RetryBudget;
use crate::gateway::{Gateway, KeepBodies, Settings};
use crate::listen::{Connections, Listener};
use crate::mcp::execute::Executor;
use crate::mcp::federation::{self, Federation};
use crate::mcp::server::{Keys, Limits, McpServer};
use crate::mcp::upstream::GuardProgram;
use crate::secret::{NodeResolver, Resolver};
use crate::settle::{Recorder, WhenFull};
use crate::tasks::Tasks;
use crate::telemetry::metric::{self, Metrics};

pub use run::run;

/// How long open requests may go on after the node was asked to end.
pub const DRAIN: Duration = Duration::from_secs(30);
const SHUTDOWN: Duration = Duration::from_secs(5);
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
}

/// What a start made and tells once.
#[derive(Debug)]
pub struct Started {
    /// Where it listens.
    pub address: std::net::SocketAddr,
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
    api: Arc<Api>,
    listener: Listener,
    tasks: Tasks,
    agent: tokio::task::JoinHandle<()>,
    agent_stop: tokio_util::sync::CancellationToken,
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
        let mut options = control::Options::new(config.node.data_dir.clone());
        options.name = config.node.name.to_string();
        let control = Control::start(options, Arc::clone(&clock)).await?;

        let (cells, signals) = Cells::new();
        let views = compile(&control, &cells);
        let (agent, agent_stop) = start_agent(&control, &cells, signals, &clock, &tasks);

        let log = Arc::new(open_log(&config, &clock)?);
        let when_full = match config.records.when_full {
            section::WhenFull::Wait => WhenFull::Wait,
            section::WhenFull::Refuse => WhenFull::Refuse,
        };
        let recorder = Recorder::start(log.spool().clone(), when_full, &tasks);

        let federation = federation(&control, &config, &clock, &tasks);
        let leading = control.clone();
        let gateway = Arc::new(Gateway {
            views,
            recorder,
            metrics,
            clock: Arc::clone(&clock),
            federation: federation.clone(),
            settings: settings(&config),
            tasks: tasks.clone(),
            retries: RetryBudget::default(),
            draining: AtomicBool::new(false),
            connections: Arc::new(Connections::default()),
            is_leading: Box::new(move || leading.status().leader.is_some() && leading.failure().borrow().is_none()),
        });

        let admin = ports::admin(&control, &gateway, &log, &config);
        let first = first::writes(&admin, &control, &config, apply_file).await?;
        ports::follow_servers(&control, &federation, &tasks);
        let listener = bind(&config).await?;
        let address = listener.address().map_err(|source| Error::Bind { address: config.listen.0, source })?;
        let api = Arc::new(Api {
            mcp: mcp_server(&control, &federation, &clock, &tasks)?,
            executor: Executor::new(Arc::new(federation), tasks.clone()),
            admin: crate::api::admin::router(admin),
            gateway: Arc::clone(&gateway),
        });
        warm_up(&tasks);
        let started =
            Started { address, is_tls: config.tls.is_some(), admin_key: first.admin_key, virtual_keys: first.virtual_keys };
        Ok(Self { control, log, gateway, api, listener, tasks, agent, agent_stop, started })
    }

    /// What the stages share, for tests and benches in this process.
    #[must_use]
    pub const fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Serves until `stop` is ready, then drains: readiness fails, open requests end, at most [`DRAIN`].
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let Self { control, log, gateway, api, listener, tasks, agent, agent_stop, .. } = self;
        let accept = Tasks::default();
        let connections = Arc::clone(&gateway.connections);
        let mut failure = control.failure();
        let serving = tokio::spawn_serve(listener.serve(api, accept.clone(), connections, DRAIN), &tasks);
        tokio::select! {
            () = stop => tracing::info!("asked to end: draining for at most {DRAIN:?}"),
            () = failed(&mut failure) => tracing::error!("the law failed on this node: ending"),
        }
        gateway.draining.store(true, std::sync::atomic::Ordering::Relaxed);
        accept.stop().cancel();
        if serving.await.is_err() {
            tracing::warn!("the listener's task failed");
        }
        gateway.federation.shutdown(SHUTDOWN).await;
        agent_stop.cancel();
        // It ends by itself, within its exchange's time limit.
        let _ = tokio::time::timeout(SHUTDOWN, agent).await;
        if !tasks.shutdown(SHUTDOWN).await {
            tracing::warn!("some tasks did not end in time");
        }
        control.shutdown().await;
        let log = tokio::task::spawn_blocking(move || log.shutdown());
        let _ = tokio::time::timeout(SHUTDOWN, log).await;
    }
}
