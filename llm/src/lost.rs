//! What a target cannot say, collected under the caller's names.

use std::collections::BTreeSet;

/// Names of lost fields: sorted, each once.
#[derive(Debug)]
pub(crate) struct Lost {
    dialect: &'static str,
    names: BTreeSet<String>,
}

impl Lost {
    /// Nothing lost yet, of a request in `dialect`.
    pub(crate) fn of(dialect: &'static str) -> Self {
        Self { dialect, names: BTreeSet::new() }
    }

    /// A field of the internal form is lost, by its OpenAI name.
    pub(crate) fn field(&mut self, name: &str) {
        let name = match self.dialect {
            "gemini" => gemini_name(name),
            "anthropic" => anthropic_name(name),
            _ => name,
        };
        self.names.insert(name.to_owned());
    }

    /// A field is lost that has this name in the caller's dialect.
    pub(crate) fn named(&mut self, name: impl Into<String>) {
        self.names.insert(name.into());
    }

    /// The names.
    pub(crate) fn into_names(self) -> Vec<String> {
        self.names.into_iter().collect()
    }
}

fn gemini_name(name: &str) -> &str {
    match name {
        "n" => "generationConfig.candidateCount",
        "seed" => "generationConfig.seed",
        "logprobs" => "generationConfig.responseLogprobs",
        "presence_penalty" => "generationConfig.presencePenalty",
        "frequency_penalty" => "generationConfig.frequencyPenalty",
        "temperature" => "generationConfig.temperature",
        "top_p" => "generationConfig.topP",
        "top_k" => "generationConfig.topK",
        "stop" => "generationConfig.stopSequences",
        "response_format" => "generationConfig.responseMimeType",
        "reasoning" => "generationConfig.thinkingConfig",
        "messages[].reasoning" => "contents[].parts[].thought",
        other => other,
    }
}

fn anthropic_name(name: &str) -> &str {
    match name {
        "reasoning" => "thinking",
        "messages[].reasoning" => "messages[].content[].thinking",
        "response_format" => "output_config.format",
        "stop" => "stop_sequences",
        "user" => "metadata.user_id",
        "parallel_tool_calls" => "tool_choice.disable_parallel_tool_use",
        other => other,
    }
}
