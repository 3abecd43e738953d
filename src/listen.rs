//! Sockets: bind, accept, drain.
//!
//! One listener serves the data plane, MCP, administration and health. hyper speaks HTTP; what is over its
//! limits never reaches a stage.

mod linger;
mod stall;
pub mod tls;

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::api::body::Body;
use crate::tasks::Tasks;
pub use linger::RequestBody;
use linger::Unread;
use stall::Patient;

/// How long a connection may take to send a request's head, and to finish a TLS handshake.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a silent HTTP/2 connection is asked whether it lives.
const PING_EVERY: Duration = Duration::from_secs(60);
/// Connections that one address may hold.
const CONNECTIONS_PER_ADDRESS_MAX: u32 = 4096;
/// After a failed accept (too many open files): how long to leave the listener alone.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Read buffer bound of a connection. Above the header limit of the configuration, so that our own answer names it.
const BUFFER_SLACK_BYTES: usize = 64 * 1024;

/// What is called with each request.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. Never fails: failures are answers.
    fn handle(
        self: Arc<Self>,
        peer: SocketAddr,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// A bound socket.
pub struct Listener {
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
    header_bytes_max: usize,
}

/// Connections as they stand.
#[derive(Debug, Default)]
pub struct Connections {
    open: AtomicU64,
    by_address: Mutex<HashMap<IpAddr, u32>>,
}

impl Connections {
    /// How many are open.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let mut by_address = self.by_address.lock();
        let count = by_address.entry(address).or_default();
        if CONNECTIONS_PER_ADDRESS_MAX <= *count {
            return None;
        }
        *count += 1;
        self.open.fetch_add(1, Ordering::Relaxed);
        Some(Seat { connections: Arc::clone(self), address })
    }
}

/// A connection's place in the counts.
struct Seat {
    connections: Arc<Connections>,
    address: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
        let mut by_address = self.connections.by_address.lock();
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

impl Listener {
    /// Binds `address`.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub async fn bind(
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
        header_bytes_max: usize,
    ) -> std::io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        Ok(Self { socket, tls, header_bytes_max })
    }

    /// Where it listens: with port 0 asked for, the port that the system chose.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts until the tasks are asked to stop; then waits for open connections, at most `drain`. Whether all ended.
    ///
    /// Meanwhile new connections are still taken, so that balancers and callers can be told that this node ends; nobody
    /// waits for those.
    pub async fn serve<H: Handler>(
        self,
        handler: Arc<H>,
        tasks: Tasks,
        connections: Arc<Connections>,
        drain: Duration,
    ) -> bool {
        let open = GracefulShutdown::new();
        tokio::select! {
            () = self.accept(&handler, &tasks, &connections, &open) => {}
            () = tasks.stop().cancelled() => {}
        }
        let late = GracefulShutdown::new();
        tokio::select! {
            ended = tokio::time::timeout(drain, open.shutdown()) => ended.is_ok(),
            () = self.accept(&handler, &tasks, &connections, &late) => false,
        }
    }

    /// Takes connections for as long as it is polled.
    async fn accept<H: Handler>(
        &self,
        handler: &Arc<H>,
        tasks: &Tasks,
        connections: &Arc<Connections>,
        graceful: &GracefulShutdown,
    ) {
        loop {
            match self.socket.accept().await {
                Ok((stream, peer)) => {
                    let Some(seat) = connections.enter(peer.ip()) else { continue };
                    let connection = Connection {
                        handler: Arc::clone(handler),
                        peer,
                        watcher: graceful.watcher(),
                        buffer_bytes: self.header_bytes_max + BUFFER_SLACK_BYTES,
                        seat,
                    };
                    self.start(tasks, stream, connection);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }

    fn start<H: Handler>(&self, tasks: &Tasks, stream: TcpStream, connection: Connection<H>) {
        // A socket that cannot be set is about to fail anyway.
        let _ = stream.set_nodelay(true);
        match self.tls.clone() {
            None => tasks.spawn("connection", connection.http1(stream)),
            Some(tls) => tasks.spawn("connection", async move {
                match tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await {
                    Ok(Ok(stream)) => connection.either(stream).await,
                    Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                    Err(_) => tracing::debug!("TLS handshake timed out"),
                }
            }),
        };
    }
}

struct Connection<H> {
    handler: Arc<H>,
    peer: SocketAddr,
    watcher: Watcher,
    buffer_bytes: usize,
    seat: Seat,
}

impl<H: Handler> Connection<H> {
    async fn http1(self, stream: TcpStream) {
        let Self { handler, peer, watcher, buffer_bytes, seat } = self;
        let unread = Arc::<Unread>::default();
        let stream = Patient::new(stream, Arc::clone(&unread));
        let service = service_fn(move |it| answer(Arc::clone(&handler), peer, &unread, it));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(buffer_bytes)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, "connection ended");
        }
        drop(seat);
    }

    async fn either<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { handler, peer, watcher, buffer_bytes, seat } = self;
        let unread = Arc::<Unread>::default();
        // Before it knows which protocol it is, hyper waits without end.
        let until = Instant::now() + HEAD_TIMEOUT;
        let stream = Patient::beginning(stream, Arc::clone(&unread), until);
        let service = service_fn(move |it| answer(Arc::clone(&handler), peer, &unread, it));
        let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(buffer_bytes);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(HEAD_TIMEOUT)
            .max_header_list_size(u32::try_from(buffer_bytes).unwrap_or(u32::MAX));
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(error = %error, "connection ended");
        }
        drop(seat);
    }
}

fn answer<H: Handler>(
    handler: Arc<H>,
    peer: SocketAddr,
    unread: &Arc<Unread>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, std::convert::Infallible>> + use<H> {
    let unread = Arc::clone(unread);
    async move {
        let (request, left) = unread.begin(request);
        let response = handler.handle(peer, request).await;
        Ok(unread.end(response, left.as_deref()))
    }
}
