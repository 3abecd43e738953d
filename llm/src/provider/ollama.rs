//! Ollama, on this machine unless `base_url` says otherwise.

use super::{Auth, Paths, Vendor};
use crate::dialect::openai::{Extra, OpenAi, Quirks};

pub(super) static VENDOR: Vendor = Vendor {
    name: "ollama",
    base_url: "http://127.0.0.1:11434/v1",
    auth: Auth::Bearer,
    dialect: "openai",
    has_responses: false,
    has_embeddings: true,
    serves_any: true,
    paths: Paths::Plain,
    openai: Some(&OpenAi { quirks: Quirks { top_k: Extra::Known, ..Quirks::COMPATIBLE } }),
};
