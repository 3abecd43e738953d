//! An upstream that speaks the vendors' dialects as published, misbehaves by request, and keeps the only true ledger.
//!
//! The model's name says what it does: `ok`, `slow-MS`, `garbage`, `cut`, `stall`, `mute`, `never`, `status-NNN`, `big`, `says-TOKENS-MS`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, Failure>;

/// What a request was.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) headers: http::HeaderMap,
    pub(crate) raw: Bytes,
    pub(crate) body: Value,
}

/// The upstream. It ends with the test's runtime.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) books: Arc<Books>,
}

/// What it saw, and what it charges.
#[derive(Default)]
pub(crate) struct Books {
    pub(crate) seen: Mutex<Vec<Seen>>,
    /// The last answer's bytes, as far as they were said.
    pub(crate) said: Mutex<Vec<u8>>,
    pub(crate) input_tokens: AtomicU64,
    pub(crate) output_tokens: AtomicU64,
    pub(crate) answered: AtomicU64,
    /// Requests whose connection went away before they were answered.
    pub(crate) abandoned: AtomicU64,
    /// Replies of `says` that their maximum cut short.
    pub(crate) short: AtomicU64,
    /// Streams that were not read to their end.
    pub(crate) dropped: AtomicU64,
}

pub(crate) const INPUT: u64 = 11;
pub(crate) const OUTPUT: u64 = 7;

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let books = Arc::new(Books::default());
        let shared = Arc::clone(&books);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let books = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service = service_fn(move |request| serve(Arc::clone(&books), request));
                    // A gateway that cancels breaks the connection: that is what some tests want.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        Self { address, books }
    }

    /// Providers of all three dialects, each with every model priced at $1 and $2 a million.
    pub(crate) fn providers(&self) -> String {
        let address = self.address;
        let price = r#"{ input_usd_per_million: "1", output_usd_per_million: "2" }"#;
        let prices = format!(
            "{{ ok: {price}, plain: {price}, tools: {price}, slow-300: {price}, never: {price}, slow-50: {price}, long: {price}, endless: {price}, mute: {price}, stall: {price}, cut: {price}, torn: {price}, status-503: {price}, status-504: {price}, embed: {price} }}"
        );
        format!(
            r#"
providers:
  - {{ name: up, dialect: openai, base_url: "http://{address}/v1", keys: [{{ name: main, value: sk-upstream-openai }}], models: {{ alias: ok }}, prices: {prices}, timeout: 5s }}
  - {{ name: ant, dialect: anthropic, base_url: "http://{address}", keys: [{{ name: main, value: sk-upstream-anthropic }}], prices: {prices}, timeout: 5s }}
  - {{ name: gem, dialect: gemini, base_url: "http://{address}/v1beta", keys: [{{ name: main, value: sk-upstream-gemini }}], prices: {prices}, timeout: 5s }}
"#
        )
    }

    pub(crate) fn last(&self) -> Seen {
        self.books.seen.lock().last().cloned().expect("a request")
    }

    pub(crate) fn count(&self) -> usize {
        self.books.seen.lock().len()
    }
}

/// Counts a request that is dropped half way.
struct Watch(Arc<Books>, bool);

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.1 {
            self.0.abandoned.fetch_add(1, Ordering::SeqCst);
        }
    }
}

async fn serve(
    books: Arc<Books>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let raw = body.collect().await.map(|it| it.to_bytes()).unwrap_or_default();
    let body: Value = serde_json::from_slice(&raw).unwrap_or_default();
    let path = parts.uri.path().to_owned();
    books.seen.lock().push(Seen { headers: parts.headers, raw, body: body.clone() });
    books.said.lock().clear();
    let mut watch = Watch(Arc::clone(&books), false);
    let model = body["model"].as_str().map_or_else(|| gemini_model(&path), str::to_owned);
    // Where the model must be one that the catalogue knows, the user says what is to happen.
    let model =
        body["user"].as_str().and_then(|it| it.strip_prefix("as ")).map_or(model, str::to_owned);
    if let Some(ms) = model.strip_prefix("slow-").and_then(|it| it.parse().ok()) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    let response = match model.as_str() {
        "never" => std::future::pending().await,
        "garbage" => plain(StatusCode::OK, "text/html", "<html>not json"),
        "big" => plain(
            StatusCode::OK,
            "application/json",
            &format!("{{\"x\":\"{}\"}}", "a".repeat(70 << 20)),
        ),
        it if it.starts_with("status-") => {
            let status = StatusCode::from_bytes(&it.as_bytes()[7..]).expect("status");
            let body = json!({ "error": { "message": format!("upstream says {it}; key sk-upstream-openai"), "type": "test_error", "code": "scripted" } });
            plain(status, "application/json", &body.to_string())
        }
        _ => answer(&books, &path, &body, &model),
    };
    watch.1 = true;
    books.answered.fetch_add(1, Ordering::SeqCst);
    Ok(response)
}

