//! Health, readiness and metrics: for machines that look after machines.

use std::sync::atomic::Ordering;

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::body::Body;
use super::llm;
use crate::gateway::Gateway;

/// `GET /healthz`: the process answers.
#[must_use]
pub fn healthz() -> Response<Body> {
    llm::json(Response::new(Body::full(r#"{"status":"ok"}"#)))
}

/// `GET /readyz`: the node serves, else 503 with the reason.
#[must_use]
pub fn readyz(gateway: &Gateway) -> Response<Body> {
    let reason = if gateway.draining.load(Ordering::Relaxed) {
        Some("the node is shutting down")
    } else if 0 < gateway.recorder.stuck() {
        Some("records cannot be written to the disk")
    } else {
        (gateway.law_refuses)()
    };
    let body = match reason {
        None => json!({ "status": "ready", "index": gateway.views.load().index }),
        Some(reason) => json!({ "status": "unready", "reason": reason }),
    };
    let mut response = llm::json(Response::new(Body::full(body.to_string())));
    if reason.is_some() {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

/// `GET /metrics`, in Prometheus's text format.
#[must_use]
pub fn metrics(gateway: &Gateway) -> Response<Body> {
    let metrics = &gateway.metrics;
    let spool = gateway.recorder.spool().stats();
    let (backlog, disk_errors) = (spool.backlog_bytes, spool.disk_errors);
    let number = |it: u64| i64::try_from(it).unwrap_or(i64::MAX);
    metrics.records_backlog.set(number(backlog));
    metrics.records_waiting.set(number(gateway.recorder.stuck()));
    metrics.records_lost.set(number(gateway.recorder.lost()));
    metrics.records_disk_errors.set(number(disk_errors));
    metrics.law_index.set(i64::try_from(gateway.views.load().index).unwrap_or(i64::MAX));
    metrics.connections.set(i64::try_from(gateway.connections.open()).unwrap_or(i64::MAX));
    metrics.panics.set(i64::try_from(gateway.tasks.panics()).unwrap_or(i64::MAX));
    metrics.servers_ready.reset();
    for server in gateway.federation.status() {
        let is_ready = i64::from(server.state == crate::mcp::State::Ready);
        metrics.servers_ready.with_label_values(&[server.name.as_str()]).set(is_ready);
    }
    let mut response = Response::new(Body::full(metrics.text()));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// `/`: what this is. (Claude Code asks `HEAD /` first.)
#[must_use]
pub fn root() -> Response<Body> {
    let body = json!({ "name": "althing", "version": env!("CARGO_PKG_VERSION"), "openapi": "/api/openapi.json" });
    llm::json(Response::new(Body::full(body.to_string())))
}

/// Where an authorization server sends a person's browser back to.
pub const CALLBACK: &str = "/oauth/callback";

/// `GET /oauth/callback`: ends the authorisation of an MCP server. Whoever brings the `state` that an administrator's
/// request made began it; nothing else is needed, and nothing of the answer is shown.
pub async fn callback(gateway: &Gateway, query: Option<&str>) -> Response<Body> {
    let params: Vec<(String, String)> =
        url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let get = |name: &str| params.iter().find(|it| it.0 == name).map(|it| it.1.as_str());
    let (status, text) = match (get("state"), get("code")) {
        (Some(state), Some(code)) => {
            match gateway.federation.finish_authorize(state, code, get("iss")).await {
                Ok(server) => (
                    StatusCode::OK,
                    format!("The MCP server `{server}` is authorised. You may close this page."),
                ),
                Err(problem) => (
                    StatusCode::BAD_REQUEST,
                    format!("The authorisation did not succeed: {problem}. Begin again."),
                ),
            }
        }
        _ => (
            StatusCode::BAD_REQUEST,
            "The authorisation did not succeed: the answer brings no code. Begin again.".to_owned(),
        ),
    };
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
