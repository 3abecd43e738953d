//! Reads what a reply used while its bytes pass.
//!
//! A frame is parsed only where it can hold usage, and then only usage is built. Beside it the tap counts the bytes of
//! text that passed, so that a stream that ends without usage can still be charged.
//!
//! What is plainly no event of any dialect (its data neither a JSON object by its first and last byte, nor `[DONE]`, nor
//! blank) ends the stream: nothing passes from there on. What stands between the braces is the caller's to read.

use std::ops::Range;

use bytes::Bytes;
use memchr::memmem;
use serde::Deserialize;
use serde::de::IgnoredAny;
use smallvec::SmallVec;

use crate::dialect::{Failure, StreamEncoder};
use crate::scan::{Kind, members};
use crate::sse;
use crate::usage::{Usage, wire};

mod ending;

use ending::Trail;

/// Whose bytes they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// OpenAI chat completions, legacy completions and embeddings.
    OpenAi,
    /// OpenAI Responses.
    Responses,
    /// Anthropic messages.
    Anthropic,
    /// Gemini.
    Gemini,
}

impl Shape {
    /// The shape of a dialect, by the dialect's name.
    #[must_use]
    pub fn of(dialect: &str) -> Option<Self> {
        match dialect {
            "openai" => Some(Self::OpenAi),
            "openai_responses" => Some(Self::Responses),
            "anthropic" => Some(Self::Anthropic),
            "gemini" => Some(Self::Gemini),
            _ => None,
        }
    }
}

/// Reads usage from a whole reply. `None` where it states none.
#[must_use]
pub fn usage_of_reply(shape: Shape, body: &[u8]) -> Option<Usage> {
    match shape {
        // Legacy gateways in front of OpenAI answer in either shape, and the two share no field.
        Shape::OpenAi | Shape::Responses => openai_usage(body).map(|it| it.usage()),
        Shape::Anthropic => read::<AnthropicFrame>(body)?.usage().map(|it| it.usage()),
        Shape::Gemini => read::<GeminiFrame>(body)?.usage_metadata.map(|it| it.usage()),
    }
}

/// Usage where OpenAI and its imitators have it; the rest of the reply is only walked over.
fn openai_usage(body: &[u8]) -> Option<wire::OpenAi> {
    let inner = |value: &[u8]| {
        let mut found = None;
        let walked = members(value, |key, member| {
            if key.raw() == b"usage" && member.kind == Kind::Object {
                found = value.get(member.value).and_then(wire::OpenAi::read);
            }
            Ok(())
        });
        walked.ok().and(found)
    };
    let (mut own, mut nested) = (None, None);
    let walked = members(body, |key, member| {
        let value = body.get(member.value).unwrap_or_default();
        match key.raw() {
            b"usage" if member.kind == Kind::Object => own = wire::OpenAi::read(value),
            b"response" | b"x_groq" if member.kind == Kind::Object => {
                nested = nested.take().or_else(|| inner(value));
            }
            _ => {}
        }
        Ok(())
    });
    walked.ok()?;
    own.or(nested)
}

/// How far a stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The vendor has not said that it is whole.
    Open,
    /// The vendor said that it is whole.
    Complete,
    /// The vendor sent an error event.
    Failed,
}

/// Watches one stream.
#[derive(Debug)]
pub struct Tap {
    parser: sse::Parser,
    seen: Seen,
    hide_usage: bool,
}

#[derive(Debug)]
struct Seen {
    shape: Shape,
    usage: Option<Usage>,
    anthropic: wire::Anthropic,
    text_bytes: u64,
    progress: Progress,
    /// OpenAI's: a finish reason was said.
    is_finished: bool,
    /// Gemini's candidates, a bit each: those that spoke, and those that ended.
    spoke: u64,
    ended: u64,
    trail: Trail,
    /// An event came that is none.
    is_malformed: bool,
}

