//! OTLP from its settings: the collector's address, and who this node is.

use std::sync::Arc;
use std::time::Duration;

use althing_config::Config;
use althing_config::section::{Otlp as Section, OtlpProtocol};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use secrecy::{ExposeSecret, SecretString};

use super::Error;
use super::first::node_secret;
use crate::control::Control;
use crate::execute::egress::{self, Client};
use crate::telemetry::metric::Metrics;
use crate::telemetry::otlp::{self, Flush, Http, Otlp, Transport};

/// The most of a collector's answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Starts OTLP where the configuration has it.
pub(super) fn start(
    config: &Config,
    control: &Control,
    metrics: &Arc<Metrics>,
) -> Result<Option<(Arc<Otlp>, Flush)>, Error> {
    let Some(section) = &config.telemetry.otlp else { return Ok(None) };
    let ca = section.ca.as_ref().map(|it| node_secret("telemetry.otlp.ca", it)).transpose()?;
    let transport = transport(section, ca.as_ref())?;
    let mut headers = std::collections::BTreeMap::new();
    for (name, value) in &section.headers {
        let secret = node_secret(&format!("telemetry.otlp.headers.{name}"), value)?;
        headers.insert(name.clone(), secret);
    }
    let mut resource = vec![
        ("service.name".to_owned(), "althing".to_owned()),
        ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id".to_owned(), control.identity().node_id.to_string()),
        ("host.name".to_owned(), config.node.name.to_string()),
    ];
    // What the file says counts, also where it says what we would.
    resource.retain(|it| !section.attributes.contains_key(&it.0));
    resource.extend(section.attributes.clone());
    let settings = otlp::Settings {
        sample: section.sample,
        endpoint: section.endpoint.clone(),
        headers,
        timeout: section.timeout.duration(),
        interval: section.interval.duration(),
        resource,
    };
    let started = otlp::start(&settings, transport, metrics);
    started.map(Some).map_err(|it| Error::Config(it.to_string()))
}

fn transport(section: &Section, ca: Option<&SecretString>) -> Result<Transport, Error> {
    let ca_pem = ca.map(ExposeSecret::expose_secret);
    let wrong = |it: &dyn std::fmt::Display| Error::Config(format!("telemetry.otlp: {it}"));
    match section.protocol {
        OtlpProtocol::Http => {
            let client = Client::new(&egress::Settings { ca_pem, proxy: None });
            Ok(Transport::Http(Arc::new(Collector(client.map_err(|it| wrong(&it))?))))
        }
        OtlpProtocol::Grpc => {
            let connector = egress::connector(ca_pem).map_err(|it| wrong(&it))?;
            let endpoint = tonic::transport::Endpoint::from_shared(section.endpoint.clone())
                .map_err(|it| wrong(&it))?
                .timeout(section.timeout.duration())
                .http2_keep_alive_interval(Duration::from_secs(30));
            Ok(Transport::Grpc(endpoint.connect_with_connector_lazy(connector)))
        }
    }
}

/// A collector over the node's own HTTP client.
struct Collector(Client);

#[async_trait]
impl Http for Collector {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
        let response = self.0.send(request.map(Full::new)).await.map_err(|it| it.to_string())?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        Ok(Response::from_parts(parts, body.map_err(|it| it.to_string())?.to_bytes()))
    }
}
