//! `althing mcp stdio`: lets a client that starts its servers as processes (Claude Desktop) use a running gateway.
//!
//! Lines of JSON-RPC come in on standard input and are posted to the gateway; what it answers goes out as lines.

mod link;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::mcp::json::Fields;
use crate::tasks::Tasks;

use link::{Failure, Link};

/// Exit codes of `sysexits`.
const UNAVAILABLE: u8 = 69;
const NOT_ALLOWED: u8 = 77;
const USAGE: u8 = 64;

/// The longest line that is taken.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The answer to a line that is no JSON (JSON-RPC 2.0, section 5.1).
const NOT_JSON: &str =
    r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"the line is not JSON"}}"#;
/// How many requests are on their way at once; more wait on standard input.
const REQUESTS_MAX: usize = 64;
/// How many lines wait for a slow client.
const LINES_MAX: usize = 256;
/// How long requests in flight are waited for after standard input has ended.
const FAREWELL: Duration = Duration::from_secs(30);

/// What the command takes.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example, as a server of Claude Desktop:\n  \
    { \"command\": \"althing\", \"args\": [\"mcp\", \"stdio\", \"--url\", \"http://127.0.0.1:8080\"], \"env\": { \"ALTHING_KEY\": \"sk-al-…\" } }")]
pub struct Args {
    /// Where the gateway is.
    #[arg(long, env = "ALTHING_URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// A virtual key. Better given as `ALTHING_KEY`: arguments can be seen by others on the machine.
    #[arg(long, env = "ALTHING_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// A PEM file of certificate authorities to trust beside the system's.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// A tool group, instead of all tools of the key.
    #[arg(long)]
    pub group: Option<String>,
}

/// Bridges standard input and output until the former ends.
///
/// Exit codes: 0; 64 where `--url` is no address or `--ca` does not read; 69 where the gateway cannot be reached; 77 where it refuses the key.
pub async fn run(args: Args) -> ExitCode {
    let ca = match args.ca.as_ref().map(std::fs::read_to_string).transpose() {
        Ok(ca) => ca,
        Err(problem) => return complain(USAGE, &format!("--ca: {problem}")).await,
    };
    let link = match Link::new(&args.url, args.key, args.group.as_deref(), ca.as_deref()) {
        Ok(link) => link,
        Err(problem) => return complain(USAGE, &problem).await,
    };
    match bridge(link, tokio::io::stdin(), tokio::io::stdout()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Unreachable(why)) => {
            let text = format!(
                "the gateway at {} cannot be reached: {why}. Is `althing serve` running?",
                args.url
            );
            complain(UNAVAILABLE, &text).await
        }
        Err(Failure::Refused(why)) => {
            complain(
                NOT_ALLOWED,
                &format!("the gateway refuses the key: {why}. Give a virtual key as ALTHING_KEY."),
            )
            .await
        }
    }
}

async fn complain(code: u8, text: &str) -> ExitCode {
    let line = format!("althing: {text}\n");
    // If standard error is gone too, the exit code has to do.
    let _gone = tokio::io::stderr().write_all(line.as_bytes()).await;
    ExitCode::from(code)
}

/// Bridges `input` and `output` with the gateway. Ends when `input` does, or on what would make every request fail.
async fn bridge(
    link: Link,
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Send + Unpin + 'static,
) -> Result<(), Failure> {
    let tasks = Tasks::default();
    let (lines, mut written) = mpsc::channel::<String>(LINES_MAX);
    let writer = tasks.spawn("bridge output", async move {
        let mut output = output;
        while let Some(mut line) = written.recv().await {
            line.push('\n');
            let done =
                output.write_all(line.as_bytes()).await.is_ok() && output.flush().await.is_ok();
            if !done {
                return;
            }
        }
    });
    let bridge = Bridge {
        link: Arc::new(link),
        lines,
        tasks: tasks.clone(),
        permits: Arc::new(Semaphore::new(REQUESTS_MAX)),
        failed: Arc::default(),
        fatal: CancellationToken::new(),
        open: Arc::default(),
    };
    let outcome = bridge.read(input).await;
    // What was asked before the end is still answered; streams that would never end are ended.
    let all = u32::try_from(REQUESTS_MAX).unwrap_or(u32::MAX);
    drop(tokio::time::timeout(FAREWELL, bridge.permits.acquire_many(all)).await);
    bridge.link.end().await;
    drop(bridge);
    tasks.stop().cancel();
    let _late = tokio::time::timeout(Duration::from_secs(5), writer).await;
    outcome
}

/// The bridge at work.
#[derive(Clone)]
struct Bridge {
    link: Arc<Link>,
    lines: mpsc::Sender<String>,
    tasks: Tasks,
    permits: Arc<Semaphore>,
    /// What makes going on pointless.
    failed: Arc<Mutex<Option<Failure>>>,
    fatal: CancellationToken,
    /// Requests on their way, by id: a modern client cancels by closing, which only we can do here.
    open: Arc<Mutex<HashMap<String, CancellationToken>>>,
}

impl Bridge {
    async fn read(&self, input: impl AsyncRead + Unpin) -> Result<(), Failure> {
        let mut input = BufReader::new(input);
        loop {
            let line = tokio::select! {
                line = next_line(&mut input) => line,
                () = self.fatal.cancelled() => None,
                () = self.lines.closed() => None,
            };
            let Some(line) = line else {
                return self.failed.lock().take().map_or(Ok(()), Err);
            };
            if line.trim().is_empty() {
                continue;
            }
            self.take(line).await?;
        }
    }

