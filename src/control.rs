//! The law on this node: commands to the replicated state, and views of it.

pub mod compile;
mod propose;
mod replica;
pub mod view;

pub use self::propose::{Control, Error, Options, StartError};
pub use self::replica::{Committed, Follower};
