//! `GET /api/logs` and `GET /api/logs/{id}`: every model call and tool execution of this node, newest first.

use althing_domain::money::NanoUsd;
use althing_domain::time::UnixMillis;
use althing_storage::record::{Bodies, Kind, Record, Status};
use althing_storage::request_log::{Cursor, Entry, Filter, PAGE_MAX};
use axum::Json;
use axum::extract::{Path, RawQuery, State};
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::failure::Failure;
use super::params::Params;
use super::records::Records;
use crate::error::{Code, Error};

/// The query parameters of `GET /api/logs`.
pub const PARAMS: &[&str] = &[
    "from",
    "to",
    "kind",
    "key",
    "team",
    "customer",
    "provider",
    "model",
    "server",
    "tool",
    "status",
    "min_latency_ms",
    "min_cost_usd",
    "parent",
    "search",
    "limit",
    "cursor",
];
const LIMIT_DEFAULT: usize = 100;

/// A page of the log.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Logs {
    /// Newest first.
    pub logs: Vec<Log>,
    /// `cursor` of the next page; null on the last.
    pub next: Option<String>,
    /// False where the index lags behind or a day's file is damaged, so that entries may be missing.
    pub complete: bool,
}

/// One model call or tool execution.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Log {
    /// A version 7 UUID: `x-althing-request-id` of the answer.
    pub id: String,
    /// When it began, RFC 3339.
    pub at: String,
    /// The node that served it.
    pub node: String,
    /// `model_call` or `tool_call`.
    pub kind: &'static str,
    /// Name of the virtual key.
    pub key: Option<String>,
    /// Its team.
    pub team: Option<String>,
    /// Its customer.
    pub customer: Option<String>,
    /// The provider that was called last.
    pub provider: Option<String>,
    /// Which of the provider's keys.
    pub provider_key: Option<String>,
    /// The model.
    pub model: Option<String>,
    /// The MCP server.
    pub server: Option<String>,
    /// The tool.
    pub tool: Option<String>,
    /// `ok`, `refused`, `failed` or `cancelled`.
    pub status: &'static str,
    /// What the caller saw.
    pub http_status: u16,
    /// The stable error code.
    pub error: Option<String>,
    /// Whether the answer streamed.
    pub stream: bool,
    /// From the request to the last byte of the answer.
    pub latency_ms: u64,
    /// Of that, the gateway's own part.
    pub overhead_us: u64,
    /// Upstream calls that were made.
    pub attempts: u32,
    /// What was used.
    pub tokens: Tokens,
    /// What it cost, in US dollars.
    pub cost_usd: NanoUsd,
    /// The model request that a tool call belongs to.
    pub parent: Option<String>,
    /// SHA-256 of the tool's arguments, in hexadecimal.
    pub arguments_sha256: Option<String>,
}

/// What calls used.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Tokens {
    /// Read, those from a cache included.
    pub input: u64,
    /// Of those, from a cache.
    pub cached_input: u64,
    /// Written to a cache.
    pub cache_write: u64,
    /// Written, reasoning included.
    pub output: u64,
    /// Of those, hidden reasoning.
    pub reasoning: u64,
    /// Whether figures are the gateway's own count, because the vendor did not say.
    pub estimated: bool,
}

/// One entry with all that was kept of it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Detail {
    /// The entry.
    #[serde(flatten)]
    pub log: Log,
    /// The tool's arguments, where the configuration keeps them.
    pub arguments: Option<String>,
    /// The request's body, where the configuration keeps bodies.
    pub request: Option<KeptBody>,
    /// The answer's body, where the configuration keeps bodies.
    pub response: Option<KeptBody>,
}

/// A body that was kept.
#[derive(Debug, Serialize, JsonSchema)]
pub struct KeptBody {
    /// As text; what is not UTF-8 is replaced.
    pub text: String,
    /// How long it was; more than is here where it was cut.
    pub bytes: u64,
}

/// `GET /api/logs`.
///
/// # Errors
///
/// 400 that names a parameter; 503 where it takes too long.
pub async fn list(
    State(records): State<Records>,
    RawQuery(query): RawQuery,
) -> Result<Json<Logs>, Failure> {
    let params = Params::parse(query.as_deref(), PARAMS)?;
    let filter = filter(&params)?;
    let cursor: Option<Cursor> = params.with("cursor", str::parse)?;
    let limit = params.with("limit", |text| match text.parse() {
        Ok(limit @ 1..=PAGE_MAX) => Ok(limit),
        _ => Err(format!("must be a number from 1 to {PAGE_MAX}")),
    })?;
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    let page =
        records.ask(move |log, within| log.logs(&filter, cursor.as_ref(), limit, within)).await?;
    Ok(Json(Logs {
        logs: page.entries.iter().map(|it| Log::of(&it.record)).collect(),
        next: page.next.map(|it| it.to_string()),
        complete: page.is_complete,
    }))
}

