//! How administration refuses.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use serde_json::json;

use crate::error::Error;

/// A failure as an answer: its status, and `{"error": {"message", "type", "code", "param"}}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let body = json!({ "error": {
            "message": error.message,
            "type": error.code.openai_type(),
            "code": error.code.name(),
            "param": error.param,
        } });
        let mut response = (error.http_status(), Json(body)).into_response();
        if let Some(seconds) = error.retry_after_seconds() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
