//! The law on this node: commands to the replicated state, and views of it.

mod propose;
mod replica;

pub use self::propose::{Control, Error, Options, StartError};
pub use self::replica::Committed;
pub mod compile;
pub mod view;
