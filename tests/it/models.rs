//! Models: every face over every upstream's dialect.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::support::upstream::{INPUT, OUTPUT};
use crate::support::{Gateway, Upstream, run, until};

const KEY: &str = "sk-test-of-models-0001";
const TEXT: &str = "Hello from the upstream.";

async fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let yaml = upstream.providers()
        + &format!(
            r#"virtual_keys: [{{ name: app, value: {KEY}, providers: [{{ name: "*", models: ["*"] }}] }}]"#
        );
    let gateway = Gateway::start(&yaml).await;
    (upstream, gateway)
}

/// From a model and whether to stream, to a path and a body.
type Face = fn(&str, bool) -> (String, Value);

fn faces() -> [(&'static str, Face); 4] {
    [
        ("chat", |model, stream| {
            let body = json!({ "model": model, "stream": stream, "messages": [{ "role": "user", "content": "hi" }] });
            ("/v1/chat/completions".to_owned(), body)
        }),
        ("responses", |model, stream| {
            ("/v1/responses".to_owned(), json!({ "model": model, "stream": stream, "input": "hi" }))
        }),
        ("messages", |model, stream| {
            let body = json!({ "model": model, "stream": stream, "max_tokens": 64, "messages": [{ "role": "user", "content": "hi" }] });
            ("/anthropic/v1/messages".to_owned(), body)
        }),
        ("gemini", |model, stream| {
            let verb = if stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
            let body = json!({ "contents": [{ "role": "user", "parts": [{ "text": "hi" }] }] });
            (format!("/genai/v1beta/models/{model}:{verb}"), body)
        }),
    ]
}

#[test]
fn every_face_reaches_every_upstream_whole_and_streamed() {
    run(async {
        let (_upstream, gateway) = start().await;
        for (name, face) in faces() {
            for provider in ["up", "ant", "gem"] {
                for stream in [false, true] {
                    let (path, body) = face(&format!("{provider}/ok"), stream);
                    let answer = gateway.post(&path, KEY, &body).await;
                    let text = answer.text();
                    assert_eq!(
                        answer.status, 200,
                        "{name} over {provider}, stream {stream}: {text}"
                    );
                    let said = text.replace("\\n", "");
                    if stream {
                        for piece in ["Hello ", "from the ", "upstream."] {
                            assert!(said.contains(piece), "{name} over {provider}: {text}");
                        }
                    } else {
                        assert!(said.contains(TEXT), "{name} over {provider}: {text}");
                    }
                }
            }
        }
    });
}

#[test]
fn tool_calls_cross_every_pair_of_dialects() {
    run(async {
        let (_upstream, gateway) = start().await;
        let schema = json!({ "type": "object", "properties": { "a": { "type": "number" }, "b": { "type": "number" } }, "required": ["a", "b"] });
        for provider in ["up", "ant", "gem"] {
            for stream in [false, true] {
                for (name, face) in faces() {
                    let (path, mut body) = face(&format!("{provider}/ok"), stream);
                    body["tools"] = match name {
                        "chat" => {
                            json!([{ "type": "function", "function": { "name": "add", "parameters": schema } }])
                        }
                        "responses" => {
                            json!([{ "type": "function", "name": "add", "parameters": schema }])
                        }
                        "messages" => json!([{ "name": "add", "input_schema": schema }]),
                        _ => {
                            json!([{ "functionDeclarations": [{ "name": "add", "parameters": schema }] }])
                        }
                    };
                    let answer = gateway.post(&path, KEY, &body).await;
                    let text = answer.text();
                    assert_eq!(answer.status, 200, "{name} over {provider}: {text}");
                    assert!(
                        text.contains("add") && text.contains("40"),
                        "{name} over {provider}, stream {stream}: {text}"
                    );
                }
            }
        }
    });
}

#[test]
fn the_same_dialect_passes_byte_for_byte_but_for_the_model() {
    run(async {
        let (upstream, gateway) = start().await;
        let sent = "{\"model\":\"up/ok\",  \"messages\":[{\"role\":\"user\",\"content\":\"h\\u0069\"}], \"x_unknown\": {\"b\":1,\"a\":1.0}}";
        let answer = gateway.post_raw("/v1/chat/completions", KEY, sent).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let got = upstream.last();
        assert_eq!(String::from_utf8_lossy(&got.raw), sent.replace("up/ok", "ok"));
        assert_eq!(got.headers["authorization"], "Bearer sk-upstream-openai");
        assert_eq!(answer.json()["id"], "chatcmpl-1");
    });
}

#[test]
fn a_caller_who_did_not_ask_for_usage_gets_no_chunk_of_it_and_is_charged_all_the_same() {
    run(async {
        let (upstream, gateway) = start().await;
        let body = json!({ "model": "up/ok", "stream": true, "messages": [{ "role": "user", "content": "hi" }] });
        let answer = gateway.post("/v1/chat/completions", KEY, &body).await.text();
        assert_eq!(upstream.last().body["stream_options"]["include_usage"], true);
        assert!(!answer.contains("\"usage\":{"), "{answer}");
        assert!(answer.ends_with("data: [DONE]\n\n"), "{answer}");
        let tokens = until("the record is there", async || {
            let logs = gateway.admin("GET", "/api/logs", None).await.json();
            logs["logs"].get(0).map(|it| it["tokens"].clone())
        })
        .await;
        assert_eq!((&tokens["input"], &tokens["output"]), (&json!(INPUT), &json!(OUTPUT)));
    });
}

#[test]
fn embeddings_come_from_every_vendor_that_has_them_and_as_base64_where_asked() {
    run(async {
        let (_upstream, gateway) = start().await;
        for provider in ["up", "gem"] {
            let body = json!({ "model": format!("{provider}/ok"), "input": "hi" });
            let answer = gateway.post("/v1/embeddings", KEY, &body).await;
            assert_eq!(
                answer.json()["data"][0]["embedding"],
                json!([0.25, -0.5]),
                "{provider}: {}",
                answer.text()
            );
        }
        let body = json!({ "model": "gem/ok", "input": "hi", "encoding_format": "base64" });
        let answer = gateway.post("/v1/embeddings", KEY, &body).await.json();
        assert_eq!(answer["data"][0]["embedding"], "AACAPgAAAL8=");
        let refused =
            gateway.post("/v1/embeddings", KEY, &json!({ "model": "ant/ok", "input": "hi" })).await;
        assert_eq!(
            (refused.status, &refused.json()["error"]["code"]),
            (501, &json!("not_supported"))
        );
    });
}

#[test]
fn a_fallback_takes_over_and_the_record_tells_every_attempt() {
    run(async {
        let (_upstream, gateway) = start().await;
        let body = json!({ "model": "up/status-503", "fallbacks": ["ant/ok"], "messages": [{ "role": "user", "content": "hi" }] });
        let answer = gateway.post("/v1/chat/completions", KEY, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-althing-provider"), "ant");
        let attempts = answer.header("x-althing-attempts").parse::<u32>().expect("a number");
        assert!(2 <= attempts, "{attempts}");
        let entry = until("the record is there", async || {
            let logs = gateway.admin("GET", "/api/logs", None).await.json();
            logs["logs"].get(0).cloned()
        })
        .await;
        assert_eq!((&entry["attempts"], &entry["provider"]), (&json!(attempts), &json!("ant")));
    });
}

#[test]
fn a_caller_who_leaves_cancels_the_upstream_and_pays_for_what_was_generated() {
    run(async {
        let (upstream, gateway) = start().await;
        let body = json!({ "model": "up/endless", "stream": true, "messages": [{ "role": "user", "content": "hi" }] });
        let request =
            gateway.http.post(gateway.at("/v1/chat/completions")).bearer_auth(KEY).json(&body);
        let mut response = request.send().await.expect("answer");
        for _ in 0..3 {
            response.chunk().await.expect("chunk").expect("more");
        }
        drop(response);
        let entry = until("the call is recorded as cancelled", async || {
            let logs = gateway.admin("GET", "/api/logs?status=cancelled", None).await.json();
            logs["logs"].get(0).cloned()
        })
        .await;
        assert!(0 < entry["tokens"]["output"].as_u64().expect("number"), "{entry}");
        assert_eq!(entry["tokens"]["estimated"], true);
        assert_eq!(upstream.count(), 1);
        until("the upstream's stream is let go", async || {
            (upstream.books.dropped.load(Ordering::SeqCst) == 1).then_some(())
        })
        .await;
    });
}

#[test]
fn the_list_of_models_is_what_the_key_may_use_in_each_vendors_shape() {
    run(async {
        let (_upstream, gateway) = start().await;
        let openai = gateway.get("/v1/models", KEY).await.json();
        let ids: Vec<&str> = openai["data"]
            .as_array()
            .expect("list")
            .iter()
            .filter_map(|it| it["id"].as_str())
            .collect();
        assert!(
            ids.contains(&"up/ok") && ids.contains(&"ant/ok") && ids.contains(&"up/alias"),
            "{ids:?}"
        );
        let request = gateway
            .http
            .get(gateway.at("/v1/models"))
            .bearer_auth(KEY)
            .header("anthropic-version", "2023-06-01");
        assert_eq!(gateway.send(request).await.json()["data"][0]["type"], "model");
        let gemini = gateway.get("/genai/v1beta/models", KEY).await.json();
        assert!(gemini["models"][0]["name"].as_str().expect("name").starts_with("models/"));
    });
}

#[test]
fn tokens_are_counted_by_the_vendor_where_it_can() {
    run(async {
        let (_upstream, gateway) = start().await;
        let body = json!({ "model": "ant/ok", "messages": [{ "role": "user", "content": "hi" }] });
        let answer = gateway.post("/v1/messages/count_tokens", KEY, &body).await;
        assert_eq!(answer.json(), json!({ "input_tokens": 42 }));
    });
}

#[test]
fn tokens_are_estimated_where_the_vendor_cannot_be_asked() {
    run(async {
        let (upstream, gateway) = start().await;
        let body = json!({ "model": "up/ok", "messages": [{ "role": "user", "content": "hi" }] });
        let answer = gateway.post("/v1/messages/count_tokens", KEY, &body).await;
        assert!(0 < answer.json()["input_tokens"].as_u64().expect("a number"), "{}", answer.text());
        assert_eq!(upstream.count(), 0);
    });
}

#[test]
fn a_gemini_stream_without_alt_sse_is_one_json_array() {
    run(async {
        let (_upstream, gateway) = start().await;
        for provider in ["gem", "up"] {
            let body = json!({ "contents": [{ "role": "user", "parts": [{ "text": "hi" }] }] });
            let path = format!("/genai/v1beta/models/{provider}/ok:streamGenerateContent");
            let answer = gateway.post(&path, KEY, &body).await;
            let json = answer.json();
            let pieces = json.as_array().expect("an array");
            let text: String = pieces
                .iter()
                .filter_map(|it| it["candidates"][0]["content"]["parts"][0]["text"].as_str())
                .collect();
            assert_eq!(text, TEXT, "{provider}: {json}");
        }
    });
}

#[test]
fn reasoning_that_another_vendor_sealed_does_not_reach_this_one() {
    run(async {
        let (upstream, gateway) = start().await;
        let body = json!({ "model": "ant/ok", "max_tokens": 64, "messages": [
            { "role": "user", "content": "hi" },
            { "role": "assistant", "content": [
                { "type": "thinking", "thinking": "hm", "signature": "gemini:abc" }, { "type": "text", "text": "yes" }] },
            { "role": "user", "content": "go on" }] });
        let answer = gateway.post("/anthropic/v1/messages", KEY, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(!upstream.last().body.to_string().contains("gemini:"), "{}", upstream.last().body);
    });
}
