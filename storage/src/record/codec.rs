//! A record as bytes: a version, then the fields in order. Compact, one pass, no allocation when encoding
//! into a buffer that is reused. Fields are only ever appended; a reader ignores what follows what it knows.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::{
    ARGUMENTS_BYTES_MAX, BODY_BYTES_MAX, Bodies, Body, Kind, Payload, Record, Status,
    TEXT_BYTES_MAX, Tokens,
};

const VERSION: u8 = 1;

/// No encoded record is longer: eleven texts, arguments and two bodies at their limits, and room for numbers.
pub const RECORD_BYTES_MAX: usize =
    11 * TEXT_BYTES_MAX + ARGUMENTS_BYTES_MAX + 2 * BODY_BYTES_MAX + 1024;

/// The last millisecond of the year 9999.
const AT_MS_MAX: u64 = 253_402_300_799_999;
/// Tokens and times above this are nonsense that an upstream sent; cut, so that sums cannot overflow.
const COUNT_MAX: u64 = u32::MAX as u64;
/// Nine million dollars for one call.
const COST_MAX: u64 = 1 << 53;

const STREAM: u8 = 1;
const ESTIMATED: u8 = 2;
const PARENT: u8 = 4;
const SHA256: u8 = 8;
const ARGUMENTS: u8 = 16;
const BODIES: u8 = 32;

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a version that this one does not know.
    #[error("a record of version {0}, which this version does not know")]
    Version(u8),
    /// They end too early or hold what no record holds.
    #[error("not a record")]
    Malformed,
}

/// Appends `record` to `out`. Numbers that nothing real reaches are cut, long texts too, at a character's border.
pub fn encode(record: &Record, out: &mut Vec<u8>) {
    encode_entry(record, out);
    if let Some(bodies) = &record.bodies {
        for body in [&bodies.request, &bodies.response] {
            put_bytes(out, head(&body.kept.0, BODY_BYTES_MAX));
            put_number(out, body.full_bytes);
        }
    }
}

/// Everything but the bodies, which live in another file for another time: what the hash chain covers.
pub(crate) fn encode_entry(record: &Record, out: &mut Vec<u8>) {
    out.push(VERSION);
    let flag = |is: bool, bit: u8| if is { bit } else { 0 };
    out.push(
        flag(record.stream, STREAM)
            | flag(record.tokens.estimated, ESTIMATED)
            | flag(record.parent.is_some(), PARENT)
            | flag(record.arguments_sha256.is_some(), SHA256)
            | flag(record.arguments.is_some(), ARGUMENTS)
            | flag(record.bodies.is_some(), BODIES),
    );
    out.push(record.kind.code());
    out.push(record.status.code());
    out.extend_from_slice(&record.id.to_be_bytes());
    put_bytes(out, cut(&record.node).as_bytes());
    let texts = [
        &record.key,
        &record.team,
        &record.customer,
        &record.provider,
        &record.provider_key,
        &record.model,
        &record.server,
        &record.tool,
    ];
    for text in texts {
        put_text(out, text.as_deref());
    }
    put_text(out, record.error.as_deref());
    let tokens = &record.tokens;
    let numbers = [
        record.at_ms.min(AT_MS_MAX),
        u64::from(record.http_status),
        record.latency_ms.min(COUNT_MAX),
        record.overhead_us.min(COUNT_MAX),
        u64::from(record.attempts),
        tokens.input.min(COUNT_MAX),
        tokens.cached_input.min(COUNT_MAX),
        tokens.cache_write.min(COUNT_MAX),
        tokens.output.min(COUNT_MAX),
        tokens.reasoning.min(COUNT_MAX),
        record.cost_nano_usd.min(COST_MAX),
    ];
    for number in numbers {
        put_number(out, number);
    }
    if let Some(parent) = record.parent {
        out.extend_from_slice(&parent.to_be_bytes());
    }
    if let Some(digest) = &record.arguments_sha256 {
        out.extend_from_slice(digest);
    }
    if let Some(arguments) = &record.arguments {
        put_bytes(out, head(&arguments.0, ARGUMENTS_BYTES_MAX));
    }
}

