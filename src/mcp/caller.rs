//! A caller's way to tools: what the law lets it do, and each call admitted, run and recorded like any other.

use std::sync::Arc;

use althing_domain::pattern::Pattern;
use althing_domain::policy::ToolGroup;
use althing_llm::price::Price;
use althing_storage::record::{Kind, Payload};
use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::call::{CallError, CallOutcome};
use super::catalog::ToolEntry;
use super::inject::Format;
use super::scope::{Attempt, Filter, Grants, Scope, ToolCaller, ToolRequest, failure, reaches};
use crate::admit::{self, Ask, Mono};
use crate::control::view::{KeyView, Standing, View};
use crate::error::{Code, Error};
use crate::gateway::{Arrival, Gateway};
use crate::settle::{Call, Ended};
use crate::telemetry::probe::{Asked, Probe, Tool};

/// The principal of callers without a key, in a form that no name has.
const ANONYMOUS: &str = "(anonymous)";
/// How much of a tool's name is in the record of a call that named no tool there is.
const NAME_CHARS_MAX: usize = 128;

/// A virtual key that calls tools.
pub struct KeyCaller {
    gateway: Arc<Gateway>,
    view: Arc<View>,
    key: Arc<KeyView>,
    /// The request that its first call comes from, until that call is made.
    arrival: Mutex<Option<Arrival>>,
    /// Whether nothing that is said is kept, by the caller's wish.
    is_off_record: bool,
}

impl KeyCaller {
    /// `key` under the law of `view`.
    #[must_use]
    pub fn new(gateway: &Arc<Gateway>, view: &Arc<View>, key: &Arc<KeyView>) -> Arc<Self> {
        Arc::new(Self {
            gateway: Arc::clone(gateway),
            view: Arc::clone(view),
            key: Arc::clone(key),
            arrival: Mutex::new(None),
            is_off_record: false,
        })
    }

    /// The same for one request: its call is recorded under the request's id, which the caller is told. Where a request
    /// is a batch, that is one of its calls.
    #[must_use]
    pub fn of_request(
        gateway: &Arc<Gateway>,
        (view, key): (&Arc<View>, &Arc<KeyView>),
        arrival: Arrival,
        is_off_record: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            gateway: Arc::clone(gateway),
            view: Arc::clone(view),
            key: Arc::clone(key),
            arrival: Mutex::new(Some(arrival)),
            is_off_record,
        })
    }

    /// Opens the record of a call. No two have one id.
    async fn open_call(&self) -> Result<Box<Call>, Error> {
        let arrival = self.arrival.lock().take().unwrap_or_else(|| self.gateway.arrive());
        let whole = (arrival, Instant::now());
        let mut call = self.gateway.open_call(whole, Kind::ToolCall, &self.key).await?;
        call.is_off_record = self.is_off_record;
        Ok(call)
    }

    fn is_anonymous(&self) -> bool {
        Arc::ptr_eq(&self.key, &self.view.anonymous)
    }
}

#[async_trait]
impl ToolCaller for KeyCaller {
    fn principal(&self) -> &str {
        // Whoever has no key is not the key that happens to be called so.
        if self.is_anonymous() { ANONYMOUS } else { self.key.name.as_str() }
    }

    fn number(&self) -> u64 {
        self.key.number
    }

    fn grants(&self) -> Grants {
        let group = |name: &althing_domain::id::Name| self.view.groups.get(name);
        Grants {
            tools: Arc::clone(&self.key.tools),
            groups: self.key.groups.iter().filter_map(group).map(Arc::clone).collect(),
        }
    }

    fn may_call(&self, policy: &str) -> bool {
        self.view.may_call(&self.key, policy)
    }

    fn may_reach(&self, server: &str) -> bool {
        let group = |name: &althing_domain::id::Name| self.view.groups.get(name);
        self.key.tools.iter().any(|it| reaches(it, server))
            || self
                .key
                .groups
                .iter()
                .filter_map(group)
                .any(|it| it.tools.iter().any(|pattern| reaches(pattern, server)))
    }

