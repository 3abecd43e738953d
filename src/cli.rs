//! The command line.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

mod apply;
mod check;
mod client;
mod demo;
mod key;
mod mcp;
mod serve;

/// What a command ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// It did not work.
    Failed = 1,
    /// It was asked wrongly.
    Usage = 64,
    /// The gateway does not answer.
    Unavailable = 69,
    /// The key does not allow it.
    NotAllowed = 77,
}

/// A command that did not work: its exit code, and what to tell.
#[derive(Debug)]
struct Failed {
    exit: Exit,
    message: String,
}

impl Failed {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    fn other(error: impl std::fmt::Display) -> Self {
        Self::new(Exit::Failed, error.to_string())
    }
}

/// An AI and MCP gateway in which every node is equal.
#[derive(Debug, Parser)]
#[command(name = "althing", version, disable_help_subcommand = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  althing demo                               try it: no key, no network, nothing to install
  althing check althing.yaml                 is the file right?
  althing serve --config althing.yaml        run a node
  althing key create app --provider openai='*' --budget 50/month

Exit codes: 0 done, 1 failed, 64 asked wrongly, 69 the gateway does not answer, 77 not allowed.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a node.
    Serve(serve::Args),
    /// Runs a complete node on loopback that needs no key and no network, and prints what to paste.
    Demo(demo::Args),
    /// Validates a configuration file and says everything that is wrong with it.
    Check(check::Args),
    /// Makes the policy of a running gateway what a file says.
    Apply(apply::ApplyArgs),
    /// Shows what applying a file would change.
    Diff(apply::DiffArgs),
    /// Prints the policy of a running gateway as a file.
    Export(apply::ExportArgs),
    /// Manages virtual keys.
    Key(key::Args),
    /// Bridges and servers for MCP.
    Mcp(mcp::Args),
}

/// Runs the program.
#[must_use]
pub fn run() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // A guard of a stdio server: started by the gateway, for each server, and by nobody else.
    if arguments.get(1).is_some_and(|it| it == "stdio-guard") {
        return crate::mcp::upstream::guard::run(arguments.into_iter().skip(2));
    }
    run_with(arguments)
}

fn run_with(arguments: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let asked_wrongly = error.use_stderr();
            // Where nobody reads, there is nobody to tell.
            let _ = error.print();
            return if asked_wrongly { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    match cli.command.run() {
        Ok(exit) => exit,
        Err(failed) => {
            complain(&failed.message);
            failed.exit.into()
        }
    }
}

impl Command {
    fn run(self) -> Result<ExitCode, Failed> {
        let done = match self {
            Self::Check(args) => check::run(&args),
            Self::Serve(args) => on_all_cores(serve::run(args)),
            Self::Demo(args) => on_all_cores(demo::run(args)),
            Self::Apply(args) => on_one_core(apply::apply(args)),
            Self::Diff(args) => on_one_core(apply::diff(args)),
            Self::Export(args) => on_one_core(apply::export(args)),
            Self::Key(args) => on_one_core(key::run(args)),
            Self::Mcp(args) => return on_one_core(async { Ok(mcp::run(args).await) }),
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}

fn on_all_cores<T>(work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(Failed::other)?.block_on(work)
}

fn on_one_core<T>(work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Failed::other)?;
    let done = runtime.block_on(work);
    // A read of standard input cannot be interrupted: do not wait for it.
    runtime.shutdown_background();
    done
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Writes a line to standard output. Where nobody reads, there is nobody to tell.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// Writes a line to standard error.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "althing: {text}");
}

/// Provider names that bring their own dialect and address.
fn vendors() -> Vec<&'static str> {
    althing_llm::provider::ALL.iter().map(|it| it.name).chain(["demo"]).collect()
}

/// The manual of the command line, as Markdown: `docs/cli.md`.
#[must_use]
pub fn manual() -> String {
    let mut text =
        "# Command line\n\nMade from the code; `althing COMMAND --help` says the same.\n"
            .to_owned();
    let mut root = Cli::command();
    root.build();
    describe(&mut root, "", &mut text);
    text
}

fn describe(command: &mut clap::Command, above: &str, text: &mut String) {
    let name = format!("{above}{}", command.get_name());
    if command.is_hide_set() {
        return;
    }
    // What a variable holds on this machine is no part of the manual.
    let shown = command.clone().mut_args(|it| it.hide_env_values(true));
    let help = shown.term_width(100).render_long_help().to_string();
    text.push_str(&format!("\n## `{name}`\n\n```text\n{}\n```\n", help.trim_end()));
    for inner in command.get_subcommands_mut() {
        describe(inner, &format!("{name} "), text);
    }
}

#[cfg(test)]
mod tests;
