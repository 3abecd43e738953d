//! Anthropic's Messages API.

use serde_json::json;

use crate::chat::{Reply, Request};
use crate::dialect::{
    Dialect, Error, Failure, ReplyContext, StreamDecoder, StreamEncoder, UpstreamFailure,
    WireRequest,
};

mod block;
mod count;
mod emit;
mod error;
mod model;
mod reply;
mod request;
mod schema;
mod stream;
mod think;
mod upstream;

/// The dialect's name, in seals and opaque blocks too.
const NAME: &str = "anthropic";

/// The API version whose shapes this module writes.
const VERSION: &str = "2023-06-01";

/// Anthropic's Messages API, `POST /messages` below a base URL that ends in `/v1`.
#[derive(Debug)]
pub struct Anthropic;

impl Dialect for Anthropic {
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
        request::decode(body, path_model, false)
    }

    fn encode_count_reply(&self, input_tokens: u64) -> Vec<u8> {
        json!({ "input_tokens": input_tokens }).to_string().into_bytes()
    }

    fn encode_count(&self, request: &Request) -> Result<WireRequest, Error> {
        count::encode(request)
    }

    fn decode_count_reply(&self, body: &[u8]) -> Result<u64, Error> {
        count::decode_reply(body)
    }
}

#[cfg(test)]
mod tests;
