//! JSON from strangers, read so that nobody behind us can read it another way.
//!
//! Of two equal keys one parser takes the first and another the last; of `name` and `Name` a lenient one takes
//! either. What policy reads therefore has neither: such a message is refused, not ranked.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// The longest key that a fault repeats, in bytes.
const KEY_SHOWN_MAX: usize = 64;

/// Why a text was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// Not JSON, or nested too deeply.
    #[error("not valid JSON: {problem}")]
    Syntax {
        /// What the parser says, with line and column.
        problem: String,
    },
    /// JSON, but not an object.
    #[error("must be a JSON object")]
    NotObject,
    /// A key stands twice.
    #[error("`{key}` stands twice")]
    Twice {
        /// The key.
        key: String,
    },
    /// A key that another reader might take for a known one.
    #[error("`{key}` could be taken for `{known}`: write it exactly so")]
    LooksLike {
        /// As it was written.
        key: String,
        /// The key it looks like.
        known: &'static str,
    },
    /// A key with characters that no key of the protocol has.
    #[error("`{key}` is not a key: keys here are printable ASCII")]
    Odd {
        /// As it was written.
        key: String,
    },
}

/// An object's fields, in order, values unread.
#[derive(Debug)]
pub(crate) struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// Reads an object. A key that is a case variant of one of `known` is refused, as is one that stands twice
    /// and one that is not printable ASCII.
    pub(crate) fn read(text: &'a str, known: &[&'static str]) -> Result<Self, Fault> {
        let fields: Self = serde_json::from_str(text)
            .map_err(|error| if error.is_data() { Fault::NotObject } else { syntax(&error) })?;
        let mut seen = HashSet::with_capacity(fields.0.len());
        for (key, _) in &fields.0 {
            if !key.bytes().all(|b| (0x20..0x7f).contains(&b)) {
                return Err(Fault::Odd { key: shown(key) });
            }
            if !seen.insert(key.as_str()) {
                return Err(Fault::Twice { key: shown(key) });
            }
            if let Some(known) = known.iter().find(|it| key.eq_ignore_ascii_case(it) && key != **it)
            {
                return Err(Fault::LooksLike { key: shown(key), known });
            }
        }
        Ok(fields)
    }

    /// The value of `key`, as written.
    pub(crate) fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|it| it.0 == key).map(|it| it.1)
    }

    /// The value of `key` where it is a string.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.get(key)?.get()).ok()
    }

    /// Every field, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|it| (it.0.as_str(), it.1))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Vec<(String, &'de RawValue)>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Object).map(Fields)
    }
}

/// Reads a value in which no object has a key twice, at any depth.
pub(crate) fn strict(text: &str) -> Result<Value, Fault> {
    let mut twice = None;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let unique = Unique { twice: &mut twice };
    if let Err(error) = serde::de::DeserializeSeed::deserialize(unique, &mut deserializer) {
        return Err(match twice {
            Some(key) => Fault::Twice { key: shown(&key) },
            None => syntax(&error),
        });
    }
    serde_json::from_str(text).map_err(|error| syntax(&error))
}

/// Walks a value and stops at the first key that stands twice.
struct Unique<'t> {
    twice: &'t mut Option<String>,
}

impl<'de> serde::de::DeserializeSeed<'de> for Unique<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if seen.contains(&key) {
                *self.twice = Some(key);
                return Err(serde::de::Error::custom("a key stands twice"));
            }
            seen.insert(key);
            map.next_value_seed(Unique { twice: self.twice })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Unique { twice: self.twice })?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// `value` as JSON text. Values of ours always have one.
pub(crate) fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

/// A raw value of JSON text that we made.
pub(crate) fn raw(text: String) -> Box<RawValue> {
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// Whether JSON text is an object.
pub(crate) fn is_object(raw: &RawValue) -> bool {
    raw.get().starts_with('{')
}

fn syntax(error: &serde_json::Error) -> Fault {
    Fault::Syntax { problem: error.to_string() }
}

fn shown(key: &str) -> String {
    let mut text: String = key.escape_debug().take(KEY_SHOWN_MAX).collect();
    if text.len() < key.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
