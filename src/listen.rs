//! Sockets: bind, accept, drain.
