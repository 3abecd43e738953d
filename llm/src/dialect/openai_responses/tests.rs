use proptest::prelude::{any, prop, proptest};
use serde_json::{Value, json};

use super::OpenAiResponses;
use crate::chat::{Block, Event, Message, Reply, Request, Role, Stop, Usage};
use crate::dialect::openai::{OPENAI, OpenAi, Quirks};
use crate::dialect::{Anthropic, Dialect, Error, Failure};
use crate::testing::{any_json, context, decode_stream, encode_stream, fold, server_events, spoil};

const REQUEST: &str = include_str!("../../../testdata/openai_responses/request.json");
const REPLY: &str = include_str!("../../../testdata/openai_responses/reply.json");
const STREAM: &str = include_str!("../../../testdata/openai_responses/stream.sse");
const INCOMPLETE: &str = include_str!("../../../testdata/openai_responses/stream_incomplete.sse");
const FAILED: &str = include_str!("../../../testdata/openai_responses/stream_failed.sse");
const CHAT_STREAM: &str = include_str!("../../../testdata/openai/stream.sse");

fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn decode(body: &Value) -> Result<Request, Error> {
    OpenAiResponses.decode_request(body.to_string().as_bytes(), None, false)
}

fn wrong(body: &Value) -> String {
    match decode(body) {
        Err(Error::Field { field, .. }) => field,
        other => panic!("{other:?}"),
    }
}

fn thinking(text: &str, signature: Option<&str>) -> Block {
    Block::Thinking { text: text.into(), signature: signature.map(str::to_owned), id: None }
}

fn call(signature: Option<&str>) -> Block {
    Block::ToolUse {
        id: "c1".into(),
        name: "f".into(),
        arguments: "{\"a\":1}".into(),
        signature: signature.map(str::to_owned),
        cache: None,
    }
}

/// A stream in which the reply comes in events.
fn events_of(reply: &Reply) -> Vec<Event> {
    let mut events = vec![Event::Start { id: reply.id.clone(), model: reply.model.clone() }];
    let choice = &reply.choices[0];
    for (index, block) in (0..).zip(&choice.content) {
        events.push(Event::BlockStart { choice: 0, index, block: block.clone() });
        events.push(Event::BlockStop { choice: 0, index });
    }
    events.push(Event::Stop { choice: 0, stop: choice.stop.clone() });
    events.push(Event::Usage(reply.usage));
    events.push(Event::Done);
    events
}

#[test]
fn a_request_that_is_read_and_written_is_the_same() {
    let request = OpenAiResponses.decode_request(REQUEST.as_bytes(), None, false).unwrap();
    let wire = OpenAiResponses.encode_request(&request).unwrap();
    let expected = parse(REQUEST.as_bytes());
    assert_eq!(parse(&wire.body), expected);
    assert_eq!((wire.path.as_str(), wire.dropped), ("/responses", vec![]));
    assert_eq!(OpenAiResponses.decode_request(&wire.body, None, false).unwrap(), request);
}

#[test]
fn items_become_turns() {
    let request = OpenAiResponses.decode_request(REQUEST.as_bytes(), None, false).unwrap();
    let roles: Vec<(Role, usize)> =
        request.messages.iter().map(|it| (it.role, it.content.len())).collect();
    assert_eq!(
        roles,
        [
            (Role::User, 6),
            (Role::Assistant, 5),
            (Role::User, 3),
            (Role::System, 1),
            (Role::User, 1)
        ]
    );
    let Block::ToolResult { name, .. } = &request.messages[2].content[0] else { panic!() };
    assert_eq!(name.as_deref(), Some("shell"), "a result knows its function");
    let text = decode(&json!({"model": "m", "input": "hi"})).unwrap();
    assert_eq!(
        text.messages,
        [Message { role: Role::User, content: vec![Block::text("hi")], name: None }]
    );
}

