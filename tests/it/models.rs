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
fn a_model_that_nobody_lists_is_shown_to_a_key_that_may_use_it_and_listed_where_the_key_names_it() {
    run(async {
        let upstream = Upstream::start().await;
        let yaml = upstream.providers()
            + &format!(
                r#"virtual_keys:
  - {{ name: app, value: {KEY}, providers: [{{ name: "*", models: ["*"] }}] }}
  - {{ name: one, value: {KEY}-one, providers: [{{ name: up, models: ["nobody-lists"] }}] }}"#
            );
        let gateway = Gateway::start(&yaml).await;
        for key in [KEY.to_owned(), format!("{KEY}-one")] {
            let shown = gateway.get("/v1/models/up/nobody-lists", &key).await;
            assert_eq!((shown.status, &shown.json()["id"]), (200, &json!("up/nobody-lists")));
        }
        let only = format!("{KEY}-one");
        let listed = gateway.get("/v1/models", &only).await.json();
        assert_eq!(listed["data"][0]["id"], "up/nobody-lists", "{listed}");
        assert_eq!(listed["data"].as_array().map(Vec::len), Some(1), "{listed}");
        for forbidden in ["up/other", "ant/nobody-lists", "none/nobody-lists"] {
            let refused = gateway.get(&format!("/v1/models/{forbidden}"), &only).await;
            assert_eq!(refused.status, 404, "{forbidden}");
        }
    });
}

#[test]
fn a_keys_default_maximum_is_what_the_provider_is_told_without_any_budget() {
    run(async {
        let upstream = Upstream::start().await;
        let yaml = upstream.providers()
            + &format!(
                r#"virtual_keys: [{{ name: app, value: {KEY}, providers: [{{ name: "*", models: ["*"] }}], default_max_tokens: 77 }}]"#
            );
        let gateway = Gateway::start(&yaml).await;
        for (most, told) in [(None, 77), (Some(12), 12)] {
            let mut body =
                json!({ "model": "up/ok", "messages": [{ "role": "user", "content": "hi" }] });
            if let Some(most) = most {
                body["max_tokens"] = json!(most);
            }
            let answer = gateway.post("/v1/chat/completions", KEY, &body).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(upstream.last().body["max_tokens"], told);
        }
    });
}

