//! OpenAI's chat completions and embeddings, and what other vendors made of them.

use crate::chat::{Reply, Request};
use crate::dialect::{
    Dialect, Error, Failure, ReplyContext, StreamDecoder, StreamEncoder, UpstreamFailure,
    WireRequest,
};
use crate::embed;

mod embeddings;
mod emit;
pub(crate) mod error;
mod legacy;
mod message;
pub(crate) mod part;
mod quirks;
mod reasoning;
mod reply;
mod request;
mod stream;
mod upstream;

pub use quirks::{
    CacheControl, Extra, MaxTokens, Passing, Quirks, ReasoningBack, ReasoningField, StreamUsage,
};

pub(crate) use reply::flat_citations;
pub(crate) use request::json_schema;
pub(crate) use upstream::{effort, insert, schema_words};

/// The dialect's name, in seals and opaque blocks too.
pub(crate) const NAME: &str = "openai";

/// OpenAI's chat completions, `POST /chat/completions`, as one vendor takes them.
#[derive(Debug)]
pub struct OpenAi {
    /// How the vendor departs from OpenAI.
    pub quirks: Quirks,
}

/// As OpenAI itself takes them.
pub static OPENAI: OpenAi = OpenAi { quirks: Quirks::OPENAI };

impl Dialect for OpenAi {
    fn name(&self) -> &'static str {
        NAME
    }

    fn decode_request(
        &self,
        body: &[u8],
        path_model: Option<&str>,
        path_stream: bool,
    ) -> Result<Request, Error> {
        request::decode(body, path_model, path_stream)
    }

    fn encode_reply(&self, reply: &Reply, context: &ReplyContext) -> Vec<u8> {
        reply::encode(reply, context)
    }

    fn stream_encoder(&self, context: &ReplyContext) -> Box<dyn StreamEncoder> {
        Box::new(emit::Encoder::new(context.clone()))
    }

    fn encode_failure(&self, failure: &Failure<'_>) -> Vec<u8> {
        error::encode(failure)
    }

    fn encode_request(&self, request: &Request) -> Result<WireRequest, Error> {
        upstream::encode(request, &self.quirks)
    }

    fn decode_reply(&self, body: &[u8]) -> Result<Reply, Error> {
        reply::decode(body)
    }

    fn stream_decoder(&self) -> Box<dyn StreamDecoder> {
        Box::new(stream::Decoder::default())
    }

    fn decode_failure(&self, _status: u16, body: &[u8]) -> UpstreamFailure {
        error::decode(body)
    }

    fn decode_embed(&self, body: &[u8], path_model: Option<&str>) -> Result<embed::Request, Error> {
        embeddings::decode(body, path_model)
    }

    fn encode_embed_reply(&self, request: &embed::Request, reply: &embed::Reply) -> Vec<u8> {
        embeddings::encode_reply(request, reply)
    }

    fn encode_embed(&self, request: &embed::Request) -> Result<WireRequest, Error> {
        Ok(embeddings::encode(request))
    }

    fn decode_embed_reply(&self, body: &[u8]) -> Result<embed::Reply, Error> {
        embeddings::decode_reply(body)
    }
}

#[cfg(test)]
mod tests;
