use serde_json::{Value, json};

use crate::chat::{Block, Choice, Event, Reply, Request, Role, Stop, ToolChoice, Usage};
use crate::dialect::openai::OPENAI;
use crate::dialect::{Anthropic, Dialect, Error, ReplyContext};
use crate::testing::{context, server_events};

fn decode(body: &Value) -> Result<Request, Error> {
    OPENAI.decode_request(body.to_string().as_bytes(), None, false)
}

fn conversation() -> Value {
    json!({
        "model": "m",
        "functions": [{"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}}],
        "function_call": {"name": "add"},
        "messages": [
            {"role": "user", "content": "2 and 40?"},
            {"role": "assistant", "content": null, "function_call": {"name": "add", "arguments": "{\"a\":2}"}},
            {"role": "function", "name": "add", "content": "42"},
            {"role": "assistant", "content": null, "function_call": {"name": "add", "arguments": "{\"a\":3}"}},
            {"role": "function", "name": "add", "content": "43"},
        ],
    })
}

fn asked() -> ReplyContext {
    let request = decode(&conversation()).unwrap();
    ReplyContext { aliases: request.aliases.into(), ..context() }
}

fn call(id: &str) -> Block {
    let (id, name) = (id.to_owned(), "add".to_owned());
    Block::ToolUse { id, name, arguments: "{\"a\":2}".to_owned(), signature: None, cache: None }
}

#[test]
fn functions_are_tools_elsewhere_and_each_result_finds_its_call() {
    let request = decode(&conversation()).unwrap();
    assert_eq!(request.tool_choice, Some(ToolChoice::Named("add".to_owned())));
    let wire = Anthropic.encode_request(&request).unwrap();
    let body: Value = serde_json::from_slice(&wire.body).unwrap();
    assert_eq!(body["tools"][0]["name"], "add");
    assert_eq!(
        body["tool_choice"],
        json!({"type": "tool", "name": "add", "disable_parallel_tool_use": true})
    );
    let messages = body["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 5, "{body}");
    for (call, result) in [(1, 2), (3, 4)] {
        let id = &messages[call]["content"][0]["id"];
        assert!(id.is_string());
        assert_eq!(&messages[result]["content"][0]["tool_use_id"], id);
    }
    assert_ne!(messages[1]["content"][0]["id"], messages[3]["content"][0]["id"]);
    assert!(wire.dropped.is_empty(), "{:?}", wire.dropped);
}

#[test]
fn a_reply_comes_back_in_the_form_that_was_asked_for() {
    let content = vec![Block::text("So:"), call("a"), call("b")];
    let choice = Choice { index: 0, content, stop: Stop::ToolUse, logprobs: None };
    let reply = Reply {
        id: "r".to_owned(),
        model: "m".to_owned(),
        created: None,
        choices: vec![choice],
        usage: Usage::default(),
    };
    let of = |context| -> Value {
        serde_json::from_slice(&OPENAI.encode_reply(&reply, &context)).unwrap()
    };
    let (old, new) = (of(asked()), of(context()));
    let message = &old["choices"][0]["message"];
    assert_eq!(message["function_call"], json!({"name": "add", "arguments": "{\"a\":2}"}));
    assert!(message.get("tool_calls").is_none());
    assert_eq!(old["choices"][0]["finish_reason"], "function_call");
    assert_eq!(new["choices"][0]["message"]["tool_calls"].as_array().unwrap().len(), 2);
    assert_eq!(new["choices"][0]["finish_reason"], "tool_calls");
}

#[test]
fn a_stream_comes_back_in_the_form_that_was_asked_for() {
    let piece =
        |index: u32, json: &str| Event::Arguments { choice: 0, index, json: json.to_owned() };
    let empty = |id: &str| match call(id) {
        Block::ToolUse { id, name, .. } => {
            Block::ToolUse { id, name, arguments: String::new(), signature: None, cache: None }
        }
        other => other,
    };
    let begin = |index: u32, block: Block| Event::BlockStart { choice: 0, index, block };
    let events = vec![
        Event::Start { id: "r".to_owned(), model: "m".to_owned() },
        begin(0, empty("a")),
        piece(0, "{\"a\""),
        piece(0, ":2}"),
        Event::BlockStop { choice: 0, index: 0 },
        begin(1, empty("b")),
        piece(1, "{}"),
        Event::BlockStop { choice: 0, index: 1 },
        Event::Stop { choice: 0, stop: Stop::ToolUse },
        Event::Done,
    ];
    let mut encoder = OPENAI.stream_encoder(&asked());
    let mut out = Vec::new();
    events.iter().for_each(|it| encoder.encode(it, &mut out));
    let out = String::from_utf8(out).unwrap();
    assert!(!out.contains("tool_calls"), "{out}");
    let chunks: Vec<Value> =
        server_events(&out).iter().filter_map(|it| serde_json::from_str(&it.1).ok()).collect();
    let said = |key: &str| -> String {
        let calls =
            chunks.iter().filter_map(|it| it["choices"][0]["delta"]["function_call"][key].as_str());
        calls.collect()
    };
    assert_eq!((said("name"), said("arguments")), ("add".to_owned(), "{\"a\":2}".to_owned()));
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "function_call");
}

#[test]
fn a_result_without_its_call_and_two_forms_at_once_are_refused() {
    let wrong = |body: &Value| match decode(body) {
        Err(Error::Field { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    let mut body = conversation();
    body["messages"] = json!([{"role": "function", "name": "add", "content": "42"}]);
    assert_eq!(wrong(&body), "messages[0].name");
    let mut body = conversation();
    body["tools"] = json!([{"type": "function", "function": {"name": "f"}}]);
    assert_eq!(wrong(&body), "functions");
    let mut body = conversation();
    body["function_call"] = json!("maybe");
    assert_eq!(wrong(&body), "function_call");
    assert_eq!(decode(&conversation()).unwrap().messages[2].role, Role::User);
}
