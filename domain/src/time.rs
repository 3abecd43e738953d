//! Time as data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// As RFC 3339 in UTC, to the millisecond.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_millisecond(millis) {
            Ok(at) => format!("{at:.3}"),
            Err(_) => jiff::Timestamp::MAX.to_string(),
        }
    }

    /// Reads RFC 3339.
    ///
    /// # Errors
    ///
    /// The text of the failure, for a person.
    pub fn parse_rfc3339(text: &str) -> Result<Self, String> {
        let at: jiff::Timestamp = text
            .parse()
            .map_err(|_| format!("`{text}` is not a time like 2027-01-31T00:00:00Z"))?;
        Ok(Self(u64::try_from(at.as_millisecond()).unwrap_or(0)))
    }
}

/// Where wall time comes from. Production has one; tests move theirs by hand.
pub trait Clock: Send + Sync {
    /// The current time. May step backwards; never use it to measure a duration.
    fn now(&self) -> UnixMillis;
}
