//! Perplexity.

use super::{Auth, MaxTokensField, Vendor};

pub(super) static VENDOR: Vendor = Vendor {
    name: "perplexity",
    base_url: "https://api.perplexity.ai",
    auth: Auth::Bearer,
    dialect: "openai",
    has_responses: false,
    has_embeddings: false,
    serves_any: false,
    max_tokens_field: MaxTokensField::MaxTokens,
    takes_stream_options: false,
};
