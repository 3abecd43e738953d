use std::borrow::Cow;

use althing_storage::record::{Bodies, Body, Kind, Payload, Record, Status};
use althing_storage::request_log::Options;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;

/// 2026-11-25T00:00:00Z.
const DAY_MS: u64 = 1_795_564_800_000;
const ID: u128 = (1_795_564_800_000 << 80) | 0x7000_8000_0000_0000_0000;

fn log_with(records: &[Record]) -> (Router, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let log = RequestLog::open(&Options::new(dir.path()), Arc::new(|| DAY_MS)).unwrap();
    records.iter().for_each(|it| log.spool().append(it).unwrap());
    (router(Arc::new(log)), dir)
}

async fn get(router: &Router, path: &str) -> (u16, Value) {
    let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap())
}

fn model_call(id: u128) -> Record {
    let mut record = Record::new(ID + id, DAY_MS + 61_000, Arc::from("a"), Kind::ModelCall);
    record.key = Some(Arc::from("app"));
    record.model = Some(Arc::from("gpt-4o"));
    record.provider = Some(Arc::from("openai"));
    record.http_status = 200;
    record.tokens.input = 10;
    record.cost_nano_usd = 1_500_000;
    record
}

fn tool_call(id: u128) -> Record {
    let mut record = Record::new(ID + id, DAY_MS + 3_600_000, Arc::from("a"), Kind::ToolCall);
    record.key = Some(Arc::from("app"));
    record.server = Some(Arc::from("search"));
    record.tool = Some(Arc::from("find"));
    record.status = Status::Failed;
    record.error = Some(Cow::Borrowed("upstream_failed"));
    record.http_status = 502;
    record.cost_nano_usd = 2_000_000;
    record.parent = Some(ID + 1);
    record.arguments_sha256 = Some([0xab; 32]);
    record.arguments = Some(Payload("{\"q\":1}".into()));
    record.bodies = Some(Box::new(Bodies {
        request: Body::new(&"ask".into()),
        response: Body::new(&"told".into()),
    }));
    record
}

#[tokio::test]
async fn an_entry_has_the_fields_of_the_contract() {
    let (router, _dir) = log_with(&[model_call(1), tool_call(2)]);
    let (status, page) = get(&router, "/api/logs?kind=tool_call").await;
    assert_eq!(status, 200);
    assert_eq!(
        page,
        json!({ "logs": [{
            "id": "01a21000-8800-7000-8000-000000000002", "at": "2026-11-25T01:00:00.000Z", "node": "a",
            "kind": "tool_call", "key": "app", "team": null, "customer": null, "provider": null,
            "provider_key": null, "model": null, "server": "search", "tool": "find", "status": "failed",
            "http_status": 502, "error": "upstream_failed", "stream": false, "latency_ms": 0, "overhead_us": 0,
            "attempts": 0, "tokens": { "input": 0, "cached_input": 0, "cache_write": 0, "output": 0, "reasoning": 0,
            "estimated": false }, "cost_usd": "0.002", "parent": "01a21000-8800-7000-8000-000000000001",
            "arguments_sha256": "ab".repeat(32),
        }], "next": null, "complete": true })
    );
}

#[tokio::test]
async fn one_entry_shows_what_was_kept_of_it() {
    let (router, _dir) = log_with(&[model_call(1), tool_call(2)]);
    let (status, entry) = get(&router, "/api/logs/01a21000-8800-7000-8000-000000000002").await;
    assert_eq!(status, 200);
    assert_eq!(entry["arguments"], "{\"q\":1}");
    assert_eq!(entry["request"], json!({ "text": "ask", "bytes": 3 }));
    assert_eq!(entry["response"], json!({ "text": "told", "bytes": 4 }));
    for none in ["/api/logs/01a21000-8800-7000-8000-000000000009", "/api/logs/x"] {
        assert_eq!(get(&router, none).await.0, 404);
    }
}

#[tokio::test]
async fn pages_follow_the_cursor() {
    let records: Vec<_> = (1..=5).map(model_call).collect();
    let (router, _dir) = log_with(&records);
    let (mut seen, mut path) = (0, "/api/logs?limit=2".to_owned());
    loop {
        let (status, page) = get(&router, &path).await;
        assert_eq!(status, 200, "{page}");
        seen += page["logs"].as_array().unwrap().len();
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/logs?limit=2&cursor={next}");
    }
    assert_eq!(seen, 5);
}

#[tokio::test]
async fn usage_puts_models_and_tools_side_by_side() {
    let (router, _dir) = log_with(&[model_call(1), model_call(3), tool_call(2)]);
    let (status, usage) = get(&router, "/api/usage?group_by=model,tool,hour&key=app").await;
    assert_eq!(status, 200);
    let tokens = |input| json!({ "input": input, "cached_input": 0, "cache_write": 0, "output": 0, "reasoning": 0, "estimated": false });
    assert_eq!(
        usage,
        json!({
            "rows": [
                { "group": { "hour": "2026-11-25T01:00:00Z", "model": null, "tool": "find" },
                  "calls": 1, "errors": 1, "tokens": tokens(0), "cost_usd": "0.002" },
                { "group": { "hour": "2026-11-25T00:00:00Z", "model": "gpt-4o", "tool": null },
                  "calls": 2, "errors": 0, "tokens": tokens(20), "cost_usd": "0.003" },
            ],
            "total": { "calls": 3, "errors": 1, "tokens": tokens(20), "cost_usd": "0.005" },
            "complete": true,
        })
    );
    let (_, usage) =
        get(&router, "/api/usage?group_by=day&from=2026-11-25T01:00:00+01:00&to=2026-11-26").await;
    assert_eq!(usage["rows"][0]["group"], json!({ "day": "2026-11-25" }));
    assert_eq!(usage["total"]["calls"], 3);
    let (_, usage) = get(&router, "/api/usage?to=2026-11-25").await;
    assert_eq!((&usage["rows"], &usage["total"]["calls"]), (&json!([]), &json!(0)));
}

#[tokio::test]
async fn a_bad_parameter_is_named() {
    let (router, _dir) = log_with(&[]);
    let twice_from = "/api/logs?from=2026-11-26&to=2026-11-25";
    for (path, param) in [
        ("/api/logs?kind=chat", "kind"),
        ("/api/logs?status=200", "status"),
        ("/api/logs?from=yesterday", "from"),
        ("/api/logs?to=2026-13-01", "to"),
        (twice_from, "to"),
        ("/api/logs?limit=0", "limit"),
        ("/api/logs?limit=1001", "limit"),
        ("/api/logs?limit=ten", "limit"),
        ("/api/logs?cursor=zz", "cursor"),
        ("/api/logs?min_latency_ms=-1", "min_latency_ms"),
        ("/api/logs?min_cost_usd=1e9", "min_cost_usd"),
        ("/api/logs?parent=7", "parent"),
        ("/api/logs?modell=x", "modell"),
        ("/api/logs?key=a&key=b", "key"),
        ("/api/usage?group_by=colour", "group_by"),
        ("/api/usage?group_by=key,key", "group_by"),
        ("/api/usage?group_by=hour,day", "group_by"),
        ("/api/usage?limit=5", "limit"),
    ] {
        let (status, body) = get(&router, path).await;
        assert_eq!((status, &body["error"]["param"]), (400, &json!(param)), "{path}: {body}");
        assert_eq!(body["error"]["code"], "invalid_field", "{path}");
    }
}
