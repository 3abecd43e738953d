//! Who calls: a credential to a caller.
