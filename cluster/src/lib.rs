//! Nodes that agree.
//!
//! A [`Cluster`] takes commands, puts them into one order that every node shares, and applies them to a [`StateMachine`]. What a command means is
//! none of its business. A command is acknowledged when it is on the disks of a majority and applied on the node that was asked;
//! a node alone is a majority of one, and the same code.

mod node;
mod raft;
mod state_machine;
#[cfg(test)]
mod testing;
mod transport;

pub use self::node::{
    AnswerError, COMMAND_BYTES_MAX, Cluster, Failure, Parts, ProposeError, ReadError, Settings,
    StartError, Status, Store,
};
pub use self::raft::types::Peer;
pub use self::state_machine::{Applied, At, Frozen, RestoreError, StateMachine, Unknown};
pub use self::transport::{Alone, Kind, PeerTransport, Request, TransportError};
