//! The HTTP client of MCP servers: what is sent with every request, and what is never followed.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderValue, LOCATION, USER_AGENT};
use http::uri::Scheme;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::address::is_public;
use super::redact::Redactor;
use super::wire::SendError;
use crate::execute::egress::lanes::Lanes;
use crate::execute::egress::{self, Reply};
use crate::execute::whole::Whole;
use crate::trust;

/// How long a TCP connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(60);
/// Redirects that are followed, all on the same host.
const REDIRECTS_MAX: usize = 3;
/// What is read of an answer that is an error, in bytes.
pub(crate) const ERROR_BYTES_MAX: usize = 64 * 1024;

/// Where a client may connect to.
#[derive(Debug, Clone)]
pub(crate) enum Reach {
    /// Anywhere: an admin wrote the address.
    Anywhere,
    /// Public addresses, and these hosts, which an admin wrote.
    Public(Arc<BTreeSet<String>>),
}

impl Reach {
    fn allows(&self, host: &str, address: IpAddr) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Public(hosts) => hosts.contains(host) || is_public(address),
        }
    }
}

/// Resolves a name once and gives out only addresses that may be dialled: what was checked is what is dialled.
#[derive(Debug, Clone)]
struct Resolver {
    reach: Reach,
}

#[derive(Debug, thiserror::Error)]
#[error("the host `{0}` has no address that may be reached")]
struct Unreachable(String);

impl tower::Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let reach = self.reach.clone();
        Box::pin(async move {
            let host = name.as_str().to_ascii_lowercase();
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> =
                found.filter(|it| reach.allows(&host, it.ip())).collect();
            if allowed.is_empty() {
                return Err(std::io::Error::other(Unreachable(host)));
            }
            Ok(allowed.into_iter())
        })
    }
}

/// A client with a pool of connections of its own.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    inner: hyper_util::client::legacy::Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>,
    lanes: Arc<Lanes>,
    reach: Reach,
}

impl Client {
    pub(crate) fn new(reach: Reach) -> Result<Self, String> {
        let mut tcp = HttpConnector::new_with_resolver(Resolver { reach: reach.clone() });
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_keepalive(Some(IDLE));
        let lanes = Lanes::new(tcp.clone(), IDLE);
        let tls = HttpsConnectorBuilder::new()
            .with_tls_config(tls()?)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(tcp);
        let inner = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(tls);
        Ok(Self { inner, lanes, reach })
    }

    /// Sends one request and returns the head of its answer. Follows nothing.
    pub(crate) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Reply>, SendError> {
        // A literal address is not resolved, so it is judged here.
        let host = request.uri().host().unwrap_or_default().to_ascii_lowercase();
        let literal = host.trim_matches(['[', ']']).parse::<IpAddr>();
        if literal.is_ok_and(|it| !self.reach.allows(&host, it)) {
            return Err(SendError::NotSent(Unreachable(host).to_string()));
        }
        let headers = request.headers_mut();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("althing/", env!("CARGO_PKG_VERSION"))),
        );
        if request.uri().scheme() == Some(&Scheme::HTTP) {
            return self.lanes.send(request).await.map_err(|error| match error {
                egress::SendError::Connect(_) => SendError::NotSent(error.to_string()),
                egress::SendError::Broken(_) => SendError::Lost(error.to_string()),
            });
        }
        let sent = self.inner.request(request).await.map_err(|error| {
            let reason = describe(&error);
            if error.is_connect() { SendError::NotSent(reason) } else { SendError::Lost(reason) }
        });
        sent.map(|it| it.map(Reply::pooled))
    }
}

/// The error with its causes, which name what happened; none of them holds a header or a body.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// The roots of the system and of Mozilla, read once.
fn tls() -> Result<rustls::ClientConfig, String> {
    static TLS: OnceLock<Result<rustls::ClientConfig, String>> = OnceLock::new();
    TLS.get_or_init(|| trust::client(Arc::clone(trust::roots())).map_err(|it| it.to_string()))
        .clone()
}

/// Reads a body to its end, at most `bytes_max` of it. `None`: there is more.
pub(crate) async fn read_all(
    mut body: Reply,
    bytes_max: usize,
) -> Result<Option<Bytes>, SendError> {
    let mut whole = Whole::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|it| SendError::Lost(describe(&it)))?;
        if let Ok(data) = frame.into_data()
            && !whole.push(data, 0, bytes_max)
        {
            return Ok(None);
        }
    }
    Ok(Some(whole.into_bytes()))
}

/// Whether the answer says that its body is of this media type.
pub(crate) fn is_media(response: &Response<Reply>, media: &str) -> bool {
    let value =
        response.headers().get(CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or_default();
    value.split(';').next().is_some_and(|it| it.trim().eq_ignore_ascii_case(media))
}

/// Why there is no proof of who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Denied {
    /// Somebody must do something: authorise, or change the settings.
    Definitely(String),
    /// It failed now, and may succeed later without anybody.
    Perhaps(String),
}

impl From<Denied> for SendError {
    fn from(it: Denied) -> Self {
        match it {
            Denied::Definitely(reason) => Self::Unauthorized(reason),
            Denied::Perhaps(reason) => Self::NotSent(reason),
        }
    }
}