/// `GET /api/logs/{id}`.
///
/// # Errors
///
/// 404 where there is no such entry (any more).
pub async fn one(
    State(records): State<Records>,
    Path(id): Path<String>,
) -> Result<Json<Detail>, Failure> {
    let none = || {
        Error::new(
            Code::NotFound,
            "there is no record with this id; perhaps it was of another node, or is gone by now",
        )
    };
    let id: Uuid = id.parse().map_err(|_| none())?;
    let found = records
        .ask(move |log, within| {
            let Some(entry) = log.entry(id.as_u128(), within)? else { return Ok(None) };
            let bodies = if entry.has_bodies { log.bodies(&entry.record, within)? } else { None };
            Ok(Some((entry, bodies)))
        })
        .await?;
    let (entry, bodies) = found.ok_or_else(none)?;
    Ok(Json(Detail::of(&entry, bodies.as_ref())))
}

fn filter(params: &Params) -> Result<Filter, Error> {
    let (from_ms, to_ms) = params.period_ms()?;
    let kinds = [Kind::ModelCall, Kind::ToolCall].map(Kind::as_str);
    let statuses = Status::ALL.map(Status::as_str);
    Ok(Filter {
        from_ms,
        to_ms,
        kind: params.one_of("kind", &kinds, Kind::parse)?,
        key: params.owned("key"),
        team: params.owned("team"),
        customer: params.owned("customer"),
        provider: params.owned("provider"),
        model: params.owned("model"),
        server: params.owned("server"),
        tool: params.owned("tool"),
        status: params.one_of("status", &statuses, Status::parse)?,
        latency_ms_min: params.parsed("min_latency_ms", "a whole number of milliseconds")?,
        cost_nano_usd_min: params.with("min_cost_usd", str::parse::<NanoUsd>)?.map(|it| it.0),
        parent: params.parsed::<Uuid>("parent", "the id of a request")?.map(|it| it.as_u128()),
        search: params.owned("search"),
    })
}

impl Log {
    fn of(record: &Record) -> Self {
        let text = |it: &Option<std::sync::Arc<str>>| it.as_deref().map(str::to_owned);
        let uuid = |it: u128| Uuid::from_u128(it).to_string();
        Self {
            id: uuid(record.id),
            at: UnixMillis(record.at_ms).to_rfc3339(),
            node: record.node.to_string(),
            kind: record.kind.as_str(),
            key: text(&record.key),
            team: text(&record.team),
            customer: text(&record.customer),
            provider: text(&record.provider),
            provider_key: text(&record.provider_key),
            model: text(&record.model),
            server: text(&record.server),
            tool: text(&record.tool),
            status: record.status.as_str(),
            http_status: record.http_status,
            error: record.error.as_deref().map(str::to_owned),
            stream: record.stream,
            latency_ms: record.latency_ms,
            overhead_us: record.overhead_us,
            attempts: record.attempts,
            tokens: Tokens {
                input: record.tokens.input,
                cached_input: record.tokens.cached_input,
                cache_write: record.tokens.cache_write,
                output: record.tokens.output,
                reasoning: record.tokens.reasoning,
                estimated: record.tokens.estimated,
            },
            cost_usd: NanoUsd(record.cost_nano_usd),
            parent: record.parent.map(uuid),
            arguments_sha256: record
                .arguments_sha256
                .map(|it| it.iter().map(|byte| format!("{byte:02x}")).collect()),
        }
    }
}

impl Detail {
    fn of(entry: &Entry, bodies: Option<&Bodies>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let body = |it: &althing_storage::record::Body| KeptBody {
            text: text(&it.kept.0),
            bytes: it.full_bytes,
        };
        Self {
            log: Log::of(&entry.record),
            arguments: entry.record.arguments.as_ref().map(|it| text(&it.0)),
            request: bodies.map(|it| body(&it.request)),
            response: bodies.map(|it| body(&it.response)),
        }
    }
}
