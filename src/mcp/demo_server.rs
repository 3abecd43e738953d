//! `althing mcp demo-server`: a small, real MCP server over standard input and output, built with rmcp.
//!
//! It serves files in one folder, the time, and arithmetic: enough to try a gateway with, and harmless.

mod expression;
mod folder;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use althing_domain::time::{Clock, UnixMillis};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{Implementation, ServerCapabilities, ServerConfig};
use rmcp::{Json, ServerHandler, ServiceExt, tool, tool_handler, tool_router};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::SystemClock;

/// What the command takes.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  althing mcp demo-server --dir ./scratch")]
pub struct Args {
    /// The folder whose files it serves; made where it does not exist. Default: a new folder among the temporary files.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Serves until standard input ends.
pub async fn run(args: Args) -> ExitCode {
    let dir = args.dir.unwrap_or_else(scratch);
    match serve(&dir).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(dir = %dir.display(), "the demo server ended: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(dir: &Path) -> anyhow::Result<()> {
    let server = DemoServer::new(dir, Arc::new(SystemClock))?;
    let running = server.serve(rmcp::transport::stdio()).await?;
    running.waiting().await?;
    Ok(())
}

fn scratch() -> PathBuf {
    std::env::temp_dir().join(format!("althing-demo-{}", uuid::Uuid::new_v4().simple()))
}

/// The server.
#[derive(Clone)]
pub struct DemoServer {
    folder: Arc<folder::Folder>,
    clock: Arc<dyn Clock>,
    tool_router: ToolRouter<Self>,
}

/// A file or folder below the scratch folder.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct PathArgs {
    /// A relative path, such as `notes/today.txt`.
    pub path: String,
}

/// A folder to list.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ListArgs {
    /// A relative path. Absent: the scratch folder itself.
    #[serde(default)]
    pub path: String,
}

/// A file to write.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct WriteArgs {
    /// A relative path; folders in it are made.
    pub path: String,
    /// The whole text of the file, at most 1 MiB.
    pub text: String,
}

/// Where to tell the time.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct NowArgs {
    /// An IANA time zone, such as `Europe/Reykjavik`. Absent: UTC.
    #[serde(default)]
    pub time_zone: Option<String>,
}

/// A time to convert.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ConvertArgs {
    /// A time with its offset or zone, such as `2026-07-28T12:00:00Z`.
    pub time: String,
    /// The IANA time zone to tell it in.
    pub to: String,
}

/// Two numbers.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct TwoNumbers {
    /// The first.
    pub a: f64,
    /// The second.
    pub b: f64,
}

/// Arithmetic as text.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct EvaluateArgs {
    /// Such as `(1 + 2) * 3 ^ 2`.
    pub expression: String,
}

/// A number.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NumberResult {
    /// The number.
    pub result: f64,
}

/// A time in a zone.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TimeResult {
    /// RFC 3339, with the offset.
    pub time: String,
    /// The zone it is told in.
    pub time_zone: String,
    /// The day of the week.
    pub weekday: String,
}

/// A folder's entries.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ListResult {
    entries: Vec<folder::Entry>,
}

#[expect(clippy::needless_pass_by_value, reason = "the tool macro hands arguments over by value")]
#[tool_router(router = tool_router)]
impl DemoServer {
    /// Serves the files in `dir`, which is made where it does not exist.
    ///
    /// # Errors
    ///
    /// Where the folder cannot be made or opened.
    pub fn new(dir: &Path, clock: Arc<dyn Clock>) -> std::io::Result<Self> {
        let folder = Arc::new(folder::Folder::open(dir)?);
        Ok(Self { folder, clock, tool_router: Self::tool_router() })
    }

