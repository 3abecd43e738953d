use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Full;

use super::{Client, Reach, absolute, is_same_host, resolve};
use crate::mcp::upstream::wire::SendError;

fn uri(text: &str) -> Uri {
    text.parse().expect("a URI")
}

#[test]
fn only_absolute_http_urls_without_user_are_taken() {
    for good in ["https://x.example/mcp", "http://127.0.0.1:1/", "http://[::1]:80/mcp?q=1"] {
        assert!(absolute(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "/mcp",
        "x.example/mcp",
        "ftp://x/",
        "file:///etc/passwd",
        "https://user:pw@x/",
        "http://",
    ] {
        assert!(absolute(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_redirect_stays_on_its_host() {
    let base = uri("https://x.example/mcp");
    for (reference, stays) in [
        ("/mcp/", true),
        ("https://x.example/other", true),
        ("https://X.example:443/", true),
        ("https://x.example:8443/", false),
        ("http://x.example/", false),
        ("https://y.example/", false),
        ("//y.example/mcp", false),
        ("https://x.example.evil/", false),
        ("https://x.example@evil/", false),
    ] {
        let target = resolve(&base, reference).expect("a URL");
        assert_eq!(is_same_host(&base, &target), stays, "{reference}");
    }
    assert!(resolve(&base, "javascript:alert(1)").is_none());
    assert!(is_same_host(&uri("http://x/"), &uri("https://x/")));
}

#[tokio::test]
async fn a_guarded_client_dials_no_private_address_unless_the_admin_named_the_host() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let guarded = Client::new(Reach::Public(Arc::default())).expect("a client");
    for host in
        ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "0.0.0.0"]
    {
        let request = Request::get(format!("http://{host}:{port}/"))
            .body(Full::<Bytes>::default())
            .expect("a request");
        let refused = guarded.send(request).await;
        assert!(
            matches!(&refused, Err(SendError::NotSent(reason)) if reason.contains("may be reached")),
            "{host}: {refused:?}"
        );
    }
    let nobody_came =
        tokio::time::timeout(std::time::Duration::from_millis(50), listener.accept()).await;
    assert!(nobody_came.is_err());
    let hosts = Arc::new(["localhost".to_owned()].into());
    let named = Client::new(Reach::Public(hosts)).expect("a client");
    let request = Request::get(format!("http://localhost:{port}/"))
        .body(Full::<Bytes>::default())
        .expect("a request");
    let (came, _) = tokio::join!(
        listener.accept(),
        tokio::time::timeout(std::time::Duration::from_millis(200), named.send(request))
    );
    assert!(came.is_ok());
}
