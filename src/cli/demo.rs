//! `althing demo`: a whole node on loopback, and what to paste to see it work.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use althing_config::{Config, Overrides};
use althing_domain::time::Clock;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::{Exit, Failed, check, say, serve};
use crate::app::{self, Started};
use crate::clock::SystemClock;
use crate::tasks::Tasks;
use crate::telemetry;

const LISTEN: &str = "127.0.0.1:8080";
/// Any free port, where the usual one is taken.
const LISTEN_ANYWHERE: &str = "127.0.0.1:0";
const NAME_OF_PROGRAM: &str = "althing";
/// The name of the provider, the server and the key.
const NAME: &str = "demo";

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  althing demo
  althing demo --listen 127.0.0.1:9090
  althing demo --data ./demo        keeps its data; without it everything is gone at the end

Nothing leaves the machine: models are played by a built-in provider that says so in every answer,
and the tools are those of a real MCP server process (`althing mcp demo-server`).")]
pub(super) struct Args {
    /// Where to listen, on loopback. Absent: port 8080, or another where that is taken.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Keeps the data here. Absent: a new folder that is deleted at the end.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Also writes the log to standard error.
    #[arg(long)]
    log: bool,
}

pub(super) async fn run(args: Args) -> Result<(), Failed> {
    let listen = listen(args.listen)?;
    let folder = Folder::new(args.data)?;
    let tasks = Tasks::default();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let provider = crate::demo::start(&tasks, &clock).await.map_err(Failed::other)?;
    let config = config(&folder.path, &listen, provider)?;
    if args.log {
        telemetry::init(&config.telemetry).map_err(Failed::other)?;
    }
    let ran = app::run(config, true, |started| say(&welcome(started, &folder))).await;
    tasks.shutdown(std::time::Duration::from_secs(1)).await;
    ran.map_err(|it| serve::started(&it))
}

/// Where its data lies.
struct Folder {
    path: PathBuf,
    is_temporary: bool,
}

