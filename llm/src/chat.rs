//! The gateway's own form of a chat: what any dialect can say, for translation between two of them.
//!
//! Requests and replies that stay within one dialect never take this form; their bytes pass.

use serde_json::{Map, Value};

pub use crate::usage::Usage;

/// A request for a reply.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// The model as the target spells it.
    pub model: String,
    /// Instructions that stand before the conversation.
    pub system: Vec<Block>,
    /// The conversation, oldest first.
    pub messages: Vec<Message>,
    /// Functions that the model may call.
    pub tools: Vec<Tool>,
    /// Which of them it must or may call.
    pub tool_choice: Option<ToolChoice>,
    /// Whether it may call several at once.
    pub parallel_tool_calls: Option<bool>,
    /// The most output tokens.
    pub max_tokens: Option<u64>,
    /// Sampling temperature, as written.
    pub temperature: Option<serde_json::Number>,
    /// Nucleus sampling, as written.
    pub top_p: Option<serde_json::Number>,
    /// Top-k sampling.
    pub top_k: Option<u64>,
    /// Penalty on tokens by presence.
    pub presence_penalty: Option<serde_json::Number>,
    /// Penalty on tokens by frequency.
    pub frequency_penalty: Option<serde_json::Number>,
    /// Sampling seed.
    pub seed: Option<i64>,
    /// Texts that end the reply.
    pub stop: Vec<String>,
    /// How many replies.
    pub n: Option<u64>,
    /// How hard to think.
    pub reasoning: Option<Reasoning>,
    /// The shape the reply must have.
    pub format: Option<Format>,
    /// Whether token log-probabilities are asked for, and how many.
    pub logprobs: Option<u64>,
    /// The end user, as the caller names them.
    pub user: Option<String>,
    /// The caller's labels.
    pub metadata: Option<Value>,
    /// Whether the reply is to be streamed.
    pub stream: bool,
    /// Whether the stream is to end with usage (OpenAI's `stream_options.include_usage`).
    pub stream_usage: bool,
    /// The most output tokens that the target's model can make, where the catalogue knows. For dialects that
    /// demand a bound (Anthropic), when the caller gave none.
    pub output_cap: Option<u64>,
    /// Functions among `tools` that stand for something else in the caller's dialect. The reply needs them too.
    pub aliases: Vec<Alias>,
    /// The caller's dialect: whose `extra` and file ids these are, and in whose words lost fields are named.
    /// Empty where the gateway made the request itself.
    pub dialect: &'static str,
    /// Top-level fields of the caller's dialect that this form has no place for, as written.
    /// A target of the same dialect takes them back; another reports them dropped.
    pub extra: Map<String, Value>,
}

/// A function that stands for what only the caller's dialect has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// The function, as the model sees it.
    pub function: String,
    /// What the caller calls.
    pub tool: Aliased,
}

/// What a function can stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Aliased {
    /// Responses' custom tool, which takes a text: the function's argument `input`.
    Custom {
        /// Its name.
        name: String,
    },
    /// A function of OpenAI's first form (`functions`): its call is the message's `function_call`, without an id.
    Legacy,
    /// A function in a namespace of Responses'.
    Namespaced {
        /// The namespace.
        namespace: String,
        /// The function's name in it.
        name: String,
    },
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The caller's side: the user, and tool results.
    User,
    /// The model.
    Assistant,
    /// Instructions in the middle of a conversation.
    System,
}

/// One turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said, in order. Tool results are blocks of a user turn.
    pub content: Vec<Block>,
    /// The speaker's name, where the dialect has one.
    pub name: Option<String>,
}

/// A piece of a turn.
#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    /// Text.
    Text {
        /// The text.
        text: String,
        /// A cache break point, as written (Anthropic's `cache_control`).
        cache: Option<Value>,
        /// Citations or annotations, as written.
        citations: Option<Value>,
    },
    /// An image.
    Image {
        /// Where it is.
        source: Source,
        /// OpenAI's `detail`.
        detail: Option<String>,
        /// A cache break point, as written.
        cache: Option<Value>,
    },
    /// A document, such as a PDF.
    Document {
        /// Where it is.
        source: Source,
        /// Its title or file name.
        title: Option<String>,
        /// A cache break point, as written.
        cache: Option<Value>,
    },
    /// Sound.
    Audio {
        /// Where it is.
        source: Source,
    },
    /// The model asks for a call.
    ToolUse {
        /// The call's id. Made by us where the dialect has none.
        id: String,
        /// The function's name.
        name: String,
        /// The arguments, as JSON text.
        arguments: String,
        /// An opaque token that must come back with the call (Gemini's thought signature), marked ([`crate::seal`]).
        signature: Option<String>,
        /// A cache break point, as written.
        cache: Option<Value>,
    },
    /// The answer to a call.
    ToolResult {
        /// The id of the call.
        id: String,
        /// The function's name, where the dialect says it; Gemini needs it, so decoders fill it from the call.
        name: Option<String>,
        /// What came out.
        content: Vec<Block>,
        /// Whether the call failed.
        is_error: bool,
        /// A cache break point, as written.
        cache: Option<Value>,
    },
    /// The model's reasoning.
    Thinking {
        /// As text. Empty where the vendor withholds it.
        text: String,
        /// The vendor's seal on it, which must come back unaltered, marked with whose it is ([`crate::seal`]).
        signature: Option<String>,
        /// The reasoning item's id (Responses).
        id: Option<String>,
    },
    /// Reasoning that only the vendor can read (Anthropic `redacted_thinking`, Responses `encrypted_content`).
    RedactedThinking {
        /// As the vendor sent it, marked with whose it is ([`crate::seal`]).
        data: String,
        /// The reasoning item's id (Responses).
        id: Option<String>,
    },
    /// The model declines.
    Refusal {
        /// In these words.
        text: String,
    },
    /// Something only one dialect knows, such as a server tool's call: passed back to that dialect, dropped for others.
    Opaque {
        /// Whose.
        dialect: &'static str,
        /// As written.
        value: Value,
    },
}