impl Tap {
    /// Watches a stream of that shape.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        let seen = Seen {
            shape,
            usage: None,
            anthropic: wire::Anthropic::default(),
            text_bytes: 0,
            progress: Progress::Open,
            is_finished: false,
            spoke: 0,
            ended: 0,
            trail: Trail::default(),
            is_malformed: false,
        };
        Self { parser: sse::Parser::default(), seen, hide_usage: false }
    }

    /// Takes OpenAI's last chunk, which holds nothing but usage, out of the stream: for callers who did not ask for it.
    #[must_use]
    pub fn hiding_usage(mut self) -> Self {
        self.hide_usage = self.seen.shape == Shape::OpenAi;
        self
    }

    /// Takes the next bytes and gives what of them is for the caller: the very same bytes, but only whole events (the
    /// rest follows when it is whole, so that an ending can always be appended), and without what is hidden. Copies
    /// nothing where the bytes begin with an event and nothing is hidden.
    ///
    /// # Errors
    ///
    /// [`sse::Error`] where one event passes [`sse::EVENT_BYTES_MAX`].
    pub fn pass(&mut self, chunk: Bytes) -> Result<Bytes, sse::Error> {
        let is_clean = self.parser.is_empty();
        let mut kept = Vec::new();
        let mut hidden: SmallVec<[Range<usize>; 1]> = SmallVec::new();
        let mut passed = 0;
        let (seen, hide_usage) = (&mut self.seen, self.hide_usage);
        self.parser.frames(&chunk, |frame, event| {
            let only_usage =
                event.is_some_and(|it| seen.event(it.name.as_deref(), it.data.as_bytes()));
            if (only_usage && hide_usage) || seen.is_malformed {
                hidden.push(passed..passed + frame.len());
            } else if !is_clean {
                kept.extend_from_slice(frame);
            }
            passed += frame.len();
        })?;
        if !is_clean {
            return Ok(kept.into());
        }
        let used = chunk.len() - self.parser.held_bytes();
        if hidden.is_empty() {
            return Ok(if used == chunk.len() { chunk } else { chunk.slice(..used) });
        }
        // What stands before the first event (a byte order mark) counts as no event.
        let before = used - passed;
        let mut at = 0;
        for range in hidden {
            kept.extend_from_slice(chunk.get(at..before + range.start).unwrap_or_default());
            at = before + range.end;
        }
        kept.extend_from_slice(chunk.get(at..used).unwrap_or_default());
        Ok(kept.into())
    }

    /// The stream ended. Gives what was held back.
    pub fn finish(&mut self) -> Bytes {
        let mut rest = self.parser.take_held();
        if let Some(event) = sse::parse(&rest) {
            let only_usage = self.seen.event(event.name.as_deref(), event.data.as_bytes());
            if (only_usage && self.hide_usage) || self.seen.is_malformed {
                rest.clear();
            }
        }
        // Not every server of this dialect says `[DONE]`; its finish reason and an orderly end say as much.
        if self.seen.progress == Progress::Open && self.seen.is_finished {
            self.seen.progress = Progress::Complete;
        }
        rest.into()
    }

    /// Appends the ending of a stream that must be cut because money ran out. `encoder` is a fresh one of the dialect,
    /// for where nothing has passed yet or the dialect's ending needs nothing of what has. What was held back is lost.
    pub fn cut(&mut self, encoder: &mut dyn StreamEncoder, out: &mut Vec<u8>) {
        self.parser.take_held();
        self.seen.cut(encoder, out);
    }

    /// Appends the dialect's own error event. `encoder` as in [`Tap::cut`].
    pub fn fail(
        &mut self,
        encoder: &mut dyn StreamEncoder,
        failure: &Failure<'_>,
        out: &mut Vec<u8>,
    ) {
        self.parser.take_held();
        self.seen.fail(encoder, failure, out);
    }

    /// What the vendor said was used; its last word counts.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.seen.usage
    }

    /// How many bytes of text, reasoning and arguments passed, as JSON writes them.
    #[must_use]
    pub fn text_bytes(&self) -> u64 {
        self.seen.text_bytes
    }

    /// Whether something came that is no event: what came before it was given, and the stream is to be ended.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        self.seen.is_malformed
    }

    /// Whether the vendor said that the reply is whole.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.seen.progress
    }
}

