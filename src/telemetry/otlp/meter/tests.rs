use std::sync::Arc;
use std::time::Duration;

use althing_domain::policy::Fraction;
use althing_storage::record::{Kind, Record, Tokens};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use tokio::time::Instant;

use super::Meters;
use crate::telemetry::metric::Metrics;
use crate::telemetry::otlp::Otlp;
use crate::telemetry::probe::{Asked, Finished, Origin, Peer, Tool};

/// One series: its metric, its attributes, count and sum.
#[derive(Debug, Clone, PartialEq)]
struct Point {
    metric: String,
    attributes: Vec<String>,
    count: u64,
    sum: f64,
    bounds: Vec<f64>,
}

fn points(calls: &[Finished]) -> Vec<Point> {
    let (meters, reader) = Meters::new(Resource::builder_empty().build());
    calls.iter().for_each(|it| meters.add(it));
    let all = reader.collect().expect("collects");
    let mut points = Vec::new();
    for metric in all.scope_metrics().flat_map(|it| it.metrics()) {
        let mut add = |attributes: Vec<String>, count: u64, sum: f64, bounds: Vec<f64>| {
            points.push(Point { metric: metric.name().to_owned(), attributes, count, sum, bounds });
        };
        match metric.data() {
            AggregatedMetrics::F64(MetricData::Histogram(it)) => it.data_points().for_each(|it| {
                let said = it.attributes().map(|it| format!("{}={}", it.key, it.value)).collect();
                add(said, it.count(), it.sum(), it.bounds().collect());
            }),
            AggregatedMetrics::U64(MetricData::Histogram(it)) => it.data_points().for_each(|it| {
                let said = it.attributes().map(|it| format!("{}={}", it.key, it.value)).collect();
                #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                add(said, it.count(), it.sum() as f64, it.bounds().collect());
            }),
            other => panic!("no histogram: {other:?}"),
        }
    }
    points
}

fn call(asked: Asked, is_tried: bool, change: impl FnOnce(&mut Record)) -> Finished {
    let metrics = Arc::new(Metrics::new().expect("registers"));
    let (otlp, mut queue) = Otlp::detached(Fraction(0), &metrics);
    let mut probe = otlp.probe(None, asked);
    if is_tried {
        let peer = Arc::new(Peer::new("openai", "http://127.0.0.1:81/v1"));
        let (provider, model) = (Arc::from("up"), Arc::from("gpt"));
        probe.attempt(Some(&peer), Some(&provider), (Some(&model), None));
        probe.answered(200, false);
    }
    let mut record = Record::new(7, 0, Arc::from("node"), Kind::ModelCall);
    record.model = Some(Arc::from("as the caller wrote it"));
    change(&mut record);
    let started = Instant::now();
    probe.finish(record, started, started + Duration::from_secs(2));
    queue.try_recv().expect("it was handed in")
}

fn chat() -> Asked {
    Asked::Model { operation: "chat", route: "/v1/chat/completions" }
}

fn of<'p>(points: &'p [Point], metric: &str) -> Vec<&'p Point> {
    points.iter().filter(|it| it.metric == metric).collect()
}

#[test]
fn a_chat_counts_its_time_and_its_tokens_with_the_conventions_buckets() {
    let tokens = Tokens { input: 11, output: 7, ..Tokens::default() };
    let points = points(&[call(chat(), true, |it| it.tokens = tokens)]);
    let duration = of(&points, "gen_ai.client.operation.duration");
    assert_eq!((duration.len(), duration[0].count, duration[0].bounds.len()), (1, 1, 14));
    for attribute in [
        "gen_ai.operation.name=chat",
        "gen_ai.provider.name=openai",
        "gen_ai.request.model=gpt",
        "server.address=127.0.0.1",
        "server.port=81",
    ] {
        assert!(duration[0].attributes.iter().any(|it| it == attribute), "{duration:?}");
    }
    assert!((of(&points, "gen_ai.server.request.duration")[0].sum - 2.0).abs() < 1e-9);
    let mut used: Vec<(f64, bool)> = of(&points, "gen_ai.client.token.usage")
        .iter()
        .map(|it| (it.sum, it.attributes.contains(&"gen_ai.token.type=input".to_owned())))
        .collect();
    used.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert_eq!(used, [(7.0, false), (11.0, true)]);
    assert!(of(&points, "gen_ai.client.operation.time_to_first_chunk").is_empty(), "no stream");
}

#[test]
fn an_estimate_is_no_usage() {
    let tokens = Tokens { input: 11, output: 7, estimated: true, ..Tokens::default() };
    let points = points(&[call(chat(), true, |it| it.tokens = tokens)]);
    assert!(of(&points, "gen_ai.client.token.usage").is_empty());
}

#[test]
fn what_reached_nobody_makes_no_series_of_the_callers_own_words() {
    let refused = |it: &mut Record| it.error = Some("model_unknown".into());
    let points = points(&[call(chat(), false, refused)]);
    assert_eq!(points.len(), 1, "{points:?}");
    assert_eq!(points[0].metric, "gen_ai.server.request.duration");
    let mut said = points[0].attributes.clone();
    said.sort();
    assert_eq!(said, ["error.type=model_unknown", "gen_ai.operation.name=chat"]);
}

#[test]
fn a_tool_executed_over_http_counts_toward_its_server_alone() {
    let tool = Tool {
        name: Arc::from("far-say"),
        origin: Origin::default(),
        rpc_code: None,
        is_error: true,
        server: None,
    };
    let points = points(&[call(Asked::Tool(Box::new(tool)), true, |it| {
        (it.server, it.tool) = (Some(Arc::from("far")), Some(Arc::from("say")));
    })]);
    assert_eq!(points.len(), 1, "{points:?}");
    assert_eq!(
        (points[0].metric.as_str(), points[0].bounds.len()),
        ("mcp.client.operation.duration", 14)
    );
    for attribute in [
        "mcp.method.name=tools/call",
        "gen_ai.tool.name=say",
        "error.type=tool_error",
        "althing.mcp.server=far",
    ] {
        assert!(points[0].attributes.iter().any(|it| it == attribute), "{points:?}");
    }
}
