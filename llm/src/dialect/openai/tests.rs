use proptest::prelude::{any, prop, proptest};
use serde_json::{Value, json};

use super::{
    CacheControl, MaxTokens, OPENAI, OpenAi, Quirks, ReasoningBack, ReasoningField, StreamUsage,
};
use crate::chat::{
    Block, Event, Message, Reasoning, Request, Role, Source, Stop, ToolChoice, Usage,
};
use crate::dialect::{Anthropic, Dialect, Error, Failure};
use crate::embed;
use crate::scan::{Rewrite, scan};
use crate::testing::{any_json, context, decode_stream, encode_stream, fold, server_events, spoil};

const REQUEST: &str = include_str!("../../../testdata/openai/request.json");
const REPLY: &str = include_str!("../../../testdata/openai/reply.json");
const REPLY_OPENROUTER: &str = include_str!("../../../testdata/openai/reply_openrouter.json");
const STREAM: &str = include_str!("../../../testdata/openai/stream.sse");
const STREAM_ERROR: &str = include_str!("../../../testdata/openai/stream_error.sse");
const EMBEDDINGS: &str = include_str!("../../../testdata/openai/embeddings.json");

const STREAMS: &[(&str, &str)] = &[
    ("openai", STREAM),
    ("two choices", include_str!("../../../testdata/openai/stream_two_choices.sse")),
    ("refusal", include_str!("../../../testdata/openai/stream_refusal.sse")),
    ("deepseek", include_str!("../../../testdata/openai/stream_deepseek.sse")),
    ("openrouter", include_str!("../../../testdata/openai/stream_openrouter.sse")),
    ("google", include_str!("../../../testdata/openai/stream_google.sse")),
    ("mistral", include_str!("../../../testdata/openai/stream_mistral.sse")),
    ("groq", include_str!("../../../testdata/openai/stream_groq.sse")),
];

fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn decode(body: &Value) -> Result<Request, Error> {
    OPENAI.decode_request(body.to_string().as_bytes(), None, false)
}

fn wrong(body: &Value) -> (String, String) {
    match decode(body) {
        Err(Error::Field { field, problem }) => (field, problem),
        other => panic!("{other:?}"),
    }
}

fn encode(quirks: Quirks, request: &Request) -> (Value, Vec<String>) {
    let wire = OpenAi { quirks }.encode_request(request).unwrap();
    (parse(&wire.body), wire.dropped)
}

fn stream_of(name: &str) -> &'static str {
    STREAMS.iter().find(|it| it.0 == name).unwrap().1
}

fn ask(content: Vec<Block>) -> Request {
    Request {
        model: "gpt-4o".into(),
        messages: vec![Message { role: Role::User, content, name: None }],
        ..Request::default()
    }
}

fn text(text: &str) -> Block {
    Block::text(text)
}

fn thinking(text: &str, signature: Option<&str>) -> Block {
    Block::Thinking { text: text.into(), signature: signature.map(str::to_owned), id: None }
}

fn call(id: &str, name: &str, arguments: &str) -> Block {
    let (id, name, arguments) = (id.into(), name.into(), arguments.into());
    Block::ToolUse { id, name, arguments, signature: None, cache: None }
}

#[test]
fn a_request_that_is_read_and_written_is_the_same() {
    let request = OPENAI.decode_request(REQUEST.as_bytes(), None, false).unwrap();
    let wire = OPENAI.encode_request(&request).unwrap();
    assert_eq!(parse(&wire.body), parse(REQUEST.as_bytes()));
    assert_eq!((wire.path.as_str(), wire.dropped), ("/chat/completions", vec![]));
    let again = OPENAI.decode_request(&wire.body, None, false).unwrap();
    assert_eq!(again, request);
}

