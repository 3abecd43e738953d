//! What an authorization server gave us.

use std::time::Duration;

use althing_domain::time::UnixMillis;
use http::{HeaderValue, Uri};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// How a client proves itself at the token endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Proof {
    /// It has no secret.
    None,
    /// Its secret in the `authorization` header.
    Basic,
    /// Its secret in the body.
    Post,
}

/// Our registration at an authorization server.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Client {
    pub(super) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<String>,
    pub(super) proof: Proof,
}

/// A grant with its tokens. No `Debug`: it would show them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Grant {
    /// The layout of this text.
    version: u32,
    /// The server's URL, as the admin wrote it.
    url: String,
    /// What the tokens are for, as the server names itself.
    resource: String,
    /// Who gave them.
    issuer: String,
    /// Where they are renewed.
    token_endpoint: String,
    pub(super) client: Client,
    access_token: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) refresh_token: Option<String>,
    received_at: UnixMillis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<UnixMillis>,
}

/// What the token endpoint answers.
#[derive(Deserialize)]
pub(super) struct Tokens {
    access_token: String,
    token_type: String,
    #[serde(default)]
    expires_in: Option<serde_json::Number>,
    #[serde(default)]
    refresh_token: Option<String>,
}

/// Where a grant comes from and goes to.
pub(super) struct Origin<'a> {
    pub(super) url: &'a str,
    pub(super) resource: &'a str,
    pub(super) issuer: &'a str,
    pub(super) token_endpoint: &'a str,
    pub(super) client: &'a Client,
}

impl Grant {
    const VERSION: u32 = 1;

    pub(super) fn new(
        origin: &Origin<'_>,
        tokens: Tokens,
        now: UnixMillis,
    ) -> Result<Self, String> {
        if !tokens.token_type.eq_ignore_ascii_case("bearer") {
            return Err(
                "its authorization server gives tokens that are not bearer tokens".to_owned()
            );
        }
        let seconds = tokens
            .expires_in
            .as_ref()
            .and_then(|it| it.as_u64().or_else(|| it.as_f64().and_then(whole)));
        let grant = Self {
            version: Self::VERSION,
            url: origin.url.to_owned(),
            resource: origin.resource.to_owned(),
            issuer: origin.issuer.to_owned(),
            token_endpoint: origin.token_endpoint.to_owned(),
            client: origin.client.clone(),
            access_token: tokens.access_token,
            refresh_token: tokens.refresh_token,
            received_at: now,
            expires_at: seconds.map(|it| super::after(now, it)),
        };
        grant.header().map(|_| grant)
    }

    /// Where it comes from: what comes of it goes to the same.
    pub(super) fn origin(&self) -> Origin<'_> {
        Origin {
            url: &self.url,
            resource: &self.resource,
            issuer: &self.issuer,
            token_endpoint: &self.token_endpoint,
            client: &self.client,
        }
    }

    /// `None` where `text` is none, or of a layout that is not known.
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().filter(|it: &Self| it.version == Self::VERSION)
    }

    pub(super) fn write(&self) -> Result<SecretString, String> {
        serde_json::to_string(self).map(SecretString::from).map_err(|it| it.to_string())
    }

    /// Whether it is for this server, and for this client if one is set.
    pub(super) fn is_for(&self, url: &Uri, client_id: Option<&str>) -> bool {
        self.url == url.to_string() && client_id.is_none_or(|it| it == self.client.id)
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.access_token == other.access_token
    }

    /// The value of `authorization`.
    pub(super) fn header(&self) -> Result<HeaderValue, String> {
        let value = HeaderValue::from_str(&format!("Bearer {}", self.access_token));
        let mut value = value.map_err(|_| {
            "its authorization server gave a token that cannot stand in a header".to_owned()
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// When it is to be renewed: `margin` before its end, or at half its life.
    pub(super) fn due_at(&self, margin: Duration) -> Option<UnixMillis> {
        let end = self.expires_at?.0;
        let half = end.saturating_sub(self.received_at.0) / 2;
        let margin = u64::try_from(margin.as_millis()).unwrap_or(u64::MAX).min(half);
        Some(UnixMillis(end - margin))
    }

    pub(super) fn is_expired(&self, now: UnixMillis) -> bool {
        self.expires_at.is_some_and(|it| it <= now)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be a whole number of seconds"
)]
fn whole(seconds: f64) -> Option<u64> {
    (0.0..4_294_967_296.0).contains(&seconds).then_some(seconds as u64)
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.access_token.zeroize();
        self.refresh_token.zeroize();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}
