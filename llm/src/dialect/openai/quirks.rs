//! How vendors depart from OpenAI's chat completions.

use crate::scan::{Field, Rewrite, Scan};

/// One vendor's departures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quirks {
    /// The field for the most output tokens.
    pub max_tokens: MaxTokens,
    /// How usage at the end of a stream is had.
    pub stream_usage: StreamUsage,
    /// How the effort of reasoning is asked for.
    pub reasoning: ReasoningField,
    /// Whether earlier reasoning is taken back, and where.
    pub reasoning_back: ReasoningBack,
    /// What becomes of cache break points.
    pub cache_control: CacheControl,
    /// What becomes of `top_k`, which OpenAI does not know but most servers of open models do.
    pub top_k: Extra,
    /// Whether OpenAI's own later additions are known: the `developer` role, and fields such as `verbosity`,
    /// `prompt_cache_key` and `service_tier`.
    pub additions: Extra,
    /// What becomes of a body that passes.
    pub passing: Passing,
}

/// What becomes of a body that passes, written by a caller who speaks OpenAI's dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passing {
    /// It is adapted: what the vendor is known to refuse is said in its words.
    Adapted,
    /// It passes as it is: nobody knows what the server takes, and the caller may.
    AsIs,
}

/// The field for the most output tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxTokens {
    /// `max_completion_tokens`.
    MaxCompletionTokens,
    /// `max_tokens`.
    MaxTokens,
}

/// How usage at the end of a stream is had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamUsage {
    /// By `stream_options.include_usage`.
    OnRequest,
    /// It comes unasked, and asking is an error.
    Always,
}

/// How the effort of reasoning is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasoningField {
    /// `reasoning_effort`.
    Effort,
    /// `reasoning: { effort, max_tokens }`.
    Nested,
    /// Not at all.
    None,
}

/// Whether earlier reasoning is taken back, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasoningBack {
    /// Not at all.
    Never,
    /// As `reasoning_content`.
    Content,
    /// As `reasoning_details`.
    Details,
}

/// What becomes of cache break points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheControl {
    /// They are dropped, without a report: such vendors cache by themselves.
    Implicit,
    /// They are passed on.
    Kept,
}

/// What becomes of a field that OpenAI does not have everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// The vendor knows it.
    Known,
    /// It is dropped.
    Unknown,
}

impl Quirks {
    /// None: OpenAI itself.
    pub const OPENAI: Self = Self {
        max_tokens: MaxTokens::MaxCompletionTokens,
        stream_usage: StreamUsage::OnRequest,
        reasoning: ReasoningField::Effort,
        reasoning_back: ReasoningBack::Never,
        cache_control: CacheControl::Implicit,
        top_k: Extra::Unknown,
        additions: Extra::Known,
        passing: Passing::Adapted,
    };

    /// A server that nobody knows: asked in the words that nearly everybody takes, and passed to as it is.
    pub const UNKNOWN: Self = Self { passing: Passing::AsIs, ..Self::COMPATIBLE };

    /// What nearly everybody else has in common.
    pub const COMPATIBLE: Self = Self {
        max_tokens: MaxTokens::MaxTokens,
        stream_usage: StreamUsage::OnRequest,
        reasoning: ReasoningField::Effort,
        reasoning_back: ReasoningBack::Never,
        cache_control: CacheControl::Implicit,
        top_k: Extra::Unknown,
        additions: Extra::Unknown,
        passing: Passing::Adapted,
    };

    /// The field for the most output tokens.
    #[must_use]
    pub const fn max_tokens_field(&self) -> Field {
        match self.max_tokens {
            MaxTokens::MaxCompletionTokens => Field::MaxCompletionTokens,
            MaxTokens::MaxTokens => Field::MaxTokens,
        }
    }

    /// Bounds the output of a body that passes: every field that says a bound is set, since servers differ in which
    /// of two they heed, and this vendor's own where there is none. After [`Quirks::adapt`].
    pub fn bound_output(&self, scan: &Scan, most: u64, rewrite: &mut Rewrite<'_>) {
        let mut is_said = false;
        for field in [Field::MaxTokens, Field::MaxCompletionTokens] {
            if scan.present(field).is_some() {
                is_said = true;
                rewrite.set(field, most.to_string());
            }
        }
        if !is_said || (self.passing == Passing::Adapted && self.max_tokens == MaxTokens::MaxTokens)
        {
            rewrite.set(self.max_tokens_field(), most.to_string());
        }
    }

    /// Adds to `rewrite` what a body in OpenAI's dialect needs so that this vendor takes it: the field for the most
    /// output tokens renamed, usage asked for at the end of a stream where that takes asking.
    pub fn adapt(&self, scan: &Scan, body: &[u8], rewrite: &mut Rewrite<'_>) {
        let (from, to) = match self.max_tokens {
            _ if self.passing == Passing::AsIs => (None, Field::MaxTokens),
            // OpenAI's older models take both names; only its servers tell them apart.
            MaxTokens::MaxCompletionTokens => (None, Field::MaxCompletionTokens),
            MaxTokens::MaxTokens => (scan.present(Field::MaxCompletionTokens), Field::MaxTokens),
        };
        if let Some(value) = from.and_then(|it| body.get(it.value.clone())) {
            rewrite.remove(Field::MaxCompletionTokens);
            if scan.present(to).is_none() {
                rewrite.set(to, value);
            }
        }
        match self.stream_usage {
            StreamUsage::OnRequest if scan.stream() && scan.include_usage() != Some(true) => {
                rewrite.include_usage(body);
            }
            StreamUsage::Always if scan.span(Field::StreamOptions).is_some() => {
                rewrite.remove(Field::StreamOptions);
            }
            StreamUsage::OnRequest | StreamUsage::Always => {}
        }
    }

    /// Whether a body in OpenAI's dialect may hold what this vendor refuses and splicing cannot mend, so that it must
    /// be read and written anew. Errs towards yes.
    #[must_use]
    pub fn must_translate(&self, scan: &Scan) -> bool {
        self.passing == Passing::Adapted
            && self.additions == Extra::Unknown
            && scan.marks().names_developer()
    }
}
