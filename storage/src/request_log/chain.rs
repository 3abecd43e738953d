//! The hash chain of a day: each row's digest covers the row and the digest before it, so that a row which was
//! changed, removed or slipped in is found. Cutting rows off the end is found by comparing with a head that was
//! written down elsewhere.

use aws_lc_rs::digest;
use rusqlite::Connection;

use super::day::Day;
use super::schema::{COLUMNS, read_count, read_row};
use crate::record::{self, Bodies, Record};

/// The end of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Rows that it covers.
    pub count: u64,
    /// SHA-256 over the last row and the digest before it.
    pub digest: [u8; 32],
}

/// What checking a chain found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every row is as it was written. Compare with a head that was kept elsewhere.
    Whole(Head),
    /// The first row that does not fit, by its place in the day, counted from 1.
    Broken {
        /// Its place.
        at: u64,
    },
}

impl Head {
    pub(super) fn first(day: Day) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"althing request log of ");
        context.update(day.to_string().as_bytes());
        Self { count: 0, digest: finish(context) }
    }

    /// The head with `record` added. `bytes` is room to work in.
    pub(super) fn after(&self, record: &Record, bytes: &mut Vec<u8>) -> Self {
        bytes.clear();
        record::encode_entry(record, bytes);
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.digest);
        context.update(bytes);
        Self { count: self.count + 1, digest: finish(context) }
    }
}

fn finish(context: digest::Context) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

/// The head of a file; no row where it is empty.
pub(super) fn read_head(connection: &Connection, day: Day) -> rusqlite::Result<Head> {
    let row = "SELECT seq, chain FROM records ORDER BY seq DESC LIMIT 1";
    let first = Head::first(day);
    connection.query_row(row, [], |row| {
        Ok(Head { count: read_count(row, 0)?.max(first.count), digest: row.get(1)? })
    })
}

/// Walks a whole file.
pub(super) fn verify(connection: &Connection, day: Day) -> rusqlite::Result<Verdict> {
    let mut head = Head::first(day);
    let mut bytes = Vec::new();
    let mut statement =
        connection.prepare(&format!("SELECT {COLUMNS}, seq, chain FROM records ORDER BY seq"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let at = head.count + 1;
        let Ok((mut record, has_bodies)) = read_row(row) else { return Ok(Verdict::Broken { at }) };
        record.bodies = has_bodies.then(|| Box::new(Bodies::default()));
        head = head.after(&record, &mut bytes);
        let is_right = read_count(row, 30).ok() == Some(at)
            && row.get::<_, [u8; 32]>(31).ok() == Some(head.digest);
        if !is_right {
            return Ok(Verdict::Broken { at });
        }
    }
    Ok(Verdict::Whole(head))
}
