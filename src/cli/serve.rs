//! `althing serve`.

use std::path::PathBuf;

use althing_config::Overrides;

use super::{Exit, Failed, check};
use crate::{app, telemetry};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  althing serve                                       a single node on 127.0.0.1:8080, data in ./althing-data
  althing serve --config /etc/althing.yaml
  althing serve --config althing.yaml --listen 0.0.0.0:8080 --data /var/lib/althing
  althing serve --config althing.yaml --apply         the file's policy wins at every start
  ALTHING__LIMITS__BODY=8MiB althing serve            settings may come from variables")]
pub(super) struct Args {
    /// The configuration, YAML or JSON.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where data lies; overrides `node.data_dir`.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to listen; overrides `listen`.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Applies the file's policy at this start, also where there is policy already.
    #[arg(long)]
    apply: bool,
}

pub(super) async fn run(args: Args) -> Result<(), Failed> {
    let overrides = Overrides { data_dir: args.data, listen: args.listen };
    let config =
        check::load(args.config.as_deref(), &overrides).map_err(|it| check::failed(&it))?;
    config.check_startable().map_err(|it| check::failed(&[it]))?;
    telemetry::init(&config.telemetry).map_err(|it| Failed::new(Exit::Usage, it.to_string()))?;
    app::run(config, args.apply, app::print_started).await.map_err(|it| started(&it))
}

/// Why a node did not start, by what to do about it.
pub(super) fn started(error: &app::Error) -> Failed {
    let exit = match error {
        app::Error::Config(_) => Exit::Usage,
        _ => Exit::Failed,
    };
    Failed::new(exit, error.to_string())
}
