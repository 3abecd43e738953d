//! Vendors, as data over a dialect.
//!
//! To add one: a file beside `groq.rs`, and its line in [`ALL`].

use std::borrow::Cow;

use althing_domain::policy::DialectName;

use crate::dialect::openai::{OpenAi, Quirks};
use crate::dialect::{self, Dialect};

mod anthropic;
mod azure;
mod cerebras;
mod deepseek;
mod fireworks;
mod gemini;
mod groq;
mod mistral;
mod ollama;
mod openai;
mod openrouter;
mod perplexity;
mod together;
mod vllm;
mod xai;

/// Every vendor that is known by name.
pub static ALL: &[&Vendor] = &[
    &openai::VENDOR,
    &anthropic::VENDOR,
    &gemini::VENDOR,
    &azure::VENDOR,
    &mistral::VENDOR,
    &groq::VENDOR,
    &together::VENDOR,
    &fireworks::VENDOR,
    &deepseek::VENDOR,
    &xai::VENDOR,
    &openrouter::VENDOR,
    &perplexity::VENDOR,
    &cerebras::VENDOR,
    &ollama::VENDOR,
    &vllm::VENDOR,
];

/// What speaks a dialect and is no vendor that we know.
static COMPATIBLE: [Vendor; 4] = [
    compatible("openai-compatible", "openai", Auth::Bearer, true),
    compatible("anthropic-compatible", "anthropic", Auth::Header("x-api-key"), false),
    compatible("gemini-compatible", "gemini", Auth::Header("x-goog-api-key"), true),
    Vendor { name: "demo", ..compatible("demo", "openai", Auth::Bearer, true) },
];

/// A vendor: how it is reached, and where it differs from its dialect.
#[derive(Debug)]
pub struct Vendor {
    /// Its name in configuration, logs and prices.
    pub name: &'static str,
    /// Where its API lives, unless configuration says otherwise.
    pub base_url: &'static str,
    /// How it expects a credential to be shown.
    pub auth: Auth,
    /// The dialect of its chat operation.
    pub dialect: &'static str,
    /// Whether it has OpenAI's Responses operation too.
    pub has_responses: bool,
    /// Whether it makes embeddings.
    pub has_embeddings: bool,
    /// Whether it serves models that the catalogue does not list: aggregators, and servers of one's own.
    pub serves_any: bool,
    /// How its paths are made.
    pub paths: Paths,
    /// The dialect as this vendor takes it, where that is OpenAI's.
    pub openai: Option<&'static OpenAi>,
}

/// How a credential is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// `Authorization: Bearer …`.
    Bearer,
    /// The credential alone, in this header (lower case).
    Header(&'static str),
}

/// How an operation's path is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paths {
    /// As the dialect has it.
    Plain,
    /// As the dialect has it below a base URL that ends in `/v1`; below a resource's bare host by deployment and dated
    /// version, as Azure had it before.
    ByDeployment,
}

/// The version of Azure's paths by deployment: its last one for general use.
const AZURE_API_VERSION: &str = "2024-10-21";

/// OpenAI's dialect as nobody knows who has it.
static COMPATIBLE_OPENAI: OpenAi = OpenAi { quirks: Quirks::UNKNOWN };

const fn is_openai(dialect: &str) -> bool {
    matches!(dialect.as_bytes(), b"openai")
}

const fn compatible(
    name: &'static str,
    dialect: &'static str,
    auth: Auth,
    has_embeddings: bool,
) -> Vendor {
    Vendor {
        name,
        base_url: "",
        auth,
        dialect,
        has_responses: false,
        has_embeddings,
        serves_any: true,
        paths: Paths::Plain,
        openai: if is_openai(dialect) { Some(&COMPATIBLE_OPENAI) } else { None },
    }
}

impl Vendor {
    /// The dialect of its chat operation, as it takes it.
    #[must_use]
    pub fn chat(&self) -> &'static dyn Dialect {
        match self.openai {
            Some(openai) => openai,
            None => dialect::by_name(self.dialect).unwrap_or(&dialect::openai::OPENAI),
        }
    }

    /// How it departs from OpenAI's dialect; OpenAI itself where it speaks another.
    #[must_use]
    pub const fn quirks(&self) -> &'static Quirks {
        match self.openai {
            Some(openai) => &openai.quirks,
            None => &Quirks::OPENAI,
        }
    }

    /// The path of an operation below `base_url`, given as the dialect has it, for a model (Azure: a deployment).
    #[must_use]
    pub fn path<'p>(&self, base_url: &str, path: &'p str, model: &str) -> Cow<'p, str> {
        let base = base_url.trim_end_matches('/');
        if self.paths == Paths::Plain || base.ends_with("/v1") {
            return Cow::Borrowed(path);
        }
        let root = if base.ends_with("/openai") { "" } else { "/openai" };
        if path.starts_with("/responses") {
            return Cow::Owned(format!("{root}/v1{path}"));
        }
        let is_plain = |it: &u8| it.is_ascii_alphanumeric() || matches!(it, b'.' | b'_' | b'-');
        let mut deployment = String::with_capacity(model.len());
        for byte in model.bytes() {
            if is_plain(&byte) {
                deployment.push(char::from(byte));
            } else {
                deployment.push_str(&format!("%{byte:02X}"));
            }
        }
        let separator = if path.contains('?') { '&' } else { '?' };
        Cow::Owned(format!(
            "{root}/deployments/{deployment}{path}{separator}api-version={AZURE_API_VERSION}"
        ))
    }

    /// Whether a caller's dialect is spoken here, so that bytes can pass.
    #[must_use]
    pub fn speaks(&self, dialect: &str) -> bool {
        self.dialect == dialect || (dialect == "openai_responses" && self.has_responses)
    }
}

/// The vendor behind a provider: by the provider's own name, unless it states another dialect.
#[must_use]
pub fn find(name: &str, dialect: Option<DialectName>) -> &'static Vendor {
    let by_name = ALL.iter().copied().find(|it| it.name == name);
    let is_own = |it: &&Vendor, dialect| match dialect {
        // They share a dialect's name with others, but neither paths nor the way a credential is shown.
        DialectName::Azure | DialectName::Demo => false,
        DialectName::OpenAi | DialectName::Anthropic | DialectName::Gemini => {
            it.dialect == name_of(dialect)
        }
    };
    match (by_name, dialect) {
        (Some(vendor), None) => vendor,
        (Some(vendor), Some(dialect)) if is_own(&vendor, dialect) => vendor,
        (_, Some(DialectName::Azure)) => &azure::VENDOR,
        (_, Some(DialectName::Anthropic)) => &COMPATIBLE[1],
        (_, Some(DialectName::Gemini)) => &COMPATIBLE[2],
        (_, Some(DialectName::Demo)) => &COMPATIBLE[3],
        (_, Some(DialectName::OpenAi) | None) => {
            if name == "demo" {
                &COMPATIBLE[3]
            } else {
                &COMPATIBLE[0]
            }
        }
    }
}

const fn name_of(dialect: DialectName) -> &'static str {
    match dialect {
        DialectName::OpenAi | DialectName::Azure | DialectName::Demo => "openai",
        DialectName::Anthropic => "anthropic",
        DialectName::Gemini => "gemini",
    }
}

#[cfg(test)]
mod tests;
