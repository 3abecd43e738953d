//! What the files hold, and how they are opened.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row};

use crate::record::{Kind, Payload, Record, Status, Tokens};

const VERSION: i64 = 1;
const BUSY: Duration = Duration::from_secs(5);

/// One row a call, in the order of arrival (`seq`), each with the head of the hash chain after it.
const RECORDS: &str = "
CREATE TABLE records (
  seq INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, at INTEGER NOT NULL, node TEXT NOT NULL, kind INTEGER NOT NULL,
  key TEXT, team TEXT, customer TEXT, provider TEXT, provider_key TEXT, model TEXT, server TEXT, tool TEXT,
  status INTEGER NOT NULL, http_status INTEGER NOT NULL, error TEXT, stream INTEGER NOT NULL,
  latency_ms INTEGER NOT NULL, overhead_us INTEGER NOT NULL, attempts INTEGER NOT NULL,
  input INTEGER NOT NULL, cached_input INTEGER NOT NULL, cache_write INTEGER NOT NULL, output INTEGER NOT NULL,
  reasoning INTEGER NOT NULL, estimated INTEGER NOT NULL, cost INTEGER NOT NULL,
  parent BLOB, arguments_sha256 BLOB, arguments BLOB, has_bodies INTEGER NOT NULL, chain BLOB NOT NULL
) STRICT;
CREATE INDEX records_at ON records (at);
CREATE INDEX records_key ON records (key, at);
CREATE INDEX records_model ON records (model, at);
CREATE INDEX records_not_ok ON records (at) WHERE status <> 0;
CREATE INDEX records_parent ON records (parent) WHERE parent IS NOT NULL;
CREATE TABLE rollup (
  minute INTEGER NOT NULL, key TEXT NOT NULL, team TEXT NOT NULL, customer TEXT NOT NULL, provider TEXT NOT NULL,
  model TEXT NOT NULL, server TEXT NOT NULL, tool TEXT NOT NULL,
  calls INTEGER NOT NULL, errors INTEGER NOT NULL, input INTEGER NOT NULL, cached_input INTEGER NOT NULL,
  cache_write INTEGER NOT NULL, output INTEGER NOT NULL, reasoning INTEGER NOT NULL, estimated INTEGER NOT NULL,
  cost INTEGER NOT NULL, h0 INTEGER NOT NULL, h1 INTEGER NOT NULL, h2 INTEGER NOT NULL, h3 INTEGER NOT NULL,
  h4 INTEGER NOT NULL, h5 INTEGER NOT NULL, h6 INTEGER NOT NULL, h7 INTEGER NOT NULL, h8 INTEGER NOT NULL,
  h9 INTEGER NOT NULL, h10 INTEGER NOT NULL, h11 INTEGER NOT NULL,
  PRIMARY KEY (minute, key, team, customer, provider, model, server, tool)
) STRICT, WITHOUT ROWID;
";

const BODIES: &str = "
CREATE TABLE bodies (
  id BLOB PRIMARY KEY, at INTEGER NOT NULL, request BLOB NOT NULL, request_bytes INTEGER NOT NULL,
  response BLOB NOT NULL, response_bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

pub(super) const INSERT: &str = "
INSERT INTO records VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,?21,?22,?23,?24,
?25,?26,?27,?28,?29,?30,?31,?32) ON CONFLICT (id) DO NOTHING";

pub(super) const INSERT_BODIES: &str =
    "INSERT INTO bodies VALUES (?1,?2,?3,?4,?5,?6) ON CONFLICT DO NOTHING";

/// Of [`read_row`], in its order.
pub(super) const COLUMNS: &str = "id, at, node, kind, key, team, customer, provider, provider_key, model, server, tool, \
status, http_status, error, stream, latency_ms, overhead_us, attempts, input, cached_input, cache_write, output, \
reasoning, estimated, cost, parent, arguments_sha256, arguments, has_bodies";

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Records,
    Bodies,
}

