//! A tool's definition: what is read of it, and how arguments are checked against it.

use jsonschema::{PatternOptions, Validator};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::mcp::upstream::jsonrpc;

/// The largest definition whose schema is compiled, in bytes: compiling costs time and memory in proportion.
const SCHEMA_BYTES_MAX: usize = 256 * 1024;
/// The largest part of a complaint that is repeated to a caller, in bytes.
const COMPLAINT_BYTES_MAX: usize = 512;

/// What a tool says of its effects. Hints: an untrusted server may lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Hints {
    /// It changes nothing.
    #[serde(default, rename = "readOnlyHint")]
    pub read_only: bool,
    /// Calling it again with the same arguments changes nothing more.
    #[serde(default, rename = "idempotentHint")]
    pub idempotent: bool,
    /// It may destroy something.
    #[serde(default = "yes", rename = "destructiveHint")]
    pub destructive: bool,
    /// It reaches an open world of things outside its server.
    #[serde(default = "yes", rename = "openWorldHint")]
    pub open_world: bool,
}

impl Default for Hints {
    fn default() -> Self {
        Self { read_only: false, idempotent: false, destructive: true, open_world: true }
    }
}

const fn yes() -> bool {
    true
}

/// The parts of a listed definition that the gateway reads.
#[derive(Debug, Deserialize)]
pub(crate) struct Definition {
    /// The tool's name.
    pub(crate) name: String,
    /// What it says it does.
    #[serde(default)]
    pub(crate) description: Option<String>,
    /// The schema of its arguments.
    #[serde(default, rename = "inputSchema")]
    pub(crate) input_schema: Value,
    /// Hints. Read leniently: a hint of a wrong type is no hint.
    #[serde(default)]
    pub(crate) annotations: Option<Value>,
}

impl Definition {
    /// The hints, each that has a wrong type left at its default.
    pub(crate) fn hints(&self) -> Hints {
        let read = |name: &str, default: bool| {
            self.annotations
                .as_ref()
                .and_then(|it| it.get(name))
                .and_then(Value::as_bool)
                .unwrap_or(default)
        };
        Hints {
            read_only: read("readOnlyHint", false),
            idempotent: read("idempotentHint", false),
            destructive: read("destructiveHint", true),
            open_world: read("openWorldHint", true),
        }
    }
}

/// Arguments that do not fit a tool's schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{path}`: {problem}")]
pub struct ArgumentsInvalid {
    /// Where, as a JSON pointer into the arguments. `/` is the arguments themselves.
    pub path: String,
    /// What is wrong there.
    pub problem: String,
}

/// Compiles a tool's schema, or says in the log why it is not.
pub(super) fn compile(policy: &str, raw: &RawValue, schema: &Value) -> Option<Validator> {
    if SCHEMA_BYTES_MAX < raw.get().len() {
        tracing::warn!(
            tool.name = policy,
            "the schema of tool `{policy}` is over {SCHEMA_BYTES_MAX} bytes: its arguments are not checked"
        );
        return None;
    }
    if !schema.is_object() && !schema.is_boolean() {
        return None;
    }
    // A linear-time engine: a pattern comes from a stranger.
    let options = jsonschema::options()
        .with_pattern_options(PatternOptions::regex())
        .should_validate_formats(false);
    match options.build(schema) {
        Ok(validator) => Some(validator),
        Err(problem) => {
            let problem = clip(&problem.to_string());
            tracing::warn!(
                tool.name = policy,
                "the schema of tool `{policy}` does not compile, so its arguments are not checked: {problem}"
            );
            None
        }
    }
}

pub(super) fn check(validator: &Validator, arguments: &Value) -> Result<(), ArgumentsInvalid> {
    match validator.validate(arguments) {
        Ok(()) => Ok(()),
        Err(problem) => {
            let path = problem.instance_path().to_string();
            Err(ArgumentsInvalid {
                path: if path.is_empty() { "/".to_owned() } else { clip(&path) },
                problem: clip(&problem.masked().to_string()),
            })
        }
    }
}

fn clip(text: &str) -> String {
    let kept = jsonrpc::clip(text, COMPLAINT_BYTES_MAX);
    if kept.len() < text.len() { format!("{kept}…") } else { text.to_owned() }
}
