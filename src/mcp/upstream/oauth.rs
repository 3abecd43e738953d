//! The gateway as an OAuth client of MCP servers: getting tokens, keeping them fresh, and starting over where they are refused.
//!
//! What a stranger's document names (metadata, endpoints) is fetched through a guarded client: `https` and public
//! addresses only, but for the host that the admin wrote as the server's `url`. No error here holds a token, a
//! body or a description that came from outside; OAuth's own error codes are the most that is shown.

use std::sync::Arc;
use std::time::Duration;

use althing_domain::id::Name;
use althing_domain::object::Kind;
use althing_domain::policy::{Grant as GrantKind, OAuth as Settings};
use althing_domain::time::{Clock, UnixMillis};
use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use http::{HeaderValue, Uri};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Semaphore, oneshot};

use super::http::{Credentials, Denied};
use super::{Secrets, TokenStore};
use crate::secret::Place;
use crate::tasks::Tasks;

mod authorize;
mod challenge;
mod discover;
mod fetch;
mod grant;
mod token;

pub use authorize::AuthorizeError;
pub(crate) use authorize::{Pending, begin, finish};
use challenge::Challenge;
pub(crate) use fetch::Fetcher;
use grant::Grant;

/// A token is renewed this long before it expires, or at half its life if that is sooner.
const MARGIN: Duration = Duration::from_secs(60);
/// How long a whole renewal may take.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(45);

/// What the OAuth of one server is made of.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) server: Name,
    /// The server's URL as the admin wrote it.
    pub(crate) url: Uri,
    pub(crate) settings: Settings,
    pub(crate) secrets: Arc<dyn Secrets>,
    pub(crate) tokens: Arc<dyn TokenStore>,
    pub(crate) clock: Arc<dyn Clock>,
    /// What all connections to the server share on this node.
    pub(crate) shared: Arc<Shared>,
    /// Where renewals run.
    pub(crate) tasks: Tasks,
}

/// What all connections to a server share.
pub(crate) struct Shared {
    /// One renewal at a time.
    renewing: Semaphore,
    /// Where a client's own credentials were first sent, or were to be.
    found: Mutex<Option<Found>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { renewing: Semaphore::new(1), found: Mutex::default() }
    }
}

/// The authorization server that was found for a client of a server.
#[derive(PartialEq, Eq)]
struct Found {
    url: String,
    client_id: String,
    issuer: String,
    token_endpoint: String,
}

/// The tokens for one server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct OAuth {
    parts: Arc<Parts>,
    fetcher: Arc<Fetcher>,
    grant: Arc<ArcSwapOption<Grant>>,
    /// What the server said when it refused us last.
    challenge: Arc<Mutex<Challenge>>,
}

impl OAuth {
    pub(crate) fn new(parts: Parts) -> Result<Self, String> {
        let fetcher = Arc::new(Fetcher::new(&parts.url)?);
        Ok(Self {
            parts: Arc::new(parts),
            fetcher,
            grant: Arc::default(),
            challenge: Arc::default(),
        })
    }

    /// The grant in use: the one in memory, else the one that is kept.
    async fn current(&self) -> Result<Option<Arc<Grant>>, String> {
        match self.grant.load_full() {
            Some(grant) => Ok(Some(grant)),
            None => self.reload().await,
        }
    }

    /// The grant that is kept: another node, or a person, may have renewed it.
    async fn reload(&self) -> Result<Option<Arc<Grant>>, String> {
        let kept = self.parts.tokens.load(&self.parts.server).await?;
        let grant = kept.as_ref().and_then(|it| Grant::read(it.expose_secret()));
        // Tokens for another URL or another client are of no use, and must not be sent here.
        let grant =
            grant.filter(|it| it.is_for(&self.parts.url, self.parts.settings.client_id.as_deref()));
        let grant = grant.map(Arc::new);
        self.grant.store(grant.clone());
        Ok(grant)
    }

    async fn keep(&self, grant: Grant) -> Result<Arc<Grant>, String> {
        let text = grant.write()?;
        let grant = Arc::new(grant);
        // In memory first: where it cannot be kept it still serves until the restart.
        self.grant.store(Some(Arc::clone(&grant)));
        if let Err(reason) = self.parts.tokens.save(&self.parts.server, text).await {
            let server = &self.parts.server;
            tracing::error!(server.name = %server, "the tokens of server `{server}` cannot be kept, and will be lost at a restart: {reason}");
        }
        Ok(grant)
    }

    /// Gets another grant in the place of `old`, once however many ask.
    ///
    /// It runs to its end whoever stops waiting: where refresh tokens are used once, an answer that nobody read
    /// would be the loss of the grant.
    async fn renew(&self, old: Option<Arc<Grant>>) -> Result<Arc<Grant>, Denied> {
        let (sender, done) = oneshot::channel();
        let this = self.clone();
        self.parts.tasks.spawn("mcp.oauth.renew", async move {
            let renewal = tokio::time::timeout(RENEWAL_TIMEOUT, this.renew_once(old.as_deref()));
            let late = || perhaps("its authorization server does not answer");
            // Who asked may be gone.
            let _gone = sender.send(renewal.await.unwrap_or_else(|_| Err(late())));
        });
        done.await.unwrap_or_else(|_| Err(perhaps("the renewal of its token broke off")))
    }

