mod upstream;

use proptest::prelude::{any, prop, proptest};
use serde_json::{Value, json};

use super::Anthropic;
use crate::chat::{Block, Event, Message, Request, Role, Stop, Usage};
use crate::dialect::{Dialect, Error, Failure, WireRequest};
use crate::seal;
use crate::testing::{any_json, context, decode_stream, encode_stream, fold, server_events, spoil};

const REQUEST: &str = include_str!("../../../testdata/anthropic/request.json");
const REPLY: &str = include_str!("../../../testdata/anthropic/reply.json");
const STREAM: &str = include_str!("../../../testdata/anthropic/stream.sse");
const OVERLOADED: &str = include_str!("../../../testdata/anthropic/stream_overloaded.sse");
const ERROR: &str = include_str!("../../../testdata/anthropic/error.json");

fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn decode(body: &Value) -> Result<Request, Error> {
    Anthropic.decode_request(body.to_string().as_bytes(), None, false)
}

fn encode(request: &Request) -> (Value, WireRequest) {
    let wire = Anthropic.encode_request(request).unwrap();
    (parse(&wire.body), wire)
}

fn user(content: Vec<Block>) -> Message {
    Message { role: Role::User, content, name: None }
}

fn assistant(content: Vec<Block>) -> Message {
    Message { role: Role::Assistant, content, name: None }
}

fn call(id: &str, signature: Option<&str>) -> Block {
    Block::ToolUse {
        id: id.into(),
        name: "f".into(),
        arguments: "{}".into(),
        signature: signature.map(str::to_owned),
        cache: None,
    }
}

fn result(id: &str) -> Block {
    Block::ToolResult {
        id: id.into(),
        name: None,
        content: vec![Block::text("ok")],
        is_error: false,
        cache: None,
    }
}

fn ask(content: Vec<Block>) -> Request {
    Request {
        model: "claude-sonnet-4-6".into(),
        messages: vec![user(content)],
        ..Request::default()
    }
}

#[test]
fn a_request_that_is_read_and_written_is_the_same() {
    let request = Anthropic.decode_request(REQUEST.as_bytes(), None, false).unwrap();
    let (body, wire) = encode(&request);
    assert_eq!(body, parse(REQUEST.as_bytes()));
    assert_eq!(wire.path, "/messages");
    assert_eq!(wire.headers, [("anthropic-version", "2023-06-01".to_owned())]);
    assert!(wire.dropped.is_empty(), "{:?}", wire.dropped);
}

#[test]
fn a_result_knows_its_functions_name() {
    let request = Anthropic.decode_request(REQUEST.as_bytes(), None, false).unwrap();
    let Block::ToolResult { name, .. } = &request.messages[2].content[1] else { panic!() };
    assert_eq!(name.as_deref(), Some("get_weather"));
    assert_eq!(request.parallel_tool_calls, Some(false));
    assert_eq!(request.extra["service_tier"], "auto");
}

