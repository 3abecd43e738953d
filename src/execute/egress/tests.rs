use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Client, SendError, Settings};

/// An upstream whose connections a test serves by hand.
struct Upstream {
    listener: TcpListener,
    client: Client,
    uri: String,
}

impl Upstream {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let uri = format!("http://user:word@{}/a?b=c", listener.local_addr().expect("bound"));
        let client = Client::new(&Settings::default()).expect("a client");
        Self { listener, client, uri }
    }

    async fn accept(&self) -> TcpStream {
        self.listener.accept().await.expect("a connection").0
    }

    /// Has the runtime hear from the system, by a connection of the test's own, before which there is no other.
    async fn look_around(&self) {
        let address = self.listener.local_addr().expect("bound");
        let (near, far) = tokio::join!(TcpStream::connect(address), self.accept());
        let near = near.expect("connected").local_addr().expect("an address");
        assert_eq!(far.peer_addr().expect("a peer"), near, "somebody else has connected");
    }

    /// A connection on which one request was answered.
    async fn served(&self, words: &str) -> TcpStream {
        let (sent, mut stream) = (self.send(), self.accept().await);
        request(&mut stream).await;
        answer(&mut stream, words).await;
        assert_eq!(sent.await.expect("no panic"), Ok(Bytes::from(words.to_owned())));
        stream
    }

    #[expect(clippy::disallowed_methods, reason = "a test's own")]
    fn send(&self) -> tokio::task::JoinHandle<Result<Bytes, String>> {
        let (client, uri) = (self.client.clone(), self.uri.clone());
        tokio::spawn(async move {
            let request = Request::post(uri).body(Full::from("hello")).expect("a request");
            let reply = client.send(request).await.map_err(|it| it.to_string())?;
            let whole = reply.into_body().collect().await.map_err(|it| it.to_string())?;
            Ok(whole.to_bytes())
        })
    }
}

/// Reads one request whole; gives its head.
async fn request(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"hello") {
        assert_ne!(stream.read_buf(&mut read).await.expect("bytes"), 0, "it was closed");
    }
    String::from_utf8(read).expect("text")
}

async fn answer(stream: &mut TcpStream, body: &str) {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(head.as_bytes()).await.expect("written");
}

#[tokio::test]
async fn a_connection_carries_one_request_after_another_in_origin_form() {
    let upstream = Upstream::start().await;
    let (first, mut stream) = (upstream.send(), upstream.accept().await);
    let head = request(&mut stream).await;
    assert!(head.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{head}");
    let host = format!("host: {}\r\n", upstream.listener.local_addr().expect("bound"));
    assert!(head.contains(&host), "{head}");
    answer(&mut stream, "one").await;
    assert_eq!(first.await.expect("no panic"), Ok(Bytes::from("one")));
    let second = upstream.send();
    request(&mut stream).await;
    answer(&mut stream, &"two".repeat(100_000)).await;
    assert_eq!(second.await.expect("no panic"), Ok(Bytes::from("two".repeat(100_000))));
}

#[tokio::test]
async fn requests_at_once_have_a_connection_each() {
    let upstream = Upstream::start().await;
    let (one, mut left) = (upstream.send(), upstream.accept().await);
    let (other, mut right) = (upstream.send(), upstream.accept().await);
    for (stream, words) in [(&mut left, "left"), (&mut right, "right")] {
        request(stream).await;
        answer(stream, words).await;
    }
    assert_eq!(one.await.expect("no panic"), Ok(Bytes::from("left")));
    assert_eq!(other.await.expect("no panic"), Ok(Bytes::from("right")));
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_not_the_callers_trouble() {
    let upstream = Upstream::start().await;
    drop(upstream.served("one").await);
    upstream.look_around().await;
    upstream.served("two").await;
}

#[tokio::test]
async fn a_request_that_was_taken_and_not_answered_is_not_sent_again() {
    let upstream = Upstream::start().await;
    let mut stream = upstream.served("one").await;
    let second = upstream.send();
    request(&mut stream).await;
    drop(stream);
    let error = second.await.expect("no panic").expect_err("it broke");
    assert!(error.starts_with(&SendError::Broken(String::new()).to_string()), "{error}");
    upstream.look_around().await;
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a test's own")]
async fn a_reply_that_nobody_reads_on_ends_its_connection() {
    let upstream = Upstream::start().await;
    let (client, uri) = (upstream.client.clone(), upstream.uri.clone());
    let reading = tokio::spawn(async move {
        let request = Request::post(uri).body(Full::from("hello")).expect("a request");
        let mut reply = client.send(request).await.expect("a reply").into_body();
        let first = reply.frame().await.expect("a frame").expect("bytes");
        assert_eq!(first.into_data().expect("data"), "begun");
    });
    let mut stream = upstream.accept().await;
    request(&mut stream).await;
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n";
    stream.write_all(head.as_bytes()).await.expect("written");
    reading.await.expect("read");
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0, "the upstream is told");
}

#[tokio::test]
async fn a_reply_that_says_close_is_the_last_of_its_connection() {
    let upstream = Upstream::start().await;
    let (first, mut stream) = (upstream.send(), upstream.accept().await);
    request(&mut stream).await;
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nall there is";
    stream.write_all(head.as_bytes()).await.expect("written");
    drop(stream);
    assert_eq!(first.await.expect("no panic"), Ok(Bytes::from("all there is")));
    upstream.served("two").await;
}

/// More than a task may do at once by tokio's budget, and one more or less.
#[tokio::test]
async fn any_number_of_connections_that_were_closed_while_idle_is_passed_over() {
    const CLOSED: usize = 130;
    for spent in 0..2 {
        let upstream = Upstream::start().await;
        let mut open = Vec::new();
        for _ in 0..CLOSED {
            open.push((upstream.send(), upstream.accept().await));
        }
        for (sent, stream) in &mut open {
            request(stream).await;
            answer(stream, "one").await;
            sent.await.expect("no panic").expect("answered");
        }
        drop(open);
        upstream.look_around().await;
        let (client, uri) = (upstream.client.clone(), upstream.uri.clone());
        let sending = async {
            for _ in 0..spent {
                tokio::task::consume_budget().await;
            }
            let request = Request::post(uri).body(Full::from("hello")).expect("a request");
            client.send(request).await.map(|it| it.status().as_u16())
        };
        let serving = async {
            let mut stream = upstream.accept().await;
            request(&mut stream).await;
            answer(&mut stream, "two").await;
            stream
        };
        let both = async { tokio::join!(sending, serving) };
        let within = std::time::Duration::from_secs(20);
        let (sent, _stream) = tokio::time::timeout(within, both).await.expect("a new connection");
        assert_eq!(sent, Ok(200), "{spent} of the budget were spent before");
    }
}
