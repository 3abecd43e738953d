mod upstream;

use proptest::prelude::{any, prop, proptest};
use serde_json::{Value, json};

use super::{Gemini, Method, array_encoder, method};
use crate::chat::{Block, Event, Message, Request, Role, Stop, Usage};
use crate::dialect::{Dialect, Error, Failure, WireRequest};
use crate::embed::{self, Input};
use crate::seal;
use crate::testing::{any_json, context, decode_stream, encode_stream, fold, server_events, spoil};

const REQUEST: &str = include_str!("../../../testdata/gemini/request.json");
const REPLY: &str = include_str!("../../../testdata/gemini/reply.json");
const STREAM: &str = include_str!("../../../testdata/gemini/stream.sse");
const BLOCKED: &str = include_str!("../../../testdata/gemini/blocked.json");
const ERROR: &str = include_str!("../../../testdata/gemini/error.json");

fn parse(bytes: impl AsRef<[u8]>) -> Value {
    serde_json::from_slice(bytes.as_ref()).unwrap()
}

fn decode(body: &Value) -> Result<Request, Error> {
    Gemini.decode_request(body.to_string().as_bytes(), Some("gemini-3-pro"), false)
}

fn encode(request: &Request) -> (Value, WireRequest) {
    let wire = Gemini.encode_request(request).unwrap();
    (parse(&wire.body), wire)
}

fn said(role: Role, content: Vec<Block>) -> Message {
    Message { role, content, name: None }
}

fn call(id: &str, signature: Option<&str>) -> Block {
    let signature = signature.map(str::to_owned);
    Block::ToolUse {
        id: id.into(),
        name: "f".into(),
        arguments: "{\"x\":1}".into(),
        signature,
        cache: None,
    }
}

fn result(id: &str, content: Vec<Block>) -> Block {
    Block::ToolResult { id: id.into(), name: None, content, is_error: false, cache: None }
}

fn ask(model: &str, messages: Vec<Message>) -> Request {
    Request { model: model.into(), messages, dialect: "openai", ..Request::default() }
}

#[test]
fn a_request_that_is_read_and_written_is_the_same() {
    let request =
        Gemini.decode_request(REQUEST.as_bytes(), Some("models/gemini-3-pro"), true).unwrap();
    let (body, wire) = encode(&request);
    assert_eq!(body, parse(REQUEST));
    assert_eq!(wire.path, "/models/gemini-3-pro:streamGenerateContent?alt=sse");
    assert!(wire.dropped.is_empty(), "{:?}", wire.dropped);
}

#[test]
fn snake_case_is_read_like_camel_case() {
    fn snake(value: &Value) -> Value {
        match value {
            Value::Object(map) => map
                .iter()
                .map(|(key, value)| (crate::json::snake_case(key), snake(value)))
                .collect(),
            Value::Array(list) => list.iter().map(snake).collect(),
            other => other.clone(),
        }
    }
    let mut camel = parse(REQUEST);
    // What only Google reads stays as it is written.
    let map = camel.as_object_mut().unwrap();
    map.shift_remove("safetySettings");
    map.shift_remove("cachedContent");
    map["tools"].as_array_mut().unwrap().truncate(1);
    map["tools"][0]["functionDeclarations"].as_array_mut().unwrap().truncate(1);
    map["generationConfig"].as_object_mut().unwrap().shift_remove("mediaResolution");
    map["contents"].as_array_mut().unwrap().truncate(3);
    assert_eq!(decode(&snake(&camel)).unwrap(), decode(&camel).unwrap());
}

#[test]
fn a_wrong_field_is_named_with_what_would_do() {
    for (body, expected) in [
        (json!({}), "contents: is required, as a list"),
        (json!({"contents": {}}), "contents: must be a list, but is an object"),
        (json!({"contents": [{"role": "bot"}]}), "contents[0].role: must be user or model"),
        (
            json!({"contents": [{"parts": ["x"]}]}),
            "contents[0].parts[0]: must be an object, but is a string",
        ),
        (
            json!({"contents": [{"parts": [{"text": 1}]}]}),
            "contents[0].parts[0].text: must be a string, but is a number",
        ),
        (
            json!({"contents": [{"parts": [{"inlineData": {"data": "x"}}]}]}),
            "contents[0].parts[0].inlineData.mimeType: is required, as a string",
        ),
        (
            json!({"contents": [], "tools": [{"functionDeclarations": [{}]}]}),
            "tools[0].functionDeclarations[0].name: is required, as a string",
        ),
        (
            json!({"contents": [], "toolConfig": {"functionCallingConfig": {"mode": "X"}}}),
            "toolConfig.functionCallingConfig.mode: must be AUTO, ANY, NONE or VALIDATED",
        ),
        (
            json!({"contents": [], "generationConfig": {"topK": 0.5}}),
            "generationConfig.topK: must be a whole number, zero or more",
        ),
    ] {
        assert_eq!(decode(&body).unwrap_err().to_string(), expected);
    }
    assert!(matches!(
        Gemini.decode_request(b"{\"contents\":[]}", None, false),
        Err(Error::Field { .. })
    ));
}

