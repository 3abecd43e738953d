//! One target: its keys in turn, until one is answered.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use rand::RngExt;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::egress::{Reply, SendError};
use super::money::Bound;
use super::outbound::Outbound;
use super::retry::{self, Verdict};
use super::{Answered, Run};
use crate::control::view::{KeyCell, ProviderView};
use crate::error::{Code, Error};
use crate::route::Target;
use crate::settle::Call;
use crate::telemetry::probe::Passed;
use crate::telemetry::trace::{TRACEPARENT, TRACESTATE};

/// How long a stream may take to begin where policy does not say. A whole reply begins when it is done, so that it may
/// take what the call may.
const STREAM_BEGINS_WITHIN: Duration = Duration::from_secs(120);
/// The most of an error body that is read.
const FAILURE_BYTES_MAX: usize = 64 * 1024;
const FAILURE_WITHIN: Duration = Duration::from_secs(5);
/// The most of an upstream's own words that a caller is shown.
const MESSAGE_CHARS_MAX: usize = 2_000;

/// What came of trying a target.
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is what comes of nearly every call, and is taken apart at once"
)]
pub enum Tried<'t> {
    /// It answered.
    Answered(Answered<'t>),
    /// It failed; another may not.
    Failed(Error),
    /// The request is at fault.
    Final(Error),
    /// The request was sent and its reply never came: the vendor may bill it, and would bill a second one too.
    Lost(Error),
}

/// Tries `target`.
pub async fn target<'t>(
    run: &Run<'_>,
    target: &'t Target,
    outbound: Outbound,
    (call, bound): (&mut Call, &Bound),
) -> Tried<'t> {
    let keys = keys(&target.provider, &target.model);
    if keys.is_empty() && !target.provider.keys.is_empty() {
        return Tried::Failed(no_key(target));
    }
    let mut last = Error::of(Code::UpstreamUnreachable);
    for at in 0..retry::ATTEMPTS_PER_TARGET_MAX {
        let end = call.started() + run.gateway.settings.request_timeout;
        if 0 < call.record.attempts && end <= Instant::now() {
            let text = "the call took as long as `limits.request_timeout` allows";
            last = Error::new(Code::UpstreamTimeout, text);
            break;
        }
        let key = if keys.is_empty() { None } else { keys.get(at as usize % keys.len()).copied() };
        call.record.attempts += 1;
        call.record.provider_key = key.map(|it| std::sync::Arc::clone(&it.name));
        let default = run.inbound.stream.then_some(STREAM_BEGINS_WITHIN);
        let within = (target.provider.timeout.or(default), end);
        let sent = exchange(target, &outbound, key, within, call).await;
        let (verdict, error, headers) = match sent {
            Ok(response) if retry::judge(response.status()) == Verdict::Answer => {
                count_answer(run, target);
                return Tried::Answered(Answered { target, outbound, response });
            }
            // A proxy's word that the reply did not come in time is no word of the vendor's.
            Ok(response) if bound.is_strict && retry::is_lost(response.status()) => {
                run.gateway.metrics.attempt(target.provider.name.as_str(), "lost");
                return Tried::Lost(failure(target, key, response).await);
            }
            Ok(response) => {
                let (verdict, headers) =
                    (retry::judge(response.status()), response.headers().clone());
                (verdict, failure(target, key, response).await, Some(headers))
            }
            Err(error) if bound.is_strict && error.code != Code::UpstreamUnreachable => {
                run.gateway.metrics.attempt(target.provider.name.as_str(), "lost");
                return Tried::Lost(error);
            }
            Err(error) if error.code == Code::UpstreamTimeout => (Verdict::Elsewhere, error, None),
            Err(error) => (Verdict::Again, error, None),
        };
        run.gateway.metrics.attempt(target.provider.name.as_str(), result(verdict));
        tracing::debug!(provider.name = %target.provider.name, attempt = at + 1, error = %error, "an attempt failed");
        match verdict {
            Verdict::Final => return Tried::Final(error),
            Verdict::Elsewhere => return Tried::Failed(error),
            Verdict::Answer | Verdict::OtherKey | Verdict::Again => {}
        }
        last = error;
        let is_last =
            at + 1 == retry::ATTEMPTS_PER_TARGET_MAX || retry::ATTEMPTS_MAX <= call.record.attempts;
        let other_key = verdict == Verdict::OtherKey && (at as usize) + 1 < keys.len();
        if is_last
            || (verdict == Verdict::OtherKey && !other_key && !is_rate(&last))
            || !run.gateway.retries.spend()
        {
            break;
        }
        if !other_key {
            let Some(pause) = retry::pause(at + 1, headers.as_ref()) else { break };
            // With another target to go to, waiting for this one is no use.
            if 1 < run.plan.targets.len() {
                break;
            }
            tokio::time::sleep(pause).await;
        }
    }
    Tried::Failed(last)
}

