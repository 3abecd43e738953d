//! What OTLP costs on the request path: what a call notes, what its upstream is told, and the hand-off when it is over.

#![expect(clippy::expect_used, reason = "a bench that cannot be set up must stop")]

use std::hint::black_box;
use std::sync::Arc;

use althing::telemetry::metric::Metrics;
use althing::telemetry::otlp::Otlp;
use althing::telemetry::probe::{Asked, Finished, Peer};
use althing::telemetry::trace::Parent;
use althing_domain::policy::Fraction;
use althing_storage::record::{Kind, Record};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::HeaderMap;
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;

/// How many calls are prepared at once: less than the queue holds.
const BATCH: u64 = 1_000;

fn bench(criterion: &mut Criterion) {
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let (otlp, mut queue) = Otlp::detached(Fraction(10_000), &metrics);
    let peer = Arc::new(Peer::new("openai", "https://api.openai.com/v1"));
    let names: [Arc<str>; 4] =
        [Arc::from("node"), Arc::from("openai"), Arc::from("gpt-4o-mini"), Arc::from("main")];
    let [node, provider, model, key] = &names;
    let record = |queue: &mut Receiver<Finished>| {
        while queue.try_recv().is_ok() {}
        let mut record = Record::new(7, 0, Arc::clone(node), Kind::ModelCall);
        (record.provider, record.model) = (Some(Arc::clone(provider)), Some(Arc::clone(model)));
        record
    };
    let call = |record: Record, headers: &HeaderMap| {
        let asked = Asked::Model { operation: "chat", route: "/v1/chat/completions" };
        let mut probe = otlp.probe(Parent::of_headers(headers), asked);
        let passed = probe.attempt(Some(&peer), Some(provider), (Some(model), Some(key)));
        black_box(&passed);
        probe.answered(200, false);
        let now = Instant::now();
        probe.finish(record, now, now);
    };
    let without = HeaderMap::new();
    criterion.bench_function("a call from nowhere, one of a hundred sampled", |bencher| {
        let size = BatchSize::NumIterations(BATCH);
        bencher.iter_batched(|| record(&mut queue), |it| call(it, black_box(&without)), size);
    });
    let mut with = HeaderMap::new();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    with.insert("traceparent", parent.parse().expect("a header"));
    criterion.bench_function("a call in its caller's trace, sampled", |bencher| {
        let size = BatchSize::NumIterations(BATCH);
        bencher.iter_batched(|| record(&mut queue), |it| call(it, black_box(&with)), size);
    });
    criterion.bench_function("two readings of the clock, which are in both", |bencher| {
        bencher.iter(|| (Instant::now(), Instant::now()));
    });
}

criterion_group!(benches, bench);
criterion_main!(benches);
