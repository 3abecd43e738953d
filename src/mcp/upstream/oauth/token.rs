//! The token endpoint.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use secrecy::ExposeSecret;
use serde::Deserialize;

use super::challenge::Challenge;
use super::discover::{self, Metadata};
use super::fetch::Fetcher;
use super::grant::{Client, Grant, Origin, Proof, Tokens};
use super::{Found, Parts, client_secret};
use crate::mcp::upstream::http::Denied;

/// OAuth's code for a grant that is gone: revoked, expired, or used up.
pub(super) const GRANT_IS_GONE: &str = "invalid_grant";
/// Codes that say that the same request may succeed later.
const PASSING: [&str; 3] = ["temporarily_unavailable", "server_error", "slow_down"];

/// What an administrator does where the authorization server is another one rightly.
const HOW_TO_MOVE: &str = "the client's credentials go to the authorization server that was found first: to have it looked for \
     anew, delete the MCP server and create it again, or give it another `client_id`";

/// Why there is no token.
#[derive(Debug)]
pub(super) enum Refused {
    /// Asking the same again is of no use. With OAuth's error code.
    Definitely(String),
    /// Something failed that may not fail again.
    Perhaps(String),
}

impl Refused {
    pub(super) fn text(self) -> String {
        match self {
            Self::Definitely(code) => format!("its authorization server refuses (`{code}`)"),
            Self::Perhaps(reason) => reason,
        }
    }
}

/// Renews a grant.
pub(super) async fn refresh(
    parts: &Parts,
    fetcher: &Fetcher,
    old: &Grant,
) -> Result<Grant, Refused> {
    let refresh_token = old.refresh_token.as_deref().unwrap_or_default();
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh_token),
        ("resource", old.origin().resource),
    ];
    let client = current(parts, &old.client).await.map_err(Refused::Perhaps)?;
    let origin = Origin { client: &client, ..old.origin() };
    let tokens = ask(fetcher, &origin, &form).await?;
    let mut grant = Grant::new(&origin, tokens, parts.clock.now()).map_err(Refused::Perhaps)?;
    if grant.refresh_token.is_none() {
        grant.refresh_token.clone_from(&old.refresh_token);
    }
    Ok(grant)
}

/// The client that a grant was given to, with the secret that the settings give it now.
async fn current(parts: &Parts, given: &Client) -> Result<Client, String> {
    let mut client = given.clone();
    if parts.settings.client_id.is_some() {
        client.secret = client_secret(parts).await?.map(|it| it.expose_secret().to_owned());
        client.proof = match (&client.secret, client.proof) {
            (None, _) => Proof::None,
            (Some(_), Proof::None) => Proof::Basic,
            (Some(_), kept) => kept,
        };
    }
    Ok(client)
}

/// Gets a grant for the gateway itself.
pub(super) async fn client_credentials(
    parts: &Parts,
    fetcher: &Fetcher,
    challenge: &Challenge,
) -> Result<Grant, Denied> {
    let id = parts.settings.client_id.clone().ok_or_else(|| {
        let text = "`auth.client_id` is missing; client_credentials needs it";
        Denied::Definitely(text.to_owned())
    })?;
    let issuer =
        discover::discover(fetcher, &parts.url, challenge).await.map_err(Denied::Perhaps)?;
    let client = preregistered(
        &issuer.metadata,
        id,
        client_secret(parts)
            .await
            .map_err(Denied::Perhaps)?
            .map(|it| it.expose_secret().to_owned()),
    );
    let url = parts.url.to_string();
    pin(
        parts,
        Found {
            url: url.clone(),
            client_id: client.id.clone(),
            issuer: issuer.metadata.issuer.clone(),
            token_endpoint: issuer.metadata.token_endpoint.clone(),
        },
    )?;
    let resource = issuer.resource.as_deref().unwrap_or(&url);
    let origin = Origin {
        url: &url,
        resource,
        issuer: &issuer.metadata.issuer,
        token_endpoint: &issuer.metadata.token_endpoint,
        client: &client,
    };
    of_itself(parts, fetcher, challenge, &origin).await
}

/// Gets another grant for the gateway itself where it got the last one, whatever the server's metadata say by now: who can
/// change those must not be sent the client's secret.
pub(super) async fn again(
    parts: &Parts,
    fetcher: &Fetcher,
    challenge: &Challenge,
    old: &Grant,
) -> Result<Grant, Denied> {
    let client = current(parts, &old.client).await.map_err(Denied::Perhaps)?;
    let origin = Origin { client: &client, ..old.origin() };
    of_itself(parts, fetcher, challenge, &origin).await.map_err(|it| match it {
        Denied::Definitely(reason) => Denied::Definitely(format!("{reason}; {HOW_TO_MOVE}")),
        Denied::Perhaps(reason) => Denied::Perhaps(format!("{reason}; {HOW_TO_MOVE}")),
    })
}

