//! What callers ask of models: the operation and the dialect behind each path.

use std::borrow::Cow;

use althing_llm::dialect::{self, Dialect};

/// An operation on a model, in the words of its dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// OpenAI `POST /chat/completions`.
    Chat,
    /// OpenAI `POST /completions`, its form before chat.
    Completions,
    /// OpenAI `POST /responses`.
    Responses,
    /// OpenAI `POST /embeddings`.
    Embeddings,
    /// Anthropic `POST /messages`.
    Messages,
    /// Anthropic `POST /messages/count_tokens`.
    CountMessages,
    /// Gemini `:generateContent`.
    Generate,
    /// Gemini `:streamGenerateContent`.
    StreamGenerate,
    /// Gemini `:embedContent`.
    Embed,
    /// Gemini `:batchEmbedContents`.
    BatchEmbed,
    /// Gemini `:countTokens`.
    CountGemini,
}

/// A path that leads to a model.
pub struct Face<'p> {
    /// What is asked.
    pub op: Op,
    /// In which dialect.
    pub dialect: &'static dyn Dialect,
    /// The model, where the path names it.
    pub model: Option<Cow<'p, str>>,
}

impl Op {
    /// The name of its dialect.
    #[must_use]
    pub const fn dialect(self) -> &'static str {
        match self {
            Self::Chat | Self::Completions | Self::Embeddings => "openai",
            Self::Responses => "openai_responses",
            Self::Messages | Self::CountMessages => "anthropic",
            Self::Generate
            | Self::StreamGenerate
            | Self::Embed
            | Self::BatchEmbed
            | Self::CountGemini => "gemini",
        }
    }

    /// Whether it makes embeddings.
    #[must_use]
    pub const fn is_embedding(self) -> bool {
        matches!(self, Self::Embeddings | Self::Embed | Self::BatchEmbed)
    }

    /// Whether it only counts tokens.
    #[must_use]
    pub const fn is_count(self) -> bool {
        matches!(self, Self::CountMessages | Self::CountGemini)
    }

    /// What the conventions for traces call it (`gen_ai.operation.name`).
    #[must_use]
    pub const fn operation(self) -> &'static str {
        match self {
            Self::Chat | Self::Responses | Self::Messages => "chat",
            Self::Completions => "text_completion",
            Self::Generate | Self::StreamGenerate => "generate_content",
            Self::Embeddings | Self::Embed | Self::BatchEmbed => "embeddings",
            Self::CountMessages | Self::CountGemini => "count_tokens",
        }
    }

    /// The path that leads to it, with a place for the model (`http.route`).
    #[must_use]
    pub const fn route(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Responses => "/v1/responses",
            Self::Embeddings => "/v1/embeddings",
            Self::Messages => "/v1/messages",
            Self::CountMessages => "/v1/messages/count_tokens",
            Self::Generate => "/v1beta/models/{model}:generateContent",
            Self::StreamGenerate => "/v1beta/models/{model}:streamGenerateContent",
            Self::Embed => "/v1beta/models/{model}:embedContent",
            Self::BatchEmbed => "/v1beta/models/{model}:batchEmbedContents",
            Self::CountGemini => "/v1beta/models/{model}:countTokens",
        }
    }

    /// The path of it below an upstream's base URL that speaks the same dialect.
    #[must_use]
    pub fn path(self, model: &str) -> String {
        let gemini = |verb: &str| {
            let model = model.strip_prefix("models/").unwrap_or(model);
            let model = percent_encoding::utf8_percent_encode(model, PATH_SEGMENT);
            format!("/models/{model}:{verb}")
        };
        match self {
            Self::Chat => "/chat/completions".to_owned(),
            Self::Completions => "/completions".to_owned(),
            Self::Responses => "/responses".to_owned(),
            Self::Embeddings => "/embeddings".to_owned(),
            Self::Messages => "/messages".to_owned(),
            Self::CountMessages => "/messages/count_tokens".to_owned(),
            Self::Generate => gemini("generateContent"),
            Self::StreamGenerate => gemini("streamGenerateContent?alt=sse"),
            Self::Embed => gemini("embedContent"),
            Self::BatchEmbed => gemini("batchEmbedContents"),
            Self::CountGemini => gemini("countTokens"),
        }
    }
}

/// What must be encoded in a path segment; a slash in a model's name stays, as Google's own SDKs send it.
const PATH_SEGMENT: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'%')
    .add(b':');

/// The face behind `path`, where there is one.
#[must_use]
pub fn of_path(path: &str) -> Option<Face<'_>> {
    let fixed = |op: Op| Some(Face { op, dialect: dialect::by_name(op.dialect())?, model: None });
    match path {
        "/v1/chat/completions" | "/openai/v1/chat/completions" | "/openai/chat/completions" => {
            fixed(Op::Chat)
        }
        "/v1/completions" | "/openai/v1/completions" | "/openai/completions" => {
            fixed(Op::Completions)
        }
        "/v1/responses" | "/openai/v1/responses" | "/openai/responses" => fixed(Op::Responses),
        "/v1/embeddings" | "/openai/v1/embeddings" | "/openai/embeddings" => fixed(Op::Embeddings),
        "/v1/messages" | "/anthropic/v1/messages" => fixed(Op::Messages),
        "/v1/messages/count_tokens" | "/anthropic/v1/messages/count_tokens" => {
            fixed(Op::CountMessages)
        }
        _ => gemini(path),
    }
}

/// The dialect that a caller of `path` speaks, for answers to what has no route: by the path's first part.
#[must_use]
pub fn dialect_of_path(path: &str) -> &'static dyn Dialect {
    let name = match path.split('/').nth(1) {
        Some("anthropic") => "anthropic",
        Some("genai" | "v1beta") => "gemini",
        _ if path.starts_with("/v1/messages") => "anthropic",
        _ if gemini(path).is_some() => "gemini",
        _ => "openai",
    };
    dialect::by_name(name).unwrap_or(&dialect::openai::OPENAI)
}

fn gemini(path: &str) -> Option<Face<'_>> {
    let rest = path.strip_prefix("/genai").unwrap_or(path);
    let rest = rest.strip_prefix("/v1beta/models/").or_else(|| rest.strip_prefix("/v1/models/"))?;
    let (model, verb) = rest.rsplit_once(':')?;
    let op = match verb {
        "generateContent" => Op::Generate,
        "streamGenerateContent" => Op::StreamGenerate,
        "embedContent" => Op::Embed,
        "batchEmbedContents" => Op::BatchEmbed,
        "countTokens" => Op::CountGemini,
        _ => return None,
    };
    let model = percent_encoding::percent_decode_str(model).decode_utf8().ok()?;
    Some(Face { op, dialect: dialect::by_name("gemini")?, model: Some(model) })
}

#[cfg(test)]
mod tests {
    use super::{Op, of_path};

    #[test]
    fn a_gemini_path_names_its_model_and_operation() {
        let face =
            of_path("/genai/v1beta/models/openai%2Fgpt-4o:streamGenerateContent").expect("face");
        assert_eq!((face.op, face.model.as_deref()), (Op::StreamGenerate, Some("openai/gpt-4o")));
        let face = of_path("/v1beta/models/gemini-2.5-flash:countTokens").expect("face");
        assert_eq!((face.op, face.model.as_deref()), (Op::CountGemini, Some("gemini-2.5-flash")));
        assert!(of_path("/genai/v1beta/models/gemini-2.5-flash:tuneModel").is_none());
    }

    #[test]
    fn a_model_cannot_leave_its_path_segment() {
        assert_eq!(Op::Generate.path("a?b#c"), "/models/a%3Fb%23c:generateContent");
    }
}
