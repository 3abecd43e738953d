//! An upstream's stream on its way to the caller: passed byte for byte, or translated, and metered either way.
//!
//! The body is polled by the caller's connection, so a slow caller slows the upstream and nothing piles up here.
//! When the caller leaves, the body is dropped: that cancels the upstream call and closes the record.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use althing_domain::money::NanoUsd;
use althing_llm::chat::Event;
use althing_llm::dialect::{Failure, StreamDecoder, StreamEncoder};
use althing_llm::price;
use althing_llm::sse;
use althing_llm::tap::{Progress, Tap};
use althing_llm::usage::Usage;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::egress::Reply;
use super::kept;
use super::money::Bound;
use crate::admit::Running;
use crate::api::body::BodyError;
use crate::error::{Code, Error};
use crate::settle::{Call, Ended};

/// How bytes get from one side to the other.
pub enum Way {
    /// As they are.
    Pass {
        /// What watches them.
        tap: Box<Tap>,
    },
    /// From one dialect to another.
    Translate(Box<Translation>),
}

/// A translation in progress.
pub struct Translation {
    /// Splits the upstream's bytes into events.
    pub parser: sse::Parser,
    /// Reads the upstream's dialect.
    pub decoder: Box<dyn StreamDecoder>,
    /// What was read and is not written yet. Empty between polls.
    pub events: Vec<Event>,
    /// What the vendor said was used.
    pub usage: Option<Usage>,
    /// Bytes of text, reasoning and arguments so far.
    pub text_bytes: u64,
    /// The vendor's own end was seen.
    pub is_whole: bool,
    /// The vendor's error, if one came in the middle.
    pub failure: Option<(String, String)>,
}

/// Gemini's events as items of one JSON array, for a caller who did not ask for `alt=sse`: each is what the vendor said.
#[derive(Debug, Default)]
pub struct Array {
    parser: sse::Parser,
    is_begun: bool,
}

impl Array {
    /// The items in `bytes`, and the array's end where they are the last.
    fn of(&mut self, bytes: &[u8], is_last: bool) -> Bytes {
        let mut out = Vec::with_capacity(bytes.len());
        let is_begun = &mut self.is_begun;
        let mut item = |event: sse::Event<'_>| {
            let before: &[u8] = if std::mem::replace(is_begun, true) { b",\r\n" } else { b"[" };
            out.extend_from_slice(before);
            out.extend_from_slice(event.data.as_bytes());
        };
        // The tap has bounded every event.
        let _ = self.parser.push(bytes, &mut item);
        if is_last {
            self.parser.finish(&mut item);
            out.extend_from_slice(if self.is_begun { b"]" } else { b"[]" });
        }
        out.into()
    }
}

/// What a stream is made of.
pub struct Parts {
    /// The upstream's body.
    pub upstream: Reply,
    /// How its bytes get to the caller.
    pub way: Way,
    /// Writes endings in the caller's dialect (and, for a translation, everything).
    pub encoder: Box<dyn StreamEncoder>,
    /// The call.
    pub call: Box<Call>,
    /// Input tokens as reserved, for the metered estimate.
    pub input_estimate: u64,
    /// What was reserved for it.
    pub bound: Bound,
    /// Where what passes is to be one JSON array.
    pub array: Option<Array>,
    /// The bodies, where they are to be kept.
    pub kept: Option<kept::Stream>,
    /// How long the upstream may be silent.
    pub idle: Duration,
    /// How long the whole call may take, from its beginning.
    pub within: Duration,
    /// The status the caller was answered with.
    pub status: u16,
    /// The request's id, for error events.
    pub request_id: String,
}

/// See the module.
pub struct PassBody {
    parts: Option<Box<Parts>>,
    silence: Pin<Box<Sleep>>,
    heard: Instant,
}

enum Step {
    /// Something for the caller.
    Send(Bytes),
    /// Nothing for the caller yet.
    More,
    /// The stream ended, with a last piece that may be empty.
    End(Bytes),
}

