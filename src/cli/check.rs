//! `althing check`.

use std::path::PathBuf;

use althing_config::{Config, Overrides, Problem};
use serde_json::json;

use super::{Exit, Failed, say, vendors};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  althing check althing.yaml
  althing check --json althing.yaml | jq '.problems[].path'")]
pub(super) struct Args {
    /// The file, YAML or JSON.
    file: PathBuf,
    /// Says it as JSON: `{ok, problems: [{path, message}]}`.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failed> {
    let (problems, objects) = match load(Some(&args.file), &Overrides::default()) {
        Ok(config) => (config.check_startable().err().into_iter().collect(), config.policy.len()),
        Err(problems) => (problems, 0),
    };
    if args.json {
        let told: Vec<_> =
            problems.iter().map(|it| json!({ "path": it.path, "message": it.message })).collect();
        say(&json!({ "ok": problems.is_empty(), "objects": objects, "problems": told }).to_string());
    } else {
        problems.iter().for_each(|it| say(&it.to_string()));
    }
    let file = args.file.display();
    match problems.len() {
        0 if args.json => Ok(()),
        0 => {
            say(&format!("{file} is right: {objects} policy objects"));
            Ok(())
        }
        1 => Err(Failed::new(Exit::Usage, format!("{file}: one problem"))),
        many => Err(Failed::new(Exit::Usage, format!("{file}: {many} problems"))),
    }
}

/// Reads a configuration as `serve` does.
pub(super) fn load(
    file: Option<&std::path::Path>,
    overrides: &Overrides,
) -> Result<Config, Vec<Problem>> {
    althing_config::load(file, overrides, &vendors())
}

/// All problems as one message.
pub(super) fn failed(problems: &[Problem]) -> Failed {
    let lines: Vec<String> = problems.iter().map(|it| format!("  {it}")).collect();
    Failed::new(Exit::Usage, format!("the configuration is not valid:\n{}", lines.join("\n")))
}
