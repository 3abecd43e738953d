//! Reading the log: pages of entries, and sums. Blocking: for `spawn_blocking`. Each has a time limit.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rusqlite::{Connection, ErrorCode, ToSql, params_from_iter};

use super::day::{self, Day};
use super::schema::{self, COLUMNS, read_row, signed};
use crate::record::{Kind, Record, Status};

/// The largest page.
pub const PAGE_MAX: usize = 1000;
/// the database's steps between two looks at the clock.
const STEPS: std::ffi::c_int = 10_000;

/// Which entries are wanted; all of the fields that are given must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Not before, milliseconds since 1970.
    pub from_ms: Option<u64>,
    /// Before, milliseconds since 1970.
    pub to_ms: Option<u64>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// Of this virtual key.
    pub key: Option<String>,
    /// Of this team.
    pub team: Option<String>,
    /// Of this customer.
    pub customer: Option<String>,
    /// Served by this provider.
    pub provider: Option<String>,
    /// Served by this model.
    pub model: Option<String>,
    /// Of this MCP server.
    pub server: Option<String>,
    /// Of this tool.
    pub tool: Option<String>,
    /// That ended so.
    pub status: Option<Status>,
    /// That took at least this long.
    pub latency_ms_min: Option<u64>,
    /// That cost at least this.
    pub cost_nano_usd_min: Option<u64>,
    /// That belong to this model request.
    pub parent: Option<u128>,
    /// Whose model, tool or error contains this, whatever the case (of ASCII letters), or whose id it is.
    pub search: Option<String>,
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The record, without its bodies.
    pub record: Record,
    /// Whether bodies were kept ([`super::RequestLog::bodies`]; they may be gone before the entry is).
    pub has_bodies: bool,
}

/// A place in the log: the last entry of a page. Opaque to callers, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    at_ms: u64,
    id: u128,
    node: String,
}

/// Text that is not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor: use `next` of the page before, as it is")]
pub struct CursorError;

/// Some entries, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The entries.
    pub entries: Vec<Entry>,
    /// Where the next page begins, if there may be one.
    pub next: Option<Cursor>,
    /// Whether everything that was answered before the question is in it. False where the index lags behind, or the
    /// file of a day is damaged (the node's log says which).
    pub is_complete: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// It took too long.
    #[error(
        "the query took longer than {0:?}; ask for a shorter time (`from`, `to`) or fewer filters"
    )]
    TimedOut(Duration),
    /// More groups than are answered.
    #[error("more than {0} groups; ask for a shorter time or group by less")]
    TooManyGroups(usize),
    /// The files cannot be read.
    #[error("the request log cannot be read")]
    Database(#[source] rusqlite::Error),
    /// The folder cannot be read.
    #[error("the folder of the request log cannot be read")]
    Io(#[source] std::io::Error),
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(24 + self.node.len());
        bytes.extend_from_slice(&self.at_ms.to_be_bytes());
        bytes.extend_from_slice(&self.id.to_be_bytes());
        bytes.extend_from_slice(self.node.as_bytes());
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError)?;
        let (at, rest) = bytes.split_first_chunk::<8>().ok_or(CursorError)?;
        let (id, node) = rest.split_first_chunk::<16>().ok_or(CursorError)?;
        let node = std::str::from_utf8(node).map_err(|_| CursorError)?.to_owned();
        Ok(Self { at_ms: u64::from_be_bytes(*at), id: u128::from_be_bytes(*id), node })
    }
}

impl Cursor {
    /// The place of `record`.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        Self { at_ms: record.at_ms, id: record.id, node: record.node.to_string() }
    }
}

/// A time limit that begins now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    until: tokio::time::Instant,
    limit: Duration,
}

impl Deadline {
    pub(super) fn after(limit: Duration) -> Self {
        Self { until: tokio::time::Instant::now() + limit, limit }
    }

    /// Opens a day's file so that nothing on it outlives the limit.
    pub(super) fn open(self, path: &Path) -> Result<Option<Connection>, QueryError> {
        let Some(mut connection) = schema::open_to_read(path).map_err(|it| self.error(it))? else {
            return Ok(None);
        };
        let is_over = move || self.until <= tokio::time::Instant::now();
        if is_over() {
            return Err(QueryError::TimedOut(self.limit));
        }
        connection.progress_handler(STEPS, Some(is_over)).map_err(QueryError::Database)?;
        Ok(Some(connection))
    }

