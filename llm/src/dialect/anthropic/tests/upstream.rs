//! What is asked of Anthropic.

use serde_json::{Value, json};

use super::{ask, assistant, call, encode, result, user};
use crate::chat::{Block, Format, Message, Reasoning, Request, Role, Source, Tool, ToolChoice};
use crate::dialect::{Anthropic, Dialect, Error};
use crate::seal;

#[test]
fn turns_alternate_begin_with_the_user_and_hold_results_first() {
    let request = Request {
        model: "claude-sonnet-4-6".into(),
        messages: vec![
            assistant(vec![Block::text("Hello.")]),
            assistant(vec![call("fc_1:a/b", None), call("fc_2", None)]),
            user(vec![Block::text("And?"), result("fc_1:a/b")]),
            Message { role: Role::System, content: vec![Block::text("Be brief.")], name: None },
            user(vec![result("fc_2"), Block::text("  ")]),
            assistant(vec![Block::text("So ")]),
        ],
        ..Request::default()
    };
    let (body, _) = encode(&request);
    let kinds: Vec<String> = body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|turn| {
            let blocks = turn["content"]
                .as_array()
                .unwrap()
                .iter()
                .map(|block| block["type"].as_str().unwrap());
            format!("{}: {}", turn["role"].as_str().unwrap(), blocks.collect::<Vec<_>>().join(" "))
        })
        .collect();
    assert_eq!(
        kinds,
        [
            "user: text",
            "assistant: text tool_use tool_use",
            "user: tool_result tool_result text",
            "assistant: text"
        ]
    );
    assert_eq!(body["system"][0]["text"], "Be brief.");
    assert_eq!(body["messages"][3]["content"][0]["text"], "So");
    let id = body["messages"][1]["content"][1]["id"].as_str().unwrap();
    assert_eq!(body["messages"][2]["content"][0]["tool_use_id"], id);
    assert!(id.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_'), "{id}");
}

#[test]
fn instructions_alone_become_the_users_turn() {
    let request = Request {
        model: "claude-x".into(),
        system: vec![Block::text("Write a haiku.")],
        ..Request::default()
    };
    let (body, _) = encode(&request);
    assert_eq!(
        body["messages"],
        json!([{"role": "user", "content": [{"type": "text", "text": "Write a haiku."}]}])
    );
    assert_eq!(body["max_tokens"], 4096);
    assert!(body.get("system").is_none());
}

#[test]
fn what_anthropic_cannot_say_is_named() {
    let number = |text: &str| serde_json::from_str::<serde_json::Number>(text).unwrap();
    let mut request = ask(vec![Block::text("Hi.")]);
    request.dialect = "openai";
    request.n = Some(2);
    request.seed = Some(7);
    request.presence_penalty = Some(number("0.5"));
    request.frequency_penalty = Some(number("0"));
    request.logprobs = Some(3);
    request.temperature = Some(number("1.5"));
    request.top_p = Some(number("0.9"));
    request.format = Some(Format::JsonObject);
    request.stop = vec!["\n".into(), "END".into()];
    request.metadata = Some(json!({"a": "b"}));
    request.extra.insert("store".into(), json!(true));
    request.tools = vec![Tool {
        name: "web_search".into(),
        description: None,
        parameters: None,
        strict: None,
        cache: None,
        opaque: Some(("openai_responses", json!({"type": "web_search"}))),
    }];
    let (body, wire) = encode(&request);
    assert_eq!(
        wire.dropped,
        [
            "logprobs",
            "metadata",
            "n",
            "presence_penalty",
            "response_format",
            "seed",
            "stop",
            "store",
            "temperature",
            "tools[].web_search",
            "top_p"
        ]
    );
    assert_eq!(body["temperature"], 1.0);
    assert_eq!(body["stop_sequences"], json!(["END"]));
    assert!(body.get("tools").is_none());
}

#[test]
fn sound_and_foreign_files_are_refused_rather_than_left_out() {
    let audio = Block::Audio {
        source: Source::Base64 { media_type: "audio/wav".into(), data: "UklG".into() },
    };
    assert!(matches!(Anthropic.encode_request(&ask(vec![audio])), Err(Error::Field { .. })));
    let file = Block::Document {
        source: Source::File { id: "file-abc".into() },
        title: None,
        cache: None,
    };
    assert!(matches!(Anthropic.encode_request(&ask(vec![file.clone()])), Err(Error::Field { .. })));
    let own = Request { dialect: "anthropic", ..ask(vec![file]) };
    let (_, wire) = encode(&own);
    assert!(wire.headers.contains(&("anthropic-beta", "files-api-2025-04-14".to_owned())));
}

