//! The way to the gateway: Streamable HTTP, as a client.

use std::collections::HashMap;

use althing_llm::sse::Parser;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::mpsc;

use super::{LINE_BYTES_MAX, Outgoing};
use crate::execute::egress::{Client, Reply, Settings};
use crate::mcp::server::{collect_marks, primitive};

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// The longest group name that is put into an address.
const GROUP_BYTES_MAX: usize = 64;

/// Why the gateway did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It is not there, or broke off.
    Unreachable(String),
    /// It does not take the key.
    Refused(String),
}

/// A connection to the gateway, and what the handshake gave.
pub(super) struct Link {
    endpoint: Uri,
    authorization: Option<HeaderValue>,
    client: Client,
    state: Mutex<State>,
    /// Held while a lost session is made anew, so that one request does it for all.
    renewing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// The client's own handshake, to repeat where the gateway has forgotten it.
    initialize: Option<String>,
    session: Option<HeaderValue>,
    version: Option<String>,
    is_modern: bool,
    /// Arguments that are repeated in headers, by tool: path and header.
    marks: HashMap<String, Vec<Mark>>,
}

type Mark = (Vec<String>, String);

impl Link {
    pub(super) fn new(
        url: &str,
        key: Option<String>,
        group: Option<&str>,
        ca: Option<&str>,
    ) -> Result<Self, String> {
        let endpoint = endpoint(url, group)?;
        let authorization = match key {
            None => None,
            Some(key) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
                    .map_err(|_| "the key has characters that no key has".to_owned())?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let client =
            Client::new(&Settings { ca_pem: ca, proxy: None }).map_err(|it| it.to_string())?;
        Ok(Self {
            endpoint,
            authorization,
            client,
            state: Mutex::default(),
            renewing: tokio::sync::Mutex::default(),
        })
    }

    /// Whether the client speaks the revision without sessions.
    pub(super) fn is_modern(&self) -> bool {
        self.state.lock().is_modern
    }

    /// The handshake, waited for.
    pub(super) async fn initialize(&self, message: &Outgoing) -> Result<String, Failure> {
        {
            let mut state = self.state.lock();
            *state = State { initialize: Some(message.line.clone()), ..State::default() };
        }
        let response = self.post(message).await?;
        self.shaken(response, message.id.as_deref().unwrap_or("null")).await
    }

    async fn shaken(&self, response: Response<Reply>, id: &str) -> Result<String, Failure> {
        let session = response.headers().get(SESSION_ID).cloned();
        let (sender, mut lines) = mpsc::channel(16);
        self.pass(response, id, &sender).await?;
        drop(sender);
        let mut answer = String::new();
        while let Some(line) = lines.recv().await {
            answer = line;
        }
        let read: Value = serde_json::from_str(&answer).unwrap_or_default();
        let version =
            read.pointer("/result/protocolVersion").and_then(Value::as_str).map(str::to_owned);
        let mut state = self.state.lock();
        state.session = session;
        state.version = version;
        Ok(answer)
    }

    /// Sends what wants no answer.
    pub(super) async fn notify(&self, message: &Outgoing) -> Result<(), Failure> {
        self.post(message).await.map(drop)
    }

    /// Sends a request and passes everything that comes back for it.
    pub(super) async fn request(
        &self,
        message: &Outgoing,
        lines: &mpsc::Sender<String>,
    ) -> Result<(), Failure> {
        let id = message.id.as_deref().unwrap_or("null");
        let before = self.state.lock().session.clone();
        let mut response = self.post(message).await?;
        if response.status() == StatusCode::NOT_FOUND
            && before.is_some()
            && self.renew(before.as_ref()).await?
        {
            response = self.post(message).await?;
        }
        self.pass(response, id, lines).await
    }

    /// Shakes hands anew where the session was lost. Whether there is another session now.
    async fn renew(&self, lost: Option<&HeaderValue>) -> Result<bool, Failure> {
        let _turn = self.renewing.lock().await;
        let (initialize, session) = {
            let state = self.state.lock();
            (state.initialize.clone(), state.session.clone())
        };
        if session.as_ref() != lost {
            return Ok(true);
        }
        let Some(initialize) = initialize else { return Ok(false) };
        self.state.lock().session = None;
        let message = Outgoing::of(initialize);
        let response = self.post(&message).await?;
        self.shaken(response, message.id.as_deref().unwrap_or("null")).await?;
        let ready =
            Outgoing::of(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_owned());
        self.notify(&ready).await?;
        Ok(self.state.lock().session.is_some())
    }

    /// Passes what the gateway says by itself, until the stream ends.
    pub(super) async fn listen(&self, lines: &mpsc::Sender<String>) -> Result<(), Failure> {
        let request = self
            .builder(Method::GET, "text/event-stream")
            .body(Full::default())
            .map_err(|it| unsound(&it))?;
        let response =
            self.client.send(request).await.map_err(|it| Failure::Unreachable(it.to_string()))?;
        match response.status() {
            StatusCode::OK => self.events(response.into_body(), lines).await,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(Failure::Refused("the key is not taken".to_owned()))
            }
            // A gateway that has no such stream: there is nothing to wait for.
            StatusCode::METHOD_NOT_ALLOWED => std::future::pending().await,
            _ => Ok(()),
        }
    }