#[test]
fn a_wrong_field_is_named_with_what_would_do() {
    for (body, expected) in [
        (json!([]), "body: must be a JSON object"),
        (json!({"messages": []}), "model: is required, as a string"),
        (json!({"model": "m"}), "messages: is required, as a list"),
        (json!({"model": "m", "messages": [1]}), "messages[0]: must be an object, but is a number"),
        (
            json!({"model": "m", "messages": [{"role": "tool", "content": ""}]}),
            "messages[0].role: must be user, assistant or system",
        ),
        (
            json!({"model": "m", "messages": [{"role": "user"}]}),
            "messages[0].content: is required, as a string or a list of content blocks",
        ),
        (
            json!({"model": "m", "messages": [{"role": "user", "content": [{"type": "text"}]}]}),
            "messages[0].content[0].text: is required, as a string",
        ),
        (
            json!({"model": "m", "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "ftp"}}]}]}),
            "messages[0].content[0].source.type: must be base64, url, file, text or content",
        ),
        (
            json!({"model": "m", "messages": [], "tools": [{"name": "x"}]}),
            "tools[0].input_schema: is required, as a JSON schema of type object",
        ),
        (
            json!({"model": "m", "messages": [], "max_tokens": "9"}),
            "max_tokens: must be a number, but is a string",
        ),
        (
            json!({"model": "m", "messages": [], "tool_choice": {"type": "tool"}}),
            "tool_choice.name: is required, as a string",
        ),
    ] {
        assert_eq!(decode(&body).unwrap_err().to_string(), expected);
    }
    assert!(matches!(Anthropic.decode_request(b"{", None, false), Err(Error::Json { .. })));
}

#[test]
fn a_reply_that_is_read_and_written_is_the_same() {
    let reply = Anthropic.decode_reply(REPLY.as_bytes()).unwrap();
    assert_eq!(
        reply.usage,
        Usage { input: 2572, cached_input: 2000, cache_write: 100, output: 89, reasoning: 0 }
    );
    assert_eq!(reply.choices[0].stop, Stop::ToolUse);
    let mut expected = parse(REPLY.as_bytes());
    expected["model"] = json!("house-model");
    assert_eq!(parse(&Anthropic.encode_reply(&reply, &context())), expected);
}

#[test]
fn a_stream_adds_up_to_the_whole_reply() {
    let events = decode_stream(&Anthropic, STREAM);
    assert_eq!(fold(&events), Anthropic.decode_reply(REPLY.as_bytes()).unwrap());
}

#[test]
fn a_stream_that_is_written_again_adds_up_to_the_same() {
    let events = decode_stream(&Anthropic, STREAM);
    let again = encode_stream(&Anthropic, &context(), &events);
    let mut reply = fold(&decode_stream(&Anthropic, &again));
    assert_eq!(reply.model, "house-model");
    reply.model = "claude-sonnet-4-5-20250929".into();
    assert_eq!(reply, fold(&events));
    for (name, data) in server_events(&again) {
        assert_eq!(name.as_deref(), parse(data.as_bytes())["type"].as_str());
    }
}

#[test]
fn a_stream_that_stops_early_says_so_at_every_event() {
    let all = server_events(STREAM);
    for end in 0..all.len() {
        let mut decoder = Anthropic.stream_decoder();
        let mut events = Vec::new();
        for (name, data) in &all[..end] {
            decoder.push(name.as_deref(), data, &mut events).unwrap();
        }
        assert!(decoder.finish(&mut events).is_err(), "after {end} events");
        assert!(!events.contains(&Event::Done));
    }
}

#[test]
fn an_event_cut_at_any_byte_is_an_error_and_no_panic() {
    for (name, data) in server_events(STREAM) {
        for end in (0..data.len()).filter(|end| data.is_char_boundary(*end)) {
            let mut events = Vec::new();
            assert!(
                Anthropic
                    .stream_decoder()
                    .push(name.as_deref(), &data[..end], &mut events)
                    .is_err()
            );
            assert!(events.is_empty());
        }
    }
}

#[test]
fn an_error_in_a_stream_ends_it() {
    let events = decode_stream(&Anthropic, OVERLOADED);
    let last = events.last().unwrap();
    assert_eq!(
        *last,
        Event::Error { kind: "overloaded_error".into(), message: "Overloaded".into() }
    );
    let again = encode_stream(&Anthropic, &context(), &events);
    let (name, data) = server_events(&again).pop().unwrap();
    assert_eq!(name.as_deref(), Some("error"));
    assert_eq!(parse(data.as_bytes())["error"]["type"], "overloaded_error");
}

#[test]
fn a_call_without_arguments_has_an_empty_object_of_them() {
    let stream = r#"data: {"type":"message_start","message":{"id":"msg_1","model":"m","usage":{}}}

data: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"t","name":"now","input":{}}}

data: {"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":""}}

data: {"type":"content_block_stop","index":0}

data: {"type":"message_stop"}

"#;
    let reply = fold(&decode_stream(&Anthropic, stream));
    let Block::ToolUse { arguments, .. } = &reply.choices[0].content[0] else { panic!() };
    assert_eq!(arguments, "{}");
}

