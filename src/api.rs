//! Every route, in one table.

pub mod admin;
