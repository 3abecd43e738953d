//! From a reference to a secret, at the last moment.
