//! Metrics of calls that are over.
//!
//! Toward models the gateway is a client, so what it saw of them are the conventions' client metrics, of the attempt that
//! was answered (or the last one). Toward its callers it is the model's server: `gen_ai.server.request.duration` is the
//! whole of a call, retries included. The other server metrics describe an inference engine's inside and are not ours to say.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, Meter, MeterProvider};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{
    InstrumentKind, ManualReader, Pipeline, SdkMeterProvider, Temporality,
};

use super::name;
use super::span::{attempt_error, error_type};
use crate::telemetry::probe::{Asked, Attempt, Finished, Tool};

const MODEL_SECONDS: [f64; 14] =
    [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
const MCP_SECONDS: [f64; 14] =
    [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
const TOKENS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// The instruments, made once.
pub(super) struct Meters {
    client_duration: Histogram<f64>,
    client_first_chunk: Histogram<f64>,
    client_tokens: Histogram<u64>,
    server_duration: Histogram<f64>,
    mcp_client_duration: Histogram<f64>,
    mcp_server_duration: Histogram<f64>,
}

/// Collects what the instruments hold. Keeps them alive.
pub(super) struct Reader {
    reader: Arc<ManualReader>,
    _provider: SdkMeterProvider,
}

/// The provider takes its reader for itself; the one that asks it needs it too.
#[derive(Debug)]
struct Shared(Arc<ManualReader>);

impl MetricReader for Shared {
    fn register_pipeline(&self, pipeline: std::sync::Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }
    fn collect(&self, into: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(into)
    }
    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }
    fn shutdown_with_timeout(&self, within: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(within)
    }
    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

impl Reader {
    /// All metrics as they are now; `None` where they cannot be had.
    pub(super) fn collect(&self) -> Option<ResourceMetrics> {
        let mut all = ResourceMetrics::default();
        self.reader.collect(&mut all).ok()?;
        Some(all)
    }
}

impl Meters {
    pub(super) fn new(resource: Resource) -> (Self, Reader) {
        let reader = Arc::new(ManualReader::builder().build());
        let provider = SdkMeterProvider::builder()
            .with_resource(resource)
            .with_reader(Shared(Arc::clone(&reader)))
            .build();
        let meter = provider.meter_with_scope(super::span::scope());
        let meters = Self {
            client_duration: seconds(
                &meter,
                name::CLIENT_DURATION,
                "GenAI operation duration.",
                &MODEL_SECONDS,
            ),
            client_first_chunk: seconds(
                &meter,
                name::CLIENT_FIRST_CHUNK,
                "Time to receive the first chunk, measured from when the client issues the generation request to when the first chunk is received in the response stream.",
                &MODEL_SECONDS,
            ),
            client_tokens: meter
                .u64_histogram(name::CLIENT_TOKENS)
                .with_description("Number of input and output tokens used.")
                .with_unit("{token}")
                .with_boundaries(TOKENS.to_vec())
                .build(),
            server_duration: seconds(
                &meter,
                name::SERVER_DURATION,
                "Generative AI server request duration such as time-to-last byte or last output token.",
                &MODEL_SECONDS,
            ),
            mcp_client_duration: seconds(
                &meter,
                name::MCP_CLIENT_DURATION,
                "The duration of the MCP request or notification as observed on the sender from the time it was sent until the response or ack is received.",
                &MCP_SECONDS,
            ),
            mcp_server_duration: seconds(
                &meter,
                name::MCP_SERVER_DURATION,
                "MCP request or notification duration as observed on the receiver from the time it was received until the result or ack is sent.",
                &MCP_SECONDS,
            ),
        };
        (meters, Reader { reader, _provider: provider })
    }

    /// Adds a call.
    pub(super) fn add(&self, it: &Finished) {
        match &it.probe.asked {
            Asked::Model { operation, .. } => self.add_model(it, operation),
            Asked::Tool(tool) => self.add_tool(it, tool),
        }
    }

    fn add_model(&self, it: &Finished, operation: &'static str) {
        let whole = it.ended.saturating_duration_since(it.started).as_secs_f64();
        let mut attributes = vec![KeyValue::new(name::OPERATION, operation)];
        let Some(last) = it.probe.attempts.last() else {
            // It reached nobody: what model was named is the caller's word alone, and may be anything.
            attributes.extend(error_type(it).map(|error| KeyValue::new(name::ERROR_TYPE, error)));
            self.server_duration.record(whole, &attributes);
            return;
        };
        attributes.extend(target(last));
        let with = |error: Option<_>| {
            let mut all = attributes.clone();
            all.extend(error.map(|error| KeyValue::new(name::ERROR_TYPE, error)));
            all
        };
        self.server_duration.record(whole, &with(error_type(it)));
        let took = last.ended.unwrap_or(it.ended).saturating_duration_since(last.began);
        self.client_duration.record(took.as_secs_f64(), &with(attempt_error(last, it)));
        if let Some(first) = it.probe.first_chunk {
            let waited = first.saturating_duration_since(last.began);
            self.client_first_chunk.record(waited.as_secs_f64(), &attributes);
        }
        // What was only estimated is no usage.
        let tokens = &it.record.tokens;
        if !tokens.estimated {
            for (kind, count) in [("input", tokens.input), ("output", tokens.output)] {
                if 0 < count {
                    let mut all = attributes.clone();
                    all.push(KeyValue::new(name::TOKEN_TYPE, kind));
                    self.client_tokens.record(count, &all);
                }
            }
        }
    }

    fn add_tool(&self, it: &Finished, tool: &Tool) {
        let whole = it.ended.saturating_duration_since(it.started).as_secs_f64();
        let call = |tool_name: Arc<str>| {
            vec![
                KeyValue::new(name::MCP_METHOD, name::TOOLS_CALL),
                KeyValue::new(name::OPERATION, name::EXECUTE_TOOL),
                KeyValue::new(name::TOOL, tool_name),
            ]
        };
        if let Some(mcp) = &tool.origin.mcp {
            let mut attributes = call(Arc::clone(&tool.name));
            attributes.push(KeyValue::new(name::MCP_PROTOCOL, mcp.protocol));
            attributes.push(KeyValue::new(name::NETWORK_TRANSPORT, "tcp"));
            attributes.extend(error_type(it).map(|error| KeyValue::new(name::ERROR_TYPE, error)));
            self.mcp_server_duration.record(whole, &attributes);
        }
        let Some(last) = it.probe.attempts.last() else { return };
        let upstream_name = it.record.tool.as_ref().unwrap_or(&tool.name);
        let mut attributes = call(Arc::clone(upstream_name));
        let server = it.record.server.as_ref();
        attributes.extend(server.map(|it| KeyValue::new(name::MCP_SERVER, Arc::clone(it))));
        attributes
            .extend(attempt_error(last, it).map(|error| KeyValue::new(name::ERROR_TYPE, error)));
        let took = last.ended.unwrap_or(it.ended).saturating_duration_since(last.began);
        self.mcp_client_duration.record(took.as_secs_f64(), &attributes);
    }
}

/// Who was called, and for what model.
fn target(attempt: &Attempt) -> impl Iterator<Item = KeyValue> {
    let peer = attempt.peer.as_deref();
    let place = peer.into_iter().flat_map(|it| {
        [
            KeyValue::new(name::PROVIDER, it.vendor),
            KeyValue::new(name::SERVER_ADDRESS, Arc::clone(&it.address)),
            KeyValue::new(name::SERVER_PORT, i64::from(it.port)),
        ]
    });
    let model = attempt.model.as_ref().map(|it| KeyValue::new(name::REQUEST_MODEL, Arc::clone(it)));
    place.chain(model)
}

fn seconds(
    meter: &Meter,
    name: &'static str,
    says: &'static str,
    bounds: &[f64],
) -> Histogram<f64> {
    meter
        .f64_histogram(name)
        .with_description(says)
        .with_unit("s")
        .with_boundaries(bounds.to_vec())
        .build()
}

#[cfg(test)]
mod tests;
