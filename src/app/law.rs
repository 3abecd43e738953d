//! The law, as other parts ask for it.

use althing_domain::command::{Command, NodeAsks, Op, Reply};
use althing_domain::id::Name;
use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};

use crate::admit::ledger::{Answer, Batch, Finished, Ledger, LedgerError};
use crate::control::Control;
use crate::error::{Code, Error};
use crate::mcp::upstream::TokenStore;

const OAUTH_AAD: &[u8] = b"althing/oauth-grant/1";
/// Who writes what no person asked for.
const SELF: &str = "althing";

/// The money ledger, which is part of the law.
pub(super) struct LawLedger(pub(super) Control);

impl LawLedger {
    async fn propose(&self, op: Op) -> Result<Reply, LedgerError> {
        let command = Command { request_id: rand::random(), who: SELF.to_owned(), op };
        match self.0.propose(&command).await {
            Ok(committed) => Ok(committed.reply),
            Err(error) => {
                let error = Error::from(error);
                Err(if error.code == Code::NoQuorum {
                    LedgerError::NoQuorum
                } else {
                    LedgerError::Failed(error.to_string())
                })
            }
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
            other => Err(LedgerError::Failed(format!("{other:?}"))),
        }
    }

    async fn finish(&self, finished: Vec<Finished>) -> Result<(), LedgerError> {
        let mut lives: std::collections::BTreeMap<u64, Vec<_>> = std::collections::BTreeMap::new();
        for it in finished {
            let lease = althing_domain::command::FinalLease {
                budget: it.budget,
                epoch: it.epoch,
                used: it.used,
            };
            lives.entry(it.incarnation).or_default().push(lease);
        }
        for (incarnation, leases) in lives {
            self.propose(Op::Final { node: self.node(), incarnation, leases }).await?;
        }
        Ok(())
    }
}

/// OAuth grants of MCP servers, sealed into the law.
pub(super) struct LawTokens(pub(super) Control);

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
        match open(&self.0, sealed) {
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

fn open(control: &Control, sealed: &str) -> Option<SecretString> {
    let opened = control.data_key().open(sealed, OAUTH_AAD).ok()?;
    Some(SecretString::from(std::str::from_utf8(&opened).ok()?))
}
