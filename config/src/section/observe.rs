//! What is recorded and measured.

use std::collections::BTreeMap;

use althing_domain::policy::{Fraction, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::NodeSecret;
use crate::human::Size;

/// What is kept of each call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Records {
    /// Whether bodies are kept.
    pub bodies: Bodies,
    /// What is kept of a tool's arguments.
    pub arguments: Arguments,
    /// What happens to requests when records cannot be written fast enough.
    pub when_full: WhenFull,
    /// For how long records are kept.
    pub keep: Span,
    /// How much disk they may take; beyond, the oldest days go.
    pub max_disk: Size,
}

impl Default for Records {
    fn default() -> Self {
        let (bodies, arguments, when_full) = Default::default();
        Self {
            bodies,
            arguments,
            when_full,
            keep: Span::from_secs(30 * 86_400),
            max_disk: Size(10 << 30),
        }
    }
}

/// Whether bodies of requests and answers are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bodies {
    /// Never.
    #[default]
    Off,
    /// Those of calls that failed.
    Errors,
    /// Always.
    All,
}

/// What is kept of a tool's arguments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Arguments {
    /// A hash.
    #[default]
    Hash,
    /// All.
    Full,
}

/// What happens to requests when records cannot be written fast enough.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// They wait.
    #[default]
    Wait,
    /// They are refused.
    Refuse,
}

/// Logs, traces and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Where traces and metrics are sent. Absent: nowhere.
    pub otlp: Option<Otlp>,
    /// What is logged: error, warn, info, debug or trace, or directives such as `info,althing::mcp=debug`.
    pub log: String,
    /// How.
    pub log_format: LogFormat,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { otlp: None, log: "info".to_owned(), log_format: LogFormat::default() }
    }
}

/// An OpenTelemetry collector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Otlp {
    /// Its address, such as `http://127.0.0.1:4318`.
    pub endpoint: String,
    /// Headers added to each export.
    #[serde(default)]
    pub headers: BTreeMap<String, NodeSecret>,
    /// How it is spoken to.
    #[serde(default)]
    pub protocol: OtlpProtocol,
    /// The share of traces that begin here and are kept. Where a caller sends a `traceparent`, its flag decides.
    #[serde(default = "one_percent")]
    pub sample: Fraction,
    /// How often metrics are sent.
    #[serde(default = "one_minute")]
    pub interval: Span,
    /// How long an export may take, its retries included.
    #[serde(default = "ten_seconds")]
    pub timeout: Span,
    /// Certificates (PEM) that are trusted beside the system's, such as `file:/etc/althing/collector-ca.pem`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<NodeSecret>,
    /// What is said of this node beside its name, version and id, such as `deployment.environment.name: production`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

const fn one_percent() -> Fraction {
    Fraction(10_000)
}

const fn one_minute() -> Span {
    Span::from_secs(60)
}

const fn ten_seconds() -> Span {
    Span::from_secs(10)
}

/// How a collector is spoken to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OtlpProtocol {
    /// Protobuf over HTTP.
    #[default]
    Http,
    /// gRPC.
    Grpc,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}
