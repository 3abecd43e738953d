//! `althing key`: virtual keys.

use std::path::PathBuf;
use std::sync::Arc;

use althing_config::Overrides;
use clap::Subcommand;
use http::Method;
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

use super::client::{Client, Remote};
use super::{Exit, Failed, check, say};
use crate::api::admin::start;
use crate::clock::SystemClock;
use crate::control::{Control, Options};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  althing key create app --provider openai='gpt-4o*' --tool 'search/*' --budget 50/month
  althing key list
  althing key rotate app --overlap 24h
  althing key revoke app
  althing key reset-admin --data ./althing-data")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Creates a virtual key and prints it, this once.
    Create(Box<Create>),
    /// Lists virtual keys.
    List(List),
    /// Deletes a virtual key: its next request is refused.
    Revoke(Revoke),
    /// Gives a virtual key another secret and prints it, this once.
    Rotate(Rotate),
    /// Makes another admin key for a node that is not running, for who has lost it.
    ResetAdmin(ResetAdmin),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  althing key create app --team web --provider openai='gpt-4o*' --provider anthropic='*'
  althing key create agent --group support --budget 10/day --requests 60
  althing key create ci --provider '*=*' --expires-at 2027-01-31T00:00:00Z --json | jq -r .key")]
struct Create {
    /// The key's name.
    name: String,
    /// What it is for.
    #[arg(long)]
    description: Option<String>,
    /// The team that pays.
    #[arg(long, conflicts_with = "customer")]
    team: Option<String>,
    /// The customer that pays.
    #[arg(long)]
    customer: Option<String>,
    /// A provider it may use and which models there: NAME=MODEL[,MODEL…]; `*` stands for any run of characters.
    #[arg(long = "provider", value_name = "NAME=MODELS", value_parser = provider)]
    providers: Vec<Value>,
    /// A tool it may use: SERVER/TOOL; `*` stands for any run of characters.
    #[arg(long = "tool", value_name = "SERVER/TOOL")]
    tools: Vec<String>,
    /// A tool group it may use.
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// What it may spend: USD/PERIOD, such as 50/month, 5/6h (rolling) or 100/total.
    #[arg(long, value_name = "USD/PERIOD", value_parser = budget)]
    budget: Option<Value>,
    /// Requests a minute.
    #[arg(long, value_name = "COUNT")]
    requests: Option<u64>,
    /// Tokens a minute.
    #[arg(long, value_name = "COUNT")]
    tokens: Option<u64>,
    /// Requests at the same time.
    #[arg(long, value_name = "COUNT")]
    concurrent: Option<u64>,
    /// Until when it holds, RFC 3339.
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  althing key list --json | jq -r '.items[].name'")]
struct List {
    /// Only those whose name or description contains this.
    #[arg(long)]
    search: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  althing key revoke app\n  althing key revoke app --keep      only disables it"
)]
struct Revoke {
    /// The key's name.
    name: String,
    /// Disables it instead of deleting it.
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  althing key rotate app --overlap 24h")]
struct Rotate {
    /// The key's name.
    name: String,
    /// How long the old secret holds beside the new one, such as 24h. Absent: not a moment.
    #[arg(long, value_name = "TIME")]
    overlap: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  althing key reset-admin --data ./althing-data
  althing key reset-admin --config /etc/althing.yaml

The node must not be running. Where `admin.key` is set in its file, that one stands again at its next start.")]
struct ResetAdmin {
    /// The node's data directory.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    data: Option<PathBuf>,
    /// The node's configuration, which says where its data lies.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Answers as JSON, for machines.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<(), Failed> {
    match args.command {
        Command::Create(args) => create(*args).await,
        Command::List(args) => list(args).await,
        Command::Revoke(args) => revoke(args).await,
        Command::Rotate(args) => rotate(args).await,
        Command::ResetAdmin(args) => reset_admin(args).await,
    }
}

async fn create(args: Create) -> Result<(), Failed> {
    let client = Client::new(&args.remote)?;
    let rate =
        [("requests", args.requests), ("tokens", args.tokens), ("concurrent", args.concurrent)];
    let rate: Map<String, Value> =
        rate.into_iter().filter_map(|(name, it)| Some((name.to_owned(), it?.into()))).collect();
    let optional = [
        ("description", args.description.map(Value::from)),
        ("team", args.team.map(Value::from)),
        ("customer", args.customer.map(Value::from)),
        ("budget", args.budget),
        ("rate", (!rate.is_empty()).then_some(Value::Object(rate))),
        ("expires_at", args.expires_at.map(Value::from)),
    ];
    let mut key = json!({
        "name": args.name, "providers": args.providers, "tools": args.tools, "tool_groups": args.groups,
    });
    if let Some(fields) = key.as_object_mut() {
        fields.extend(optional.into_iter().filter_map(|(name, it)| Some((name.to_owned(), it?))));
    }
    let path = ["api", "virtual-keys"];
    let answer = client.ask(Method::POST, &path, &[], Some(key.to_string())).await?;
    show_key(&answer, args.remote.json);
    Ok(())
}

/// Prints a key that was made. On a terminal or not: it is all that was asked for.
fn show_key(answer: &Value, as_json: bool) {
    match answer.get("key").and_then(Value::as_str) {
        Some(key) if !as_json => say(key),
        _ => say(&answer.to_string()),
    }
}

async fn list(args: List) -> Result<(), Failed> {
    let client = Client::new(&args.remote)?;
    let mut items: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut query = vec![("limit", "1000")];
        query.extend(args.search.as_deref().map(|it| ("search", it)));
        query.extend(cursor.as_deref().map(|it| ("cursor", it)));
        let page = client.ask(Method::GET, &["api", "virtual-keys"], &query, None).await?;
        items.extend(page["items"].as_array().cloned().unwrap_or_default());
        let Some(next) = page["next"].as_str() else { break };
        cursor = Some(next.to_owned());
    }
    if args.remote.json {
        say(&json!({ "items": items }).to_string());
        return Ok(());
    }
    for it in &items {
        let text = |name: &str| it[name].as_str().unwrap_or("-").to_owned();
        let payer = if it["team"].is_string() { text("team") } else { text("customer") };
        let state = if it["enabled"] == json!(false) { "disabled" } else { "enabled" };
        say(&format!("{:<32} {state:<9} {payer:<24} {}", text("name"), text("description")));
    }
    Ok(())
}

async fn revoke(args: Revoke) -> Result<(), Failed> {
    let client = Client::new(&args.remote)?;
    let name = args.name.as_str();
    let answer = if args.keep {
        client.ask(Method::POST, &["api", "virtual-keys", name, "disable"], &[], None).await?
    } else {
        client.ask(Method::DELETE, &["api", "virtual-keys", name], &[], None).await?
    };
    match args.remote.json {
        true => say(&answer.to_string()),
        false if args.keep => say(&format!("`{name}` is disabled")),
        false => say(&format!("`{name}` is revoked")),
    }
    Ok(())
}

async fn rotate(args: Rotate) -> Result<(), Failed> {
    let client = Client::new(&args.remote)?;
    let body = args.overlap.as_ref().map_or_else(|| json!({}), |it| json!({ "overlap": it }));
    let path = ["api", "virtual-keys", args.name.as_str(), "rotate"];
    let answer = client.ask(Method::POST, &path, &[], Some(body.to_string())).await?;
    show_key(&answer, args.remote.json);
    Ok(())
}

async fn reset_admin(args: ResetAdmin) -> Result<(), Failed> {
    let dir = match args.data {
        Some(dir) => dir,
        None => {
            let config = check::load(args.config.as_deref(), &Overrides::default());
            config.map_err(|it| check::failed(&it))?.node.data_dir
        }
    };
    if !dir.is_dir() {
        let text = format!("{} is no data directory: --data says where it is", dir.display());
        return Err(Failed::new(Exit::Usage, text));
    }
    let control = Control::start(Options::new(dir), Arc::new(SystemClock)).await;
    let control = control.map_err(Failed::other)?;
    let key = start::reset_admin_key(&control).await;
    control.shutdown().await;
    let key = key.map_err(Failed::other)?;
    match args.json {
        true => say(&json!({ "key": key.expose_secret() }).to_string()),
        false => say(key.expose_secret()),
    }
    Ok(())
}

fn provider(text: &str) -> Result<Value, String> {
    let (name, models) = text.split_once('=').unwrap_or((text, "*"));
    let models: Vec<&str> = models.split(',').map(str::trim).filter(|it| !it.is_empty()).collect();
    if name.is_empty() || models.is_empty() {
        return Err("write NAME=MODELS, such as openai=gpt-4o*,o3 or '*=*'".to_owned());
    }
    Ok(json!({ "name": name, "models": models }))
}

fn budget(text: &str) -> Result<Value, String> {
    let Some((limit, period)) = text.split_once('/') else {
        return Err("write USD/PERIOD, such as 50/month or 5/6h".to_owned());
    };
    let limit: althing_domain::money::NanoUsd = limit
        .trim_start_matches('$')
        .parse()
        .map_err(|it: althing_domain::money::ParseUsdError| it.to_string())?;
    let period: althing_domain::policy::Period =
        period.parse().map_err(|it: althing_domain::policy::PeriodError| it.to_string())?;
    Ok(json!({ "limit_usd": limit, "period": period }))
}
