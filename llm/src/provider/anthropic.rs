//! Anthropic.

use super::{Auth, Paths, Vendor};

pub(super) static VENDOR: Vendor = Vendor {
    name: "anthropic",
    base_url: "https://api.anthropic.com/v1",
    auth: Auth::Header("x-api-key"),
    dialect: "anthropic",
    has_responses: false,
    has_embeddings: false,
    serves_any: false,
    paths: Paths::Plain,
    openai: None,
};
