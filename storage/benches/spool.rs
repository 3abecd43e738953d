//! What keeping a record costs: the append on the request's path, and the move behind it.
#![expect(clippy::unwrap_used, reason = "a bench stops where something fails")]

use std::sync::Arc;
use std::time::Duration;

use althing_storage::record::{Kind, Record, Tokens, encode};
use althing_storage::request_log::{Options, RequestLog};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const AT_MS: u64 = 1_795_600_000_000;

fn record(id: u128) -> Record {
    let mut record = Record::new(id, AT_MS, Arc::from("node-a"), Kind::ModelCall);
    record.key = Some(Arc::from("app"));
    record.team = Some(Arc::from("web"));
    record.customer = Some(Arc::from("acme"));
    record.provider = Some(Arc::from("openai"));
    record.provider_key = Some(Arc::from("main"));
    record.model = Some(Arc::from("gpt-4o-mini-2024-07-18"));
    record.http_status = 200;
    record.latency_ms = 812;
    record.overhead_us = 9;
    record.attempts = 1;
    record.tokens = Tokens { input: 312, output: 128, ..Tokens::default() };
    record.cost_nano_usd = 123_600;
    record
}

fn append(c: &mut Criterion) {
    let template = record(0);
    let mut buffer = Vec::with_capacity(1024);
    c.bench_function("record/encode", |b| {
        b.iter(|| {
            buffer.clear();
            encode(&template, &mut buffer);
            buffer.len()
        });
    });
    let dir = tempfile::tempdir().unwrap();
    let options = Options { spool_bytes_max: u64::MAX, ..Options::new(dir.path()) };
    // Stopped at once: what is measured is the append alone, not the thread that moves.
    let log = RequestLog::open(&options, Arc::new(|| AT_MS)).unwrap();
    log.shutdown();
    let mut record = template;
    c.bench_function("spool/append", |b| {
        b.iter(|| {
            record.id += 1;
            log.spool().append(&record)
        });
    });
    c.bench_function("spool/reserve_and_append", |b| {
        b.iter(|| {
            record.id += 1;
            log.spool().reserve().and_then(|it| it.append(&record))
        });
    });
}

fn index(c: &mut Criterion) {
    let mut group = c.benchmark_group("request_log");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(10))
        .throughput(Throughput::Elements(10_000));
    let dir = tempfile::tempdir().unwrap();
    let log = RequestLog::open(&Options::new(dir.path()), Arc::new(|| AT_MS)).unwrap();
    let mut id = 0u128;
    group.bench_function("move_10_000", |b| {
        b.iter_batched(
            || (),
            |()| {
                for _ in 0..10_000 {
                    id += 1;
                    log.spool().append(&record(id)).unwrap();
                }
                assert!(log.flush(Duration::from_secs(60)));
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, append, index);
criterion_main!(benches);
