//! What is asked of Gemini.

use serde_json::{Value, json};

use super::{ask, call, encode, result, said};
use crate::chat::{Block, Format, Reasoning, Role, Source};
use crate::seal;

#[test]
fn results_stand_alone_and_as_many_as_the_calls() {
    let image = Block::Image {
        source: Source::Base64 { media_type: "image/png".into(), data: "aQ==".into() },
        detail: None,
        cache: None,
    };
    let messages = vec![
        said(Role::Assistant, vec![call("a", None), call("b", None)]),
        said(
            Role::User,
            vec![Block::text("And?"), result("b", vec![Block::text("{\"y\":2}"), image])],
        ),
        said(Role::User, vec![result("a", vec![Block::text("one"), Block::text("two")])]),
        said(Role::System, vec![Block::text("Be brief.")]),
    ];
    let (body, _) = encode(&ask("gemini-2.5-flash", messages.clone()));
    assert_eq!(
        body["contents"],
        json!([
            {"role": "user", "parts": [{"text": "Continue."}]},
            {"role": "model", "parts": [
                {"functionCall": {"id": "a", "name": "f", "args": {"x": 1}}},
                {"functionCall": {"id": "b", "name": "f", "args": {"x": 1}}}
            ]},
            {"role": "user", "parts": [{"functionResponse": {"id": "b", "name": "f", "response": {"y": 2}}}]},
            {"role": "user", "parts": [{"text": "And?"}, {"inlineData": {"mimeType": "image/png", "data": "aQ=="}}]},
            {"role": "user", "parts": [{"functionResponse": {"id": "a", "name": "f", "response": {"output": "one\ntwo"}}}]}
        ])
    );
    assert_eq!(body["systemInstruction"], json!({"parts": [{"text": "Be brief."}]}));
    let (body, _) = encode(&ask("gemini-3-pro", messages));
    let first = &body["contents"][2]["parts"][0]["functionResponse"];
    assert_eq!(first["parts"], json!([{"inlineData": {"mimeType": "image/png", "data": "aQ=="}}]));
}

#[test]
fn results_that_come_one_by_one_are_gathered() {
    let messages = vec![
        said(Role::User, vec![Block::text("Go.")]),
        said(Role::Assistant, vec![call("a", None), call("b", None)]),
        said(Role::User, vec![result("a", vec![Block::text("1")])]),
        said(Role::User, vec![result("b", vec![Block::text("2")])]),
        said(Role::User, vec![Block::text("And?")]),
    ];
    let (body, _) = encode(&ask("gemini-2.5-flash", messages));
    assert_eq!(body["contents"][2]["parts"].as_array().unwrap().len(), 2);
    assert_eq!(body["contents"][3]["parts"], json!([{"text": "And?"}]));
}

#[test]
fn only_geminis_own_seals_go_to_gemini() {
    let thought =
        |signature: Option<String>| Block::Thinking { text: "t".into(), signature, id: None };
    let messages = vec![
        said(Role::User, vec![Block::text("Go.")]),
        said(
            Role::Assistant,
            vec![
                thought(Some(seal::mark("anthropic", "foreign"))),
                thought(None),
                Block::RedactedThinking { data: seal::mark("anthropic", "foreign"), id: None },
                thought(Some(seal::mark("gemini", "own"))),
                call("a", Some("anthropic:foreign")),
            ],
        ),
        said(Role::User, vec![result("a", vec![])]),
    ];
    let (body, wire) = encode(&ask("gemini-2.5-flash", messages.clone()));
    let parts = &body["contents"][1]["parts"];
    assert_eq!(parts[0], json!({"text": "t", "thought": true, "thoughtSignature": "own"}));
    assert!(parts[1].get("thoughtSignature").is_none());
    assert_eq!(wire.dropped, ["messages[].reasoning"]);
    assert!(!body.to_string().contains("foreign"));
    let (body, _) = encode(&ask("gemini-3-flash", messages));
    assert_eq!(
        body["contents"][1]["parts"][1]["thoughtSignature"],
        "skip_thought_signature_validator"
    );
}

#[test]
fn thinking_is_asked_for_in_the_words_of_the_models_generation() {
    let check = |model: &str, reasoning: Reasoning, expected: Value, dropped: &[&str]| {
        let mut request = ask(model, vec![said(Role::User, vec![Block::text("Hi.")])]);
        request.reasoning = Some(reasoning);
        let (body, wire) = encode(&request);
        assert_eq!(body["generationConfig"]["thinkingConfig"], expected, "{model}");
        assert_eq!(wire.dropped, dropped, "{model}");
    };
    let effort = |word: &str| Reasoning { effort: Some(word.into()), ..Reasoning::default() };
    check(
        "gemini-3-pro",
        effort("minimal"),
        json!({"thinkingLevel": "low", "includeThoughts": true}),
        &[],
    );
    check(
        "gemini-3.1-flash",
        effort("xhigh"),
        json!({"thinkingLevel": "high", "includeThoughts": true}),
        &[],
    );
    check(
        "gemini-2.5-flash",
        effort("medium"),
        json!({"thinkingBudget": 8192, "includeThoughts": true}),
        &[],
    );
    check("gemini-2.5-flash", effort("none"), json!({"thinkingBudget": 0}), &[]);
    check("gemini-2.0-flash", effort("high"), Value::Null, &["reasoning"]);
    let budget = Reasoning {
        budget_tokens: Some(5000),
        summary: Some("none".into()),
        ..Reasoning::default()
    };
    check("gemini-3-pro", budget, json!({"thinkingBudget": 5000}), &[]);
}

#[test]
fn what_gemini_cannot_say_is_named() {
    let cache = Some(json!({"type": "ephemeral"}));
    let text = Block::Text { text: "Hi.".into(), cache, citations: None };
    let mut request = ask("gemini-2.5-flash", vec![said(Role::User, vec![text])]);
    request.user = Some("u".into());
    request.metadata = Some(json!({}));
    request.stop = (0..7).map(|number| number.to_string()).collect();
    request.extra.insert("store".into(), json!(true));
    request.format = Some(Format::JsonObject);
    let (body, wire) = encode(&request);
    assert_eq!(wire.dropped, ["cache_control", "metadata", "stop", "store", "user"]);
    assert_eq!(body["generationConfig"]["stopSequences"].as_array().unwrap().len(), 5);
    assert_eq!(body["generationConfig"]["responseMimeType"], "application/json");
}

#[test]
fn a_model_cannot_leave_its_place_in_the_path() {
    let request = ask("../x?key=1#a/b", vec![said(Role::User, vec![Block::text("Hi.")])]);
    assert_eq!(encode(&request).1.path, "/models/..%2Fx%3Fkey%3D1%23a%2Fb:generateContent");
    assert_eq!(
        encode(&ask("tunedModels/a-1", request.messages)).1.path,
        "/tunedModels/a-1:generateContent"
    );
}
