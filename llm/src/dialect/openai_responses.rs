//! OpenAI's Responses API.

use crate::chat::{Reply, Request};
use crate::dialect::openai::error;
use crate::dialect::{
    Dialect, Error, Failure, ReplyContext, StreamDecoder, StreamEncoder, UpstreamFailure,
    WireRequest,
};

mod alias;
mod emit;
mod item;
mod part;
mod reply;
mod request;
mod seals;
mod stream;
mod upstream;

/// The dialect's name, in seals and opaque blocks too.
pub(crate) const NAME: &str = "openai_responses";

/// OpenAI's Responses API, `POST /responses`.
///
/// Nothing is stored here: a request that leans on the vendor's store (`previous_response_id`, `item_reference`) can
/// only pass to a vendor that speaks this dialect, and is refused where it must be translated.
#[derive(Debug)]
pub struct OpenAiResponses;

impl Dialect for OpenAiResponses {
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
}

#[cfg(test)]
mod tests;
