use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use althing_domain::policy::Fraction;
use althing_storage::record::{Kind, Record};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::telemetry::metric::Metrics;
use crate::telemetry::otlp::{self, Flush, Http, Otlp, Settings, Transport};
use crate::telemetry::probe::Asked;

/// A collector that takes, refuses or keeps waiting, and remembers what it was asked.
#[derive(Default)]
struct Fake {
    asked: Mutex<Vec<(String, Option<String>, usize)>>,
    is_gone: bool,
    hangs: bool,
    waiting: AtomicUsize,
}

#[async_trait]
impl Http for Fake {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
        if self.hangs {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        if self.is_gone {
            return Err("connection refused".to_owned());
        }
        let token =
            request.headers().get("x-token").and_then(|it| it.to_str().ok()).map(str::to_owned);
        self.asked.lock().push((request.uri().path().to_owned(), token, request.body().len()));
        Ok(Response::new(Bytes::new()))
    }
}

fn start(fake: &Arc<Fake>) -> (Arc<Otlp>, Flush, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new().expect("registers"));
    let settings = Settings {
        sample: Fraction(1_000_000),
        endpoint: "http://collector.example.com/under/".to_owned(),
        headers: BTreeMap::from([("X-Token".to_owned(), "secret".into())]),
        timeout: Duration::from_secs(1),
        interval: Duration::from_secs(3600),
        resource: vec![("service.name".to_owned(), "althing".to_owned())],
    };
    let http: Arc<dyn Http> = Arc::clone(fake) as Arc<dyn Http>;
    let (otlp, flush) = otlp::start(&settings, Transport::Http(http), &metrics).expect("starts");
    (otlp, flush, metrics)
}

fn call(otlp: &Arc<Otlp>) {
    let asked = Asked::Model { operation: "chat", route: "/v1/chat/completions" };
    let probe = otlp.probe(None, asked);
    let record = Record::new(1, 0, Arc::from("node"), Kind::ModelCall);
    let now = Instant::now();
    probe.finish(record, now, now);
}

#[tokio::test(start_paused = true)]
async fn what_was_handed_in_is_sent_before_the_end_below_the_endpoints_path_with_its_headers() {
    let fake = Arc::new(Fake::default());
    let (otlp, flush, metrics) = start(&fake);
    for _ in 0..600 {
        call(&otlp);
    }
    assert!(flush.flush(Duration::from_secs(5)).await);
    let asked = fake.asked.lock().clone();
    let paths: Vec<&str> = asked.iter().map(|it| it.0.as_str()).collect();
    assert_eq!(paths.iter().filter(|it| **it == "/under/v1/traces").count(), 2, "{paths:?}");
    assert_eq!(paths.iter().filter(|it| **it == "/under/v1/metrics").count(), 1, "{paths:?}");
    assert!(asked.iter().all(|it| it.1.as_deref() == Some("secret") && 0 < it.2), "{asked:?}");
    assert_eq!((metrics.otlp.calls_dropped.get(), metrics.otlp.spans_dropped.get()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_collector_does_not_take_is_counted() {
    let fake = Arc::new(Fake { is_gone: true, ..Fake::default() });
    let (otlp, flush, metrics) = start(&fake);
    for _ in 0..7 {
        call(&otlp);
    }
    assert!(flush.flush(Duration::from_secs(10)).await);
    assert_eq!(metrics.otlp.spans_dropped.get(), 7);
    let text = metrics.text();
    for signal in ["traces", "metrics"] {
        let line = format!(r#"althing_otlp_exports_total{{result="failed",signal="{signal}"}} 1"#);
        assert!(text.contains(&line), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_keeps_waiting_fills_no_memory_and_the_end_is_not_its_to_decide() {
    let fake = Arc::new(Fake { hangs: true, ..Fake::default() });
    let (otlp, flush, metrics) = start(&fake);
    for _ in 0..20 {
        for _ in 0..8_000 {
            call(&otlp);
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert!(0 < fake.waiting.load(Ordering::SeqCst), "it was asked");
    // 160,000 spans were made: two exports' worth and the queue were kept, the rest was counted and forgotten.
    assert!(150_000 < metrics.otlp.spans_dropped.get(), "{}", metrics.otlp.spans_dropped.get());
    assert_eq!(metrics.otlp.calls_dropped.get(), 0, "metrics go on");
    let before = Instant::now();
    flush.flush(Duration::from_secs(2)).await;
    assert!(before.elapsed() <= Duration::from_millis(2_100), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn calls_beyond_the_queue_are_counted_and_not_kept() {
    let fake = Arc::new(Fake::default());
    let (otlp, flush, metrics) = start(&fake);
    for _ in 0..10_000 {
        call(&otlp);
    }
    assert_eq!(metrics.otlp.calls_dropped.get(), 10_000 - 8_192);
    assert!(flush.flush(Duration::from_secs(5)).await);
}
