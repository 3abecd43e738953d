//! A federation against a server that wants tokens, and a scripted authorization server that gives them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use althing_domain::time::{Clock, UnixMillis};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::mcp::call::CallError;
use crate::mcp::federation::tests::{
    Memory, call, eventually, limits, options, spec, status, until_state,
};
use crate::mcp::federation::{Federation, Options, State};
use crate::mcp::upstream::fixture::{Fixture, Piece, Reply, Seen, error, usual};
use crate::mcp::upstream::oauth::AuthorizeError;

const REDIRECT: &str = "http://127.0.0.1:9/callback";

/// A clock that is moved by hand.
#[derive(Default)]
struct Hand(Mutex<u64>);

impl Clock for Hand {
    fn now(&self) -> UnixMillis {
        UnixMillis(*self.0.lock())
    }
}

/// The state of the scripted pair of servers.
#[derive(Default)]
struct World {
    issuer: String,
    resource: String,
    /// The access token that counts now.
    token: String,
    refresh: String,
    given: u64,
    expires_in: u64,
    /// What the metadata say instead of the truth.
    lies: HashMap<&'static str, Value>,
    refuses_refresh: bool,
    /// What the token endpoint answers instead of a token.
    failure: Option<(u16, &'static str)>,
    /// Whether the server repeats the token in errors.
    repeats: bool,
    /// How long the token endpoint's answers are on their way.
    delay: Duration,
}

type Shared = Arc<Mutex<World>>;

/// Both servers, on two ports.
struct Scene {
    world: Shared,
    server: Fixture,
    issuer: Fixture,
    clock: Arc<Hand>,
    tokens: Arc<Memory>,
}

fn protected(world: &Shared, seen: &Seen) -> Reply {
    let world = world.lock();
    if seen.target.starts_with("/.well-known/oauth-protected-resource") {
        let named = world.lies.get("resource").cloned().unwrap_or_else(|| json!(world.resource));
        let issuers = world
            .lies
            .get("authorization_servers")
            .cloned()
            .unwrap_or_else(|| json!([world.issuer]));
        return Reply::json(
            &json!({ "resource": named, "authorization_servers": issuers, "scopes_supported": ["tools"] }),
        );
    }
    let is_right = !world.token.is_empty()
        && seen.header("authorization") == Some(&format!("Bearer {}", world.token));
    if !is_right {
        let origin = world.resource.trim_end_matches("/mcp");
        let challenge = format!(
            r#"Bearer resource_metadata="{origin}/.well-known/oauth-protected-resource/mcp", scope="tools""#
        );
        return Reply::status(401).with("www-authenticate", challenge);
    }
    match seen.rpc() {
        "tools/call" if world.repeats => {
            Reply::json(&error(seen, -32000, &format!("cannot use {}", world.token)))
        }
        "initialize" => Reply::json(&error(seen, -32601, "no such method")),
        "subscriptions/listen" => Reply::status(405),
        _ => Reply::json(&usual(seen)),
    }
}

fn form(seen: &Seen) -> HashMap<String, String> {
    url::form_urlencoded::parse(seen.body.as_bytes()).into_owned().collect()
}

fn issuer(world: &Shared, seen: &Seen) -> Reply {
    let mut world = world.lock();
    let issuer = world.issuer.clone();
    let mut metadata = json!({
        "issuer": issuer, "authorization_endpoint": format!("{issuer}/auth"), "token_endpoint": format!("{issuer}/token"),
        "registration_endpoint": format!("{issuer}/register"), "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic"], "scopes_supported": ["tools", "offline_access"],
        "authorization_response_iss_parameter_supported": true,
    });
    for (key, value) in &world.lies {
        metadata[*key] = value.clone();
    }
    match seen.target.as_str() {
        "/.well-known/oauth-authorization-server" => Reply::json(&metadata),
        "/register" => Reply::json(
            &json!({ "client_id": "registered", "client_secret": "a secret:", "token_endpoint_auth_method": "client_secret_basic" }),
        ),
        "/token" => token(&mut world, &form(seen)),
        _ => Reply::status(404),
    }
}

