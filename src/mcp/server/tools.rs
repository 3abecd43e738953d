//! Listing and calling tools: the same for every revision and transport, but for the shape of what goes out.

use std::fmt::Write;
use std::sync::Arc;

use althing_domain::policy::ToolGroup;
use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::StatusCode;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::rpc::{self, Request, RpcError};
use super::session::{CURSOR_LIFE, Kind};
use super::{Ask, McpServer, Revision};
use crate::error::{Code, Error};
use crate::mcp::arguments;
use crate::mcp::cache::Cache;
use crate::mcp::call::Progress;
use crate::mcp::catalog::{Catalog, ToolEntry};
use crate::mcp::json::{self, Fields, is_object};
use crate::mcp::scope::{Attempt, Filter, Grants, Scope, ToolRequest};
use crate::telemetry::probe::{McpOrigin, Origin};
use crate::telemetry::trace::Parent;

/// Under which key `_meta` of a list names servers whose tools may be missing.
const NOT_READY_KEY: &str = "althing/serversNotReady";
/// How long a modern client may keep a list, in milliseconds. Calls are judged anew whatever it shows.
const LIST_TTL_MS: u64 = 5_000;
/// About how many bytes of prepared lists, and of what they are found by, are kept.
const CACHE_BYTES_MAX: usize = 128 * 1024 * 1024;
/// How many progress notifications wait for a slow client; more are dropped.
const PROGRESS_MAX: usize = 64;

const LIST_PARAMS: &[&str] = &["cursor", "_meta"];
const CALL_PARAMS: &[&str] = &["name", "arguments", "_meta"];
const META: &[&str] = &["progressToken"];

/// What a list follows from. Not who asked: keys that may use the same tools share it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct ListKey {
    grants: Grants,
    filter: Arc<Filter>,
    group: Option<Arc<ToolGroup>>,
    is_plain: bool,
    is_modern: bool,
}

impl ListKey {
    fn bytes(&self) -> usize {
        self.grants.bytes() + self.filter.bytes()
    }
}

/// A list, written.
pub(super) struct List {
    /// The results of its pages but for `nextCursor` and the closing brace.
    pages: Vec<String>,
    /// Equal for equal lists.
    pub(super) digest: [u8; 32],
}

impl List {
    fn bytes(&self) -> usize {
        self.pages.iter().map(String::len).sum()
    }
}

/// Lists that were asked for before.
pub(super) struct Lists(Cache<ListKey, List>);

impl Default for Lists {
    fn default() -> Self {
        Self(Cache::new(CACHE_BYTES_MAX))
    }
}

/// A call on its way: its answer, and its progress until then.
pub(super) struct Running {
    pub(super) request: ToolRequest,
    pub(super) progress: Option<mpsc::Receiver<Box<RawValue>>>,
    pub(super) cancel: CancellationToken,
}

/// What a request comes to.
pub(super) enum Work {
    /// A result, at once.
    Done(String),
    /// A call that has to be waited for.
    Call(Box<Running>),
}

impl McpServer {
    /// The list of what `scope` permits, written for a revision.
    pub(super) fn list(&self, scope: &Scope, revision: Revision) -> Arc<List> {
        let catalog = self.inner.options.catalogs.catalog();
        let key = ListKey {
            grants: scope.caller().grants(),
            filter: Arc::clone(scope.filter()),
            group: scope.tool_group().map(Arc::clone),
            is_plain: scope.is_plain(),
            is_modern: revision.is_modern(),
        };
        let per_page = self.inner.options.limits.tools_per_page;
        self.inner.lists.0.get_or_make(
            &catalog,
            key,
            |_| write(scope, &catalog, revision, per_page),
            |key, list| key.bytes() + list.bytes(),
        )
    }

