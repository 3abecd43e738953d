//! Every route. Hot ones are found here and go straight to the stages; the rest is an axum router.

pub mod admin;
pub mod body;
pub mod cors;
pub mod face;
pub mod limits;
pub mod llm;
pub mod mcp;
pub mod models;
pub mod ops;
pub mod read;
pub mod record;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use tower::ServiceExt;

use crate::error::{Code, Error};
use crate::gateway::{Arrival, Gateway};
use crate::listen::{Handler, RequestBody};
use crate::mcp::execute::Executor;
use crate::mcp::server::McpServer;
use body::Body;

/// All that answers requests.
pub struct Api {
    /// What the stages share.
    pub gateway: Arc<Gateway>,
    /// Our face to MCP clients.
    pub mcp: McpServer,
    /// Explicit execution.
    pub executor: Executor,
    /// Administration.
    pub admin: Router,
    /// What this listener serves.
    pub serves: Serves,
    /// The node's name, as answers say it.
    pub node: Option<HeaderValue>,
}

const ALTHING_REQUEST_ID: HeaderName = HeaderName::from_static("x-althing-request-id");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const NODE: HeaderName = HeaderName::from_static("x-althing-node");

/// What a listener serves; health and metrics always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// Everything.
    All,
    /// Models and MCP; administration has an address of its own.
    Data,
    /// Administration.
    Admin,
}

impl Handler for Api {
    async fn handle(
        self: Arc<Self>,
        _: SocketAddr,
        request: Request<RequestBody>,
    ) -> Response<Body> {
        let arrival = self.gateway.arrive();
        let origin = cors::listed(&self.gateway.settings.origins, request.headers());
        let mut response = match self.check_edge(&request) {
            Err(error) => {
                let dialect = face::dialect_of_path(request.uri().path());
                llm::failure(dialect, &error, arrival)
            }
            Ok(()) => match origin.as_ref().and_then(|_| cors::preflight(&request)) {
                Some(preflight) => preflight,
                None => self.route(arrival, request).await,
            },
        };
        self.finish(arrival, response.headers_mut());
        if self.gateway.draining.load(Ordering::Relaxed) {
            // The next request on this connection is for a node that goes on.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(origin) = origin {
            cors::allow(origin, response.headers_mut());
        }
        response
    }
}

impl Api {
    /// What answers requests of one listener.
    #[must_use]
    pub fn new(
        (gateway, mcp, executor, admin): (&Arc<Gateway>, McpServer, Executor, Router),
        serves: Serves,
    ) -> Self {
        let node = HeaderValue::from_str(&gateway.settings.node).ok();
        Self { gateway: Arc::clone(gateway), mcp, executor, admin, serves, node }
    }

    async fn route(&self, arrival: Arrival, request: Request<RequestBody>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        let is_admin = path == "/api" || path.starts_with("/api/");
        let is_ops = is_probe(path) || path == "/";
        let is_elsewhere = match self.serves {
            Serves::All => false,
            Serves::Data => is_admin,
            Serves::Admin => !is_admin && !is_ops && path != ops::CALLBACK,
        };
        if is_elsewhere {
            let error = Error::new(Code::NotFound, "this listener does not serve this route");
            return llm::failure(face::dialect_of_path(path), &error, arrival);
        }
        if let Some(face) = face::of_path(path) {
            if parts.method != Method::POST {
                return self.method_not_allowed(&parts, arrival, "POST");
            }
            return Box::pin(llm::serve(&self.gateway, arrival, face, &parts, body)).await;
        }
        match path {
            "/v1/mcp/tool/execute" if parts.method == Method::POST => {
                Box::pin(mcp::execute(self, arrival, &parts, body)).await
            }
            "/v1/mcp/tool/execute" => self.method_not_allowed(&parts, arrival, "POST"),
            _ if is_ops && parts.method != Method::GET && parts.method != Method::HEAD => {
                self.method_not_allowed(&parts, arrival, "GET, HEAD")
            }
            "/healthz" => ops::healthz(),
            "/readyz" => ops::readyz(&self.gateway),
            "/metrics" => ops::metrics(&self.gateway),
            ops::CALLBACK if parts.method == Method::GET => {
                Box::pin(ops::callback(&self.gateway, parts.uri.query())).await
            }
            "/v1/key" => models::own_key(self, arrival, &parts),
            "/" => ops::root(),
            _ if models::is_list(path) => models::list(self, arrival, &parts),
            // What is long is in a box of its own, so that its size is not moved about with every other request.
            _ if mcp::is_mcp(path) => Box::pin(mcp::serve(self, arrival, parts, body)).await,
            _ if is_admin => {
                let mut request = Request::from_parts(parts, axum::body::Body::new(body));
                request.extensions_mut().insert(admin::RequestId(arrival.id));
                match self.admin.clone().oneshot(request).await {
                    Ok(response) => response.map(Body::boxed),
                    Err(never) => match never {},
                }
            }
            _ if is_later(path) => {
                let error = Error::new(
                    Code::NotSupported,
                    format!("`{path}` is not served by this version"),
                );
                llm::failure(face::dialect_of_path(path), &error, arrival)
            }
            _ => {
                let error = Error::new(
                    Code::NotFound,
                    format!("there is no route `{}`", crate::mcp::server::shown(path)),
                );
                llm::failure(face::dialect_of_path(path), &error, arrival)
            }
        }
    }