    /// Ends the session.
    pub(super) async fn end(&self) {
        if self.state.lock().session.is_none() {
            return;
        }
        if let Ok(request) = self.builder(Method::DELETE, "application/json").body(Full::default())
        {
            // It would lapse by itself.
            let _late =
                tokio::time::timeout(std::time::Duration::from_secs(2), self.client.send(request))
                    .await;
        }
    }

    fn builder(&self, method: Method, accept: &'static str) -> http::request::Builder {
        let mut builder =
            Request::builder().method(method).uri(&self.endpoint).header(ACCEPT, accept);
        if let Some(authorization) = &self.authorization {
            builder = builder.header(AUTHORIZATION, authorization);
        }
        let state = self.state.lock();
        if let Some(session) = &state.session {
            builder = builder.header(SESSION_ID, session);
        }
        if let Some(version) = &state.version {
            builder = builder.header(PROTOCOL_VERSION, version);
        }
        builder
    }

    async fn post(&self, message: &Outgoing) -> Result<Response<Reply>, Failure> {
        if let Some(version) = &message.version {
            let mut state = self.state.lock();
            state.is_modern = "2026-07-28" <= version.as_str();
            state.version = Some(version.clone());
        }
        let mut builder = self
            .builder(Method::POST, "application/json, text/event-stream")
            .header(CONTENT_TYPE, "application/json");
        if self.is_modern() {
            for (name, value) in self.repeated(message) {
                builder = builder.header(name, value);
            }
        }
        let request = builder.body(Full::from(message.line.clone())).map_err(|it| unsound(&it))?;
        let response =
            self.client.send(request).await.map_err(|it| Failure::Unreachable(it.to_string()))?;
        match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let text = text_of(response).await;
                Err(Failure::Refused(
                    reason(&text).unwrap_or_else(|| "it gives no reason".to_owned()),
                ))
            }
            _ => Ok(response),
        }
    }

    /// What a modern client's transport repeats in headers.
    fn repeated(&self, message: &Outgoing) -> Vec<(HeaderName, String)> {
        let Some(method) = &message.method else { return Vec::new() };
        let mut headers = vec![(METHOD, method.clone())];
        let Some(name) = &message.name else { return headers };
        headers.push((NAME, wrapped(name)));
        let state = self.state.lock();
        let Some(marks) = state.marks.get(name).filter(|_| method == "tools/call") else {
            return headers;
        };
        let message: Value = serde_json::from_str(&message.line).unwrap_or_default();
        let Some(arguments) = message.pointer("/params/arguments") else { return headers };
        for (path, header) in marks {
            let value =
                path.iter().try_fold(arguments, |value, key| value.get(key)).and_then(primitive);
            let header = HeaderName::from_bytes(format!("mcp-param-{header}").as_bytes());
            if let (Some(value), Ok(header)) = (value, header) {
                headers.push((header, wrapped(&value)));
            }
        }
        headers
    }

    /// Passes a whole reply, whatever form it has; one that is none becomes an error that answers `id`.
    async fn pass(
        &self,
        response: Response<Reply>,
        id: &str,
        lines: &mpsc::Sender<String>,
    ) -> Result<(), Failure> {
        let status = response.status();
        let kind = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|it| it.to_str().ok())
            .unwrap_or_default();
        if status.is_success() && kind.starts_with("text/event-stream") {
            return self.events(response.into_body(), lines).await;
        }
        let text = text_of(response).await;
        let read: Option<Value> = serde_json::from_str(&text).ok().filter(Value::is_object);
        let line = match read {
            Some(read) if status.is_success() || read.get("jsonrpc").is_some() => {
                self.adopted(&text, read, id)
            }
            _ if status.is_success() && text.trim().is_empty() => return Ok(()),
            _ => {
                let why = reason(&text).unwrap_or_else(|| format!("HTTP {status}"));
                super::failed(id, &Failure::Unreachable(why))
            }
        };
        // A client that is gone is noticed where lines are read.
        let _gone = lines.send(line).await;
        Ok(())
    }

    /// A message as one line. One that answers nobody, because its id could not be read, answers `id`.
    fn adopted(&self, text: &str, mut read: Value, id: &str) -> String {
        self.remember(&read);
        let is_orphan = read.get("error").is_some() && read.get("id").is_none_or(Value::is_null);
        if is_orphan && let Ok(id) = serde_json::from_str(id) {
            read["id"] = id;
            return read.to_string();
        }
        one_line(text)
    }

    async fn events(&self, mut body: Reply, lines: &mpsc::Sender<String>) -> Result<(), Failure> {
        let mut parser = Parser::new(LINE_BYTES_MAX);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|it| Failure::Unreachable(it.to_string()))?;
            let Ok(data) = frame.into_data() else { continue };
            let mut whole: Vec<String> = Vec::new();
            parser
                .push(&data, |event| {
                    if event.name.as_deref().is_none_or(|it| it == "message")
                        && !event.data.trim().is_empty()
                    {
                        whole.push(event.data.into_owned());
                    }
                })
                .map_err(|it| Failure::Unreachable(it.to_string()))?;
            for message in whole {
                if let Ok(read) = serde_json::from_str(&message) {
                    self.remember(&read);
                }
                let _gone = lines.send(one_line(&message)).await;
            }
        }
        Ok(())
    }

    /// Notes which arguments of listed tools are repeated in headers.
    fn remember(&self, message: &Value) {
        let Some(tools) = message.pointer("/result/tools").and_then(Value::as_array) else {
            return;
        };
        let mut state = self.state.lock();
        if !state.is_modern {
            return;
        }
        for tool in tools {
            let (Some(name), Some(schema)) =
                (tool.get("name").and_then(Value::as_str), tool.get("inputSchema"))
            else {
                continue;
            };
            let mut marks = Vec::new();
            collect_marks(schema, &mut Vec::new(), &mut marks);
            if marks.is_empty() {
                state.marks.remove(name);
            } else {
                state.marks.insert(name.to_owned(), marks);
            }
        }
    }
}