impl Seen {
    /// Looks at one event. Says whether it holds nothing but usage (OpenAI's last chunk).
    fn event(&mut self, name: Option<&str>, data: &[u8]) -> bool {
        // Behind its end nobody reads a stream, and it is whole.
        if self.progress != Progress::Complete && !is_payload(name, data) {
            self.is_malformed = true;
        }
        if self.is_malformed {
            return false;
        }
        self.text_bytes += text_bytes(self.shape, data);
        self.progress(name, data);
        self.trail.note(self.shape, name, data);
        match self.shape {
            Shape::OpenAi => {
                if says(data, b"\"usage\"")
                    && let Some(frame) = read::<OpenAiFrame>(data)
                    && let Some(usage) = frame.usage()
                {
                    self.usage = Some(usage.usage());
                    return frame.choices.is_some_and(|it| it.is_empty());
                }
            }
            Shape::Responses => {
                if says(data, b"\"usage\"")
                    && let Some(usage) =
                        read::<OpenAiFrame>(data).as_ref().and_then(OpenAiFrame::usage)
                {
                    self.usage = Some(usage.usage());
                }
            }
            Shape::Anthropic => {
                if says(data, b"\"usage\"")
                    && let Some(usage) = read::<AnthropicFrame>(data).and_then(|it| it.usage())
                {
                    self.anthropic.merge(usage);
                    self.usage = Some(self.anthropic.usage());
                }
            }
            Shape::Gemini => {
                if says(data, b"\"usageMetadata\"")
                    && let Some(usage) = read::<GeminiFrame>(data).and_then(|it| it.usage_metadata)
                {
                    self.usage = Some(usage.usage());
                }
            }
        }
        false
    }

    fn progress(&mut self, name: Option<&str>, data: &[u8]) {
        let head = data.get(..data.len().min(128)).unwrap_or_default();
        let kind = |word: &str, quoted: &[u8]| {
            name == Some(word) || (name.is_none() && says(head, quoted))
        };
        let failed = || name == Some("error") || error_object(data);
        let progress = match self.shape {
            Shape::OpenAi if data.trim_ascii() == b"[DONE]" => Progress::Complete,
            Shape::OpenAi if !self.is_finished && says(data, b"\"finish_reason\"") => {
                self.is_finished = true;
                return;
            }
            Shape::Responses if kind("response.completed", b"\"response.completed\"") => {
                Progress::Complete
            }
            Shape::Responses if kind("response.incomplete", b"\"response.incomplete\"") => {
                Progress::Complete
            }
            Shape::Responses if kind("response.failed", b"\"response.failed\"") => Progress::Failed,
            Shape::Anthropic if kind("message_stop", b"\"message_stop\"") => Progress::Complete,
            _ if failed() => Progress::Failed,
            Shape::Gemini if self.progress != Progress::Failed => self.candidates(data),
            _ => return,
        };
        self.progress = progress;
    }

    /// Gemini's streams are whole when every candidate has ended, or the prompt was blocked. A finish reason may also
    /// stand in a call's arguments, where it says nothing.
    fn candidates(&mut self, data: &[u8]) -> Progress {
        let Some(frame) = read::<GeminiFrame>(data) else { return self.progress };
        let mut places = 0_u64..;
        for candidate in frame.candidates.unwrap_or_default() {
            let place = candidate.index.or_else(|| places.next()).unwrap_or_default();
            let bit = 1_u64 << place.min(63);
            self.spoke |= bit;
            if candidate.finish_reason.is_some() {
                self.ended |= bit;
            }
        }
        let is_blocked = frame.prompt_feedback.is_some_and(|it| it.block_reason.is_some());
        if self.spoke == self.ended && (self.spoke != 0 || is_blocked) {
            Progress::Complete
        } else {
            Progress::Open
        }
    }
}

/// Whether data may be an event's. Looks at both ends only: what is between them is not read here. Anthropic's clients
/// know a `ping` by its name, and nobody reads what is blank.
fn is_payload(name: Option<&str>, data: &[u8]) -> bool {
    match data.trim_ascii() {
        [] | [b'{', .., b'}'] | b"[DONE]" => true,
        _ => name == Some("ping"),
    }
}

