//! W3C Trace Context: who began a trace, whether it is kept, and what is said of it to those who are called next.
//!
//! <https://www.w3.org/TR/trace-context/>

use althing_domain::policy::Fraction;
use http::{HeaderMap, HeaderName, HeaderValue};
use rand::RngExt;

/// The header, and the key in MCP's `_meta`, that names trace and parent.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header, and the key in MCP's `_meta`, of what other systems say of the trace.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What the specification asks everyone to pass on, in bytes; a longer `tracestate` is left out.
const TRACESTATE_BYTES_MAX: usize = 512;
/// The length of a `traceparent` of version 0.
const TRACEPARENT_BYTES: usize = 55;
const SAMPLED: u8 = 1;
/// The trace id is random (level 2). It is passed on as it came.
const RANDOM: u8 = 2;
const PARTS_PER_MILLION: u128 = 1_000_000;

/// The span that a caller calls from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// The trace. Never 0.
    pub trace_id: u128,
    /// The caller's span. Never 0.
    pub span_id: u64,
    /// Whether the caller keeps the trace.
    pub is_sampled: bool,
    is_random: bool,
    /// What other systems say of the trace: printable ASCII.
    pub state: Option<Box<str>>,
}

impl Parent {
    /// What a request's headers say; `None` where they say nothing, or nothing that can be used.
    #[must_use]
    pub fn of_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        let state = headers.get_all(TRACESTATE).iter().map(|it| it.to_str().ok());
        let state: Option<Vec<&str>> = state.collect();
        Self::read(value.to_str().ok()?, state.map(|it| it.join(",")).as_deref())
    }

    /// Reads a `traceparent` and the `tracestate` beside it. Versions to come are read as far as this one goes, as
    /// they promise.
    #[must_use]
    pub fn read(parent: &str, state: Option<&str>) -> Option<Self> {
        let bytes = parent.as_bytes();
        let version = hex(bytes.get(0..2)?)?;
        let is_whole = match version {
            0 => bytes.len() == TRACEPARENT_BYTES,
            0xff => false,
            _ => bytes.len() == TRACEPARENT_BYTES || bytes.get(TRACEPARENT_BYTES) == Some(&b'-'),
        };
        let are_dashes = [2, 35, 52].iter().all(|at| bytes.get(*at) == Some(&b'-'));
        let trace_id = hex(bytes.get(3..35)?)?;
        let span_id = u64::try_from(hex(bytes.get(36..52)?)?).ok()?;
        let flags = u8::try_from(hex(bytes.get(53..55)?)?).ok()?;
        if !is_whole || !are_dashes || trace_id == 0 || span_id == 0 {
            return None;
        }
        let state = state
            .filter(|it| !it.is_empty() && it.len() <= TRACESTATE_BYTES_MAX)
            .filter(|it| it.bytes().all(|b| (0x20..0x7f).contains(&b)))
            .map(Box::from);
        let (is_sampled, is_random) = (flags & SAMPLED != 0, flags & RANDOM != 0);
        Some(Self { trace_id, span_id, is_sampled, is_random, state })
    }
}

/// Lower-case hexadecimal digits; `None` for anything else.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |all, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(all << 4 | u128::from(value))
    })
}

/// Decides which traces are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    /// Of 2^63.
    below: u64,
}

impl Sampler {
    /// Keeps this share of the traces that begin here.
    #[must_use]
    pub fn new(share: Fraction) -> Self {
        let below = (u128::from(share.0) << 63) / PARTS_PER_MILLION;
        Self { below: u64::try_from(below).unwrap_or(u64::MAX) }
    }

    /// Whether a trace that begins here is kept. The same for one id everywhere: OpenTelemetry's own samplers by ratio
    /// look at the same bits.
    #[must_use]
    pub const fn keeps(self, trace_id: u128) -> bool {
        // The cast keeps the low half, which is what the bits are taken from.
        #[expect(clippy::cast_possible_truncation, reason = "the low half is what is meant")]
        let low = trace_id as u64;
        low >> 1 < self.below
    }
}

/// The trace that a call belongs to, and its place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace_id: u128,
    /// The call's own span.
    pub span_id: u64,
    /// The span that it was called from.
    pub parent: Option<u64>,
    /// Whether it is kept. Where a caller gave a trace, the caller has decided.
    pub is_sampled: bool,
    is_random: bool,
    /// Passed on as it came.
    pub state: Option<Box<str>>,
}

impl Context {
    /// The next span of `parent`'s trace, or the first of a new trace.
    #[must_use]
    pub fn begin(parent: Option<Parent>, sampler: Sampler) -> Self {
        let span_id = new_span_id();
        if let Some(it) = parent {
            return Self {
                trace_id: it.trace_id,
                span_id,
                parent: Some(it.span_id),
                is_sampled: it.is_sampled,
                is_random: it.is_random,
                state: it.state,
            };
        }
        let trace_id = rand::rng().random_range(1..=u128::MAX);
        let is_sampled = sampler.keeps(trace_id);
        Self { trace_id, span_id, parent: None, is_sampled, is_random: false, state: None }
    }

    /// The `traceparent` for somebody who is called from `span_id`.
    #[must_use]
    pub fn traceparent(&self, span_id: u64) -> HeaderValue {
        let text = self.traceparent_text(span_id);
        // Hexadecimal digits and dashes are a header's value.
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// The same as JSON text: a string.
    #[must_use]
    pub fn traceparent_json(&self, span_id: u64) -> String {
        let text = self.traceparent_text(span_id);
        format!("\"{}\"", std::str::from_utf8(&text).unwrap_or_default())
    }

    /// What other systems say of the trace, as a header.
    #[must_use]
    pub fn tracestate(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(self.state.as_deref()?).ok()
    }

    fn traceparent_text(&self, span_id: u64) -> [u8; TRACEPARENT_BYTES] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let sampled = if self.is_sampled { SAMPLED } else { 0 };
        let flags = sampled | if self.is_random { RANDOM } else { 0 };
        write_hex(&mut text[3..35], self.trace_id);
        write_hex(&mut text[36..52], u128::from(span_id));
        write_hex(&mut text[53..55], u128::from(flags));
        text
    }
}

/// A span id that nobody has had.
#[must_use]
pub fn new_span_id() -> u64 {
    rand::rng().random_range(1..=u64::MAX)
}

fn write_hex(place: &mut [u8], value: u128) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut rest = value;
    for digit in place.iter_mut().rev() {
        *digit = DIGITS[usize::from((rest & 0xf) as u8)];
        rest >>= 4;
    }
}

#[cfg(test)]
mod tests;