#[test]
fn an_upstream_of_chat_completions_serves_a_caller_of_responses() {
    let request = OpenAiResponses.decode_request(REQUEST.as_bytes(), None, false).unwrap();
    let mut request = Request { messages: request.messages[1..].to_vec(), ..request };
    request.messages.remove(2);
    let wire = OpenAi { quirks: Quirks::COMPATIBLE }.encode_request(&request).unwrap();
    let body = parse(&wire.body);
    assert_eq!(
        body["messages"][0],
        json!({"role": "system", "content": "You are a coding agent."})
    );
    assert_eq!(body["messages"][1]["content"], "Let me look.");
    assert_eq!(body["messages"][1]["tool_calls"][0]["function"]["name"], "shell");
    assert_eq!(
        body["messages"][2],
        json!({"role": "tool", "tool_call_id": "call_1", "content": "a.txt"})
    );
    assert_eq!(body["response_format"]["json_schema"]["name"], "answer");
    assert_eq!((&body["max_tokens"], &body["reasoning_effort"]), (&json!(2048), &json!("low")));
    assert_eq!(body["tools"].as_array().unwrap().len(), 4);
    assert_eq!(body["tools"][3]["function"]["name"], "mcp__docs__search");
    assert_eq!(
        wire.dropped,
        [
            "max_tool_calls",
            "messages[].reasoning",
            "prompt_cache_key",
            "reasoning.summary",
            "service_tier",
            "tools[].web_search",
            "verbosity",
        ]
    );
    let events = decode_stream(&OPENAI, CHAT_STREAM);
    let written = encode_stream(&OpenAiResponses, &context(), &events);
    let names: Vec<String> = server_events(&written).into_iter().filter_map(|it| it.0).collect();
    let call = ["response.output_item.added", "response.output_item.added"];
    assert_eq!(
        names,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            call[0],
            "response.function_call_arguments.delta",
            call[1],
            "response.function_call_arguments.delta",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let mut again = fold(&decode_stream(&OpenAiResponses, &written));
    let mut expected = fold(&events);
    (again.id, again.model) = Default::default();
    (expected.id, expected.model) = Default::default();
    assert_eq!(again, expected);
}

/// What only this dialect has reaches a model of any vendor, and its calls come back as what they stand for.
#[test]
fn custom_tools_and_namespaces_are_functions_elsewhere() {
    let request = OpenAiResponses.decode_request(REQUEST.as_bytes(), None, false).unwrap();
    let names: Vec<&str> = request.aliases.iter().map(|it| it.function.as_str()).collect();
    assert_eq!(names, ["apply_patch", "mcp__docs__search"]);
    let mut context = context();
    context.aliases = request.aliases.into();
    let called = |name: &str, arguments: &str| Block::ToolUse {
        id: format!("call_{name}"),
        name: name.into(),
        arguments: arguments.into(),
        signature: None,
        cache: None,
    };
    let content = vec![
        called("apply_patch", "{\"input\":\"*** Begin\\nPatch\"}"),
        called("mcp__docs__search", "{\"q\":1}"),
        called("shell", "{}"),
    ];
    let choice = crate::chat::Choice {
        index: 0,
        content: content.clone(),
        stop: Stop::ToolUse,
        logprobs: None,
    };
    let reply = Reply {
        id: String::new(),
        model: String::new(),
        created: None,
        choices: vec![choice],
        usage: Usage::default(),
    };
    let whole = parse(&OpenAiResponses.encode_reply(&reply, &context));
    let stream = encode_stream(&OpenAiResponses, &context, &events_of(&reply));
    assert!(stream.contains("event: response.custom_tool_call_input.delta\n"), "{stream}");
    let streamed = parse(server_events(&stream).pop().unwrap().1.as_bytes())["response"].clone();
    for response in [whole, streamed] {
        let output = &response["output"];
        assert_eq!(
            (&output[0]["type"], &output[0]["name"], &output[0]["input"]),
            (&json!("custom_tool_call"), &json!("apply_patch"), &json!("*** Begin\nPatch"))
        );
        assert!(output[0]["id"].as_str().unwrap().starts_with("ctc_"));
        assert_eq!(
            (&output[1]["namespace"], &output[1]["name"], &output[1]["arguments"]),
            (&json!("mcp__docs"), &json!("search"), &json!("{\"q\":1}"))
        );
        assert_eq!((&output[2]["name"], output[2].get("namespace")), (&json!("shell"), None));
        let next = decode(&json!({"model": "m", "input": output})).unwrap();
        assert_eq!(next.messages[0].content, content);
    }
}

#[test]
fn a_long_or_odd_name_in_a_namespace_stays_one_that_vendors_take() {
    let flat = super::alias::flat;
    assert_eq!(flat("docs", "search"), "docs__search");
    let (one, other) = (flat(&"n".repeat(60), "search"), flat(&"n".repeat(60), "select"));
    assert_ne!(one, other);
    for name in [one, other, flat("a b", "ü.c")] {
        assert!(
            name.len() <= 64
                && name.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_' || it == b'-'),
            "{name}"
        );
    }
}

#[test]
fn what_needs_the_vendors_store_is_refused_with_what_to_do() {
    let with = |key: &str, value: Value| {
        let mut body = json!({"model": "m", "input": "a"});
        body[key] = value;
        body
    };
    for key in ["previous_response_id", "conversation", "prompt"] {
        assert_eq!(wrong(&with(key, json!("x"))), key);
    }
    assert_eq!(wrong(&with("background", json!(true))), "background");
    assert_eq!(
        wrong(&with("input", json!([{"type": "item_reference", "id": "msg_1"}]))),
        "input[0]"
    );
    decode(&with("previous_response_id", Value::Null)).unwrap();
    decode(&with("background", json!(false))).unwrap();
}

#[test]
fn a_wrong_field_is_named() {
    let with = |key: &str, value: Value| {
        let mut body = json!({"model": "m", "input": "a"});
        body[key] = value;
        wrong(&body)
    };
    assert_eq!(wrong(&json!({"input": "a"})), "model");
    assert_eq!(wrong(&json!({"model": "m"})), "input");
    assert_eq!(with("input", json!(7)), "input");
    assert_eq!(with("input", json!([{"role": "robot", "content": "a"}])), "input[0].role");
    assert_eq!(with("input", json!([{"role": "user"}])), "input[0].content");
    assert_eq!(with("input", json!([{"type": "function_call", "name": "f"}])), "input[0].call_id");
    assert_eq!(
        with("input", json!([{"role": "user", "content": [{"type": "input_image"}]}])),
        "input[0].content[0].image_url"
    );
    assert_eq!(with("tools", json!([{"type": "function"}])), "tools[0].name");
    assert_eq!(with("tool_choice", json!("maybe")), "tool_choice");
    assert_eq!(with("text", json!({"format": {"type": "xml"}})), "text.format.type");
    assert_eq!(with("max_output_tokens", json!("x")), "max_output_tokens");
}

#[test]
fn a_reply_that_is_read_and_written_is_the_same() {
    let reply = OpenAiResponses.decode_reply(REPLY.as_bytes()).unwrap();
    assert_eq!(reply.choices[0].stop, Stop::ToolUse);
    assert_eq!(
        reply.usage,
        Usage { input: 328, cached_input: 128, cache_write: 0, output: 52, reasoning: 10 }
    );
    let mut expected = parse(REPLY.as_bytes());
    expected["model"] = json!("house-model");
    assert_eq!(parse(&OpenAiResponses.encode_reply(&reply, &context())), expected);
}

#[test]
fn a_stream_adds_up_to_the_whole_reply() {
    let reply = fold(&decode_stream(&OpenAiResponses, STREAM));
    let completed = server_events(STREAM).pop().unwrap().1;
    let whole = parse(completed.as_bytes())["response"].to_string();
    let mut whole = OpenAiResponses.decode_reply(whole.as_bytes()).unwrap();
    whole.created = None;
    assert_eq!(reply, whole);
    let reply = fold(&decode_stream(&OpenAiResponses, INCOMPLETE));
    assert_eq!(reply.choices[0].stop, Stop::Length);
    assert_eq!(reply.choices[0].content, [Block::Refusal { text: "I can".into() }]);
}

#[test]
fn a_stream_that_is_written_again_adds_up_to_the_same() {
    for stream in [STREAM, INCOMPLETE] {
        let events = decode_stream(&OpenAiResponses, stream);
        let written = encode_stream(&OpenAiResponses, &context(), &events);
        let again = fold(&decode_stream(&OpenAiResponses, &written));
        assert_eq!(again.choices, fold(&events).choices, "{written}");
        let numbers: Vec<u64> = server_events(&written)
            .iter()
            .map(|it| parse(it.1.as_bytes())["sequence_number"].as_u64().unwrap())
            .collect();
        assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "{numbers:?}");
    }
}