impl PassBody {
    /// A body over `parts`.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let now = Instant::now();
        let silence = Box::pin(tokio::time::sleep_until(now + parts.idle));
        Self { parts: Some(Box::new(parts)), silence, heard: now }
    }

    /// Whether the upstream has been silent for too long, or the call has taken as long as it may. The timer is only
    /// moved when it fires, not at each chunk.
    fn poll_silence(&mut self, idle: Duration, until: Instant, cx: &mut Context<'_>) -> bool {
        while self.silence.as_mut().poll(cx).is_ready() {
            let due = (self.heard + idle).min(until);
            if due <= Instant::now() {
                return true;
            }
            self.silence.as_mut().reset(due);
        }
        false
    }

    /// What goes to the caller, in its form; noted where bodies are kept.
    fn given(&mut self, mut bytes: Bytes, is_last: bool) -> Bytes {
        if let Some(parts) = &mut self.parts {
            if let Some(array) = &mut parts.array {
                bytes = array.of(&bytes, is_last);
            }
            if let Some(kept) = &mut parts.kept {
                kept.note(&bytes);
            }
        }
        bytes
    }

    fn end(&mut self, ended: &Ended) {
        if let Some(mut parts) = self.parts.take() {
            if let Some(kept) = parts.kept.take() {
                kept.put(&mut parts.call, matches!(ended, Ended::Failed(..)));
            }
            if parts.call.usage() == Usage::default() {
                parts.call.meter(parts.bound.lost(), true);
            } else if matches!(ended, Ended::Failed(..)) {
                parts.leave(Duration::ZERO);
            }
            parts.call.close(ended);
        }
    }
}

/// The caller left: dropping the call closes it, and dropping the upstream's body cancels that.
impl Drop for PassBody {
    fn drop(&mut self) {
        if let Some(parts) = &mut self.parts {
            parts.leave(self.heard.elapsed());
            if let Some(kept) = parts.kept.take() {
                kept.put(&mut parts.call, false);
            }
        }
    }
}

