//! Keys, money and rates.

use std::sync::atomic::Ordering;

use serde_json::json;

use crate::support::{Answer, Gateway, Upstream, run, until};

async fn start(keys: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&(upstream.providers() + keys)).await;
    (upstream, gateway)
}

#[test]
fn a_budget_hammered_by_two_hundred_callers_is_not_overshot_and_nearly_used_up() {
    run(async {
        // 11 input and 7 output tokens at $1 and $2 a million are 25,000 nano-dollars a call.
        let limit_nanos = 5_000_000_u64;
        let (upstream, gateway) = start(
            r#"virtual_keys: [{ name: app, value: sk-test-hammered-0001, providers: [{ name: up, models: ["*"] }], budget: { limit_usd: "0.005" } }]"#,
        )
        .await;
        let calls = (0..200).map(|_| {
            let (http, url) = (gateway.http.clone(), gateway.at("/v1/chat/completions"));
            tokio::spawn(async move {
                let mut refused = 0;
                for _ in 0..40 {
                    let body = json!({ "model": "up/slow-50", "max_tokens": 7, "messages": [{ "role": "user", "content": "hi" }] });
                    let answer = http.post(&url).bearer_auth("sk-test-hammered-0001").json(&body).send().await.expect("answer");
                    match answer.status().as_u16() {
                        200 => {}
                        402 => refused += 1,
                        503 | 429 => {}
                        other => panic!("{other}: {}", answer.text().await.unwrap_or_default()),
                    }
                    if 3 < refused {
                        break;
                    }
                }
            })
        });
        for call in futures_util::future::join_all(calls).await {
            call.expect("no panic");
        }
        // Callers were refused while others held what was left; what those did not use is still there to be spent.
        let mut told = gateway.chat("sk-test-hammered-0001", "up/ok", "hi").await;
        for _ in 0..limit_nanos / 25_000 {
            if told.status != 200 {
                break;
            }
            told = gateway.chat("sk-test-hammered-0001", "up/ok", "hi").await;
        }
        let input = upstream.books.input_tokens.load(Ordering::SeqCst);
        let output = upstream.books.output_tokens.load(Ordering::SeqCst);
        let billed = input * 1_000 + output * 2_000;
        assert!(billed <= limit_nanos, "the upstream bills {billed} of {limit_nanos}");
        assert!(limit_nanos * 95 / 100 <= billed, "only {billed} of {limit_nanos} could be used");
        let message = told.json()["error"]["message"].as_str().expect("message").to_owned();
        assert_eq!(told.status, 402, "{message}");
        assert!(message.contains("virtual key `app`") && message.contains("0.005"), "{message}");
    });
}

#[test]
fn a_stream_whose_upstream_heeds_no_maximum_is_cut_with_the_dialects_own_ending() {
    run(async {
        let (upstream, gateway) = start(
            r#"virtual_keys: [{ name: app, value: sk-test-stream-cut-01, providers: [{ name: up, models: ["*"] }], budget: { limit_usd: "0.006" } }]"#,
        )
        .await;
        let body = json!({ "model": "up/endless", "stream": true, "messages": [{ "role": "user", "content": "hi" }] });
        let answer =
            gateway.post("/v1/chat/completions", "sk-test-stream-cut-01", &body).await.text();
        assert!(
            answer.contains("\"finish_reason\":\"length\""),
            "{}",
            &answer[answer.len().saturating_sub(500)..]
        );
        assert!(answer.ends_with("data: [DONE]\n\n"));
        let budgets = gateway.admin("GET", "/api/budgets", None).await.json();
        let settled: f64 =
            budgets["items"][0]["settled"].as_str().expect("settled").parse().expect("number");
        assert!(settled <= 0.006, "{budgets}");
        assert_eq!(upstream.count(), 1);
    });
}

