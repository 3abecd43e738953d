//! Mistral.

use super::{Auth, MaxTokensField, Vendor};

pub(super) static VENDOR: Vendor = Vendor {
    name: "mistral",
    base_url: "https://api.mistral.ai/v1",
    auth: Auth::Bearer,
    dialect: "openai",
    has_responses: false,
    has_embeddings: true,
    serves_any: false,
    max_tokens_field: MaxTokensField::MaxTokens,
    takes_stream_options: false,
};