    fn group(&self, name: &str) -> Option<Arc<ToolGroup>> {
        if self.view.may_use_group(&self.key, name) {
            self.view.groups.get(name).map(Arc::clone)
        } else {
            None
        }
    }

    fn refresh(&self) -> Option<Arc<dyn ToolCaller>> {
        let view = self.gateway.views.load_full();
        let key = if self.is_anonymous() {
            Arc::clone(&view.anonymous)
        } else {
            // Of another key that has the name now it is none of the business.
            view.key_named(self.key.name.as_str()).filter(|it| it.number == self.key.number)?
        };
        let now = self.gateway.clock.now();
        if key.standing != Standing::Active || key.expires_at.is_some_and(|it| it <= now) {
            return None;
        }
        Some(Arc::new(Self {
            gateway: Arc::clone(&self.gateway),
            view,
            key,
            arrival: Mutex::new(None),
            is_off_record: self.is_off_record,
        }))
    }

    fn is_traced(&self) -> bool {
        self.gateway.otlp.is_some()
    }

    async fn run(&self, mut request: ToolRequest) -> Result<Box<RawValue>, Error> {
        let _seat = self.gateway.seat(&self.key)?;
        let mut call = self.open_call().await?;
        describe(&self.gateway, &request, &mut call);
        trace(&self.gateway, &mut request, &mut call);
        let outcome = self.admitted(request, &mut call).await;
        match outcome {
            Ok(result) => {
                call.close(&Ended::Ok(200));
                Ok(result)
            }
            Err(error) => {
                if let Some(tool) = call.probe.as_mut().and_then(|it| it.tool()) {
                    tool.rpc_code = Some(super::server::rpc_code(&error));
                }
                call.close(&Ended::by(&error));
                Err(error)
            }
        }
    }

    async fn refused(&self, attempt: Attempt, error: &Error) {
        // Where there is no room for the record the refusal stands all the same: the counters have it.
        let Ok(mut call) = self.open_call().await else { return };
        let Attempt { name, tool, arguments, parent } = attempt;
        // The caller is told that there is no such tool; who reads records, that there is and whom it is kept from.
        let is_forbidden = error.code == Code::ToolUnknown && tool.is_some();
        let code = if is_forbidden { Code::ToolForbidden } else { error.code };
        match tool {
            Some(tool) => describe_tool(&self.gateway, &tool, &mut call),
            None => call.record.tool = name.as_deref().map(|it| Arc::from(shown(it))),
        }
        describe_call(&self.gateway, arguments.as_deref(), parent.as_deref(), &mut call);
        call.close(&Ended::Refused(error.http_status().as_u16(), code));
    }
}

impl KeyCaller {
    async fn admitted(
        &self,
        request: ToolRequest,
        call: &mut Call,
    ) -> Result<Box<RawValue>, Error> {
        // Sent again here and not only at the list: the law may have changed since the list was made.
        if !self.may_call(&request.tool.policy) && !self.is_in_group(&request.tool.policy) {
            return Err(Error::of(Code::ToolUnknown));
        }
        let ask = Ask { upper: request.tool.price, tokens: 0, at: Mono::now() };
        let ticket = admit::admit(&self.key.limits, ask).await?;
        call.running = Some(ticket.start());
        call.fee = request.tool.price;
        call.record.attempts = 1;
        let mut asked = request.into_call();
        asked.trace = call.probe.as_mut().map(|it| it.attempt(None, None, (None, None)));
        call.pause();
        let outcome = self.gateway.federation.call(asked).await;
        call.resume();
        if let Some(probe) = &mut call.probe {
            note(probe, &outcome);
        }
        match outcome {
            Ok(outcome) => Ok(outcome.result),
            Err(error) => {
                if error.is_without_effect() {
                    call.fee = althing_domain::money::NanoUsd::ZERO;
                }
                Err(failure(&error))
            }
        }
    }