    pub(super) fn error(self, error: rusqlite::Error) -> QueryError {
        match error.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) => QueryError::TimedOut(self.limit),
            _ => QueryError::Database(error),
        }
    }
}

/// Runs `read` on the file of each day from `days`, newest first, until it says that it has enough. A damaged day is
/// skipped and told. Gives whether all could be read.
pub(super) fn each_day(
    dir: &Path,
    (from_ms, to_ms): (u64, u64),
    deadline: Deadline,
    read: &mut dyn FnMut(&Connection) -> rusqlite::Result<bool>,
) -> Result<bool, QueryError> {
    let mut is_complete = true;
    for day in day::list(dir).map_err(QueryError::Io)?.into_iter().rev() {
        if day.end_ms() <= from_ms || to_ms <= day.start_ms() {
            continue;
        }
        let result = deadline.open(&day.file(dir)).and_then(|file| match file {
            Some(connection) => read(&connection).map_err(|it| deadline.error(it)),
            None => Ok(true),
        });
        match result {
            Ok(true) => {}
            Ok(false) => return Ok(is_complete),
            Err(QueryError::Database(error)) if schema::is_corrupt(&error) => {
                tracing::error!(%error, %day, "the request log of a day is damaged: it is left out of the answer");
                is_complete = false;
            }
            Err(other) => return Err(other),
        }
    }
    Ok(is_complete)
}

/// A page, newest first.
pub(super) fn logs(
    dir: &Path,
    filter: &Filter,
    cursor: Option<&Cursor>,
    limit: usize,
    deadline: Deadline,
) -> Result<Page, QueryError> {
    let limit = limit.clamp(1, PAGE_MAX);
    let upper = cursor
        .map_or(u64::MAX, |it| it.at_ms.saturating_add(1))
        .min(filter.to_ms.unwrap_or(u64::MAX));
    let clauses = Clauses::of(filter, cursor);
    let mut entries: Vec<Entry> = Vec::new();
    let is_complete =
        each_day(dir, (filter.from_ms.unwrap_or(0), upper), deadline, &mut |connection| {
            let before = entries.len();
            let result = clauses.read(connection, limit + 1 - before, &mut entries);
            if result.is_err() {
                entries.truncate(before);
            }
            result.map(|()| entries.len() <= limit)
        })?;
    let has_more = limit < entries.len();
    entries.truncate(limit);
    let next = entries.last().filter(|_| has_more).map(|it| Cursor::of(&it.record));
    Ok(Page { entries, next, is_complete })
}

/// One entry, looked for on the day that its id names (a version 7 UUID begins with its milliseconds), then on the
/// days beside it: a call's id and its time are read from the clock one after the other.
pub(super) fn entry(dir: &Path, id: u128, deadline: Deadline) -> Result<Option<Entry>, QueryError> {
    let minted_ms = u64::try_from(id >> 80).unwrap_or(0);
    let day = Day::of(minted_ms);
    for day in [day, day.before(1), Day::of(day.end_ms())] {
        let Some(connection) = deadline.open(&day.file(dir))? else { continue };
        let sql = format!("SELECT {COLUMNS} FROM records WHERE id = ?1");
        match connection.query_row(&sql, [id.to_be_bytes()], read_row) {
            Ok((record, has_bodies)) => return Ok(Some(Entry { record, has_bodies })),
            Err(rusqlite::Error::QueryReturnedNoRows) => {}
            Err(error) => return Err(deadline.error(error)),
        }
    }
    Ok(None)
}

/// The bodies of a call, if they are still there.
pub(super) fn bodies(
    dir: &Path,
    id: u128,
    at_ms: u64,
    deadline: Deadline,
) -> Result<Option<StoredBodies>, QueryError> {
    let Some(connection) = deadline.open(&Day::of(at_ms).file(dir))? else { return Ok(None) };
    let sql = "SELECT request, request_bytes, response, response_bytes FROM bodies WHERE id = ?1";
    let row = connection.query_row(sql, [id.to_be_bytes()], |row| {
        Ok(StoredBodies {
            request: row.get(0)?,
            request_bytes: schema::read_count(row, 1)?,
            response: row.get(2)?,
            response_bytes: schema::read_count(row, 3)?,
        })
    });
    match row {
        Ok(found) => Ok(Some(found)),
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
        Err(error) => Err(deadline.error(error)),
    }
}

