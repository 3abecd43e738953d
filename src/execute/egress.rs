//! The HTTP client of the data plane, over hyper: lanes where an upstream speaks plain HTTP, else a pool an upstream.

pub(crate) mod lanes;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};

use crate::trust;
use lanes::{Busy, Lanes};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const POOL_IDLE: Duration = Duration::from_secs(90);
const POOL_IDLE_PER_HOST_MAX: usize = 1024;

/// Why a request got no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No connection; nothing was sent.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The connection broke after the request may have been sent.
    #[error("the connection broke: {0}")]
    Broken(String),
}

/// A client cannot be built from its settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The CA file holds no certificate.
    #[error("`ca` holds no usable PEM certificate: {0}")]
    Ca(String),
    /// Not a proxy's address.
    #[error("`proxy` must be an address such as http://proxy.internal:3128")]
    Proxy,
    /// The TLS library refuses.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// How an upstream is reached.
#[derive(Debug, Clone, Default)]
pub struct Settings<'a> {
    /// PEM text of certificate authorities to trust beside the system's.
    pub ca_pem: Option<&'a str>,
    /// An HTTP proxy to tunnel through.
    pub proxy: Option<&'a str>,
}

/// A pool of connections to one upstream. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    pool: Kind,
    /// For plain HTTP without a proxy between.
    lanes: Option<Arc<Lanes>>,
}

/// The body of a reply. What is left of it when it is dropped is not waited for: the connection is closed.
#[derive(Debug)]
pub struct Reply {
    body: Incoming,
    /// The connection that brings it, where nobody else drives that.
    lane: Option<Busy>,
}

#[derive(Debug, Clone)]
enum Kind {
    Direct(Pool<HttpsConnector<HttpConnector>, Full<Bytes>>),
    Proxied(Pool<HttpsConnector<Tunnel<HttpConnector>>, Full<Bytes>>),
}

impl Client {
    /// A client with its own pool.
    ///
    /// # Errors
    ///
    /// [`BuildError`] where the settings cannot work.
    pub fn new(settings: &Settings<'_>) -> Result<Self, BuildError> {
        let tls = tls(settings.ca_pem)?;
        let http = http();
        let mut lanes = None;
        let pool = match settings.proxy {
            None => {
                lanes = Some(Lanes::new(http.clone(), POOL_IDLE));
                Kind::Direct(pool(https(tls, http)))
            }
            Some(proxy) => {
                let proxy: Uri = proxy.parse().map_err(|_| BuildError::Proxy)?;
                if proxy.host().is_none() || proxy.scheme_str() != Some("http") {
                    return Err(BuildError::Proxy);
                }
                Kind::Proxied(pool(https(tls, Tunnel::new(proxy, http))))
            }
        };
        Ok(Self { pool, lanes })
    }

    /// A client without TLS, for a provider that cannot be reached anyway.
    #[must_use]
    pub fn plain() -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map(|it| it.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
        #[expect(clippy::expect_used, reason = "the built-in provider speaks TLS 1.3")]
        let tls = tls.expect("TLS 1.3");
        Self { pool: Kind::Direct(pool(https(tls, HttpConnector::new()))), lanes: None }
    }

    /// Sends a request and waits for the head of its reply.
    ///
    /// # Errors
    ///
    /// [`SendError`] says whether the request can have reached the upstream.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Reply>, SendError> {
        if let Some(lanes) = &self.lanes
            && request.uri().scheme() == Some(&Scheme::HTTP)
        {
            return lanes.send(request).await;
        }
        let sent = match &self.pool {
            Kind::Direct(pool) => pool.request(request).await,
            Kind::Proxied(pool) => pool.request(request).await,
        };
        sent.map(|it| it.map(Reply::pooled)).map_err(|error| {
            let text = cause(&error);
            if error.is_connect() { SendError::Connect(text) } else { SendError::Broken(text) }
        })
    }
}

impl Reply {
    /// A reply that its connection's own task brings.
    pub(crate) const fn pooled(body: Incoming) -> Self {
        Self { body, lane: None }
    }

    fn driven(body: Incoming, lane: Busy) -> Self {
        let mut reply = Self { body, lane: Some(lane) };
        reply.free_lane();
        reply
    }

    /// Gives the connection back as soon as the body is over.
    fn free_lane(&mut self) {
        if self.body.is_end_stream()
            && let Some(lane) = self.lane.take()
        {
            lane.release();
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self { body, lane } = &mut *self;
        let Some(driver) = lane else { return Pin::new(body).poll_frame(cx) };
        let polled = driver.poll_frame(body, cx);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(_))) => self.free_lane(),
            Poll::Ready(Some(Err(_))) => self.lane = None,
            Poll::Ready(None) => {
                if let Some(lane) = self.lane.take() {
                    lane.release();
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn http() -> HttpConnector {
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    http.enforce_http(false);
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    http
}

/// The innermost cause: the outer ones only say "client error".
fn cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// What gRPC goes over: connections that trust what every other client trusts, and these too.
///
/// # Errors
///
/// [`BuildError`] where the settings cannot work.
pub fn connector(ca_pem: Option<&str>) -> Result<HttpsConnector<HttpConnector>, BuildError> {
    let tls = tls(ca_pem)?;
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    Ok(builder.enable_http2().wrap_connector(http()))
}

fn https<C>(tls: ClientConfig, connector: C) -> HttpsConnector<C> {
    HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .enable_http2()
        .wrap_connector(connector)
}

fn pool<C>(connector: HttpsConnector<C>) -> Pool<HttpsConnector<C>, Full<Bytes>>
where
    HttpsConnector<C>: hyper_util::client::legacy::connect::Connect + Clone,
{
    Pool::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_IDLE_PER_HOST_MAX)
        .build(connector)
}

fn tls(ca_pem: Option<&str>) -> Result<ClientConfig, BuildError> {
    use rustls_pki_types::pem::PemObject;

    let mut roots = Arc::clone(trust::roots());
    if let Some(pem) = ca_pem {
        let roots = Arc::make_mut(&mut roots);
        let mut added = 0_usize;
        for certificate in rustls_pki_types::CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|it| BuildError::Ca(it.to_string()))?;
            roots.add(certificate).map_err(|it| BuildError::Ca(it.to_string()))?;
            added += 1;
        }
        if added == 0 {
            return Err(BuildError::Ca("no certificate found".to_owned()));
        }
    }
    trust::client(roots).map_err(|it| BuildError::Tls(it.to_string()))
}

#[cfg(test)]
mod tests;