/// Gives the gateway's proof of who it is to a server.
#[async_trait::async_trait]
pub(crate) trait Credentials: Send + Sync {
    /// The value of `authorization` for the next request.
    async fn authorization(&self) -> Result<HeaderValue, Denied>;

    /// Takes note that `used` was refused with this `WWW-Authenticate`. `Ok`: another try makes sense.
    async fn refused(&self, used: &HeaderValue, challenge: Option<&str>) -> Result<(), Denied>;
}

/// A server's address, with what goes with every request to it.
pub(crate) struct Endpoint {
    pub(crate) client: Client,
    /// Where requests go. Changed only by a permanent redirect on the same host.
    pub(crate) uri: arc_swap::ArcSwap<Uri>,
    /// Configured headers.
    pub(crate) headers: HeaderMap,
    pub(crate) credentials: Option<Arc<dyn Credentials>>,
    /// Told of every proof that is sent, so that a server cannot hand it to a caller.
    pub(crate) redactor: Arc<Redactor>,
}

/// Reads an absolute `http` or `https` URL.
pub(crate) fn absolute(url: &str) -> Result<Uri, String> {
    let uri: Uri = url.parse().map_err(|_| "`url` is no URL".to_owned())?;
    match uri.scheme_str() {
        Some("http" | "https") if uri.host().is_some_and(|it| !it.is_empty()) => {}
        _ => return Err("`url` must begin with https:// or http:// and name a host".to_owned()),
    }
    if uri.authority().is_some_and(|it| it.as_str().contains('@')) {
        return Err("`url` must not hold a user or password; use `headers`".to_owned());
    }
    Ok(uri)
}

impl Endpoint {
    /// Sends a request, again once where its credentials were refused and can be renewed.
    pub(crate) async fn send(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response<Reply>, SendError> {
        let Some(credentials) = &self.credentials else {
            let response = self.follow(method, uri, headers, body).await?;
            return refused(response, || {
                "its answer is HTTP status 401; set `headers` or `auth`".to_owned()
            });
        };
        for is_last in [false, true] {
            let mut headers = headers.clone();
            let proof = credentials.authorization().await?;
            self.redactor.learn(&proof);
            headers.insert(http::header::AUTHORIZATION, proof.clone());
            let response = self.follow(method, uri, &headers, body).await?;
            let challenge = response
                .headers()
                .get(http::header::WWW_AUTHENTICATE)
                .and_then(|it| it.to_str().ok())
                .map(str::to_owned);
            let is_scope = response.status() == StatusCode::FORBIDDEN
                && challenge.as_deref().is_some_and(|it| it.contains("insufficient_scope"));
            if response.status() != StatusCode::UNAUTHORIZED && !is_scope {
                return Ok(response);
            }
            credentials.refused(&proof, challenge.as_deref()).await?;
            if is_last {
                return Err(SendError::Unauthorized(
                    "its answer is HTTP status 401 although the token is fresh".to_owned(),
                ));
            }
        }
        Err(SendError::Unauthorized("it refuses every token".to_owned()))
    }

    /// Sends a request and follows redirects that keep method, body and host.
    async fn follow(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response<Reply>, SendError> {
        let mut at = uri.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = method.clone();
            *request.uri_mut() = at.clone();
            *request.headers_mut() = self.headers.clone();
            request.headers_mut().extend(headers.clone());
            let response = self.client.send(request).await?;
            if !matches!(
                response.status(),
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
            ) {
                return Ok(response);
            }
            let target = response
                .headers()
                .get(LOCATION)
                .and_then(|it| it.to_str().ok())
                .and_then(|it| resolve(&at, it));
            match target {
                Some(target) if is_same_host(&at, &target) => at = target,
                _ => {
                    return Err(SendError::NotSent(
                        "it redirects to another host; set `url` to where it is".to_owned(),
                    ));
                }
            }
        }
        Err(SendError::NotSent("it redirects for ever".to_owned()))
    }
}

fn refused(
    response: Response<Reply>,
    text: impl FnOnce() -> String,
) -> Result<Response<Reply>, SendError> {
    if response.status() == StatusCode::UNAUTHORIZED {
        Err(SendError::Unauthorized(text()))
    } else {
        Ok(response)
    }
}

/// `reference` as seen from `base`. `None`: it is no HTTP URL.
pub(crate) fn resolve(base: &Uri, reference: &str) -> Option<Uri> {
    let base = url::Url::parse(&base.to_string()).ok()?;
    let joined = base.join(reference).ok()?;
    matches!(joined.scheme(), "http" | "https").then(|| joined.as_str().parse().ok()).flatten()
}

/// The same host and port, and not from TLS to plain text.
pub(crate) fn is_same_host(from: &Uri, to: &Uri) -> bool {
    let port = |it: &Uri| {
        it.port_u16().unwrap_or_else(|| if it.scheme_str() == Some("https") { 443 } else { 80 })
    };
    let host = |it: &Uri| it.host().unwrap_or_default().to_ascii_lowercase();
    let is_upgrade = from.scheme_str() == Some("http") && to.scheme_str() == Some("https");
    let is_same_scheme = from.scheme_str() == to.scheme_str();
    host(from) == host(to) && (is_upgrade || (is_same_scheme && port(from) == port(to)))
}

#[cfg(test)]
mod tests;