#[test]
fn a_caller_who_leaves_before_the_reply_is_recorded_with_the_tokens_that_its_cost_stands_for() {
    run(async {
        let upstream = Upstream::start().await;
        let yaml = upstream.providers()
            + &format!(
                r#"virtual_keys: [{{ name: app, value: {KEY}, providers: [{{ name: "*", models: ["*"] }}], budget: {{ limit_usd: "50", period: month }} }}]"#
            );
        let gateway = Gateway::start(&yaml).await;
        let body = json!({ "model": "up/never", "max_tokens": 300, "messages": [{ "role": "user", "content": "hi" }] });
        let request =
            gateway.http.post(gateway.at("/v1/chat/completions")).bearer_auth(KEY).json(&body);
        let asking = tokio::spawn(request.send());
        until("the upstream is asked", async || (upstream.count() == 1).then_some(())).await;
        asking.abort();
        let entry = until("the call is recorded as cancelled", async || {
            let logs = gateway.admin("GET", "/api/logs?status=cancelled", None).await.json();
            logs["logs"].get(0).cloned()
        })
        .await;
        assert_eq!(entry["tokens"]["output"], 300, "{entry}");
        assert_eq!(entry["tokens"]["estimated"], true, "{entry}");
        assert_ne!(entry["cost_usd"], "0", "{entry}");
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
        let (upstream, gateway) = start().await;
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
            if provider == "gem" {
                // Its own vendor's events stand in it as they were said.
                let said = String::from_utf8_lossy(&upstream.books.said.lock()).into_owned();
                let items: Vec<&str> =
                    said.lines().filter_map(|it| it.strip_prefix("data: ")).collect();
                assert_eq!(answer.text(), format!("[{}]", items.join(",\r\n")));
            }
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

#[test]
fn every_dialect_passes_through_its_own_vendor_byte_for_byte_there_and_back() {
    run(async {
        let (upstream, gateway) = start().await;
        // Odd spacing, order, numbers and fields that nobody knows; a text that looks like another vendor's seal.
        let cases = [
            (
                "/v1/chat/completions",
                r#"{"model":"up/ok", "x":1.0,"messages":[{"content":"openai:gpt-4o","role":"user"}]}"#,
            ),
            (
                "/v1/chat/completions",
                r#"{"stream":true,"model":"up/ok","stream_options": {"include_usage":true},"messages":[{"role":"user","content":"h\u0069"}]}"#,
            ),
            (
                "/anthropic/v1/messages",
                r#"{"model":"ant/ok","max_tokens": 64,"x":[1e0],"messages":[{"role":"user","content":"gemini:flash"}]}"#,
            ),
            (
                "/v1/messages",
                r#"{"model":"ant/ok","max_tokens":64,"stream" : true,"messages":[{"role":"user","content":[{"type":"document","citations":{"enabled":true},"context":"c","source":{"type":"text","media_type":"text/plain","data":"openai:gpt-4o"},"z":"\"openai:x"}]}]}"#,
            ),
            (
                "/genai/v1beta/models/gem/ok:generateContent",
                r#"{"contents":[{"parts":[{"text":"hi", "y":2}]}] , "safety_settings":[]}"#,
            ),
            (
                "/genai/v1beta/models/gem/ok:streamGenerateContent?alt=sse",
                r#"{"contents":[{"parts":[{"text":"anthropic:claude"}]}]}"#,
            ),
        ];
        for (path, sent) in cases {
            let answer = gateway.post_raw(path, KEY, sent).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            let got = String::from_utf8_lossy(&upstream.last().raw).into_owned();
            assert_eq!(got, sent.replace("up/ok", "ok").replace("ant/ok", "ok"), "{path}");
            assert_eq!(
                answer.text(),
                String::from_utf8_lossy(&upstream.books.said.lock()),
                "{path}"
            );
            assert_eq!(answer.header("x-althing-dropped"), "", "{path}");
        }
    });
}

#[test]
fn a_gemini_body_that_names_its_model_names_the_one_of_the_path() {
    run(async {
        let (upstream, gateway) = start().await;
        let part = json!({ "parts": [{ "text": "hi" }] });
        let cases = [
            (
                "batchEmbedContents",
                json!({ "requests": [{ "model": "models/gem/ok", "content": part }, { "model": "models/gem/ok", "content": part }] }),
                "/requests/1/model",
            ),
            ("embedContent", json!({ "model": "models/gem/ok", "content": part }), "/model"),
            (
                "countTokens",
                json!({ "generateContentRequest": { "model": "models/gem/ok", "contents": [part] } }),
                "/generateContentRequest/model",
            ),
        ];
        for (verb, body, place) in cases {
            gateway.post(&format!("/genai/v1beta/models/gem/ok:{verb}"), KEY, &body).await;
            let seen = upstream.last().body;
            assert_eq!(seen.pointer(place), Some(&json!("models/ok")), "{verb}: {seen}");
        }
        // At the top the name alone is replaced: every other byte is the caller's.
        let bodies = [
            (
                "generateContent",
                r#"{ "x" : 1.50, "model":"MODEL" ,"contents": [ {"parts":[{"text":"h\u0069"}]} ] }"#,
            ),
            (
                "streamGenerateContent?alt=sse",
                r#"{"model" :  "MODEL", "contents":[{"parts":[{"text":"hi"}]}]}"#,
            ),
            ("embedContent", r#"{"content": {"parts":[{"text":"hi"}]} , "model": "MODEL" }"#),
        ];
        for (verb, body) in bodies {
            for name in ["models/gem/ok", "gem/ok", "models/ok"] {
                let sent = body.replace("MODEL", name);
                let path = format!("/genai/v1beta/models/gem/ok:{verb}");
                gateway.post_raw(&path, KEY, sent).await;
                let seen = String::from_utf8_lossy(&upstream.last().raw).into_owned();
                assert_eq!(seen, body.replace("MODEL", "models/ok"), "{verb} of {name}");
            }
        }
    });
}

#[test]
fn what_keeps_a_fallback_from_being_tried_leaves_the_failure_that_led_to_it() {
    run(async {
        let upstream = Upstream::start().await;
        let yaml = upstream.providers()
            + &format!(
                r#"virtual_keys: [{{ name: app, value: {KEY}, providers: [{{ name: "*", models: ["*"] }}], budget: {{ limit_usd: "1" }} }}]"#
            );
        let gateway = Gateway::start(&yaml).await;
        let ask = async |path: &str, model: &str, fallbacks: &[&str]| {
            let body = json!({ "model": model, "fallbacks": fallbacks, "max_tokens": 5, "input": "hi", "messages": [{ "role": "user", "content": "hi" }] });
            until("the budget answers in time", async || {
                let answer = gateway.post(path, KEY, &body).await;
                let code = answer.json()["error"]["code"].as_str().expect("code").to_owned();
                (answer.status != 503).then_some((answer.status, code))
            })
            .await
        };
        let failed = (502, "upstream_failed".to_owned());
        // The fallback has no price, so a strict budget refuses it.
        assert_eq!(ask("/v1/chat/completions", "up/status-503", &["ant/unpriced"]).await, failed);
        // The fallback makes no embeddings.
        assert_eq!(ask("/v1/embeddings", "up/status-503", &["ant/ok"]).await, failed);
        // Nothing was tried: the first target's refusal is the answer, not the last one's.
        let refused = (501, "not_supported".to_owned());
        assert_eq!(ask("/v1/embeddings", "ant/ok", &["up/unpriced"]).await, refused);
    });
}

#[test]
fn a_redirect_of_an_upstream_is_a_failure_and_not_followed() {
    run(async {
        let (upstream, gateway) = start().await;
        let answer = gateway.chat(KEY, "up/status-302", "hi").await;
        assert_eq!(answer.status, 502, "{}", answer.text());
        let told = answer.json()["error"]["message"].as_str().expect("message").to_owned();
        assert!(told.contains("answered 302"), "{told}");
        assert!(1 <= upstream.count());
    });
}

#[test]
fn a_models_name_that_climbs_or_has_no_end_reaches_no_upstream() {
    run(async {
        let (upstream, gateway) = start().await;
        let path = "/genai/v1beta/models/gem/x%2F..%2Fok:generateContent";
        let body = json!({ "contents": [{ "parts": [{ "text": "hi" }] }] });
        let answer = gateway.post(path, KEY, &body).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["status"]),
            (400, &json!("INVALID_ARGUMENT"))
        );
        let answer = gateway.chat(KEY, &format!("up/{}", "m".repeat(1 << 20)), "hi").await;
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("model")));
        assert!(answer.body.len() < 1000);
        let metrics = gateway.get("/metrics", "").await;
        assert!(!metrics.text().contains("mmmmmmmm"));
        assert_eq!(upstream.count(), 0);
    });
}

