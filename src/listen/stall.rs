//! A connection whose peer has stopped reading is given up, and with it all that waits for it: an upstream's stream, the
//! money set aside, a place among the caller's requests.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::linger::{Linger, Unread};

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
    /// Whether the peer may be in the middle of a request.
    unread: Arc<Unread>,
    /// Made where it is when the connection ends.
    linger: Option<Linger>,
}

impl<S> Patient<S> {
    /// A stream on which a write waits at most [`STALL_MAX`].
    pub(super) const fn new(stream: S, unread: Arc<Unread>) -> Self {
        Self {
            stream,
            within: STALL_MAX,
            stalled: None,
            is_waiting: false,
            beginning: None,
            unread,
            linger: None,
        }
    }

    /// The same, on which the peer must also begin to speak before `until`.
    pub(super) fn beginning(stream: S, unread: Arc<Unread>, until: Instant) -> Self {
        let beginning = Some((Box::pin(tokio::time::sleep_until(until)), PREFACE));
        Self { beginning, ..Self::new(stream, unread) }
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
        if before < buffer.filled().len() {
            self.unread.read();
        }
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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Patient<S> {
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

    /// Ends the writing half, and where the peer may still be sending, lingers: see [`super::linger`].
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            let polled = Pin::new(&mut this.stream).poll_shutdown(cx);
            ready!(this.waited(polled, cx))?;
            if !this.unread.is_some() {
                return Poll::Ready(Ok(()));
            }
        }
        let linger = this.linger.get_or_insert_with(Linger::begin);
        linger.poll(&mut this.stream, cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use tokio::time::Instant;

    use super::{PREFACE, Patient, STALL_MAX};

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stops_reading_is_given_up_and_a_slow_one_is_not() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut near = Patient::new(near, Arc::default());
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
        let mut near = Patient::beginning(near, Arc::default(), Instant::now() + wait);
        far.write_all(&PREFACE[..23]).await.expect("written");
        assert_eq!(near.read(&mut [0; 64]).await.expect("a part"), 23);
        let begun = Instant::now();
        let left = near.read(&mut [0; 64]).await.expect_err("it never begins");
        assert_eq!((left.kind(), begun.elapsed()), (std::io::ErrorKind::TimedOut, wait));

        for beginning in [PREFACE, b"GET / HTTP/1.0\r\n\r\n", b"P?"] {
            let (near, mut far) = tokio::io::duplex(64);
            let mut near = Patient::beginning(near, Arc::default(), Instant::now() + wait);
            far.write_all(beginning).await.expect("written");
            assert_eq!(near.read(&mut [0; 64]).await.expect("all of it"), beginning.len());
            let silent = tokio::time::timeout(wait * 4, near.read(&mut [0; 64])).await;
            assert!(silent.is_err());
        }
    }

    /// How long the end of a connection takes whose peer does `sends`, where it was in the middle of a request or not.
    async fn ended<F: Future>(
        is_in_a_request: bool,
        sends: impl FnOnce(tokio::io::DuplexStream) -> F,
    ) -> (Duration, F::Output) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let unread = Arc::<super::Unread>::default();
        if is_in_a_request {
            unread.read();
        }
        let mut near = Patient::new(near, unread);
        let begun = Instant::now();
        let ends = async {
            near.write_all(b"answer").await.expect("written");
            near.shutdown().await.expect("shut down");
            drop(near);
            begun.elapsed()
        };
        tokio::join!(ends, sends(far))
    }

    #[tokio::test(start_paused = true)]
    async fn who_still_sends_gets_the_answer_and_is_listened_to_within_bounds() {
        let slow = async |mut far: tokio::io::DuplexStream| {
            for _ in 0..3 {
                far.write_all(&[0; 4096]).await.expect("it is still read");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let mut seen = Vec::new();
            far.read_to_end(&mut seen).await.expect("all of it");
            seen
        };
        let (took, seen) = ended(true, slow).await;
        assert_eq!(
            (took, &*seen),
            (Duration::from_secs(3), &b"answer"[..]),
            "until it has read it"
        );

        let silent = async |far: tokio::io::DuplexStream| {
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(far);
        };
        assert_eq!(ended(true, silent).await.0, Duration::from_secs(2));
        assert_eq!(ended(false, silent).await.0, Duration::ZERO, "nothing of a request is missing");

        let done = async |far: tokio::io::DuplexStream| drop(far);
        assert_eq!(ended(true, done).await.0, Duration::ZERO);

        let trickles = async |mut far: tokio::io::DuplexStream| {
            while far.write_all(&[0]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        assert_eq!(ended(true, trickles).await.0, Duration::from_secs(5));

        let floods = async |mut far: tokio::io::DuplexStream| {
            let mut sent = 0_usize;
            while far.write_all(&[0; 32 * 1024]).await.is_ok() {
                sent += 32 * 1024;
            }
            sent
        };
        let (took, sent) = ended(true, floods).await;
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert!(sent < 34 << 20, "{sent}");
    }
}