    /// Sends one line on its way.
    async fn take(&self, line: String) -> Result<(), Failure> {
        if serde_json::from_str::<serde::de::IgnoredAny>(&line).is_err() {
            self.say(NOT_JSON.to_owned()).await;
            return Ok(());
        }
        let message = Outgoing::of(line);
        match (message.method.as_deref(), &message.id) {
            // The handshake comes before everything: what follows needs its session.
            (Some("initialize"), Some(_)) => {
                let answer = self.link.initialize(&message).await?;
                self.say(answer).await;
                Ok(())
            }
            (_, Some(id)) => {
                let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
                    return Ok(());
                };
                let cancel = CancellationToken::new();
                let id = id.clone();
                self.open.lock().insert(id.clone(), cancel.clone());
                let bridge = self.clone();
                self.tasks.spawn("bridge request", async move {
                    // A subscription never ends by itself: it must not hold the end up.
                    let permit = if message.method.as_deref() == Some("subscriptions/listen") {
                        drop(permit);
                        None
                    } else {
                        Some(permit)
                    };
                    tokio::select! {
                        () = bridge.request(&message) => {}
                        () = cancel.cancelled() => {}
                        () = bridge.tasks.stop().cancelled() => {}
                    }
                    bridge.open.lock().remove(&id);
                    drop(permit);
                });
                Ok(())
            }
            (method, None) => {
                if method == Some("notifications/cancelled") && self.link.is_modern() {
                    let open = message.cancelled().and_then(|id| self.open.lock().remove(&id));
                    if let Some(open) = open {
                        open.cancel();
                    }
                    return Ok(());
                }
                if let Err(failure) = self.link.notify(&message).await {
                    self.give_up(failure);
                }
                if method == Some("notifications/initialized") {
                    self.listen();
                }
                Ok(())
            }
        }
    }

    async fn request(&self, message: &Outgoing) {
        if let Err(failure) = self.link.request(message, &self.lines).await {
            let id = message.id.as_deref().unwrap_or("null");
            self.say(failed(id, &failure)).await;
            self.give_up(failure);
        }
    }

    /// Ends the bridge where nothing can succeed any more. A gateway that is away may come back.
    fn give_up(&self, failure: Failure) {
        if matches!(failure, Failure::Refused(_)) {
            *self.failed.lock() = Some(failure);
            self.fatal.cancel();
        }
    }

    /// Brings what the gateway says by itself.
    fn listen(&self) {
        let bridge = self.clone();
        self.tasks.spawn("bridge listen", async move {
            let stop = bridge.tasks.stop().clone();
            let mut pause = Duration::from_secs(1);
            loop {
                let refused = tokio::select! {
                    outcome = bridge.link.listen(&bridge.lines) => matches!(outcome, Err(Failure::Refused(_))),
                    () = stop.cancelled() => return,
                };
                if refused {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stop.cancelled() => return,
                }
                pause = (pause * 2).min(Duration::from_secs(60));
            }
        });
    }

    async fn say(&self, line: String) {
        // A client that is gone is noticed where lines are read.
        let _gone = self.lines.send(line).await;
    }
}

/// A line of the client, looked at no more than needed.
struct Outgoing {
    line: String,
    /// The id of a request, as JSON text.
    id: Option<String>,
    method: Option<String>,
    /// What a modern request says of itself in `_meta`.
    version: Option<String>,
    /// What the header `Mcp-Name` must repeat.
    name: Option<String>,
}

impl Outgoing {
    fn of(line: String) -> Self {
        let fields = Fields::read(&line, &[]).ok();
        let method = fields.as_ref().and_then(|it| it.text("method"));
        // An answer of the client has an id too, and wants no answer.
        let id = method.as_ref().and_then(|_| Some(fields.as_ref()?.get("id")?.get().to_owned()));
        let params = fields.as_ref().and_then(|it| Fields::read(it.get("params")?.get(), &[]).ok());
        let version = params.as_ref().and_then(|it| {
            Fields::read(it.get("_meta")?.get(), &[])
                .ok()?
                .text("io.modelcontextprotocol/protocolVersion")
        });
        let name = params.as_ref().and_then(|it| it.text("name").or_else(|| it.text("uri")));
        Self { id, method, version, name, line }
    }

    /// The id of the request that a `notifications/cancelled` is about.
    fn cancelled(&self) -> Option<String> {
        let message: Value = serde_json::from_str(&self.line).ok()?;
        Some(message.get("params")?.get("requestId")?.to_string())
    }
}

/// An error that answers `id`.
fn failed(id: &str, failure: &Failure) -> String {
    let id: Value = serde_json::from_str(id).unwrap_or_default();
    let (code, message) = match failure {
        Failure::Unreachable(why) => (-32010, format!("the gateway cannot be reached: {why}")),
        Failure::Refused(why) => (-32001, format!("the gateway refuses the key: {why}")),
    };
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } }).to_string()
}

/// The next line; `None` at the end, and where a line is too long to be one.
async fn next_line(input: &mut (impl AsyncBufReadExt + Unpin)) -> Option<String> {
    let mut line = Vec::new();
    loop {
        let part = input.fill_buf().await.ok()?;
        if part.is_empty() {
            break;
        }
        let end = part.iter().position(|it| *it == b'\n');
        let taken = end.map_or(part.len(), |it| it + 1);
        line.extend_from_slice(&part[..taken]);
        input.consume(taken);
        if end.is_some() || LINE_BYTES_MAX < line.len() {
            break;
        }
    }
    (!line.is_empty() && line.len() <= LINE_BYTES_MAX)
        .then(|| String::from_utf8_lossy(&line).trim_end().to_owned())
}

#[cfg(test)]
mod tests;