fn token(world: &mut World, form: &HashMap<String, String>) -> Reply {
    if let Some((status, code)) = world.failure {
        return Reply::status(status)
            .with("content-type", "application/json")
            .text(json!({ "error": code }).to_string());
    }
    let grant = form.get("grant_type").map(String::as_str).unwrap_or_default();
    let is_stale = grant == "refresh_token"
        && (world.refuses_refresh || form.get("refresh_token") != Some(&world.refresh));
    if is_stale {
        return Reply::status(400)
            .with("content-type", "application/json")
            .text(r#"{"error":"invalid_grant","error_description":"secret detail"}"#);
    }
    world.given += 1;
    world.token = format!("access-{}", world.given);
    world.refresh = format!("refresh-{}", world.given);
    let mut answer = json!({ "access_token": world.token, "token_type": "Bearer", "expires_in": world.expires_in });
    if grant != "client_credentials" {
        answer["refresh_token"] = json!(world.refresh);
    }
    let late =
        Reply::status(200).with("content-type", "application/json").piece(Piece::Wait(world.delay));
    late.text(answer.to_string())
}

impl Scene {
    async fn new() -> Self {
        let world = Shared::default();
        let (for_server, for_issuer) = (Arc::clone(&world), Arc::clone(&world));
        let server = Fixture::start(move |seen| protected(&for_server, seen)).await;
        let issuer = Fixture::start(move |seen| issuer(&for_issuer, seen)).await;
        {
            let mut world = world.lock();
            world.issuer.clone_from(&issuer.origin);
            world.resource = format!("{}/mcp", server.origin);
            world.expires_in = 3600;
        }
        let clock = Arc::new(Hand(Mutex::new(1_000_000)));
        Self { world, server, issuer, clock, tokens: Arc::default() }
    }

    fn lie(&self, key: &'static str, value: Value) {
        self.world.lock().lies.insert(key, value);
    }

    fn connect(&self, auth: &Value) -> Federation {
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        let federation = Federation::new(Options {
            clock,
            tokens: Arc::clone(&self.tokens) as _,
            ..options(limits())
        });
        let url = self.world.lock().resource.clone();
        federation.reconcile(&[spec(
            json!({ "name": "s", "transport": "http", "url": url, "auth": auth }),
        )]);
        federation
    }

    fn person(&self) -> Federation {
        self.connect(&json!({ "type": "oauth", "grant": "authorization_code" }))
    }

    /// A federation that a person has authorised.
    async fn authorised(&self) -> Federation {
        let federation = self.person();
        until_state(&federation, "s", State::Held).await;
        let state = self.begin(&federation).await["state"].clone();
        let issuer = self.issuer.origin.clone();
        let server =
            federation.finish_authorize(&state, "the-code", Some(&issuer)).await.expect("tokens");
        assert_eq!(server.as_str(), "s");
        until_state(&federation, "s", State::Ready).await;
        federation
    }

    /// The query of the URL to which a person is sent.
    async fn begin(&self, federation: &Federation) -> HashMap<String, String> {
        let url = federation.begin_authorize("s", REDIRECT).await.expect("a URL");
        let url = url::Url::parse(&url).expect("a URL");
        assert!(url.as_str().starts_with(&format!("{}/auth?", self.issuer.origin)), "{url}");
        url.query_pairs().into_owned().collect()
    }

    fn token_forms(&self) -> Vec<HashMap<String, String>> {
        self.issuer.seen.lock().iter().filter(|it| it.target == "/token").map(form).collect()
    }

    fn advance(&self, seconds: u64) {
        *self.clock.0.lock() += seconds * 1000;
    }
}

#[tokio::test]
async fn a_person_authorises_once_and_calls_carry_the_token() {
    let scene = Scene::new().await;
    let federation = scene.person();
    until_state(&federation, "s", State::Held).await;
    assert!(
        status(&federation, "s")
            .last_error
            .is_some_and(|it| it.contains("/api/mcp-servers/s/authorize"))
    );
    let query = scene.begin(&federation).await;
    assert_eq!(query["redirect_uri"], REDIRECT);
    assert_eq!(query["resource"], scene.world.lock().resource);
    assert_eq!(
        (query["scope"].as_str(), query["prompt"].as_str()),
        ("tools offline_access", "consent")
    );
    assert_eq!(
        (query["client_id"].as_str(), query["code_challenge_method"].as_str()),
        ("registered", "S256")
    );
    federation
        .finish_authorize(&query["state"], "the-code", Some(&scene.issuer.origin))
        .await
        .expect("tokens");
    until_state(&federation, "s", State::Ready).await;
    federation.call(call("echo", &json!({}))).await.expect("a result");
    let form = scene.token_forms().remove(0);
    assert_eq!((form["code"].as_str(), form["redirect_uri"].as_str()), ("the-code", REDIRECT));
    assert_eq!(form["resource"], scene.world.lock().resource);
    // The verifier is what the challenge was made of.
    use base64::Engine;
    let challenge = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA256,
        form["code_verifier"].as_bytes(),
    ));
    assert_eq!(query["code_challenge"], challenge);
    // `registered` and `a secret:`, each form-encoded, then joined and encoded.
    let seen = scene
        .issuer
        .seen
        .lock()
        .iter()
        .find(|it| it.target == "/token")
        .cloned()
        .expect("a request");
    assert_eq!(seen.header("authorization"), Some("Basic cmVnaXN0ZXJlZDphK3NlY3JldCUzQQ=="));
}

