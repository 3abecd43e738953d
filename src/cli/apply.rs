//! `althing apply`, `diff` and `export`: policy as a file.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use http::Method;
use serde_json::Value;

use super::client::{Client, Remote};
use super::{Exit, Failed, say};

/// A policy file is at most this long; the gateway takes no more.
const FILE_BYTES_MAX: u64 = 8 << 20;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  althing apply -f althing.yaml
  althing apply -f althing.yaml --dry-run
  althing apply -f althing.yaml --prune          deletes what the file does not name
  althing export | ssh other althing apply -f -")]
pub(super) struct ApplyArgs {
    /// The file, YAML or JSON; `-` is standard input. Node settings in it are compared, not applied.
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Says what would change, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    /// Deletes what the file does not name.
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  althing diff -f althing.yaml
  althing diff -f althing.yaml --prune           what the file does not name would be deleted
  althing diff -f althing.yaml --exit-code       for scripts: 1 where something differs")]
pub(super) struct DiffArgs {
    /// The file, YAML or JSON; `-` is standard input.
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Ends with 1 where something differs.
    #[arg(long)]
    exit_code: bool,
    /// Shows what `apply --prune` would change: what the file does not name, it would delete.
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  althing export > policy.yaml
  althing export --json | jq '.virtual_keys[].name'

Secrets are exported as their references, or sealed; sealed ones open in the same cluster only.")]
pub(super) struct ExportArgs {
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn apply(args: ApplyArgs) -> Result<(), Failed> {
    let text = read(&args.file)?;
    let client = Client::new(&args.remote)?;
    let mut query = Vec::new();
    if args.dry_run {
        query.push(("dry_run", "1"));
    }
    if args.prune {
        query.push(("prune", "1"));
    }
    let answer = client.ask(Method::POST, &["api", "apply"], &query, Some(text)).await?;
    if args.remote.json {
        say(&answer.to_string());
        return Ok(());
    }
    let changed = tell(&answer);
    let keys = answer.get("keys").and_then(Value::as_object);
    for (name, key) in keys.into_iter().flatten() {
        say(&format!("key of `{name}`, shown this once: {}", key.as_str().unwrap_or_default()));
    }
    match (changed, args.dry_run) {
        (0, _) => say("nothing to change"),
        (_, true) => say("a rehearsal: nothing was changed"),
        (_, false) => say(&format!("applied at index {}", answer["index"])),
    }
    Ok(())
}

pub(super) async fn diff(args: DiffArgs) -> Result<(), Failed> {
    let text = read(&args.file)?;
    let client = Client::new(&args.remote)?;
    let query: &[_] = if args.prune { &[("prune", "1")] } else { &[] };
    let answer = client.ask(Method::POST, &["api", "diff"], query, Some(text)).await?;
    let changed = if args.remote.json {
        say(&answer.to_string());
        count(&answer)
    } else {
        tell(&answer)
    };
    if changed == 0 && !args.remote.json {
        say("no difference");
    }
    if args.exit_code && changed != 0 {
        return Err(Failed::new(Exit::Failed, format!("{changed} objects differ")));
    }
    Ok(())
}

pub(super) async fn export(args: ExportArgs) -> Result<(), Failed> {
    let client = Client::new(&args.remote)?;
    let format = if args.remote.json { "json" } else { "yaml" };
    let text =
        client.ask_text(Method::GET, &["api", "export"], &[("format", format)], None).await?;
    say(text.trim_end());
    Ok(())
}

fn read(file: &Path) -> Result<String, Failed> {
    let failed = |it: std::io::Error| Failed::new(Exit::Usage, format!("{}: {it}", file.display()));
    let mut text = String::new();
    // One byte more than may be, to tell a file that is too long from one that just fits: half a file is another policy.
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        let opened = std::fs::File::open(file).map_err(failed)?;
        opened.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)
    };
    read.map_err(failed)?;
    if FILE_BYTES_MAX < text.len() as u64 {
        let text = format!("{}: longer than 8 MiB, and a gateway takes no more", file.display());
        return Err(Failed::new(Exit::Usage, text));
    }
    Ok(text)
}

fn list<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn count(answer: &Value) -> usize {
    ["added", "changed", "removed"].iter().map(|it| list(answer, it).len()).sum()
}

/// Shows a difference, and says how many objects differ.
fn tell(answer: &Value) -> usize {
    let text = |it: &Value, name: &str| it[name].as_str().unwrap_or_default().to_owned();
    for (sign, name) in [("+", "added"), ("-", "removed")] {
        for it in list(answer, name) {
            say(&format!("{sign} {} {}", text(it, "kind"), text(it, "name")));
        }
    }
    for it in list(answer, "changed") {
        say(&format!("~ {} {}", text(it, "kind"), text(it, "name")));
        for field in list(it, "fields") {
            let (before, after) = (&field["before"], &field["after"]);
            say(&format!("    {}: {before} -> {after}", text(field, "path")));
        }
    }
    for it in list(answer, "settings") {
        let (before, after) = (&it["before"], &it["after"]);
        say(&format!(
            "! {}: the node runs with {before}, the file says {after}: it needs a restart",
            text(it, "path")
        ));
    }
    for it in list(answer, "kept") {
        say(&format!(
            "  {} {} is not in the file and stays (--prune deletes it)",
            text(it, "kind"),
            text(it, "name")
        ));
    }
    count(answer)
}