#[test]
fn results_become_one_turn_and_know_their_functions() {
    let request = OPENAI.decode_request(REQUEST.as_bytes(), None, false).unwrap();
    let names: Vec<Option<&str>> = request.messages[2]
        .content
        .iter()
        .map(|it| match it {
            Block::ToolResult { name, .. } => name.as_deref(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, [Some("get_weather"), Some("get_time"), None]);
    assert_eq!(request.system, [text("You are terse.")]);
    assert_eq!(request.messages[3].role, Role::System, "later instructions stay in their place");
}

#[test]
fn a_wrong_field_is_named_with_what_would_do() {
    let with = |key: &str, value: Value| {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "a"}]});
        body[key] = value;
        wrong(&body).0
    };
    assert_eq!(wrong(&json!({"messages": []})).0, "model");
    assert_eq!(wrong(&json!({"model": "m"})).0, "messages");
    assert_eq!(with("messages", json!([{"role": "user"}])), "messages[0].content");
    assert_eq!(with("messages", json!([{"role": "robot", "content": ""}])), "messages[0].role");
    assert_eq!(with("messages", json!([{"role": "user", "content": 7}])), "messages[0].content");
    assert_eq!(
        with("messages", json!([{"role": "user", "content": [{"type": "image_url"}]}])),
        "messages[0].content[0].image_url"
    );
    assert_eq!(
        with("messages", json!([{"role": "tool", "content": "x"}])),
        "messages[0].tool_call_id"
    );
    assert_eq!(
        with(
            "messages",
            json!([{"role": "assistant", "tool_calls": [{"id": "a", "type": "function"}]}])
        ),
        "messages[0].tool_calls[0].function"
    );
    assert_eq!(
        with("tools", json!([{"type": "function", "function": {}}])),
        "tools[0].function.name"
    );
    assert_eq!(with("tool_choice", json!("maybe")), "tool_choice");
    assert_eq!(with("temperature", json!("hot")), "temperature");
    assert_eq!(with("max_tokens", json!(-1)), "max_tokens");
    assert_eq!(with("response_format", json!({"type": "xml"})), "response_format.type");
    assert_eq!(with("stop", json!([1])), "stop[0]");
    assert_eq!(with("functions", json!([{"description": "no name"}])), "functions[0].name");
    assert!(matches!(OPENAI.decode_request(b"{", None, false), Err(Error::Json { .. })));
}

#[test]
fn every_form_of_tool_choice_is_read() {
    let tools = json!([
        {"type": "function", "function": {"name": "a"}},
        {"type": "function", "function": {"name": "b"}},
        {"type": "custom", "custom": {"name": "c"}},
    ]);
    let check = |choice: Value, expected: ToolChoice, left: usize| {
        let request =
            decode(&json!({"model": "m", "messages": [], "tools": tools, "tool_choice": choice}))
                .unwrap();
        assert_eq!((request.tool_choice, request.tools.len()), (Some(expected), left), "{choice}");
    };
    check(json!("auto"), ToolChoice::Auto, 3);
    check(json!("none"), ToolChoice::None, 3);
    check(json!("required"), ToolChoice::Any, 3);
    check(json!({"type": "function", "function": {"name": "b"}}), ToolChoice::Named("b".into()), 3);
    check(json!({"type": "custom", "custom": {"name": "c"}}), ToolChoice::Named("c".into()), 3);
    let allowed = json!([{"type": "function", "function": {"name": "a"}}, {"type": "custom", "custom": {"name": "c"}}]);
    check(
        json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": allowed}}),
        ToolChoice::Any,
        2,
    );
}

#[test]
fn a_reply_that_is_read_and_written_is_the_same() {
    let reply = OPENAI.decode_reply(REPLY.as_bytes()).unwrap();
    assert_eq!(reply.choices[1].stop, Stop::ToolUse);
    assert_eq!(
        reply.usage,
        Usage { input: 1117, cached_input: 1024, cache_write: 0, output: 46, reasoning: 10 }
    );
    let mut expected = parse(REPLY.as_bytes());
    expected["model"] = json!("house-model");
    expected
        .as_object_mut()
        .unwrap()
        .retain(|key, _| key != "service_tier" && key != "system_fingerprint");
    assert_eq!(parse(&OPENAI.encode_reply(&reply, &context())), expected);
}

