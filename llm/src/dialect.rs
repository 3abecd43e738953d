//! A dialect: one vendor's wire format, as a face to callers and as a face to upstreams.
//!
//! A dialect is pure: bytes to the gateway's own form ([`crate::chat`]) and back. To add one:
//! a file in `dialect/`, and its line in [`ALL`].

use std::sync::Arc;

use crate::chat::{Alias, Event, Reply, Request};
use crate::embed;

mod anthropic;
pub mod gemini;
pub mod openai;
mod openai_responses;

pub use anthropic::Anthropic;
pub use gemini::Gemini;
pub use openai_responses::OpenAiResponses;

/// Every dialect, by name.
pub static ALL: &[&dyn Dialect] = &[&openai::OPENAI, &OpenAiResponses, &Anthropic, &Gemini];

/// The dialect of that name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static dyn Dialect> {
    ALL.iter().copied().find(|it| it.name() == name)
}

/// A request or reply is not of the dialect's shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A caller's request: `field` is a path such as `messages[2].content`, `problem` a sentence that says how to mend it.
    #[error("{field}: {problem}")]
    Field {
        /// Where.
        field: String,
        /// What is wrong, and what would do.
        problem: String,
    },
    /// The body is not JSON.
    #[error("the body is not valid JSON: {problem}")]
    Json {
        /// What the parser says, with line and column.
        problem: String,
    },
    /// An upstream sent something that is not its own format.
    #[error("malformed reply: {problem}")]
    Reply {
        /// What is wrong.
        problem: String,
    },
    /// The dialect cannot do this at all.
    #[error("{dialect} cannot {what}")]
    Unsupported {
        /// Which dialect.
        dialect: &'static str,
        /// What was asked.
        what: &'static str,
    },
}

/// A request in a vendor's terms. Carries no credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireRequest {
    /// The path below the provider's base URL, with its leading slash, query included (`/chat/completions`).
    pub path: String,
    /// The JSON body.
    pub body: Vec<u8>,
    /// Headers that the vendor needs for it (`anthropic-version`, `anthropic-beta`).
    pub headers: Vec<(&'static str, String)>,
    /// Fields that the target cannot say, by the caller's name for them; sorted, each once.
    pub dropped: Vec<String>,
}

/// An error to put in a dialect's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure<'a> {
    /// The HTTP status.
    pub status: u16,
    /// Althing's stable code, such as `budget_exhausted`.
    pub code: &'a str,
    /// A sentence that says how to mend it.
    pub message: &'a str,
    /// The field at fault, where there is one.
    pub param: Option<&'a str>,
    /// The request's id.
    pub request_id: &'a str,
}

/// A vendor's error, read from its own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamFailure {
    /// The vendor's word for the kind of failure.
    pub kind: Option<String>,
    /// The vendor's code.
    pub code: Option<String>,
    /// The vendor's sentence.
    pub message: Option<String>,
}

/// What a reply needs to know of the call it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyContext {
    /// The model as the caller named it.
    pub model: String,
    /// Seconds of Unix time, for dialects that state when.
    pub created: u64,
    /// A unique id to answer under, without prefix, where the vendor's own does not fit the dialect.
    pub id: String,
    /// Whether the caller asked a stream to end with usage.
    pub stream_usage: bool,
    /// Functions that stand for something else in the caller's dialect, as its request was read
    /// ([`Request::aliases`]).
    pub aliases: Arc<[Alias]>,
}

/// One wire format. Object-safe; implementations are unit structs.
///
/// "As a face to callers" the dialect decodes requests and encodes replies; "as a face to upstreams"
/// it encodes requests and decodes replies.
pub trait Dialect: Send + Sync {
    /// Its name: `openai`, `openai_responses`, `anthropic`, `gemini`.
    fn name(&self) -> &'static str;

    /// Reads a caller's request. `model` and `stream` come from the path in Gemini's dialect (then `path_model` is
    /// set, and `path_stream` says which method), from the body elsewhere.
    ///
    /// # Errors
    ///
    /// [`Error::Json`] and [`Error::Field`].
    fn decode_request(
        &self,
        body: &[u8],
        path_model: Option<&str>,
        path_stream: bool,
    ) -> Result<Request, Error>;

    /// Writes a whole reply for a caller.
    fn encode_reply(&self, reply: &Reply, context: &ReplyContext) -> Vec<u8>;

    /// Writes a stream for a caller.
    fn stream_encoder(&self, context: &ReplyContext) -> Box<dyn StreamEncoder>;

