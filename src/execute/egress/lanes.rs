//! Connections to upstreams that speak plain HTTP/1.1, each driven by the request that uses it.
//!
//! hyper-util's pool gives every connection a task of its own: request, reply and each part of its body then go from task to
//! task, with a wake-up each. Here whoever waits for the reply polls the connection itself, and an idle connection is
//! polled by nobody: whether it still lives is seen when it is used (docs/decisions/0014).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Request, Response, Uri, header};
use http_body::{Body, Frame};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::net::TcpStream;
use tower::Service;

use super::{POOL_IDLE_PER_HOST_MAX, Reply, SendError, cause};

/// Shelves of idle connections, so that workers do not meet at one lock.
const SHELVES: usize = 8;
/// How often idle connections are looked through for those whose time is over.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

static NEXT_WORKER: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static WORKER: usize = NEXT_WORKER.fetch_add(1, Ordering::Relaxed);
}

/// One connection.
struct Lane {
    sender: SendRequest<Full<Bytes>>,
    /// `None` once it is over.
    connection: Option<Connection<TokioIo<TcpStream>, Full<Bytes>>>,
    authority: Authority,
    host: HeaderValue,
    /// In which round of the sweep it became idle.
    idle_since: u32,
}

type Connecting = Pin<Box<dyn Future<Output = Result<TokioIo<TcpStream>, String>> + Send>>;

/// The connections of one client.
pub(crate) struct Lanes {
    connect: Box<dyn Fn(Uri) -> Connecting + Send + Sync>,
    /// After how many rounds of the sweep an idle connection's time is over.
    rounds_max: u32,
    /// Rounds so far. By them a connection's time is told, so that no request reads a clock for it.
    round: AtomicU32,
    #[expect(clippy::vec_box, reason = "a lane is long, and goes from shelf to reply and back")]
    shelves: [Mutex<Vec<Box<Lane>>>; SHELVES],
    is_swept: AtomicBool,
}

/// A lane that carries a reply, and where it goes when that is over.
#[derive(Debug)]
pub(super) struct Busy {
    lane: Box<Lane>,
    home: Arc<Lanes>,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Lanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lanes").finish_non_exhaustive()
    }
}

impl Lanes {
    /// Lanes over connections that `connector` makes, each of which may be `idle` for so long: in whole rounds of the sweep,
    /// of which the first is not whole.
    pub(crate) fn new<C>(connector: C, idle: Duration) -> Arc<Self>
    where
        C: Service<Uri, Response = TokioIo<TcpStream>> + Clone + Send + Sync + 'static,
        C::Error: std::error::Error,
        C::Future: Send,
    {
        let connect = move |uri| -> Connecting {
            let mut connector = connector.clone();
            Box::pin(async move {
                std::future::poll_fn(|cx| connector.poll_ready(cx))
                    .await
                    .map_err(|it| cause(&it))?;
                connector.call(uri).await.map_err(|it| cause(&it))
            })
        };
        let (connect, shelves) = (Box::new(connect), Default::default());
        let rounds_max = u32::try_from(idle.as_secs() / SWEEP_EVERY.as_secs()).unwrap_or(u32::MAX);
        let (round, is_swept) = (AtomicU32::new(0), AtomicBool::new(false));
        Arc::new(Self { connect, rounds_max, round, shelves, is_swept })
    }

    /// Sends a request and waits for the head of its reply. Where an idle connection turns out to be closed before
    /// anything was sent, the next one is taken.
    ///
    /// # Errors
    ///
    /// [`SendError`] says whether the request can have reached the upstream.
    pub(crate) async fn send(
        self: &Arc<Self>,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Reply>, SendError> {
        let (authority, mut request) = in_origin_form(request)?;
        loop {
            let idle = self.take(&authority);
            let is_idle = idle.is_some();
            let mut lane = match idle {
                Some(lane) => lane,
                None => self.connect(authority.clone()).await?,
            };
            if let header::Entry::Vacant(place) = request.headers_mut().entry(header::HOST) {
                place.insert(lane.host.clone());
            }
            match lane.exchange(request).await {
                Ok(response) => {
                    let busy = Busy { lane, home: Arc::clone(self) };
                    return Ok(response.map(|it| Reply::driven(it, busy)));
                }
                Err((_, Some(unsent))) if is_idle => request = unsent,
                Err((error, Some(_))) => return Err(SendError::Connect(error)),
                Err((error, None)) => return Err(SendError::Broken(error)),
            }
        }
    }

    async fn connect(&self, authority: Authority) -> Result<Box<Lane>, SendError> {
        let host = host(&authority)?;
        let uri = Uri::builder()
            .scheme(http::uri::Scheme::HTTP)
            .authority(authority.clone())
            .path_and_query(PathAndQuery::from_static("/"))
            .build()
            .map_err(|it| SendError::Connect(it.to_string()))?;
        let stream = (self.connect)(uri).await.map_err(SendError::Connect)?;
        let shaken = http1::handshake(stream).await;
        let (sender, connection) = shaken.map_err(|it| SendError::Connect(cause(&it)))?;
        let connection = Some(connection);
        Ok(Box::new(Lane { sender, connection, authority, host, idle_since: 0 }))
    }

    /// An idle connection to `authority`. Whether it is still open is seen when it is used: hyper reads before it writes, and
    /// gives a request back that it did not begin to write.
    fn take(&self, authority: &Authority) -> Option<Box<Lane>> {
        let own = WORKER.with(|it| *it) % SHELVES;
        self.shelves.iter().cycle().skip(own).take(SHELVES).find_map(|shelf| {
            let mut idle = shelf.lock();
            let at = idle.iter().rposition(|it| it.authority == *authority)?;
            Some(idle.swap_remove(at))
        })
    }

    fn put(self: &Arc<Self>, mut lane: Box<Lane>) {
        lane.idle_since = self.round.load(Ordering::Relaxed);
        let own = WORKER.with(|it| *it) % SHELVES;
        let mut lane = Some(lane);
        for shelf in self.shelves.iter().cycle().skip(own).take(SHELVES) {
            let mut idle = shelf.lock();
            if idle.len() < POOL_IDLE_PER_HOST_MAX / SHELVES {
                idle.extend(lane.take());
                break;
            }
        }
        if !self.is_swept.load(Ordering::Relaxed) && !self.is_swept.swap(true, Ordering::Relaxed) {
            #[expect(
                clippy::disallowed_methods,
                reason = "it ends with its client and does nothing that can be lost"
            )]
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }
}

