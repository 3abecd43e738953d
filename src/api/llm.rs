//! What callers ask of models: from the request to the plan, and the answer's headers.

use std::borrow::Cow;
use std::sync::Arc;

use althing_llm::dialect::Dialect;
use althing_llm::scan;
use althing_storage::record::Kind;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use tokio::time::Instant;

use super::body::Body;
use super::face::{Face, Op};
use super::{read, record};
use crate::control::view::{KeyView, View};
use crate::error::{Code, Error};
use crate::execute::money::Clamp;
use crate::execute::outbound::{Inbound, refusal};
use crate::execute::{Run, kept};
use crate::gateway::{Arrival, Gateway};
use crate::listen::RequestBody;
use crate::mcp::caller::tools_for;
use crate::route::{self, Wanted};
use crate::settle::{Call, Ended};
use crate::telemetry::probe::Asked;
use crate::telemetry::trace::Parent;

/// Answers a request on a model.
pub async fn serve(
    gateway: &Arc<Gateway>,
    arrival: Arrival,
    face: Face<'_>,
    parts: &Parts,
    body: RequestBody,
) -> Response<Body> {
    let view = gateway.views.load_full();
    let caller = match gateway.caller(&view, &parts.headers, parts.uri.query(), arrival.wall) {
        Ok(it) => it,
        Err(error) => return failure(face.dialect, &error, arrival),
    };
    let asked = Request { gateway, view: &view, caller: &caller, face: &face, parts };
    let answered = answer(&asked, arrival, body).await;
    let mut response = answered.unwrap_or_else(|error| failure(face.dialect, &error, arrival));
    super::limits::put(&caller, response.headers_mut());
    response
}

/// An error in a dialect.
#[must_use]
pub fn failure(dialect: &dyn Dialect, error: &Error, arrival: Arrival) -> Response<Body> {
    let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
    let failure = kept::failure_of(error, arrival.id.hyphenated().encode_lower(&mut id));
    let mut response = Response::new(Body::full(dialect.encode_failure(&failure)));
    *response.status_mut() = error.http_status();
    super::put_error_headers(error, response.headers_mut());
    response
}

/// A request whose caller is known.
struct Request<'a> {
    gateway: &'a Arc<Gateway>,
    view: &'a Arc<View>,
    caller: &'a Arc<KeyView>,
    face: &'a Face<'a>,
    parts: &'a Parts,
}

async fn answer(
    asked: &Request<'_>,
    arrival: Arrival,
    body: RequestBody,
) -> Result<Response<Body>, Error> {
    let &Request { gateway, caller, face, parts, .. } = asked;
    let clamp = clamp(&parts.headers)?;
    let is_off_record = record::is_off(gateway, &parts.headers, caller)?;
    let seat = gateway.seat(caller)?;
    let body = read::body(gateway, &parts.headers, body).await?;
    let ready = Instant::now();
    let mut call = gateway.open_call((arrival, ready), Kind::ModelCall, caller).await?;
    call.seat = Some(seat);
    call.is_off_record = is_off_record;
    if let Some(otlp) = &gateway.otlp {
        let asked = Asked::Model { operation: face.op.operation(), route: face.op.route() };
        call.probe = Some(otlp.probe(Parent::of_headers(&parts.headers), asked));
    }
    match plan(asked, body.clone(), &mut call) {
        Ok((inbound, plan)) if counts_itself(&inbound, &plan) => {
            // The target's vendor counts nothing in this dialect: the gateway's own estimate, and no call.
            let tokens = althing_llm::tokens::estimate(inbound.body.len() as u64);
            let answer = face.dialect.encode_count_reply(tokens);
            call.close(&Ended::Ok(200));
            Ok(json(Response::new(Body::full(answer))))
        }
        Ok((inbound, plan)) => {
            let run = Run { gateway, caller, came: (ready, arrival.wall), inbound, plan, clamp };
            run.go(call).await
        }
        Err(error) => {
            let keep = call.keeps(gateway.settings.keep_bodies);
            kept::failure(keep, &mut call, &body, (face.dialect, &error));
            call.close(&Ended::by(&error));
            Err(error)
        }
    }
}