#[test]
fn calls_without_ids_are_numbered_and_their_results_found() {
    let turn = |role: &str, parts: Value| json!({"role": role, "parts": parts});
    let call = |name: &str, x: u64| json!({"functionCall": {"name": name, "args": {"x": x}}});
    let answer =
        |name: &str, x: u64| json!({"functionResponse": {"name": name, "response": {"result": x}}});
    let body = json!({"contents": [
        turn("user", json!([{"text": "Go."}])),
        turn("model", json!([call("f", 1), call("g", 2), call("f", 1)])),
        turn("user", json!([answer("g", 2), answer("f", 1), answer("f", 3)])),
        turn("model", json!([call("f", 1)])),
        turn("function", json!([answer("f", 4)])),
    ]});
    let request = decode(&body).unwrap();
    let ids = |at: usize| -> Vec<String> {
        let blocks = request.messages[at].content.iter();
        blocks
            .map(|block| match block {
                Block::ToolUse { id, .. } | Block::ToolResult { id, .. } => id.clone(),
                other => panic!("{other:?}"),
            })
            .collect()
    };
    let (first, results, second) = (ids(1), ids(2), ids(3));
    assert_eq!(results, [first[1].clone(), first[0].clone(), first[2].clone()]);
    assert_eq!(ids(4), second);
    assert!(first[0].starts_with("call_0_"));
    let all: std::collections::BTreeSet<_> = first.iter().chain(&second).collect();
    assert_eq!(all.len(), 4, "{all:?}");
    assert_eq!(decode(&body).unwrap(), request);
}

#[test]
fn a_reply_is_read_with_ids_of_its_own() {
    let reply = Gemini.decode_reply(REPLY.as_bytes()).unwrap();
    assert_eq!(
        reply.usage,
        Usage { input: 120, cached_input: 100, cache_write: 0, output: 93, reasoning: 63 }
    );
    let choice = &reply.choices[0];
    assert_eq!(choice.stop, Stop::ToolUse);
    let Block::ToolUse { id, signature, .. } = &choice.content[3] else {
        panic!("{:?}", choice.content)
    };
    assert_eq!(signature.as_deref(), Some("gemini:CiQB0e2Kb5T2sig="));
    let other = REPLY.replace("x1d2aLq3Ka6Mm9IP3v2tuA0", "another");
    let other = Gemini.decode_reply(other.as_bytes()).unwrap();
    let Block::ToolUse { id: other, .. } = &other.choices[0].content[3] else { panic!() };
    assert_ne!(id, other);

    let mut expected = parse(REPLY);
    expected["modelVersion"] = json!("house-model");
    expected["usageMetadata"].as_object_mut().unwrap().shift_remove("promptTokensDetails");
    let mut written = parse(Gemini.encode_reply(&reply, &context()));
    for part in [2, 3] {
        let call = &mut written["candidates"][0]["content"]["parts"][part]["functionCall"];
        assert!(call.as_object_mut().unwrap().shift_remove("id").is_some());
    }
    assert_eq!(written, expected);
}

#[test]
fn a_stream_adds_up_to_the_whole_reply() {
    let events = decode_stream(&Gemini, STREAM);
    assert_eq!(fold(&events), Gemini.decode_reply(REPLY.as_bytes()).unwrap());
}

#[test]
fn a_stream_that_is_written_again_adds_up_to_the_same() {
    let events = decode_stream(&Gemini, STREAM);
    let mut expected = fold(&events);
    expected.model = "house-model".into();
    // The text's seal came as a thought of its own, and is one again.
    let again = encode_stream(&Gemini, &context(), &events);
    assert_eq!(fold(&decode_stream(&Gemini, &again)), expected);

    let mut encoder = array_encoder(&context());
    let mut out = Vec::new();
    events.iter().for_each(|event| encoder.encode(event, &mut out));
    let array: Vec<Value> = serde_json::from_slice(&out).unwrap();
    let chunks: Vec<Value> = server_events(&again).iter().map(|(_, data)| parse(data)).collect();
    assert_eq!(array, chunks);
}