    fn is_in_group(&self, policy: &str) -> bool {
        self.key.tools.contains(&Pattern::from("*"))
            || self.key.groups.iter().any(|it| self.view.group_has(it.as_str(), policy))
    }
}

/// As much of a name that nobody but its caller knows as a record shows.
fn shown(name: &str) -> String {
    name.chars().filter(|it| !it.is_control()).take(NAME_CHARS_MAX).collect()
}

fn describe(gateway: &Gateway, request: &ToolRequest, call: &mut Call) {
    describe_tool(gateway, &request.tool, call);
    describe_call(gateway, request.arguments.as_deref(), request.parent.as_deref(), call);
}

fn describe_tool(gateway: &Gateway, tool: &ToolEntry, call: &mut Call) {
    let (server, tool): (Arc<str>, Arc<str>) =
        (Arc::from(tool.server.as_str()), Arc::clone(&tool.name));
    call.series = Some(gateway.metrics.tool(&server, &tool));
    call.price = Price::default();
    call.record.server = Some(server);
    call.record.tool = Some(tool);
}

fn describe_call(
    gateway: &Gateway,
    arguments: Option<&RawValue>,
    parent: Option<&str>,
    call: &mut Call,
) {
    call.record.parent =
        parent.and_then(|it| uuid::Uuid::parse_str(it).ok()).map(|it| it.as_u128());
    if call.is_off_record {
        return;
    }
    let arguments = arguments.map_or("{}", RawValue::get);
    call.record.arguments_sha256 = digest(&SHA256, arguments.as_bytes()).as_ref().try_into().ok();
    if gateway.settings.keep_arguments {
        call.record.arguments = Some(Payload(Bytes::copy_from_slice(arguments.as_bytes())));
    }
}

/// Begins the call's trace, where calls are traced.
fn trace(gateway: &Gateway, request: &mut ToolRequest, call: &mut Call) {
    let Some(otlp) = &gateway.otlp else { return };
    let mut origin = request.origin.take().map(|it| *it).unwrap_or_default();
    let parent = origin.parent.take();
    let name = Arc::clone(&request.tool.flat);
    let tool = Tool { name, origin, rpc_code: None, is_error: false, server: None };
    let mut probe = otlp.probe(parent, Asked::Tool(Box::new(tool)));
    if probe.context.is_sampled
        && let Some(tool) = probe.tool()
    {
        tool.server = gateway.federation.place(request.tool.server.as_str());
    }
    call.probe = Some(probe);
}

/// Notes what came of a call.
fn note(probe: &mut Probe, outcome: &Result<CallOutcome, CallError>) {
    match outcome {
        Ok(outcome) => {
            probe.ended();
            if let Some(tool) = probe.tool() {
                tool.is_error = outcome.is_error;
            }
        }
        Err(CallError::Rpc { code, .. }) => {
            probe.failed(Code::UpstreamFailed.name(), Some(*code));
        }
        Err(error) => probe.failed(failure(error).code.name(), None),
    }
}

/// The request with the caller's tools in it; `None` where nothing is added.
///
/// # Errors
///
/// Where the caller's filter or its own tools cannot be read.
pub fn tools_for(
    gateway: &Arc<Gateway>,
    view: &Arc<View>,
    key: &Arc<KeyView>,
    dialect: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Option<Vec<u8>>, Error> {
    if key.tools.is_empty() && key.groups.is_empty() {
        return Ok(None);
    }
    let catalog = gateway.federation.catalog();
    let Some(format) = Format::of_dialect(dialect).filter(|_| !catalog.tools.is_empty()) else {
        return Ok(None);
    };
    let filter = Arc::new(Filter::from_headers(headers)?);
    let scope = Scope::all(KeyCaller::new(gateway, view, key), filter);
    gateway.shelf.all_of(&scope, &catalog, format).put_into(body)
}
