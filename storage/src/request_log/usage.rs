//! Sums of usage over time and names, from the roll-ups.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, ToSql, params_from_iter};

use super::query::{Deadline, QueryError, each_day};
use super::rollup::{MINUTE_MS, SUMS, Sums};
use super::schema::{read_count, signed};

/// The most groups that one answer has.
pub const GROUPS_MAX: usize = 50_000;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// What usage is grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dimension {
    /// The virtual key.
    Key,
    /// The team.
    Team,
    /// The customer.
    Customer,
    /// The provider.
    Provider,
    /// The model.
    Model,
    /// The MCP server.
    Server,
    /// The tool.
    Tool,
    /// The hour, of UTC.
    Hour,
    /// The day, of UTC.
    Day,
}

impl Dimension {
    /// Each of them.
    pub const ALL: [Self; 9] = [
        Self::Key,
        Self::Team,
        Self::Customer,
        Self::Provider,
        Self::Model,
        Self::Server,
        Self::Tool,
        Self::Hour,
        Self::Day,
    ];

    /// As the API says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Team => "team",
            Self::Customer => "customer",
            Self::Provider => "provider",
            Self::Model => "model",
            Self::Server => "server",
            Self::Tool => "tool",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    /// Reads what [`Dimension::as_str`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }

    fn bucket_ms(self) -> Option<u64> {
        match self {
            Self::Hour => Some(HOUR_MS),
            Self::Day => Some(DAY_MS),
            _ => None,
        }
    }

    fn sql(self) -> String {
        match self.bucket_ms() {
            Some(bucket) => format!("minute / {}", bucket / MINUTE_MS),
            None => self.as_str().to_owned(),
        }
    }
}

/// What is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Not before; down to the whole minute.
    pub from_ms: Option<u64>,
    /// Before; up to the whole minute.
    pub to_ms: Option<u64>,
    /// Grouped by these, in this order; none: one row.
    pub group_by: Vec<Dimension>,
    /// Only where these names are so. Times cannot be filtered by.
    pub only: Vec<(Dimension, String)>,
}

/// Of which key, model or time a row is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// A name; `None` where the calls have none (a tool call has no model).
    Name(Option<Arc<str>>),
    /// The beginning of an hour or day, milliseconds since 1970.
    From(u64),
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// A row a group: a value for each dimension that was asked, in that order. Sorted by them.
    pub rows: Vec<(Vec<Group>, Sums)>,
    /// Of all rows together.
    pub total: Sums,
    /// See [`super::Page::is_complete`].
    pub is_complete: bool,
}

pub(super) fn usage(dir: &Path, wanted: &Usage, deadline: Deadline) -> Result<Answer, QueryError> {
    let (from_ms, to_ms) = (wanted.from_ms.unwrap_or(0), wanted.to_ms.unwrap_or(u64::MAX));
    let (sql, values) = statement(wanted, from_ms / MINUTE_MS, to_ms.div_ceil(MINUTE_MS));
    let mut groups: BTreeMap<Vec<Group>, Sums> = BTreeMap::new();
    let whole_minutes =
        ((from_ms / MINUTE_MS) * MINUTE_MS, to_ms.div_ceil(MINUTE_MS).saturating_mul(MINUTE_MS));
    let is_complete = each_day(dir, whole_minutes, deadline, &mut |connection| {
        for (group, sums) in read(connection, &sql, &values, &wanted.group_by)? {
            groups.entry(group).or_default().add(&sums);
        }
        Ok(groups.len() <= GROUPS_MAX)
    })?;
    if GROUPS_MAX < groups.len() {
        return Err(QueryError::TooManyGroups(GROUPS_MAX));
    }
    let mut total = Sums::default();
    groups.values().for_each(|it| total.add(it));
    Ok(Answer { rows: groups.into_iter().collect(), total, is_complete })
}

fn statement(wanted: &Usage, from: u64, until: u64) -> (String, Vec<Box<dyn ToSql>>) {
    let mut values: Vec<Box<dyn ToSql>> = vec![Box::new(signed(from)), Box::new(signed(until))];
    let mut terms = vec!["minute >= ?1".to_owned(), "minute < ?2".to_owned()];
    for (dimension, name) in &wanted.only {
        if dimension.bucket_ms().is_none() {
            values.push(Box::new(name.clone()));
            terms.push(format!("{} = ?{}", dimension.as_str(), values.len()));
        }
    }
    let groups: Vec<_> = wanted.group_by.iter().map(|it| it.sql()).collect();
    let sums = SUMS.map(|it| format!("SUM({it})")).join(", ");
    let terms = terms.join(" AND ");
    let sql = if groups.is_empty() {
        // Without a group SQL gives a row of nothing for no rows.
        format!("SELECT {sums} FROM rollup WHERE {terms} HAVING COUNT(*) > 0")
    } else {
        let groups = groups.join(", ");
        format!(
            "SELECT {groups}, {sums} FROM rollup WHERE {terms} GROUP BY {groups} LIMIT {}",
            GROUPS_MAX + 1
        )
    };
    (sql, values)
}

type Rows = Vec<(Vec<Group>, Sums)>;

fn read(
    connection: &Connection,
    sql: &str,
    values: &[Box<dyn ToSql>],
    group_by: &[Dimension],
) -> rusqlite::Result<Rows> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut group = Vec::with_capacity(group_by.len());
        for (at, dimension) in group_by.iter().enumerate() {
            group.push(match dimension.bucket_ms() {
                Some(bucket) => Group::From(read_count(row, at)?.saturating_mul(bucket)),
                None => {
                    Group::Name(row.get::<_, Option<Arc<str>>>(at)?.filter(|it| !it.is_empty()))
                }
            });
        }
        let mut numbers = [0; SUMS.len()];
        for (at, number) in numbers.iter_mut().enumerate() {
            *number = read_count(row, group_by.len() + at)?;
        }
        found.push((group, Sums::from_numbers(&numbers)));
    }
    Ok(found)
}