#[test]
fn a_stream_that_stops_early_says_so_at_every_event() {
    let all = server_events(STREAM);
    for end in 0..all.len() {
        let mut decoder = Gemini.stream_decoder();
        let mut events = Vec::new();
        for (_, data) in &all[..end] {
            decoder.push(None, data, &mut events).unwrap();
        }
        assert!(decoder.finish(&mut events).is_err(), "after {end} events");
        assert!(!events.contains(&Event::Done));
    }
}

#[test]
fn an_event_cut_at_any_byte_is_an_error_and_no_panic() {
    for (_, data) in server_events(STREAM) {
        for end in (0..data.len()).filter(|end| data.is_char_boundary(*end)) {
            let mut events = Vec::new();
            assert!(Gemini.stream_decoder().push(None, &data[..end], &mut events).is_err());
            assert!(events.is_empty());
        }
    }
}

#[test]
fn several_candidates_stream_side_by_side() {
    let part =
        |index: u32, text: &str| json!({"content": {"parts": [{"text": text}]}, "index": index});
    let last = |index: u32, reason: &str| json!({"finishReason": reason, "index": index});
    let chunks = [
        json!({"candidates": [part(0, "a"), part(1, "x")], "responseId": "r"}),
        json!({"candidates": [part(1, "y"), part(0, "b")]}),
        json!({"candidates": [last(1, "MAX_TOKENS")]}),
        json!({"candidates": [last(0, "SAFETY")]}),
    ];
    let stream: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    let mut reply = fold(&decode_stream(&Gemini, &stream));
    reply.choices.sort_by_key(|choice| choice.index);
    assert_eq!(reply.choices[0].content, [Block::text("ab")]);
    assert_eq!(reply.choices[0].stop, Stop::ContentFilter);
    assert_eq!(reply.choices[1].content, [Block::text("xy")]);
    assert_eq!(reply.choices[1].stop, Stop::Length);
}

#[test]
fn a_blocked_prompt_is_a_filtered_reply() {
    let reply = Gemini.decode_reply(BLOCKED.as_bytes()).unwrap();
    assert_eq!(reply.choices[0].stop, Stop::ContentFilter);
    assert_eq!(reply.usage.input, 9);
    assert_eq!(fold(&decode_stream(&Gemini, &format!("data: {}\n\n", BLOCKED.trim()))), reply);
    assert!(matches!(Gemini.decode_reply(b"{}"), Err(Error::Reply { .. })));
}

#[test]
fn a_cut_stream_ends_in_the_dialects_own_way() {
    for frame in [Gemini.stream_encoder(&context()), array_encoder(&context())] {
        let mut encoder = frame;
        let mut out = Vec::new();
        encoder.encode(&Event::Start { id: String::new(), model: String::new() }, &mut out);
        encoder
            .encode(&Event::BlockStart { choice: 0, index: 0, block: Block::text("") }, &mut out);
        encoder.encode(&Event::Text { choice: 0, index: 0, text: "half".into() }, &mut out);
        encoder.cut(&mut out);
        encoder.encode(&Event::Done, &mut out);
        let text = String::from_utf8(out).unwrap().replace("\r\n", "\n");
        let stream = if text.starts_with('[') {
            parse(&text)
                .as_array()
                .unwrap()
                .iter()
                .map(|chunk| format!("data: {chunk}\n\n"))
                .collect()
        } else {
            text
        };
        let reply = fold(&decode_stream(&Gemini, &stream));
        assert_eq!(reply.choices[0].stop, Stop::Length);
        assert_eq!(reply.choices[0].content, [Block::text("half")]);
    }
}

#[test]
fn an_array_that_failed_is_still_json() {
    let failure = Failure {
        status: 502,
        code: "upstream",
        message: "It broke.",
        param: None,
        request_id: "r",
    };
    let mut out = Vec::new();
    array_encoder(&context()).fail(&failure, &mut out);
    assert_eq!(parse(&out)[0]["error"]["status"], "UNAVAILABLE");
}

