//! The law, as other parts ask for it.

use althing_domain::command::{Command, Op, Reply};
use althing_domain::id::Name;
use althing_storage::seal::Place;
use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};

use crate::admit::ledger::LedgerError;
use crate::admit::ledger::law::LawLedger;
use crate::control::Control;
use crate::error::{Code, Error};
use crate::mcp::upstream::TokenStore;

/// What grants are sealed for, each for its server.
const PURPOSE: &str = "althing/oauth-grant/1";
/// Who writes what no person asked for.
const SELF: &str = "althing";

/// The money ledger, which is part of the law.
pub(super) fn ledger(control: &Control) -> LawLedger {
    let node = control.identity().node_id;
    let control = control.clone();
    LawLedger::new(
        node,
        Box::new(move |op| {
            let control = control.clone();
            Box::pin(async move {
                let command = Command { request_id: rand::random(), who: SELF.to_owned(), op };
                match control.propose(&command).await {
                    Ok(committed) => Ok(committed.reply),
                    Err(error) => {
                        let error = Error::from(error);
                        Err(match error.code {
                            Code::NoQuorum => LedgerError::NoQuorum,
                            Code::StorageFull => LedgerError::Unwritable,
                            _ => LedgerError::Failed(error.to_string()),
                        })
                    }
                }
            })
        }),
    )
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
        match open(&self.0, server, sealed) {
            Some(grant) => Ok(Some(grant)),
            None => Err("the stored grant does not open with this cluster's keys".to_owned()),
        }
    }

    async fn save(&self, server: &Name, grant: SecretString) -> Result<(), String> {
        let place = Place { purpose: PURPOSE, parts: &[server.as_str()] };
        let sealed = self.0.data_key().seal(grant.expose_secret().as_bytes(), &place);
        let sealed = sealed.map_err(|_| "the grant cannot be sealed".to_owned())?;
        self.propose(Op::PutOauth { server: server.clone(), sealed }).await
    }

    async fn forget(&self, server: &Name) -> Result<(), String> {
        self.propose(Op::DeleteOauth { server: server.clone() }).await
    }
}

fn open(control: &Control, server: &Name, sealed: &str) -> Option<SecretString> {
    let place = Place { purpose: PURPOSE, parts: &[server.as_str()] };
    let opened = control.data_key().open(sealed, &place).ok()?;
    Some(SecretString::from(std::str::from_utf8(&opened).ok()?))
}