fn gemini_model(path: &str) -> String {
    path.rsplit_once("/models/")
        .and_then(|it| it.1.split_once(':'))
        .map_or_else(String::new, |it| it.0.to_owned())
}

fn plain(status: StatusCode, kind: &str, text: &str) -> Response<Body> {
    let body =
        Full::new(Bytes::from(text.to_owned())).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(status).header("content-type", kind).body(body).expect("response")
}

fn answer(books: &Arc<Books>, path: &str, body: &Value, model: &str) -> Response<Body> {
    if let Some(plan) = model.strip_prefix("says-") {
        return says(books, plan, path, body);
    }
    let streams = body["stream"] == true || path.ends_with("streamGenerateContent");
    let output = if model == "long" {
        body["max_tokens"]
            .as_u64()
            .or_else(|| body["max_completion_tokens"].as_u64())
            .unwrap_or(400)
    } else {
        OUTPUT
    };
    if model != "cut" && model != "stall" {
        books.input_tokens.fetch_add(INPUT, Ordering::SeqCst);
        books.output_tokens.fetch_add(output, Ordering::SeqCst);
    }
    let calls = wants_tool(body);
    let (events, whole) = if path.ends_with("/chat/completions") {
        (openai_events(model, calls.as_deref(), body), openai(model, calls.as_deref(), output))
    } else if path.ends_with("/completions") {
        (text_events(model, body), text(model, output))
    } else if path.ends_with("/messages") {
        (anthropic_events(model, calls.as_deref()), anthropic(model, calls.as_deref()))
    } else if path.contains("enerateContent") {
        (gemini_events(model, calls.as_deref()), gemini(model, calls.as_deref()))
    } else if path.ends_with("/embeddings") {
        (
            Vec::new(),
            json!({ "object": "list", "model": model, "data": [{ "object": "embedding", "index": 0, "embedding": [0.25, -0.5] }], "usage": { "prompt_tokens": 3, "total_tokens": 3 } }),
        )
    } else if path.ends_with("EmbedContents") {
        (Vec::new(), json!({ "embeddings": [{ "values": [0.25, -0.5] }] }))
    } else if path.ends_with("/count_tokens") {
        (Vec::new(), json!({ "input_tokens": 42 }))
    } else {
        return plain(
            StatusCode::NOT_FOUND,
            "application/json",
            r#"{"error":{"message":"no such path"}}"#,
        );
    };
    if streams {
        streamed(books, events, model)
    } else {
        let whole = whole.to_string();
        books.said.lock().extend_from_slice(whole.as_bytes());
        plain(StatusCode::OK, "application/json", &whole)
    }
}

