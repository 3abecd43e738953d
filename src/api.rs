//! Every route, in one table.