#[test]
fn foreign_seals_travel_through_a_gemini_caller() {
    let mut reply = Gemini.decode_reply(REPLY.as_bytes()).unwrap();
    let content = vec![
        Block::Thinking {
            text: "Hm.".into(),
            signature: Some(seal::mark("anthropic", "Eq/+==")),
            id: None,
        },
        Block::RedactedThinking { data: seal::mark("anthropic", "Em=="), id: None },
        Block::text("Well."),
        call("toolu_1", None),
    ];
    reply.choices[0].content.clone_from(&content);
    let written = parse(Gemini.encode_reply(&reply, &context()));
    let turn = &written["candidates"][0]["content"];
    let back = decode(&json!({"contents": [turn]})).unwrap();
    assert_eq!(back.messages[0].content, content);
    // SDKs take the seal for bytes.
    use base64::Engine as _;
    let shown = turn["parts"][0]["thoughtSignature"].as_str().unwrap();
    assert!(base64::engine::general_purpose::STANDARD.decode(shown).is_ok());
}

#[test]
fn the_path_says_model_and_method() {
    assert_eq!(
        method("models/gemini-3-pro:generateContent"),
        Some(("gemini-3-pro", Method::Generate))
    );
    assert_eq!(
        method("/models/openai/gpt-5:streamGenerateContent"),
        Some(("openai/gpt-5", Method::Stream))
    );
    assert_eq!(method("e:batchEmbedContents"), Some(("e", Method::BatchEmbed)));
    for not in ["models/gemini-3-pro", "models/:generateContent", "models/x:predict", ""] {
        assert_eq!(method(not), None, "{not}");
    }
}

#[test]
fn errors_bear_googles_names() {
    for (status, name) in [
        (400, "INVALID_ARGUMENT"),
        (401, "UNAUTHENTICATED"),
        (402, "RESOURCE_EXHAUSTED"),
        (403, "PERMISSION_DENIED"),
        (404, "NOT_FOUND"),
        (429, "RESOURCE_EXHAUSTED"),
        (500, "INTERNAL"),
        (503, "UNAVAILABLE"),
        (504, "DEADLINE_EXCEEDED"),
    ] {
        let failure =
            Failure { status, code: "c", message: "Do this.", param: Some("p"), request_id: "r" };
        let body = parse(Gemini.encode_failure(&failure));
        assert_eq!(body["error"]["code"], status);
        assert_eq!(body["error"]["status"], name);
        assert_eq!(body["error"]["details"][0]["reason"], "c");
    }
    let array = format!("[{ERROR}]");
    for body in [ERROR, &array] {
        let read = Gemini.decode_failure(400, body.as_bytes());
        assert_eq!(read.kind.as_deref(), Some("INVALID_ARGUMENT"));
        assert_eq!(read.code.as_deref(), Some("API_KEY_INVALID"));
        assert!(read.message.unwrap().starts_with("API key not valid"));
    }
}

