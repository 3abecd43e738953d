//! Pages of lists.

use serde_json::{Value, json};

use super::call::{Call, Failure, Reply};
use crate::error::Error;

const LIMIT_DEFAULT: u64 = 100;
const LIMIT_MAX: u64 = 1000;

/// Which part of a list is wanted.
pub(super) struct Wanted {
    limit: usize,
    /// Where the page begins: after this place.
    pub(super) after: Option<String>,
    search: Option<String>,
}

impl Wanted {
    pub(super) fn of(call: &Call) -> Result<Self, Failure> {
        let limit = call.number("limit", LIMIT_DEFAULT, (1, LIMIT_MAX))?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let after = call.param("cursor").map(str::to_owned);
        let search = call.param("search").map(str::to_lowercase).filter(|it| !it.is_empty());
        Ok(Self { limit, after, search })
    }

    /// The cursor as a number.
    pub(super) fn after_number(&self) -> Result<u64, Failure> {
        let read = |it: &str| {
            it.parse().map_err(|_| {
                Failure::from(Error::field("cursor", "use `next` of the page before, as it is"))
            })
        };
        self.after.as_deref().map_or(Ok(0), read)
    }

    /// Whether one of `texts` contains what is searched for, whatever the case.
    pub(super) fn finds(&self, texts: &[&str]) -> bool {
        self.search
            .as_ref()
            .is_none_or(|wanted| texts.iter().any(|it| it.to_lowercase().contains(wanted.as_str())))
    }

    /// A page of `items`, each with the place that a next page would begin after.
    pub(super) fn page(&self, items: impl Iterator<Item = (String, Value)>) -> Reply {
        let mut found: Vec<(String, Value)> = items.take(self.limit.saturating_add(1)).collect();
        let more = self.limit < found.len();
        found.truncate(self.limit);
        let next = found.last().filter(|_| more).map(|(place, _)| place.clone());
        let items: Vec<Value> = found.into_iter().map(|(_, it)| it).collect();
        Reply::json(json!({ "items": items, "next": next }))
    }
}
