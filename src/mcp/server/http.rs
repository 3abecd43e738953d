//! HTTP around JSON-RPC: what a client accepts, and how it is answered.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use tokio::sync::mpsc;

use super::rpc::{self, RpcError};

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

pub(super) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
pub(super) const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// What a client takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accepts {
    pub(super) json: bool,
    pub(super) events: bool,
    /// It names events before JSON, and so likes them better.
    pub(super) events_first: bool,
}

/// Reads `Accept`. Who says nothing, or `*/*`, gets JSON.
pub(super) fn accepts(headers: &HeaderMap) -> Accepts {
    let mut accepts =
        Accepts { json: !headers.contains_key(ACCEPT), events: false, events_first: false };
    let entries = headers.get_all(ACCEPT).iter().filter_map(|it| it.to_str().ok());
    for entry in entries.flat_map(|it| it.split(',')) {
        let mut parts = entry.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let is_refused = parts.any(|it| {
            let weight = it.strip_prefix("q=").and_then(|it| it.parse::<f32>().ok());
            weight.is_some_and(|it| it <= 0.0)
        });
        match kind.as_str() {
            _ if is_refused => {}
            "application/json" | "application/*" | "*/*" => accepts.json = true,
            "text/event-stream" | "text/*" => {
                accepts.events = true;
                accepts.events_first |= !accepts.json;
            }
            _ => {}
        }
    }
    accepts
}

/// Whether the body says it is JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok()).is_some_and(|it| {
        let kind = it.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("application/json")
    })
}

/// The one value of a header; an error where there are several, or it is not text.
pub(super) fn sole<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, String> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(format!("the header `{name}` stands twice"));
    }
    let text = value.to_str().map_err(|_| format!("the header `{name}` is not text"))?;
    Ok(Some(text.trim_matches([' ', '\t'])))
}

/// A JSON body.
pub(super) fn json(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A JSON-RPC error that answers `id`, under an HTTP status.
pub(super) fn refuse(status: StatusCode, id: &str, error: &RpcError) -> Response<Body> {
    json(status, rpc::failure(id, error))
}

/// A failure of the transport: a JSON-RPC error that answers nothing in particular.
pub(super) fn fail(status: StatusCode, message: &'static str) -> Response<Body> {
    refuse(status, "null", &RpcError::new(rpc::INVALID_REQUEST, message))
}

/// No body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Empty::new().boxed_unsync());
    *response.status_mut() = status;
    response
}

/// A method that the path does not take.
pub(super) fn wrong_method(allow: &'static str) -> Response<Body> {
    let mut response = fail(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

/// A stream of events.
pub(super) fn events(receiver: mpsc::Receiver<Bytes>) -> Response<Body> {
    let mut response = Response::new(ChannelBody(receiver).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    // Otherwise nginx keeps events back until its buffer is full.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// One message as the only event of a stream.
pub(super) fn only_event(message: &Bytes) -> Response<Body> {
    let mut response = events(mpsc::channel(1).1);
    *response.body_mut() = Full::new(event("message", message)).boxed_unsync();
    response
}

/// A body whose pieces come through a channel.
struct ChannelBody(mpsc::Receiver<Bytes>);

impl http_body::Body for ChannelBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|it| it.map(|piece| Ok(Frame::data(piece))))
    }
}

/// A server-sent event. Lines of `data` stay lines: a message may have been written with line breaks.
pub(super) fn event(name: &str, data: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(data.len() + name.len() + 24);
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    for line in data.split(|b| *b == b'\n' || *b == b'\r') {
        out.extend_from_slice(b"\ndata: ");
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b"\n\n");
    out.into()
}

/// What keeps an idle stream open.
pub(super) const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");
