//! `OpenRouter`.

use super::{Auth, Paths, Vendor};
use crate::dialect::openai::{CacheControl, Extra, OpenAi, Quirks, ReasoningBack, ReasoningField};

pub(super) static VENDOR: Vendor = Vendor {
    name: "openrouter",
    base_url: "https://openrouter.ai/api/v1",
    auth: Auth::Bearer,
    dialect: "openai",
    has_responses: false,
    has_embeddings: false,
    serves_any: true,
    paths: Paths::Plain,
    openai: Some(&OpenAi {
        quirks: Quirks {
            reasoning: ReasoningField::Nested,
            reasoning_back: ReasoningBack::Details,
            cache_control: CacheControl::Kept,
            top_k: Extra::Known,
            ..Quirks::COMPATIBLE
        },
    }),
};
