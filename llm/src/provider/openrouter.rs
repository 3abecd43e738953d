//! OpenRouter.

use super::{Auth, MaxTokensField, Vendor};

pub(super) static VENDOR: Vendor = Vendor {
    name: "openrouter",
    base_url: "https://openrouter.ai/api/v1",
    auth: Auth::Bearer,
    dialect: "openai",
    has_responses: false,
    has_embeddings: false,
    serves_any: true,
    max_tokens_field: MaxTokensField::MaxTokens,
    takes_stream_options: true,
};
