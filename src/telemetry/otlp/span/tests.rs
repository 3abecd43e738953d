use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use althing_domain::policy::Fraction;
use althing_storage::record::{Bodies, Body, Kind, Payload, Record, Status as Ended};
use bytes::Bytes;
use opentelemetry::trace::{SpanKind, Status};
use opentelemetry_sdk::trace::SpanData;
use tokio::time::Instant;

use super::{Anchor, spans};
use crate::telemetry::metric::Metrics;
use crate::telemetry::otlp::Otlp;
use crate::telemetry::probe::{Asked, Finished, McpOrigin, Origin, Peer, Probe, Tool};
use crate::telemetry::trace::Parent;

const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What comes of a call: how it went on, and how it ended.
fn finished(
    asked: Asked,
    on_the_way: impl FnOnce(&mut Probe),
    ended: impl FnOnce(&mut Record),
) -> Finished {
    let metrics = Arc::new(Metrics::new().expect("registers"));
    let (otlp, mut queue) = Otlp::detached(Fraction(0), &metrics);
    let mut probe = otlp.probe(Parent::read(GIVEN, Some("rojo=1")), asked);
    on_the_way(&mut probe);
    let mut record = Record::new(7, 0, Arc::from("node"), Kind::ModelCall);
    record.http_status = 200;
    ended(&mut record);
    let started = Instant::now();
    probe.finish(record, started, started + Duration::from_millis(250));
    queue.try_recv().expect("it was handed in")
}

fn chat() -> Asked {
    Asked::Model { operation: "chat", route: "/v1/chat/completions" }
}

fn mcp(carrier: Option<Parent>) -> Asked {
    let mcp =
        McpOrigin { session: Some([0xab; 16]), protocol: "2025-11-25", request_id: "\"r\"".into() };
    Asked::Tool(Box::new(Tool {
        name: Arc::from("far-say"),
        origin: Origin { parent: None, carrier, mcp: Some(mcp) },
        rpc_code: None,
        is_error: false,
        server: None,
    }))
}

fn attributes(span: &SpanData) -> BTreeMap<&str, String> {
    span.attributes.iter().map(|it| (it.key.as_str(), it.value.to_string())).collect()
}

fn attempt(probe: &mut Probe) {
    let peer = Arc::new(Peer::new("azure", "https://models.example.com/v1"));
    let (provider, model) = (Arc::from("up"), Arc::from("gpt"));
    let passed = probe.attempt(Some(&peer), Some(&provider), (Some(&model), None));
    assert!(passed.parent.to_str().expect("text").starts_with(&GIVEN[..35]));
    assert_eq!(passed.state.expect("state"), "rojo=1");
}

#[test]
fn a_fallback_shows_what_failed_before_it() {
    let it = finished(
        chat(),
        |probe| {
            attempt(probe);
            probe.answered(429, true);
            attempt(probe);
            probe.failed("upstream_timeout", None);
            attempt(probe);
            probe.answered(200, false);
        },
        |record| {
            (record.model, record.provider, record.attempts) =
                (Some(Arc::from("gpt")), Some(Arc::from("up")), 3);
        },
    );
    let all = spans(&it, Anchor::now());
    assert_eq!(all.len(), 4);
    assert_eq!((all[0].span_kind.clone(), &*all[0].name), (SpanKind::Server, "chat gpt"));
    assert_eq!(all[0].status, Status::Unset);
    assert_eq!(
        all[0].end_time.duration_since(all[0].start_time).expect("order"),
        Duration::from_millis(250)
    );
    let errors: Vec<_> =
        all[1..].iter().map(|it| attributes(it).get("error.type").cloned()).collect();
    assert_eq!(errors, [Some("429".into()), Some("upstream_timeout".into()), None]);
    for client in &all[1..] {
        assert_eq!(client.parent_span_id, all[0].span_context.span_id());
        assert_eq!(client.span_context.trace_id(), all[0].span_context.trace_id());
        let said = attributes(client);
        assert_eq!(said["server.address"], "models.example.com");
        assert_eq!(said["server.port"], "443");
        assert_eq!(said["gen_ai.provider.name"], "azure.ai.openai");
    }
    assert_eq!(all[1].status, Status::error(""));
    assert!(all.iter().all(|it| it.span_context.trace_state().header() == "rojo=1"));
}

