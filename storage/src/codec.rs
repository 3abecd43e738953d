//! The frame in which everything durable is stored, and the only place that names bincode.
//!
//! A frame is `{codec: u8, version: u16, length: u32, crc: u32}` (little endian) and then the payload. The codec byte says
//! how the payload was encoded, so that the encoder can be replaced without touching data that exists; the version
//! says which shape it has. The checksum covers the header as well. Limits are checked before anything is allocated.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The codec of this build: bincode 2, standard configuration (little endian, variable-length integers).
const BINCODE_2: u8 = 1;

/// Bytes of a frame before its payload.
pub const HEADER_BYTES: usize = 11;

/// No payload is longer than this. A command is at most a few hundred KiB; a snapshot record is one policy object.
pub const PAYLOAD_BYTES_MAX: usize = 32 << 20;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes end before the frame does.
    #[error("{got} bytes where {needed} were expected")]
    Short { got: usize, needed: usize },
    /// There is something behind the end of the frame.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// The payload is, or claims to be, larger than [`PAYLOAD_BYTES_MAX`].
    #[error("a payload of {0} bytes is larger than the limit of {PAYLOAD_BYTES_MAX}")]
    TooLarge(usize),
    /// The checksum does not match.
    #[error("wrong checksum")]
    Checksum,
    /// The codec byte is of a newer version, or of something else altogether.
    #[error("unknown codec {0}; a newer version of althing may have written this")]
    Codec(u8),
    /// The version of the payload is not one that this build reads.
    #[error("version {got} of {what} is not one that this build of althing reads")]
    Version { what: &'static str, got: u16 },
    /// The payload does not decode.
    #[error("cannot decode the payload: {0}")]
    Decode(String),
    /// The value cannot be encoded: a bug of ours.
    #[error("cannot encode the value: {0}")]
    Encode(String),
}

/// A checked frame, borrowed from the bytes that it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    pub codec: u8,
    pub version: u16,
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads the frame that is all of `bytes`.
    ///
    /// # Errors
    ///
    /// Every variant of [`Error`] that says how bytes can be wrong. Arbitrary bytes never panic.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        let (frame, rest) = Self::split(bytes)?;
        if rest.is_empty() { Ok(frame) } else { Err(Error::Trailing(rest.len())) }
    }

    /// Reads the frame at the front of `bytes` and returns what follows it.
    ///
    /// # Errors
    ///
    /// As [`Frame::read`].
    pub fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Error> {
        let short = Error::Short { got: bytes.len(), needed: HEADER_BYTES };
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(short)?;
        let [codec, v0, v1, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > PAYLOAD_BYTES_MAX {
            return Err(Error::TooLarge(length));
        }
        let (payload, rest) = rest
            .split_at_checked(length)
            .ok_or(Error::Short { got: bytes.len(), needed: length + HEADER_BYTES })?;
        let version = u16::from_le_bytes([v0, v1]);
        if u32::from_le_bytes([c0, c1, c2, c3]) != checksum(codec, version, payload) {
            return Err(Error::Checksum);
        }
        Ok((Self { codec, version, payload }, rest))
    }

    /// Decodes the payload.
    ///
    /// # Errors
    ///
    /// [`Error::Codec`] and [`Error::Decode`].
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, Error> {
        match self.codec {
            BINCODE_2 => decode(self.payload),
            other => Err(Error::Codec(other)),
        }
    }
}

/// Puts `payload` into a frame of `version`.
///
/// # Errors
///
/// [`Error::TooLarge`].
pub fn frame(version: u16, payload: &[u8]) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame_into(&mut out, version, payload)?;
    Ok(out)
}

/// Appends a frame of `version` around `payload` to `out`.
///
/// # Errors
///
/// [`Error::TooLarge`]; `out` is then unchanged.
pub fn frame_into(out: &mut Vec<u8>, version: u16, payload: &[u8]) -> Result<(), Error> {
    let length = u32::try_from(payload.len()).map_err(|_| Error::TooLarge(payload.len()))?;
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Error::TooLarge(payload.len()));
    }
    out.push(BINCODE_2);
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum(BINCODE_2, version, payload).to_le_bytes());
    out.extend_from_slice(payload);
    Ok(())
}

