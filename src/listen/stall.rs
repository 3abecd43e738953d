//! A connection whose peer has stopped reading is given up, and with it all that waits for it: an upstream's stream, the
//! money set aside, a place among the caller's requests.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long a peer may take nothing of what is written to it.
const STALL_MAX: Duration = Duration::from_secs(120);

/// What HTTP/2 begins with: whoever sent less of it, and nothing else, has not begun.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream on which a write fails that has waited too long.
pub(super) struct Patient<S> {
    stream: S,
    within: Duration,
    /// Runs while a write waits. Made at the first that does: most connections never wait.
    stalled: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
    /// Until when the peer must have begun to speak, and what of the preface has not come.
    beginning: Option<(Pin<Box<Sleep>>, &'static [u8])>,
}

impl<S> Patient<S> {
    /// A stream on which a write waits at most [`STALL_MAX`].
    pub(super) const fn new(stream: S) -> Self {
        Self { stream, within: STALL_MAX, stalled: None, is_waiting: false, beginning: None }
    }

    /// The same, on which the peer must also begin to speak before `until`.
    pub(super) fn beginning(stream: S, until: Instant) -> Self {
        let beginning = Some((Box::pin(tokio::time::sleep_until(until)), PREFACE));
        Self { beginning, ..Self::new(stream) }
    }

    /// What came of polling a write: an error where none was taken for too long.
    fn waited<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.is_waiting = false;
            return polled;
        }
        let until = Instant::now() + self.within;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if !self.is_waiting {
            self.is_waiting = true;
            stalled.as_mut().reset(until);
        }
        ready!(Future::poll(stalled.as_mut(), cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer has stopped reading")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let Some((until, missing)) = &mut self.beginning else { return read };
        let came = buffer.filled().get(before..).unwrap_or_default();
        let rest = missing.strip_prefix(came).unwrap_or_default();
        *missing = rest;
        if rest.is_empty() {
            self.beginning = None;
        } else if until.as_mut().poll(cx).is_ready() {
            let error = io::Error::new(io::ErrorKind::TimedOut, "the peer does not begin to speak");
            return Poll::Ready(Err(error));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.waited(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.waited(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.waited(polled, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.waited(polled, cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use tokio::time::Instant;

    use super::{PREFACE, Patient, STALL_MAX};

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stops_reading_is_given_up_and_a_slow_one_is_not() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut near = Patient::new(near);
        let slow = async {
            let mut seen = [0; 16];
            for _ in 0..4 {
                tokio::time::sleep(STALL_MAX - Duration::from_secs(1)).await;
                far.read_exact(&mut seen).await.expect("bytes");
            }
        };
        let (written, ()) = tokio::join!(near.write_all(&[1; 80]), slow);
        written.expect("a slow reader is waited for");
        let error = near.write_all(&[1; 80]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_begin_is_left_and_who_began_may_be_silent() {
        let wait = Duration::from_secs(15);
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Patient::beginning(near, Instant::now() + wait);
        far.write_all(&PREFACE[..23]).await.expect("written");
        assert_eq!(near.read(&mut [0; 64]).await.expect("a part"), 23);
        let begun = Instant::now();
        let left = near.read(&mut [0; 64]).await.expect_err("it never begins");
        assert_eq!((left.kind(), begun.elapsed()), (std::io::ErrorKind::TimedOut, wait));

        for beginning in [PREFACE, b"GET / HTTP/1.0\r\n\r\n", b"P?"] {
            let (near, mut far) = tokio::io::duplex(64);
            let mut near = Patient::beginning(near, Instant::now() + wait);
            far.write_all(beginning).await.expect("written");
            assert_eq!(near.read(&mut [0; 64]).await.expect("all of it"), beginning.len());
            let silent = tokio::time::timeout(wait * 4, near.read(&mut [0; 64])).await;
            assert!(silent.is_err());
        }
    }
}