/// `says-TOKENS` or `says-TOKENS-MS`: so many tokens, one every so many milliseconds or all at once, but never more
/// than the maximum that it is told. It bills what it has generated, read or not.
fn says(books: &Arc<Books>, plan: &str, path: &str, body: &Value) -> Response<Body> {
    let (tokens, pause) = plan.split_once('-').unwrap_or((plan, "0"));
    let (tokens, pause): (u64, u64) =
        (tokens.parse().expect("a number"), pause.parse().expect("ms"));
    let told = ["/max_tokens", "/max_completion_tokens", "/generationConfig/maxOutputTokens"];
    let most = told.iter().find_map(|it| body.pointer(it)?.as_u64()).unwrap_or(u64::MAX);
    let (output, cut) = (tokens.min(most), most < tokens);
    books.input_tokens.fetch_add(INPUT, Ordering::SeqCst);
    if cut {
        books.short.fetch_add(1, Ordering::SeqCst);
    }
    let is_anthropic = path.ends_with("/messages");
    let finish = if is_anthropic {
        if cut { "max_tokens" } else { "end_turn" }
    } else if cut {
        "length"
    } else {
        "stop"
    };
    let data = move |it: Value| {
        let name = it["type"].as_str().map_or_else(String::new, |it| format!("event: {it}\n"));
        format!("{name}data: {it}\n\n")
    };
    let chunk = |delta: Value, finish: Value| json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "says", "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] });
    let (first, token, last) = if is_anthropic {
        (
            data(
                json!({ "type": "message_start", "message": { "id": "msg_1", "type": "message", "role": "assistant", "model": "says", "content": [], "stop_reason": null, "usage": { "input_tokens": INPUT, "output_tokens": 1 } } }),
            ) + &data(
                json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
            ),
            data(
                json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "word " } }),
            ),
            data(json!({ "type": "content_block_stop", "index": 0 }))
                + &data(
                    json!({ "type": "message_delta", "delta": { "stop_reason": finish }, "usage": { "output_tokens": output } }),
                )
                + &data(json!({ "type": "message_stop" })),
        )
    } else {
        let mut end = chunk(json!({}), json!(finish));
        end["usage"] = json!({ "prompt_tokens": INPUT, "completion_tokens": output, "total_tokens": INPUT + output });
        (
            data(chunk(json!({ "role": "assistant", "content": "" }), Value::Null)),
            data(chunk(json!({ "content": "word " }), Value::Null)),
            data(end) + "data: [DONE]\n\n",
        )
    };
    if body["stream"] != true {
        books.output_tokens.fetch_add(output, Ordering::SeqCst);
        let whole = openai("says", None, output);
        return plain(StatusCode::OK, "application/json", &whole.to_string());
    }
    said(books, output, pause, [first, token, last])
}

