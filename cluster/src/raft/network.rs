//! openraft's network over the port to other nodes.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use althing_storage::{codec, migrate};
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::dto;
use super::snapshot::SnapshotFile;
use super::types::{Peer, Snapshot, Types, Vote};
use crate::transport::{Kind, PeerTransport, Request, TransportError};

type Rpc<T> = Result<T, RPCError<Types>>;

/// Makes a client per peer.
pub(crate) struct Network {
    transport: Arc<dyn PeerTransport>,
}

impl Network {
    pub(crate) fn new(transport: Arc<dyn PeerTransport>) -> Self {
        Self { transport }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Client;

    async fn new_client(&mut self, id: u64, peer: &Peer) -> Client {
        Client { transport: self.transport.clone(), id, peer: peer.clone() }
    }
}

pub(crate) struct Client {
    transport: Arc<dyn PeerTransport>,
    id: u64,
    peer: Peer,
}

impl Client {
    async fn call<Q, A>(
        &self,
        kind: Kind,
        question: &Q,
        file: Option<PathBuf>,
        option: &RPCOption,
    ) -> Rpc<A>
    where
        Q: migrate::Versioned + Serialize,
        A: migrate::Versioned + DeserializeOwned,
    {
        let head = dto::write(question).map_err(garbled)?;
        let request = Request { kind, head, file };
        let answer = self.transport.call(self.id, &self.peer, request, option.soft_ttl()).await;
        match answer {
            Ok(bytes) => migrate::read(&bytes).map_err(garbled),
            // openraft backs off from a node that cannot be reached, and tries again soon after a lost message.
            Err(TransportError::Unreachable(reason)) => {
                Err(Unreachable::from_string(reason).into())
            }
            Err(TransportError::Lost(reason)) => Err(NetworkError::from_string(reason).into()),
        }
    }
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<Types>> {
        let answer: dto::Appended =
            self.call(Kind::Append, &dto::Append::from(request), None, &option).await?;
        Ok(answer.into())
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<Types>> {
        let answer: dto::Voted =
            self.call(Kind::Vote, &dto::AskVote::from(request), None, &option).await?;
        Ok(answer.into())
    }

    // The default of this one grants: without it pre-vote would silently do nothing.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<Types>> {
        let answer: dto::Voted =
            self.call(Kind::PreVote, &dto::AskVote::from(request), None, &option).await?;
        Ok(answer.into())
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let file = snapshot.snapshot.snapshot.path;
        let question = dto::Vote::from(vote);
        let sent = self.call::<_, dto::Vote>(Kind::Snapshot, &question, Some(file), &option);
        // A node that is removed must not keep its stream alive.
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = sent => Ok(SnapshotResponse::new(answer?.into())),
        }
    }
}

fn garbled(error: codec::Error) -> RPCError<Types> {
    NetworkError::new(&io::Error::new(io::ErrorKind::InvalidData, error)).into()
}