/// As the file has them: compressed.
pub(super) struct StoredBodies {
    pub(super) request: Vec<u8>,
    pub(super) request_bytes: u64,
    pub(super) response: Vec<u8>,
    pub(super) response_bytes: u64,
}

/// The id that a text is, as answers and errors show it: a UUID, with hyphens or without.
fn id_of(text: &str) -> Option<u128> {
    let digits: String = text.trim().chars().filter(|it| *it != '-').take(33).collect();
    let is_whole = digits.len() == 32 && digits.bytes().all(|it| it.is_ascii_hexdigit());
    is_whole.then(|| u128::from_str_radix(&digits, 16).ok()).flatten()
}

#[derive(Default)]
struct Clauses {
    terms: Vec<String>,
    values: Vec<Box<dyn ToSql>>,
}

impl Clauses {
    fn of(filter: &Filter, cursor: Option<&Cursor>) -> Self {
        let mut it = Self::default();
        // Always there: without a bound on the time, the whole day is scanned and sorted.
        it.number("at >=", Some(filter.from_ms.unwrap_or(0)));
        it.number("at <", filter.to_ms);
        it.number("latency_ms >=", filter.latency_ms_min);
        it.number("cost >=", filter.cost_nano_usd_min);
        it.number("kind =", filter.kind.map(|it| u64::from(it.code())));
        it.number("status =", filter.status.map(|it| u64::from(it.code())));
        if filter.status.is_some_and(|it| it != Status::Ok) {
            // Said again as the partial index says it, or it is not used.
            it.terms.push("status <> 0".to_owned());
        }
        let names = [
            ("key", &filter.key),
            ("team", &filter.team),
            ("customer", &filter.customer),
            ("provider", &filter.provider),
            ("model", &filter.model),
            ("server", &filter.server),
            ("tool", &filter.tool),
        ];
        for (column, name) in names {
            if let Some(name) = name {
                let place = it.place(name.clone());
                it.terms.push(format!("{column} = {place}"));
            }
        }
        if let Some(parent) = filter.parent {
            let place = it.place(parent.to_be_bytes());
            it.terms.push(format!("parent = {place}"));
        }
        if let Some(search) = &filter.search {
            let place = it.place(format!("%{}%", escape_like(search)));
            let like = ["model", "tool", "error"]
                .map(|column| format!("{column} LIKE {place} ESCAPE '\\'"));
            let mut any = like.join(" OR ");
            if let Some(id) = id_of(search) {
                let place = it.place(id.to_be_bytes());
                any = format!("{any} OR id = {place}");
            }
            it.terms.push(format!("({any})"));
        }
        if let Some(cursor) = cursor {
            let at = it.place(signed(cursor.at_ms));
            let node = it.place(cursor.node.clone());
            let id = it.place(cursor.id.to_be_bytes());
            it.terms.push(format!("at <= {at}"));
            it.terms.push(format!("(at < {at} OR node < {node} OR (node = {node} AND id < {id}))"));
        }
        it
    }

    fn number(&mut self, term: &str, value: Option<u64>) {
        if let Some(value) = value {
            let place = self.place(signed(value));
            self.terms.push(format!("{term} {place}"));
        }
    }

    fn place(&mut self, value: impl ToSql + 'static) -> String {
        self.values.push(Box::new(value));
        format!("?{}", self.values.len())
    }

    fn read(
        &self,
        connection: &Connection,
        count: usize,
        out: &mut Vec<Entry>,
    ) -> rusqlite::Result<()> {
        let mut statement = connection.prepare(&self.sql(count))?;
        let mut rows = statement.query(params_from_iter(&self.values))?;
        while let Some(row) = rows.next()? {
            let (record, has_bodies) = read_row(row)?;
            out.push(Entry { record, has_bodies });
        }
        Ok(())
    }

    fn sql(&self, count: usize) -> String {
        let wanted = self.terms.join(" AND ");
        let order = "ORDER BY at DESC, node DESC, id DESC";
        format!("SELECT {COLUMNS} FROM records WHERE {wanted} {order} LIMIT {count}")
    }
}

fn escape_like(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests;
