//! The law, as other parts ask for it.

use std::sync::Arc;

use althing_domain::command::{Command, NodeAsks, Op, Reply};
use althing_domain::digest::Digest;
use althing_domain::id::Name;
use althing_domain::state::State;
use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::admit::ledger::{Answer, Batch, Finished, Ledger, LedgerError};
use crate::api::admin::ports::{Law, Outcome};
use crate::control::Control;
use crate::error::{Code, Error};
use crate::mcp::upstream::TokenStore;

/// What a sealed value of policy is bound to. Sealed values move with their object (a rename, an export), so the
/// object is not part of it.
const SECRET_AAD: &[u8] = b"althing/policy-secret/1";
const OAUTH_AAD: &[u8] = b"althing/oauth-grant/1";
/// Who writes what no person asked for.
const SELF: &str = "althing";

/// The law of this node.
#[derive(Clone)]
pub struct LawOf(pub Control);

/// Opens a sealed value of policy.
#[must_use]
pub fn open_secret(control: &Control, sealed: &str) -> Option<SecretString> {
    open(control, sealed, SECRET_AAD)
}

fn open(control: &Control, sealed: &str, aad: &[u8]) -> Option<SecretString> {
    let opened = control.data_key().open(sealed, aad).ok()?;
    Some(SecretString::from(std::str::from_utf8(&opened).ok()?))
}

#[async_trait]
impl Law for LawOf {
    fn state(&self) -> Arc<State> {
        self.0.state()
    }

    async fn propose(&self, request_id: u128, who: &str, op: Op) -> Result<Outcome, Error> {
        let command = Command { request_id, who: who.to_owned(), op };
        let committed = self.0.propose(&command).await.map_err(Error::from)?;
        Ok(Outcome { index: committed.index, reply: committed.reply })
    }

    fn hash(&self, shown: &[u8]) -> Digest {
        Digest(self.0.data_key().hasher().hash(shown))
    }

    fn seal(&self, value: &str) -> Result<String, Error> {
        self.0.data_key().seal(value.as_bytes(), SECRET_AAD).map_err(|_| Error::of(Code::Internal))
    }

    fn open(&self, sealed: &str) -> Option<SecretString> {
        open_secret(&self.0, sealed)
    }

    fn create_token(&self, prefix: &str) -> Result<Zeroizing<String>, Error> {
        althing_storage::seal::create_token(prefix).map_err(|_| Error::of(Code::Internal))
    }
}

/// The money ledger, which is part of the law.
pub struct LawLedger(pub Control);

impl LawLedger {
    async fn propose(&self, op: Op) -> Result<Reply, LedgerError> {
        let command = Command { request_id: rand::random(), who: SELF.to_owned(), op };
        match self.0.propose(&command).await {
            Ok(committed) => Ok(committed.reply),
            Err(error) => Err(LedgerError::from(Error::from(error))),
        }
    }

    fn node(&self) -> u64 {
        self.0.identity().node_id
    }
}

#[async_trait]
impl Ledger for LawLedger {
    async fn batch(&self, batch: Batch) -> Result<Answer, LedgerError> {
        let asks = NodeAsks { node: self.node(), incarnation: batch.incarnation, asks: batch.asks };
        match self.propose(Op::LeaseBatch(vec![asks])).await? {
            Reply::Leases(mut all) if !all.is_empty() => {
                let grants = all.swap_remove(0);
                Ok(Answer { grants: grants.grants, unknown: grants.unknown, stale: grants.stale })
            }
            _ => Err(LedgerError::from(Error::of(Code::Internal))),
        }
    }

    async fn finish(&self, finished: Vec<Finished>) -> Result<(), LedgerError> {
        let mut lives: std::collections::BTreeMap<u64, Vec<_>> = std::collections::BTreeMap::new();
        for it in finished {
            let lease = althing_domain::command::FinalLease { budget: it.budget, epoch: it.epoch, used: it.used };
            lives.entry(it.incarnation).or_default().push(lease);
        }
        for (incarnation, leases) in lives {
            self.propose(Op::Final { node: self.node(), incarnation, leases }).await?;
        }
        Ok(())
    }
}

/// OAuth grants of MCP servers, sealed into the law.
pub struct LawTokens(pub Control);

impl LawTokens {
    async fn propose(&self, op: Op) -> Result<(), String> {
        let command = Command { request_id: rand::random(), who: SELF.to_owned(), op };
        match self.0.propose(&command).await {
            Ok(committed) => match committed.reply {
                Reply::Refused(refusal) => Err(refusal.to_string()),
                Reply::Written(_) | Reply::Leases(_) | Reply::Closed { .. } | Reply::Done => Ok(()),
            },
            Err(error) => Err(error.to_string()),
        }
    }
}

#[async_trait]
impl TokenStore for LawTokens {
    async fn load(&self, server: &Name) -> Result<Option<SecretString>, String> {
        let state = self.0.state();
        let Some(sealed) = state.oauth(server.as_str()) else { return Ok(None) };
        match open(&self.0, sealed, OAUTH_AAD) {
            Some(grant) => Ok(Some(grant)),
            None => Err("the stored grant does not open with this cluster's keys".to_owned()),
        }
    }

    async fn save(&self, server: &Name, grant: SecretString) -> Result<(), String> {
        let sealed = self.0.data_key().seal(grant.expose_secret().as_bytes(), OAUTH_AAD);
        let sealed = sealed.map_err(|_| "the grant cannot be sealed".to_owned())?;
        self.propose(Op::PutOauth { server: server.clone(), sealed }).await
    }

    async fn forget(&self, server: &Name) -> Result<(), String> {
        self.propose(Op::DeleteOauth { server: server.clone() }).await
    }
}