/// A stream of `first`, so many `token`s, and `last`: all at once, or a token every so many milliseconds. Billed as it is
/// generated.
fn said(
    books: &Arc<Books>,
    output: u64,
    pause: u64,
    [first, token, last]: [String; 3],
) -> Response<Body> {
    let books = Arc::clone(books);
    let pieces = if pause == 0 {
        books.output_tokens.fetch_add(output, Ordering::SeqCst);
        let tokens = usize::try_from(output).expect("fits");
        vec![first + &token.repeat(tokens) + &last]
    } else {
        let all = std::iter::repeat_n(token, usize::try_from(output).expect("fits"));
        std::iter::once(first).chain(all).chain([last]).collect()
    };
    let end = pieces.len();
    let pieces = stream::unfold((pieces.into_iter(), 0), move |(mut pieces, at)| {
        let books = Arc::clone(&books);
        async move {
            let piece = pieces.next()?;
            if 0 < at && at + 1 < end {
                books.output_tokens.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            Some((Ok::<_, Failure>(Frame::data(Bytes::from(piece))), (pieces, at + 1)))
        }
    });
    Response::builder()
        .header("content-type", "text/event-stream")
        .body(StreamBody::new(pieces).boxed_unsync())
        .expect("response")
}

/// The name of the first tool, where one is offered and none was answered yet.
fn wants_tool(body: &Value) -> Option<String> {
    let text = body.to_string();
    let is_answered =
        ["\"tool_call_id\"", "\"tool_result\"", "\"functionResponse\"", "function_call_output"]
            .iter()
            .any(|it| text.contains(it));
    let tool = &body["tools"][0];
    let name = tool["function"]["name"]
        .as_str()
        .or_else(|| tool["name"].as_str())
        .or_else(|| tool["functionDeclarations"][0]["name"].as_str())?;
    (!is_answered).then(|| name.to_owned())
}

/// Counts a stream that is dropped before it said all it has.
struct Unread(Arc<Books>, bool);

impl Drop for Unread {
    fn drop(&mut self) {
        if !self.1 {
            self.0.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn streamed(books: &Arc<Books>, events: Vec<String>, model: &str) -> Response<Body> {
    let total = events.len();
    let mut unread = Unread(Arc::clone(books), false);
    let (cut, stall, endless) = (model == "cut", model == "stall", model == "endless");
    let (mute, torn) = (model == "mute", model == "torn");
    let pieces = stream::unfold((events, 0_usize), move |(events, at)| {
        let unread = &mut unread;
        unread.1 = total <= at;
        let said = Arc::clone(&unread.0);
        async move {
            if endless && at == 3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let piece = events.get(2).cloned().unwrap_or_default();
                return Some((Ok(Frame::data(Bytes::from(piece))), (events, 3)));
            }
            if mute {
                return Some((Err::<Frame<Bytes>, Failure>("mute".into()), (events, total)));
            }
            if (cut || stall) && at == 2 {
                if stall {
                    std::future::pending::<()>().await;
                }
                return Some((Err::<Frame<Bytes>, Failure>("cut".into()), (events, total)));
            }
            let mut piece = events.get(at)?.clone();
            if torn && at == 2 {
                piece = "data: <html>502 Bad Gateway</html>\n\n".to_owned();
            }
            said.said.lock().extend_from_slice(piece.as_bytes());
            tokio::time::sleep(Duration::from_millis(2)).await;
            Some((Ok(Frame::data(Bytes::from(piece))), (events, at + 1)))
        }
    });
    Response::builder()
        .header("content-type", "text/event-stream")
        .body(StreamBody::new(pieces).boxed_unsync())
        .expect("response")
}

fn openai(model: &str, tool: Option<&str>, output: u64) -> Value {
    let message = match tool {
        Some(name) => {
            json!({ "role": "assistant", "content": null, "refusal": null, "tool_calls": [
            { "id": "call_abc", "type": "function", "function": { "name": name, "arguments": "{\"a\":2,\"b\":40}" } }] })
        }
        None => {
            json!({ "role": "assistant", "content": "Hello from the upstream.", "refusal": null })
        }
    };
    let finish = if tool.is_some() { "tool_calls" } else { "stop" };
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": model,
        "choices": [{ "index": 0, "message": message, "logprobs": null, "finish_reason": finish }],
        "usage": { "prompt_tokens": INPUT, "completion_tokens": output, "total_tokens": INPUT + output },
    })
}

fn openai_events(model: &str, tool: Option<&str>, request: &Value) -> Vec<String> {
    let chunk = |delta: Value, finish: Value| {
        json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": model,
            "choices": [{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }] })
    };
    let mut chunks = vec![chunk(json!({ "role": "assistant", "content": "" }), Value::Null)];
    if let Some(name) = tool {
        chunks.push(chunk(json!({ "tool_calls": [{ "index": 0, "id": "call_abc", "type": "function", "function": { "name": name, "arguments": "" } }] }), Value::Null));
        for piece in ["{\"a\":2", ",\"b\":40}"] {
            chunks.push(chunk(
                json!({ "tool_calls": [{ "index": 0, "function": { "arguments": piece } }] }),
                Value::Null,
            ));
        }
    } else {
        for piece in ["Hello ", "from the ", "upstream."] {
            chunks.push(chunk(json!({ "content": piece }), Value::Null));
        }
    }
    chunks.push(chunk(json!({}), json!(if tool.is_some() { "tool_calls" } else { "stop" })));
    if request["stream_options"]["include_usage"] == true {
        let mut last = chunk(Value::Null, Value::Null);
        last["choices"] = json!([]);
        last["usage"] = json!({ "prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT });
        chunks.push(last);
    }
    let mut events: Vec<String> = chunks.iter().map(|it| format!("data: {it}\n\n")).collect();
    events.push("data: [DONE]\n\n".to_owned());
    events
}

fn text(model: &str, output: u64) -> Value {
    json!({
        "id": "cmpl-1", "object": "text_completion", "created": 1_700_000_000, "model": model,
        "choices": [{ "text": "Hello from the upstream.", "index": 0, "logprobs": null, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": INPUT, "completion_tokens": output, "total_tokens": INPUT + output },
    })
}

fn text_events(model: &str, request: &Value) -> Vec<String> {
    let chunk = |text: &str, finish: Value| {
        json!({ "id": "cmpl-1", "object": "text_completion", "created": 1_700_000_000, "model": model,
            "choices": [{ "text": text, "index": 0, "logprobs": null, "finish_reason": finish }] })
    };
    let pieces = ["Hello ", "from the ", "upstream."];
    let mut chunks: Vec<Value> = pieces.iter().map(|it| chunk(it, Value::Null)).collect();
    chunks.push(chunk("", json!("stop")));
    if request["stream_options"]["include_usage"] == true {
        let mut last = chunk("", Value::Null);
        last["choices"] = json!([]);
        last["usage"] = json!({ "prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT });
        chunks.push(last);
    }
    let mut events: Vec<String> = chunks.iter().map(|it| format!("data: {it}\n\n")).collect();
    events.push("data: [DONE]\n\n".to_owned());
    events
}

fn anthropic(model: &str, tool: Option<&str>) -> Value {
    let content = match tool {
        Some(name) => {
            json!({ "type": "tool_use", "id": "toolu_abc", "name": name, "input": { "a": 2, "b": 40 } })
        }
        None => json!({ "type": "text", "text": "Hello from the upstream." }),
    };
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": [content],
        "stop_reason": if tool.is_some() { "tool_use" } else { "end_turn" }, "stop_sequence": null,
        "usage": { "input_tokens": INPUT, "output_tokens": OUTPUT },
    })
}

fn anthropic_events(model: &str, tool: Option<&str>) -> Vec<String> {
    let mut events = vec![json!({ "type": "message_start", "message": {
        "id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": [], "stop_reason": null, "stop_sequence": null,
        "usage": { "input_tokens": INPUT, "output_tokens": 1 } } })];
    match tool {
        Some(name) => {
            events.push(json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "tool_use", "id": "toolu_abc", "name": name, "input": {} } }));
            for piece in ["{\"a\":2", ",\"b\":40}"] {
                events.push(json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "input_json_delta", "partial_json": piece } }));
            }
        }
        None => {
            events.push(json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }));
            for piece in ["Hello ", "from the ", "upstream."] {
                events.push(json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": piece } }));
            }
        }
    }
    events.push(json!({ "type": "content_block_stop", "index": 0 }));
    let stop = if tool.is_some() { "tool_use" } else { "end_turn" };
    events.push(json!({ "type": "message_delta", "delta": { "stop_reason": stop, "stop_sequence": null }, "usage": { "output_tokens": OUTPUT } }));
    events.push(json!({ "type": "message_stop" }));
    events
        .iter()
        .map(|it| format!("event: {}\ndata: {it}\n\n", it["type"].as_str().expect("type")))
        .collect()
}