/// Reads what [`encode`] wrote.
///
/// # Errors
///
/// [`DecodeError`]; never a panic, whatever the bytes are.
pub fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => Reader(rest).record().ok_or(DecodeError::Malformed),
        Some((&version, _)) => Err(DecodeError::Version(version)),
        None => Err(DecodeError::Malformed),
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn record(&mut self) -> Option<Record> {
        let flags = self.byte()?;
        let has = |bit: u8| flags & bit != 0;
        let kind = Kind::from_code(self.byte()?)?;
        let status = Status::from_code(self.byte()?)?;
        let id = self.id()?;
        let node = Arc::from(std::str::from_utf8(self.bytes(TEXT_BYTES_MAX)?).ok()?);
        let mut record = Record::new(id, 0, node, kind);
        record.status = status;
        record.stream = has(STREAM);
        record.key = self.text()?;
        record.team = self.text()?;
        record.customer = self.text()?;
        record.provider = self.text()?;
        record.provider_key = self.text()?;
        record.model = self.text()?;
        record.server = self.text()?;
        record.tool = self.text()?;
        record.error = self.str()?.map(|it| Cow::Owned(it.to_owned()));
        record.at_ms = self.number()?;
        record.http_status = u16::try_from(self.number()?).ok()?;
        record.latency_ms = self.number()?;
        record.overhead_us = self.number()?;
        record.attempts = u32::try_from(self.number()?).ok()?;
        record.tokens = Tokens {
            input: self.number()?,
            cached_input: self.number()?,
            cache_write: self.number()?,
            output: self.number()?,
            reasoning: self.number()?,
            estimated: has(ESTIMATED),
        };
        record.cost_nano_usd = self.number()?;
        if has(PARENT) {
            record.parent = Some(self.id()?);
        }
        if has(SHA256) {
            record.arguments_sha256 = Some(self.take(32)?.try_into().ok()?);
        }
        if has(ARGUMENTS) {
            record.arguments =
                Some(Payload(Bytes::copy_from_slice(self.bytes(ARGUMENTS_BYTES_MAX)?)));
        }
        if has(BODIES) {
            record.bodies =
                Some(Box::new(Bodies { request: self.body()?, response: self.body()? }));
        }
        Some(record)
    }

    fn body(&mut self) -> Option<Body> {
        let kept = Payload(Bytes::copy_from_slice(self.bytes(BODY_BYTES_MAX)?));
        Some(Body { kept, full_bytes: self.number()? })
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn id(&mut self) -> Option<u128> {
        Some(u128::from_be_bytes(self.take(16)?.try_into().ok()?))
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn bytes(&mut self, max: usize) -> Option<&'a [u8]> {
        let count = usize::try_from(self.number()?).ok().filter(|it| *it <= max)?;
        self.take(count)
    }

    /// Outer `None`: malformed; inner: there is no such text.
    fn str(&mut self) -> Option<Option<&'a str>> {
        let Some(count) = self.number()?.checked_sub(1) else { return Some(None) };
        let count = usize::try_from(count).ok().filter(|it| *it <= TEXT_BYTES_MAX)?;
        std::str::from_utf8(self.take(count)?).ok().map(Some)
    }

    fn text(&mut self) -> Option<Option<Arc<str>>> {
        Some(self.str()?.map(Arc::from))
    }
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    let mut rest = number.min(i64::MAX.unsigned_abs());
    loop {
        let [low, ..] = rest.to_le_bytes();
        rest >>= 7;
        if rest == 0 {
            return out.push(low & 0x7f);
        }
        out.push(low | 0x80);
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_text(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => out.push(0),
        Some(text) => {
            let text = cut(text);
            put_number(out, text.len() as u64 + 1);
            out.extend_from_slice(text.as_bytes());
        }
    }
}

fn cut(text: &str) -> &str {
    if text.len() <= TEXT_BYTES_MAX {
        return text;
    }
    let end = (0..=TEXT_BYTES_MAX).rev().find(|it| text.is_char_boundary(*it)).unwrap_or(0);
    text.get(..end).unwrap_or("")
}

fn head(bytes: &[u8], max: usize) -> &[u8] {
    bytes.get(..max).unwrap_or(bytes)
}
