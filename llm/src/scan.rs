//! Finds what policy needs in a request body, as byte ranges, without building a document.
//!
//! The whole body is checked against RFC 8259 on the way, so that what an upstream reads is what was judged here:
//! duplicate top-level fields are refused (parsers differ in which one they take), and so are fields that differ
//! from one we act on by case only (some upstreams match names without regard to case).
//!
//! One pass, no allocation for a well-formed body; long strings are skipped at memory speed.

use std::borrow::Cow;
use std::ops::Range;

use smallvec::SmallVec;

use crate::dialect;

mod json;
mod marks;
mod rewrite;

pub(crate) use json::members;
pub use json::{DEPTH_MAX, Kind};
pub use marks::Marks;
pub use rewrite::Rewrite;

/// The most top-level fields. Real requests have below 40; the bound keeps the search for duplicates small.
pub const FIELDS_MAX: usize = 256;

/// Why a body is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not JSON.
    #[error("the body is not valid JSON at byte {offset}: {problem}")]
    Syntax {
        /// Where, in bytes from the start.
        offset: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// It is JSON, but no object.
    #[error("the body must be a JSON object")]
    NotAnObject,
    /// Objects and arrays stand too deep in each other.
    #[error("the body nests deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// It has too many top-level fields.
    #[error("the body has more than {FIELDS_MAX} top-level fields")]
    TooManyFields,
    /// A field is there twice.
    #[error("{field}: given twice; give it once")]
    Duplicate {
        /// Which.
        field: String,
    },
    /// A field differs from one we know by case only.
    #[error("{field}: write this field as `{known}`")]
    CaseVariant {
        /// As written.
        field: String,
        /// As it must be written.
        known: &'static str,
    },
    /// A field has a value of the wrong type.
    #[error("{field}: must be {expected}")]
    Type {
        /// Which.
        field: &'static str,
        /// What it must be, with its article.
        expected: &'static str,
    },
}

impl Error {
    /// The field at fault, where there is one.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Duplicate { field } | Self::CaseVariant { field, .. } => Some(field),
            Self::Type { field, .. } => Some(field),
            Self::Syntax { .. } | Self::NotAnObject | Self::TooDeep | Self::TooManyFields => None,
        }
    }
}

impl From<Error> for dialect::Error {
    fn from(error: Error) -> Self {
        let whole = error.to_string();
        match error.field() {
            Some(field) => {
                let problem = whole.get(field.len() + 2..).unwrap_or_default().to_owned();
                Self::Field { field: field.to_owned(), problem }
            }
            None => Self::Json { problem: whole },
        }
    }
}

/// A field that policy reads or that is spliced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `model`: a string.
    Model,
    /// `stream`: a boolean.
    Stream,
    /// `max_tokens`: an integer.
    MaxTokens,
    /// `max_completion_tokens`: an integer.
    MaxCompletionTokens,
    /// `max_output_tokens`: an integer.
    MaxOutputTokens,
    /// `n`: an integer.
    N,
    /// `best_of`: an integer (legacy completions).
    BestOf,
    /// `prompt`: a text, or a list (legacy completions); an object (Responses).
    Prompt,
    /// `fallbacks`: strings.
    Fallbacks,
    /// `tools`: an array.
    Tools,
    /// `stream_options`: an object.
    StreamOptions,
    /// `generationConfig` or `generation_config`: an object (Gemini).
    GenerationConfig,
}

const FIELD_COUNT: usize = 12;

/// Every spelling that is acted on.
const KNOWN: [(&str, Field); FIELD_COUNT + 1] = [
    ("model", Field::Model),
    ("stream", Field::Stream),
    ("max_tokens", Field::MaxTokens),
    ("max_completion_tokens", Field::MaxCompletionTokens),
    ("max_output_tokens", Field::MaxOutputTokens),
    ("n", Field::N),
    ("best_of", Field::BestOf),
    ("prompt", Field::Prompt),
    ("fallbacks", Field::Fallbacks),
    ("tools", Field::Tools),
    ("stream_options", Field::StreamOptions),
    ("generationConfig", Field::GenerationConfig),
    ("generation_config", Field::GenerationConfig),
];