#[test]
fn a_model_without_a_price_is_refused_under_a_strict_budget() {
    run(async {
        let (upstream, gateway) = start(
            r#"virtual_keys: [{ name: app, value: sk-test-without-price, providers: [{ name: up, models: ["*"] }], budget: { limit_usd: "1" } }]"#,
        )
        .await;
        let answer = gateway.chat("sk-test-without-price", "up/unpriced", "hi").await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (402, &json!("price_unknown"))
        );
        assert_eq!(upstream.count(), 0);
    });
}

#[test]
fn a_key_reaches_the_models_it_names_and_no_other_by_any_face() {
    run(async {
        let (upstream, gateway) = start(
            r#"virtual_keys: [{ name: app, value: sk-test-narrow-key-01, providers: [{ name: up, models: ["ok"] }] }]"#,
        )
        .await;
        let key = "sk-test-narrow-key-01";
        assert_eq!(gateway.chat(key, "up/ok", "hi").await.status, 200);
        assert_eq!(gateway.chat(key, "up/alias", "hi").await.status, 200);
        let before = upstream.count();
        for model in ["up/plain", "ant/ok", "gem/ok"] {
            let answer = gateway.chat(key, model, "hi").await;
            assert_eq!(
                (answer.status, &answer.json()["error"]["code"]),
                (403, &json!("model_forbidden")),
                "{model}"
            );
            let body = json!({ "model": model, "max_tokens": 5, "messages": [{ "role": "user", "content": "hi" }] });
            assert_eq!(gateway.post("/anthropic/v1/messages", key, &body).await.status, 403);
            let body = json!({ "contents": [{ "parts": [{ "text": "hi" }] }] });
            assert_eq!(
                gateway
                    .post(&format!("/genai/v1beta/models/{model}:generateContent"), key, &body)
                    .await
                    .status,
                403
            );
        }
        let body = json!({ "model": "up/status-500", "fallbacks": ["ant/ok"], "messages": [] });
        assert_eq!(gateway.post("/v1/chat/completions", key, &body).await.status, 403);
        assert_eq!(upstream.count(), before);
    });
}

#[test]
fn a_rate_refuses_with_when_to_come_again_and_tells_what_is_left() {
    run(async {
        let (_upstream, gateway) = start(
            r#"virtual_keys: [{ name: app, value: sk-test-rate-limited-1, providers: [{ name: up, models: ["*"] }], rate: { requests: 2, per: 10m } }]"#,
        )
        .await;
        let key = "sk-test-rate-limited-1";
        let first = gateway.chat(key, "up/ok", "hi").await;
        assert_eq!(
            (
                first.status,
                first.header("x-ratelimit-limit-requests"),
                first.header("x-ratelimit-remaining-requests")
            ),
            (200, "2", "1")
        );
        assert_eq!(gateway.chat(key, "up/ok", "hi").await.status, 200);
        let third = gateway.chat(key, "up/ok", "hi").await;
        assert_eq!((third.status, &third.json()["error"]["code"]), (429, &json!("rate_limited")));
        assert!(0 < third.header("retry-after").parse::<u64>().expect("seconds"));
    });
}

#[test]
fn a_revoked_key_is_refused_from_the_next_request_on() {
    run(async {
        let (_upstream, gateway) = start(
            r#"virtual_keys: [{ name: app, value: sk-test-revoked-key-01, providers: [{ name: up, models: ["*"] }] }]"#,
        )
        .await;
        let key = "sk-test-revoked-key-01";
        for round in 0..20 {
            assert_eq!(gateway.chat(key, "up/ok", "hi").await.status, 200, "round {round}");
            let off = gateway
                .admin("PATCH", "/api/virtual-keys/app", Some(&json!({ "enabled": false })))
                .await;
            assert_eq!(off.status, 200, "{}", off.text());
            assert!(off.json()["certain_by"].is_string(), "{}", off.text());
            assert_eq!(gateway.chat(key, "up/ok", "hi").await.status, 401, "round {round}");
            assert_eq!(
                gateway
                    .admin("PATCH", "/api/virtual-keys/app", Some(&json!({ "enabled": true })))
                    .await
                    .status,
                200
            );
        }
        assert_eq!(gateway.admin("DELETE", "/api/virtual-keys/app", None).await.status, 200);
        assert_eq!(gateway.chat(key, "up/ok", "hi").await.status, 401);
    });
}

