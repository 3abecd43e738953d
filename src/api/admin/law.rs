//! [`Law`] on the node's [`Control`].

use std::sync::Arc;
use std::time::Duration;

use althing_domain::command::{Command, Op};
use althing_domain::digest::Digest;
use althing_domain::state::State;
use althing_storage::seal;
use async_trait::async_trait;
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::ports::{Law, Outcome};
use crate::control::Control;
use crate::error::{Code, Error};
use crate::secret::Place;

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

    fn seal(&self, value: &str, place: &Place<'_>) -> Result<String, Error> {
        place.seal(self.data_key(), value).map_err(|error| failed(&error))
    }

    fn open(&self, sealed: &str, place: &Place<'_>) -> Option<SecretString> {
        place.open(self.data_key(), sealed)
    }

    fn create_token(&self, prefix: &str) -> Result<Zeroizing<String>, Error> {
        seal::create_token(prefix).map_err(|error| failed(&error))
    }
}

fn failed(error: &seal::Error) -> Error {
    tracing::error!(error = %error, "sealing failed");
    Error::of(Code::Internal)
}
