//! Every dialect to every other: what is said in one arrives in the other, and what is lost is named.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::chat::{Block, Format, Reply, Request, Role, Source};
use crate::dialect::{self, Dialect};

mod tests;

/// One dialect's vendor, with the same conversation as all others have.
pub(crate) struct Vendor {
    pub(crate) name: &'static str,
    /// A model that can do all that is asked of it.
    pub(crate) model: &'static str,
    pub(crate) request: &'static str,
    pub(crate) reply: &'static str,
    pub(crate) stream: &'static str,
    /// Seals in the reply.
    pub(crate) seals: &'static [&'static str],
}

impl Vendor {
    pub(crate) fn dialect(&self) -> &'static dyn Dialect {
        *dialect::ALL.iter().find(|dialect| dialect.name() == self.name).unwrap()
    }

    /// Reads a request as this vendor would.
    pub(crate) fn read(&self, body: &[u8]) -> Request {
        self.dialect().decode_request(body, Some(self.model), false).unwrap()
    }
}

macro_rules! testdata {
    ($name:literal) => {
        include_str!(concat!("../testdata/matrix/", $name))
    };
}

/// All of them.
pub(crate) static VENDORS: &[Vendor] = &[
    Vendor {
        name: "openai",
        model: "gpt-5.1",
        request: testdata!("openai.request.json"),
        reply: testdata!("openai.reply.json"),
        stream: testdata!("openai.stream.sse"),
        seals: &[],
    },
    Vendor {
        name: "openai_responses",
        model: "gpt-5.1",
        request: testdata!("openai_responses.request.json"),
        reply: testdata!("openai_responses.reply.json"),
        stream: testdata!("openai_responses.stream.sse"),
        seals: &["UkVTUE9OU0VTU0VBTA=="],
    },
    Vendor {
        name: "anthropic",
        model: "claude-sonnet-4-6",
        request: testdata!("anthropic.request.json"),
        reply: testdata!("anthropic.reply.json"),
        stream: testdata!("anthropic.stream.sse"),
        seals: &["QU5USFJPUElDU0VBTA==", "UkVEQUNURUQ="],
    },
    Vendor {
        name: "gemini",
        model: "gemini-3-pro",
        request: testdata!("gemini.request.json"),
        reply: testdata!("gemini.reply.json"),
        stream: testdata!("gemini.stream.sse"),
        seals: &["R0VNSU5JU0VBTA=="],
    },
];

/// Every ordered pair, those of one with itself included.
pub(crate) fn pairs() -> impl Iterator<Item = (&'static Vendor, &'static Vendor)> {
    VENDORS.iter().flat_map(|from| VENDORS.iter().map(move |to| (from, to)))
}

/// What a block says, in one line. Reasoning is apart.
fn line(block: &Block) -> Option<String> {
    Some(match block {
        Block::Text { text, .. } => format!("text {text}"),
        Block::Refusal { text } => format!("refusal {text}"),
        Block::Image { source: Source::Base64 { media_type, data }, .. } => {
            format!("image {media_type} {data}")
        }
        Block::ToolUse { id, name, arguments, .. } => {
            format!("call {id} {name} {}", serde_json::from_str::<Value>(arguments).unwrap())
        }
        Block::ToolResult { id, name, content, is_error, .. } => {
            let content: Vec<_> = content.iter().filter_map(line).collect();
            format!("result {id} {} {is_error} {content:?}", name.as_deref().unwrap_or_default())
        }
        Block::Thinking { .. } | Block::RedactedThinking { .. } => return None,
        other => format!("{other:?}"),
    })
}

/// What a request asks, without the marks of any dialect.
pub(crate) fn gist(request: &Request) -> Value {
    let mut turns: Vec<(String, Vec<String>)> = Vec::new();
    for message in &request.messages {
        let role = format!("{:?}", message.role);
        assert_ne!(message.role, Role::System);
        let lines = message.content.iter().filter_map(line);
        match turns.last_mut() {
            Some((last, said)) if *last == role => said.extend(lines),
            _ => turns.push((role, lines.collect())),
        }
    }
    let tools: Vec<Value> = request
        .tools
        .iter()
        .filter(|tool| tool.opaque.is_none())
        .map(|tool| json!([tool.name, tool.description, tool.parameters]))
        .collect();
    let schema = request.format.as_ref().map(|format| match format {
        Format::JsonSchema { schema, .. } => schema.clone(),
        Format::JsonObject => json!("object"),
    });
    json!({
        "system": request.system.iter().filter_map(line).collect::<Vec<_>>(),
        "turns": turns,
        "tools": tools,
        "choice": format!("{:?}", request.tool_choice),
        "format": schema,
        "max_tokens": request.max_tokens,
        "thinks": request.reasoning.is_some(),
    })
}

/// What a reply says, without the marks of any dialect. Reasoning and words are joined, since some dialects keep them
/// in fields of their own.
pub(crate) fn said(reply: &Reply) -> Value {
    let [choice] = &reply.choices[..] else { panic!("{} choices", reply.choices.len()) };
    let mut by_kind: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for block in &choice.content {
        let (kind, words) = match block {
            Block::Thinking { text, .. } if text.is_empty() => continue,
            Block::Thinking { text, .. } => ("thinking", text.clone()),
            Block::RedactedThinking { .. } => continue,
            Block::ToolUse { .. } => ("calls", line(block).unwrap()),
            other => ("words", line(other).unwrap()),
        };
        by_kind.entry(kind).or_default().push(words);
    }
    let usage = reply.usage;
    json!({
        "said": by_kind,
        "stop": format!("{:?}", choice.stop),
        "usage": [usage.input, usage.cached_input, usage.cache_write, usage.output, usage.reasoning],
    })
}
