//! The request log, as routes of this table.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response, header};
use serde_json::Value;
use tower::ServiceExt;

use super::call::{Call, Failure, Reply};
use super::{Admin, secrets, table};
use crate::error::{Code, Error};

/// The largest page: a thousand entries with their bodies left out.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

pub(super) async fn logs(admin: Arc<Admin>, call: Call) -> Result<Reply, Failure> {
    ask(&admin, &call, "/api/logs").await
}

pub(super) async fn log(admin: Arc<Admin>, call: Call) -> Result<Reply, Failure> {
    let name =
        percent_encoding::utf8_percent_encode(&call.name, percent_encoding::NON_ALPHANUMERIC);
    ask(&admin, &call, &format!("/api/logs/{name}")).await
}

pub(super) async fn usage(admin: Arc<Admin>, call: Call) -> Result<Reply, Failure> {
    ask(&admin, &call, "/api/usage").await
}

/// Hands the request on to the routes over the request log.
async fn ask(admin: &Admin, call: &Call, path: &str) -> Result<Reply, Failure> {
    let uri = uri(call, path);
    let request = Request::get(uri).body(Body::empty());
    let request = request.map_err(|_| Error::of(Code::NotFound))?;
    let response = match admin.records.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    read(response).await
}

fn uri(call: &Call, path: &str) -> String {
    let mut query =
        url::form_urlencoded::Serializer::for_suffix(format!("{path}?"), path.len() + 1);
    for (name, value) in &call.query {
        if !table::ANYWHERE.iter().any(|it| it.name == name) {
            query.append_pair(name, value);
        }
    }
    query.finish()
}

async fn read(response: Response<Body>) -> Result<Reply, Failure> {
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, ANSWER_BYTES_MAX).await;
    let bytes =
        bytes.map_err(|_| secrets::internal("the answer of the request log is too large"))?;
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    if parts.status.is_success() {
        return Ok(Reply::json(body));
    }
    // Said again in this API's own form, which has the id of the request.
    let said = |name: &str| body.pointer(&format!("/error/{name}")).and_then(Value::as_str);
    let code = Code::ALL.iter().find(|it| Some(it.name()) == said("code"));
    let code = code.copied().unwrap_or(Code::NotFound);
    let message = said("message").map_or_else(|| code.text().to_owned(), str::to_owned);
    let mut error = Error::new(code, message);
    error.param = said("param").map(str::to_owned);
    let after =
        parts.headers.get(header::RETRY_AFTER).and_then(|it| it.to_str().ok()?.parse().ok());
    error.retry_after = after.map(Duration::from_secs);
    Err(error.into())
}