#[test]
fn the_list_of_models_is_refused_in_its_callers_dialect() {
    run(async {
        let (_upstream, gateway) = start().await;
        let request =
            gateway.http.get(gateway.at("/v1/models")).header("anthropic-version", "2023-06-01");
        let answer = gateway.send(request).await;
        assert_eq!((answer.status, &answer.json()["type"]), (401, &json!("error")));
        let answer =
            gateway.send(gateway.http.get(gateway.at("/v1/models/gem/ok:generateContent"))).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (405, &json!(405)));
    });
}

/// The kept bodies of the newest call.
async fn kept(gateway: &Gateway) -> (Value, Value) {
    let entry = until("the record is there", async || {
        let logs = gateway.admin("GET", "/api/logs?limit=1", None).await.json();
        logs["logs"].get(0).cloned()
    })
    .await;
    let id = entry["id"].as_str().expect("id");
    let detail = gateway.admin("GET", &format!("/api/logs/{id}"), None).await.json();
    (detail["request"].clone(), detail["response"].clone())
}

#[test]
fn bodies_of_failed_calls_and_of_streams_are_kept_where_the_configuration_says_so() {
    run(async {
        for (bodies, model, stream, is_kept) in [
            ("errors", "up/status-500", false, true),
            ("errors", "up/cut", true, true),
            ("errors", "up/ok", true, false),
            ("errors", "up/garbage", false, true),
            ("all", "up/ok", true, true),
            ("all", "ant/ok", true, true),
            ("all", "ant/ok", false, true),
            ("off", "up/cut", true, false),
        ] {
            let upstream = Upstream::start().await;
            let yaml = upstream.providers()
                + &format!(
                    "records: {{ bodies: {bodies} }}\nvirtual_keys: [{{ name: app, value: {KEY}, providers: [{{ name: \"*\", models: [\"*\"] }}] }}]"
                );
            let gateway = Gateway::start(&yaml).await;
            let body = json!({ "model": model, "stream": stream, "messages": [{ "role": "user", "content": "a word to keep" }] });
            let answer = gateway.post("/v1/chat/completions", KEY, &body).await;
            let (request, response) = kept(&gateway).await;
            let case = format!("{bodies} {model} stream {stream}: {request} {response}");
            if is_kept {
                assert_eq!(request["text"], body.to_string(), "{case}");
                let said =
                    if model == "up/garbage" { "<html>not json".to_owned() } else { answer.text() };
                assert_eq!(response["text"], said, "{case}");
            } else {
                assert!(request.is_null() && response.is_null(), "{case}");
            }
        }
    });
}