/// Whether the event is `{"error": {…}}`, however spaced.
fn error_object(data: &[u8]) -> bool {
    let start = data.trim_ascii_start().strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
    let error = |it: &[u8]| it.starts_with(b"\"error\"") || it.starts_with(b"\"type\":\"error\"");
    start.is_some_and(error)
}

/// Whether `key` stands in `data` with a value that is not `null`.
fn says(data: &[u8], key: &[u8]) -> bool {
    memmem::find_iter(data, key).any(|at| {
        let rest = data.get(at + key.len()..).unwrap_or_default().trim_ascii_start();
        let value = rest.strip_prefix(b":").unwrap_or(rest).trim_ascii_start();
        !value.starts_with(b"null")
    })
}

/// The names under which a stream of that shape carries text.
fn text_keys(shape: Shape) -> &'static [&'static [u8]] {
    match shape {
        Shape::OpenAi => &[
            b"\"content\"",
            b"\"reasoning_content\"",
            b"\"reasoning\"",
            b"\"refusal\"",
            b"\"arguments\"",
            b"\"text\"",
        ],
        Shape::Responses => &[b"\"delta\""],
        Shape::Anthropic => &[b"\"text\"", b"\"thinking\"", b"\"partial_json\""],
        Shape::Gemini => &[b"\"text\"", b"\"args\""],
    }
}

fn text_bytes(shape: Shape, data: &[u8]) -> u64 {
    let mut sum = 0;
    for key in text_keys(shape) {
        for at in memmem::find_iter(data, key) {
            let rest = data.get(at + key.len()..).unwrap_or_default().trim_ascii_start();
            let Some(value) = rest.strip_prefix(b":").map(<[u8]>::trim_ascii_start) else {
                continue;
            };
            sum += match value.first() {
                Some(b'"') => string_length(value.get(1..).unwrap_or_default()),
                // Gemini's arguments are an object and come whole: what follows is an upper bound.
                Some(b'{') if *key == b"\"args\"" => value.len(),
                _ => 0,
            };
        }
    }
    sum as u64
}

/// The length of a string's inside, up to its closing quote.
fn string_length(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = text.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if text.get(at) == Some(&b'"') {
            return at;
        }
        at += 2;
    }
    text.len()
}

fn read<'de, T: Deserialize<'de>>(data: &'de [u8]) -> Option<T> {
    serde_json::from_slice(data).ok()
}

#[derive(Deserialize)]
struct OpenAiFrame {
    #[serde(default)]
    choices: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    usage: Option<wire::OpenAi>,
    #[serde(default)]
    response: Option<OpenAiInner>,
    #[serde(default)]
    x_groq: Option<OpenAiInner>,
}

#[derive(Deserialize)]
struct OpenAiInner {
    #[serde(default)]
    usage: Option<wire::OpenAi>,
}

impl OpenAiFrame {
    fn usage(&self) -> Option<&wire::OpenAi> {
        self.usage
            .as_ref()
            .or_else(|| self.response.as_ref()?.usage.as_ref())
            .or_else(|| self.x_groq.as_ref()?.usage.as_ref())
    }
}

#[derive(Deserialize)]
struct AnthropicFrame {
    #[serde(default)]
    usage: Option<wire::Anthropic>,
    #[serde(default)]
    message: Option<AnthropicInner>,
}

#[derive(Deserialize)]
struct AnthropicInner {
    #[serde(default)]
    usage: Option<wire::Anthropic>,
}

impl AnthropicFrame {
    fn usage(&self) -> Option<wire::Anthropic> {
        self.usage.or_else(|| self.message.as_ref()?.usage)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GeminiFrame {
    #[serde(default)]
    usage_metadata: Option<wire::Gemini>,
    #[serde(default)]
    candidates: Option<Vec<GeminiCandidate>>,
    #[serde(default)]
    prompt_feedback: Option<GeminiFeedback>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GeminiFeedback {
    #[serde(default)]
    block_reason: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GeminiCandidate {
    #[serde(default)]
    index: Option<u64>,
    #[serde(default)]
    finish_reason: Option<IgnoredAny>,
}

#[cfg(test)]
mod tests;
