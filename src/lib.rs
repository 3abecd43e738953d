//! Althing.