#[test]
fn older_completions_pass_byte_for_byte_and_are_charged_and_recorded() {
    run(async {
        let upstream = Upstream::start().await;
        let yaml = upstream.providers()
            + &format!(
                r#"virtual_keys: [{{ name: app, value: {KEY}, providers: [{{ name: "*", models: ["*"] }}], budget: {{ limit_usd: "0.001" }} }}]"#
            );
        let gateway = Gateway::start(&yaml).await;
        let sent = r#"{"model":"up/ok", "prompt":"h\u0069","max_tokens": 7, "suffix":null}"#;
        let answer = until("the budget answers in time", async || {
            let answer = gateway.post_raw("/v1/completions", KEY, sent).await;
            (answer.status != 503).then_some(answer)
        })
        .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(String::from_utf8_lossy(&upstream.last().raw), sent.replace("up/ok", "ok"));
        assert_eq!(answer.text(), String::from_utf8_lossy(&upstream.books.said.lock()));

        // Usage is asked for on the way and hidden on the way back.
        let sent = r#"{"model":"up/ok","prompt":"hi","max_tokens":7,"stream":true}"#;
        let answer = gateway.post_raw("/openai/v1/completions", KEY, sent).await.text();
        assert_eq!(upstream.last().body["stream_options"]["include_usage"], true);
        assert!(answer.contains("upstream.") && !answer.contains("\"usage\":{"), "{answer}");
        assert!(answer.ends_with("data: [DONE]\n\n"), "{answer}");
        let logs = until("both are recorded", async || {
            let logs = gateway.admin("GET", "/api/logs", None).await.json();
            (logs["logs"].as_array()?.iter().filter(|it| it["status"] == "ok").count() == 2)
                .then_some(logs)
        })
        .await;
        for entry in logs["logs"].as_array().expect("list").iter().filter(|it| it["status"] == "ok")
        {
            let tokens = &entry["tokens"];
            assert_eq!((&tokens["input"], &tokens["output"]), (&json!(INPUT), &json!(OUTPUT)));
            assert_eq!((&entry["status"], &entry["cost_usd"]), (&json!("ok"), &json!("0.000025")));
        }

        // Each prompt of a list may write as much as one: 100 of 7 tokens are more than is left.
        let many: Vec<&str> = vec!["hi"; 100];
        let body = json!({ "model": "up/ok", "prompt": many, "max_tokens": 7 });
        let before = upstream.count();
        assert_eq!(gateway.post("/v1/completions", KEY, &body).await.status, 402);
        assert_eq!(upstream.count(), before);
        let body = json!({ "model": "ant/ok", "prompt": "hi", "max_tokens": 7 });
        let refused = gateway.post("/v1/completions", KEY, &body).await;
        assert_eq!(
            (refused.status, &refused.json()["error"]["code"]),
            (501, &json!("not_supported"))
        );
    });
}

#[test]
fn functions_of_openais_first_form_are_called_over_every_vendor() {
    run(async {
        let (upstream, gateway) = start().await;
        let function = json!({ "name": "add", "parameters": { "type": "object", "properties": { "a": { "type": "number" } } } });
        for provider in ["ant", "gem"] {
            let mut body = json!({ "model": format!("{provider}/ok"), "functions": [function], "messages": [{ "role": "user", "content": "hi" }] });
            let answer = gateway.post("/v1/chat/completions", KEY, &body).await.json();
            let (message, reason) =
                (&answer["choices"][0]["message"], &answer["choices"][0]["finish_reason"]);
            assert_eq!(reason, "function_call", "{provider}: {answer}");
            let arguments = message["function_call"]["arguments"].as_str().expect("arguments");
            let arguments: Value = serde_json::from_str(arguments).expect("JSON");
            assert_eq!(
                (&message["function_call"]["name"], arguments),
                (&json!("add"), json!({ "a": 2, "b": 40 }))
            );
            body["stream"] = json!(true);
            let streamed = gateway.post("/v1/chat/completions", KEY, &body).await.text();
            assert!(streamed.contains("\"function_call\":{\"name\":\"add\""), "{streamed}");
            assert!(streamed.contains("\"finish_reason\":\"function_call\""), "{streamed}");
            let messages = body["messages"].as_array_mut().expect("messages");
            messages.push(message.clone());
            messages.push(json!({ "role": "function", "name": "add", "content": "42" }));
            let last = gateway.post("/v1/chat/completions", KEY, &body).await;
            assert_eq!(last.status, 200, "{}", last.text());
            assert!(upstream.last().body.to_string().contains("42"));
        }
        // To a vendor of the same dialect it passes as it is.
        let body = json!({ "model": "up/ok", "functions": [function], "messages": [] });
        gateway.post("/v1/chat/completions", KEY, &body).await;
        assert_eq!(upstream.last().body["functions"], body["functions"]);
    });
}

#[test]
fn a_gemini_array_that_breaks_off_is_closed_with_an_error_as_its_last_item() {
    run(async {
        let (_upstream, gateway) = start().await;
        let body = json!({ "contents": [{ "role": "user", "parts": [{ "text": "hi" }] }] });
        let path = "/genai/v1beta/models/gem/cut:streamGenerateContent";
        let answer = gateway.post(path, KEY, &body).await;
        let items = answer.json();
        let last = items.as_array().expect("an array").last().expect("an item").clone();
        assert_eq!(last["error"]["code"], 502, "{items}");
        assert!(2 <= items.as_array().map_or(0, Vec::len), "{items}");
    });
}