impl Folder {
    fn new(kept: Option<PathBuf>) -> Result<Self, Failed> {
        if let Some(path) = kept {
            return Ok(Self { path, is_temporary: false });
        }
        let name = format!("althing-demo-{}", uuid::Uuid::new_v4().simple());
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|it| Failed::other(format!("{}: {it}", path.display())))?;
        Ok(Self { path, is_temporary: true })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_temporary {
            // What cannot be deleted is the system's to clean, as any temporary file.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn listen(asked: Option<SocketAddr>) -> Result<String, Failed> {
    match asked {
        Some(address) if !address.ip().is_loopback() => {
            let text = "a demo listens on loopback only: its keys stand on the screen. Use `althing serve`";
            Err(Failed::new(Exit::Usage, text))
        }
        Some(address) => Ok(address.to_string()),
        None => {
            let is_free = std::net::TcpListener::bind(LISTEN).is_ok();
            Ok(if is_free { LISTEN } else { LISTEN_ANYWHERE }.to_owned())
        }
    }
}

/// The node and its policy, as its file would say them.
fn config(data: &Path, listen: &str, provider: SocketAddr) -> Result<Config, Failed> {
    let program = std::env::current_exe().map_err(Failed::other)?;
    let free = json!({ "input_usd_per_million": "0", "output_usd_per_million": "0" });
    let file = json!({
        "telemetry": { "log": "warn" },
        "providers": [{
            "name": NAME, "dialect": "demo", "base_url": format!("http://{provider}/v1"),
            "models": { "echo": "echo" }, "prices": { "echo": free },
        }],
        "mcp_servers": [{
            "name": NAME, "transport": "stdio",
            "command": [program, "mcp", "demo-server", "--dir", data.join("files")],
            "prices": { "evaluate": "0.001" },
        }],
        "tool_groups": [{ "name": "arithmetic", "tools": [format!("{NAME}/add"), format!("{NAME}/multiply"), format!("{NAME}/evaluate")] }],
        "teams": [{ "name": NAME }],
        "virtual_keys": [{
            "name": NAME, "team": NAME, "providers": [{ "name": NAME, "models": ["*"] }], "tools": ["*"],
            "tool_groups": ["arithmetic"], "budget": { "limit_usd": "1", "period": "day" },
            "rate": { "requests": 600, "per": "1m" },
        }],
    });
    let overrides = Overrides { data_dir: Some(data.to_owned()), listen: Some(listen.to_owned()) };
    let loaded = althing_config::load_text(&file.to_string(), &[], &overrides, &super::vendors());
    loaded.map_err(|it| check::failed(&it))
}

/// What to paste. Keys of a folder that was kept were shown the first time.
fn welcome(started: &Started, folder: &Folder) -> String {
    let url = format!("http://{}", started.address);
    let shown = |key: Option<&secrecy::SecretString>| {
        key.map_or("(shown at the first start)", |it| it.expose_secret()).to_owned()
    };
    let admin = shown(started.admin_key.as_ref());
    let key = shown(started.virtual_keys.iter().find(|it| it.0 == NAME).map(|it| &it.1));
    // The program by a name that can be pasted: it need not be where a shell looks.
    let program = std::env::current_exe()
        .map_or_else(|_| NAME_OF_PROGRAM.to_owned(), |it| it.display().to_string());
    let kept = if folder.is_temporary { "deleted at the end" } else { "kept" };
    let chat =
        json!({ "model": "demo/echo", "messages": [{ "role": "user", "content": "Hello!" }] });
    let mut streamed = chat.clone();
    streamed["stream"] = true.into();
    let call = json!({ "id": "call_1", "type": "function", "function": { "name": "demo-add", "arguments": "{\"a\":2,\"b\":3}" } });
    format!(
        "Althing is running at {url} (data in {}, {kept}; Ctrl-C ends it).

  admin key    {admin}
  virtual key  {key}

Chat with the built-in demo provider (it says what it is), at once and streamed:

  {}
  {}

List the tools of a real MCP server process, and execute one:

  {}
  {}

For an SDK: base URL {url}/openai/v1 (OpenAI), {url}/anthropic (Anthropic) or {url}/genai (Gemini), the virtual key, model demo/echo.
For an MCP client: {url}/mcp with the virtual key as bearer token, or `{program} mcp stdio --url {url}`.
Administration: {url}/api with the admin key; `ALTHING_URL={url} ALTHING_ADMIN_KEY={admin} {program} key list`.",
        folder.path.display(),
        curl(&url, "/v1/chat/completions", &key, &[], &chat),
        curl(&url, "/v1/chat/completions", &key, &[], &streamed),
        curl(&url, "/mcp", &key, &["mcp-protocol-version: 2026-07-28", "mcp-method: tools/list"], &list_tools()),
        curl(&url, "/v1/mcp/tool/execute", &key, &[], &call),
    )
}

/// `tools/list` as one request, without a session.
fn list_tools() -> Value {
    let prefix = "io.modelcontextprotocol";
    let meta = json!({
        format!("{prefix}/protocolVersion"): "2026-07-28",
        format!("{prefix}/clientInfo"): { "name": "curl", "version": "1" },
        format!("{prefix}/clientCapabilities"): {},
    });
    json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "_meta": meta } })
}

/// One line for a shell. Nothing in it holds a single quote.
fn curl(url: &str, path: &str, key: &str, headers: &[&str], body: &Value) -> String {
    let headers: String = headers.iter().map(|it| format!(" -H '{it}'")).collect();
    let stream = if body["stream"] == true { "N" } else { "" };
    format!(
        "curl -s{stream} {url}{path} -H 'authorization: Bearer {key}' -H 'content-type: application/json'{headers} -d '{body}'"
    )
}

#[cfg(test)]
mod tests;
