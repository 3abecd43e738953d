//! Puts records into the files of their days: rows, roll-ups and the hash chain in one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::chain::{self, Head};
use super::day::Day;
use super::rollup::Rollup;
use super::schema::{self, Content, signed};
use crate::record::Record;

/// Files that are open at once: today, and days that late records are of.
const OPEN_MAX: usize = 3;
const ZSTD_LEVEL: i32 = 1;

/// Why records are not in the database. They stay in the spool.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// `SQLite` refused.
    #[error("the request log of {day} cannot be written")]
    Database {
        /// Whose file.
        day: Day,
        #[source]
        source: rusqlite::Error,
    },
    /// The bodies cannot be compressed, or a bad file not be moved aside.
    #[error("a file of the request log of {day} cannot be handled")]
    Io {
        /// Whose file.
        day: Day,
        #[source]
        source: io::Error,
    },
}

/// The writing side. There is one, on the mover's thread.
#[derive(Debug)]
pub(super) struct Writer {
    dir: PathBuf,
    bodies_dir: PathBuf,
    /// Most recently used first.
    open: Vec<DayFile>,
    bodies: Option<(Day, Connection)>,
    /// Files that were written since the last sync, open or not.
    written: BTreeSet<PathBuf>,
    /// Makes a file or a folder safe from a power loss: fsync(2), but for tests.
    pub(super) sync_path: fn(&Path) -> io::Result<()>,
    /// Files that were moved aside.
    pub(super) corrupt_files: u64,
}

#[derive(Debug)]
struct DayFile {
    day: Day,
    connection: Connection,
    head: Head,
}

impl Writer {
    pub(super) fn new(dir: &Path) -> Self {
        let bodies_dir = super::bodies_dir(dir);
        Self {
            dir: dir.to_owned(),
            bodies_dir,
            open: Vec::new(),
            bodies: None,
            written: BTreeSet::new(),
            sync_path,
            corrupt_files: 0,
        }
    }

    /// Stores `records`, each once however often it comes. All of a day or none. Gives how many were new.
    pub(super) fn insert(&mut self, records: &[Record], now_ms: u64) -> Result<u64, WriteError> {
        let mut days: BTreeMap<Day, Vec<&Record>> = BTreeMap::new();
        for record in records {
            days.entry(Day::of(record.at_ms)).or_default().push(record);
        }
        let mut new = 0;
        for (day, records) in days {
            new += match self.insert_day(day, &records) {
                Err(WriteError::Database { source, .. }) if schema::is_corrupt(&source) => {
                    self.put_aside(day, now_ms, &source)?;
                    self.insert_day(day, &records)?
                }
                Err(error) => {
                    // What it knows of the file may be wrong now: it is looked at anew.
                    self.close(day);
                    return Err(error);
                }
                Ok(new) => new,
            };
        }
        Ok(new)
    }

    /// The same with no file open.
    pub(super) fn anew(&self) -> Self {
        Self {
            corrupt_files: self.corrupt_files,
            written: self.written.clone(),
            sync_path: self.sync_path,
            ..Self::new(&self.dir)
        }
    }