#[test]
fn a_rotated_key_holds_beside_the_new_one_for_its_overlap_and_not_without_one() {
    run(async {
        let (_upstream, gateway) = start(
            r#"virtual_keys: [{ name: app, value: sk-test-rotated-key-01, providers: [{ name: up, models: ["*"] }] }]"#,
        )
        .await;
        let rotated = gateway
            .admin("POST", "/api/virtual-keys/app/rotate", Some(&json!({ "overlap": "24h" })))
            .await;
        let second = rotated.json()["key"].as_str().expect("key").to_owned();
        assert!(second.starts_with("sk-al-"), "{second}");
        assert_eq!(gateway.chat("sk-test-rotated-key-01", "up/ok", "hi").await.status, 200);
        assert_eq!(gateway.chat(&second, "up/ok", "hi").await.status, 200);
        let rotated = gateway.admin("POST", "/api/virtual-keys/app/rotate", Some(&json!({}))).await;
        let third = rotated.json()["key"].as_str().expect("key").to_owned();
        assert_eq!(gateway.chat(&third, "up/ok", "hi").await.status, 200);
        assert_eq!(gateway.chat(&second, "up/ok", "hi").await.status, 401);
    });
}

#[test]
fn an_expired_key_is_refused_and_says_so() {
    run(async {
        let (_upstream, gateway) = start(
            r#"virtual_keys: [{ name: app, value: sk-test-expired-key-01, providers: [{ name: up, models: ["*"] }], expires_at: "2020-01-01T00:00:00Z" }]"#,
        )
        .await;
        let answer = gateway.chat("sk-test-expired-key-01", "up/ok", "hi").await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (401, &json!("key_expired")));
    });
}

#[test]
fn spending_adds_up_by_key_team_customer_and_model_and_survives_a_restart() {
    run(async {
        let (_upstream, mut gateway) = start(
            r#"
customers: [{ name: acme }]
teams: [{ name: web, customer: acme }]
virtual_keys: [{ name: app, team: web, value: sk-test-usage-adds-up1, providers: [{ name: "*", models: ["*"] }] }]"#,
        )
        .await;
        for _ in 0..3 {
            assert_eq!(gateway.chat("sk-test-usage-adds-up1", "up/ok", "hi").await.status, 200);
        }
        assert_eq!(gateway.chat("sk-test-usage-adds-up1", "ant/ok", "hi").await.status, 200);
        for round in 0..2 {
            let total = until("usage is there", async || {
                let usage = gateway
                    .admin("GET", "/api/usage?group_by=key,team,customer,model", None)
                    .await
                    .json();
                (usage["total"]["calls"] == 4).then_some(usage)
            })
            .await;
            assert_eq!(total["total"]["cost_usd"], "0.0001", "round {round}: {total}");
            let group = &total["rows"][0]["group"];
            assert_eq!(
                (&group["key"], &group["team"], &group["customer"]),
                (&json!("app"), &json!("web"), &json!("acme"))
            );
            if round == 0 {
                gateway.terminate().await;
                gateway.restart().await;
            }
        }
    });
}

