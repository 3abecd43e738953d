//! The guarded client for what strangers' documents name.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;

use crate::mcp::upstream::http::{Client, Reach, read_all, resolve};

/// The largest document, in bytes.
const DOCUMENT_BYTES_MAX: usize = 256 * 1024;
/// How long one exchange may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Redirects of a metadata document that are followed.
const REDIRECTS_MAX: usize = 3;

/// Fetches documents and sends forms.
pub(crate) struct Fetcher {
    client: Client,
    /// The host that the admin wrote.
    host: String,
}

/// An answer with its body.
pub(super) struct Document {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
    pub(super) challenge: Option<String>,
}

impl Fetcher {
    /// A client that may reach public addresses and the host of `resource`, which an admin wrote.
    pub(crate) fn new(resource: &Uri) -> Result<Self, String> {
        let host = resource.host().unwrap_or_default().to_ascii_lowercase();
        let hosts = BTreeSet::from([host.clone()]);
        Ok(Self { client: Client::new(Reach::Public(Arc::new(hosts)))?, host })
    }

    /// Reads a URL that a document names: `https`, or `http` on the admin's own host.
    pub(super) fn allowed(&self, url: &str) -> Result<Uri, String> {
        let wrong =
            || "a URL in its OAuth metadata is none that may be used (https:// only)".to_owned();
        let parsed = url::Url::parse(url).map_err(|_| wrong())?;
        let is_own = parsed.host_str().is_some_and(|it| it.eq_ignore_ascii_case(&self.host));
        let is_plain = parsed.username().is_empty()
            && parsed.password().is_none()
            && parsed.fragment().is_none();
        match parsed.scheme() {
            "https" if is_plain => {}
            "http" if is_plain && is_own => {}
            _ => return Err(wrong()),
        }
        parsed.as_str().parse().map_err(|_| wrong())
    }

    /// Gets a document. Follows redirects, each target checked like the first.
    pub(super) async fn get(&self, url: &str) -> Result<Document, String> {
        let mut at = self.allowed(url)?;
        for _ in 0..=REDIRECTS_MAX {
            let mut request = Request::new(Full::default());
            *request.uri_mut() = at.clone();
            request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
            let (document, location) = self.exchange(request).await?;
            match location
                .filter(|_| document.status.is_redirection())
                .and_then(|it| resolve(&at, &it))
            {
                Some(target) => at = self.allowed(&target.to_string())?,
                None => return Ok(document),
            }
        }
        Err("its OAuth metadata redirects for ever".to_owned())
    }

    /// Sends a form or a document. Follows nothing: what is sent may hold secrets.
    pub(super) async fn post(
        &self,
        url: &str,
        kind: &'static str,
        body: String,
        proof: Option<HeaderValue>,
    ) -> Result<Document, String> {
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.allowed(url)?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Some(proof) = proof {
            request.headers_mut().insert(AUTHORIZATION, proof);
        }
        self.exchange(request).await.map(|(document, _)| document)
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(Document, Option<String>), String> {
        let exchange = async {
            let response = self.client.send(request).await.map_err(|it| it.to_string())?;
            let header = |name| {
                response
                    .headers()
                    .get(name)
                    .and_then(|it: &HeaderValue| it.to_str().ok())
                    .map(str::to_owned)
            };
            let (location, challenge) = (header(LOCATION), header(http::header::WWW_AUTHENTICATE));
            let status = response.status();
            let body = read_all(response.into_body(), DOCUMENT_BYTES_MAX)
                .await
                .map_err(|it| it.to_string())?;
            let body = body.ok_or_else(|| "an OAuth document is over the limit".to_owned())?;
            Ok((Document { status, body, challenge }, location))
        };
        let exchanged = tokio::time::timeout(TIMEOUT, exchange).await;
        exchanged.unwrap_or_else(|_| Err("an OAuth endpoint did not answer in time".to_owned()))
    }
}
