//! Every metric: its name, unit and labels, once.
//!
//! Handles with labels are resolved once a (provider, model) or (server, tool) and kept; what a request does
//! afterwards is an atomic addition.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::RwLock;
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// Distinct (provider, model) or (server, tool) pairs that get series of their own; the rest share one named `other`.
const SERIES_MAX: usize = 2_000;
/// What items are called that have no series of their own.
pub const OTHER: &str = "other";
/// The target of calls that ended before they had one.
const NONE: &str = "none";

const SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
const OVERHEAD_SECONDS: &[f64] = &[
    2e-6, 4e-6, 6e-6, 8e-6, 12e-6, 16e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 5e-3, 25e-3,
];

/// A metric cannot be registered: two have one name.
#[derive(Debug, thiserror::Error)]
#[error("metric registration failed")]
pub struct Error(#[from] prometheus::Error);

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    calls: IntCounterVec,
    tokens: IntCounterVec,
    cost: IntCounterVec,
    attempts: IntCounterVec,
    /// Time from a request's first byte to its answer's last, in seconds.
    pub duration: Histogram,
    /// Of that, what Althing took itself: the upstream's time is left out.
    pub overhead: Histogram,
    /// Requests that were refused before they reached an upstream, by code.
    pub refused: IntCounterVec,
    /// Requests in flight.
    pub in_flight: IntGauge,
    /// Open connections of callers.
    pub connections: IntGauge,
    /// Records waiting to be indexed, in bytes.
    pub records_backlog: IntGauge,
    /// Records that the disk refused and memory holds.
    pub records_waiting: IntGauge,
    /// Records that were lost.
    pub records_lost: IntGauge,
    /// Writes of records that the disk refused.
    pub records_disk_errors: IntGauge,
    /// The index of the law that this node has applied.
    pub law_index: IntGauge,
    /// MCP servers: 1 where ready.
    pub servers_ready: IntGaugeVec,
    /// Tasks that panicked.
    pub panics: IntGauge,
    /// What is sent to a collector, and what is not.
    pub otlp: OtlpCounters,
    series: RwLock<SeriesMap>,
}

/// What is sent to a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpSignal {
    /// Spans.
    Traces,
    /// Metrics.
    Metrics,
}

impl OtlpSignal {
    /// Its name in logs and labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
        }
    }
}

/// Counts of what goes to a collector.
pub struct OtlpCounters {
    /// Calls that are in no trace and no metric of OTLP, because too many waited.
    pub calls_dropped: IntCounter,
    /// Spans that were made and not taken by the collector.
    pub spans_dropped: IntCounter,
    exports: IntCounterVec,
}

impl OtlpCounters {
    /// Counts an export.
    pub fn exported(&self, signal: OtlpSignal, is_taken: bool) {
        let result = if is_taken { "ok" } else { "failed" };
        self.exports.with_label_values(&[signal.name(), result]).inc();
    }
}

/// (is a model, target, item) → its series.
type SeriesMap = HashMap<(bool, Arc<str>, Arc<str>), Arc<Series>, RandomState>;

/// The counters of one (provider, model) or (server, tool).
pub struct Series {
    ok: IntCounter,
    failed: IntCounter,
    refused: IntCounter,
    cancelled: IntCounter,
    input: IntCounter,
    cached_input: IntCounter,
    output: IntCounter,
    cost_nano_usd: IntCounter,
}

/// How a call ended, for its counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Answered.
    Ok,
    /// Failed, here or upstream.
    Failed,
    /// Refused by policy.
    Refused,
    /// The caller left.
    Cancelled,
}

impl Series {
    /// Counts a call.
    pub fn count(&self, ending: Ending) {
        match ending {
            Ending::Ok => self.ok.inc(),
            Ending::Failed => self.failed.inc(),
            Ending::Refused => self.refused.inc(),
            Ending::Cancelled => self.cancelled.inc(),
        }
    }

    /// Adds what a call used.
    pub fn add_usage(&self, input: u64, cached_input: u64, output: u64, cost_nano_usd: u64) {
        self.input.inc_by(input);
        self.cached_input.inc_by(cached_input);
        self.output.inc_by(output);
        self.cost_nano_usd.inc_by(cost_nano_usd);
    }
}

