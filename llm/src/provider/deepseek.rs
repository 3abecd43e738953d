//! `DeepSeek`.

use super::{Auth, Paths, Vendor};
use crate::dialect::openai::{OpenAi, Quirks, ReasoningBack, ReasoningField};

pub(super) static VENDOR: Vendor = Vendor {
    name: "deepseek",
    base_url: "https://api.deepseek.com/v1",
    auth: Auth::Bearer,
    dialect: "openai",
    has_responses: false,
    has_embeddings: false,
    serves_any: false,
    paths: Paths::Plain,
    openai: Some(&OpenAi {
        quirks: Quirks {
            reasoning: ReasoningField::None,
            // Between a call and its result it wants its reasoning back; elsewhere it takes no notice.
            reasoning_back: ReasoningBack::Content,
            ..Quirks::COMPATIBLE
        },
    }),
};
