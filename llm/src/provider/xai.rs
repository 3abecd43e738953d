//! xAI.

use super::{Auth, Paths, Vendor};
use crate::dialect::openai::{MaxTokens, OpenAi, Quirks};

pub(super) static VENDOR: Vendor = Vendor {
    name: "xai",
    base_url: "https://api.x.ai/v1",
    auth: Auth::Bearer,
    dialect: "openai",
    has_responses: false,
    has_embeddings: false,
    serves_any: false,
    paths: Paths::Plain,
    openai: Some(&OpenAi {
        quirks: Quirks { max_tokens: MaxTokens::MaxCompletionTokens, ..Quirks::COMPATIBLE },
    }),
};