    /// `tools/list`.
    pub(super) fn tools_list(
        &self,
        ask: &Ask,
        params: Option<&RawValue>,
    ) -> Result<String, RpcError> {
        let fields = fields(params, LIST_PARAMS)?;
        let list = self.list(&ask.scope, ask.revision);
        let principal = ask.scope.caller().principal();
        let now = self.inner.options.clock.now();
        let page = match fields.get("cursor").map(RawValue::get) {
            None | Some("null") => 0,
            Some(_) => fields
                .text("cursor")
                .and_then(|it| self.inner.options.keys.open(Kind::Cursor, principal, now, &it))
                .and_then(|it| place(&it, &list.digest))
                .ok_or_else(|| {
                    RpcError::params(
                        "`cursor` is not one of this list, or too old: list again without it",
                    )
                })?,
        };
        let Some(head) = list.pages.get(page) else {
            return Err(RpcError::params("`cursor` is beyond the list: list again without it"));
        };
        let mut result = head.clone();
        if page + 1 < list.pages.len() {
            let mut payload = u32::try_from(page + 1).unwrap_or(u32::MAX).to_be_bytes().to_vec();
            payload.extend_from_slice(&list.digest);
            let cursor = self
                .inner
                .options
                .keys
                .seal(Kind::Cursor, principal, (now, CURSOR_LIFE), &payload)
                .ok_or_else(|| RpcError::from(Error::of(Code::Internal)))?;
            // Writing to a `String` cannot fail.
            let _infallible = write!(result, r#","nextCursor":"{cursor}""#);
        }
        result.push('}');
        Ok(result)
    }

    /// `tools/call`, up to the point where it is only to be run.
    pub(super) async fn tools_call(
        &self,
        ask: &Ask,
        asked: &Request<'_>,
    ) -> Result<Work, RpcError> {
        let fields = fields(asked.params, CALL_PARAMS)?;
        let name =
            fields.text("name").ok_or_else(|| RpcError::params("`name` must be a tool's name"))?;
        let given = fields.get("arguments").filter(|it| it.get() != "null");
        let catalog = self.inner.options.catalogs.catalog();
        let attempt = || Attempt {
            name: Some(name.clone()),
            tool: ask.scope.named(&catalog, &name).cloned(),
            arguments: given.map(ToOwned::to_owned),
            parent: ask.parent.clone(),
        };
        let caller = ask.scope.caller();
        let Some(tool) = ask.scope.find(&catalog, &name) else {
            caller.refused(attempt(), &Error::of(Code::ToolUnknown)).await;
            return Err(RpcError::unknown_tool(&name));
        };
        if let Err(invalid) = arguments::check(&tool, given) {
            caller.refused(attempt(), &Error::from(invalid.clone())).await;
            return invalid_arguments(ask.revision, invalid);
        }
        let meta = fields.get("_meta").filter(|it| is_object(it));
        let meta_fields = meta
            .map(|it| Fields::read(it.get(), META))
            .transpose()
            .map_err(|it| rpc::doubtful(&it))?;
        let token =
            meta_fields.as_ref().and_then(|it| it.get("progressToken")).filter(|it| is_token(it));
        let (progress, receiver) = match token {
            Some(token) => {
                let (sender, receiver) = mpsc::channel(PROGRESS_MAX);
                (Some(Progress { token: token.to_owned(), sender }), Some(receiver))
            }
            None => (None, None),
        };
        let cancel = CancellationToken::new();
        let request = ToolRequest {
            tool,
            arguments: given.map(ToOwned::to_owned),
            meta: meta.map(ToOwned::to_owned),
            parent: ask.parent.clone(),
            idempotency_key: ask.idempotency_key.clone(),
            progress,
            cancel: cancel.clone(),
            capabilities: meta_fields
                .as_ref()
                .and_then(|it| it.get(super::modern::CLIENT_CAPABILITIES))
                .map(ToOwned::to_owned),
            origin: ask
                .scope
                .caller()
                .is_traced()
                .then(|| Box::new(origin(ask, asked, meta_fields.as_ref()))),
        };
        Ok(Work::Call(Box::new(Running { request, progress: receiver, cancel })))
    }
}

/// A call's answer, as a whole message, and the status it has where HTTP has not begun to answer.
pub(super) async fn run(
    scope: Scope,
    request: ToolRequest,
    id: &str,
    revision: Revision,
) -> (Bytes, StatusCode) {
    match scope.caller().run(request).await {
        Ok(result) => (rpc::success(id, &adapted(&result, revision)), StatusCode::OK),
        Err(error) => {
            let error = RpcError::from(error);
            let is_bad = revision.is_modern() && error.is_bad_request();
            let status = if is_bad { StatusCode::BAD_REQUEST } else { StatusCode::OK };
            (rpc::failure(id, &error), status)
        }
    }
}

/// Since 2025-11-25 wrong arguments are for the model to see and mend; before, they are a protocol error.
fn invalid_arguments(revision: Revision, invalid: arguments::Invalid) -> Result<Work, RpcError> {
    let is_for_the_model =
        matches!(invalid, arguments::Invalid::Schema { .. }) && Revision::V2025_11_25 <= revision;
    if is_for_the_model {
        let mut result = json!({ "content": [{ "type": "text", "text": invalid.to_string() }], "isError": true });
        if revision.is_modern() {
            result["resultType"] = "complete".into();
        }
        return Ok(Work::Done(json::text(&result)));
    }
    let path = invalid.path().to_owned();
    let error = Error::from(invalid);
    let code =
        if error.code == Code::DuplicateField { rpc::INVALID_REQUEST } else { rpc::INVALID_PARAMS };
    let data = json!({ "code": error.code.name(), "path": path });
    Err(RpcError { code, message: error.message, data: Some(data) })
}

/// A result as a client of `revision` can read it; as it came, where that is the same.
pub(super) fn adapted(result: &RawValue, revision: Revision) -> String {
    let Ok(fields) = Fields::read(result.get(), &[]) else { return result.get().to_owned() };
    let is_typed = fields.get("resultType").is_some();
    // Before 2026-07-28 structured content is an object, and clients refuse a whole result over it.
    let is_foreign = |key: &str, value: &RawValue| {
        !revision.is_modern()
            && (key == "resultType" || (key == "structuredContent" && !is_object(value)))
    };
    let is_same = is_typed == revision.is_modern()
        && !fields.iter().any(|(key, value)| is_foreign(key, value));
    if is_same {
        return result.get().to_owned();
    }
    let kept = fields
        .iter()
        .filter(|(key, value)| !is_foreign(key, value))
        .map(|(key, value)| (key, value.get()));
    if revision.is_modern() && !is_typed {
        object(std::iter::once(("resultType", r#""complete""#)).chain(kept))
    } else {
        object(kept)
    }
}

fn write(scope: &Scope, catalog: &Catalog, revision: Revision, per_page: usize) -> List {
    let tools: Vec<String> =
        scope.tools(catalog).map(|it| tool(scope.name(it), it, revision)).collect();
    let not_ready: Vec<&str> = scope.not_ready(catalog).collect();
    let mut meta = serde_json::Map::new();
    if !not_ready.is_empty() {
        meta.insert(NOT_READY_KEY.to_owned(), Value::from(not_ready.clone()));
    }
    let mut head = String::from("{");
    if revision.is_modern() {
        meta.insert(super::modern::SERVER_INFO.to_owned(), super::server_info());
        let ttl = if not_ready.is_empty() { LIST_TTL_MS } else { 0 };
        let _infallible =
            write!(head, r#""resultType":"complete","ttlMs":{ttl},"cacheScope":"private","#);
    }
    if !meta.is_empty() {
        let _infallible = write!(head, r#""_meta":{},"#, Value::Object(meta));
    }
    let page = |tools: &[String]| format!(r#"{head}"tools":[{}]"#, tools.join(","));
    let mut pages: Vec<String> = tools.chunks(per_page.max(1)).map(page).collect();
    if pages.is_empty() {
        pages.push(page(&[]));
    }
    let digest = digest(&SHA256, pages.join("\n").as_bytes());
    let digest = digest.as_ref().try_into().unwrap_or_default();
    List { pages, digest }
}

/// A definition as it was listed, under the name it has here.
fn tool(name: &str, tool: &ToolEntry, revision: Revision) -> String {
    let written = Value::from(name).to_string();
    let Ok(fields) = Fields::read(tool.raw.get(), &[]) else {
        return json!({ "name": name, "description": tool.description, "inputSchema": *tool.input_schema }).to_string();
    };
    let has_schema = fields.get("inputSchema").is_some_and(is_object);
    let kept = fields.iter().filter_map(|(key, value)| match key {
        "name" => Some((key, written.as_str())),
        "inputSchema" if !has_schema => None,
        // Before 2026-07-28 clients refuse a whole list over a schema of something else than an object.
        "outputSchema" if !revision.is_modern() && !is_object_schema(value) => None,
        _ => Some((key, value.get())),
    });
    if has_schema {
        object(kept)
    } else {
        object(kept.chain([("inputSchema", r#"{"type":"object"}"#)]))
    }
}

fn is_object_schema(schema: &RawValue) -> bool {
    serde_json::from_str::<Value>(schema.get())
        .is_ok_and(|it| it.get("type").and_then(Value::as_str) == Some("object"))
}

/// An object of fields whose values are JSON text.
fn object<'f>(fields: impl Iterator<Item = (&'f str, &'f str)>) -> String {
    let mut out = String::from("{");
    for (key, value) in fields {
        if 1 < out.len() {
            out.push(',');
        }
        let _infallible = write!(out, "{}:{value}", Value::from(key));
    }
    out.push('}');
    out
}

/// `params`, or none; refused where they can be read two ways.
pub(super) fn fields<'a>(
    params: Option<&'a RawValue>,
    known: &[&'static str],
) -> Result<Fields<'a>, RpcError> {
    Fields::read(params.map_or("{}", RawValue::get), known).map_err(|it| rpc::doubtful(&it))
}

/// The page that a cursor of this list names.
fn place(payload: &[u8], digest: &[u8; 32]) -> Option<usize> {
    let (page, of) = payload.split_first_chunk::<4>()?;
    (of == digest).then(|| usize::try_from(u32::from_be_bytes(*page)).ok())?
}

fn is_token(raw: &RawValue) -> bool {
    raw.get().starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit())
        && raw.get().len() <= 1024
}

/// What a call says of its trace. What stands in the message counts for more than what stands in the HTTP request that
/// carried it, which may have carried others too.
fn origin(ask: &Ask, request: &Request<'_>, meta: Option<&Fields<'_>>) -> Origin {
    let text = |key| meta.and_then(|it| it.text(key));
    let said = text("traceparent").and_then(|it| Parent::read(&it, text("tracestate").as_deref()));
    let (parent, carrier) = match said {
        Some(said) => (Some(said), ask.carrier.clone()),
        None => (ask.carrier.clone(), None),
    };
    let carrier = carrier.filter(|it| parent.as_ref().is_some_and(|one| one.span_id != it.span_id));
    let mcp = McpOrigin {
        session: ask.session.map(|it| it.id),
        protocol: ask.revision.text(),
        request_id: request.id.to_owned(),
    };
    Origin { parent, carrier, mcp: Some(mcp) }
}

/// Dispatches what all revisions have.
pub(super) async fn begin(
    server: &McpServer,
    ask: &Ask,
    request: &Request<'_>,
) -> Result<Work, RpcError> {
    match request.method.as_str() {
        "tools/list" => server.tools_list(ask, request.params).map(Work::Done),
        "tools/call" => server.tools_call(ask, request).await,
        other => Err(RpcError::unknown_method(other)),
    }
}