fn count_answer(run: &Run<'_>, target: &Target) {
    let provider = &target.provider;
    let counter = provider.answered.get_or_init(|| run.gateway.metrics.answered(&provider.label));
    counter.inc();
}

/// Why none of a provider's keys can be used for a model.
fn no_key(target: &Target) -> Error {
    let (provider, model) = (&target.provider.name, &target.model);
    let serves = |it: &KeyCell| it.models.iter().any(|pattern| pattern.matches(model));
    if target.provider.keys.iter().any(serves) {
        let text = format!(
            "the provider `{provider}` is not set up right: no secret of a key for `{model}` can be had; the log has the cause"
        );
        return Error::new(Code::UpstreamUnreachable, text);
    }
    let text = format!(
        "no key of the provider `{provider}` serves `{model}`: an administrator adds it to `models` of one of the provider's `keys`"
    );
    Error::new(Code::ModelUnknown, text).with_param("model")
}

const fn result(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Answer => "ok",
        Verdict::OtherKey => "key_refused",
        Verdict::Again => "failed",
        Verdict::Elsewhere => "timed_out",
        Verdict::Final => "request_refused",
    }
}

fn is_rate(error: &Error) -> bool {
    error.status == Some(StatusCode::TOO_MANY_REQUESTS)
}

/// The keys that serve `model`, in the order of a weighted draw.
fn keys<'p>(provider: &'p ProviderView, model: &str) -> SmallVec<[&'p KeyCell; 4]> {
    let fits = |it: &&KeyCell| {
        it.header.is_some() && it.models.iter().any(|pattern| pattern.matches(model))
    };
    let mut keys: SmallVec<[&KeyCell; 4]> = provider.keys.iter().filter(fits).collect();
    for at in 0..keys.len().saturating_sub(1) {
        let total: u64 = keys[at..].iter().map(|it| u64::from(it.weight)).sum();
        if total == 0 {
            break;
        }
        let mut draw = rand::rng().random_range(0..total);
        for other in at..keys.len() {
            let weight = u64::from(keys[other].weight);
            if draw < weight {
                keys.swap(at, other);
                break;
            }
            draw -= weight;
        }
    }
    keys
}

/// One request and the head of its answer, noted where the call is traced.
async fn exchange(
    target: &Target,
    outbound: &Outbound,
    key: Option<&KeyCell>,
    (within, end): (Option<Duration>, Instant),
    call: &mut Call,
) -> Result<Response<Reply>, Error> {
    let provider = &target.provider;
    let names = (Some(&target.model), key.map(|it| &it.name));
    let passed = call
        .probe
        .as_mut()
        .map(|it| it.attempt(Some(&provider.peer), Some(&provider.label), names));
    let now = call.pause();
    let until = within.map_or(end, |it| end.min(now + it));
    let sent = send(target, outbound, key, (now, until, passed)).await;
    call.resume();
    if let Some(probe) = &mut call.probe {
        match &sent {
            Ok(response) => {
                let is_over = retry::judge(response.status()) != Verdict::Answer;
                probe.answered(response.status().as_u16(), is_over);
            }
            Err(error) => probe.failed(error.code.name(), None),
        }
    }
    sent
}

