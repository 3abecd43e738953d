//! What is acknowledged outlives `kill -9`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde_json::json;

use crate::support::{Gateway, Upstream, run, until};

#[test]
fn acknowledged_policy_writes_survive_kill_9() {
    run(async {
        let mut gateway = Gateway::start("node: { name: a }").await;
        let acknowledged: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (http, url, acknowledged) =
                    (gateway.http.clone(), gateway.at("/api/customers"), Arc::clone(&acknowledged));
                tokio::spawn(async move {
                    for at in 0..1_000 {
                        let name = format!("c{writer}-{at}");
                        let sent = http
                            .post(&url)
                            .bearer_auth(crate::support::gateway::ADMIN)
                            .json(&json!({ "name": name }))
                            .send()
                            .await;
                        match sent {
                            Ok(answer) if answer.status() == 201 => {
                                acknowledged.lock().insert(name)
                            }
                            Ok(answer) => panic!("{}", answer.status()),
                            Err(_) => return,
                        };
                    }
                })
            })
            .collect();
        until("a thousand writes are acknowledged", async || {
            (1_000 <= acknowledged.lock().len()).then_some(())
        })
        .await;
        gateway.kill().await;
        for writer in writers {
            writer.await.expect("no panic");
        }
        gateway.restart().await;
        let mut found = BTreeSet::new();
        let mut cursor = String::new();
        loop {
            let page = gateway
                .admin("GET", &format!("/api/customers?limit=500{cursor}"), None)
                .await
                .json();
            found.extend(
                page["items"]
                    .as_array()
                    .expect("items")
                    .iter()
                    .filter_map(|it| it["name"].as_str().map(str::to_owned)),
            );
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let lost: Vec<_> = acknowledged.lock().difference(&found).cloned().collect();
        assert!(lost.is_empty(), "{} acknowledged writes are lost: {lost:?}", lost.len());
    });
}

#[test]
fn every_answered_call_has_its_record_after_kill_9_under_load() {
    run(async {
        let upstream = Upstream::start().await;
        let yaml = upstream.providers()
            + r#"virtual_keys: [{ name: app, value: sk-test-kill-under-load, providers: [{ name: up, models: ["*"] }] }]"#;
        let mut gateway = Gateway::start(&yaml).await;
        let answered: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let callers: Vec<_> = (0..16)
            .map(|_| {
                let (http, url, answered, stop) =
                    (gateway.http.clone(), gateway.at("/v1/chat/completions"), Arc::clone(&answered), Arc::clone(&stop));
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let body = json!({ "model": "up/ok", "messages": [{ "role": "user", "content": "hi" }] });
                        let Ok(answer) = http.post(&url).bearer_auth("sk-test-kill-under-load").json(&body).send().await else { return };
                        let id = answer.headers()["x-althing-request-id"].to_str().expect("id").to_owned();
                        if answer.bytes().await.is_ok() {
                            answered.lock().insert(id);
                        }
                    }
                })
            })
            .collect();
        until("five hundred calls are answered", async || {
            (500 <= answered.lock().len()).then_some(())
        })
        .await;
        gateway.kill().await;
        stop.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.await.expect("no panic");
        }
        gateway.restart().await;
        let mut recorded = BTreeSet::new();
        let mut cursor = String::new();
        loop {
            let page =
                gateway.admin("GET", &format!("/api/logs?limit=500{cursor}"), None).await.json();
            recorded.extend(
                page["logs"]
                    .as_array()
                    .expect("logs")
                    .iter()
                    .filter_map(|it| it["id"].as_str().map(str::to_owned)),
            );
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let missing: Vec<_> = answered.lock().difference(&recorded).cloned().collect();
        assert!(
            missing.is_empty(),
            "{} of {} answered calls have no record",
            missing.len(),
            answered.lock().len()
        );
    });
}

#[test]
fn money_spent_before_kill_9_is_not_given_back() {
    run(async {
        let upstream = Upstream::start().await;
        let yaml = upstream.providers()
            + r#"virtual_keys: [{ name: app, value: sk-test-kill-and-spend, providers: [{ name: up, models: ["*"] }], budget: { limit_usd: "0.001" } }]"#;
        let mut gateway = Gateway::start(&yaml).await;
        for _ in 0..3 {
            let mut refused = 0;
            while refused < 2 {
                let body = json!({ "model": "up/ok", "max_tokens": 7, "messages": [{ "role": "user", "content": "hi" }] });
                let answer =
                    gateway.post("/v1/chat/completions", "sk-test-kill-and-spend", &body).await;
                if answer.status == 200 {
                    if upstream.count().is_multiple_of(9) {
                        break;
                    }
                } else {
                    refused += 1;
                }
            }
            gateway.kill().await;
            gateway.restart().await;
        }
        let input = upstream.books.input_tokens.load(Ordering::SeqCst);
        let output = upstream.books.output_tokens.load(Ordering::SeqCst);
        assert!(
            input * 1_000 + output * 2_000 <= 1_000_000,
            "the upstream bills more than the limit after {} calls",
            upstream.count()
        );
    });
}

