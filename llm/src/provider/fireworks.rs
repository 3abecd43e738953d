//! Fireworks AI.

use super::{Auth, Paths, Vendor};
use crate::dialect::openai::{Extra, OpenAi, Quirks};

pub(super) static VENDOR: Vendor = Vendor {
    name: "fireworks",
    base_url: "https://api.fireworks.ai/inference/v1",
    auth: Auth::Bearer,
    dialect: "openai",
    has_responses: false,
    has_embeddings: true,
    serves_any: true,
    paths: Paths::Plain,
    openai: Some(&OpenAi { quirks: Quirks { top_k: Extra::Known, ..Quirks::COMPATIBLE } }),
};
