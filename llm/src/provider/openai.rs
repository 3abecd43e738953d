//! OpenAI.

use super::{Auth, Paths, Vendor};
use crate::dialect::openai::{OpenAi, Quirks};

pub(super) static VENDOR: Vendor = Vendor {
    name: "openai",
    base_url: "https://api.openai.com/v1",
    auth: Auth::Bearer,
    dialect: "openai",
    has_responses: true,
    has_embeddings: true,
    serves_any: false,
    paths: Paths::Plain,
    openai: Some(&OpenAi { quirks: Quirks::OPENAI }),
};
