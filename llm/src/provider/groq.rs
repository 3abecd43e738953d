//! Groq.

use super::{Auth, MaxTokensField, Vendor};

pub(super) static VENDOR: Vendor = Vendor {
    name: "groq",
    base_url: "https://api.groq.com/openai/v1",
    auth: Auth::Bearer,
    dialect: "openai",
    has_responses: false,
    has_embeddings: false,
    serves_any: false,
    max_tokens_field: MaxTokensField::MaxCompletionTokens,
    takes_stream_options: true,
};
