//! Where Gemini keeps the model and the method: in the path.

use std::fmt::Write as _;

/// What a path asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `generateContent`: a whole reply.
    Generate,
    /// `streamGenerateContent`: a stream; server-sent events where the query says `alt=sse`, else one JSON array.
    Stream,
    /// `countTokens`.
    Count,
    /// `embedContent`: one vector.
    Embed,
    /// `batchEmbedContents`: several vectors.
    BatchEmbed,
}

/// The model and the method of a path's end, such as `models/gemini-3-pro:generateContent`. The path is percent-decoded
/// and may leave `models/` out.
#[must_use]
pub fn method(path: &str) -> Option<(&str, Method)> {
    let (model, method) = path.rsplit_once(':')?;
    let method = match method {
        "generateContent" => Method::Generate,
        "streamGenerateContent" => Method::Stream,
        "countTokens" => Method::Count,
        "embedContent" => Method::Embed,
        "batchEmbedContents" => Method::BatchEmbed,
        _ => return None,
    };
    let model = bare(model.trim_start_matches('/'));
    (!model.is_empty()).then_some((model, method))
}

/// A model's name without `models/`.
pub(super) fn bare(model: &str) -> &str {
    model.strip_prefix("models/").unwrap_or(model)
}

/// A model's resource name: `models/…`, or `tunedModels/…` as it is.
pub(super) fn resource(model: &str) -> String {
    if model.starts_with("tunedModels/") {
        model.to_owned()
    } else {
        format!("models/{}", bare(model))
    }
}

/// The path of a method below the base URL. A name from outside cannot leave its place in the path.
pub(super) fn of(model: &str, method: &str) -> String {
    let resource = resource(model);
    let (kind, name) = resource.split_once('/').unwrap_or(("models", &resource));
    let mut path = format!("/{kind}/");
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte) {
            path.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path.push(':');
    path.push_str(method);
    path
}