#[test]
fn all_that_was_not_spent_before_kill_9_can_be_spent_after_it() {
    run(async {
        let upstream = Upstream::start().await;
        let key = "sk-test-kill-and-use-rest";
        let yaml = upstream.providers()
            + &format!(
                r#"virtual_keys: [{{ name: app, value: {key}, providers: [{{ name: up, models: ["*"] }}], budget: {{ limit_usd: "0.01" }} }}]"#
            );
        let mut gateway = Gateway::start(&yaml).await;
        let body = json!({ "model": "up/ok", "max_tokens": 7, "messages": [{ "role": "user", "content": "hi" }] });
        // 11 input and 7 output tokens at $1 and $2 a million.
        let (limit, call) = (10_000_000_u64, 25_000_u64);
        let billed = || {
            upstream.books.input_tokens.load(Ordering::SeqCst) * 1_000
                + upstream.books.output_tokens.load(Ordering::SeqCst) * 2_000
        };
        for _ in 0..3 {
            for _ in 0..20 {
                assert_eq!(gateway.post("/v1/chat/completions", key, &body).await.status, 200);
            }
            // Nothing runs; a slice is held of which little is spent. The journal follows within 100 ms.
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            gateway.kill().await;
            gateway.restart().await;
        }
        assert_eq!(billed(), 60 * call);
        let budget = until("what was written off is refunded", async || {
            let budget = gateway.admin("GET", "/api/budgets", None).await.json();
            (budget["items"][0]["written_off"] == "0").then_some(budget)
        })
        .await;
        assert_eq!(budget["items"][0]["settled"], "0.0015", "to the nano: {budget}");
        let mut refused = 0;
        while refused < 3 {
            match gateway.post("/v1/chat/completions", key, &body).await.status {
                200 => refused = 0,
                _ => refused += 1,
            }
        }
        // What is left cannot cover one more call at its bound: a token a byte of its input.
        let bound = (64 + 200) * 1_000 + 7 * 2_000;
        assert!(billed() <= limit, "{} of {limit}", billed());
        assert!(limit - bound <= billed(), "only {} of {limit} could be used", billed());
    });
}

#[test]
fn a_full_disk_refuses_what_must_be_kept_and_lets_go_when_there_is_room() {
    run(async {
        let upstream = Upstream::start().await;
        let key = "sk-test-of-a-full-disk-1";
        let yaml = upstream.providers()
            + &format!(
                r#"
records: {{ when_full: refuse }}
virtual_keys: [{{ name: app, value: {key}, providers: [{{ name: up, models: ["*"] }}] }}]"#
            );
        let gateway = Gateway::start_on_small_disk(&yaml, 48).await;
        assert_eq!(gateway.chat(key, "up/ok", "hi").await.status, 200);
        let filler = gateway.data().join("filler");
        fill(&filler);
        let long = "x".repeat(100_000);
        let refused = until("a policy write is refused", async || {
            let body = json!({ "name": format!("t{}", rand::random::<u32>()), "description": long, "tools": [] });
            let answer = gateway.admin("POST", "/api/tool-groups", Some(&body)).await;
            (answer.status != 201).then_some(answer)
        })
        .await;
        assert_eq!(
            (refused.status, &refused.json()["error"]["code"]),
            (503, &json!("storage_full")),
            "{}",
            refused.text()
        );
        assert_eq!(gateway.admin("GET", "/api/virtual-keys/app", None).await.status, 200);
        assert_eq!(gateway.send(gateway.http.get(gateway.at("/healthz"))).await.status, 200);
        let ready = gateway.send(gateway.http.get(gateway.at("/readyz"))).await;
        assert!(ready.status == 503 && ready.text().contains("disk"), "{}", ready.text());
        std::fs::remove_file(&filler).expect("room");
        until("policy can be written again", async || {
            let body = json!({ "name": format!("t{}", rand::random::<u32>()), "tools": [] });
            (gateway.admin("POST", "/api/tool-groups", Some(&body)).await.status == 201)
                .then_some(())
        })
        .await;
        until("calls are served again", async || {
            (gateway.chat(key, "up/ok", "hi").await.status == 200).then_some(())
        })
        .await;
    });
}

#[test]
fn no_money_is_spent_that_the_usage_journal_cannot_tell_of() {
    run(async {
        let upstream = Upstream::start().await;
        let key = "sk-test-of-the-journal-1";
        let yaml = upstream.providers()
            + &format!(
                r#"virtual_keys: [{{ name: app, value: {key}, providers: [{{ name: up, models: ["*"] }}], budget: {{ limit_usd: "1" }} }}]"#
            );
        let gateway = Gateway::start_with_limits_of_files(&yaml).await;
        until("calls are served", async || {
            (gateway.chat(key, "up/ok", "hi").await.status == 200).then_some(())
        })
        .await;
        // While calls run the journal is ahead of them; at rest it says what was spent, and each call must write.
        until("the spending is told and the journal at rest", async || {
            let told = gateway.admin("GET", "/api/budgets", None).await.json();
            (told["items"][0]["settled"] != "0").then_some(())
        })
        .await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let before = upstream.count();
        gateway.limit_files(Some(0));
        let refused = gateway.chat(key, "up/ok", "hi").await;
        gateway.limit_files(None);
        assert_eq!(
            (refused.status, &refused.json()["error"]["code"]),
            (503, &json!("storage_full")),
            "{}",
            refused.text()
        );
        assert!(
            refused.text().contains("cannot write to its disk")
                && !refused.header("retry-after").is_empty(),
            "{}",
            refused.text()
        );
        assert_eq!(upstream.count(), before, "nothing was called");
        until("calls are served again", async || {
            (gateway.chat(key, "up/ok", "hi").await.status == 200).then_some(())
        })
        .await;
    });
}

/// Writes zeros until the disk is full.
fn fill(path: &std::path::Path) {
    use std::io::Write as _;

    let mut file = std::fs::File::create(path).expect("filler");
    for size in [1 << 16, 1 << 10, 1] {
        let block = vec![0; size];
        while file.write_all(&block).is_ok() {}
    }
}
