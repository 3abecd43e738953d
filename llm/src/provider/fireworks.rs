//! Fireworks AI.

use super::{Auth, MaxTokensField, Vendor};

pub(super) static VENDOR: Vendor = Vendor {
    name: "fireworks",
    base_url: "https://api.fireworks.ai/inference/v1",
    auth: Auth::Bearer,
    dialect: "openai",
    has_responses: false,
    has_embeddings: true,
    serves_any: true,
    max_tokens_field: MaxTokensField::MaxTokens,
    takes_stream_options: true,
};
