//! DeepSeek.

use super::{Auth, MaxTokensField, Vendor};

pub(super) static VENDOR: Vendor = Vendor {
    name: "deepseek",
    base_url: "https://api.deepseek.com/v1",
    auth: Auth::Bearer,
    dialect: "openai",
    has_responses: false,
    has_embeddings: false,
    serves_any: false,
    max_tokens_field: MaxTokensField::MaxTokens,
    takes_stream_options: true,
};