impl Metrics {
    /// All metrics, at zero.
    ///
    /// # Errors
    ///
    /// [`Error`] where two metrics have one name, which a test would have seen.
    pub fn new() -> Result<Self, Error> {
        let registry = Registry::new();
        let make = Maker(&registry);
        let build =
            make.gauges("althing_build_info", "The version that runs; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            calls: make.counters(
                "althing_calls_total",
                "Model and tool calls by target and ending.",
                &["kind", "target", "item", "status"],
            )?,
            tokens: make.counters(
                "althing_tokens_total",
                "Tokens of model calls, by direction.",
                &["provider", "model", "direction"],
            )?,
            cost: make.counters(
                "althing_cost_nano_usd_total",
                "Cost of calls in billionths of a US dollar.",
                &["target", "item"],
            )?,
            attempts: make.counters(
                "althing_upstream_attempts_total",
                "Requests sent to providers, by result.",
                &["provider", "result"],
            )?,
            duration: make.histogram(
                "althing_request_duration_seconds",
                "Time from a request's head to its answer's end.",
                SECONDS,
            )?,
            overhead: make.histogram(
                "althing_overhead_seconds",
                "Time that Althing itself took of a request; waiting for the upstream is left out.",
                OVERHEAD_SECONDS,
            )?,
            refused: make.counters(
                "althing_refused_total",
                "Requests refused before any upstream was called, by code: by policy, for want of a key or of room.",
                &["code"],
            )?,
            in_flight: make.gauge("althing_requests_in_flight", "Requests being answered.")?,
            connections: make.gauge("althing_connections", "Open connections of callers.")?,
            records_backlog: make
                .gauge("althing_records_backlog_bytes", "Records written but not indexed yet.")?,
            records_waiting: make.gauge(
                "althing_records_waiting",
                "Records that the disk refused: they wait in memory, and no call is admitted.",
            )?,
            records_lost: make.gauge(
                "althing_records_lost",
                "Records lost since the start, because the disk refused and memory was full.",
            )?,
            records_disk_errors: make.gauge(
                "althing_records_disk_errors",
                "Writes of records that the disk refused since the start.",
            )?,
            law_index: make
                .gauge("althing_law_index", "Log index of the law that this node has applied.")?,
            servers_ready: make.gauges(
                "althing_mcp_server_ready",
                "1 where the MCP server is ready.",
                &["server"],
            )?,
            panics: make
                .gauge("althing_task_panics", "Tasks that have panicked since the start.")?,
            otlp: make.otlp()?,
            series: RwLock::new(SeriesMap::default()),
            registry,
        })
    }

    /// The series of a model at a provider.
    pub fn model(&self, provider: &Arc<str>, model: &Arc<str>) -> Arc<Series> {
        self.series(true, provider, model)
    }

    /// The series of a tool at a server.
    pub fn tool(&self, server: &Arc<str>, tool: &Arc<str>) -> Arc<Series> {
        self.series(false, server, tool)
    }

    /// Counts a call that ended before it had a target.
    pub fn without_target(&self, is_model: bool, ending: Ending) {
        let none: Arc<str> = Arc::from(NONE);
        self.series(is_model, &none, &none).count(ending);
    }

    fn series(&self, is_model: bool, target: &Arc<str>, item: &Arc<str>) -> Arc<Series> {
        let key = (is_model, Arc::clone(target), Arc::clone(item));
        if let Some(found) = self.series.read().get(&key) {
            return Arc::clone(found);
        }
        let mut all = self.series.write();
        let key = if SERIES_MAX <= all.len() {
            (is_model, Arc::from(OTHER), Arc::from(OTHER))
        } else {
            key
        };
        Arc::clone(
            all.entry(key.clone())
                .or_insert_with(|| Arc::new(self.new_series(is_model, &key.1, &key.2))),
        )
    }

    fn new_series(&self, is_model: bool, target: &str, item: &str) -> Series {
        let kind = if is_model { "model" } else { "tool" };
        let calls = |status: &str| self.calls.with_label_values(&[kind, target, item, status]);
        let tokens = |direction: &str| self.tokens.with_label_values(&[target, item, direction]);
        let unused = |name: &str| IntCounter::new(name, name).unwrap_or_else(|_| tokens("input"));
        let (input, cached_input, output) = if is_model {
            (tokens("input"), tokens("cached_input"), tokens("output"))
        } else {
            (unused("input"), unused("cached_input"), unused("output"))
        };
        Series {
            ok: calls("ok"),
            failed: calls("failed"),
            refused: calls("refused"),
            cancelled: calls("cancelled"),
            input,
            cached_input,
            output,
            cost_nano_usd: self.cost.with_label_values(&[target, item]),
        }
    }

    /// The counter of a provider's attempts that were answered, to be kept.
    #[must_use]
    pub fn answered(&self, provider: &str) -> IntCounter {
        self.attempts.with_label_values(&[provider, "ok"])
    }

    /// Counts an attempt at a provider.
    pub fn attempt(&self, provider: &str, result: &'static str) {
        self.attempts.with_label_values(&[provider, result]).inc();
    }

    /// The text that Prometheus scrapes.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Families are ours: they encode. What did not would be missing from the page, and a test looks for each.
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut out) {
            tracing::error!(%error, "metrics cannot be written");
        }
        out
    }
}

struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn add<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C, Error> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, Error> {
        self.add(IntGauge::new(name, help)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn otlp(&self) -> Result<OtlpCounters, Error> {
        let dropped = self.counters(
            "althing_otlp_dropped_total",
            "Calls and spans that reached no collector: too many waited, or it did not take them.",
            &["what"],
        )?;
        Ok(OtlpCounters {
            calls_dropped: dropped.with_label_values(&["calls"]),
            spans_dropped: dropped.with_label_values(&["spans"]),
            exports: self.counters(
                "althing_otlp_exports_total",
                "Exports to the collector.",
                &["signal", "result"],
            )?,
        })
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, Error> {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Ending, Metrics};

    #[test]
    fn every_family_has_help_and_a_call_shows_in_its_series() {
        let metrics = Metrics::new().expect("registers");
        let series = metrics.model(&Arc::from("openai"), &Arc::from("gpt-4o"));
        series.count(Ending::Ok);
        series.add_usage(3, 0, 2, 75);
        let text = metrics.text();
        assert!(
            text.contains(
                r#"althing_calls_total{item="gpt-4o",kind="model",status="ok",target="openai"} 1"#
            ),
            "{text}"
        );
        assert!(
            text.contains(r#"althing_cost_nano_usd_total{item="gpt-4o",target="openai"} 75"#),
            "{text}"
        );
        assert_eq!(text.matches("# HELP").count(), text.matches("# TYPE").count());
    }
}
