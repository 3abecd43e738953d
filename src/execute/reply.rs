//! An upstream's answer, on its way to the caller.

use std::fmt::Write as _;
use std::pin::pin;
use std::sync::Arc;

use althing_llm::chat::Alias;
use althing_llm::dialect::{Dialect, ReplyContext, gemini};
use althing_llm::sse;
use althing_llm::tap::{self, Shape, Tap};
use althing_llm::usage::Usage;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use super::egress::Reply;
use super::money::Bound;
use super::outbound::{ReplyWay, refusal};
use super::stream::{Array, Parts, PassBody, Translation, Way};
use super::{Answered, Run, at_once, collect, collect_until, kept};
use crate::api::body::Body;
use crate::api::face::Op;
use crate::error::{Code, Error};
use crate::settle::{Call, Ended};

/// The largest reply that is taken whole.
const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

const PROVIDER: HeaderName = HeaderName::from_static("x-althing-provider");
const MODEL: HeaderName = HeaderName::from_static("x-althing-model");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-althing-attempts");
const MAX_OUTPUT: HeaderName = HeaderName::from_static("x-althing-max-output");
const DROPPED: HeaderName = HeaderName::from_static("x-althing-dropped");

/// How much a header says of what was dropped.
const DROPPED_BYTES_MAX: usize = 1024;

/// Turns an upstream's answer into the caller's, and closes the call when it ends.
///
/// # Errors
///
/// What the caller is told; the call is closed by it.
pub async fn deliver(
    run: &Run<'_>,
    answered: Answered<'_>,
    bound: Bound,
    mut call: Box<Call>,
) -> Result<Response<Body>, Error> {
    let headers = headers(&answered, &bound, &call);
    let is_stream = run.inbound.stream && is_event_stream(answered.response.headers());
    if is_stream {
        return Ok(stream(run, answered, bound, headers, call));
    }
    let whole = whole(run, answered, bound, &mut call).await;
    match whole {
        Ok((status, body)) => {
            call.close(&Ended::Ok(status.as_u16()));
            let mut response = Response::new(Body::full(body));
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Ok(response)
        }
        Err(error) => {
            run.keep_failure(&mut call, &error);
            let error = call.told(error);
            call.close(&Ended::by(&error));
            Err(error)
        }
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|it| it.as_bytes().starts_with(b"text/event-stream"))
}

/// Takes a reply whole, notes its usage, and gives it in the caller's dialect.
async fn whole(
    run: &Run<'_>,
    answered: Answered<'_>,
    bound: Bound,
    call: &mut Call,
) -> Result<(StatusCode, Bytes), Error> {
    let status = answered.response.status();
    let mut collecting = pin!(collect(answered.response.into_body(), REPLY_BYTES_MAX));
    let body = match at_once(collecting.as_mut()).await {
        Some(it) => it,
        None => {
            call.pause();
            let until = call.started() + run.gateway.settings.request_timeout;
            let body = collect_until(collecting, until).await;
            call.resume();
            body
        }
    };
    let body = match body {
        Ok(it) => it,
        Err(error) => {
            call.meter(bound.lost(), true);
            return Err(error);
        }
    };
    if let Some(probe) = &mut call.probe {
        probe.whole(&body);
    }
    let result = match &answered.outbound.reply {
        ReplyWay::Same => same(run, bound, &body, call).map(|()| body.clone()),
        ReplyWay::From(dialect) => {
            let unstated = bound.unstated(run.inbound.body.len() as u64, body.len() as u64);
            translate((run, unstated), *dialect, &body, call, &answered.outbound.aliases)
        }
        ReplyWay::Embeddings(dialect, request) => {
            // Gemini states no usage, and what cannot be read was made all the same.
            let unstated = bound.unstated(run.inbound.body.len() as u64, body.len() as u64);
            call.meter(unstated, true);
            dialect.decode_embed_reply(&body).map_err(refusal).map(|mut reply| {
                if reply.usage != Usage::default() {
                    call.meter(reply.usage, false);
                }
                reply.model = run.inbound.model.as_ref().to_owned();
                Bytes::from(run.inbound.dialect.encode_embed_reply(request, &reply))
            })
        }
    };
    let (shown, failed) = (result.as_ref().unwrap_or(&body), result.is_err());
    let keep = call.keeps(run.gateway.settings.keep_bodies);
    kept::reply(keep, call, &run.inbound.sent, (shown, failed));
    result.map(|it| (status, it))
}

/// Reads usage from a reply that passes as it is.
fn same(run: &Run<'_>, bound: Bound, body: &Bytes, call: &mut Call) -> Result<(), Error> {
    if run.inbound.op.is_count() {
        return Ok(());
    }
    let shape = Shape::of(run.inbound.op.dialect());
    let stated = shape.and_then(|it| tap::usage_of_reply(it, body));
    // Some servers state zeros where they do not count.
    if let Some(usage) = stated.filter(|it| *it != Usage::default()) {
        call.meter(usage, false);
        return Ok(());
    }
    call.meter(bound.unstated(run.inbound.body.len() as u64, body.len() as u64), true);
    // Without usage it may be no reply at all.
    match serde_json::from_slice::<serde::de::IgnoredAny>(body) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::new(
            Code::UpstreamMalformed,
            "the upstream answered with something that is not JSON",
        )),
    }
}

