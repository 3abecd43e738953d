//! The tasks behind the queue: one makes spans and points of calls, one sends spans, one sends metrics.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_otlp::{MetricExporter, SpanExporter};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::export::Exporters;
use super::meter::{Meters, Reader};
use super::span::{Anchor, spans};
use crate::tasks::Tasks;
use crate::telemetry::metric::{Metrics, OtlpSignal};
use crate::telemetry::probe::Finished;

/// How often the queue is taken. Nobody is woken by a call: that would cost each call more than all else here.
const TAKE_EVERY: Duration = Duration::from_millis(100);
/// How many calls are looked at before others may run.
const AT_ONCE: usize = 128;
/// Spans that wait to be sent: about 8 MiB.
const SPANS_MAX: usize = 4_096;
/// The most spans of one export.
const BATCH_MAX: usize = 512;
/// How long a batch waits to be fuller.
const LINGER: Duration = Duration::from_millis(500);
/// How often an export that keeps failing is told of.
const SAID_EVERY: Duration = Duration::from_secs(60);
/// The exporter keeps its time itself; this is for where it does not.
const GRACE: Duration = Duration::from_secs(1);

/// Makes spans and points of calls.
pub(super) struct Worker {
    queue: mpsc::Receiver<Finished>,
    meters: Meters,
    metrics: Arc<Metrics>,
}

impl Worker {
    pub(super) const fn new(
        queue: mpsc::Receiver<Finished>,
        meters: Meters,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { queue, meters, metrics }
    }

    pub(super) fn start(
        self,
        exporters: Exporters,
        reader: Reader,
        stop: &CancellationToken,
        tasks: &Tasks,
    ) {
        let Exporters { spans, metrics, timeout, interval, problem } = exporters;
        let report = |signal: OtlpSignal| {
            Report::new(signal, Arc::clone(&self.metrics), Arc::clone(&problem))
        };
        let (sender, waiting) = mpsc::channel(SPANS_MAX);
        // Metrics are sent a last time when the last call is in them.
        let (taken, all_taken) = mpsc::channel::<()>(1);
        let within = timeout + GRACE;
        tasks.spawn("otlp.traces", send_spans(waiting, spans, within, report(OtlpSignal::Traces)));
        let of_metrics = report(OtlpSignal::Metrics);
        let times = (interval, within);
        tasks.spawn("otlp.metrics", send_metrics(reader, metrics, times, all_taken, of_metrics));
        tasks.spawn("otlp.calls", self.run(sender, taken, stop.clone()));
    }

    async fn run(
        mut self,
        sender: mpsc::Sender<SpanData>,
        taken: mpsc::Sender<()>,
        stop: CancellationToken,
    ) {
        let mut tick = tokio::time::interval(TAKE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_last = tokio::select! {
                () = stop.cancelled() => true,
                _ = tick.tick() => false,
            };
            self.take(&sender).await;
            if is_last {
                // Its drop tells the other two that nothing follows.
                drop(taken);
                return;
            }
        }
    }

    async fn take(&mut self, sender: &mpsc::Sender<SpanData>) {
        loop {
            let anchor = Anchor::now();
            for _ in 0..AT_ONCE {
                let Ok(finished) = self.queue.try_recv() else { return };
                self.meters.add(&finished);
                if finished.probe.context.is_sampled {
                    for span in spans(&finished, anchor) {
                        if sender.try_send(span).is_err() {
                            self.metrics.otlp.spans_dropped.inc();
                        }
                    }
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

async fn send_spans(
    mut waiting: mpsc::Receiver<SpanData>,
    exporter: SpanExporter,
    within: Duration,
    mut report: Report,
) {
    loop {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        if waiting.recv_many(&mut batch, BATCH_MAX).await == 0 {
            return;
        }
        let until = Instant::now() + LINGER;
        while batch.len() < BATCH_MAX {
            let room = BATCH_MAX - batch.len();
            match tokio::time::timeout_at(until, waiting.recv_many(&mut batch, room)).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        let count = batch.len() as u64;
        report.note(tokio::time::timeout(within, exporter.export(batch)).await.ok(), count);
    }
}

async fn send_metrics(
    reader: Reader,
    exporter: MetricExporter,
    (interval, within): (Duration, Duration),
    mut all_taken: mpsc::Receiver<()>,
    mut report: Report,
) {
    let mut tick = tokio::time::interval_at(Instant::now() + interval, interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_last = tokio::select! {
            _ = all_taken.recv() => true,
            _ = tick.tick() => false,
        };
        if let Some(all) = reader.collect()
            && all.scope_metrics().next().is_some()
        {
            report.note(tokio::time::timeout(within, exporter.export(&all)).await.ok(), 0);
        }
        if is_last {
            return;
        }
    }
}

/// Counts exports and tells of failures: the first at once, then once a minute while they go on, and their end.
struct Report {
    signal: OtlpSignal,
    metrics: Arc<Metrics>,
    problem: Arc<Mutex<Option<String>>>,
    is_failing: bool,
    said: Option<Instant>,
    lost: u64,
}

impl Report {
    const fn new(
        signal: OtlpSignal,
        metrics: Arc<Metrics>,
        problem: Arc<Mutex<Option<String>>>,
    ) -> Self {
        Self { signal, metrics, problem, is_failing: false, said: None, lost: 0 }
    }

    /// What came of an export (`None`: it took too long), and how much is lost where it failed.
    fn note(&mut self, outcome: Option<OTelSdkResult>, count: u64) {
        let signal = self.signal.name();
        let problem = match outcome {
            Some(Ok(())) => {
                self.metrics.otlp.exported(self.signal, true);
                if self.is_failing {
                    tracing::info!(signal, lost = self.lost, "the collector takes {signal} again");
                    (self.is_failing, self.lost) = (false, 0);
                }
                return;
            }
            Some(Err(error)) => {
                let cause = self.problem.lock().clone();
                cause.map_or_else(|| error.to_string(), |it| format!("{error}: {it}"))
            }
            None => "no answer in time".to_owned(),
        };
        self.metrics.otlp.exported(self.signal, false);
        self.metrics.otlp.spans_dropped.inc_by(count);
        self.is_failing = true;
        self.lost += count;
        if self.said.is_none_or(|it| SAID_EVERY <= it.elapsed()) {
            self.said = Some(Instant::now());
            tracing::warn!(
                signal,
                problem,
                lost = self.lost,
                "the collector does not take {signal}: calls go on, and what does not fit into the queue is lost"
            );
        }
    }
}

#[cfg(test)]
mod tests;