/// Encodes `value` into a frame of `version`.
///
/// # Errors
///
/// [`Error::Encode`] for a type that bincode cannot hold (untagged or flattened enums, `serde_json::Value`), and
/// [`Error::TooLarge`].
pub fn to_frame<T: Serialize>(version: u16, value: &T) -> Result<Vec<u8>, Error> {
    frame(version, &encode(value)?)
}

/// Encodes `value` without a frame.
///
/// # Errors
///
/// [`Error::Encode`].
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    bincode::serde::encode_to_vec(value, bincode::config::standard())
        .map_err(|e| Error::Encode(e.to_string()))
}

/// Decodes what [`encode`] made; all of `bytes` must be used.
///
/// # Errors
///
/// [`Error::Decode`] and [`Error::Trailing`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    // The limit of bincode is a constant, so there are three: what decoding may claim is at most a few times what is there.
    let decoded = match bytes.len() {
        0..=0x1_0000 => bincode::serde::decode_from_slice(
            bytes,
            bincode::config::standard().with_limit::<0x10_0000>(),
        ),
        0x1_0001..=0x10_0000 => bincode::serde::decode_from_slice(
            bytes,
            bincode::config::standard().with_limit::<0x100_0000>(),
        ),
        _ => bincode::serde::decode_from_slice(
            bytes,
            bincode::config::standard().with_limit::<0x1000_0000>(),
        ),
    };
    let (value, used) = decoded.map_err(|e| Error::Decode(e.to_string()))?;
    if used == bytes.len() { Ok(value) } else { Err(Error::Trailing(bytes.len() - used)) }
}

fn checksum(codec: u8, version: u16, payload: &[u8]) -> u32 {
    let [v0, v1] = version.to_le_bytes();
    let header = crc32c(!0, &[codec, v0, v1]);
    !crc32c(header, payload)
}

/// CRC-32C of `bytes`, as iSCSI and ext4 compute it.
#[must_use]
pub fn crc32c_of(bytes: &[u8]) -> u32 {
    !crc32c(!0, bytes)
}

/// Eight bytes at a time: each of them by a table of what it comes to after those behind it.
fn crc32c(mut crc: u32, bytes: &[u8]) -> u32 {
    let [t0, t1, t2, t3, t4, t5, t6, t7] = &CRC_TABLES;
    let (eights, rest) = bytes.as_chunks::<8>();
    for eight in eights {
        let both = u64::from_le_bytes(*eight) ^ u64::from(crc);
        crc = t7[(both & 0xff) as usize]
            ^ t6[(both >> 8 & 0xff) as usize]
            ^ t5[(both >> 16 & 0xff) as usize]
            ^ t4[(both >> 24 & 0xff) as usize]
            ^ t3[(both >> 32 & 0xff) as usize]
            ^ t2[(both >> 40 & 0xff) as usize]
            ^ t1[(both >> 48 & 0xff) as usize]
            ^ t0[(both >> 56) as usize];
    }
    for byte in rest {
        let at = (crc ^ u32::from(*byte)) & 0xff;
        crc = (crc >> 8) ^ CRC_TABLES[0][at as usize];
    }
    crc
}

static CRC_TABLES: [[u32; 256]; 8] = crc_tables();

/// The first is that of a byte by itself; each of the others that of the one before it, with a zero behind.
const fn crc_tables() -> [[u32; 256]; 8] {
    let mut tables = [crc_table(); 8];
    let mut at = 0;
    while at < 256 {
        let mut number = 1;
        while number < 8 {
            let before = tables[number - 1][at];
            tables[number][at] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            number += 1;
        }
        at += 1;
    }
    tables
}

const fn crc_table() -> [u32; 256] {
    let mut table = [0_u32; 256];
    let mut at = 0_u32;
    while at < 256 {
        let mut crc = at;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[at as usize] = crc;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests;