#[test]
fn reasoning_details_keep_their_seals_both_ways() {
    let reply = OPENAI.decode_reply(REPLY_OPENROUTER.as_bytes()).unwrap();
    let redacted = Block::RedactedThinking { data: "openai:gAAAA".into(), id: Some("rs_1".into()) };
    let expected = [
        thinking("I should look.", Some("openai:EqQBCg==")),
        redacted,
        call("toolu_1", "look", "{\"at\": \"it\"}"),
    ];
    assert_eq!(reply.choices[0].content, expected);
    assert_eq!(reply.usage.cache_write, 2);
    let written = parse(&OPENAI.encode_reply(&reply, &context()));
    let message = written["choices"][0]["message"].clone();
    assert_eq!(message["reasoning_content"], "I should look.");
    assert_eq!(message["reasoning_details"][0]["signature"], "EqQBCg==");
    let next = decode(&json!({"model": "m", "messages": [message]})).unwrap();
    assert_eq!(next.messages[0].content, expected);
    let quirks = Quirks { reasoning_back: ReasoningBack::Details, ..Quirks::COMPATIBLE };
    let (body, dropped) = encode(quirks, &next);
    assert_eq!(
        body["messages"][0]["reasoning_details"],
        written["choices"][0]["message"]["reasoning_details"]
    );
    assert!(dropped.is_empty());
    let (body, dropped) = encode(Quirks::OPENAI, &next);
    assert!(body["messages"][0].get("reasoning_details").is_none());
    assert_eq!(dropped, ["messages[].reasoning"]);
}

