//! Google's Gemini API, `models/{model}:generateContent`.

use serde_json::json;

use crate::chat::{Reply, Request};
use crate::dialect::{
    Dialect, Error, Failure, ReplyContext, StreamDecoder, StreamEncoder, UpstreamFailure,
    WireRequest,
};
use crate::embed;

mod emit;
mod error;
mod logprobs;
mod part;
mod path;
mod reply;
mod request;
mod schema;
mod stream;
mod think;
mod upstream;
mod vectors;

pub use path::{Method, method};

/// The dialect's name, in seals and opaque blocks too.
const NAME: &str = "gemini";

/// Google's Gemini API.
#[derive(Debug)]
pub struct Gemini;

/// Writes a stream as one JSON array, which is what a caller gets who did not ask for `alt=sse`.
#[must_use]
pub fn array_encoder(context: &ReplyContext) -> Box<dyn StreamEncoder> {
    Box::new(emit::Encoder::new(context.clone(), emit::Frame::Array))
}

impl Dialect for Gemini {
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
        Box::new(emit::Encoder::new(context.clone(), emit::Frame::Events))
    }

    fn encode_failure(&self, failure: &Failure<'_>) -> Vec<u8> {
        error::body(failure).to_string().into_bytes()
    }

    fn encode_request(&self, request: &Request) -> Result<WireRequest, Error> {
        upstream::encode(request)
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

    fn decode_count(&self, body: &[u8], path_model: Option<&str>) -> Result<Request, Error> {
        request::decode_count(body, path_model)
    }

    fn encode_count_reply(&self, input_tokens: u64) -> Vec<u8> {
        json!({ "totalTokens": input_tokens }).to_string().into_bytes()
    }

    fn encode_count(&self, request: &Request) -> Result<WireRequest, Error> {
        upstream::encode_count(request)
    }

    fn decode_count_reply(&self, body: &[u8]) -> Result<u64, Error> {
        reply::decode_count(body)
    }

    fn decode_embed(&self, body: &[u8], path_model: Option<&str>) -> Result<embed::Request, Error> {
        vectors::decode(body, path_model)
    }

    fn encode_embed_reply(&self, request: &embed::Request, reply: &embed::Reply) -> Vec<u8> {
        vectors::encode_reply(request, reply)
    }

    fn encode_embed(&self, request: &embed::Request) -> Result<WireRequest, Error> {
        vectors::encode(request)
    }

    fn decode_embed_reply(&self, body: &[u8]) -> Result<embed::Reply, Error> {
        vectors::decode_reply(body)
    }
}

#[cfg(test)]
mod tests;