async fn of_itself(
    parts: &Parts,
    fetcher: &Fetcher,
    challenge: &Challenge,
    origin: &Origin<'_>,
) -> Result<Grant, Denied> {
    let scope = scope(parts, challenge, &[]);
    let mut form = vec![("grant_type", "client_credentials"), ("resource", origin.resource)];
    if !scope.is_empty() {
        form.push(("scope", &scope));
    }
    let tokens = ask(fetcher, origin, &form).await.map_err(|it| match it {
        Refused::Definitely(_) => Denied::Definitely(it.text()),
        Refused::Perhaps(reason) => Denied::Perhaps(reason),
    })?;
    Grant::new(origin, tokens, parts.clock.now()).map_err(Denied::Perhaps)
}

/// Holds on to the authorization server that was found first for a client, before its secret is sent anywhere.
fn pin(parts: &Parts, found: Found) -> Result<(), Denied> {
    let mut first = parts.shared.found.lock();
    match first.as_ref().filter(|it| it.url == found.url && it.client_id == found.client_id) {
        Some(first) if *first != found => Err(Denied::Definitely(format!(
            "its metadata name another authorization server than at first; {HOW_TO_MOVE}"
        ))),
        Some(_) => Ok(()),
        None => {
            *first = Some(found);
            Ok(())
        }
    }
}

/// What to ask for: what the settings say, else what the server wants, else all that the resource has.
pub(super) fn scope(parts: &Parts, challenge: &Challenge, resource_scopes: &[String]) -> String {
    if !parts.settings.scopes.is_empty() {
        return parts.settings.scopes.join(" ");
    }
    challenge.scope.clone().unwrap_or_else(|| resource_scopes.join(" "))
}

/// A client that an admin registered.
pub(super) fn preregistered(metadata: &Metadata, id: String, secret: Option<String>) -> Client {
    let methods = metadata.token_endpoint_auth_methods_supported.as_deref();
    let takes = |method: &str| methods.is_none_or(|it| it.iter().any(|it| it == method));
    let proof = match &secret {
        None => Proof::None,
        Some(_) if takes("client_secret_basic") || !takes("client_secret_post") => Proof::Basic,
        Some(_) => Proof::Post,
    };
    Client { id, secret, proof }
}

/// Sends a form to the token endpoint, with the client's proof.
pub(super) async fn ask(
    fetcher: &Fetcher,
    origin: &Origin<'_>,
    form: &[(&str, &str)],
) -> Result<Tokens, Refused> {
    #[derive(Deserialize)]
    struct Failure {
        error: String,
    }
    let (body, proof) = proven(origin.client, form).map_err(Refused::Perhaps)?;
    let sent =
        fetcher.post(origin.token_endpoint, "application/x-www-form-urlencoded", body, proof).await;
    let answer = sent.map_err(Refused::Perhaps)?;
    if answer.status.is_success() {
        return serde_json::from_slice(&answer.body).map_err(|_| {
            Refused::Perhaps("its authorization server's answer is no token".to_owned())
        });
    }
    let status = answer.status.as_u16();
    match serde_json::from_slice::<Failure>(&answer.body) {
        Ok(failure)
            if is_code(&failure.error)
                && answer.status.is_client_error()
                && status != 429
                && !PASSING.contains(&failure.error.as_str()) =>
        {
            // `invalid_grant` ends a grant; the other codes say that what we sent is wrong, which no repetition mends.
            Err(Refused::Definitely(failure.error))
        }
        _ => Err(Refused::Perhaps(format!(
            "its authorization server answers with HTTP status {status}"
        ))),
    }
}

/// The form as a body with the client's proof, or with the proof beside it.
fn proven(client: &Client, form: &[(&str, &str)]) -> Result<(String, Option<HeaderValue>), String> {
    let mut body = url::form_urlencoded::Serializer::new(String::new());
    body.extend_pairs(form);
    if let (Proof::Basic, Some(secret)) = (client.proof, &client.secret) {
        return Ok((body.finish(), Some(basic(&client.id, secret)?)));
    }
    body.append_pair("client_id", &client.id);
    if let (Proof::Post, Some(secret)) = (client.proof, &client.secret) {
        body.append_pair("client_secret", secret);
    }
    Ok((body.finish(), None))
}

/// Whether a text is short and plain enough to be shown.
fn is_code(text: &str) -> bool {
    text.len() <= 64
        && text.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_' || it == b'-')
}

/// RFC 6749, section 2.3.1: both halves are form-encoded first.
fn basic(id: &str, secret: &str) -> Result<HeaderValue, String> {
    let encode =
        |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = BASE64_STANDARD.encode(format!("{}:{}", encode(id), encode(secret)));
    let mut value = HeaderValue::from_str(&format!("Basic {pair}")).map_err(|it| it.to_string())?;
    value.set_sensitive(true);
    Ok(value)
}