impl Field {
    /// Its name in a body.
    #[must_use]
    pub fn name(self) -> &'static str {
        KNOWN.iter().find(|it| it.1 == self).map_or("", |it| it.0)
    }
}

/// Where a field stands in the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// From the first byte of its name to the last of its value.
    pub member: Range<usize>,
    /// Its value, quotes and brackets included.
    pub value: Range<usize>,
    /// What its value is. `null` counts as absent.
    pub kind: Kind,
    /// How many fields stand before it.
    ordinal: usize,
}

/// What was found. Ranges are into the body that was scanned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    fields: [Option<Span>; FIELD_COUNT],
    /// How many top-level fields there are.
    count: usize,
    /// Where the first member may be put.
    open: usize,
    /// Where the closing brace is.
    close: usize,
    stream: Option<bool>,
    include_usage: Option<bool>,
    /// By field: those of integers, and what a Gemini body says within its configuration.
    max_output: [Option<u64>; FIELD_COUNT],
    choices: Option<u64>,
    stored: bool,
    legacy: bool,
    background: bool,
    marks: Marks,
}

/// Fields that name what the vendor keeps, or have it look for more: input that is not in the body.
const STORED: [&str; 8] = [
    "previous_response_id",
    "conversation",
    "prompt",
    "cachedContent",
    "cached_content",
    "container",
    "mcp_servers",
    "web_search_options",
];