    /// Writes an error for a caller.
    fn encode_failure(&self, failure: &Failure<'_>) -> Vec<u8>;

    /// Writes a request for an upstream.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] and [`Error::Field`], where leaving something out would change what is asked.
    fn encode_request(&self, request: &Request) -> Result<WireRequest, Error>;

    /// Reads an upstream's whole reply.
    ///
    /// # Errors
    ///
    /// [`Error::Reply`].
    fn decode_reply(&self, body: &[u8]) -> Result<Reply, Error>;

    /// Reads an upstream's stream.
    fn stream_decoder(&self) -> Box<dyn StreamDecoder>;

    /// Reads an upstream's error body; whatever it is, this does not fail.
    fn decode_failure(&self, status: u16, body: &[u8]) -> UpstreamFailure;

    /// Reads a caller's request to count the tokens of a prompt.
    ///
    /// # Errors
    ///
    /// As [`Dialect::decode_request`], and [`Error::Unsupported`] where the dialect has none.
    fn decode_count(&self, _body: &[u8], _path_model: Option<&str>) -> Result<Request, Error> {
        Err(Error::Unsupported { dialect: self.name(), what: "count tokens" })
    }

    /// Writes the number of input tokens for a caller.
    fn encode_count_reply(&self, _input_tokens: u64) -> Vec<u8> {
        Vec::new()
    }

    /// Writes a request to count the tokens of a prompt for an upstream.
    ///
    /// # Errors
    ///
    /// As [`Dialect::encode_request`], and [`Error::Unsupported`] where the vendor cannot count.
    fn encode_count(&self, _request: &Request) -> Result<WireRequest, Error> {
        Err(Error::Unsupported { dialect: self.name(), what: "count tokens" })
    }

    /// Reads an upstream's number of input tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Reply`].
    fn decode_count_reply(&self, _body: &[u8]) -> Result<u64, Error> {
        Err(Error::Unsupported { dialect: self.name(), what: "count tokens" })
    }

    /// Reads a caller's request for embeddings.
    ///
    /// # Errors
    ///
    /// As [`Dialect::decode_request`], and [`Error::Unsupported`] where the dialect has none.
    fn decode_embed(
        &self,
        _body: &[u8],
        _path_model: Option<&str>,
    ) -> Result<embed::Request, Error> {
        Err(Error::Unsupported { dialect: self.name(), what: "ask for embeddings" })
    }

    /// Writes embeddings for a caller, in the shape (`base64` or numbers) that `request` asked for.
    fn encode_embed_reply(&self, _request: &embed::Request, _reply: &embed::Reply) -> Vec<u8> {
        Vec::new()
    }

    /// Writes a request for embeddings for an upstream.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] where the vendor has none.
    fn encode_embed(&self, _request: &embed::Request) -> Result<WireRequest, Error> {
        Err(Error::Unsupported { dialect: self.name(), what: "make embeddings" })
    }

    /// Reads an upstream's embeddings.
    ///
    /// # Errors
    ///
    /// [`Error::Reply`].
    fn decode_embed_reply(&self, _body: &[u8]) -> Result<embed::Reply, Error> {
        Err(Error::Unsupported { dialect: self.name(), what: "make embeddings" })
    }
}

/// Writes a stream in a dialect, event by event, as bytes ready to send.
pub trait StreamEncoder: Send {
    /// Appends what `event` is in this dialect. Some events are nothing in some dialects.
    fn encode(&mut self, event: &Event, out: &mut Vec<u8>);

    /// Appends the dialect's own ending for a stream that must be cut because money ran out: finish reason length, then the end.
    fn cut(&mut self, out: &mut Vec<u8>);

    /// Appends the dialect's own error event, then ends.
    fn fail(&mut self, failure: &Failure<'_>, out: &mut Vec<u8>);
}

/// Reads a vendor's stream from its server-sent events.
pub trait StreamDecoder: Send {
    /// Reads one server-sent event: its `event:` name where it had one, and its `data:` joined. Appends what it said.
    ///
    /// # Errors
    ///
    /// [`Error::Reply`]. What was appended before it stands: the caller may have sent it on.
    fn push(&mut self, name: Option<&str>, data: &str, out: &mut Vec<Event>) -> Result<(), Error>;

    /// The stream ended. Appends what is still due (open blocks, [`Event::Done`]).
    ///
    /// # Errors
    ///
    /// [`Error::Reply`] where the vendor's own end never came: the reply is cut short.
    fn finish(&mut self, out: &mut Vec<Event>) -> Result<(), Error>;
}
