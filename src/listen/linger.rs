//! The end of a connection whose peer still sends: an answer may go out before the request's body was read.
//!
//! A socket that is closed with bytes unread resets the connection, and over that the peer may lose the answer. So the
//! writing half is closed first, and what still comes is read and thrown away, within bounds, until the peer is done.
//!
//! HTTP/2 has a stream where HTTP/1.1 has a connection: see [`stream`].

mod stream;

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::api::body::Body;
use stream::Left;

/// How long a peer may be silent before it is taken to be done.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// How long it is listened to in all.
const LINGER_MAX: Duration = Duration::from_secs(5);
/// How much of it is thrown away.
const BYTES_MAX: usize = 32 * 1024 * 1024;
const CHUNK_BYTES: usize = 8 * 1024;
/// A rest of this length is mostly in the connection's buffer already: hyper reads over it, and the connection lives on.
const SMALL_REST_BYTES: u64 = 8 * 1024;

/// Whether a connection's peer may still be sending, as its reader and its requests know.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// Bytes came that no request has taken whole.
    some: AtomicBool,
    /// The last request was left with so much unread that the connection ends.
    much: AtomicBool,
    /// HTTP/2 ends a stream and not the connection.
    is_http2: AtomicBool,
}

impl Unread {
    /// Bytes came.
    pub(super) fn read(&self) {
        self.some.store(true, Ordering::Relaxed);
    }

    /// Whether the peer may be in the middle of a request.
    pub(super) fn is_some(&self) -> bool {
        self.some.load(Ordering::Relaxed) && !self.is_http2.load(Ordering::Relaxed)
    }

    fn nothing(&self) {
        self.some.store(false, Ordering::Relaxed);
    }

    /// Takes in that a request's head was read.
    ///
    /// Beside the request: where HTTP/2 leaves what is not read of it.
    pub(super) fn begin(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> (Request<RequestBody>, Option<Arc<Left>>) {
        let is_http2 = request.version() == Version::HTTP_2;
        if is_http2 {
            self.is_http2.store(true, Ordering::Relaxed);
        }
        self.much.store(false, Ordering::Relaxed);
        let is_read = request.body().is_end_stream();
        if is_read {
            self.nothing();
        }
        let left = (is_http2 && !is_read).then(Arc::<Left>::default);
        let request = request.map(|body| RequestBody {
            body: Some(body),
            unread: Arc::clone(self),
            is_read,
            left: left.clone(),
        });
        (request, left)
    }

    /// Takes in what the request is answered: where much of it was left unread, the answer says that the connection ends,
    /// or over HTTP/2, its stream ends when that was read.
    pub(super) fn end(&self, response: Response<Body>, left: Option<&Left>) -> Response<Body> {
        let mut response = match left {
            Some(left) => response.map(|it| left.behind(it)),
            None => response,
        };
        if self.much.load(Ordering::Relaxed) && !self.is_http2.load(Ordering::Relaxed) {
            let close = http::HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }
}

/// The body of a request: its connection knows whether it was read to its end.
#[derive(Debug)]
pub struct RequestBody {
    /// There until it is dropped.
    body: Option<Incoming>,
    unread: Arc<Unread>,
    is_read: bool,
    /// HTTP/2's.
    left: Option<Arc<Left>>,
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        let is_read = match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(_))) => body.is_end_stream(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => false,
        };
        if is_read {
            self.is_read = true;
            self.unread.nothing();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if self.is_read {
            return;
        }
        if let Some(left) = &self.left {
            left.put(self.body.take());
        } else if self.size_hint().upper().is_none_or(|it| SMALL_REST_BYTES < it) {
            self.unread.much.store(true, Ordering::Relaxed);
        }
    }
}

/// Reads what a peer still sends, and throws it away.
#[derive(Debug)]
pub(super) struct Linger {
    bytes_left: usize,
    until: Instant,
    silent: Pin<Box<Sleep>>,
}

impl Linger {
    pub(super) fn begin() -> Self {
        let now = Instant::now();
        Self {
            bytes_left: BYTES_MAX,
            until: now + LINGER_MAX,
            silent: Box::pin(tokio::time::sleep_until(now + SILENCE_MAX)),
        }
    }

    /// Ready where the peer is done, or has been listened to long enough.
    pub(super) fn poll<S>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<()>
    where
        S: AsyncRead + Unpin,
    {
        let mut space = [MaybeUninit::uninit(); CHUNK_BYTES];
        while 0 < self.bytes_left {
            let mut buffer = ReadBuf::uninit(&mut space);
            match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Pending => return self.silent.as_mut().poll(cx),
                Poll::Ready(read) => match came(read, &buffer) {
                    0 => return Poll::Ready(()),
                    came => self.bytes_left = self.bytes_left.saturating_sub(came),
                },
            }
            let silent_until = self.until.min(Instant::now() + SILENCE_MAX);
            self.silent.as_mut().reset(silent_until);
        }
        Poll::Ready(())
    }
}

/// How many bytes a read brought: none at the end, and none where it failed.
fn came(read: io::Result<()>, buffer: &ReadBuf<'_>) -> usize {
    read.map_or(0, |()| buffer.filled().len())
}
