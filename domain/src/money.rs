//! Money, in whole billionths of a US dollar.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const NANOS_PER_USD: u64 = 1_000_000_000;
const TOKENS_PER_PRICE: u128 = 1_000_000;

/// An amount of money: 1 is one billionth of a US dollar.
///
/// Integers, because replicas must agree to the last digit and a sum of floats
/// depends on its order. Written as a decimal string of dollars (`"12.5"`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NanoUsd(pub u64);

/// A price for a million tokens, in nano-dollars: a token may cost a fraction of one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PerMillion(pub u64);

/// A text that is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not an amount in US dollars: write digits with at most nine after the point, for example \"12.50\""
)]
pub struct ParseUsdError {
    /// What was given.
    pub text: String,
}

impl NanoUsd {
    /// No money.
    pub const ZERO: Self = Self(0);
    /// The largest amount there is (about 18 billion dollars).
    pub const MAX: Self = Self(u64::MAX);

    /// The sum, or the largest amount there is.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// What is left after taking `other`, never below zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl PerMillion {
    /// What `tokens` cost, in millionths of a nano-dollar: sum such figures, then round once with [`round_up`].
    #[must_use]
    pub const fn exact(self, tokens: u64) -> u128 {
        self.0 as u128 * tokens as u128
    }
}

/// Rounds a sum of [`PerMillion::exact`] figures up to whole nano-dollars, once, at the total.
#[must_use]
pub fn round_up(exact: u128) -> NanoUsd {
    NanoUsd(u64::try_from(exact.div_ceil(TOKENS_PER_PRICE)).unwrap_or(u64::MAX))
}

impl fmt::Display for NanoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / NANOS_PER_USD, self.0 % NANOS_PER_USD);
        if part == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{part:09}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

impl FromStr for NanoUsd {
    type Err = ParseUsdError;

    fn from_str(text: &str) -> Result<Self, ParseUsdError> {
        parse_nanos(text)
            .map(Self)
            .ok_or_else(|| ParseUsdError { text: text.chars().take(64).collect() })
    }
}

fn parse_nanos(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |it: &str| it.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && part.is_empty()) || part.len() > 9 || !digits(whole) || !digits(part) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let part: u64 = format!("{part:0<9}").parse().ok()?;
    whole.checked_mul(NANOS_PER_USD)?.checked_add(part)
}

/// Reads a decimal string, or a JSON number as it was written.
struct UsdVisitor;

impl Visitor<'_> for UsdVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an amount in US dollars as a decimal string, for example \"12.50\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        NanoUsd::from_str(text).map(|it| it.0).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, usd: u64) -> Result<u64, E> {
        usd.checked_mul(NANOS_PER_USD).ok_or_else(|| E::custom("the amount is too large"))
    }

    fn visit_i64<E: de::Error>(self, usd: i64) -> Result<u64, E> {
        u64::try_from(usd)
            .map_err(|_| E::custom("an amount must not be negative"))
            .and_then(|it| self.visit_u64(it))
    }

    fn visit_f64<E: de::Error>(self, usd: f64) -> Result<u64, E> {
        // The shortest decimal that reads back as this number is what the author wrote.
        self.visit_str(&usd.to_string())
    }
}

macro_rules! usd_serde {
    ($name:ident, $schema:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(UsdVisitor).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&NanoUsd(self.0))
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                $schema.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": ["string", "number"],
                    "description": "US dollars as a decimal string, at most nine digits after the point (a number is accepted on input)",
                    "examples": ["12.50"]
                })
            }
        }
    };
}

usd_serde!(NanoUsd, "Usd");
usd_serde!(PerMillion, "UsdPerMillionTokens");

#[cfg(test)]
mod tests;
