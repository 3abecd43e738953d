//! The built-in provider of `althing demo`: a model without a model.
//!
//! It listens on loopback and speaks OpenAI's chat completions and embeddings, so a demo takes the same way as any
//! provider. It answers deterministically but for the time, says in each answer that it is a demo, and calls tools it is offered.

mod answer;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use althing_domain::time::{Clock, UnixMillis};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::tasks::Tasks;

const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A stream's pieces come this far apart, so that it can be seen to stream.
const PIECE_EVERY: Duration = Duration::from_millis(25);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Starts the provider on a free port of loopback and tells where.
///
/// # Errors
///
/// What the system says.
pub async fn start(tasks: &Tasks, clock: &Arc<dyn Clock>) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let (tasks, clock) = (tasks.clone(), Arc::clone(clock));
    tasks.clone().spawn("demo provider", async move {
        loop {
            let accepted = tokio::select! {
                it = listener.accept() => it,
                () = tasks.stop().cancelled() => return,
            };
            let Ok((socket, _)) = accepted else { continue };
            let (stop, clock) = (tasks.stop().clone(), Arc::clone(&clock));
            tasks.spawn("demo connection", async move {
                let connection = hyper::server::conn::http1::Builder::new().serve_connection(
                    TokioIo::new(socket),
                    service_fn(|it| serve(it, clock.now())),
                );
                tokio::select! {
                    // A caller that breaks its connection is no matter of ours.
                    _ = connection => {}
                    () = stop.cancelled() => {}
                }
            });
        }
    });
    Ok(address)
}

async fn serve(request: Request<Incoming>, now: UnixMillis) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    if parts.method != Method::POST {
        return Ok(reply(StatusCode::NOT_FOUND, &failure("no such route")));
    }
    let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
        return Ok(reply(StatusCode::PAYLOAD_TOO_LARGE, &failure("the body is too large")));
    };
    let Ok(request) = serde_json::from_slice::<Value>(&body.to_bytes()) else {
        return Ok(reply(StatusCode::BAD_REQUEST, &failure("the body is not JSON")));
    };
    Ok(match parts.uri.path() {
        "/v1/chat/completions" if request["stream"] == true => streamed(&request, now),
        "/v1/chat/completions" => reply(StatusCode::OK, &answer::whole(&request, now)),
        "/v1/embeddings" => reply(StatusCode::OK, &answer::embeddings(&request)),
        _ => reply(StatusCode::NOT_FOUND, &failure("no such route")),
    })
}

fn failure(message: &str) -> Value {
    json!({ "error": { "message": message, "type": "invalid_request_error", "param": null, "code": null } })
}

fn reply(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())).boxed_unsync());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn streamed(request: &Value, now: UnixMillis) -> Response<Body> {
    let mut events: Vec<String> =
        answer::chunks(request, now).iter().map(|it| format!("data: {it}\n\n")).collect();
    events.push("data: [DONE]\n\n".to_owned());
    let frames = stream::unfold(events.into_iter(), |mut events| async move {
        let event = events.next()?;
        tokio::time::sleep(PIECE_EVERY).await;
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(event))), events))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}