fn translate(
    (run, unstated): (&Run<'_>, Usage),
    upstream: &dyn Dialect,
    body: &[u8],
    call: &mut Call,
    aliases: &Arc<[Alias]>,
) -> Result<Bytes, Error> {
    let reply = upstream.decode_reply(body).map_err(|error| {
        call.meter(unstated, true);
        refusal(error)
    })?;
    if reply.usage == Usage::default() {
        call.meter(unstated, true);
    } else {
        call.meter(reply.usage, false);
    }
    Ok(run.inbound.dialect.encode_reply(&reply, &context(run, call, aliases)).into())
}

fn context(run: &Run<'_>, call: &Call, aliases: &Arc<[Alias]>) -> ReplyContext {
    ReplyContext {
        model: run.inbound.model.as_ref().to_owned(),
        created: call.record.at_ms / 1000,
        id: uuid::Uuid::from_u128(call.record.id).simple().to_string(),
        stream_usage: run.inbound.scan.include_usage() == Some(true),
        aliases: Arc::clone(aliases),
    }
}

fn stream(
    run: &Run<'_>,
    answered: Answered<'_>,
    bound: Bound,
    mut headers: HeaderMap,
    mut call: Box<Call>,
) -> Response<Body> {
    let status = answered.response.status();
    let context = context(run, &call, &answered.outbound.aliases);
    let request_id = uuid::Uuid::from_u128(call.record.id).to_string();
    let way = way(run, &answered);
    let passes = matches!(way, Way::Pass { .. });
    // From here on the caller's connection and the upstream set the pace.
    call.pause();
    let keep = call.keeps(run.gateway.settings.keep_bodies);
    let upstream: Reply = answered.response.into_body();
    let parts = Parts {
        upstream,
        way,
        encoder: if run.inbound.as_array && !passes {
            gemini::array_encoder(&context)
        } else {
            run.inbound.dialect.stream_encoder(&context)
        },
        array: (run.inbound.as_array && passes).then(Array::default),
        call,
        input_estimate: bound.begun(run.inbound.body.len() as u64),
        bound,
        kept: kept::Stream::of(keep, &run.inbound.sent),
        idle: run.gateway.settings.idle_stream,
        within: run.gateway.settings.request_timeout,
        status: status.as_u16(),
        request_id,
    };
    let kind =
        if run.inbound.as_array { "application/json" } else { "text/event-stream; charset=utf-8" };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let mut response = Response::new(Body::Pass(Box::new(PassBody::new(parts))));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn way(run: &Run<'_>, answered: &Answered<'_>) -> Way {
    let dialect = match &answered.outbound.reply {
        ReplyWay::Same => {
            let shape = Shape::of(run.inbound.op.dialect()).unwrap_or(Shape::OpenAi);
            let tap = Tap::new(shape);
            let hides = matches!(run.inbound.op, Op::Chat | Op::Completions)
                && run.inbound.scan.include_usage() != Some(true);
            return Way::Pass { tap: Box::new(if hides { tap.hiding_usage() } else { tap }) };
        }
        ReplyWay::From(dialect) | ReplyWay::Embeddings(dialect, _) => *dialect,
    };
    Way::Translate(Box::new(Translation {
        parser: sse::Parser::new(sse::EVENT_BYTES_MAX),
        decoder: dialect.stream_decoder(),
        events: Vec::new(),
        usage: None,
        text_bytes: 0,
        is_whole: false,
        failure: None,
    }))
}

/// What the answer says of its way.
fn headers(answered: &Answered<'_>, bound: &Bound, call: &Call) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(16);
    let mut put = |name: HeaderName, value: HeaderValue| {
        headers.insert(name, value);
    };
    let target = answered.target;
    for (name, shown) in [(PROVIDER, &target.provider.shown), (MODEL, &target.known.shown)] {
        if let Some(shown) = shown {
            put(name, shown.clone());
        }
    }
    let attempts = match call.record.attempts {
        1 => HeaderValue::from_static("1"),
        more => more.into(),
    };
    put(ATTEMPTS, attempts);
    if let Some(most) = bound.max_output {
        put(MAX_OUTPUT, most.into());
    }
    let dropped = &answered.outbound.dropped;
    if !dropped.is_empty()
        && let Ok(names) = HeaderValue::from_str(&shown(dropped))
    {
        put(DROPPED, names);
    }
    headers
}

/// The names of what was dropped, as many as fit, in letters that a header may have. Some are the caller's own.
fn shown(names: &[String]) -> String {
    let mut text = String::new();
    for (at, name) in names.iter().enumerate() {
        if DROPPED_BYTES_MAX < text.len() + name.len() {
            // Writing into a string cannot fail.
            let _ = write!(text, "{} more", names.len() - at);
            return text;
        }
        text.extend(name.chars().map(|it| if it.is_ascii_graphic() { it } else { '?' }));
        text.push_str(", ");
    }
    text.truncate(text.len().saturating_sub(2));
    text
}

#[cfg(test)]
mod tests;
