//! What a call used, in tokens.

pub(crate) mod wire;

/// Tokens of one call. `input` is all of the input, cached parts included; `output` is all of the output, reasoning included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Input tokens, cached and cache-written ones included.
    pub input: u64,
    /// Of `input`: read from the vendor's cache.
    pub cached_input: u64,
    /// Of `input`: written to the vendor's cache.
    pub cache_write: u64,
    /// Output tokens, reasoning included.
    pub output: u64,
    /// Of `output`: reasoning.
    pub reasoning: u64,
}