#[test]
fn anothers_seal_travels_marked_through_a_caller_of_this_dialect() {
    let reply = r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[
        {"type":"thinking","thinking":"Hm.","signature":"EqQB"},{"type":"text","text":"Yes."}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":2}}"#;
    let reply = Anthropic.decode_reply(reply.as_bytes()).unwrap();
    let message = parse(&OPENAI.encode_reply(&reply, &context()))["choices"][0]["message"].clone();
    assert_eq!(message["reasoning_details"][0]["signature"], "anthropic:EqQB");
    let next = decode(&json!({"model": "claude-sonnet-4-6", "messages": [{"role": "user", "content": "a"}, message, {"role": "user", "content": "b"}]})).unwrap();
    let sent = parse(&Anthropic.encode_request(&next).unwrap().body);
    assert_eq!(
        sent["messages"][1]["content"],
        json!([{"type": "thinking", "thinking": "Hm.", "signature": "EqQB"}, {"type": "text", "text": "Yes."}])
    );
}

#[test]
fn a_calls_google_seal_is_shown_bare_and_taken_back() {
    let reply = fold(&decode_stream(&OPENAI, stream_of("google")));
    let Block::ToolUse { signature, .. } = &reply.choices[0].content[0] else { panic!() };
    assert_eq!(signature.as_deref(), Some("gemini:CpcB"));
    let message = parse(&OPENAI.encode_reply(&reply, &context()))["choices"][0]["message"].clone();
    assert_eq!(message["tool_calls"][0]["extra_content"]["google"]["thought_signature"], "CpcB");
    let next = decode(&json!({"model": "m", "messages": [message]})).unwrap();
    assert_eq!(next.messages[0].content, reply.choices[0].content);
}

#[test]
fn streams_of_many_vendors_add_up() {
    let content = |name: &str| fold(&decode_stream(&OPENAI, stream_of(name))).choices;
    let choices = content("openai");
    let city = call("call_DdmO9pD3xa9XTPNJ32zg2hcA", "get_weather", "{\"city\":\"Paris\"}");
    assert_eq!(
        choices[0].content,
        [text("Let me check.\n"), city, call("call_Ee", "get_time", "{}")]
    );
    assert_eq!(choices[0].stop, Stop::ToolUse);
    let choices = content("two choices");
    assert_eq!((&choices[0].content[..], &choices[0].stop), (&[text("One")][..], &Stop::End));
    assert_eq!((&choices[1].content[..], &choices[1].stop), (&[text("Two.")][..], &Stop::Length));
    let choices = content("refusal");
    assert_eq!(choices[0].content, [Block::Refusal { text: "I can't help.".into() }]);
    assert_eq!(choices[0].stop, Stop::Refusal);
    assert_eq!(content("deepseek")[0].content, [thinking("Two plus two.", None), text("4")]);
    let redacted = Block::RedactedThinking { data: "openai:gAAAA".into(), id: Some("rs_1".into()) };
    let sealed = thinking("Hmm.", Some("openai:EqQBCg=="));
    assert_eq!(content("openrouter")[0].content, [sealed, redacted, text("Done.")]);
    let google = content("google");
    assert_eq!(google[0].content.len(), 2, "two calls that both say index 0");
    assert_eq!(google[0].content[1], call("function-call-2", "b", "{}"));
    let mistral = content("mistral");
    assert_eq!(
        mistral[0].content,
        [thinking("Thinking on.", None), text("Yes."), call("D681PevKs", "f", "{}")]
    );
}

#[test]
fn usage_of_a_stream_is_read_wherever_the_vendor_puts_it() {
    let usage = |name: &str| fold(&decode_stream(&OPENAI, stream_of(name))).usage;
    assert_eq!(
        usage("openai"),
        Usage { input: 19, cached_input: 16, cache_write: 0, output: 30, reasoning: 4 }
    );
    assert_eq!(
        usage("deepseek"),
        Usage { input: 10, cached_input: 4, cache_write: 0, output: 9, reasoning: 7 }
    );
    assert_eq!((usage("groq").input, usage("groq").output), (3, 1));
    assert_eq!((usage("mistral").input, usage("mistral").output), (1, 2));
}

#[test]
fn a_stream_that_is_written_again_adds_up_to_the_same() {
    for (name, stream) in STREAMS {
        let events = decode_stream(&OPENAI, stream);
        let written = encode_stream(&OPENAI, &context(), &events);
        let mut expected = fold(&events);
        let mut again = fold(&decode_stream(&OPENAI, &written));
        for reply in [&mut expected, &mut again] {
            (reply.id, reply.model) = (String::new(), String::new());
        }
        for block in expected.choices.iter_mut().flat_map(|it| &mut it.content) {
            // The id of a sealed thought is not part of a stream's events.
            if let Block::Thinking { id, .. } = block {
                *id = None;
            }
        }
        assert_eq!(again, expected, "{name}: {written}");
        assert!(written.ends_with("data: [DONE]\n\n"), "{name}");
    }
}

#[test]
fn usage_is_the_last_chunk_only_when_asked_for() {
    let events = decode_stream(&OPENAI, STREAM);
    let last = |asked: bool| {
        let context = crate::dialect::ReplyContext { stream_usage: asked, ..context() };
        let written = encode_stream(&OPENAI, &context, &events);
        let chunks = server_events(&written);
        parse(chunks[chunks.len() - 2].1.as_bytes())
    };
    assert_eq!(last(true)["choices"], json!([]));
    assert_eq!(last(true)["usage"]["prompt_tokens"], 19);
    assert_eq!(last(false)["choices"][0]["finish_reason"], "tool_calls");
    assert!(last(false).get("usage").is_none());
}

#[test]
fn a_stream_that_stops_early_says_so_at_every_event() {
    for (name, stream) in STREAMS {
        let events = server_events(stream);
        for length in 0..events.len() {
            let mut decoder = OPENAI.stream_decoder();
            let mut out = Vec::new();
            for (_, data) in &events[..length] {
                decoder.push(None, data, &mut out).unwrap();
            }
            let stops = out.iter().filter(|it| matches!(it, Event::Stop { .. })).count();
            let voices: std::collections::BTreeSet<u32> = out
                .iter()
                .filter_map(|it| match it {
                    Event::BlockStart { choice, .. } => Some(*choice),
                    _ => None,
                })
                .collect();
            let whole = stops > 0 && stops >= voices.len();
            assert_eq!(decoder.finish(&mut out).is_ok(), whole, "{name}, {length} events");
            let open = |it: &Event| {
                i32::from(matches!(it, Event::BlockStart { .. }))
                    - i32::from(matches!(it, Event::BlockStop { .. }))
            };
            assert_eq!(
                out.iter().map(open).sum::<i32>(),
                0,
                "{name}: blocks stay open after {length} events"
            );
        }
    }
}

#[test]
fn an_event_cut_at_any_byte_is_an_error_and_no_panic() {
    for (name, stream) in STREAMS {
        for (_, data) in server_events(stream) {
            for at in (1..data.len()).filter(|it| data.is_char_boundary(*it)) {
                let mut out = Vec::new();
                let result = OPENAI.stream_decoder().push(None, &data[..at], &mut out);
                assert!(matches!(result, Err(Error::Reply { .. })), "{name}: {}", &data[..at]);
            }
        }
    }
}

#[test]
fn an_error_in_a_stream_ends_it() {
    let mut decoder = OPENAI.stream_decoder();
    let mut out = Vec::new();
    for (_, data) in server_events(STREAM_ERROR) {
        decoder.push(None, &data, &mut out).unwrap();
    }
    assert_eq!(decoder.finish(&mut out), Ok(()));
    let Some(Event::Error { kind, message }) = out.last() else { panic!("{out:?}") };
    assert_eq!(kind, "server_error");
    assert!(message.starts_with("The server had an error"));
    let mut encoder = OPENAI.stream_encoder(&context());
    let mut bytes = Vec::new();
    out.iter().for_each(|it| encoder.encode(it, &mut bytes));
    encoder.encode(&Event::Done, &mut bytes);
    let written = String::from_utf8(bytes).unwrap();
    assert!(
        written.contains(r#"data: {"error":{"message":"The server had"#)
            && !written.contains("[DONE]"),
        "{written}"
    );
}

#[test]
fn a_cut_stream_ends_in_the_dialects_own_way() {
    let mut encoder = OPENAI.stream_encoder(&context());
    let mut out = Vec::new();
    for event in &decode_stream(&OPENAI, STREAM)[..4] {
        encoder.encode(event, &mut out);
    }
    encoder.encode(&Event::Usage(Usage { input: 1, output: 2, ..Usage::default() }), &mut out);
    out.clear();
    encoder.cut(&mut out);
    encoder.cut(&mut out);
    let events = server_events(std::str::from_utf8(&out).unwrap());
    assert_eq!(events.len(), 3, "{events:?}");
    assert_eq!(parse(events[0].1.as_bytes())["choices"][0]["finish_reason"], "length");
    assert_eq!(parse(events[1].1.as_bytes())["usage"]["total_tokens"], 3);
    assert_eq!(events[2].1, "[DONE]");
}

#[test]
fn what_a_result_shows_goes_to_the_user() {
    let image = Block::Image {
        source: Source::Base64 { media_type: "image/png".into(), data: "AA==".into() },
        detail: None,
        cache: None,
    };
    let result = |id: &str, content: Vec<Block>, is_error: bool| Block::ToolResult {
        id: id.into(),
        name: None,
        content,
        is_error,
        cache: None,
    };
    let request = ask(vec![
        text("look"),
        result("1", vec![image], false),
        result("2", vec![text("no such file")], true),
    ]);
    let (body, dropped) = encode(Quirks::OPENAI, &request);
    assert_eq!(
        body["messages"],
        json!([
            {"role": "tool", "tool_call_id": "1", "content": "The result is shown in the next message."},
            {"role": "tool", "tool_call_id": "2", "content": "Error: no such file"},
            {"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                {"type": "text", "text": "look"},
            ]},
        ])
    );
    assert!(dropped.is_empty());
}

#[test]
fn what_openai_cannot_say_is_named_or_refused() {
    let mut request = ask(vec![text("a")]);
    (request.dialect, request.top_k) = ("anthropic", Some(5));
    request.extra.insert("container".to_owned(), json!("c"));
    request.metadata = Some(json!({"user_id": "u"}));
    assert_eq!(encode(Quirks::OPENAI, &request).1, ["container", "metadata", "top_k"]);
    let document = |source| ask(vec![Block::Document { source, title: None, cache: None }]);
    for source in [
        Source::Url { url: "https://example.com/a.pdf".into(), media_type: None },
        Source::File { id: "file_1".into() },
    ] {
        let error = OPENAI.encode_request(&document(source)).unwrap_err();
        assert!(
            matches!(error, Error::Field { ref field, .. } if field == "messages[0].content"),
            "{error}"
        );
    }
}

#[test]
fn quirks_change_what_is_written() {
    let mut request = ask(vec![Block::Text {
        text: "a".into(),
        cache: Some(json!({"type": "ephemeral"})),
        citations: None,
    }]);
    (request.max_tokens, request.stream, request.top_k) = (Some(9), true, Some(4));
    request.reasoning = Some(Reasoning { budget_tokens: Some(4096), ..Reasoning::default() });
    let (body, _) = encode(Quirks::OPENAI, &request);
    assert_eq!(
        (&body["max_completion_tokens"], &body["reasoning_effort"]),
        (&json!(9), &json!("medium"))
    );
    assert_eq!(body["stream_options"], json!({"include_usage": true}));
    assert_eq!(body["messages"][0]["content"], "a");
    let quirks = Quirks {
        stream_usage: StreamUsage::Always,
        reasoning: ReasoningField::Nested,
        cache_control: CacheControl::Kept,
        top_k: super::Extra::Known,
        ..Quirks::COMPATIBLE
    };
    let (body, dropped) = encode(quirks, &request);
    assert_eq!(
        (&body["max_tokens"], &body["reasoning"]),
        (&json!(9), &json!({"max_tokens": 4096}))
    );
    assert_eq!((body.get("stream_options"), &body["top_k"]), (None, &json!(4)));
    assert_eq!(body["messages"][0]["content"][0]["cache_control"], json!({"type": "ephemeral"}));
    assert!(dropped.is_empty());
}

#[test]
fn a_passing_body_is_adapted_to_a_vendor() {
    let adapt = |quirks: Quirks, body: &str| {
        let scan = scan(body.as_bytes()).unwrap();
        let mut rewrite = Rewrite::new(&scan);
        quirks.adapt(&scan, body.as_bytes(), &mut rewrite);
        String::from_utf8(rewrite.apply(body.as_bytes())).unwrap()
    };
    let body = r#"{"model":"m","max_completion_tokens":5,"stream":true}"#;
    assert_eq!(
        adapt(Quirks::OPENAI, body),
        r#"{"model":"m","max_completion_tokens":5,"stream":true,"stream_options":{"include_usage":true}}"#
    );
    let quirks = Quirks {
        stream_usage: StreamUsage::Always,
        max_tokens: MaxTokens::MaxTokens,
        ..Quirks::OPENAI
    };
    assert_eq!(adapt(quirks, body), r#"{"model":"m","stream":true,"max_tokens":5}"#);
    assert_eq!(adapt(quirks, r#"{"stream_options":{},"a":1}"#), r#"{"a":1}"#);
    let unknown = r#"{"max_completion_tokens":5,"messages":[{"role":"developer"}]}"#;
    assert_eq!(
        adapt(Quirks::UNKNOWN, unknown),
        unknown,
        "a server that nobody knows is passed to as it is"
    );
    assert!(!Quirks::UNKNOWN.must_translate(&scan(unknown.as_bytes()).expect("a body")));
    assert!(
        Quirks::COMPATIBLE
            .must_translate(&scan(br#"{"messages":[{"role":"developer"}]}"#).expect("a body"))
    );
    assert!(
        !Quirks::OPENAI
            .must_translate(&scan(br#"{"messages":[{"role":"developer"}]}"#).expect("a body"))
    );
}

#[test]
fn a_passing_body_is_bounded_whichever_field_its_server_heeds() {
    let bounded = |quirks: Quirks, body: &str| {
        let scan = scan(body.as_bytes()).unwrap();
        let mut rewrite = Rewrite::new(&scan);
        quirks.adapt(&scan, body.as_bytes(), &mut rewrite);
        quirks.bound_output(&scan, 7, &mut rewrite);
        String::from_utf8(rewrite.apply(body.as_bytes())).unwrap()
    };
    let (old, new) = (r#"{"max_tokens":90}"#, r#"{"max_completion_tokens":90}"#);
    let both = r#"{"max_tokens":90,"max_completion_tokens":80}"#;
    for (quirks, body, expected) in [
        (Quirks::OPENAI, "{}", r#"{"max_completion_tokens":7}"#),
        (Quirks::OPENAI, old, r#"{"max_tokens":7}"#),
        (Quirks::OPENAI, new, r#"{"max_completion_tokens":7}"#),
        (Quirks::COMPATIBLE, "{}", r#"{"max_tokens":7}"#),
        (Quirks::COMPATIBLE, new, r#"{"max_tokens":7}"#),
        (Quirks::COMPATIBLE, both, r#"{"max_tokens":7}"#),
        (Quirks::UNKNOWN, new, r#"{"max_completion_tokens":7}"#),
        (Quirks::UNKNOWN, both, r#"{"max_tokens":7,"max_completion_tokens":7}"#),
        (Quirks::UNKNOWN, "{}", r#"{"max_tokens":7}"#),
    ] {
        assert_eq!(bounded(quirks, body), expected, "{body}");
    }
}

#[test]
fn errors_are_written_and_read_in_openais_words() {
    let failure = Failure {
        status: 402,
        code: "budget_exhausted",
        message: "The budget is spent.",
        param: None,
        request_id: "req_1",
    };
    assert_eq!(
        parse(&OPENAI.encode_failure(&failure)),
        json!({
            "error": {"message": "The budget is spent.", "type": "insufficient_quota", "param": null, "code": "budget_exhausted"},
            "request_id": "req_1",
        })
    );
    for (body, kind, code, message) in [
        (
            r#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#,
            Some("t"),
            Some("c"),
            Some("m"),
        ),
        (
            r#"[{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT"}}]"#,
            Some("INVALID_ARGUMENT"),
            Some("400"),
            Some("m"),
        ),
        (r#"{"error":"model 'x' not found"}"#, None, None, Some("model 'x' not found")),
        (
            r#"{"object":"error","message":"m","type":"invalid_request_error","code":3051}"#,
            Some("invalid_request_error"),
            Some("3051"),
            Some("m"),
        ),
        (
            r#"{"detail":[{"loc":["body"],"msg":"field required","type":"missing"}]}"#,
            None,
            None,
            Some("field required"),
        ),
        (r#"{"message":{"detail":[{"msg":"extra inputs"}]}}"#, None, None, Some("extra inputs")),
        ("upstream timed out", None, None, Some("upstream timed out")),
        ("<html>", None, None, None),
        ("", None, None, None),
    ] {
        let read = OPENAI.decode_failure(400, body.as_bytes());
        assert_eq!(
            (read.kind.as_deref(), read.code.as_deref(), read.message.as_deref()),
            (kind, code, message),
            "{body}"
        );
    }
}

#[test]
fn embeddings_are_read_and_written_in_both_encodings() {
    let reply = OPENAI.decode_embed_reply(EMBEDDINGS.as_bytes()).unwrap();
    assert_eq!(reply.vectors, [vec![0.002_306_425_5, -0.009_327_292, 1e-7], vec![0.1, -2.0]]);
    assert_eq!(reply.usage.input, 8);
    for (base64, expected) in
        [(false, r#""embedding":[0.1,-2.0]"#), (true, r#""embedding":"zczMPQAAAMA=""#)]
    {
        let request = OPENAI
            .decode_embed(json!({"model": "e", "input": ["a", "b"], "encoding_format": if base64 { "base64" } else { "float" }}).to_string().as_bytes(), None)
            .unwrap();
        let written = OPENAI.encode_embed_reply(&request, &reply);
        assert!(
            String::from_utf8_lossy(&written).contains(expected),
            "{}",
            String::from_utf8_lossy(&written)
        );
        assert_eq!(OPENAI.decode_embed_reply(&written).unwrap().vectors, reply.vectors);
    }
}

#[test]
fn every_form_of_embedding_input_is_read() {
    let inputs = |input: Value| {
        OPENAI
            .decode_embed(json!({"model": "e", "input": input}).to_string().as_bytes(), None)
            .map(|it| it.inputs)
    };
    let (a, tokens) = (embed::Input::Text("a".into()), embed::Input::Tokens(vec![1, 2]));
    assert_eq!(inputs(json!("a")), Ok(vec![a.clone()]));
    assert_eq!(inputs(json!(["a", "a"])), Ok(vec![a.clone(), a]));
    assert_eq!(inputs(json!([1, 2])), Ok(vec![tokens.clone()]));
    assert_eq!(inputs(json!([[1, 2], [1, 2]])), Ok(vec![tokens.clone(), tokens]));
    for wrong in [json!([]), json!(null), json!([1, "a"]), json!({}), json!([-1])] {
        assert!(
            matches!(inputs(wrong.clone()), Err(Error::Field { field, .. }) if field == "input"),
            "{wrong}"
        );
    }
}

proptest! {
    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64), text in "\\PC{0,64}") {
        let _ = OPENAI.decode_request(&bytes, None, false);
        let _ = OPENAI.decode_reply(&bytes);
        let _ = OPENAI.decode_failure(500, &bytes);
        let _ = OPENAI.decode_embed(&bytes, None);
        let _ = OPENAI.decode_embed_reply(&bytes);
        let mut decoder = OPENAI.stream_decoder();
        let mut out = Vec::new();
        let _ = decoder.push(None, &text, &mut out);
        let _ = decoder.finish(&mut out);
    }

    #[test]
    fn a_spoilt_message_never_panics_and_what_is_read_can_be_written(which in any::<usize>(), by in prop::option::of(any_json())) {
        let request = spoil(parse(REQUEST.as_bytes()), which, by.clone());
        if let Ok(request) = decode(&request) {
            let _ = OPENAI.encode_request(&request);
            let _ = Anthropic.encode_request(&request);
        }
        for reply in [REPLY, REPLY_OPENROUTER] {
            let reply = spoil(parse(reply.as_bytes()), which, by.clone());
            if let Ok(reply) = OPENAI.decode_reply(reply.to_string().as_bytes()) {
                let written = OPENAI.encode_reply(&reply, &context());
                proptest::prop_assert!(OPENAI.decode_reply(&written).is_ok());
            }
        }
    }

    #[test]
    fn a_spoilt_stream_never_panics_nor_breaks_the_order_of_events(which in any::<usize>(), at in any::<usize>(), by in prop::option::of(any_json()), stream in 0..STREAMS.len()) {
        let mut events = server_events(STREAMS[stream].1);
        events.pop();
        let at = at % events.len();
        events[at].1 = spoil(parse(events[at].1.as_bytes()), which, by).to_string();
        let mut decoder = OPENAI.stream_decoder();
        let mut out = Vec::new();
        for (_, data) in &events {
            if decoder.push(None, data, &mut out).is_err() {
                break;
            }
        }
        let _ = decoder.finish(&mut out);
        let mut encoder = OPENAI.stream_encoder(&context());
        let mut bytes = Vec::new();
        out.iter().for_each(|it| encoder.encode(it, &mut bytes));
        if out.last() == Some(&Event::Done) {
            fold(&out);
        }
    }
}