/// Sends a request `now`. `until`: when the reply must have begun.
async fn send(
    target: &Target,
    outbound: &Outbound,
    key: Option<&KeyCell>,
    (now, until, passed): (Instant, Instant, Option<Passed>),
) -> Result<Response<Reply>, Error> {
    let mut request = request(target, outbound, key)?;
    if let Some(passed) = passed {
        request.headers_mut().insert(TRACEPARENT, passed.parent);
        if let Some(state) = passed.state {
            request.headers_mut().insert(TRACESTATE, state);
        }
    }
    let sent = tokio::time::timeout_at(until, target.provider.client.send(request)).await;
    match sent {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(SendError::Connect(cause))) => {
            tracing::debug!(provider.name = %target.provider.name, %cause, "cannot connect");
            Err(Error::new(
                Code::UpstreamUnreachable,
                format!("the provider `{}` cannot be reached", target.provider.name),
            ))
        }
        Ok(Err(SendError::Broken(cause))) => {
            tracing::debug!(provider.name = %target.provider.name, %cause, "the connection broke");
            Err(Error::new(
                Code::UpstreamFailed,
                format!("the connection to the provider `{}` broke", target.provider.name),
            ))
        }
        Err(_) => Err(Error::new(
            Code::UpstreamTimeout,
            format!(
                "the provider `{}` did not begin to answer within {} ms",
                target.provider.name,
                until.saturating_duration_since(now).as_millis()
            ),
        )),
    }
}

fn request(
    target: &Target,
    outbound: &Outbound,
    key: Option<&KeyCell>,
) -> Result<Request<Full<Bytes>>, Error> {
    let provider = &target.provider;
    let uri = provider.address(&outbound.path, &target.model);
    let uri = uri.map_err(|problem| Error::field("model", problem))?;
    let mut request = Request::new(Full::new(outbound.body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.reserve(8 + outbound.headers.len());
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("althing/", env!("CARGO_PKG_VERSION"))),
    );
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    append(headers, &outbound.headers);
    append(headers, &target.provider.headers);
    if let Some((name, value)) = key.and_then(|it| it.header.as_ref()) {
        headers.insert(name.clone(), value.clone());
    }
    Ok(request)
}

fn append(headers: &mut HeaderMap, more: &[(HeaderName, HeaderValue)]) {
    for (name, value) in more {
        headers.insert(name.clone(), value.clone());
    }
}

/// An upstream's error, as the caller is told: its own words where they are about the request, none where they are about our credential.
async fn failure(target: &Target, key: Option<&KeyCell>, response: Response<Reply>) -> Error {
    let status = response.status();
    let retry_after = retry::retry_after(response.headers());
    let body = super::collect(response.into_body(), FAILURE_BYTES_MAX);
    let body =
        super::collect_until(body, Instant::now() + FAILURE_WITHIN).await.unwrap_or_default();
    let told = target.provider.vendor.chat().decode_failure(status.as_u16(), &body);
    let name = &target.provider.name;
    let mut error = match status.as_u16() {
        401..=403 => {
            tracing::warn!(provider.name = %name, provider.key = key.map(|it| &*it.name), status = status.as_u16(), "a provider refuses this gateway's credential");
            Error::new(
                Code::UpstreamFailed,
                format!("the provider `{name}` refused this gateway's credential ({status})"),
            )
        }
        _ => {
            let words = told.message.map(|it| redact(&it, target, key)).unwrap_or_default();
            let text = match (words.is_empty(), keeps_status(status)) {
                (true, _) => format!("the provider `{name}` answered {status}"),
                (false, true) => words,
                // The caller sees our status, so the upstream's is in the text.
                (false, false) => {
                    format!("the provider `{name}` answered {}: {words}", status.as_u16())
                }
            };
            Error::new(Code::UpstreamFailed, text)
        }
    };
    if keeps_status(status) {
        error.status = Some(status);
    }
    error.upstream_type = told.kind;
    error.retry_after = retry_after;
    error
}

/// Whether an upstream's status is about the request, so that the caller is answered with it.
const fn keeps_status(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 404 | 413 | 422 | 429)
}

/// Takes our own secrets out of an upstream's words, should it repeat them, and then what is too long.
fn redact(text: &str, target: &Target, key: Option<&KeyCell>) -> String {
    let secrets = key.and_then(|it| it.header.as_ref()).into_iter().chain(&target.provider.headers);
    without(text, secrets.map(|it| &it.1))
}

fn without<'s>(text: &str, secrets: impl Iterator<Item = &'s HeaderValue>) -> String {
    let mut text = text.to_owned();
    for value in secrets {
        let Ok(value) = value.to_str() else { continue };
        let bare = value.strip_prefix("Bearer ").unwrap_or(value);
        for secret in [value, bare] {
            if 6 <= secret.len() {
                text = text.replace(secret, "[secret]");
            }
        }
    }
    if let Some((end, _)) = text.char_indices().nth(MESSAGE_CHARS_MAX) {
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests;