#[test]
fn a_call_whose_reply_is_lost_counts_at_its_bound_and_is_not_made_twice() {
    run(async {
        let (upstream, gateway) = start(
            r#"virtual_keys: [{ name: app, value: sk-test-of-a-lost-reply, providers: [{ name: up, models: ["*"] }], budget: { limit_usd: "1" } }]"#,
        )
        .await;
        let body = json!({ "model": "up/never", "max_tokens": 1000, "messages": [{ "role": "user", "content": "hi" }] });
        let answer = in_time(&gateway, "sk-test-of-a-lost-reply", &body).await;
        assert_eq!(answer.status, 504, "{}", answer.text());
        assert_eq!(upstream.count(), 1);
        let key = gateway.get("/v1/key", "sk-test-of-a-lost-reply").await.json();
        let settled: f64 =
            key["budgets"][0]["settled_usd"].as_str().expect("settled").parse().expect("number");
        assert!(0.002 <= settled, "the vendor may bill a thousand output tokens: {key}");
    });
}

/// The answer to a chat, asked again where a busy machine let the first ask of a budget pass its 50 ms.
async fn in_time(gateway: &Gateway, key: &str, body: &serde_json::Value) -> Answer {
    until("the budget answers in time", async || {
        let answer = gateway.post("/v1/chat/completions", key, body).await;
        (answer.status != 503).then_some(answer)
    })
    .await
}

/// What the only budget of `key` says was spent, in dollars.
async fn spent(gateway: &Gateway, key: &str) -> f64 {
    let told = gateway.get("/v1/key", key).await.json();
    told["budgets"][0]["settled_usd"].as_str().expect("settled").parse().expect("number")
}