    async fn renew_once(&self, old: Option<&Grant>) -> Result<Arc<Grant>, Denied> {
        let one = self.parts.shared.renewing.acquire().await;
        let _one = one.map_err(|_| perhaps("the gateway is ending"))?;
        let kept = self.reload().await.map_err(Denied::Perhaps)?;
        let other = kept.as_ref().filter(|it| old.is_none_or(|old| !it.is_same(old)));
        if let Some(other) = other.filter(|it| !self.is_due(it)) {
            return Ok(Arc::clone(other));
        }
        self.renew_now(old.or(kept.as_deref())).await
    }

    async fn renew_now(&self, old: Option<&Grant>) -> Result<Arc<Grant>, Denied> {
        if let Some(old) = old
            && old.refresh_token.is_some()
        {
            match token::refresh(&self.parts, &self.fetcher, old).await {
                Ok(grant) => return self.keep(grant).await.map_err(Denied::Perhaps),
                Err(token::Refused::Definitely(_))
                    if self.parts.settings.grant == GrantKind::ClientCredentials => {}
                Err(token::Refused::Definitely(code)) => {
                    return Err(self.refused_for_good(&code).await);
                }
                Err(token::Refused::Perhaps(reason)) => return Err(Denied::Perhaps(reason)),
            }
        }
        match self.parts.settings.grant {
            GrantKind::ClientCredentials => {
                let challenge = self.challenge.lock().clone();
                let (parts, fetcher) = (&self.parts, &self.fetcher);
                let grant = match old {
                    Some(old) => token::again(parts, fetcher, &challenge, old).await?,
                    None => token::client_credentials(parts, fetcher, &challenge).await?,
                };
                self.keep(grant).await.map_err(Denied::Perhaps)
            }
            GrantKind::AuthorizationCode => Err(Denied::Definitely(self.how())),
        }
    }

    /// The grant is forgotten only where it is gone: with another client secret, say, it may still be renewed.
    async fn refused_for_good(&self, code: &str) -> Denied {
        let told = format!("its authorization server refuses to renew the token (`{code}`)");
        if code != token::GRANT_IS_GONE {
            return Denied::Definitely(format!("{told}; check `auth`, then reconnect it"));
        }
        self.grant.store(None);
        match self.parts.tokens.forget(&self.parts.server).await {
            Ok(()) => Denied::Definitely(format!("{told}; {}", self.how())),
            Err(reason) => Denied::Perhaps(reason),
        }
    }

    fn how(&self) -> String {
        format!("a person must authorise it: POST /api/mcp-servers/{}/authorize", self.parts.server)
    }

    fn is_due(&self, grant: &Grant) -> bool {
        grant.due_at(MARGIN).is_some_and(|it| it <= self.parts.clock.now())
    }
}

#[async_trait]
impl Credentials for OAuth {
    async fn authorization(&self) -> Result<HeaderValue, Denied> {
        let grant = match self.current().await.map_err(Denied::Perhaps)? {
            Some(grant) if !self.is_due(&grant) => grant,
            Some(grant) => match self.renew(Some(Arc::clone(&grant))).await {
                Ok(renewed) => renewed,
                // Early, so there is time: what we have still holds.
                Err(Denied::Definitely(reason) | Denied::Perhaps(reason))
                    if !grant.is_expired(self.parts.clock.now()) && self.grant.load().is_some() =>
                {
                    let server = &self.parts.server;
                    tracing::warn!(server.name = %server, "the token of server `{server}` is not renewed yet: {reason}");
                    grant
                }
                Err(reason) => return Err(reason),
            },
            None => self.renew(None).await?,
        };
        grant.header().map_err(Denied::Definitely)
    }

    async fn refused(&self, used: &HeaderValue, challenge: Option<&str>) -> Result<(), Denied> {
        let challenge = challenge.map(Challenge::parse).unwrap_or_default();
        let wants_scope =
            challenge.is_insufficient_scope().then(|| challenge.scope.clone()).flatten();
        *self.challenge.lock() = challenge;
        let Some(current) = self.current().await.map_err(Denied::Perhaps)? else {
            return Err(Denied::Definitely(self.how()));
        };
        if current.header().map_err(Denied::Definitely)? != *used {
            return Ok(());
        }
        if let (Some(scope), GrantKind::AuthorizationCode) =
            (&wants_scope, self.parts.settings.grant)
        {
            let scope: String = scope.chars().take(200).collect();
            let text = format!("it wants more rights (scope `{scope}`); {}", self.how());
            return Err(Denied::Definitely(text));
        }
        self.renew(Some(current)).await.map(drop)
    }
}

fn perhaps(reason: &str) -> Denied {
    Denied::Perhaps(reason.to_owned())
}

/// `now` and so many seconds.
fn after(now: UnixMillis, seconds: u64) -> UnixMillis {
    UnixMillis(now.0.saturating_add(seconds.saturating_mul(1000)))
}

/// A secret of the settings.
async fn client_secret(parts: &Parts) -> Result<Option<SecretString>, String> {
    match &parts.settings.client_secret {
        None => Ok(None),
        Some(secret) => {
            let place = Place {
                kind: Kind::McpServer,
                name: parts.server.as_str(),
                field: "auth/client_secret",
            };
            let value = parts.secrets.resolve(secret, &place).await;
            value.map(Some).map_err(|it| format!("`auth.client_secret`: {it}"))
        }
    }
}

#[cfg(test)]
mod tests;
