//! The two exporters, over connections that trust what every other client of this node trusts.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    MetricExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

use super::{Error, Settings};

/// Sends one request and reads its answer. The port to the node's own HTTP client.
#[async_trait]
pub trait Http: Send + Sync {
    /// The answer, read whole.
    ///
    /// # Errors
    ///
    /// Why there is none, without secrets.
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, String>;
}

/// How the collector is reached.
pub enum Transport {
    /// Protobuf over HTTP.
    Http(Arc<dyn Http>),
    /// gRPC.
    Grpc(Channel),
}

/// What sends.
pub(super) struct Exporters {
    pub(super) spans: SpanExporter,
    pub(super) metrics: MetricExporter,
    /// How long an export may take, its retries included.
    pub(super) timeout: Duration,
    pub(super) interval: Duration,
    /// Why the last request over HTTP got no answer: the exporter does not say.
    pub(super) problem: Arc<Mutex<Option<String>>>,
}

impl Exporters {
    pub(super) fn new(
        settings: &Settings,
        transport: Transport,
        resource: &Resource,
    ) -> Result<Self, Error> {
        let problem = Arc::new(Mutex::new(None));
        let headers = headers(settings)?;
        let (mut spans, metrics) = match transport {
            Transport::Http(http) => {
                let client = Adapter {
                    http,
                    problem: Arc::clone(&problem),
                    timeout: settings.timeout,
                    headers,
                };
                over_http(settings, client)?
            }
            Transport::Grpc(channel) => over_grpc(settings, channel, headers)?,
        };
        spans.set_resource(resource);
        let (timeout, interval) = (settings.timeout, settings.interval);
        Ok(Self { spans, metrics, timeout, interval, problem })
    }
}

fn over_http(
    settings: &Settings,
    client: Adapter,
) -> Result<(SpanExporter, MetricExporter), Error> {
    let base = settings.endpoint.trim_end_matches('/');
    let spans = SpanExporter::builder()
        .with_http()
        .with_http_client(client.clone())
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{base}/v1/traces"))
        .with_timeout(settings.timeout)
        .build()?;
    let metrics = MetricExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{base}/v1/metrics"))
        .with_timeout(settings.timeout)
        .build()?;
    Ok((spans, metrics))
}

fn over_grpc(
    settings: &Settings,
    channel: Channel,
    headers: HeaderMap,
) -> Result<(SpanExporter, MetricExporter), Error> {
    let metadata = MetadataMap::from_headers(headers);
    let spans = SpanExporter::builder()
        .with_tonic()
        .with_channel(channel.clone())
        .with_metadata(metadata.clone())
        .with_timeout(settings.timeout)
        .build()?;
    let metrics = MetricExporter::builder()
        .with_tonic()
        .with_channel(channel)
        .with_metadata(metadata)
        .with_timeout(settings.timeout)
        .build()?;
    Ok((spans, metrics))
}

fn headers(settings: &Settings) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    for (name, value) in &settings.headers {
        let wrong = || Error::Header(name.clone());
        let key: HeaderName = name.parse().map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(value.expose_secret().trim()).map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    Ok(headers)
}

/// The node's HTTP client as the exporter wants one.
#[derive(Clone)]
struct Adapter {
    http: Arc<dyn Http>,
    problem: Arc<Mutex<Option<String>>>,
    timeout: Duration,
    headers: HeaderMap,
}

impl std::fmt::Debug for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Adapter")
    }
}

#[async_trait]
impl HttpClient for Adapter {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        request.headers_mut().extend(self.headers.clone());
        let sent = tokio::time::timeout(self.timeout, self.http.send(request)).await;
        let problem = match sent {
            Ok(Ok(response)) => {
                *self.problem.lock() = None;
                return Ok(response);
            }
            Ok(Err(problem)) => problem,
            Err(_) => format!("no answer within {:?}", self.timeout),
        };
        *self.problem.lock() = Some(problem.clone());
        Err(problem.into())
    }
}
