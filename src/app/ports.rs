//! Small adapters between the parts.

use std::sync::Arc;
use std::time::Duration;

use althing_config::Config;
use althing_domain::policy::McpServer;
use althing_domain::secret::Secret;
use althing_storage::request_log::RequestLog;
use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::api::admin::{Admin, ports};
use crate::api::ops::CALLBACK;
use crate::clock::SteadyClock;
use crate::control::Control;
use crate::error::{Code, Error};
use crate::gateway::Gateway;
use crate::mcp::Federation;
use crate::mcp::upstream::Secrets;
use crate::mcp::upstream::oauth::AuthorizeError;
use crate::secret::{NodeResolver, Place, Resolver};
use crate::tasks::Tasks;

/// How long an authorisation may take to begin: its server and authorization server are asked for their metadata.
const AUTHORIZE_WITHIN: Duration = Duration::from_secs(30);

/// Resolves the secrets of MCP servers.
pub(super) struct UpstreamSecrets(NodeResolver);

impl UpstreamSecrets {
    pub(super) fn new(control: &Control) -> Self {
        let opener = control.clone();
        Self(NodeResolver::new(Box::new(move |sealed, place| {
            place.open(opener.data_key(), sealed)
        })))
    }
}

#[async_trait]
impl Secrets for UpstreamSecrets {
    async fn resolve(&self, secret: &Secret, place: &Place<'_>) -> Result<SecretString, String> {
        self.0.resolve(secret, place).map_err(|it| it.to_string())
    }
}

/// Makes the federation follow the law's servers.
pub(super) fn follow_servers(control: &Control, federation: &Federation, tasks: &Tasks) {
    let (control, federation, stop) = (control.clone(), federation.clone(), tasks.stop().clone());
    tasks.spawn("mcp servers", async move {
        let mut changes = control.changes();
        let mut last: Option<Vec<Arc<McpServer>>> = None;
        loop {
            changes.borrow_and_update();
            let now: Vec<Arc<McpServer>> = control
                .state()
                .tables()
                .mcp_servers
                .iter()
                .map(|it| Arc::clone(&it.spec))
                .collect();
            if last.as_ref() != Some(&now) {
                federation.reconcile(&now);
                last = Some(now);
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    });
}

/// What administration needs.
pub(super) fn admin(
    control: &Control,
    gateway: &Arc<Gateway>,
    log: &Arc<RequestLog>,
    config: &Config,
    steady: &Arc<SteadyClock>,
) -> Arc<Admin> {
    let vendors = althing_llm::provider::ALL.iter().map(|it| it.name).chain(["demo"]).collect();
    let status = Arc::clone(gateway);
    let (law, steady) = (control.clone(), Arc::clone(steady));
    Arc::new(Admin {
        law: Arc::new(control.clone()),
        servers: Arc::new(ServersOf(Arc::clone(gateway))),
        records: crate::api::admin::records::router(Arc::clone(log)),
        status: Box::new(move || node_status(&status, &law, &steady)),
        clock: Arc::clone(&gateway.clock),
        allow: config.allow_list(),
        vendors,
        node: config.node.name.to_string(),
        settings: config.settings(),
    })
}

fn node_status(gateway: &Gateway, control: &Control, steady: &SteadyClock) -> Value {
    let spool = gateway.recorder.spool().stats();
    let view = gateway.views.load();
    let providers: Vec<Value> = view
        .providers
        .iter()
        .map(|it| {
            let keys: Vec<Value> = it
                .keys
                .iter()
                .map(|key| json!({ "name": &*key.name, "usable": key.header.is_some() }))
                .collect();
            json!({ "name": it.name, "enabled": it.enabled, "problem": it.broken, "keys": keys })
        })
        .collect();
    let law = control.status();
    json!({
        "law": { "leader": law.leader, "term": law.term, "applied": law.applied, "last_log": law.last_log, "snapshot": law.snapshot },
        "providers": providers,
        "connections": gateway.connections.open(),
        "requests_in_flight": gateway.metrics.in_flight.get(),
        "records": {
            "appended": spool.appended, "backlog_bytes": spool.backlog_bytes, "refused": spool.refused,
            "disk_errors": spool.disk_errors, "waiting_in_memory": gateway.recorder.stuck(), "lost": gateway.recorder.lost(),
        },
        "clock_off_ms": steady.off_ms(),
        "task_panics": gateway.tasks.panics(),
    })
}

struct ServersOf(Arc<Gateway>);

#[async_trait]
impl ports::Servers for ServersOf {
    fn status(&self) -> Vec<(String, Value)> {
        self.0
            .federation
            .status()
            .into_iter()
            .map(|it| {
                let shown = json!({
                    "name": it.name, "state": it.state, "since": it.since.to_rfc3339(), "tools": it.tools,
                    "last_error": it.last_error, "protocol_version": it.protocol_version,
                    "server_info": it.server_info, "restarts": it.restarts,
                });
                (it.name.to_string(), shown)
            })
            .collect()
    }

    fn tools(&self, server: &str) -> Vec<Value> {
        let catalog = self.0.federation.catalog();
        let of_server = catalog.tools.iter().filter(|it| it.server.as_str() == server);
        of_server
            .map(|it| {
                json!({
                    "name": &*it.name, "function_name": &*it.flat, "policy_name": &*it.policy,
                    "description": it.description, "input_schema": &*it.input_schema, "price_usd": it.price,
                })
            })
            .collect()
    }

    fn reconnect(&self, server: &str) -> bool {
        self.0.federation.reconnect(server)
    }

    async fn authorize(&self, server: &str) -> Result<String, Error> {
        let base = self.0.public_url.get().map_or("", String::as_str).trim_end_matches('/');
        let callback = format!("{base}{CALLBACK}");
        let begun = self.0.federation.begin_authorize(server, &callback);
        match tokio::time::timeout(AUTHORIZE_WITHIN, begun).await {
            Ok(Ok(url)) => Ok(url),
            Ok(Err(AuthorizeError::UnknownServer)) => Err(Error::of(Code::NotFound)),
            Ok(Err(problem @ (AuthorizeError::NotOAuth | AuthorizeError::Settings(_)))) => {
                Err(Error::field("auth", problem))
            }
            Ok(Err(problem)) => Err(Error::new(Code::UpstreamFailed, problem.to_string())),
            Err(_) => Err(Error::of(Code::UpstreamTimeout)),
        }
    }
}
