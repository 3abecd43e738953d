//! Embeddings: texts to vectors.

use crate::usage::Usage;

/// A request for vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The model as the target spells it.
    pub model: String,
    /// What to embed.
    pub inputs: Vec<Input>,
    /// The length of the vectors.
    pub dimensions: Option<u64>,
    /// Whether the caller wants base64 of little-endian `f32` (OpenAI SDKs do) rather than numbers.
    pub base64: bool,
    /// What the vectors are for (Gemini's `taskType`).
    pub task: Option<String>,
    /// Whether the caller asked in the form for one input, whose reply has another shape (Gemini's `embedContent`).
    pub single: bool,
    /// A title (Gemini).
    pub title: Option<String>,
    /// The end user, as the caller names them.
    pub user: Option<String>,
}

/// One thing to embed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A text.
    Text(String),
    /// Tokens of the model's own tokenizer.
    Tokens(Vec<u64>),
}

/// Vectors, in the order of the inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The model that answered.
    pub model: String,
    /// One vector an input.
    pub vectors: Vec<Vec<f32>>,
    /// What it used.
    pub usage: Usage,
}
