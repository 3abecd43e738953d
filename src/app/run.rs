//! From a configuration to a running process and its end.

use std::io::Write as _;

use althing_config::Config;
use secrecy::ExposeSecret;
use tokio::signal::unix::{SignalKind, signal};

use super::{Error, Node, Started};

/// Runs a node until SIGTERM or SIGINT; a second one cuts its drain short. `tell` writes what the start made, once, for whoever started it.
///
/// # Errors
///
/// [`Error`] where it cannot start, and where it ended because it failed.
pub async fn run(
    config: Config,
    apply_file: bool,
    tell: impl FnOnce(&Started),
) -> Result<(), Error> {
    let node = Node::start(config, apply_file).await?;
    tell(&node.started);
    tracing::info!(address = %node.started.address, "ready");
    node.serve(asked_to_end).await
}

/// What a start made, for a person: the address, and keys that are shown this once.
pub fn print_started(started: &Started) {
    let scheme = if started.is_tls { "https" } else { "http" };
    let mut out = std::io::stdout().lock();
    // Nobody may be reading; the node runs all the same.
    let _ = writeln!(out, "althing listens on {scheme}://{}", started.address);
    if let Some(address) = &started.admin_address {
        let _ = writeln!(out, "administration is at {scheme}://{address}");
    }
    if let Some(key) = &started.admin_key {
        let _ = writeln!(out, "admin key (shown once, kept as a hash): {}", key.expose_secret());
    }
    for (name, key) in &started.virtual_keys {
        let _ = writeln!(
            out,
            "virtual key `{name}` (shown once, kept as a hash): {}",
            key.expose_secret()
        );
    }
    let _ = out.flush();
}

async fn asked_to_end() {
    let (Ok(mut term), Ok(mut int)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::warn!("signals cannot be heard: the process ends only by force");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
