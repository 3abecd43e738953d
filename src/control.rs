//! The law on this node: commands to the replicated state, and views of it.
