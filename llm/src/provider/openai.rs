//! OpenAI.

use super::{Auth, MaxTokensField, Vendor};

pub(super) static VENDOR: Vendor = Vendor {
    name: "openai",
    base_url: "https://api.openai.com/v1",
    auth: Auth::Bearer,
    dialect: "openai",
    has_responses: true,
    has_embeddings: true,
    serves_any: false,
    max_tokens_field: MaxTokensField::MaxCompletionTokens,
    takes_stream_options: true,
};
