//! Answering other nodes.

use althing_storage::migrate;
use bytes::Bytes;

use super::{AnswerError, Cluster};
use crate::raft::dto;
use crate::raft::snapshot::SnapshotFile;
use crate::raft::types::Snapshot;
use crate::state_machine::StateMachine;
use crate::transport::{Kind, Request};

impl<S: StateMachine> Cluster<S> {
    /// Answers a request that a transport received. It must have made sure that a member of this very cluster sent it.
    ///
    /// # Errors
    ///
    /// [`AnswerError`]; the other node will ask again.
    pub async fn answer(&self, request: Request) -> Result<Bytes, AnswerError> {
        let stopped = |e: &dyn std::fmt::Display| AnswerError::Stopped(e.to_string().into());
        let raft = self.node.raft().map_err(|e| stopped(&e))?;
        let answer = match request.kind {
            Kind::Append => {
                let question = migrate::read::<dto::Append>(&request.head)?.try_into()?;
                let answer = raft.append_entries(question).await.map_err(|e| stopped(&e))?;
                dto::write(&dto::Appended::from(answer))?
            }
            Kind::Vote => {
                let question = migrate::read::<dto::AskVote>(&request.head)?.into();
                let answer = raft.vote(question).await.map_err(|e| stopped(&e))?;
                dto::write(&dto::Voted::from(answer))?
            }
            Kind::PreVote => {
                let question = migrate::read::<dto::AskVote>(&request.head)?.into();
                let answer = raft.pre_vote(question).await.map_err(|e| stopped(&e))?;
                dto::write(&dto::Voted::from(answer))?
            }
            Kind::Snapshot => {
                let vote = migrate::read::<dto::Vote>(&request.head)?.into();
                let file = request.file.ok_or(AnswerError::NoFile)?;
                let store = self.node.shared.store().clone();
                let imported = tokio::task::spawn_blocking(move || store.import(&file)).await;
                let imported = imported.map_err(|e| stopped(&e))??;
                let (meta, snapshot) = SnapshotFile::new(imported).with_meta()?;
                let installed = raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await;
                dto::write(&dto::Vote::from(installed.map_err(|e| stopped(&e))?.vote))?
            }
        };
        Ok(answer)
    }
}