    #[tool(
        description = "Lists a folder of the scratch space.",
        annotations(title = "List files", read_only_hint = true, open_world_hint = false)
    )]
    fn list_files(&self, args: Parameters<ListArgs>) -> Result<Json<ListResult>, String> {
        let entries = self.folder.list(&args.0.path).map_err(|it| it.to_string())?;
        Ok(Json(ListResult { entries }))
    }

    #[tool(
        description = "Reads a text file of the scratch space.",
        annotations(title = "Read a file", read_only_hint = true, open_world_hint = false)
    )]
    fn read_file(&self, args: Parameters<PathArgs>) -> Result<String, String> {
        self.folder.read(&args.0.path).map_err(|it| it.to_string())
    }

    #[tool(
        description = "Writes a text file of the scratch space; replaces it where it exists.",
        annotations(
            title = "Write a file",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = true,
            open_world_hint = false
        )
    )]
    fn write_file(&self, args: Parameters<WriteArgs>) -> Result<String, String> {
        let WriteArgs { path, text } = args.0;
        self.folder.write(&path, &text).map_err(|it| it.to_string())?;
        Ok(format!("wrote {} bytes to {path}", text.len()))
    }

    #[tool(
        description = "Deletes a file of the scratch space.",
        annotations(
            title = "Delete a file",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = false,
            open_world_hint = false
        )
    )]
    fn delete_file(&self, args: Parameters<PathArgs>) -> Result<String, String> {
        self.folder.delete(&args.0.path).map_err(|it| it.to_string())?;
        Ok(format!("deleted {}", args.0.path))
    }

    #[tool(
        description = "Tells the time now, in a time zone.",
        annotations(title = "Time now", read_only_hint = true, open_world_hint = false)
    )]
    fn now(&self, args: Parameters<NowArgs>) -> Result<Json<TimeResult>, String> {
        let zone = zone(args.0.time_zone.as_deref().unwrap_or("UTC"))?;
        let UnixMillis(now) = self.clock.now();
        let now = i64::try_from(now)
            .ok()
            .and_then(|it| Timestamp::from_millisecond(it).ok())
            .ok_or("the clock is out of range")?;
        Ok(Json(told(&now.to_zoned_datetime(zone))))
    }

    #[tool(
        description = "Converts a time to another time zone.",
        annotations(title = "Convert a time", read_only_hint = true, open_world_hint = false)
    )]
    fn convert_time(&self, args: Parameters<ConvertArgs>) -> Result<Json<TimeResult>, String> {
        let zone = zone(&args.0.to)?;
        let time: Timestamp = args
            .0
            .time
            .parse()
            .or_else(|_| args.0.time.parse::<ZonedDateTime>().map(|it| it.timestamp()))
            .map_err(|_| format!("`{}` is not a time with an offset or zone", args.0.time))?;
        Ok(Json(told(&time.to_zoned_datetime(zone))))
    }

    #[tool(
        description = "Adds two numbers.",
        annotations(title = "Add", read_only_hint = true, open_world_hint = false)
    )]
    fn add(&self, args: Parameters<TwoNumbers>) -> Result<Json<NumberResult>, String> {
        number(args.0.a + args.0.b)
    }

    #[tool(
        description = "Multiplies two numbers.",
        annotations(title = "Multiply", read_only_hint = true, open_world_hint = false)
    )]
    fn multiply(&self, args: Parameters<TwoNumbers>) -> Result<Json<NumberResult>, String> {
        number(args.0.a * args.0.b)
    }

    #[tool(
        description = "Evaluates arithmetic: numbers, + - * / % ^ and parentheses.",
        annotations(title = "Evaluate", read_only_hint = true, open_world_hint = false)
    )]
    fn evaluate(&self, args: Parameters<EvaluateArgs>) -> Result<Json<NumberResult>, String> {
        let result = expression::evaluate(&args.0.expression).map_err(|it| it.to_string())?;
        Ok(Json(NumberResult { result }))
    }
}

#[tool_handler(router = self.tool_router)]
impl ServerHandler for DemoServer {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("althing-demo", env!("CARGO_PKG_VERSION")))
            .with_instructions("Files in a scratch folder, the time, and arithmetic.")
    }
}

fn number(result: f64) -> Result<Json<NumberResult>, String> {
    if result.is_finite() {
        Ok(Json(NumberResult { result }))
    } else {
        Err(expression::Error::NotFinite.to_string())
    }
}

fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name)
        .map_err(|_| format!("`{name}` is not an IANA time zone such as `Europe/Reykjavik`"))
}

fn told(time: &ZonedDateTime) -> TimeResult {
    TimeResult {
        time: time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        time_zone: time.time_zone().iana_name().unwrap_or("UTC").to_owned(),
        weekday: time.strftime("%A").to_string(),
    }
}

#[cfg(test)]
mod tests;