fn plan<'a>(
    asked: &Request<'a>,
    body: Bytes,
    call: &mut Call,
) -> Result<(Inbound<'a>, route::Plan), Error> {
    let &Request { gateway, view, caller, face, parts } = asked;
    let mut scanned = scan::scan(&body).map_err(scan_error)?;
    let sent = body.clone();
    let mut body = body;
    if !face.op.is_embedding()
        && !face.op.is_count()
        && face.op != Op::Completions
        && !scanned.has_functions()
        && let Some(with_tools) =
            tools_for(gateway, view, caller, face.op.dialect(), &parts.headers, &body)?
    {
        body = with_tools.into();
        scanned = scan::scan(&body).map_err(scan_error)?;
    }
    let model: Cow<'a, str> = match &face.model {
        Some(model) => Cow::Borrowed(model.strip_prefix("models/").unwrap_or(model)),
        None => Cow::Owned(
            scanned
                .model(&body)
                .ok_or_else(|| {
                    Error::field("model", "is required: name a model, such as `openai/gpt-4o`")
                })?
                .into_owned(),
        ),
    };
    call.record.model = Some(Arc::from(&*model));
    let fallbacks = scanned.fallbacks(&body).map_err(scan_error)?;
    let wanted = Wanted { model: &model, fallbacks: &fallbacks, dialect: face.op.dialect() };
    let plan = route::plan(view, caller, &wanted)?;
    drop(fallbacks);
    let stream = match face.op {
        Op::StreamGenerate => true,
        Op::Generate => false,
        op if op.is_embedding() || op.is_count() => false,
        _ => scanned.stream(),
    };
    let asks_for_events =
        parts.uri.query().is_some_and(|it| it.split('&').any(|it| it == "alt=sse"));
    let as_array = face.op == Op::StreamGenerate && !asks_for_events;
    let query = parts.uri.query().map(without_key);
    let inbound = Inbound {
        op: face.op,
        dialect: face.dialect,
        sent,
        body,
        scan: scanned,
        model,
        stream,
        as_array,
        query,
        headers: &parts.headers,
    };
    Ok((inbound, plan))
}

/// Whether tokens are to be counted for a target that cannot be asked.
fn counts_itself(inbound: &Inbound<'_>, plan: &route::Plan) -> bool {
    let speaks = |it: &route::Target| it.provider.vendor.speaks(inbound.op.dialect());
    inbound.op.is_count() && !plan.targets.first().is_some_and(speaks)
}

fn scan_error(error: scan::Error) -> Error {
    let code = match &error {
        scan::Error::Duplicate { .. } | scan::Error::CaseVariant { .. } => Code::DuplicateField,
        _ => return refusal(error.into()),
    };
    let field = error.field().map(str::to_owned);
    let mut told = Error::new(code, error.to_string());
    told.param = field;
    told
}

/// The query as the caller's vendor may see it: without the key, and without what the path of the operation says itself.
fn without_key(query: &str) -> String {
    let kept = query.split('&').filter(|it| !it.starts_with("key=") && !it.starts_with("alt="));
    kept.collect::<Vec<_>>().join("&")
}

const BUDGET: HeaderName = HeaderName::from_static("x-althing-budget");

fn clamp(headers: &HeaderMap) -> Result<Option<Clamp>, Error> {
    let Some(value) = headers.get(BUDGET) else { return Ok(None) };
    match value.to_str().ok() {
        Some("clamp") => Ok(Some(Clamp::Allowed)),
        Some("strict") => Ok(Some(Clamp::Forbidden)),
        _ => Err(Error::new(Code::InvalidHeader, "`x-althing-budget` must be `clamp` or `strict`")
            .with_param("x-althing-budget")),
    }
}

/// Sets the content type of a JSON answer.
pub(super) fn json(mut response: Response<Body>) -> Response<Body> {
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
