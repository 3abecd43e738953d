//! Azure OpenAI. `base_url` is the resource's own, `https://NAME.openai.azure.com/openai/v1` (or up to the host, for the older paths by deployment).

use super::{Auth, Paths, Vendor};
use crate::dialect::openai::{OpenAi, Quirks};

pub(super) static VENDOR: Vendor = Vendor {
    name: "azure",
    base_url: "https://example.openai.azure.com/openai/v1",
    auth: Auth::Header("api-key"),
    dialect: "openai",
    has_responses: true,
    has_embeddings: true,
    serves_any: true,
    paths: Paths::ByDeployment,
    openai: Some(&OpenAi { quirks: Quirks::OPENAI }),
};
