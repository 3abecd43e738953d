//! [`Law`] on the node's [`Control`].

use std::sync::Arc;
use std::time::Duration;

use althing_domain::command::{Command, Op};
use althing_domain::digest::Digest;
use althing_domain::state::State;
use althing_storage::seal::{self, DataKey};
use async_trait::async_trait;
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::ports::{Law, Outcome};
use crate::control::Control;
use crate::error::{Code, Error};

/// What secrets of policy are bound to: no other sealed value of the cluster passes for one.
const POLICY_SECRET_AAD: &[u8] = b"althing policy secret 1";

/// Opens the secret behind `sealed:` in a policy object.
#[must_use]
pub fn open_secret(key: &DataKey, sealed: &str) -> Option<SecretString> {
    let opened = key.open(sealed, POLICY_SECRET_AAD).ok()?;
    std::str::from_utf8(&opened).ok().map(SecretString::from)
}

#[async_trait]
impl Law for Control {
    fn state(&self) -> Arc<State> {
        Self::state(self)
    }

    async fn propose(&self, request_id: u128, who: &str, op: Op) -> Result<Outcome, Error> {
        let command = Command { request_id, who: who.to_owned(), op };
        let done = Self::propose(self, &command).await?;
        Ok(Outcome { index: done.index, reply: done.reply })
    }

    async fn reaches(&self, index: u64, within: Duration) -> bool {
        let mut applied = self.changes();
        let reached = applied.wait_for(|it| index <= *it);
        matches!(tokio::time::timeout(within, reached).await, Ok(Ok(_)))
    }

    fn hash(&self, shown: &[u8]) -> Digest {
        Digest(self.data_key().hasher().hash(shown))
    }

    fn seal(&self, value: &str) -> Result<String, Error> {
        self.data_key().seal(value.as_bytes(), POLICY_SECRET_AAD).map_err(|error| failed(&error))
    }

    fn open(&self, sealed: &str) -> Option<SecretString> {
        open_secret(self.data_key(), sealed)
    }

    fn create_token(&self, prefix: &str) -> Result<Zeroizing<String>, Error> {
        seal::create_token(prefix).map_err(|error| failed(&error))
    }
}

fn failed(error: &seal::Error) -> Error {
    tracing::error!(error = %error, "sealing failed");
    Error::of(Code::Internal)
}
