//! Digests, and bytes as hexadecimal text.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Digest as _;

/// 32 bytes that stand for something else: a SHA-256, or a keyed hash of a credential.
///
/// Written as 64 hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The SHA-256 of `parts`, one after the other.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = sha2::Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not hexadecimal digits of the right number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not hexadecimal digits of the expected number")]
pub struct HexError;

impl FromStr for Digest {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        from_hex(text)?.try_into().map(Self).map_err(|_| HexError)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Digest {
    fn schema_name() -> Cow<'static, str> {
        "Digest".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9a-f]{64}$" })
    }
}

const DIGITS: [char; 16] =
    ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|nibble| DIGITS[usize::from(nibble)]).collect()
}

fn from_hex(text: &str) -> Result<Vec<u8>, HexError> {
    let nibble =
        |b: u8| char::from(b).to_digit(16).and_then(|it| u8::try_from(it).ok()).ok_or(HexError);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(HexError) };
    pairs.iter().map(|[high, low]| Ok(nibble(*high)? << 4 | nibble(*low)?)).collect()
}

/// For `#[serde(with = "hex_bytes")]` on a `Vec<u8>`.
pub(crate) mod hex_bytes {
    use super::{Cow, Deserialize, Deserializer, Serializer, de, from_hex, to_hex};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_hex(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        from_hex(&Cow::<str>::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// For `#[serde(with = "hex_u128")]`: a number that JSON readers would round.
pub(crate) mod hex_u128 {
    use super::{Cow, Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(
        number: &u128,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{number:032x}"))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<u128, D::Error> {
        u128::from_str_radix(&Cow::<str>::deserialize(deserializer)?, 16).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{Digest, from_hex, to_hex};

    #[test]
    fn hexadecimal_text_reads_back() {
        let digest = Digest::of(&[b"abc"]);
        assert_eq!(
            digest.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(Digest::of(&[b"a", b"bc"]), digest);
    }

    #[test]
    fn what_is_not_hexadecimal_is_refused() {
        for text in ["0", "zz", "+1", "é"] {
            assert!(from_hex(text).is_err(), "{text}");
        }
        assert_eq!(from_hex(&to_hex(&[0, 127, 255])), Ok(vec![0, 127, 255]));
        assert!("00".parse::<Digest>().is_err());
    }
}
