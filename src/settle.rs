//! What a call cost, and the record of it.
