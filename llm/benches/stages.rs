//! What the stages of this crate cost: scanning and splicing a body, translating one, watching a stream.

#![expect(clippy::expect_used, reason = "a bench that cannot be set up must stop")]

use std::hint::black_box;

use althing_llm::dialect::{Dialect, ReplyContext, by_name};
use althing_llm::scan::{Field, Rewrite, scan};
use althing_llm::sse;
use althing_llm::tap::{Shape, Tap, usage_of_reply};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const CHUNKS: usize = 50;

fn request(bytes: usize) -> Vec<u8> {
    let text = "Summarise the following incident report for the on-call engineer. ";
    let head = r#"{"model":"gpt-4o-mini","messages":[{"role":"system","content":"You are helpful."},{"role":"user","content":""#;
    let tail = r#""}],"temperature":0.2,"max_tokens":256,"stream":false}"#;
    let fill: String = text.chars().cycle().take(bytes - head.len() - tail.len()).collect();
    format!("{head}{fill}{tail}").into_bytes()
}

fn anthropic_reply() -> Vec<u8> {
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(20);
    format!(
        r#"{{"id":"msg_1","type":"message","role":"assistant","model":"claude-haiku-4-5","content":[{{"type":"text","text":"{text}"}}],"stop_reason":"end_turn","stop_sequence":null,"usage":{{"input_tokens":200,"output_tokens":180}}}}"#
    )
    .into_bytes()
}

fn openai_reply() -> Vec<u8> {
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(20);
    format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"gpt-4o-mini","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":200,"completion_tokens":180,"total_tokens":380}}}}"#
    )
    .into_bytes()
}

/// A stream as OpenAI sends it, event by event.
fn stream() -> Vec<Bytes> {
    let chunk = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o-mini","choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}]}"#;
    let last = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":200,"completion_tokens":50,"total_tokens":250}}"#;
    let mut all = vec![Bytes::from(format!("{chunk}\n\n")); CHUNKS];
    all.push(Bytes::from(format!("{last}\n\n")));
    all.push(Bytes::from_static(b"data: [DONE]\n\n"));
    all
}

fn scanning(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scan");
    for bytes in [1024, 10_240, 102_400] {
        let body = request(bytes);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("{bytes} bytes"), |bencher| {
            bencher.iter(|| scan(black_box(&body)).expect("a request"));
        });
    }
    let body = request(1024);
    let scanned = scan(&body).expect("a request");
    group.bench_function("splice the model of 1024 bytes", |bencher| {
        bencher.iter(|| {
            let mut rewrite = Rewrite::new(black_box(&scanned));
            rewrite.set_text(Field::Model, "gpt-4o-mini-2024-07-18");
            rewrite.apply(&body)
        });
    });
    let reply = openai_reply();
    group.bench_function("usage of a reply of 1 KiB", |bencher| {
        bencher.iter(|| usage_of_reply(Shape::OpenAi, black_box(&reply)).expect("usage"));
    });
    group.finish();
}

fn translation(criterion: &mut Criterion) {
    let dialect = |name| -> &'static dyn Dialect { by_name(name).expect("a dialect") };
    let (face, upstream) = (dialect("openai"), dialect("anthropic"));
    let body = request(1024);
    let mut group = criterion.benchmark_group("translate");
    group.bench_function("request of 1 KiB, OpenAI to Anthropic", |bencher| {
        bencher.iter(|| {
            let request = face.decode_request(black_box(&body), None, false).expect("a request");
            upstream.encode_request(&request).expect("it can be said")
        });
    });
    let reply = anthropic_reply();
    let context = ReplyContext {
        model: "claude-haiku-4-5".to_owned(),
        created: 1_700_000_000,
        id: "1".to_owned(),
        stream_usage: false,
        aliases: [].into(),
    };
    group.bench_function("reply of 1 KiB, Anthropic to OpenAI", |bencher| {
        bencher.iter(|| {
            let reply = upstream.decode_reply(black_box(&reply)).expect("a reply");
            face.encode_reply(&reply, &context)
        });
    });
    group.finish();
}

fn streaming(criterion: &mut Criterion) {
    let events = stream();
    let mut group = criterion.benchmark_group("stream of 50 chunks");
    group.throughput(Throughput::Elements(events.len() as u64));
    group.bench_function("parse", |bencher| {
        bencher.iter(|| {
            let (mut parser, mut bytes) = (sse::Parser::default(), 0);
            for it in &events {
                parser.push(black_box(it), |event| bytes += event.data.len()).expect("small");
            }
            bytes
        });
    });
    group.bench_function("tap", |bencher| {
        bencher.iter(|| {
            let mut tap = Tap::new(Shape::OpenAi);
            for it in &events {
                black_box(tap.pass(it.clone()).expect("small"));
            }
            tap.finish();
            tap.usage().expect("it was stated")
        });
    });
    group.finish();
}

criterion_group!(benches, scanning, translation, streaming);
criterion_main!(benches);
