//! One administrative request, and what it is answered with.

use std::collections::BTreeMap;

use althing_config::Problem;
use althing_domain::command::{Expect, Refusal};
use althing_domain::object::Kind;
use axum::body::{Body, Bytes};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::error::{Code, Error};

/// A request, its body read and its caller known to be an administrator.
#[derive(Debug, Clone)]
pub struct Call {
    /// The kind that the route is about.
    pub kind: Option<Kind>,
    /// The name in the path.
    pub name: String,
    /// The query.
    pub query: BTreeMap<String, String>,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The request's id: also that of the command, so that a repeated one is applied once.
    pub request_id: Uuid,
}

/// An answer that is not an error.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Content,
    /// The version of the object, for `ETag`.
    pub version: Option<u64>,
    /// The log index the answer stands at.
    pub index: Option<u64>,
}

/// A body.
#[derive(Debug)]
pub enum Content {
    /// JSON.
    Json(Value),
    /// YAML.
    Yaml(String),
}

/// An answer that is an error.
#[derive(Debug)]
pub struct Failure {
    /// What kind.
    pub error: Box<Error>,
    /// All that is wrong with what was sent.
    pub problems: Vec<Problem>,
}

impl Call {
    /// The same as another command: the law answers a repeated one as it did the first time, a refusal too.
    #[must_use]
    pub fn again(self) -> Self {
        Self { request_id: Uuid::new_v4(), ..self }
    }

    /// A query parameter.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// Whether a switch is on: `?dry_run=1`.
    ///
    /// # Errors
    ///
    /// 400 where it is neither on nor off.
    pub fn flag(&self, name: &str) -> Result<bool, Failure> {
        match self.param(name) {
            None | Some("0" | "false") => Ok(false),
            Some("" | "1" | "true") => Ok(true),
            Some(_) => Err(Error::field(name, "write 1 or 0").into()),
        }
    }

    /// A number in the query, within bounds.
    ///
    /// # Errors
    ///
    /// 400 where it is none.
    pub fn number(&self, name: &str, default: u64, range: (u64, u64)) -> Result<u64, Failure> {
        let Some(text) = self.param(name) else { return Ok(default) };
        match text.parse::<u64>() {
            Ok(number) if range.0 <= number && number <= range.1 => Ok(number),
            Ok(_) | Err(_) => {
                let text = format!("write a number from {} to {}", range.0, range.1);
                Err(Error::field(name, text).into())
            }
        }
    }

    /// The body as JSON. An empty one is an empty object.
    ///
    /// # Errors
    ///
    /// 400 where it is not JSON, or a key stands twice.
    pub fn json(&self) -> Result<Value, Failure> {
        let text = self.text()?;
        if text.trim().is_empty() {
            return Ok(json!({}));
        }
        crate::mcp::json::strict(text).map_err(|fault| {
            let code = match fault {
                crate::mcp::json::Fault::Twice { .. } => Code::DuplicateField,
                _ => Code::InvalidJson,
            };
            Error::new(code, format!("the body: {fault}")).into()
        })
    }

    /// The body as text.
    ///
    /// # Errors
    ///
    /// 400 where it is not UTF-8.
    pub fn text(&self) -> Result<&str, Failure> {
        std::str::from_utf8(&self.body)
            .map_err(|_| Error::new(Code::InvalidJson, "the body is not UTF-8").into())
    }

    /// What must be there for the write to happen, by `If-Match`.
    ///
    /// # Errors
    ///
    /// 400 where the header holds no version.
    pub fn if_match(&self) -> Result<Option<Expect>, Failure> {
        let Some(value) = self.headers.get(header::IF_MATCH) else { return Ok(None) };
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(Some(Expect::Present));
        }
        let version = text.trim_matches('"').parse().map_err(|_| {
            Error::new(
                Code::InvalidHeader,
                "`If-Match` must be the ETag of the object as it was read, such as \"12\", or *",
            )
        })?;
        Ok(Some(Expect::Version(version)))
    }
}

impl Reply {
    /// 200 with JSON.
    #[must_use]
    pub const fn json(body: Value) -> Self {
        Self { status: StatusCode::OK, body: Content::Json(body), version: None, index: None }
    }

    /// With another status.
    #[must_use]
    pub const fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// With the version of the object.
    #[must_use]
    pub const fn with_version(mut self, version: u64) -> Self {
        self.version = Some(version);
        self
    }

    /// With the log index that it stands at.
    #[must_use]
    pub const fn with_index(mut self, index: u64) -> Self {
        self.index = Some(index);
        self
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let (kind, text) = match self.body {
            Content::Json(value) => ("application/json", yaml_too(value.to_string())),
            Content::Yaml(text) => ("application/yaml", text),
        };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(tag) =
            self.version.and_then(|it| HeaderValue::from_str(&format!("\"{it}\"")).ok())
        {
            headers.insert(header::ETAG, tag);
        }
        if let Some(index) = self.index {
            headers.insert("althing-index", index.into());
        }
        response
    }
}

/// JSON that is YAML as well, so that an export can be applied: characters that YAML does not take as they are, or takes for a line
/// break, are escaped. They stand in texts only.
fn yaml_too(text: String) -> String {
    let is_odd = |c: char| {
        matches!(
            c,
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
        )
    };
    if !text.contains(is_odd) {
        return text;
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_odd(c) {
            escaped.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

impl Failure {
    /// All that is wrong with what was sent.
    #[must_use]
    pub fn invalid(problems: Vec<Problem>) -> Self {
        let message = match problems.as_slice() {
            [] => "the request is not valid".to_owned(),
            [one] => one.to_string(),
            [first, rest @ ..] => {
                format!("{first} (and {} more, see `problems`)", rest.len())
            }
        };
        let mut error = Error::new(Code::InvalidField, message);
        error.param = problems.first().map(|it| it.path.clone()).filter(|it| !it.is_empty());
        Self { error: Box::new(error), problems }
    }

    pub(super) fn into_response(self, request_id: Uuid) -> Response<Body> {
        let Self { error, problems } = self;
        let id = request_id.hyphenated().to_string();
        // The id stands beside the error, as in OpenAI's and Anthropic's dialects, and in it, where it was first.
        let mut inner = json!({
            "type": error.code.openai_type(),
            "code": error.code.name(),
            "message": error.message,
            "param": error.param,
            "request_id": id,
        });
        if let Some(fields) = inner.as_object_mut().filter(|_| !problems.is_empty()) {
            let all = problems.iter().map(|it| json!({ "path": it.path, "message": it.message }));
            fields.insert("problems".to_owned(), all.collect());
        }
        let mut response =
            Response::new(Body::from(json!({ "error": inner, "request_id": id }).to_string()));
        *response.status_mut() = error.http_status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = error.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if error.http_status() == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"althing administration\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error: Box::new(error), problems: Vec::new() }
    }
}

impl From<Vec<Problem>> for Failure {
    fn from(problems: Vec<Problem>) -> Self {
        Self::invalid(problems)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        let code = match refusal {
            Refusal::Invalid { problems } => return Self::invalid(problems),
            Refusal::NotFound { .. } => Code::NotFound,
            Refusal::Version { .. } => Code::VersionMismatch,
            Refusal::Exists { .. }
            | Refusal::InUse { .. }
            | Refusal::CredentialTaken { .. }
            | Refusal::AlreadySet { .. } => Code::Conflict,
        };
        Error::new(code, text).into()
    }
}
