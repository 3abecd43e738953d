//! `althing mcp`: a bridge for clients that start their servers, and a server to try things with.

use std::process::ExitCode;

use clap::Subcommand;

use crate::mcp::{bridge, demo_server};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  althing mcp stdio --url http://127.0.0.1:8080      what Claude Desktop starts; the key is in ALTHING_KEY
  althing mcp demo-server --dir ./scratch            files, time and arithmetic, over stdio")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bridges a client that speaks over standard input and output to a running gateway.
    Stdio(bridge::Args),
    /// Serves files of a scratch folder, the time and arithmetic over standard input and output.
    DemoServer(demo_server::Args),
}

pub(super) async fn run(args: Args) -> ExitCode {
    match args.command {
        Command::Stdio(args) => bridge::run(args).await,
        Command::DemoServer(args) => demo_server::run(args).await,
    }
}
