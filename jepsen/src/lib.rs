//! Fault injection and checkers against real processes. Empty until the cluster issue; it shares no code with what it tests.