#[test]
fn effort_is_said_in_the_words_of_the_models_generation() {
    let check = |model: &str,
                 reasoning: Reasoning,
                 max_tokens: Option<u64>,
                 expected: Value,
                 dropped: &[&str]| {
        let request = Request {
            model: model.into(),
            dialect: "openai",
            reasoning: Some(reasoning),
            max_tokens,
            ..ask(vec![Block::text("Hi.")])
        };
        let (body, wire) = encode(&request);
        let said = json!([body["thinking"], body["output_config"]["effort"], body["max_tokens"]]);
        assert_eq!(said, expected, "{model}");
        assert_eq!(wire.dropped, dropped, "{model}");
    };
    let effort = |word: &str| Reasoning { effort: Some(word.into()), ..Reasoning::default() };
    let shown = Reasoning { summary: Some("auto".into()), ..effort("xhigh") };
    let budget = Reasoning { budget_tokens: Some(5000), ..Reasoning::default() };
    check(
        "claude-opus-4-7",
        shown,
        None,
        json!([{"type": "adaptive", "display": "summarized"}, "xhigh", 4096]),
        &[],
    );
    check(
        "claude-opus-4-6",
        effort("minimal"),
        Some(9),
        json!([{"type": "adaptive"}, "low", 9]),
        &[],
    );
    check(
        "claude-opus-5",
        budget.clone(),
        None,
        json!([{"type": "adaptive"}, "medium", 4096]),
        &[],
    );
    check(
        "claude-sonnet-4-5",
        effort("high"),
        None,
        json!([{"type": "enabled", "budget_tokens": 16384}, null, 20480]),
        &[],
    );
    check(
        "claude-sonnet-4-5",
        budget.clone(),
        Some(3000),
        json!([{"type": "enabled", "budget_tokens": 2999}, null, 3000]),
        &[],
    );
    check("claude-sonnet-4-5", budget, Some(500), json!([null, null, 500]), &["reasoning"]);
    check(
        "claude-opus-4-5",
        effort("low"),
        None,
        json!([{"type": "enabled", "budget_tokens": 2048}, "low", 4096]),
        &[],
    );
    check(
        "claude-sonnet-4-5",
        effort("none"),
        None,
        json!([{"type": "disabled"}, null, 4096]),
        &[],
    );
}

#[test]
fn a_fixed_budget_is_dropped_where_the_turns_own_reasoning_is_not_there() {
    let mut request = ask(vec![Block::text("Hi.")]);
    request.model = "claude-sonnet-4-5".into();
    request.reasoning = Some(Reasoning { effort: Some("low".into()), ..Reasoning::default() });
    request.messages.push(assistant(vec![call("a", None)]));
    request.messages.push(user(vec![result("a")]));
    let (body, wire) = encode(&request);
    assert!(body.get("thinking").is_none());
    assert_eq!(wire.dropped, ["reasoning"]);
    request.model = "claude-sonnet-4-6".into();
    assert_eq!(encode(&request).0["thinking"], json!({"type": "adaptive"}));
    request.tool_choice = Some(ToolChoice::Any);
    assert!(encode(&request).0.get("thinking").is_none());
}

#[test]
fn only_anthropics_own_seals_go_to_anthropic() {
    let thought =
        |signature: Option<String>| Block::Thinking { text: "t".into(), signature, id: None };
    let mut request = ask(vec![Block::text("Hi.")]);
    request.messages.push(assistant(vec![
        thought(Some(seal::mark("gemini", "foreign"))),
        thought(None),
        thought(Some("unmarked".into())),
        thought(Some(seal::mark("anthropic", "own"))),
        Block::RedactedThinking { data: seal::mark("openai_responses", "foreign"), id: None },
        Block::text("Yes."),
    ]));
    let (body, wire) = encode(&request);
    assert_eq!(
        body["messages"][1]["content"][0],
        json!({"type": "thinking", "thinking": "t", "signature": "own"})
    );
    assert_eq!(body["messages"][1]["content"].as_array().unwrap().len(), 2);
    assert_eq!(wire.dropped, ["messages[].reasoning"]);
}
