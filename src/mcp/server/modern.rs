//! Revision 2026-07-28: no sessions. Each request says in `_meta` what the handshake said, and headers repeat what
//! a proxy needs; the two must agree.

use ::http::{HeaderMap, Response, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::http::{Accepts, Body, PROTOCOL_VERSION, refuse, sole};
use super::rpc::{self, Request, RpcError};
use super::sse::{Purpose, Watch, enter, is_full, whole};
use super::tools::{self, Work};
use super::{Ask, McpServer, Revision};
use crate::mcp::json::{Fields, is_object};

pub(super) const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
pub(super) const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
pub(super) const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
pub(super) const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

/// How long what the server can do may be kept, in milliseconds.
const DISCOVER_TTL_MS: u64 = 60_000;
const META: &[&str] = &["progressToken", META_VERSION, CLIENT_CAPABILITIES];
const PARAMS: &[&str] = &["name", "uri", "arguments", "_meta", "cursor", "notifications"];

/// The revision that a request names in its `_meta`, where it does.
pub(super) fn named_version(params: Option<&RawValue>) -> Option<String> {
    let params = Fields::read(params?.get(), &[]).ok()?;
    let meta = Fields::read(params.get("_meta")?.get(), &[]).ok()?;
    meta.text(META_VERSION)
}

impl McpServer {
    /// Answers a request of this revision.
    pub(super) async fn modern(
        &self,
        ask: Ask,
        headers: &HeaderMap,
        request: &Request<'_>,
        accepts: Accepts,
    ) -> Response<Body> {
        let id = request.id;
        if let Err((status, error)) = self.check(&ask, headers, request) {
            return refuse(status, id, &error);
        }
        let begun = match request.method.as_str() {
            "server/discover" => Ok(Work::Done(discover(&ask))),
            "subscriptions/listen" => return self.listen(ask, request, accepts),
            _ => tools::begin(self, &ask, request).await,
        };
        match begun {
            Ok(Work::Done(result)) => whole(&rpc::success(id, &result), accepts),
            Ok(Work::Call(running)) => self.answer_call(ask, id, *running, accepts).await,
            Err(error) => refuse(status_of(&error), id, &error),
        }
    }

    /// Whether headers and `_meta` are there and agree.
    fn check(
        &self,
        ask: &Ask,
        headers: &HeaderMap,
        request: &Request<'_>,
    ) -> Result<(), (StatusCode, RpcError)> {
        let bad = |error| (StatusCode::BAD_REQUEST, error);
        let params = tools::fields(request.params, PARAMS).map_err(bad)?;
        let meta = params.get("_meta").filter(|it| is_object(it)).map_or("{}", RawValue::get);
        let meta = Fields::read(meta, META).map_err(|it| bad(rpc::doubtful(&it)))?;
        check_headers(headers, request, &params)
            .map_err(|it| bad(RpcError::new(rpc::HEADER_MISMATCH, it)))?;
        let version = meta.text(META_VERSION);
        let shown = sole(headers, PROTOCOL_VERSION.as_str())
            .map_err(|it| bad(RpcError::new(rpc::HEADER_MISMATCH, it)))?;
        match (version.as_deref(), shown) {
            (Some(version), Some(shown)) if version == shown => {}
            (Some(_), None) => {
                let problem = "the header `MCP-Protocol-Version` is missing";
                return Err(bad(RpcError::new(rpc::HEADER_MISMATCH, problem)));
            }
            (Some(_), Some(_)) => {
                let problem = "the header `MCP-Protocol-Version` says other than `_meta`";
                return Err(bad(RpcError::new(rpc::HEADER_MISMATCH, problem)));
            }
            (None, _) => return Err(bad(missing(META_VERSION))),
        }
        if version.as_deref().and_then(Revision::of).is_none() {
            return Err(bad(unsupported(version.as_deref().unwrap_or_default())));
        }
        if !meta.get(CLIENT_CAPABILITIES).is_some_and(is_object) {
            return Err(bad(missing(CLIENT_CAPABILITIES)));
        }
        self.check_param_headers(ask, headers, &params)
            .map_err(|it| bad(RpcError::new(rpc::HEADER_MISMATCH, it)))
    }

    /// `Mcp-Param-*`: arguments that the tool's schema marks are repeated in headers.
    fn check_param_headers(
        &self,
        ask: &Ask,
        headers: &HeaderMap,
        params: &Fields<'_>,
    ) -> Result<(), String> {
        let Some(name) = params.text("name") else { return Ok(()) };
        let Some(tool) = ask.scope.find(&self.inner.options.catalogs.catalog(), &name) else {
            return Ok(());
        };
        let mut marks = Vec::new();
        collect_marks(&tool.input_schema, &mut Vec::new(), &mut marks);
        if marks.is_empty() {
            return Ok(());
        }
        let arguments: Value = params
            .get("arguments")
            .and_then(|it| serde_json::from_str(it.get()).ok())
            .unwrap_or_default();
        for (path, header) in marks {
            let name = format!("mcp-param-{}", header.to_ascii_lowercase());
            let value =
                path.iter().try_fold(&arguments, |value, key| value.get(key)).and_then(primitive);
            match (sole(headers, &name)?, value) {
                (None, None) => {}
                (Some(_), None) => {
                    return Err(format!("the header `{name}` repeats an argument that is absent"));
                }
                (None, Some(_)) => return Err(format!("the header `{name}` is missing")),
                (Some(shown), Some(value)) if decoded(shown).as_deref() == Some(value.as_str()) => {
                }
                (Some(_), Some(_)) => {
                    return Err(format!("the header `{name}` says other than the argument"));
                }
            }
        }
        Ok(())
    }

    /// `subscriptions/listen`: a stream that first says what it will tell of.
    fn listen(&self, ask: Ask, request: &Request<'_>, accepts: Accepts) -> Response<Body> {
        if !accepts.events {
            return super::http::fail(
                StatusCode::NOT_ACCEPTABLE,
                "accept `text/event-stream` to listen",
            );
        }
        let wanted = request
            .params
            .and_then(|it| serde_json::from_str::<Value>(it.get()).ok())
            .and_then(|it| it.get("notifications").cloned());
        let Some(Value::Object(wanted)) = wanted else {
            let error = RpcError::params("`notifications` must say what to tell of");
            return refuse(StatusCode::OK, request.id, &error);
        };
        let lists = wanted.get("toolsListChanged").and_then(Value::as_bool) == Some(true);
        let Some(guard) = enter(self, &ask.scope) else { return is_full() };
        let purpose = Purpose::Listen { id: request.id.to_owned(), lists };
        let watch = Watch { scope: ask.scope, purpose, session: None, guard };
        self.open_stream(watch, None).0
    }
}

/// Whether `Mcp-Method` and `Mcp-Name` say what the body says.
pub(super) fn check_headers(
    headers: &HeaderMap,
    request: &Request<'_>,
    params: &Fields<'_>,
) -> Result<(), String> {
    check_method(headers, &request.method)?;
    let key = match request.method.as_str() {
        "tools/call" | "prompts/get" => "name",
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => "uri",
        _ => return Ok(()),
    };
    let Some(name) = params.text(key) else { return Ok(()) };
    match sole(headers, "mcp-name")? {
        None => Err("the header `Mcp-Name` is missing".to_owned()),
        Some(shown) if decoded(shown).as_deref() == Some(name.as_str()) => Ok(()),
        Some(_) => Err(format!("the header `Mcp-Name` says other than `params.{key}`")),
    }
}

/// Whether `Mcp-Method` says what the body says.
pub(super) fn check_method(headers: &HeaderMap, method: &str) -> Result<(), String> {
    match sole(headers, "mcp-method")? {
        None => Err("the header `Mcp-Method` is missing".to_owned()),
        Some(shown) if shown == method => Ok(()),
        Some(_) => Err("the header `Mcp-Method` says other than `method`".to_owned()),
    }
}

/// A revision that is not spoken, and those that are.
pub(super) fn unsupported(requested: &str) -> RpcError {
    RpcError {
        code: rpc::UNSUPPORTED_VERSION,
        message: "this protocol revision is not spoken here".into(),
        data: Some(json!({ "supported": Revision::OFFERED, "requested": rpc::shown(requested) })),
    }
}

fn missing(key: &str) -> RpcError {
    RpcError::params(format!("`_meta[\"{key}\"]` is missing, or of a wrong type"))
}

/// Errors about the request itself are HTTP errors too, so that proxies see them.
fn status_of(error: &RpcError) -> StatusCode {
    match error.code {
        rpc::METHOD_NOT_FOUND => StatusCode::NOT_FOUND,
        _ if error.is_bad_request() => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

fn discover(ask: &Ask) -> String {
    let mut result = json!({
        "resultType": "complete",
        "supportedVersions": Revision::OFFERED,
        "capabilities": super::capabilities(),
        "ttlMs": DISCOVER_TTL_MS,
        "cacheScope": "private",
        "_meta": { SERVER_INFO: super::server_info() },
    });
    if let Some(text) = super::instructions(ask) {
        result["instructions"] = text.into();
    }
    result.to_string()
}

/// Places in a schema that `x-mcp-header` marks, reached through `properties` alone.
pub(crate) fn collect_marks(
    schema: &Value,
    path: &mut Vec<String>,
    marks: &mut Vec<(Vec<String>, String)>,
) {
    /// How deep and how many: a schema comes from a stranger.
    const MARKS_MAX: usize = 64;
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    for (name, part) in properties {
        if MARKS_MAX <= marks.len() || MARKS_MAX <= path.len() {
            return;
        }
        path.push(name.clone());
        match part.get("x-mcp-header").and_then(Value::as_str) {
            Some(header) if !header.is_empty() => marks.push((path.clone(), header.to_owned())),
            _ => {}
        }
        collect_marks(part, path, marks);
        path.pop();
    }
}

/// A value as a header repeats it.
pub(crate) fn primitive(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(it) => Some(it.to_string()),
        Value::Number(it) => Some(it.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A header value, which may be wrapped as `=?base64?…?=`.
fn decoded(value: &str) -> Option<String> {
    match value.strip_prefix("=?base64?").and_then(|it| it.strip_suffix("?=")) {
        Some(inner) => String::from_utf8(STANDARD.decode(inner).ok()?).ok(),
        None => Some(value.to_owned()),
    }
}

/// A notification of this revision is taken and means nothing: cancelling is closing the stream.
pub(super) fn notified(headers: &HeaderMap, method: &str) -> Result<Bytes, RpcError> {
    check_method(headers, method).map_err(|it| RpcError::new(rpc::HEADER_MISMATCH, it))?;
    Ok(Bytes::new())
}