#[tokio::test]
async fn a_state_counts_once_and_the_issuer_must_be_the_one_that_was_asked() {
    let scene = Scene::new().await;
    let federation = scene.person();
    let unknown = federation.finish_authorize("made up", "code", None).await;
    assert_eq!(unknown, Err(AuthorizeError::UnknownState));
    for wrong in [Some("https://evil.example"), None] {
        let state = scene.begin(&federation).await["state"].clone();
        assert_eq!(
            federation.finish_authorize(&state, "code", wrong).await,
            Err(AuthorizeError::WrongIssuer)
        );
        let again = federation.finish_authorize(&state, "code", Some(&scene.issuer.origin)).await;
        assert_eq!(again, Err(AuthorizeError::UnknownState));
    }
    let state = scene.begin(&federation).await["state"].clone();
    scene.advance(16 * 60);
    assert_eq!(
        federation.finish_authorize(&state, "code", Some(&scene.issuer.origin)).await,
        Err(AuthorizeError::UnknownState)
    );
    assert!(scene.token_forms().is_empty());
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires_and_once_however_many_ask() {
    let scene = Scene::new().await;
    let federation = scene.authorised().await;
    scene.advance(3600 - 30);
    let calls = (0..20).map(|_| federation.call(call("echo", &json!({}))));
    for outcome in futures_util::future::join_all(calls).await {
        outcome.expect("a result");
    }
    let forms = scene.token_forms();
    assert_eq!(forms.iter().filter(|it| it["grant_type"] == "refresh_token").count(), 1);
    assert_eq!(forms[1]["refresh_token"], "refresh-1");
    assert_eq!(scene.server.last("tools/call").header("authorization"), Some("Bearer access-2"));
}

#[tokio::test]
async fn tokens_outlive_a_restart_and_are_renewed_after_it() {
    let scene = Scene::new().await;
    drop(scene.authorised().await);
    scene.advance(2 * 3600);
    let federation = scene.person();
    until_state(&federation, "s", State::Ready).await;
    federation.call(call("echo", &json!({}))).await.expect("a result");
    // Renewed with the registration that was kept, which has a secret.
    let seen = scene
        .issuer
        .seen
        .lock()
        .iter()
        .rfind(|it| it.target == "/token")
        .cloned()
        .expect("a request");
    assert!(
        seen.body.contains("grant_type=refresh_token") && seen.header("authorization").is_some()
    );
}

#[tokio::test]
async fn a_token_that_is_refused_early_is_renewed_and_the_call_succeeds() {
    let scene = Scene::new().await;
    let federation = scene.authorised().await;
    scene.world.lock().token = "revoked-meanwhile".to_owned();
    federation.call(call("echo", &json!({}))).await.expect("a result");
    assert_eq!(scene.server.last("tools/call").header("authorization"), Some("Bearer access-2"));
    assert_eq!(status(&federation, "s").state, State::Ready);
}

#[tokio::test]
async fn a_grant_that_is_gone_waits_for_a_person_and_is_forgotten() {
    let scene = Scene::new().await;
    let federation = scene.authorised().await;
    {
        let mut world = scene.world.lock();
        world.refuses_refresh = true;
        world.token = "revoked".to_owned();
    }
    let refused = federation.call(call("echo", &json!({}))).await.expect_err("no result");
    assert!(matches!(refused, CallError::Unavailable { state: State::Held, .. }), "{refused:?}");
    assert!(!refused.to_string().contains("secret detail"), "{refused}");
    until_state(&federation, "s", State::Held).await;
    let why = status(&federation, "s").last_error.expect("an error");
    assert!(!why.contains("refresh-") && !why.contains("access-"), "{why}");
    assert!(scene.tokens.0.lock().is_empty());
}

#[tokio::test]
async fn an_issuer_that_is_down_does_not_stop_a_token_that_still_holds() {
    let scene = Scene::new().await;
    let federation = scene.authorised().await;
    scene.advance(3600 - 30);
    // The kept grant names the token endpoint; that port is closed now.
    drop(scene.issuer);
    eventually("the port is closed", || {
        std::net::TcpStream::connect(scene.world.lock().issuer.trim_start_matches("http://"))
            .is_err()
    })
    .await;
    federation.call(call("echo", &json!({}))).await.expect("a result with the old token");
}

#[tokio::test]
async fn an_issuer_that_was_away_needs_no_person_once_it_is_back() {
    let scene = Scene::new().await;
    let federation = scene.authorised().await;
    for failure in [(503, "temporarily_unavailable"), (400, "temporarily_unavailable")] {
        scene.world.lock().failure = Some(failure);
        scene.advance(2 * 3600);
        let refused = federation.call(call("echo", &json!({}))).await.expect_err("no result");
        assert!(refused.is_without_effect(), "{refused:?}");
        until_state(&federation, "s", State::Down).await;
        scene.world.lock().failure = None;
        until_state(&federation, "s", State::Ready).await;
        federation.call(call("echo", &json!({}))).await.expect("a result");
    }
}

#[tokio::test]
async fn a_renewal_ends_also_where_its_caller_has_left() {
    let scene = Scene::new().await;
    let federation = scene.authorised().await;
    scene.advance(2 * 3600);
    scene.world.lock().delay = Duration::from_millis(300);
    let hurried = federation.call(call("echo", &json!({})));
    tokio::time::timeout(Duration::from_millis(100), hurried).await.expect_err("it waits");
    assert_eq!(scene.token_forms().len(), 2, "the renewal is on its way");
    federation.call(call("echo", &json!({}))).await.expect("a result");
    // The answer that came after its caller had left was kept: the used token is not sent again.
    assert_eq!(scene.token_forms().len(), 2);
    assert_eq!(scene.server.last("tools/call").header("authorization"), Some("Bearer access-2"));
}

#[tokio::test]
async fn a_grant_is_kept_where_only_our_client_is_refused() {
    let scene = Scene::new().await;
    let federation = scene.authorised().await;
    scene.world.lock().failure = Some((401, "invalid_client"));
    scene.advance(2 * 3600);
    federation.call(call("echo", &json!({}))).await.expect_err("no result");
    until_state(&federation, "s", State::Held).await;
    assert!(!scene.tokens.0.lock().is_empty());
    scene.world.lock().failure = None;
    assert!(federation.reconnect("s"));
    until_state(&federation, "s", State::Ready).await;
}

#[tokio::test]
async fn a_renewal_proves_itself_with_the_secret_that_is_set_now() {
    let scene = Scene::new().await;
    let auth = |secret: &str| json!({ "type": "oauth", "grant": "authorization_code", "client_id": "me", "client_secret": secret });
    let federation = scene.connect(&auth("old"));
    until_state(&federation, "s", State::Held).await;
    let state = scene.begin(&federation).await["state"].clone();
    federation
        .finish_authorize(&state, "the-code", Some(&scene.issuer.origin))
        .await
        .expect("tokens");
    until_state(&federation, "s", State::Ready).await;
    drop(federation);
    scene.advance(2 * 3600);
    let federation = scene.connect(&auth("new"));
    until_state(&federation, "s", State::Ready).await;
    let seen = scene.issuer.seen.lock().iter().rfind(|it| it.target == "/token").cloned();
    let seen = seen.expect("a request");
    assert!(seen.body.contains("grant_type=refresh_token"), "{}", seen.body);
    // `me:new`.
    assert_eq!(seen.header("authorization"), Some("Basic bWU6bmV3"));
}

#[tokio::test]
async fn a_token_that_the_server_repeats_in_an_error_reaches_no_caller() {
    let scene = Scene::new().await;
    let federation = scene.authorised().await;
    scene.world.lock().repeats = true;
    let refused = federation.call(call("echo", &json!({}))).await.expect_err("an error");
    let text = format!("{refused:?}");
    assert!(text.contains("[secret]") && !text.contains("access-1"), "{text}");
}

#[tokio::test]
async fn the_gateways_own_credentials_need_no_person() {
    let scene = Scene::new().await;
    let auth = json!({ "type": "oauth", "grant": "client_credentials", "client_id": "me", "client_secret": "pw", "scopes": ["a", "b"] });
    let federation = scene.connect(&auth);
    until_state(&federation, "s", State::Ready).await;
    let form = scene.token_forms().remove(0);
    assert_eq!(
        (form["grant_type"].as_str(), form["scope"].as_str()),
        ("client_credentials", "a b")
    );
    assert_eq!(form["resource"], scene.world.lock().resource);
    scene.advance(2 * 3600);
    federation.call(call("echo", &json!({}))).await.expect("a result with another token");
    assert_eq!(scene.token_forms().len(), 2);
    let not_for_people = federation.begin_authorize("s", REDIRECT).await;
    assert_eq!(not_for_people, Err(AuthorizeError::NotOAuth));
}

/// Another authorization server on the admin's own host, so that nothing but the pin keeps secrets from it.
async fn thief() -> Fixture {
    let origin = Arc::new(Mutex::new(String::new()));
    let own = Arc::clone(&origin);
    let fixture = Fixture::start(move |seen| {
        let origin = own.lock().clone();
        match seen.target.as_str() {
            "/.well-known/oauth-authorization-server" => Reply::json(
                &json!({ "issuer": origin, "token_endpoint": format!("{origin}/token") }),
            ),
            "/token" => Reply::json(&json!({ "access_token": "stolen", "token_type": "Bearer" })),
            _ => Reply::status(404),
        }
    })
    .await;
    origin.lock().clone_from(&fixture.origin);
    fixture
}

#[tokio::test]
async fn changed_metadata_do_not_move_a_clients_secret() {
    let (scene, thief) = (Scene::new().await, thief().await);
    let auth = json!({ "type": "oauth", "grant": "client_credentials", "client_id": "me", "client_secret": "pw" });
    let federation = scene.connect(&auth);
    until_state(&federation, "s", State::Ready).await;
    scene.lie("authorization_servers", json!([thief.origin]));
    // Renewed in time, renewed after a refusal, renewed after a restart: always where it was got first.
    scene.advance(2 * 3600);
    federation.call(call("echo", &json!({}))).await.expect("a result with another token");
    scene.world.lock().token = "revoked-meanwhile".to_owned();
    federation.call(call("echo", &json!({}))).await.expect("a result with a third token");
    drop(federation);
    scene.advance(2 * 3600);
    let federation = scene.connect(&auth);
    until_state(&federation, "s", State::Ready).await;
    federation.call(call("echo", &json!({}))).await.expect("a result with a fourth token");
    assert_eq!(scene.token_forms().len(), 4);
    assert!(thief.seen.lock().is_empty(), "it was not even asked");

    // Another client is an administrator's act.
    let auth = json!({ "type": "oauth", "grant": "client_credentials", "client_id": "other", "client_secret": "pw" });
    let _federation = scene.connect(&auth);
    eventually("the other issuer is asked", || {
        thief.seen.lock().iter().any(|it| it.target == "/token")
    })
    .await;
}

#[tokio::test]
async fn a_client_that_had_no_token_yet_is_pinned_too() {
    let (scene, thief) = (Scene::new().await, thief().await);
    scene.world.lock().failure = Some((503, "temporarily_unavailable"));
    let auth = json!({ "type": "oauth", "grant": "client_credentials", "client_id": "me", "client_secret": "pw" });
    let federation = scene.connect(&auth);
    eventually("the first issuer was asked", || !scene.token_forms().is_empty()).await;
    scene.lie("authorization_servers", json!([thief.origin]));
    eventually("it says why it does not go on", || {
        let said = status(&federation, "s").last_error.unwrap_or_default();
        said.contains("another authorization server") && said.contains("delete the MCP server")
    })
    .await;
    assert!(thief.seen.lock().iter().all(|it| it.target != "/token"));
    // To delete it and create it again is an administrator's act.
    federation.reconcile(&[]);
    let url = scene.world.lock().resource.clone();
    federation
        .reconcile(&[spec(json!({ "name": "s", "transport": "http", "url": url, "auth": auth }))]);
    eventually("the other issuer is asked", || {
        thief.seen.lock().iter().any(|it| it.target == "/token")
    })
    .await;
}

#[tokio::test]
async fn metadata_that_lie_are_refused_before_anything_is_sent() {
    let elsewhere = Fixture::start(|_| Reply::status(200)).await;
    // The same machine by a name that the admin did not write: loopback, so it must not be reached.
    let foreign = elsewhere.origin.replace("127.0.0.1", "localhost");
    let cases = [
        ("resource", json!("https://other.example/mcp"), "another resource"),
        ("issuer", json!("https://evil.example"), "another issuer"),
        ("authorization_servers", json!([foreign]), "https://"),
        (
            "authorization_servers",
            json!([foreign.replace("http://", "https://")]),
            "may be reached",
        ),
        ("authorization_servers", json!(["https://169.254.169.254"]), "may be reached"),
        ("authorization_servers", json!([]), "no authorization server"),
        ("token_endpoint", json!(format!("{foreign}/token")), "https://"),
        ("authorization_endpoint", json!("javascript:alert(1)"), "https://"),
        ("registration_endpoint", json!("file:///etc/passwd"), "https://"),
        ("registration_endpoint", json!(null), "auth.client_id"),
        ("code_challenge_methods_supported", json!(["plain"]), "PKCE"),
    ];
    for (key, value, expected) in cases {
        let scene = Scene::new().await;
        scene.lie(key, value.clone());
        let federation = scene.person();
        let refused =
            federation.begin_authorize("s", REDIRECT).await.expect_err("a lie").to_string();
        assert!(refused.contains(expected), "{key} {value}: {refused}");
        assert!(scene.token_forms().is_empty());
    }
    assert!(elsewhere.seen.lock().is_empty());
}

#[tokio::test]
async fn settings_that_cannot_be_authorised_are_named() {
    let scene = Scene::new().await;
    let federation = scene.person();
    for redirect in ["http://gateway.example/callback", "javascript:alert(1)", "nonsense"] {
        let refused = federation.begin_authorize("s", redirect).await;
        assert!(matches!(refused, Err(AuthorizeError::Settings(_))), "{redirect}: {refused:?}");
    }
    assert_eq!(
        federation.begin_authorize("nobody", REDIRECT).await,
        Err(AuthorizeError::UnknownServer)
    );
    let both = json!({ "name": "s", "transport": "http", "url": "http://127.0.0.1:1/", "headers": { "Authorization": "x" }, "auth": { "type": "oauth" } });
    federation.reconcile(&[spec(both)]);
    until_state(&federation, "s", State::Down).await;
    assert!(
        status(&federation, "s").last_error.is_some_and(|it| it.contains("exclude each other"))
    );
}
