//! Usage as vendors write it. Lenient: a count that is absent, `null` or nonsense is zero, because a reply that was
//! paid for must not be lost for it.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::Usage;
use crate::scan::members;

/// A count of tokens, whatever a vendor made of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count(pub(crate) u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "`as` saturates, and a vendor's float count is small"
        )]
        let float = |it: &Value| it.as_f64().map(|it| it.ceil() as u64);
        Ok(Self(value.as_u64().or_else(|| float(&value)).unwrap_or(0)))
    }
}

/// A part of usage that may be `null`.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// OpenAI's two shapes, which share no field: chat completions (with what its imitators add) and Responses.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct OpenAi {
    prompt_tokens: Count,
    completion_tokens: Count,
    total_tokens: Count,
    #[serde(deserialize_with = "or_default")]
    prompt_tokens_details: InputDetails,
    #[serde(deserialize_with = "or_default")]
    completion_tokens_details: OutputDetails,
    /// `DeepSeek`.
    prompt_cache_hit_tokens: Count,
    /// Moonshot and others.
    cached_tokens: Count,
    input_tokens: Count,
    output_tokens: Count,
    #[serde(deserialize_with = "or_default")]
    input_tokens_details: InputDetails,
    #[serde(deserialize_with = "or_default")]
    output_tokens_details: OutputDetails,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct InputDetails {
    cached_tokens: Count,
    /// `OpenRouter`.
    cache_write_tokens: Count,
    /// `LiteLLM`.
    cache_creation_tokens: Count,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct OutputDetails {
    reasoning_tokens: Count,
}

impl OpenAi {
    /// Reads it from JSON text: what is written as vendors write it at once, anything else with more patience.
    pub(crate) fn read(text: &[u8]) -> Option<Self> {
        Self::read_plain(text).or_else(|| serde_json::from_slice(text).ok())
    }

    /// `None` where a count is no plain whole number.
    fn read_plain(text: &[u8]) -> Option<Self> {
        let mut all = Self::default();
        each(text, |name, value| {
            let count = match name {
                b"prompt_tokens" => &mut all.prompt_tokens,
                b"completion_tokens" => &mut all.completion_tokens,
                b"total_tokens" => &mut all.total_tokens,
                b"prompt_cache_hit_tokens" => &mut all.prompt_cache_hit_tokens,
                b"cached_tokens" => &mut all.cached_tokens,
                b"input_tokens" => &mut all.input_tokens,
                b"output_tokens" => &mut all.output_tokens,
                b"prompt_tokens_details" => return all.prompt_tokens_details.read_plain(value),
                b"input_tokens_details" => return all.input_tokens_details.read_plain(value),
                b"completion_tokens_details" => {
                    return all.completion_tokens_details.read_plain(value);
                }
                b"output_tokens_details" => return all.output_tokens_details.read_plain(value),
                _ => return Some(()),
            };
            *count = plain(value)?;
            Some(())
        })?;
        Some(all)
    }

    pub(crate) fn usage(&self) -> Usage {
        let input = self.prompt_tokens.0.max(self.input_tokens.0);
        let mut output = self.completion_tokens.0.max(self.output_tokens.0);
        let reasoning = self
            .completion_tokens_details
            .reasoning_tokens
            .0
            .max(self.output_tokens_details.reasoning_tokens.0);
        // xAI leaves reasoning out of the completion; its total tells.
        if reasoning > 0
            && self.total_tokens.0 == input.saturating_add(output).saturating_add(reasoning)
        {
            output = output.saturating_add(reasoning);
        }
        let (chat, responses) = (&self.prompt_tokens_details, &self.input_tokens_details);
        let cached = [
            chat.cached_tokens.0,
            responses.cached_tokens.0,
            self.prompt_cache_hit_tokens.0,
            self.cached_tokens.0,
        ];
        let written = [
            chat.cache_write_tokens.0,
            chat.cache_creation_tokens.0,
            responses.cache_write_tokens.0,
            responses.cache_creation_tokens.0,
        ];
        let cached_input = cached.into_iter().max().unwrap_or(0).min(input);
        Usage {
            input,
            cached_input,
            cache_write: written.into_iter().max().unwrap_or(0).min(input - cached_input),
            output,
            reasoning: reasoning.min(output),
        }
    }
}

impl InputDetails {
    fn read_plain(&mut self, text: &[u8]) -> Option<()> {
        each(text, |name, value| {
            let count = match name {
                b"cached_tokens" => &mut self.cached_tokens,
                b"cache_write_tokens" => &mut self.cache_write_tokens,
                b"cache_creation_tokens" => &mut self.cache_creation_tokens,
                _ => return Some(()),
            };
            *count = plain(value)?;
            Some(())
        })
    }
}

impl OutputDetails {
    fn read_plain(&mut self, text: &[u8]) -> Option<()> {
        each(text, |name, value| {
            if name == b"reasoning_tokens" {
                self.reasoning_tokens = plain(value)?;
            }
            Some(())
        })
    }
}

/// Calls `take` with each field of an object; `None` as soon as it gives that, or where there is no object.
fn each(text: &[u8], mut take: impl FnMut(&[u8], &[u8]) -> Option<()>) -> Option<()> {
    let mut is_plain = true;
    let walked = members(text, |key, member| {
        let value = text.get(member.value).unwrap_or_default();
        is_plain = is_plain && take(key.raw(), value).is_some();
        Ok(())
    });
    (walked.is_ok() && is_plain).then_some(())
}

/// A count that is written in digits.
fn plain(text: &[u8]) -> Option<Count> {
    let digits = (1..=18).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    digits.then(|| Count(text.iter().fold(0, |sum, it| sum * 10 + u64::from(it - b'0'))))
}

/// Anthropic's. A stream says it in two parts; a field of the second that is there replaces the first's.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Anthropic {
    input_tokens: Option<Count>,
    cache_creation_input_tokens: Option<Count>,
    cache_read_input_tokens: Option<Count>,
    output_tokens: Option<Count>,
}

impl Anthropic {
    pub(crate) fn merge(&mut self, later: Self) {
        self.input_tokens = later.input_tokens.or(self.input_tokens);
        self.cache_creation_input_tokens =
            later.cache_creation_input_tokens.or(self.cache_creation_input_tokens);
        self.cache_read_input_tokens =
            later.cache_read_input_tokens.or(self.cache_read_input_tokens);
        self.output_tokens = later.output_tokens.or(self.output_tokens);
    }

    pub(crate) fn usage(&self) -> Usage {
        let count = |it: Option<Count>| it.map_or(0, |it| it.0);
        let (cached_input, cache_write) =
            (count(self.cache_read_input_tokens), count(self.cache_creation_input_tokens));
        Usage {
            input: count(self.input_tokens)
                .saturating_add(cached_input)
                .saturating_add(cache_write),
            cached_input,
            cache_write,
            output: count(self.output_tokens),
            reasoning: 0,
        }
    }
}

/// Gemini's `usageMetadata`, and what its embeddings say.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Gemini {
    prompt_token_count: Count,
    tool_use_prompt_token_count: Count,
    cached_content_token_count: Count,
    candidates_token_count: Count,
    thoughts_token_count: Count,
}

impl Gemini {
    pub(crate) fn usage(&self) -> Usage {
        let input = self.prompt_token_count.0.saturating_add(self.tool_use_prompt_token_count.0);
        Usage {
            input,
            cached_input: self.cached_content_token_count.0.min(input),
            cache_write: 0,
            output: self.candidates_token_count.0.saturating_add(self.thoughts_token_count.0),
            reasoning: self.thoughts_token_count.0,
        }
    }
}
