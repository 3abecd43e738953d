//! The end of a stream of HTTP/2 whose peer still sends.
//!
//! A stream that is answered to its end while its request still comes is reset, and over that many callers lose the
//! answer. So the answer's last frame waits until what still comes was read and thrown away, within the bounds of a
//! connection of HTTP/1.1. It is the answer's own task that reads: when the caller goes, both go.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use super::{BYTES_MAX, LINGER_MAX, SILENCE_MAX};
use crate::api::body::{Body, BodyError};

/// What was left of a request's body by who should have read it.
#[derive(Debug, Default)]
pub(in crate::listen) struct Left(Mutex<Option<Incoming>>);

impl Left {
    pub(super) fn put(&self, body: Option<Incoming>) {
        *self.0.lock() = body;
    }

    /// The answer, with what was left of the request to be read behind it.
    pub(super) fn behind(&self, answer: Body) -> Body {
        match self.0.lock().take() {
            Some(rest) => Body::boxed(Behind {
                answer: Some(answer),
                rest,
                bytes_left: BYTES_MAX,
                times: None,
            }),
            None => answer,
        }
    }
}

struct Behind {
    answer: Option<Body>,
    rest: Incoming,
    bytes_left: usize,
    /// When the peer is taken to be done, and when it is listened to no longer; from the answer's end on.
    times: Option<(Pin<Box<Sleep>>, Instant)>,
}

impl HttpBody for Behind {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(answer) = &mut this.answer {
            match ready!(Pin::new(answer).poll_frame(cx)) {
                None => this.answer = None,
                frame => return Poll::Ready(frame),
            }
        }
        ready!(this.poll_rest(cx));
        Poll::Ready(None)
    }
}

impl Behind {
    /// Ready where the peer is done, or has been listened to long enough.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (silent, until) = self.times.get_or_insert_with(|| {
            let now = Instant::now();
            (Box::pin(tokio::time::sleep_until(now + SILENCE_MAX)), now + LINGER_MAX)
        });
        while 0 < self.bytes_left {
            match Pin::new(&mut self.rest).poll_frame(cx) {
                Poll::Pending => return silent.as_mut().poll(cx),
                Poll::Ready(Some(Ok(frame))) => {
                    let came = frame.data_ref().map_or(0, Bytes::len);
                    self.bytes_left = self.bytes_left.saturating_sub(came);
                }
                Poll::Ready(None | Some(Err(_))) => return Poll::Ready(()),
            }
            let now = Instant::now();
            if *until <= now {
                return Poll::Ready(());
            }
            silent.as_mut().reset((now + SILENCE_MAX).min(*until));
        }
        Poll::Ready(())
    }
}