fn gemini_usage() -> Value {
    json!({ "promptTokenCount": INPUT, "candidatesTokenCount": OUTPUT, "totalTokenCount": INPUT + OUTPUT })
}

fn gemini(model: &str, tool: Option<&str>) -> Value {
    let part = match tool {
        Some(name) => json!({ "functionCall": { "name": name, "args": { "a": 2, "b": 40 } } }),
        None => json!({ "text": "Hello from the upstream." }),
    };
    json!({
        "candidates": [{ "content": { "role": "model", "parts": [part] }, "finishReason": "STOP", "index": 0 }],
        "usageMetadata": gemini_usage(), "modelVersion": model, "responseId": "resp_1",
    })
}

fn gemini_events(model: &str, tool: Option<&str>) -> Vec<String> {
    if tool.is_some() {
        return vec![format!("data: {}\r\n\r\n", gemini(model, tool))];
    }
    let piece = |text: &str| json!({ "candidates": [{ "content": { "role": "model", "parts": [{ "text": text }] }, "index": 0 }], "modelVersion": model, "responseId": "resp_1" });
    let mut events: Vec<Value> =
        ["Hello ", "from the ", "upstream."].iter().map(|it| piece(it)).collect();
    if let Some(last) = events.last_mut() {
        last["candidates"][0]["finishReason"] = json!("STOP");
        last["usageMetadata"] = gemini_usage();
    }
    events.iter().map(|it| format!("data: {it}\r\n\r\n")).collect()
}