#[test]
fn tokens_are_counted_of_the_whole_prompt() {
    let bare =
        Gemini.decode_count(br#"{"contents": [{"parts": [{"text": "Hi."}]}]}"#, Some("m")).unwrap();
    let whole = json!({"generateContentRequest": {"model": "models/m", "contents": [{"parts": [{"text": "Hi."}]}]}});
    assert_eq!(Gemini.decode_count(whole.to_string().as_bytes(), None).unwrap(), bare);
    let wire = Gemini.encode_count(&bare).unwrap();
    assert_eq!(wire.path, "/models/m:countTokens");
    assert_eq!(parse(&wire.body)["generateContentRequest"]["contents"][0]["role"], "user");
    assert_eq!(Gemini.decode_count_reply(br#"{"totalTokens": 31}"#).unwrap(), 31);
    assert_eq!(Gemini.encode_count_reply(31), br#"{"totalTokens":31}"#);
}

#[test]
fn vectors_are_asked_for_in_batches_and_answered_in_the_callers_form() {
    let one = json!({"content": {"parts": [{"text": "a"}, {"text": "b"}]}, "taskType": "RETRIEVAL_QUERY", "outputDimensionality": 3});
    let single =
        Gemini.decode_embed(one.to_string().as_bytes(), Some("gemini-embedding-001")).unwrap();
    assert_eq!(single.inputs, [Input::Text("ab".into())]);
    let batch = json!({"requests": [one, one]});
    let batch =
        Gemini.decode_embed(batch.to_string().as_bytes(), Some("gemini-embedding-001")).unwrap();
    assert_eq!(
        (batch.single, batch.dimensions, batch.task.as_deref()),
        (false, Some(3), Some("RETRIEVAL_QUERY"))
    );

    let wire = Gemini.encode_embed(&batch).unwrap();
    assert_eq!(wire.path, "/models/gemini-embedding-001:batchEmbedContents");
    assert_eq!(
        parse(&wire.body)["requests"][1],
        json!({"model": "models/gemini-embedding-001", "content": {"parts": [{"text": "ab"}]}, "taskType": "RETRIEVAL_QUERY", "outputDimensionality": 3})
    );
    let reply =
        Gemini.decode_embed_reply(br#"{"embeddings": [{"values": [0.1, -2e-3, 1]}]}"#).unwrap();
    assert_eq!(reply.vectors, [vec![0.1, -0.002, 1.0]]);
    assert_eq!(
        parse(Gemini.encode_embed_reply(&single, &reply)),
        parse(r#"{"embedding": {"values": [0.1, -0.002, 1.0]}}"#)
    );
    assert_eq!(
        parse(Gemini.encode_embed_reply(&batch, &reply)),
        parse(r#"{"embeddings": [{"values": [0.1, -0.002, 1.0]}]}"#)
    );

    let tokens = embed::Request { inputs: vec![Input::Tokens(vec![1])], ..batch };
    assert!(matches!(Gemini.encode_embed(&tokens), Err(Error::Field { .. })));
    assert!(Gemini.decode_embed(br#"{"requests": []}"#, Some("m")).is_err());
    assert!(Gemini.decode_embed_reply(br#"{"embeddings": [{"values": [1e99]}]}"#).is_err());
}

proptest! {
    #[test]
    fn noise_never_panics(which in any::<prop::sample::Index>(), by in prop::option::of(any_json()), raw in any_json()) {
        let at = which.index(1 << 16);
        for body in [spoil(parse(REQUEST), at, by.clone()), raw.clone()] {
            if let Ok(request) = decode(&body) {
                let _ = Gemini.encode_request(&request);
                let _ = Gemini.encode_count(&request);
            }
            let _ = Gemini.decode_embed(body.to_string().as_bytes(), None);
        }
        for body in [spoil(parse(REPLY), at, by.clone()), raw] {
            let body = body.to_string();
            if let Ok(reply) = Gemini.decode_reply(body.as_bytes()) {
                parse(Gemini.encode_reply(&reply, &context()));
            }
            Gemini.decode_failure(500, body.as_bytes());
            let _ = Gemini.decode_embed_reply(body.as_bytes());
            let _ = Gemini.decode_count_reply(body.as_bytes());
        }
        let mut decoder = Gemini.stream_decoder();
        let mut events = Vec::new();
        let all = server_events(STREAM);
        for (place, (_, data)) in all.iter().enumerate() {
            let mut data = parse(data);
            if place == at % all.len() {
                data = spoil(data, at / all.len(), by.clone());
            }
            let _ = decoder.push(None, &data.to_string(), &mut events);
        }
        let _ = decoder.finish(&mut events);
        encode_stream(&Gemini, &context(), &events);
    }
}

#[test]
fn a_conversation_of_very_many_calls_is_read_in_time_that_grows_as_it_does() {
    // With a walk over all open calls for each result this would take minutes.
    const MANY: usize = 60_000;
    let calls = (0..MANY).map(|at| json!({"functionCall": {"name": "f", "id": format!("c{at}")}}));
    let results = (0..MANY).map(
        |at| json!({"functionResponse": {"name": "g", "id": format!("r{at}"), "response": {}}}),
    );
    let body = json!({"contents": [
        {"role": "model", "parts": calls.collect::<Vec<_>>()},
        {"role": "user", "parts": results.collect::<Vec<_>>()},
    ]});
    let begun = decode(&body).unwrap();
    assert_eq!(begun.messages.len(), 2);
    assert_eq!(begun.messages[0].content.len(), MANY);
}

#[test]
fn a_choice_among_some_functions_is_the_same_without_the_others() {
    let body = json!({
        "contents": [{"parts": [{"text": "hi"}]}],
        "tools": [{"functionDeclarations": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["a", "c"]}},
    });
    let request = decode(&body).unwrap();
    let names: Vec<&str> = request.tools.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["a", "c"]);
    assert_eq!(request.tool_choice, Some(crate::chat::ToolChoice::Any));
}