#[test]
fn the_last_event_holds_what_the_whole_reply_would() {
    let reply = OpenAiResponses.decode_reply(REPLY.as_bytes()).unwrap();
    let reply = Reply { created: None, ..reply };
    let written = encode_stream(&OpenAiResponses, &context(), &events_of(&reply));
    let last = parse(server_events(&written).pop().unwrap().1.as_bytes());
    let mut whole = parse(&OpenAiResponses.encode_reply(&reply, &context()));
    // The whole block's citations are not events.
    whole["output"][1]["content"][0]["annotations"] = json!([]);
    assert_eq!(last["response"], whole);
}

#[test]
fn anothers_seals_travel_in_encrypted_content() {
    let content = vec![
        thinking("Hm.", Some("anthropic:EqQB")),
        Block::RedactedThinking { data: "anthropic:AbC".into(), id: None },
        Block::text("Yes."),
        call(Some("gemini:CpcB")),
    ];
    let reply = Reply {
        id: String::new(),
        model: "m".into(),
        created: None,
        choices: vec![crate::chat::Choice {
            index: 0,
            content: content.clone(),
            stop: Stop::ToolUse,
            logprobs: None,
        }],
        usage: Usage::default(),
    };
    let whole = parse(&OpenAiResponses.encode_reply(&reply, &context()));
    let streamed = encode_stream(&OpenAiResponses, &context(), &events_of(&reply));
    let streamed = parse(server_events(&streamed).pop().unwrap().1.as_bytes())["response"].clone();
    for response in [whole, streamed] {
        let next = decode(&json!({"model": "m", "input": response["output"]})).unwrap();
        let mut back = next.messages[0].content.clone();
        for block in &mut back {
            if let Block::Thinking { id, .. } | Block::RedactedThinking { id, .. } = block {
                assert!(id.take().is_some_and(|it| it.starts_with("rs_")));
            }
        }
        assert_eq!(back, content);
    }
    let sent = OpenAiResponses
        .encode_request(&Request {
            messages: vec![Message { role: Role::Assistant, content, name: None }],
            ..Request::default()
        })
        .unwrap();
    assert!(
        !String::from_utf8_lossy(&sent.body).contains("EqQB"),
        "another's seal is not sent to OpenAI"
    );
    assert_eq!(sent.dropped, ["messages[].reasoning"]);
}