impl Block {
    /// A plain text block.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into(), cache: None, citations: None }
    }
}

/// Where an image, document or sound is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Here, as base64.
    Base64 {
        /// Its media type, such as `image/png`.
        media_type: String,
        /// The bytes, as base64 text.
        data: String,
    },
    /// At an address.
    Url {
        /// The address.
        url: String,
        /// Its media type, where known.
        media_type: Option<String>,
    },
    /// In the vendor's file store.
    File {
        /// Its id there.
        id: String,
    },
    /// Plain text (Anthropic's text documents).
    Text {
        /// The text.
        text: String,
    },
}

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    pub parameters: Option<Value>,
    /// Whether arguments must fit the schema exactly.
    pub strict: Option<bool>,
    /// A cache break point, as written.
    pub cache: Option<Value>,
    /// A tool only one dialect knows (web search, code interpreter): dialect and definition as written, `null` where
    /// another tool's definition holds this one's. Other dialects take it as a function where it has `parameters`, else
    /// not at all.
    pub opaque: Option<(&'static str, Value)>,
}

/// Which tools the model must or may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    /// As it likes.
    Auto,
    /// None.
    None,
    /// At least one.
    Any,
    /// This one.
    Named(String),
}

/// How hard to think.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reasoning {
    /// `none`, `minimal`, `low`, `medium`, `high`, `xhigh` or what the vendor calls it.
    pub effort: Option<String>,
    /// A bound in tokens.
    pub budget_tokens: Option<u64>,
    /// Whether reasoning is to be shown, and how (`auto`, `concise`, `detailed`).
    pub summary: Option<String>,
    /// The vendor decides how much (Anthropic `adaptive`, Gemini's dynamic budget).
    pub adaptive: bool,
}

/// The shape a reply must have.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    /// Any JSON object.
    JsonObject,
    /// JSON that fits a schema.
    JsonSchema {
        /// The schema's name.
        name: String,
        /// What it is.
        description: Option<String>,
        /// The schema.
        schema: Value,
        /// Whether it must fit exactly.
        strict: Option<bool>,
    },
}

/// A whole reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The vendor's id of it.
    pub id: String,
    /// The model that answered, as the vendor spells it.
    pub model: String,
    /// When, in seconds of Unix time, where the vendor says so.
    pub created: Option<u64>,
    /// The alternatives; one, unless more were asked for.
    pub choices: Vec<Choice>,
    /// What it used.
    pub usage: Usage,
}

/// One alternative of a reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Its place.
    pub index: u32,
    /// What the model said.
    pub content: Vec<Block>,
    /// Why it ended.
    pub stop: Stop,
    /// Token log-probabilities, as written.
    pub logprobs: Option<Value>,
}

/// Why a reply ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// It was done.
    End,
    /// The maximum of output tokens was reached.
    Length,
    /// It wants tools called.
    ToolUse,
    /// One of the stop texts came.
    Sequence(Option<String>),
    /// The model declined.
    Refusal,
    /// A vendor's filter cut it.
    ContentFilter,
    /// The vendor paused a long turn; send it back to go on.
    Pause,
    /// Something else, in the vendor's word.
    Other(String),
}

/// One thing a vendor told us while streaming. Blocks are numbered within their choice and open one at a time
/// per choice, except tool calls, which may interleave.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The reply begins.
    Start {
        /// The vendor's id of it.
        id: String,
        /// The model that answers.
        model: String,
    },
    /// A block begins. Text, thinking, refusal: with empty text; a tool call: with its id, name and empty arguments;
    /// anything else: whole.
    BlockStart {
        /// The alternative.
        choice: u32,
        /// The block's number.
        index: u32,
        /// What begins.
        block: Block,
    },
    /// More of a text, thinking or refusal block.
    Text {
        /// The alternative.
        choice: u32,
        /// The block's number.
        index: u32,
        /// The text.
        text: String,
    },
    /// More of a call's arguments, as JSON text.
    Arguments {
        /// The alternative.
        choice: u32,
        /// The block's number.
        index: u32,
        /// The piece.
        json: String,
    },
    /// The seal of a thinking block or call.
    Signature {
        /// The alternative.
        choice: u32,
        /// The block's number.
        index: u32,
        /// The seal, marked with whose it is.
        signature: String,
    },
    /// A citation or annotation on a text block, as written.
    Citation {
        /// The alternative.
        choice: u32,
        /// The block's number.
        index: u32,
        /// As written.
        value: Value,
    },
    /// A block is whole.
    BlockStop {
        /// The alternative.
        choice: u32,
        /// The block's number.
        index: u32,
    },
    /// An alternative is whole.
    Stop {
        /// The alternative.
        choice: u32,
        /// Why it ended.
        stop: Stop,
    },
    /// What was used so far. The last one counts.
    Usage(Usage),
    /// The vendor failed in the middle.
    Error {
        /// The vendor's word for the kind of failure.
        kind: String,
        /// The vendor's sentence.
        message: String,
    },
    /// The reply is whole.
    Done,
}
