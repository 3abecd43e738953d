//! Perplexity.

use super::{Auth, Paths, Vendor};
use crate::dialect::openai::{OpenAi, Quirks, StreamUsage};

pub(super) static VENDOR: Vendor = Vendor {
    name: "perplexity",
    base_url: "https://api.perplexity.ai",
    auth: Auth::Bearer,
    dialect: "openai",
    has_responses: false,
    has_embeddings: false,
    serves_any: false,
    paths: Paths::Plain,
    openai: Some(&OpenAi {
        quirks: Quirks { stream_usage: StreamUsage::Always, ..Quirks::COMPATIBLE },
    }),
};