#[test]
fn a_stream_that_broke_is_the_error_of_its_attempt_too() {
    let it = finished(
        chat(),
        |probe| {
            attempt(probe);
            probe.answered(200, false);
        },
        |record| {
            record.status = Ended::Failed;
            record.error = Some("upstream_failed".into());
        },
    );
    let all = spans(&it, Anchor::now());
    assert_eq!(attributes(&all[1])["error.type"], "upstream_failed");
    // The caller had its 200 already.
    assert_eq!(
        (attributes(&all[0])["error.type"].as_str(), &all[0].status),
        ("upstream_failed", &Status::Unset)
    );
}

#[test]
fn what_the_caller_did_wrong_is_no_error_of_the_servers_and_names_no_span() {
    let it = finished(
        chat(),
        |_| {},
        |record| {
            record.model = Some(Arc::from("anything at all"));
            (record.status, record.http_status) = (Ended::Refused, 404);
            record.error = Some("model_unknown".into());
        },
    );
    let all = spans(&it, Anchor::now());
    assert_eq!((all.len(), &*all[0].name, &all[0].status), (1, "chat", &Status::Unset));
    assert_eq!(attributes(&all[0])["error.type"], "model_unknown");
}

#[test]
fn bodies_and_arguments_are_gone_before_anything_waits_in_the_queue() {
    let secret = Bytes::from_static(b"secret");
    let it = finished(
        chat(),
        |_| {},
        |record| {
            record.arguments = Some(Payload(secret.clone()));
            record.bodies = Some(Box::new(Bodies {
                request: Body::new(&secret),
                response: Body::new(&secret),
            }));
        },
    );
    assert!(it.record.arguments.is_none() && it.record.bodies.is_none());
    assert!(!format!("{:?}", spans(&it, Anchor::now())).contains("secret"));
}

#[test]
fn long_names_are_cut_at_a_character() {
    let it = finished(chat(), attempt, |record| {
        record.provider = Some(Arc::from("up"));
        record.model = Some(Arc::from("é".repeat(400)));
    });
    let all = spans(&it, Anchor::now());
    assert_eq!(attributes(&all[0])["gen_ai.request.model"].len(), 256);
    assert_eq!(all[0].name.len(), 256 + "chat ".len());
}

#[test]
fn an_mcp_call_is_named_by_its_method_and_links_the_request_that_carried_it() {
    let carrier = Parent::read(&GIVEN.replace("00f067aa0ba902b7", "1111111111111111"), None);
    let it = finished(
        mcp(carrier),
        |probe| {
            probe.attempt(None, None, (None, None));
            probe.failed("upstream_failed", Some(-32050));
            probe.tool().expect("a tool").rpc_code = Some(-32050);
        },
        |record| {
            record.status = Ended::Failed;
            record.error = Some("upstream_failed".into());
            (record.server, record.tool) = (Some(Arc::from("far")), Some(Arc::from("say")));
        },
    );
    let all = spans(&it, Anchor::now());
    assert_eq!((&*all[0].name, &*all[1].name), ("tools/call far-say", "tools/call say"));
    assert_eq!((&all[0].status, &all[1].status), (&Status::error(""), &Status::error("")));
    assert_eq!(all[0].links.len(), 1);
    let said = attributes(&all[0]);
    assert_eq!(said["error.type"], "-32050");
    assert_eq!(said["rpc.response.status_code"], "-32050");
    assert_eq!(said["althing.error.code"], "upstream_failed");
    assert_eq!(said["mcp.session.id"], "ab".repeat(16));
    assert_eq!(said["jsonrpc.request.id"], "r");
    assert_eq!(attributes(&all[1])["rpc.response.status_code"], "-32050");
}

#[test]
fn a_call_that_is_not_sampled_is_never_looked_into() {
    let metrics = Arc::new(Metrics::new().expect("registers"));
    let (otlp, _queue) = Otlp::detached(Fraction(0), &metrics);
    let mut probe = otlp.probe(None, chat());
    probe.whole(br#"{"model":"m"}"#);
    assert_eq!(probe.reply.model, None);
    let passed = probe.attempt(None, None, (None, None));
    assert!(passed.parent.to_str().expect("text").ends_with("-00"), "{passed:?}");
}