    fn method_not_allowed(
        &self,
        parts: &http::request::Parts,
        arrival: Arrival,
        allowed: &'static str,
    ) -> Response<Body> {
        let text = format!("this route takes {allowed}, not {}", parts.method);
        let error = Error::new(Code::MethodNotAllowed, text);
        let mut response = llm::failure(face::dialect_of_path(parts.uri.path()), &error, arrival);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
        response
    }

    /// What is checked before anything is read: header size, and who may ask from a browser.
    fn check_edge(&self, request: &Request<RequestBody>) -> Result<(), Error> {
        let limit = self.gateway.settings.header_bytes_max;
        let bytes: usize = request
            .headers()
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 4)
            .sum();
        if limit < bytes + request.uri().path().len() + request.uri().query().map_or(0, str::len) {
            let text =
                format!("the request's headers are larger than {limit} bytes (`limits.header`)");
            return Err(Error::new(Code::HeaderTooLarge, text));
        }
        check_host(request)?;
        if self.gateway.draining.load(Ordering::Relaxed) && !is_probe(request.uri().path()) {
            let error =
                Error::of(Code::Draining).with_retry_after(std::time::Duration::from_secs(1));
            self.gateway.refused(&error);
            return Err(error);
        }
        mcp::check_origin(&self.gateway, request)
    }

    fn finish(&self, arrival: Arrival, headers: &mut HeaderMap) {
        let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
        let id = arrival.id.hyphenated().encode_lower(&mut buffer);
        if let Ok(id) = HeaderValue::from_str(id) {
            headers.insert(ALTHING_REQUEST_ID, id.clone());
            headers.insert(REQUEST_ID, id);
        }
        if let Some(node) = &self.node {
            headers.insert(NODE, node.clone());
        }
    }
}

/// What machines ask that look after machines: answered while the node drains, too.
fn is_probe(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics")
}

/// RFC 9112, section 3.2: a request of HTTP/1.1 names its host once, and RFC 9113, section 8.3.1: over HTTP/2 `:authority`
/// names it, and `Host` beside it names the same. Two names are read differently by two readers.
fn check_host(request: &Request<RequestBody>) -> Result<(), Error> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let problem = match (hosts.next(), hosts.next()) {
        (None, _) if request.version() != http::Version::HTTP_11 => return Ok(()),
        (Some(host), None) => match request.uri().authority() {
            Some(it) if !host.as_bytes().eq_ignore_ascii_case(it.as_str().as_bytes()) => {
                "the request's `Host` and the authority it is sent to must be the same"
            }
            _ => return Ok(()),
        },
        _ => "a request must name its `Host` once",
    };
    Err(Error::new(Code::InvalidHeader, problem).with_param("host"))
}

/// The host that a request names: most callers of HTTP/2 send no `Host`.
fn host(request: &Request<RequestBody>) -> Option<&str> {
    let authority = || request.uri().authority().map(http::uri::Authority::as_str);
    request.headers().get(header::HOST).map_or_else(authority, |it| it.to_str().ok())
}

/// Routes of the contract that later versions serve.
fn is_later(path: &str) -> bool {
    const LATER: [&str; 7] = [
        "/v1/audio/",
        "/v1/images/",
        "/v1/rerank",
        "/v1/moderations",
        "/bedrock/",
        "/cohere/",
        "/litellm/",
    ];
    LATER.iter().any(|it| {
        path.starts_with(it)
            || path.strip_prefix("/openai").is_some_and(|rest| rest.starts_with(it))
    })
}

/// Headers that an error brings beside its body.
pub(crate) fn put_error_headers(error: &Error, headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = error.retry_after_seconds() {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if let Some(tried) = &error.tried {
        // Names of models are callers' own, and need not fit into a header.
        for (name, value) in [
            ("x-althing-provider", HeaderValue::from_str(&tried.provider)),
            ("x-althing-model", HeaderValue::from_str(&tried.model)),
        ] {
            if let Ok(value) = value {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        headers.insert(HeaderName::from_static("x-althing-attempts"), tried.attempts.into());
    }
    if error.code == Code::MissingKey || error.code == Code::InvalidKey {
        headers
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"althing\""));
    }
}