/// Closes connections that were idle for too long; ends when there are none, or their client is gone.
async fn sweep(lanes: std::sync::Weak<Lanes>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let Some(lanes) = lanes.upgrade() else { return };
        // The next that becomes idle begins another sweep: said before looking, so that none is missed.
        lanes.is_swept.store(false, Ordering::Relaxed);
        let round = lanes.round.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let mut left = 0;
        for shelf in &lanes.shelves {
            let mut over: SmallVec<[Box<Lane>; 8]> = SmallVec::new();
            let mut idle = shelf.lock();
            over.extend(
                idle.extract_if(.., |it| lanes.rounds_max <= round.wrapping_sub(it.idle_since)),
            );
            left += idle.len();
        }
        if left == 0 || lanes.is_swept.swap(true, Ordering::Relaxed) {
            return;
        }
    }
}

impl Lane {
    /// Lets the connection do what it can. Ready: it is over.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(()) };
        let polled = Pin::new(connection).poll(cx);
        if polled.is_ready() {
            self.connection = None;
        }
        polled.map(drop)
    }

    /// Sends a request. With an error comes the request, where nothing of it was sent.
    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, (String, Option<Request<Full<Bytes>>>)> {
        // Without tokio's budget for a task: where that is used up, what waits says that there is nothing yet, and wakes nobody.
        let reply = tokio::task::unconstrained(self.sender.try_send_request(request));
        let mut reply = std::pin::pin!(reply);
        let connection = &mut self.connection;
        let replied = std::future::poll_fn(|cx| {
            let is_over = match connection.as_mut() {
                Some(it) => Pin::new(it).poll(cx).is_ready(),
                None => true,
            };
            if is_over {
                // Whoever waits for its reply is told by its drop.
                *connection = None;
            }
            // The reply comes by what was just polled, so nobody needs to be woken for it.
            let mut nobody = Context::from_waker(Waker::noop());
            match reply.as_mut().poll(&mut nobody) {
                Poll::Pending if is_over => Poll::Ready(None),
                other => other.map(Some),
            }
        });
        match replied.await {
            Some(Ok(response)) => Ok(response),
            Some(Err(mut error)) => {
                let unsent = error.take_message();
                Err((cause(error.error()), unsent))
            }
            None => Err(("the connection closed".to_owned(), None)),
        }
    }
}

impl Busy {
    /// The next part of the reply's body, for which the connection is driven.
    pub(super) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let mut nobody = Context::from_waker(Waker::noop());
        if let Poll::Ready(came) = Pin::new(&mut *body).poll_frame(&mut nobody) {
            return Poll::Ready(came);
        }
        if self.lane.drive(cx).is_ready() {
            // What it leaves is the rest, an error or the end.
            return Pin::new(body).poll_frame(cx);
        }
        Pin::new(body).poll_frame(&mut nobody)
    }

    /// The reply has been read: the connection is for the next request, if it takes one.
    pub(super) fn release(mut self) {
        let mut nobody = Context::from_waker(Waker::noop());
        if !self.lane.sender.is_ready() && self.lane.drive(&mut nobody).is_ready() {
            return;
        }
        if self.lane.sender.is_ready() {
            self.home.put(self.lane);
        }
    }
}

/// Where a request goes, and the request as it stands on the wire: a path (RFC 9112, section 3.2.1).
fn in_origin_form(
    mut request: Request<Full<Bytes>>,
) -> Result<(Authority, Request<Full<Bytes>>), SendError> {
    let parts = std::mem::take(request.uri_mut()).into_parts();
    let authority =
        parts.authority.ok_or_else(|| SendError::Connect("the address has no host".to_owned()))?;
    let path = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    Ok((authority, request))
}

/// The `Host` of requests to `authority`. A user before the host is no part of it, nor is the usual port.
fn host(authority: &Authority) -> Result<HeaderValue, SendError> {
    let host = authority.as_str().rsplit('@').next().unwrap_or_default();
    let host = host.strip_suffix(":80").unwrap_or(host);
    HeaderValue::from_str(host)
        .map_err(|_| SendError::Connect("the address has an odd host".to_owned()))
}