/// Opens a file for writing, making it if it is not there.
pub(super) fn open(path: &Path, content: Content) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -4096)?;
    connection.pragma_update(None, "journal_size_limit", 16 * 1024 * 1024)?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == 0 {
        let tables = match content {
            Content::Records => RECORDS,
            Content::Bodies => BODIES,
        };
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {tables} PRAGMA user_version = {VERSION}; COMMIT;"
        ))?;
    } else if version != VERSION {
        return Err(rusqlite::Error::InvalidColumnType(
            0,
            "user_version".into(),
            rusqlite::types::Type::Integer,
        ));
    }
    Ok(connection)
}

/// Opens a file for reading; `None` where there is none.
pub(super) fn open_to_read(path: &Path) -> rusqlite::Result<Option<Connection>> {
    // Not read-only for SQLite, which then could not recover a log that a killed process left.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    match Connection::open_with_flags(path, flags) {
        Err(error)
            if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) && !path.exists() =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
        Ok(connection) => {
            connection.busy_timeout(BUSY)?;
            connection.pragma_update(None, "query_only", true)?;
            Ok(Some(connection))
        }
    }
}

/// Whether the file itself is bad, so that trying again cannot help.
pub(super) fn is_corrupt(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(cause, text) => {
            let no_table = text
                .as_ref()
                .is_some_and(|it| it.starts_with("no such ") || it.contains("has no column"));
            matches!(cause.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) || no_table
        }
        rusqlite::Error::SqlInputError { .. } => true,
        rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::FromSqlConversionFailure(..) => {
            true
        }
        _ => false,
    }
}

/// The files that `SQLite` keeps beside `path`, itself first.
pub(super) fn files_of(path: &Path) -> [PathBuf; 3] {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    [path.to_owned(), with("-wal"), with("-shm")]
}

/// A record as the database holds it: without its bodies, and whether there were any.
pub(super) fn read_row(row: &Row<'_>) -> rusqlite::Result<(Record, bool)> {
    let id = read_id(row, 0)?;
    let kind = Kind::from_code(row.get(3)?).ok_or_else(|| unknown(3, "kind"))?;
    let mut record = Record::new(id, read_count(row, 1)?, row.get(2)?, kind);
    let text = |at: usize| row.get::<_, Option<Arc<str>>>(at);
    record.key = text(4)?;
    record.team = text(5)?;
    record.customer = text(6)?;
    record.provider = text(7)?;
    record.provider_key = text(8)?;
    record.model = text(9)?;
    record.server = text(10)?;
    record.tool = text(11)?;
    record.status = Status::from_code(row.get(12)?).ok_or_else(|| unknown(12, "status"))?;
    record.http_status = row.get(13)?;
    record.error = row.get::<_, Option<String>>(14)?.map(Cow::Owned);
    record.stream = row.get(15)?;
    record.latency_ms = read_count(row, 16)?;
    record.overhead_us = read_count(row, 17)?;
    record.attempts = row.get(18)?;
    record.tokens = Tokens {
        input: read_count(row, 19)?,
        cached_input: read_count(row, 20)?,
        cache_write: read_count(row, 21)?,
        output: read_count(row, 22)?,
        reasoning: read_count(row, 23)?,
        estimated: row.get(24)?,
    };
    record.cost_nano_usd = read_count(row, 25)?;
    record.parent = row.get::<_, Option<[u8; 16]>>(26)?.map(u128::from_be_bytes);
    record.arguments_sha256 = row.get(27)?;
    record.arguments = row.get::<_, Option<Vec<u8>>>(28)?.map(|it| Payload(Bytes::from(it)));
    Ok((record, row.get(29)?))
}

fn read_id(row: &Row<'_>, at: usize) -> rusqlite::Result<u128> {
    row.get::<_, [u8; 16]>(at).map(u128::from_be_bytes)
}

/// A number that is never negative; one that is was not written by us.
pub(super) fn read_count(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(at).map(|it| u64::try_from(it).unwrap_or(0))
}

/// As `SQLite`'s signed integer.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unknown(at: usize, name: &str) -> rusqlite::Error {
    rusqlite::Error::InvalidColumnType(at, name.into(), rusqlite::types::Type::Integer)
}