/// Scans a body.
///
/// # Errors
///
/// [`Error`], whatever is wrong first.
pub fn scan(body: &[u8]) -> Result<Scan, Error> {
    if let Err(error) = std::str::from_utf8(body) {
        return Err(Error::Syntax { offset: error.valid_up_to(), problem: "not UTF-8" });
    }
    let mut found = Scan::default();
    let mut keys: SmallVec<[Cow<'_, str>; 32]> = SmallVec::new();
    let end = members(body, |key, member| {
        let name = key.decode();
        if keys.contains(&name) {
            return Err(Error::Duplicate { field: name.into_owned() });
        }
        if keys.len() == FIELDS_MAX {
            return Err(Error::TooManyFields);
        }
        let ordinal = keys.len();
        // A prompt of legacy completions is text; one in the store of Responses is an object.
        found.background |= name == "background" && body.get(member.value.clone()) == Some(b"true");
        found.legacy |= name == "functions" && member.kind == Kind::Array;
        found.stored |= member.kind != Kind::Null
            && STORED.contains(&&*name)
            && (name != "prompt" || member.kind == Kind::Object);
        if let Some(field) = known(&name)?
            && let Some(slot) = found.fields.get_mut(field as usize)
        {
            if slot.is_some() {
                return Err(Error::Duplicate { field: name.into_owned() });
            }
            *slot = Some(Span {
                member: member.member,
                value: member.value,
                kind: member.kind,
                ordinal,
            });
        }
        keys.push(name);
        Ok(())
    })?;
    (found.count, found.open, found.close) = (keys.len(), end.open, end.close);
    found.marks = end.marks;
    found.read(body)?;
    Ok(found)
}

impl Scan {
    /// Where `field` stands, if it is there, even as `null`.
    #[must_use]
    pub fn span(&self, field: Field) -> Option<&Span> {
        self.fields.get(field as usize)?.as_ref()
    }

    /// Where `field` stands, if it is there and not `null`.
    #[must_use]
    pub fn present(&self, field: Field) -> Option<&Span> {
        self.span(field).filter(|it| it.kind != Kind::Null)
    }

    /// The model, without copying unless its spelling has escapes.
    #[must_use]
    pub fn model<'b>(&self, body: &'b [u8]) -> Option<Cow<'b, str>> {
        let span = self.present(Field::Model)?;
        Some(json::text(body.get(span.value.clone())?))
    }

    /// Whether the reply is to be streamed.
    #[must_use]
    pub fn stream(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// What `stream_options.include_usage` says.
    #[must_use]
    pub fn include_usage(&self) -> Option<bool> {
        self.include_usage
    }

    /// The most output tokens of one alternative, as `field` says it ([`Field::GenerationConfig`] within itself). Which
    /// fields a server heeds is its dialect's business.
    #[must_use]
    pub fn max_output(&self, field: Field) -> Option<u64> {
        self.max_output.get(field as usize).copied().flatten()
    }

    /// Whether the request leans on what its vendor stores or looks for, so that its input is more than the body.
    #[must_use]
    pub fn leans_on_a_store(&self) -> bool {
        self.stored
    }

    /// Whether functions are given in OpenAI's first form, beside which no tools may stand.
    #[must_use]
    pub fn has_functions(&self) -> bool {
        self.legacy
    }

    /// Whether the vendor is to go on by itself after it has answered (Responses).
    #[must_use]
    pub fn is_background(&self) -> bool {
        self.background
    }

    /// Words that stand in it.
    #[must_use]
    pub const fn marks(&self) -> Marks {
        self.marks
    }

    /// The list of tools, as written.
    #[must_use]
    pub fn tools<'b>(&self, body: &'b [u8]) -> Option<&'b [u8]> {
        body.get(self.present(Field::Tools)?.value.clone())
    }

    /// How many alternatives the vendor makes, of all prompts together; at least one.
    #[must_use]
    pub fn choices(&self) -> u64 {
        self.choices.unwrap_or(1).max(1)
    }

    /// The models to fall back to, in order. Empty where none are given.
    ///
    /// # Errors
    ///
    /// [`Error::Type`] where one is not a string.
    pub fn fallbacks<'b>(&self, body: &'b [u8]) -> Result<Vec<Cow<'b, str>>, Error> {
        let Some(value) = self.present(Field::Fallbacks).and_then(|it| body.get(it.value.clone()))
        else {
            return Ok(Vec::new());
        };
        let mut models = Vec::new();
        json::items(value, |item, kind| match kind {
            Kind::String => {
                models.push(json::text(item));
                Ok(())
            }
            _ => Err(Error::Type {
                field: "fallbacks",
                expected: "a list of `provider/model` strings",
            }),
        })?;
        Ok(models)
    }

    fn read(&mut self, body: &[u8]) -> Result<(), Error> {
        self.check(Field::Model, Kind::String, "a string")?;
        self.check(Field::Fallbacks, Kind::Array, "a list of `provider/model` strings")?;
        self.check(Field::Tools, Kind::Array, "a list")?;
        self.check(Field::StreamOptions, Kind::Object, "an object")?;
        self.check(Field::GenerationConfig, Kind::Object, "an object")?;
        self.check(Field::Stream, Kind::Bool, "`true` or `false`")?;
        self.stream =
            self.present(Field::Stream).map(|it| body.get(it.value.clone()) == Some(b"true"));
        for field in [Field::MaxTokens, Field::MaxCompletionTokens, Field::MaxOutputTokens] {
            self.say_max_output(field, self.integer(field, body)?);
        }
        self.choices = self.integer(Field::N, body)?.max(self.integer(Field::BestOf, body)?);
        if let Some(prompts) = self.prompts(body)? {
            self.choices = Some(self.choices().saturating_mul(prompts));
        }
        self.read_stream_options(body)?;
        self.read_generation_config(body)
    }

    /// How many prompts there are, where they stand in a list: each is answered with as many alternatives. A list of
    /// numbers is one prompt, in tokens.
    fn prompts(&self, body: &[u8]) -> Result<Option<u64>, Error> {
        let Some(span) = self.present(Field::Prompt).filter(|it| it.kind == Kind::Array) else {
            return Ok(None);
        };
        let mut prompts = 0;
        json::items(body.get(span.value.clone()).unwrap_or_default(), |_, kind| {
            prompts += u64::from(kind != Kind::Number);
            Ok(())
        })?;
        Ok(Some(prompts.max(1)))
    }

    fn check(&self, field: Field, kind: Kind, expected: &'static str) -> Result<(), Error> {
        match self.present(field) {
            Some(span) if span.kind != kind => Err(Error::Type { field: field.name(), expected }),
            _ => Ok(()),
        }
    }

    fn integer(&self, field: Field, body: &[u8]) -> Result<Option<u64>, Error> {
        let Some(span) = self.present(field) else { return Ok(None) };
        whole_number(body.get(span.value.clone()).unwrap_or_default())
            .map(Some)
            .ok_or_else(|| Error::Type { field: field.name(), expected: "a whole number" })
    }

    fn read_stream_options(&mut self, body: &[u8]) -> Result<(), Error> {
        let Some(value) =
            self.present(Field::StreamOptions).and_then(|it| body.get(it.value.clone()))
        else {
            return Ok(());
        };
        let mut seen = None;
        members(value, |key, member| {
            let name = key.decode();
            if same(&name, "include_usage", "stream_options.include_usage")? {
                if seen.is_some() {
                    return Err(Error::Duplicate {
                        field: "stream_options.include_usage".to_owned(),
                    });
                }
                seen = Some(match member.kind {
                    Kind::Bool => value.get(member.value) == Some(b"true"),
                    Kind::Null => false,
                    _ => {
                        return Err(Error::Type {
                            field: "stream_options.include_usage",
                            expected: "`true` or `false`",
                        });
                    }
                });
            }
            Ok(())
        })?;
        self.include_usage = seen;
        Ok(())
    }

    fn say_max_output(&mut self, field: Field, most: Option<u64>) {
        if let Some(place) = self.max_output.get_mut(field as usize) {
            *place = most;
        }
    }

    fn read_generation_config(&mut self, body: &[u8]) -> Result<(), Error> {
        let Some(value) =
            self.present(Field::GenerationConfig).and_then(|it| body.get(it.value.clone()))
        else {
            return Ok(());
        };
        let mut seen = [None, None];
        members(value, |key, member| {
            let name = key.decode();
            for (slot, (spellings, path)) in seen.iter_mut().zip(GENERATION_CONFIG) {
                if !(same(&name, spellings[0], path)? || same(&name, spellings[1], path)?) {
                    continue;
                }
                if slot.is_some() {
                    return Err(Error::Duplicate { field: path.to_owned() });
                }
                *slot = match member.kind {
                    Kind::Null => Some(None),
                    _ => match whole_number(value.get(member.value.clone()).unwrap_or_default()) {
                        Some(number) => Some(Some(number)),
                        None => {
                            return Err(Error::Type { field: path, expected: "a whole number" });
                        }
                    },
                };
            }
            Ok(())
        })?;
        let [max, candidates] = seen.map(Option::flatten);
        self.say_max_output(Field::GenerationConfig, max);
        self.choices = self.choices.max(candidates);
        Ok(())
    }
}