    /// Makes what was inserted safe from a power loss. Says whether that succeeded.
    ///
    /// By hand, and not by a checkpoint: `SQLite` leaves the log alone while somebody reads behind its end, and files that were closed
    /// meanwhile would be forgotten.
    pub(super) fn sync(&mut self) -> bool {
        let mut paths = BTreeSet::new();
        for file in &self.written {
            let [file, log, _] = schema::files_of(file);
            paths.extend(file.parent().map(Path::to_owned));
            paths.extend([file, log]);
        }
        // Folders too, for files that are new; and the one that holds them.
        paths.extend(self.dir.parent().filter(|_| !self.written.is_empty()).map(Path::to_owned));
        for path in paths {
            match (self.sync_path)(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, path = %path.display(), "the request log cannot be synced; spool files stay until it can");
                    return false;
                }
                Ok(()) | Err(_) => {}
            }
        }
        self.written.clear();
        true
    }

    /// Closes the files of `day`, so that they can be deleted.
    pub(super) fn close(&mut self, day: Day) {
        self.open.retain(|it| it.day != day);
        if self.bodies.as_ref().is_some_and(|(it, _)| *it == day) {
            self.bodies = None;
        }
    }

    fn insert_day(&mut self, day: Day, records: &[&Record]) -> Result<u64, WriteError> {
        if self.insert_bodies(day, records)? {
            self.written.insert(day.file(&self.bodies_dir));
        }
        let file = self.day_file(day)?;
        let new = file.insert(records).map_err(|source| WriteError::Database { day, source })?;
        self.written.insert(day.file(&self.dir));
        Ok(new)
    }

    fn day_file(&mut self, day: Day) -> Result<&mut DayFile, WriteError> {
        let file = match self.open.iter().position(|it| it.day == day) {
            Some(at) => self.open.remove(at),
            None => DayFile::open(day, &day.file(&self.dir))
                .map_err(|source| WriteError::Database { day, source })?,
        };
        self.open.truncate(OPEN_MAX - 1);
        self.open.insert(0, file);
        let none = WriteError::Database { day, source: rusqlite::Error::InvalidQuery };
        self.open.first_mut().ok_or(none)
    }

    /// Whether there were any.
    fn insert_bodies(&mut self, day: Day, records: &[&Record]) -> Result<bool, WriteError> {
        if records.iter().all(|it| it.bodies.is_none()) {
            return Ok(false);
        }
        let database = |source| WriteError::Database { day, source };
        let io = |source| WriteError::Io { day, source };
        if self.bodies.as_ref().is_none_or(|(open, _)| *open != day) {
            fs::create_dir_all(&self.bodies_dir).map_err(io)?;
            let connection =
                schema::open(&day.file(&self.bodies_dir), Content::Bodies).map_err(database)?;
            self.bodies = Some((day, connection));
        }
        let Some((_, connection)) = &mut self.bodies else { return Ok(false) };
        let transaction = connection.transaction().map_err(database)?;
        {
            let mut statement =
                transaction.prepare_cached(schema::INSERT_BODIES).map_err(database)?;
            for record in records {
                let Some(bodies) = &record.bodies else { continue };
                let pack = |it: &[u8]| zstd::bulk::compress(it, ZSTD_LEVEL).map_err(io);
                let (request, response) =
                    (pack(&bodies.request.kept.0)?, pack(&bodies.response.kept.0)?);
                let (full_request, full_response) =
                    (bodies.request.full_bytes, bodies.response.full_bytes);
                let at = signed(record.at_ms);
                let row = params![
                    record.id.to_be_bytes(),
                    at,
                    request,
                    signed(full_request),
                    response,
                    signed(full_response)
                ];
                statement.execute(row).map_err(database)?;
            }
        }
        transaction.commit().map_err(database)?;
        Ok(true)
    }

    /// Moves what cannot be read aside, so that the day goes on in a new file.
    fn put_aside(
        &mut self,
        day: Day,
        now_ms: u64,
        cause: &rusqlite::Error,
    ) -> Result<(), WriteError> {
        self.close(day);
        let is_readable =
            |path: &Path, content| schema::open(path, content).is_ok_and(|it| quick_check(&it));
        let bodies = day.file(&self.bodies_dir);
        let is_bodies = bodies.exists() && !is_readable(&bodies, Content::Bodies);
        let path = if is_bodies { bodies } else { day.file(&self.dir) };
        tracing::error!(path = %path.display(), error = %cause,
            "a file of the request log is damaged: it is moved aside as .corrupt, and the log of that day begins anew");
        self.corrupt_files += 1;
        for file in schema::files_of(&path).iter().filter(|it| it.exists()) {
            let mut aside = file.as_os_str().to_owned();
            aside.push(format!(".{now_ms}.corrupt"));
            fs::rename(file, aside).map_err(|source| WriteError::Io { day, source })?;
        }
        Ok(())
    }
}

fn sync_path(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

fn quick_check(connection: &Connection) -> bool {
    connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))
        .is_ok_and(|it| it == "ok")
}

impl DayFile {
    fn open(day: Day, path: &Path) -> rusqlite::Result<Self> {
        let connection = schema::open(path, Content::Records)?;
        let head =
            chain::read_head(&connection, day).optional()?.unwrap_or_else(|| Head::first(day));
        Ok(Self { day, connection, head })
    }

    fn insert(&mut self, records: &[&Record]) -> rusqlite::Result<u64> {
        let transaction = self.connection.transaction()?;
        let mut head = self.head;
        let mut rollup = Rollup::default();
        let mut bytes = Vec::with_capacity(512);
        {
            let mut statement = transaction.prepare_cached(schema::INSERT)?;
            for record in records {
                let next = head.after(record, &mut bytes);
                if insert_row(&mut statement, record, &next)? == 1 {
                    head = next;
                    rollup.add(record);
                }
            }
        }
        rollup.write(&transaction)?;
        transaction.commit()?;
        let new = head.count - self.head.count;
        self.head = head;
        Ok(new)
    }
}

fn insert_row(
    statement: &mut rusqlite::CachedStatement<'_>,
    record: &Record,
    head: &Head,
) -> rusqlite::Result<usize> {
    statement.execute(params![
        signed(head.count),
        record.id.to_be_bytes(),
        signed(record.at_ms),
        record.node,
        record.kind.code(),
        record.key,
        record.team,
        record.customer,
        record.provider,
        record.provider_key,
        record.model,
        record.server,
        record.tool,
        record.status.code(),
        record.http_status,
        record.error,
        record.stream,
        signed(record.latency_ms),
        signed(record.overhead_us),
        record.attempts,
        signed(record.tokens.input),
        signed(record.tokens.cached_input),
        signed(record.tokens.cache_write),
        signed(record.tokens.output),
        signed(record.tokens.reasoning),
        record.tokens.estimated,
        signed(record.cost_nano_usd),
        record.parent.map(u128::to_be_bytes),
        record.arguments_sha256,
        record.arguments.as_ref().map(|it| it.0.as_ref()),
        record.bodies.is_some(),
        head.digest,
    ])
}
