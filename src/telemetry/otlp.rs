//! Traces and metrics for an OpenTelemetry collector.
//!
//! A call that is over is handed to a bounded queue, and that is all that its request pays for. One task takes the queue,
//! adds each call to the metrics and makes the spans of those that are traced; two more send, one each. A collector that
//! is slow or gone costs what does not fit into the queues, which is counted, and delays nobody.
//!
//! Names follow the conventions for generative AI and MCP of <https://github.com/open-telemetry/semantic-conventions-genai>.

mod export;
mod meter;
mod name;
mod span;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use althing_domain::policy::Fraction;
use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::metric::Metrics;
use super::probe::{Asked, Finished, Probe};
use super::trace::{Context, Parent, Sampler};
use crate::tasks::Tasks;

pub use export::{Http, Transport};

/// Calls that wait to be looked at. They are taken every tenth of a second, so this is 80,000 calls a second.
const CALLS_MAX: usize = 8_192;

/// Why nothing can be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A header that cannot be sent.
    #[error("telemetry.otlp.headers: `{0}` has a name or a value that HTTP does not allow")]
    Header(String),
    /// An endpoint that cannot be one.
    #[error("telemetry.otlp.endpoint: {0}")]
    Endpoint(String),
    /// The exporter refuses.
    #[error("telemetry.otlp: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// What is sent, and where to.
pub struct Settings {
    /// The share of traces that are kept.
    pub sample: Fraction,
    /// The collector's address, without a signal's path.
    pub endpoint: String,
    /// Headers of each export.
    pub headers: BTreeMap<String, SecretString>,
    /// How long an export may take.
    pub timeout: Duration,
    /// How often metrics are sent.
    pub interval: Duration,
    /// What is said of this node: `service.name` and the like.
    pub resource: Vec<(String, String)>,
}

/// Where calls are handed in.
pub struct Otlp {
    sampler: Sampler,
    calls: mpsc::Sender<Finished>,
    metrics: Arc<Metrics>,
}

/// Ends what [`start`] began.
pub struct Flush {
    stop: CancellationToken,
    tasks: Tasks,
}

/// Starts sending.
///
/// # Errors
///
/// [`Error`] names the setting. A collector that does not answer is none.
pub fn start(
    settings: &Settings,
    transport: Transport,
    metrics: &Arc<Metrics>,
) -> Result<(Arc<Otlp>, Flush), Error> {
    let attributes =
        settings.resource.iter().map(|(key, it)| KeyValue::new(key.clone(), it.clone()));
    let resource = Resource::builder_empty().with_attributes(attributes).build();
    let exporters = export::Exporters::new(settings, transport, &resource)?;
    let (meters, reader) = meter::Meters::new(resource);
    let (calls, queue) = mpsc::channel(CALLS_MAX);
    let (stop, tasks) = (CancellationToken::new(), Tasks::default());
    let worker = worker::Worker::new(queue, meters, Arc::clone(metrics));
    worker.start(exporters, reader, &stop, &tasks);
    let sampler = Sampler::new(settings.sample);
    Ok((Arc::new(Otlp { sampler, calls, metrics: Arc::clone(metrics) }), Flush { stop, tasks }))
}

impl Otlp {
    /// What a call is to carry that was called from `parent`.
    #[must_use]
    pub fn probe(self: &Arc<Self>, parent: Option<Parent>, asked: Asked) -> Box<Probe> {
        Box::new(Probe::new(self, Context::begin(parent, self.sampler), asked))
    }

    pub(super) fn take(&self, finished: Finished) {
        if self.calls.try_send(finished).is_err() {
            self.metrics.otlp.calls_dropped.inc();
        }
    }

    /// One whose calls are kept for the caller to look at, and sent nowhere: for benches and tests.
    #[must_use]
    pub fn detached(
        sample: Fraction,
        metrics: &Arc<Metrics>,
    ) -> (Arc<Self>, mpsc::Receiver<Finished>) {
        let (calls, queue) = mpsc::channel(CALLS_MAX);
        let sampler = Sampler::new(sample);
        (Arc::new(Self { sampler, calls, metrics: Arc::clone(metrics) }), queue)
    }
}

impl Flush {
    /// Sends what was handed in so far, and ends; at most `within`. Whether all was sent or given up by then.
    pub async fn flush(self, within: Duration) -> bool {
        self.stop.cancel();
        self.tasks.shutdown(within).await
    }
}