/// Gemini takes protobuf JSON, so both spellings of a name.
const GENERATION_CONFIG: [([&str; 2], &str); 2] = [
    (["maxOutputTokens", "max_output_tokens"], "generationConfig.maxOutputTokens"),
    (["candidateCount", "candidate_count"], "generationConfig.candidateCount"),
];

fn known(name: &str) -> Result<Option<Field>, Error> {
    for (known, field) in KNOWN {
        if name == known {
            return Ok(Some(field));
        }
        if may_fold(name, known) && folds_to(name, known) {
            return Err(Error::CaseVariant { field: name.to_owned(), known });
        }
    }
    Ok(None)
}

fn same(name: &str, known: &str, path: &'static str) -> Result<bool, Error> {
    if name == known {
        return Ok(true);
    }
    if folds_to(name, known) {
        return Err(Error::CaseVariant { field: name.to_owned(), known: path });
    }
    Ok(false)
}

/// Whether the first letters may be one: rules most names out.
fn may_fold(name: &str, known: &str) -> bool {
    match (name.as_bytes().first(), known.as_bytes().first()) {
        (Some(a), Some(b)) => !a.is_ascii() || a.eq_ignore_ascii_case(b),
        _ => false,
    }
}

/// Whether `name` is `known` without regard to case, in the sense of Unicode's simple folding: two letters
/// outside ASCII fold into it (ſ and the Kelvin sign), and parsers that fold (Go's) know them.
fn folds_to(name: &str, known: &str) -> bool {
    let fold = |it: char| match it {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    name.len() >= known.len() && name.chars().map(fold).eq(known.chars().map(fold))
}

/// A JSON number that is whole and fits, in any spelling that JSON has for it but exponents with a sign.
fn whole_number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let whole = match text.split_once('.') {
        Some((whole, part)) if part.bytes().all(|it| it == b'0') => whole,
        Some(_) => return None,
        None => text,
    };
    whole.parse().ok()
}

#[cfg(test)]
mod tests;