#[test]
fn a_stream_that_stops_early_says_so_at_every_event() {
    for stream in [STREAM, INCOMPLETE] {
        let events = server_events(stream);
        for length in 0..events.len() {
            let mut decoder = OpenAiResponses.stream_decoder();
            let mut out = Vec::new();
            for (name, data) in &events[..length] {
                decoder.push(name.as_deref(), data, &mut out).unwrap();
            }
            assert!(
                matches!(decoder.finish(&mut out), Err(Error::Reply { .. })),
                "{length} events"
            );
            let open = |it: &Event| {
                i32::from(matches!(it, Event::BlockStart { .. }))
                    - i32::from(matches!(it, Event::BlockStop { .. }))
            };
            assert_eq!(
                out.iter().map(open).sum::<i32>(),
                0,
                "blocks stay open after {length} events"
            );
        }
    }
}

#[test]
fn an_event_cut_at_any_byte_is_an_error_and_no_panic() {
    for (name, data) in server_events(STREAM) {
        for at in (1..data.len()).filter(|it| data.is_char_boundary(*it)) {
            let mut out = Vec::new();
            let result =
                OpenAiResponses.stream_decoder().push(name.as_deref(), &data[..at], &mut out);
            assert!(matches!(result, Err(Error::Reply { .. })), "{}", &data[..at]);
        }
    }
}

#[test]
fn a_failure_in_a_stream_ends_it() {
    let mut decoder = OpenAiResponses.stream_decoder();
    let mut out = Vec::new();
    for (name, data) in server_events(FAILED) {
        decoder.push(name.as_deref(), &data, &mut out).unwrap();
    }
    assert_eq!(decoder.finish(&mut out), Ok(()));
    let message = "Your input exceeds the context window of this model.".to_owned();
    let kind = "context_length_exceeded".to_owned();
    assert_eq!(out[1..], [Event::Error { kind, message }]);
    let failure = Failure {
        status: 502,
        code: "upstream_failed",
        message: "m",
        param: None,
        request_id: "r",
    };
    let mut encoder = OpenAiResponses.stream_encoder(&context());
    let mut bytes = Vec::new();
    encoder.fail(&failure, &mut bytes);
    encoder.encode(&Event::Done, &mut bytes);
    let events = server_events(std::str::from_utf8(&bytes).unwrap());
    let names: Vec<&str> = events.iter().filter_map(|it| it.0.as_deref()).collect();
    assert_eq!(names, ["response.created", "response.in_progress", "error", "response.failed"]);
    assert_eq!(
        parse(events[3].1.as_bytes())["response"]["error"],
        json!({"code": "upstream_failed", "message": "m"})
    );
}

