//! Bodies kept with records, where the configuration wants them: what the caller sent, and what it got.

use althing_llm::dialect::{Dialect, Failure};
use althing_storage::record::{BODY_BYTES_MAX, Bodies, Body, Payload};
use bytes::{Bytes, BytesMut};

use crate::error::Error;
use crate::gateway::KeepBodies;
use crate::settle::Call;

/// Keeps the bodies of a call that ends with a whole reply: as the caller got it, or, where it could not be read, as the
/// upstream sent it.
pub fn reply(keep: KeepBodies, call: &mut Call, request: &Bytes, (reply, failed): (&Bytes, bool)) {
    let is_wanted = match keep {
        KeepBodies::Off => false,
        KeepBodies::Errors => failed,
        KeepBodies::All => true,
    };
    if is_wanted {
        call.keep_bodies(Bodies { request: Body::new(request), response: Body::new(reply) });
    }
}

/// Keeps the bodies of a call that ends with an error, unless some are kept already.
pub fn failure(
    keep: KeepBodies,
    call: &mut Call,
    request: &Bytes,
    (dialect, error): (&dyn Dialect, &Error),
) {
    if keep == KeepBodies::Off || call.record.bodies.is_some() {
        return;
    }
    let id = uuid::Uuid::from_u128(call.record.id).to_string();
    let answer = Bytes::from(dialect.encode_failure(&failure_of(error, &id)));
    reply(keep, call, request, (&answer, true));
}

/// An error in the terms of a dialect.
#[must_use]
pub fn failure_of<'e>(error: &'e Error, request_id: &'e str) -> Failure<'e> {
    Failure {
        status: error.http_status().as_u16(),
        code: error.code.name(),
        message: &error.message,
        param: error.param.as_deref(),
        request_id,
    }
}

/// The bodies of a stream, gathered as it passes.
pub struct Stream {
    keep: KeepBodies,
    request: Bytes,
    said: BytesMut,
    full_bytes: u64,
}

impl Stream {
    /// Nothing yet. `None` where nothing is to be kept.
    #[must_use]
    pub fn of(keep: KeepBodies, request: &Bytes) -> Option<Self> {
        (keep != KeepBodies::Off).then(|| Self {
            keep,
            request: request.clone(),
            said: BytesMut::new(),
            full_bytes: 0,
        })
    }

    /// Takes what goes to the caller, up to [`BODY_BYTES_MAX`] in all.
    pub fn note(&mut self, bytes: &[u8]) {
        self.full_bytes = self.full_bytes.saturating_add(bytes.len() as u64);
        let room = BODY_BYTES_MAX.saturating_sub(self.said.len()).min(bytes.len());
        self.said.extend_from_slice(bytes.get(..room).unwrap_or_default());
    }

    /// Keeps them with the call's record, if they are wanted.
    pub fn put(self, call: &mut Call, failed: bool) {
        if self.keep == KeepBodies::All || failed {
            let response = Body { kept: Payload(self.said.freeze()), full_bytes: self.full_bytes };
            call.keep_bodies(Bodies { request: Body::new(&self.request), response });
        }
    }
}
