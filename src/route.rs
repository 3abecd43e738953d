//! From what a caller named to an ordered list of targets.
