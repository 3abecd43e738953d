//! Logs, metrics and traces.

pub mod metric;
pub mod otlp;
pub mod probe;
pub mod trace;

use std::io::IsTerminal as _;

use althing_config::section::{LogFormat, Telemetry};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter does not read.
    #[error(
        "telemetry.log: `{filter}` is not a filter such as `info` or `althing=debug,info`: {problem}"
    )]
    Filter {
        /// As it was given.
        filter: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Logging was set up before, by somebody else in this process.
    #[error("logging was set up before")]
    Twice,
}

/// Sends logs to standard error, as the configuration has it.
///
/// # Errors
///
/// [`Error`] names the setting.
pub fn init(settings: &Telemetry) -> Result<(), Error> {
    // openraft tells each step of its life at `info`, and OpenTelemetry each export that fails, which we tell of
    // ourselves, at a bounded rate. A filter that names them overrides this.
    let filter = EnvFilter::try_new(format!("openraft=warn,opentelemetry=off,{}", settings.log))
        .map_err(|it| Error::Filter { filter: settings.log.clone(), problem: it.to_string() })?;
    let registry = tracing_subscriber::registry().with(filter);
    let text = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let set = match settings.log_format {
        LogFormat::Text => registry.with(text.with_target(false)).try_init(),
        LogFormat::Json => registry.with(text.json().flatten_event(true)).try_init(),
    };
    set.map_err(|_| Error::Twice)
}