#[test]
fn what_a_vendor_does_not_state_is_charged_and_what_is_free_is_not() {
    run(async {
        let (_upstream, gateway) = start(
            r#"
virtual_keys:
  - { name: embeds, value: sk-test-of-embeddings-1, providers: [{ name: gem, models: ["*"] }], budget: { limit_usd: "1" } }
  - { name: mute, value: sk-test-of-mute-streams, providers: [{ name: up, models: ["*"] }], budget: { limit_usd: "1" } }
  - { name: counts, value: sk-test-of-count-tokens, providers: [{ name: ant, models: ["*"] }], budget: { limit_usd: "0.000001" } }"#,
        )
        .await;
        let body = json!({ "model": "gem/embed", "input": "some text" });
        let answer = gateway.post("/v1/embeddings", "sk-test-of-embeddings-1", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(0.0 < spent(&gateway, "sk-test-of-embeddings-1").await, "Gemini states no usage");

        let body = json!({ "model": "up/mute", "stream": true, "max_tokens": 1000, "messages": [{ "role": "user", "content": "hi" }] });
        let _broken = gateway.post("/v1/chat/completions", "sk-test-of-mute-streams", &body).await;
        let settled = spent(&gateway, "sk-test-of-mute-streams").await;
        assert!(0.002 <= settled, "it began and may be billed: {settled}");

        let body =
            json!({ "model": "ant/unpriced", "messages": [{ "role": "user", "content": "hi" }] });
        let answer =
            gateway.post("/v1/messages/count_tokens", "sk-test-of-count-tokens", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(spent(&gateway, "sk-test-of-count-tokens").await, 0.0);
    });
}

#[test]
fn a_proxys_timeout_counts_as_a_lost_reply_and_is_not_tried_again() {
    run(async {
        let (upstream, gateway) = start(
            r#"virtual_keys: [{ name: app, value: sk-test-of-proxy-timeout, providers: [{ name: up, models: ["*"] }], budget: { limit_usd: "1" } }]"#,
        )
        .await;
        let body = json!({ "model": "up/status-504", "max_tokens": 1000, "messages": [{ "role": "user", "content": "hi" }] });
        let answer = in_time(&gateway, "sk-test-of-proxy-timeout", &body).await;
        assert!(500 <= answer.status, "{}", answer.text());
        assert_eq!(upstream.count(), 1);
        assert!(0.002 <= spent(&gateway, "sk-test-of-proxy-timeout").await);
    });
}

#[test]
fn what_a_model_thinks_unseen_is_reserved_whole_and_charged_where_its_end_was_not_seen() {
    run(async {
        let upstream = Upstream::start().await;
        let address = upstream.address;
        // o3-mini: listed as thinking, at $1.1 and $4.4 a million.
        let yaml = format!(
            r#"
providers: [{{ name: openai, base_url: "http://{address}/v1", keys: [{{ name: main, value: sk-upstream-openai }}] }}]
virtual_keys:
  - {{ name: app, value: sk-test-of-unseen-thought, providers: [{{ name: openai, models: ["*"] }}], budget: {{ limit_usd: "1" }} }}
  - {{ name: poor, value: sk-test-of-little-money1, providers: [{{ name: openai, models: ["*"] }}], budget: {{ limit_usd: "0.05" }} }}"#
        );
        let gateway = Gateway::start(&yaml).await;
        let body = |user: &str| json!({ "model": "openai/o3-mini", "stream": true, "max_completion_tokens": 20_000, "user": user, "messages": [{ "role": "user", "content": "hi" }] });
        // 20,000 tokens of output are 8.8 cents: more than there is.
        let request = gateway
            .http
            .post(gateway.at("/v1/chat/completions"))
            .bearer_auth("sk-test-of-little-money1")
            .header("x-althing-budget", "strict")
            .json(&body("as ok"));
        let refused = gateway.send(request).await;
        assert_eq!(refused.status, 402, "{}", refused.text());
        assert_eq!(upstream.count(), 0);

        let key = "sk-test-of-unseen-thought";
        let whole = in_time(&gateway, key, &body("as ok")).await;
        assert_eq!(whole.status, 200, "{}", whole.text());
        let settled = spent(&gateway, key).await;
        assert!(settled < 0.001, "its vendor said what it used: {settled}");

        let request = gateway
            .http
            .post(gateway.at("/v1/chat/completions"))
            .bearer_auth(key)
            .json(&body("as endless"));
        let mut response = request.send().await.expect("answer");
        response.chunk().await.expect("chunk").expect("more");
        drop(response);
        let settled = until("the stream is settled", async || {
            let settled = spent(&gateway, key).await;
            (0.001 < settled).then_some(settled)
        })
        .await;
        assert!(0.088 <= settled, "20,000 tokens may have been thought: {settled}");
    });
}

#[test]
fn a_caller_who_leaves_pays_for_what_was_on_its_way() {
    run(async {
        let (_upstream, gateway) = start(
            r#"virtual_keys: [{ name: app, value: sk-test-of-those-who-go, providers: [{ name: up, models: ["*"] }], budget: { limit_usd: "1" } }]"#,
        )
        .await;
        let body = json!({ "model": "up/stall", "stream": true, "max_tokens": 5000, "messages": [{ "role": "user", "content": "hi" }] });
        let mut response = until("the budget answers in time", async || {
            let request = gateway.http.post(gateway.at("/v1/chat/completions")).json(&body);
            let response = request.bearer_auth("sk-test-of-those-who-go").send().await;
            response.ok().filter(|it| it.status() == 200)
        })
        .await;
        response.chunk().await.expect("chunk").expect("more");
        drop(response);
        let settled = until("the stream is settled", async || {
            let settled = spent(&gateway, "sk-test-of-those-who-go").await;
            (0.0 < settled).then_some(settled)
        })
        .await;
        // A hundred tokens of output at $2 a million.
        assert!((0.0002..0.004).contains(&settled), "{settled}");
    });
}

#[test]
fn a_short_stream_is_not_cut_for_want_of_money_that_it_cannot_use() {
    run(async {
        // A thousand tokens, the margin of long streams, are twice what there is; seven are not.
        let (upstream, gateway) = start(
            r#"virtual_keys: [{ name: app, value: sk-test-of-short-stream, providers: [{ name: up, models: ["*"] }], budget: { limit_usd: "0.001" } }]"#,
        )
        .await;
        let key = "sk-test-of-short-stream";
        let mut body = json!({ "model": "up/ok", "stream": true, "max_tokens": 7, "messages": [{ "role": "user", "content": "hi" }] });
        let answer = in_time(&gateway, key, &body).await.text();
        assert!(answer.contains("\"finish_reason\":\"stop\""), "{answer}");
        // Nor one that names no maximum: it gets the one that there is money for, and its vendor knows it.
        body.as_object_mut().expect("object").remove("max_tokens");
        let answer = in_time(&gateway, key, &body).await.text();
        assert!(answer.contains("\"finish_reason\":\"stop\""), "{answer}");
        let told = upstream.last().body["max_tokens"].as_u64().expect("a maximum");
        assert!((1..500).contains(&told), "{told}");
    });
}

#[test]
fn a_strict_budget_refuses_what_goes_on_in_the_background() {
    run(async {
        let upstream = Upstream::start().await;
        let address = upstream.address;
        let yaml = format!(
            r#"
providers: [{{ name: openai, base_url: "http://{address}/v1", keys: [{{ name: main, value: sk-upstream-openai }}] }}]
virtual_keys:
  - {{ name: strict, value: sk-test-of-background-01, providers: [{{ name: openai, models: ["*"] }}], budget: {{ limit_usd: "1" }} }}
  - {{ name: free, value: sk-test-of-background-02, providers: [{{ name: openai, models: ["*"] }}] }}"#
        );
        let gateway = Gateway::start(&yaml).await;
        let body = json!({ "model": "openai/gpt-4o", "background": true, "input": "hi" });
        let refused = gateway.post("/v1/responses", "sk-test-of-background-01", &body).await;
        assert_eq!(
            (refused.status, &refused.json()["error"]["param"]),
            (400, &json!("background"))
        );
        assert_eq!(upstream.count(), 0);
        gateway.post("/v1/responses", "sk-test-of-background-02", &body).await;
        assert_eq!(upstream.count(), 1, "without a budget it is the vendor's matter");
    });
}

#[test]
fn all_attempts_of_a_call_together_take_no_longer_than_a_call_may() {
    run(async {
        let upstream = Upstream::start().await;
        let address = upstream.address;
        // The provider alone would wait for ten seconds, three times.
        let yaml = format!(
            r#"
limits: {{ request_timeout: 2s }}
providers: [{{ name: up, dialect: openai, base_url: "http://{address}/v1", keys: [], timeout: 10s }}]
virtual_keys: [{{ name: app, value: sk-test-of-all-attempts1, providers: [{{ name: up, models: ["*"] }}] }}]"#
        );
        let gateway = Gateway::start(&yaml).await;
        let begun = tokio::time::Instant::now();
        let answer = gateway.chat("sk-test-of-all-attempts1", "up/never", "hi").await;
        assert_eq!(answer.status, 504, "{}", answer.text());
        assert!(begun.elapsed() < std::time::Duration::from_secs(8), "{:?}", begun.elapsed());
        assert_eq!(upstream.count(), 1);
    });
}

/// At $2.5 and $10 a million, in nano-dollars a token: what most of a budget goes to is output.
const SAYS_INPUT: u64 = 2_500;
const SAYS_OUTPUT: u64 = 10_000;

/// A gateway before an upstream that heeds the maximum it is told, at the prices above.
async fn says(limit: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let address = upstream.address;
    let price = r#"{ input_usd_per_million: "2.5", output_usd_per_million: "10" }"#;
    let models = ["says-60", "says-60-5", "says-600", "says-2000", "says-3000"];
    let prices = models.map(|it| format!("{it}: {price}")).join(", ");
    let provider = |name: &str, dialect: &str, path: &str| {
        format!(
            r#"{{ name: {name}, dialect: {dialect}, base_url: "http://{address}{path}", keys: [{{ name: main, value: sk-upstream-says }}], prices: {{ {prices} }} }}"#
        )
    };
    let yaml = format!(
        r#"
providers: [{}, {}]
virtual_keys: [{{ name: app, value: sk-test-of-says-streams, providers: [{{ name: "*", models: ["*"] }}], budget: {{ limit_usd: "{limit}" }} }}]"#,
        provider("up", "openai", "/v1"),
        provider("ant", "anthropic", ""),
    );
    let gateway = Gateway::start(&yaml).await;
    (upstream, gateway)
}

fn billed(upstream: &Upstream) -> u64 {
    let books = &upstream.books;
    books.input_tokens.load(Ordering::SeqCst) * SAYS_INPUT
        + books.output_tokens.load(Ordering::SeqCst) * SAYS_OUTPUT
}

/// So many callers at once, each until it is refused for good: how many streams were whole, and how many were not.
async fn stream_until_refused(
    gateway: &Gateway,
    callers: usize,
    body: &serde_json::Value,
) -> (u64, u64) {
    let path = if body["model"].as_str().is_some_and(|it| it.starts_with("ant/")) {
        "/v1/messages"
    } else {
        "/v1/chat/completions"
    };
    let calls = (0..callers).map(|_| {
        let (http, url, body) = (gateway.http.clone(), gateway.at(path), body.clone());
        tokio::spawn(async move {
            let (mut whole, mut short) = (0, 0);
            loop {
                let answer = http
                    .post(&url)
                    .bearer_auth("sk-test-of-says-streams")
                    .json(&body)
                    .send()
                    .await
                    .expect("answer");
                let (status, again) =
                    (answer.status().as_u16(), answer.headers().contains_key("retry-after"));
                let text = answer.text().await.expect("text");
                match status {
                    200 if text.contains("\"stop\"") || text.contains("end_turn") => whole += 1,
                    200 => short += 1,
                    402 if !again => return (whole, short),
                    402 | 503 => {}
                    other => panic!("{other}: {text}"),
                }
            }
        })
    });
    let done = futures_util::future::join_all(calls).await;
    done.into_iter().map(|it| it.expect("no panic")).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
}

/// What is spent of a budget by streams, by the upstream's own ledger: never more than all of it, nearly all of it, and
/// no stream is cut while there is money.
async fn spend_in_streams(limit: u64, callers: usize, model: &str, max_tokens: Option<u64>) {
    let usd = format!("{}.{:09}", limit / 1_000_000_000, limit % 1_000_000_000);
    let (upstream, gateway) = says(&usd).await;
    let mut body = json!({ "model": model, "stream": true, "messages": [{ "role": "user", "content": "hi" }] });
    if let Some(most) = max_tokens {
        body["max_tokens"] = json!(most);
    }
    let (whole, short) = stream_until_refused(&gateway, callers, &body).await;
    let case =
        format!("${usd}, {callers} callers, {model}, {max_tokens:?}: {whole} whole, {short} cut");
    let billed = billed(&upstream);
    assert!(billed <= limit, "{case}: the upstream bills {billed} of {limit}");
    assert!(limit * 95 / 100 <= billed, "{case}: only {billed} of {limit} could be used");
    // The last of the money does not pay for a whole reply, and is spent all the same: where no maximum is named, that is
    // the last two or three parts of 1,024 tokens.
    assert!(short <= if max_tokens.is_some() { 4 } else { 8 }, "{case}");
    assert_eq!(
        short,
        upstream.books.short.load(Ordering::SeqCst),
        "{case}: cut by its vendor alone"
    );
}

#[test]
fn a_reply_is_not_cut_for_money_that_a_call_in_flight_gives_back() {
    run(async {
        // Pays for the first's maximum and a hundred tokens more, or the second's reply, but not for both maxima, and not for
        // the second's maximum by itself.
        let (upstream, gateway) = says("0.012").await;
        let ask = |model: &str, most: u64| json!({ "model": model, "stream": true, "max_tokens": most, "messages": [{ "role": "user", "content": "hi" }] });
        let (first, second) = (ask("up/says-60-5", 1_000), ask("up/says-600", 1_200));
        let key = "sk-test-of-says-streams";
        let second = async {
            until("the first runs", async || (upstream.count() == 1).then_some(())).await;
            in_time(&gateway, key, &second).await
        };
        let (first, second) = tokio::join!(in_time(&gateway, key, &first), second);
        assert!(first.text().contains("\"stop\""), "{}", first.text());
        assert!(second.text().contains("\"stop\""), "{}", second.text());
        assert_eq!(upstream.books.short.load(Ordering::SeqCst), 0);
        let told: u64 = second.header("x-althing-max-output").parse().expect("a number");
        assert!((1_024..1_200).contains(&told), "{told}");
        assert!(billed(&upstream) <= 12_000_000);
    });
}

#[test]
fn streams_that_name_a_maximum_spend_a_budget_and_no_more_and_are_not_cut() {
    run(async {
        spend_in_streams(10_000_000, 1, "up/says-60", Some(60)).await;
        spend_in_streams(50_000_000, 24, "up/says-60-5", Some(100)).await;
        spend_in_streams(200_000_000, 200, "up/says-600", Some(1_000)).await;
        spend_in_streams(100_000_000, 24, "ant/says-600", Some(1_000)).await;
    });
}

#[test]
fn streams_that_name_no_maximum_spend_a_budget_and_no_more() {
    run(async {
        spend_in_streams(10_000_000, 1, "up/says-60", None).await;
        spend_in_streams(50_000_000, 24, "up/says-60-5", None).await;
        spend_in_streams(200_000_000, 200, "up/says-600", None).await;
        spend_in_streams(100_000_000, 1, "up/says-2000", None).await;
        spend_in_streams(1_000_000_000, 200, "up/says-600", None).await;
    });
}

#[test]
fn a_stream_is_whole_as_long_as_the_budget_can_pay_it_alone_or_among_many() {
    run(async {
        for (limit, model, most) in [
            ("0.05", "up/says-3000", Some(4_000)),
            ("0.05", "up/says-2000", None),
            ("0.02", "up/says-600", None),
        ] {
            let (upstream, gateway) = says(limit).await;
            let mut body = json!({ "model": model, "stream": true, "messages": [{ "role": "user", "content": "hi" }] });
            body["max_tokens"] = json!(most);
            let answer = in_time(&gateway, "sk-test-of-says-streams", &body).await;
            assert_eq!(upstream.books.short.load(Ordering::SeqCst), 0, "{limit} {model}");
            let told = upstream.last().body["max_tokens"].as_u64().expect("a maximum");
            assert_eq!(answer.header("x-althing-max-output").is_empty(), most.is_some());
            assert!(told * SAYS_OUTPUT <= 50_000_000, "{told}");
        }
        // The maximum that is named is more than there is money for, so that the upstream hears of a smaller one.
        let (upstream, gateway) = says("0.04").await;
        let body = json!({ "model": "up/says-3000", "stream": true, "max_tokens": 1_000_000, "messages": [{ "role": "user", "content": "hi" }] });
        let answer = in_time(&gateway, "sk-test-of-says-streams", &body).await;
        assert!(answer.text().contains("\"stop\""), "{}", answer.text());
        let told: u64 = answer.header("x-althing-max-output").parse().expect("a number");
        assert!((3_800..4_000).contains(&told), "{told}");
        assert_eq!(upstream.last().body["max_tokens"], told);
        // Twenty-four at once, where all of them together reserve less than there is.
        for most in [Some(100), None] {
            let (upstream, gateway) = says("1").await;
            let mut body = json!({ "model": "up/says-60-5", "stream": true, "messages": [{ "role": "user", "content": "hi" }] });
            body["max_tokens"] = json!(most);
            let all = (0..24).map(|_| in_time(&gateway, "sk-test-of-says-streams", &body));
            for answer in futures_util::future::join_all(all).await {
                assert!(answer.text().contains("\"stop\""), "{}", answer.text());
            }
            assert_eq!(upstream.books.short.load(Ordering::SeqCst), 0);
        }
    });
}
