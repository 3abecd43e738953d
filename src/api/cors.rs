//! Cross-origin calls of browsers, for the origins that the configuration lists and no other.

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};

use super::body::Body;
use crate::listen::RequestBody;

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE, HEAD");
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "mcp-session-id, x-althing-request-id, x-althing-node, x-althing-provider, x-althing-model, x-althing-attempts, \
     x-althing-dropped, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, \
     x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, x-request-id, retry-after, etag, \
     althing-index",
);
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The origin of a request, where the configuration lists it.
#[must_use]
pub fn listed(origins: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    origins.iter().any(|it| it.as_bytes() == origin.as_bytes()).then(|| origin.clone())
}

/// The answer to a preflight request.
#[must_use]
pub fn preflight(request: &Request<RequestBody>) -> Option<Response<Body>> {
    let headers = request.headers();
    let asks = headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if request.method() != Method::OPTIONS || !asks {
        return None;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let answer = response.headers_mut();
    answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    answer.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    // No cookies are used, so any header may come: a key is one.
    if let Some(wanted) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    Some(response)
}

/// Lets the page of `origin` read the answer.
pub fn allow(origin: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
}
