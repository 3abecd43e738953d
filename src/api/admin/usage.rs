//! `GET /api/usage`: calls, errors, tokens and money, by key, team, customer, provider, model, server, tool and time.

use std::collections::BTreeMap;

use althing_domain::money::NanoUsd;
use althing_storage::request_log::{Day, Dimension, Group, Sums, Usage};
use axum::Json;
use axum::extract::{RawQuery, State};
use schemars::JsonSchema;
use serde::Serialize;

use super::failure::Failure;
use super::logs::Tokens;
use super::params::Params;
use super::records::Records;
use crate::error::Error;

/// The query parameters of `GET /api/usage`.
pub const PARAMS: &[&str] =
    &["from", "to", "group_by", "key", "team", "customer", "provider", "model", "server", "tool"];
const HOUR_MS: u64 = 3_600_000;

/// The answer.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Answer {
    /// One a group, sorted by the group's values.
    pub rows: Vec<Row>,
    /// Of all rows together.
    pub total: Totals,
    /// False where the index lags behind or a day's file is damaged, so that calls may be missing.
    pub complete: bool,
}

/// One group.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Row {
    /// A value for each of `group_by`; null where the calls have none (a tool call has no model). Hours are written
    /// `2026-11-25T08:00:00Z`, days `2026-11-25`.
    pub group: BTreeMap<&'static str, Option<String>>,
    /// Its sums.
    #[serde(flatten)]
    pub totals: Totals,
}

/// Sums.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Totals {
    /// Calls.
    pub calls: u64,
    /// Of them, those whose status is not `ok`.
    pub errors: u64,
    /// What they used. `estimated`: some of it is the gateway's own count.
    pub tokens: Tokens,
    /// What they cost, in US dollars.
    pub cost_usd: NanoUsd,
}

/// `GET /api/usage`. Times are down (`from`) and up (`to`) to the whole minute.
///
/// # Errors
///
/// 400 that names a parameter; 503 where it takes too long.
pub async fn usage(
    State(records): State<Records>,
    RawQuery(query): RawQuery,
) -> Result<Json<Answer>, Failure> {
    let params = Params::parse(query.as_deref(), PARAMS)?;
    let (from_ms, to_ms) = params.period_ms()?;
    let group_by = group_by(&params)?;
    let only = Dimension::ALL
        .iter()
        .filter_map(|it| params.owned(it.as_str()).map(|name| (*it, name)))
        .collect();
    let wanted = Usage { from_ms, to_ms, group_by: group_by.clone(), only };
    let answer = records.ask(move |log, within| log.usage(&wanted, within)).await?;
    let row = |(values, sums): &(Vec<Group>, Sums)| Row {
        group: group_by
            .iter()
            .zip(values)
            .map(|(it, value)| (it.as_str(), shown(*it, value)))
            .collect(),
        totals: Totals::of(sums),
    };
    Ok(Json(Answer {
        rows: answer.rows.iter().map(row).collect(),
        total: Totals::of(&answer.total),
        complete: answer.is_complete,
    }))
}

fn group_by(params: &Params) -> Result<Vec<Dimension>, Error> {
    let mut found = Vec::new();
    for word in params.text("group_by").into_iter().flat_map(|it| it.split(',')).map(str::trim) {
        let Some(dimension) = Dimension::parse(word) else {
            let word: String = word.chars().filter(|it| !it.is_control()).take(64).collect();
            let words = Dimension::ALL.map(Dimension::as_str).join(", ");
            return Err(Error::field("group_by", format!("`{word}` is not one of {words}")));
        };
        if found.contains(&dimension) {
            return Err(Error::field("group_by", format!("`{word}` is given twice")));
        }
        found.push(dimension);
    }
    if found.contains(&Dimension::Hour) && found.contains(&Dimension::Day) {
        return Err(Error::field("group_by", "give `hour` or `day`, not both"));
    }
    Ok(found)
}

fn shown(dimension: Dimension, value: &Group) -> Option<String> {
    match value {
        Group::Name(name) => name.as_deref().map(str::to_owned),
        Group::From(ms) if dimension == Dimension::Day => Some(Day::of(*ms).to_string()),
        Group::From(ms) => {
            let day = Day::of(*ms);
            Some(format!("{day}T{:02}:00:00Z", ms.saturating_sub(day.start_ms()) / HOUR_MS))
        }
    }
}

impl Totals {
    fn of(sums: &Sums) -> Self {
        Self {
            calls: sums.calls,
            errors: sums.errors,
            tokens: Tokens {
                input: sums.input,
                cached_input: sums.cached_input,
                cache_write: sums.cache_write,
                output: sums.output,
                reasoning: sums.reasoning,
                estimated: 0 < sums.estimated,
            },
            cost_usd: NanoUsd(sums.cost_nano_usd),
        }
    }
}
