//! Limits on money and on rates, as every level of policy may carry them.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::money::NanoUsd;

/// A ceiling on what may be spent in a period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The ceiling, in US dollars.
    pub limit_usd: NanoUsd,
    /// When spending starts again from zero.
    #[serde(default)]
    pub period: Period,
    /// The IANA time zone in which calendar periods turn, for example `Europe/Berlin`. UTC where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Whether the ceiling is reserved before a call or only counted after it.
    #[serde(default)]
    pub mode: BudgetMode,
    /// Shares of the limit, between 0 and 1, at which an operator is warned. Kept, and without effect until there are alerts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warn_at: Vec<Fraction>,
}

/// Whether a budget is a ceiling or a count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BudgetMode {
    /// Money is reserved before each call: the limit is never passed.
    #[default]
    Strict,
    /// Spending is counted after each call: what was in flight when the limit was reached may pass it.
    Soft,
}

/// The budgets of one object: one, or a list of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Budgets(pub Arc<[Budget]>);

impl JsonSchema for Budgets {
    fn schema_name() -> Cow<'static, str> {
        "Budgets".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<Budget>();
        let list = generator.subschema_for::<Vec<Budget>>();
        json_schema!({
            "description": "The budgets of one object: one, or a list of them.",
            "anyOf": [one, list]
        })
    }
}

impl<'de> Deserialize<'de> for Budgets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> serde::de::Visitor<'de> for OneOrMany {
            type Value = Vec<Budget>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a budget such as { limit_usd: \"50\", period: month }, or a list of budgets",
                )
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                map: A,
            ) -> Result<Vec<Budget>, A::Error> {
                Budget::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    .map(|it| vec![it])
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                seq: A,
            ) -> Result<Vec<Budget>, A::Error> {
                Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(seq))
            }
            fn visit_unit<E: serde::de::Error>(self) -> Result<Vec<Budget>, E> {
                Ok(Vec::new())
            }
        }
        deserializer.deserialize_any(OneOrMany).map(|it| Self(it.into()))
    }
}

/// When a budget's window ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Period {
    /// At each full hour.
    Hour,
    /// At midnight.
    Day,
    /// At midnight before Monday.
    Week,
    /// At midnight before the first of the month.
    Month,
    /// Never.
    #[default]
    Total,
    /// Rolling: spending older than this no longer counts.
    Rolling(Span),
}

/// A length of time, written `30s`, `5m`, `6h` or `7d`; in milliseconds inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub NonZeroU64);

/// A text that is not a period or a length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct PeriodError {
    /// What was given.
    pub text: String,
    /// What would do.
    pub expected: &'static str,
}

const SPAN_EXPECTED: &str = "a length of time such as 500ms, 30s, 5m, 6h or 7d";
const PERIOD_EXPECTED: &str =
    "one of hour, day, week, month, total, or a rolling length such as 6h";
const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl Span {
    /// So many seconds; one millisecond where that is none.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        match NonZeroU64::new(secs.saturating_mul(1_000)) {
            Some(millis) => Self(millis),
            None => Self(NonZeroU64::MIN),
        }
    }

    /// As a [`std::time::Duration`].
    #[must_use]
    pub const fn duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0.get())
    }
}

impl FromStr for Span {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        let error =
            || PeriodError { text: text.chars().take(64).collect(), expected: SPAN_EXPECTED };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let millis = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?.1;
        let number: u64 = number.parse().map_err(|_| error())?;
        number.checked_mul(millis).and_then(NonZeroU64::new).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.get();
        let (unit, size) = UNITS
            .iter()
            .rev()
            .find(|(_, size)| millis.is_multiple_of(*size))
            .copied()
            .unwrap_or(("ms", 1));
        write!(f, "{}{unit}", millis / size)
    }
}

impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        Ok(match text {
            "hour" => Self::Hour,
            "day" => Self::Day,
            "week" => Self::Week,
            "month" => Self::Month,
            "total" => Self::Total,
            _ => Self::Rolling(
                text.parse()
                    .map_err(|it: PeriodError| PeriodError { expected: PERIOD_EXPECTED, ..it })?,
            ),
        })
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hour => f.write_str("hour"),
            Self::Day => f.write_str("day"),
            Self::Week => f.write_str("week"),
            Self::Month => f.write_str("month"),
            Self::Total => f.write_str("total"),
            Self::Rolling(span) => span.fmt(f),
        }
    }
}

/// A share between 0 and 1, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fraction(pub u32);

impl FromStr for Fraction {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        let error = || PeriodError {
            text: text.chars().take(64).collect(),
            expected: "a share between 0 and 1, such as 0.8",
        };
        let nanos = text.parse::<NanoUsd>().map_err(|_| error())?.0;
        if 1_000_000_000 < nanos {
            return Err(error());
        }
        u32::try_from(nanos / 1_000).map(Self).map_err(|_| error())
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        NanoUsd(u64::from(self.0) * 1_000).fmt(f)
    }
}

macro_rules! text_serde {
    ($name:ident, $expecting:expr, $schema:tt) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl serde::de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }
                    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }
                }
                deserializer.deserialize_any(Text)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

text_serde!(Span, SPAN_EXPECTED, { "type": "string", "description": "A length of time: a number and ms, s, m, h or d.", "pattern": "^[0-9]+(ms|s|m|h|d)$", "examples": ["30s", "5m"] });
text_serde!(Period, PERIOD_EXPECTED, { "type": "string", "description": "hour, day, week, month, total, or a rolling length such as 6h.", "examples": ["month", "6h"] });
text_serde!(Fraction, "a share between 0 and 1", { "type": ["number", "string"], "description": "A share between 0 and 1.", "minimum": 0, "maximum": 1 });

/// A limit on how fast. Absent fields are not limited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Requests in each `per`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<NonZeroU64>,
    /// Tokens (input and output) in each `per`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<NonZeroU64>,
    /// Requests in flight at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<NonZeroU64>,
    /// The length of time that `requests` and `tokens` are counted over. One minute where absent.
    #[serde(default = "minute")]
    pub per: Span,
}

const MINUTE_MS: NonZeroU64 = NonZeroU64::MIN.saturating_add(59_999);

const fn minute() -> Span {
    Span(MINUTE_MS)
}

#[cfg(test)]
mod tests;