#[test]
fn calls_that_interleave_are_written_one_after_another() {
    let start = |index, id: &str| Event::BlockStart { choice: 0, index, block: call(id, None) };
    let arguments = |index, json: &str| Event::Arguments { choice: 0, index, json: json.into() };
    let mut events = vec![
        Event::Start { id: "chatcmpl-1".into(), model: "m".into() },
        start(0, "a"),
        start(1, "b"),
    ];
    for event in &mut events {
        if let Event::BlockStart { block: Block::ToolUse { arguments, .. }, .. } = event {
            arguments.clear();
        }
    }
    events.extend([
        arguments(1, "{\"x\":"),
        arguments(0, "{\"y\":"),
        arguments(1, "1}"),
        Event::BlockStop { choice: 0, index: 1 },
        arguments(0, "2}"),
        Event::BlockStop { choice: 0, index: 0 },
        Event::Stop { choice: 0, stop: Stop::ToolUse },
        Event::Done,
    ]);
    let again = encode_stream(&Anthropic, &context(), &events);
    let reply = fold(&decode_stream(&Anthropic, &again));
    let said: Vec<_> = reply.choices[0]
        .content
        .iter()
        .map(|block| match block {
            Block::ToolUse { id, arguments, .. } => format!("{id} {arguments}"),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(said, ["a {\"y\":2}", "b {\"x\":1}"]);
    assert_eq!(reply.id, "msg_0198c0ffee");
}

#[test]
fn a_cut_stream_ends_in_the_dialects_own_way() {
    let mut encoder = Anthropic.stream_encoder(&context());
    let mut out = Vec::new();
    encoder.encode(&Event::Start { id: String::new(), model: String::new() }, &mut out);
    encoder.encode(&Event::BlockStart { choice: 0, index: 0, block: Block::text("") }, &mut out);
    encoder.encode(&Event::Text { choice: 0, index: 0, text: "half".into() }, &mut out);
    encoder.encode(&Event::Usage(Usage { input: 3, output: 2, ..Usage::default() }), &mut out);
    encoder.cut(&mut out);
    encoder.encode(&Event::Done, &mut out);
    encoder.cut(&mut out);
    let reply = fold(&decode_stream(&Anthropic, std::str::from_utf8(&out).unwrap()));
    assert_eq!(reply.choices[0].stop, Stop::Length);
    assert_eq!(reply.choices[0].content, [Block::text("half")]);
    assert_eq!(reply.usage.output, 2);
}

#[test]
fn a_calls_seal_travels_through_the_caller_in_a_block_of_its_own() {
    let sealed = seal::mark("gemini", "CiQB+/=");
    let mut reply = Anthropic.decode_reply(REPLY.as_bytes()).unwrap();
    reply.choices[0].content = vec![
        Block::Thinking { text: "Hm.".into(), signature: None, id: None },
        call("a", Some(&sealed)),
        call("b", None),
    ];
    let whole = parse(&Anthropic.encode_reply(&reply, &context()));
    assert_eq!(whole["content"][1]["signature"], "gemini:call:CiQB+/=");

    let turn = json!({"role": "assistant", "content": whole["content"]});
    let back = decode(&json!({"model": "m", "messages": [turn]})).unwrap();
    assert_eq!(back.messages[0].content, reply.choices[0].content);

    let events = [
        Event::Start { id: "x".into(), model: "m".into() },
        Event::BlockStart { choice: 0, index: 0, block: call("a", Some(&sealed)) },
        Event::BlockStop { choice: 0, index: 0 },
        Event::Done,
    ];
    let stream = fold(&decode_stream(&Anthropic, &encode_stream(&Anthropic, &context(), &events)));
    let signature = Some("gemini:call:CiQB+/=".to_owned());
    assert_eq!(
        stream.choices[0].content[0],
        Block::Thinking { text: String::new(), signature, id: None }
    );
}

#[test]
fn a_calls_seal_that_comes_late_finds_its_call() {
    let sealed = seal::mark("gemini", "CiQB+/=");
    let start = |index, id: &str| Event::BlockStart { choice: 0, index, block: call(id, None) };
    let events = [
        Event::Start { id: "x".into(), model: "m".into() },
        start(0, "a"),
        start(1, "b"),
        Event::Signature { choice: 0, index: 1, signature: "gemini:second".into() },
        Event::Signature { choice: 0, index: 0, signature: sealed.clone() },
        Event::BlockStop { choice: 0, index: 0 },
        Event::BlockStop { choice: 0, index: 1 },
        Event::Done,
    ];
    let stream = encode_stream(&Anthropic, &context(), &events);
    let reply = fold(&decode_stream(&Anthropic, &stream));
    let turn = parse(&Anthropic.encode_reply(&reply, &context()));
    let turn = json!({"role": "assistant", "content": turn["content"]});
    let back = decode(&json!({"model": "m", "messages": [turn]})).unwrap();
    let signatures: Vec<_> = back.messages[0]
        .content
        .iter()
        .map(|block| match block {
            Block::ToolUse { signature, .. } => signature.as_deref(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(signatures, [Some(sealed.as_str()), Some("gemini:second")]);
}

#[test]
fn a_foreign_failure_in_a_stream_has_a_type_that_anthropics_clients_know() {
    for (kind, expected) in [
        ("RESOURCE_EXHAUSTED", "rate_limit_error"),
        ("overloaded_error", "overloaded_error"),
        ("server_error", "api_error"),
        ("whatever", "api_error"),
    ] {
        let events = [Event::Error { kind: kind.into(), message: "No.".into() }];
        let stream = encode_stream(&Anthropic, &context(), &events);
        let (_, data) = server_events(&stream).pop().unwrap();
        assert_eq!(parse(data.as_bytes())["error"]["type"], expected);
    }
}

#[test]
fn errors_bear_the_type_of_their_status() {
    for (status, kind) in [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ] {
        let failure = Failure {
            status,
            code: "c",
            message: "Do this.",
            param: Some("model"),
            request_id: "req_1",
        };
        let body = parse(&Anthropic.encode_failure(&failure));
        assert_eq!(
            body,
            json!({"type": "error", "error": {"type": kind, "message": "Do this.", "code": "c", "param": "model"}, "request_id": "req_1"})
        );
    }
    let read = Anthropic.decode_failure(404, ERROR.as_bytes());
    assert_eq!(read.kind.as_deref(), Some("not_found_error"));
    assert_eq!(read.message.as_deref(), Some("The requested resource could not be found."));
    assert_eq!(
        Anthropic.decode_failure(502, b"<html>"),
        crate::dialect::UpstreamFailure::default()
    );
    assert!(matches!(Anthropic.decode_reply(ERROR.as_bytes()), Err(Error::Reply { .. })));
}

#[test]
fn tokens_are_counted_of_the_prompt_alone() {
    let request = Anthropic.decode_count(REQUEST.as_bytes(), None).unwrap();
    let wire = Anthropic.encode_count(&request).unwrap();
    assert_eq!(wire.path, "/messages/count_tokens");
    let body = parse(&wire.body);
    let mut keys: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        ["messages", "model", "output_config", "system", "thinking", "tool_choice", "tools"]
    );
    assert_eq!(Anthropic.decode_count_reply(br#"{"input_tokens": 2095}"#).unwrap(), 2095);
    assert!(Anthropic.decode_count_reply(b"{}").is_err());
    assert_eq!(Anthropic.encode_count_reply(2095), br#"{"input_tokens":2095}"#);
}

proptest! {
    #[test]
    fn noise_never_panics(which in any::<prop::sample::Index>(), by in prop::option::of(any_json()), raw in any_json()) {
        let at = which.index(1 << 16);
        for body in [spoil(parse(REQUEST.as_bytes()), at, by.clone()), raw.clone()] {
            if let Ok(request) = decode(&body) {
                let _ = Anthropic.encode_request(&request);
                let _ = Anthropic.encode_count(&request);
            }
        }
        for body in [spoil(parse(REPLY.as_bytes()), at, by.clone()), raw] {
            let body = body.to_string();
            if let Ok(reply) = Anthropic.decode_reply(body.as_bytes()) {
                parse(&Anthropic.encode_reply(&reply, &context()));
            }
            Anthropic.decode_failure(500, body.as_bytes());
        }
        let mut decoder = Anthropic.stream_decoder();
        let mut events = Vec::new();
        let all = server_events(STREAM);
        for (place, (_, data)) in all.iter().enumerate() {
            let mut data = parse(data.as_bytes());
            if place == at % all.len() {
                data = spoil(data, at / all.len(), by.clone());
            }
            let _ = decoder.push(None, &data.to_string(), &mut events);
        }
        let _ = decoder.finish(&mut events);
        encode_stream(&Anthropic, &context(), &events);
    }
}
