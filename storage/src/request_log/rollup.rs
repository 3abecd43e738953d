//! Sums by minute and name, kept beside the rows in the same transaction, so that usage never scans rows.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, params_from_iter, types::Value};

use super::schema::signed;
use crate::record::{Record, Status};

/// The upper ends of the latency classes, milliseconds; a last one has no end.
pub const LATENCY_MS: [u64; 11] = [10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000];
pub(super) const MINUTE_MS: u64 = 60_000;

/// The names that a roll-up row is of. The order is that of the table.
pub(super) const NAMES: [&str; 7] =
    ["key", "team", "customer", "provider", "model", "server", "tool"];

/// What a number of calls used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Calls.
    pub calls: u64,
    /// Of them, those that did not end `ok`.
    pub errors: u64,
    /// Tokens read.
    pub input: u64,
    /// Of those, from a cache.
    pub cached_input: u64,
    /// Tokens written to a cache.
    pub cache_write: u64,
    /// Tokens written.
    pub output: u64,
    /// Of those, hidden reasoning.
    pub reasoning: u64,
    /// Calls whose tokens are the gateway's own count.
    pub estimated: u64,
    /// Nano-dollars.
    pub cost_nano_usd: u64,
    /// Calls by latency class ([`LATENCY_MS`]).
    pub latency: [u64; 12],
}

impl Sums {
    /// Those of one call.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let class = LATENCY_MS.partition_point(|end| *end < record.latency_ms);
        let mut latency = [0; 12];
        if let Some(count) = latency.get_mut(class) {
            *count = 1;
        }
        Self {
            calls: 1,
            errors: u64::from(record.status != Status::Ok),
            input: record.tokens.input,
            cached_input: record.tokens.cached_input,
            cache_write: record.tokens.cache_write,
            output: record.tokens.output,
            reasoning: record.tokens.reasoning,
            estimated: u64::from(record.tokens.estimated),
            cost_nano_usd: record.cost_nano_usd,
            latency,
        }
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        let mut mine = self.to_numbers();
        for (sum, more) in mine.iter_mut().zip(other.to_numbers()) {
            *sum = sum.saturating_add(more);
        }
        *self = Self::from_numbers(&mine);
    }

    pub(super) fn to_numbers(self) -> [u64; 21] {
        let [h0, h1, h2, h3, h4, h5, h6, h7, h8, h9, h10, h11] = self.latency;
        [
            self.calls,
            self.errors,
            self.input,
            self.cached_input,
            self.cache_write,
            self.output,
            self.reasoning,
            self.estimated,
            self.cost_nano_usd,
            h0,
            h1,
            h2,
            h3,
            h4,
            h5,
            h6,
            h7,
            h8,
            h9,
            h10,
            h11,
        ]
    }

    pub(super) fn from_numbers(numbers: &[u64; 21]) -> Self {
        let [
            calls,
            errors,
            input,
            cached_input,
            cache_write,
            output,
            reasoning,
            estimated,
            cost_nano_usd,
            latency @ ..,
        ] = *numbers;
        Self {
            calls,
            errors,
            input,
            cached_input,
            cache_write,
            output,
            reasoning,
            estimated,
            cost_nano_usd,
            latency,
        }
    }
}

/// The table's columns of [`Sums::to_numbers`].
pub(super) const SUMS: [&str; 21] = [
    "calls",
    "errors",
    "input",
    "cached_input",
    "cache_write",
    "output",
    "reasoning",
    "estimated",
    "cost",
    "h0",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "h7",
    "h8",
    "h9",
    "h10",
    "h11",
];

type Key = (u64, [Option<Arc<str>>; 7]);

/// The sums of one batch.
#[derive(Debug, Default)]
pub(super) struct Rollup(HashMap<Key, Sums>);

impl Rollup {
    pub(super) fn add(&mut self, record: &Record) {
        let names = [
            record.key.clone(),
            record.team.clone(),
            record.customer.clone(),
            record.provider.clone(),
            record.model.clone(),
            record.server.clone(),
            record.tool.clone(),
        ];
        self.0.entry((record.at_ms / MINUTE_MS, names)).or_default().add(&Sums::of(record));
    }

    /// Adds what was gathered to the table.
    pub(super) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(&upsert())?;
        for ((minute, names), sums) in &self.0 {
            let minute = std::iter::once(Value::Integer(signed(*minute)));
            let names =
                names.iter().map(|it| Value::Text(it.as_deref().unwrap_or_default().to_owned()));
            let sums = sums.to_numbers().into_iter().map(|it| Value::Integer(signed(it)));
            statement.execute(params_from_iter(minute.chain(names).chain(sums)))?;
        }
        Ok(())
    }
}

fn upsert() -> String {
    let places = vec!["?"; 1 + NAMES.len() + SUMS.len()].join(",");
    let sets: Vec<_> = SUMS.iter().map(|it| format!("{it} = {it} + excluded.{it}")).collect();
    format!("INSERT INTO rollup VALUES ({places}) ON CONFLICT DO UPDATE SET {}", sets.join(", "))
}