/// Where to post to: `/mcp` below the address, or the address itself where it names that.
pub(super) fn endpoint(url: &str, group: Option<&str>) -> Result<Uri, String> {
    let wrong = || format!("--url must be an address such as http://127.0.0.1:8080, not `{url}`");
    let parsed: url::Url = url.parse().map_err(|_| wrong())?;
    if !matches!(parsed.scheme(), "http" | "https")
        || parsed.host().is_none()
        || !parsed.username().is_empty()
    {
        return Err(wrong());
    }
    let mut path = parsed.path().trim_end_matches('/').to_owned();
    if !path.ends_with("/mcp") && !path.contains("/mcp/") {
        path.push_str("/mcp");
    }
    if let Some(group) = group {
        let fits = group.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !fits || group.is_empty() || GROUP_BYTES_MAX < group.len() {
            return Err(format!("--group must be the name of a tool group, not `{group}`"));
        }
        path = format!("{path}/{group}");
    }
    let mut parsed = parsed;
    parsed.set_path(&path);
    parsed.set_fragment(None);
    parsed.as_str().parse().map_err(|_| wrong())
}

/// A header value as the revision writes it: wrapped where it is not plain text.
fn wrapped(value: &str) -> String {
    let is_plain = value.bytes().all(|b| (0x20..0x7f).contains(&b))
        && value.trim_matches(' ') == value
        && !(value.starts_with("=?base64?") && value.ends_with("?="));
    if is_plain { value.to_owned() } else { format!("=?base64?{}?=", STANDARD.encode(value)) }
}

/// Line breaks of JSON stand only between its tokens, so they can become spaces.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

async fn text_of(response: Response<Reply>) -> String {
    let body = Limited::new(response.into_body(), LINE_BYTES_MAX).collect().await;
    body.map(|it| String::from_utf8_lossy(&it.to_bytes()).into_owned()).unwrap_or_default()
}

/// What an error's body says, in whatever shape.
fn reason(text: &str) -> Option<String> {
    let read: Value = serde_json::from_str(text).ok()?;
    read.pointer("/error/message").and_then(Value::as_str).map(str::to_owned)
}

fn unsound(error: &http::Error) -> Failure {
    Failure::Unreachable(error.to_string())
}
