//! One pool of connections to one gateway.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};

use super::Payload;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The pool.
pub(super) struct Net {
    client: Client<HttpsConnector<HttpConnector>, Payload>,
}

impl Net {
    /// A pool that trusts the usual authorities and the system's.
    pub(super) fn new() -> Result<Self, String> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|it| format!("TLS cannot be set up: {it}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(https) })
    }

    /// Sends a request and waits for the head of its reply; an error is a sentence.
    pub(super) async fn send(
        &self,
        request: Request<Payload>,
    ) -> Result<Response<Incoming>, String> {
        self.client.request(request).await.map_err(|error| {
            let mut deepest: &dyn std::error::Error = &error;
            while let Some(source) = deepest.source() {
                deepest = source;
            }
            deepest.to_string()
        })
    }
}
