//! What the stages around a call cost, in a node as it is started: who calls, where it may go, and closing it with its record.

#![expect(clippy::expect_used, reason = "a bench that cannot be set up must stop")]

use std::hint::black_box;

use althing::app::Node;
use althing::auth;
use althing::control::view::KeyView;
use althing::gateway::Gateway;
use althing::route::{self, Wanted};
use althing::settle::Ended;
use althing_config::Overrides;
use althing_llm::usage::Usage;
use althing_storage::record::Kind;
use criterion::{Criterion, criterion_group, criterion_main};
use http::HeaderMap;
use serde_json::json;

const KEYS: usize = 1_000;

/// A node with keys, each with a budget and a rate, and two providers.
async fn node(dir: &std::path::Path) -> Node {
    let provider = |name: &str| json!({ "name": name, "dialect": "openai", "base_url": "http://127.0.0.1:9/v1", "keys": [{ "name": "k", "value": "sk-bench" }] });
    let key = |number: usize| {
        json!({
            "name": format!("key-{number}"), "value": format!("vk-for-benchmarks-{number:06}"),
            "providers": [{ "name": "one", "models": ["*"] }, { "name": "two", "models": ["*"] }],
            "budget": { "limit_usd": "1000000", "period": "month" },
            "rate": { "requests": 1_000_000_000, "tokens": 1_000_000_000_000_u64 },
        })
    };
    let file = json!({
        "providers": [provider("one"), provider("two")],
        "virtual_keys": (0..KEYS).map(key).collect::<Vec<_>>(),
    });
    let overrides =
        Overrides { data_dir: Some(dir.to_owned()), listen: Some("127.0.0.1:0".to_owned()) };
    let config = althing_config::load_text(&file.to_string(), &[], &overrides, &[]);
    Node::start(config.expect("a configuration"), true).await.expect("it starts")
}

fn stages(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let dir = tempfile::tempdir().expect("a folder");
    let node = runtime.block_on(node(dir.path()));
    let gateway = node.gateway();
    let view = gateway.views.load_full();
    let mut headers = HeaderMap::new();
    headers.insert("authorization", "Bearer vk-for-benchmarks-000500".parse().expect("a value"));
    let now = gateway.clock.now();
    criterion.bench_function("auth, of 1,000 keys", |bencher| {
        bencher.iter(|| {
            auth::caller(black_box(&view), auth::Mode::Keys, &headers, None, now).expect("a key")
        });
    });
    let key = gateway.caller(&view, &headers, None, now).expect("a key");
    for model in ["one/gpt-4o-mini", "gpt-4o-mini"] {
        criterion.bench_function(&format!("route {model}"), |bencher| {
            let wanted = Wanted { model, fallbacks: &[], dialect: "openai" };
            bencher
                .iter(|| route::plan(black_box(&view), &key, &wanted).map(|it| it.targets.len()));
        });
    }
    settle(criterion, &runtime, gateway, &key);
    runtime.block_on(node.serve(async || ())).expect("it ends");
}

/// A call opened and closed, with room for its record, the record in the spool, and metrics.
fn settle(
    criterion: &mut Criterion,
    runtime: &tokio::runtime::Runtime,
    gateway: &Gateway,
    key: &KeyView,
) {
    let series = gateway.metrics.model(&"one".into(), &"gpt-4o-mini".into());
    criterion.bench_function("open and settle a call, record written", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let arrival = gateway.arrive();
                let call = gateway.open_call((arrival, arrival.at), Kind::ModelCall, key).await;
                let mut call = call.expect("room for its record");
                call.series = Some(series.clone());
                call.meter(Usage { input: 200, output: 180, ..Usage::default() }, false);
                call.close(&Ended::Ok(200));
            });
        });
    });
}

criterion_group!(benches, stages);
criterion_main!(benches);
