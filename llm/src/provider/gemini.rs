//! Google Gemini, on its developer API.

use super::{Auth, Paths, Vendor};

pub(super) static VENDOR: Vendor = Vendor {
    name: "gemini",
    base_url: "https://generativelanguage.googleapis.com/v1beta",
    auth: Auth::Header("x-goog-api-key"),
    dialect: "gemini",
    has_responses: false,
    has_embeddings: true,
    serves_any: false,
    paths: Paths::Plain,
    openai: None,
};