#[test]
fn a_cut_stream_ends_in_the_dialects_own_way() {
    let mut encoder = OpenAiResponses.stream_encoder(&context());
    let mut out = Vec::new();
    for event in &decode_stream(&OPENAI, CHAT_STREAM)[..4] {
        encoder.encode(event, &mut out);
    }
    out.clear();
    encoder.cut(&mut out);
    encoder.cut(&mut out);
    let events = server_events(std::str::from_utf8(&out).unwrap());
    let last = parse(events.last().unwrap().1.as_bytes());
    assert_eq!(
        events.iter().filter(|it| it.0.as_deref() == Some("response.incomplete")).count(),
        1
    );
    assert_eq!(last["response"]["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!(last["response"]["output"][0]["status"], "incomplete");
}

#[test]
fn a_caller_of_chat_reaches_an_upstream_of_responses() {
    let body = json!({
        "model": "gpt-5", "messages": [{"role": "user", "content": "a"}], "max_tokens": 5, "stop": "x", "n": 2,
        "reasoning_effort": "low", "verbosity": "low", "service_tier": "flex", "logit_bias": {"1": 2},
        "tools": [{"type": "function", "function": {"name": "f"}}],
    });
    let request = OPENAI.decode_request(body.to_string().as_bytes(), None, false).unwrap();
    let wire = OpenAiResponses.encode_request(&request).unwrap();
    assert_eq!(
        parse(&wire.body),
        json!({
            "model": "gpt-5", "input": [{"role": "user", "content": "a"}], "max_output_tokens": 5,
            "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": false}],
            "reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"],
            "text": {"verbosity": "low"}, "service_tier": "flex", "store": false,
        })
    );
    assert_eq!(wire.dropped, ["logit_bias", "n", "stop"]);
}

proptest! {
    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64), text in "\\PC{0,64}") {
        let _ = OpenAiResponses.decode_request(&bytes, None, false);
        let _ = OpenAiResponses.decode_reply(&bytes);
        let mut decoder = OpenAiResponses.stream_decoder();
        let mut out = Vec::new();
        let _ = decoder.push(Some(&text), &text, &mut out);
        let _ = decoder.finish(&mut out);
    }

    #[test]
    fn a_spoilt_message_never_panics_and_what_is_read_can_be_written(which in any::<usize>(), by in prop::option::of(any_json())) {
        if let Ok(request) = decode(&spoil(parse(REQUEST.as_bytes()), which, by.clone())) {
            let _ = OpenAiResponses.encode_request(&request);
            let _ = OPENAI.encode_request(&request);
            let _ = Anthropic.encode_request(&request);
        }
        let reply = spoil(parse(REPLY.as_bytes()), which, by);
        if let Ok(reply) = OpenAiResponses.decode_reply(reply.to_string().as_bytes()) {
            let written = OpenAiResponses.encode_reply(&reply, &context());
            proptest::prop_assert!(OpenAiResponses.decode_reply(&written).is_ok());
        }
    }

    #[test]
    fn a_spoilt_stream_never_panics_nor_breaks_the_order_of_events(which in any::<usize>(), at in any::<usize>(), by in prop::option::of(any_json())) {
        let mut events = server_events(STREAM);
        let at = at % events.len();
        events[at].1 = spoil(parse(events[at].1.as_bytes()), which, by).to_string();
        let mut decoder = OpenAiResponses.stream_decoder();
        let mut out = Vec::new();
        for (name, data) in &events {
            if decoder.push(name.as_deref(), data, &mut out).is_err() {
                break;
            }
        }
        let _ = decoder.finish(&mut out);
        for dialect in [&OPENAI as &dyn Dialect, &OpenAiResponses, &Anthropic] {
            let _ = encode_stream(dialect, &context(), &out);
        }
        if out.last() == Some(&Event::Done) {
            fold(&out);
        }
    }
}

#[test]
fn functions_in_namespaces_are_bounded_and_many_calls_of_one_are_not_searched_for() {
    let tool = |at: usize| json!({"type": "function", "name": format!("f{at}")});
    let many: Vec<Value> = (0..5_000).map(tool).collect();
    let body = json!({"model": "m", "input": "hi", "tools": [{"type": "namespace", "name": "n", "tools": many}]});
    assert_eq!(wrong(&body), "tools");
    let most: Vec<Value> = (0..4_000).map(tool).collect();
    let calls = (0..20_000).map(|at| json!({"type": "function_call", "call_id": format!("c{at}"), "namespace": "n", "name": "f3999", "arguments": "{}"}));
    let tools = json!([{"type": "namespace", "name": "n", "tools": most}]);
    let body = json!({"model": "m", "input": calls.collect::<Vec<_>>(), "tools": tools});
    let request = decode(&body).unwrap();
    assert_eq!(request.aliases.len(), 4_000);
}