impl HttpBody for PassBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let Some(parts) = &mut self.parts else { return Poll::Ready(None) };
            let polled = Pin::new(&mut parts.upstream).poll_frame(cx);
            let (status, idle) = (parts.status, parts.idle);
            let until = parts.call.started() + parts.within;
            let step = match polled {
                Poll::Pending => {
                    if !self.poll_silence(idle, until, cx) {
                        return Poll::Pending;
                    }
                    let Some(parts) = &mut self.parts else { return Poll::Ready(None) };
                    let error = Error::new(
                        Code::UpstreamTimeout,
                        "the upstream fell silent in the middle of its stream, or the call took as long as `limits.request_timeout` allows",
                    );
                    Err(Box::new((parts.fail(&error), error)))
                }
                Poll::Ready(polled) => match polled {
                    Some(Ok(frame)) => {
                        self.heard = Instant::now();
                        let heard = self.heard;
                        let Some(parts) = &mut self.parts else { return Poll::Ready(None) };
                        match frame.into_data() {
                            Ok(data) => {
                                if let Some(probe) = &mut parts.call.probe {
                                    probe.chunk(&data, heard);
                                }
                                parts.take(data)
                            }
                            Err(_) => Ok(Step::More),
                        }
                    }
                    Some(Err(error)) => {
                        tracing::debug!(%error, "the upstream's stream broke");
                        let error = Error::new(
                            Code::UpstreamFailed,
                            "the upstream's connection broke in the middle of its stream",
                        );
                        Err(Box::new((parts.fail(&error), error)))
                    }
                    None => parts.finish().map(Step::End),
                },
            };
            match step {
                Ok(Step::More) => {}
                Ok(Step::Send(bytes)) => {
                    let bytes = self.given(bytes, false);
                    if !bytes.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(bytes))));
                    }
                }
                Ok(Step::End(bytes)) => {
                    let bytes = self.given(bytes, true);
                    self.end(&Ended::Ok(status));
                    return Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))));
                }
                Err(broken) => {
                    let (bytes, error) = *broken;
                    let bytes = self.given(bytes, true);
                    self.end(&Ended::Failed(status, error.code));
                    return Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A stream that failed: its last bytes, and why.
type Broken = Box<(Bytes, Error)>;
type Stepped = Result<Step, Broken>;

impl Parts {
    /// Takes the upstream's next bytes.
    fn take(&mut self, data: Bytes) -> Stepped {
        let out = match &mut self.way {
            Way::Pass { tap } => tap.pass(data).map_err(|it| it.to_string()),
            Way::Translate(translation) => {
                translation.take(&data, self.encoder.as_mut()).map(Bytes::from)
            }
        };
        let out = out.map_err(|problem| {
            let error = Error::new(
                Code::UpstreamMalformed,
                format!("the upstream's stream is not of its own format: {problem}"),
            );
            (self.fail(&error), error)
        })?;
        if self.is_malformed() {
            self.meter();
            return Err(self.malformed(&out));
        }
        if let Some(ending) = self.meter() {
            let mut bytes = out.to_vec();
            bytes.extend_from_slice(&ending);
            return Ok(Step::End(bytes.into()));
        }
        Ok(if out.is_empty() { Step::More } else { Step::Send(out) })
    }

    /// The upstream ended: whole, or cut short.
    fn finish(&mut self) -> Result<Bytes, Broken> {
        let (bytes, is_whole, failure) = match &mut self.way {
            Way::Pass { tap } => {
                let bytes = tap.finish();
                (bytes, tap.progress() == Progress::Complete, tap.progress() == Progress::Failed)
            }
            Way::Translate(translation) => {
                let bytes = translation.finish(self.encoder.as_mut());
                (bytes.into(), translation.is_whole, translation.failure.is_some())
            }
        };
        self.meter();
        if self.is_malformed() {
            return Err(self.malformed(&bytes));
        }
        if is_whole {
            return Ok(bytes);
        }
        if failure {
            // The vendor's own error event has passed or was translated.
            let error =
                Error::new(Code::UpstreamFailed, "the upstream ended its stream with an error");
            return Err(Box::new((bytes, error)));
        }
        let error =
            Error::new(Code::UpstreamFailed, "the upstream's stream stopped before its end");
        let mut all = bytes.to_vec();
        all.extend_from_slice(&self.fail(&error));
        Err(Box::new((all.into(), error)))
    }

    fn is_malformed(&self) -> bool {
        matches!(&self.way, Way::Pass { tap } if tap.is_malformed())
    }

    /// The end behind the last good bytes of a stream in which something came that is no event of its dialect.
    fn malformed(&mut self, good: &[u8]) -> Broken {
        let error = Error::new(
            Code::UpstreamMalformed,
            "the upstream's stream is not of its own format: an event's data is not a JSON object",
        );
        let mut all = good.to_vec();
        all.extend_from_slice(&self.fail(&error));
        Box::new((all.into(), error))
    }

    /// Notes what was used so far. Where the upstream writes more than it was told to, and than was reserved: the ending.
    fn meter(&mut self) -> Option<Bytes> {
        let (stated, text_bytes) = match &self.way {
            Way::Pass { tap } => (tap.usage(), tap.text_bytes()),
            Way::Translate(translation) => (translation.usage, translation.text_bytes),
        };
        let counted = self.bound.seen(text_bytes);
        // Some servers state zeros where they do not count.
        let stated = stated.filter(|it| *it != Usage::default());
        let usage = match stated {
            // A vendor that states usage at the start (Anthropic) states the output so far only at the end.
            Some(usage) => Usage {
                output: usage.output.max(if self.is_done() { 0 } else { counted }),
                ..usage
            },
            None => Usage { input: self.input_estimate, output: counted, ..Usage::default() },
        };
        if self.bound.thinks_unseen && (stated.is_none() || !self.is_done()) {
            // Its vendor says only at the end what was thought; until then all that was reserved may be used.
            let most = self.bound.lost();
            let usage = Usage {
                input: most.input.max(usage.input),
                output: most.output.max(usage.output),
                ..usage
            };
            self.call.meter(usage, true);
            return self.ending(text_bytes);
        }
        self.call.meter(usage, stated.is_none() || !self.is_done());
        self.ending(text_bytes)
    }

    /// How the stream ends where so much text is more than its vendor may write.
    fn ending(&mut self, text_bytes: u64) -> Option<Bytes> {
        if self.is_done() || !self.bound.is_overrun(text_bytes) {
            return None;
        }
        tracing::warn!(
            model = self.call.record.model.as_deref(),
            "an upstream writes more than it was told to: its stream is cut"
        );
        let mut bytes = Vec::new();
        match &mut self.way {
            Way::Pass { tap } => tap.cut(self.encoder.as_mut(), &mut bytes),
            Way::Translate(_) => self.encoder.cut(&mut bytes),
        }
        Some(bytes.into())
    }

    /// Notes what the vendor may bill of a stream that ends before its end, `since` its last bytes were taken. Nothing
    /// was seen: closing the call knows.
    fn leave(&mut self, since: Duration) {
        let used = self.call.usage();
        if used == Usage::default() || self.is_done() {
            return;
        }
        let more = self.bound.on_its_way(used.output, since);
        let usage = Usage { output: used.output.saturating_add(more), ..used };
        let held = self.call.running.as_ref().map_or(NanoUsd::ZERO, Running::upper);
        if 0 < more && price::cost(&usage, &self.call.price) <= held {
            self.call.meter(usage, true);
        }
    }

    fn is_done(&self) -> bool {
        match &self.way {
            Way::Pass { tap } => tap.progress() == Progress::Complete,
            Way::Translate(translation) => translation.is_whole,
        }
    }

    fn fail(&mut self, error: &Error) -> Bytes {
        let failure = Failure {
            status: error.http_status().as_u16(),
            code: error.code.name(),
            message: &error.message,
            param: None,
            request_id: &self.request_id,
        };
        let mut bytes = Vec::new();
        match &mut self.way {
            Way::Pass { tap } => tap.fail(self.encoder.as_mut(), &failure, &mut bytes),
            Way::Translate(_) => self.encoder.fail(&failure, &mut bytes),
        }
        bytes.into()
    }
}

impl Translation {
    fn take(&mut self, data: &[u8], encoder: &mut dyn StreamEncoder) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let mut problem = None;
        let (decoder, events) = (&mut self.decoder, &mut self.events);
        let pushed = self.parser.push(data, |event| {
            if problem.is_none() {
                problem = decoder.push(event.name.as_deref(), &event.data, events).err();
            }
        });
        self.write(encoder, &mut out);
        match (pushed, problem) {
            (Err(error), _) => Err(error.to_string()),
            (_, Some(error)) => Err(error.to_string()),
            (Ok(()), None) => Ok(out),
        }
    }

    fn finish(&mut self, encoder: &mut dyn StreamEncoder) -> Vec<u8> {
        let mut out = Vec::new();
        let (decoder, events) = (&mut self.decoder, &mut self.events);
        self.parser.finish(|event| {
            // The last event's problem shows as a stream that is not whole.
            let _ = decoder.push(event.name.as_deref(), &event.data, events);
        });
        // An end that never came shows as a stream that is not whole.
        let _ = decoder.finish(events);
        self.write(encoder, &mut out);
        out
    }

    fn write(&mut self, encoder: &mut dyn StreamEncoder, out: &mut Vec<u8>) {
        for event in self.events.drain(..) {
            match &event {
                Event::Text { text, .. } => self.text_bytes += text.len() as u64,
                Event::Arguments { json, .. } => self.text_bytes += json.len() as u64,
                Event::Usage(usage) => self.usage = Some(*usage),
                Event::Done => self.is_whole = true,
                Event::Error { kind, message } => {
                    self.failure = Some((kind.clone(), message.clone()));
                }
                Event::Start { .. }
                | Event::BlockStart { .. }
                | Event::Signature { .. }
                | Event::Citation { .. }
                | Event::BlockStop { .. }
                | Event::Stop { .. } => {}
            }
            encoder.encode(&event, out);
        }
    }
}
