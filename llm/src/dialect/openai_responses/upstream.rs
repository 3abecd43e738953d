//! A request for an upstream, written.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::{NAME, alias, part};
use crate::chat::{Block, Format, Message, Request, Role, Tool, ToolChoice};
use crate::dialect::openai::{effort, insert, schema_words};
use crate::dialect::{Error, WireRequest};
use crate::json;
use crate::lost::Lost;
use crate::seal;

/// What chat completions have under the same name at their top level.
const SHARED_WITH_CHAT: &[&str] =
    &["prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier", "store"];

/// Writes a request.
pub(super) fn encode(request: &Request) -> Result<WireRequest, Error> {
    let mut writer = Writer {
        request,
        lost: Lost::of(request.dialect),
        input: Vec::new(),
        customs: HashSet::new(),
    };
    let mut body = Map::new();
    body.insert("model".to_owned(), json!(request.model));
    if !request.system.is_empty() {
        body.insert("instructions".to_owned(), writer.instructions(&request.system));
    }
    for (at, message) in request.messages.iter().enumerate() {
        writer.message(message, &format!("messages[{at}].content"))?;
    }
    body.insert("input".to_owned(), Value::Array(std::mem::take(&mut writer.input)));
    writer.tools(&mut body);
    writer.options(&mut body);
    writer.rest(&mut body);
    Ok(WireRequest {
        path: "/responses".to_owned(),
        body: json::write(&Value::Object(body)),
        headers: Vec::new(),
        dropped: writer.lost.into_names(),
    })
}

struct Writer<'r> {
    request: &'r Request,
    lost: Lost,
    input: Vec<Value>,
    /// The ids of calls to custom tools.
    customs: HashSet<&'r str>,
}

impl<'r> Writer<'r> {
    fn instructions(&mut self, blocks: &[Block]) -> Value {
        let text = |it: &Block| match it {
            Block::Text { text, .. } => Some(text.clone()),
            _ => None,
        };
        if blocks.iter().any(|it| text(it).is_none()) {
            self.lost.field("messages[].content[].media");
        }
        let texts: Vec<String> = blocks.iter().filter_map(text).collect();
        json!(texts.join("\n\n"))
    }

    fn message(&mut self, message: &'r Message, path: &str) -> Result<(), Error> {
        match message.role {
            Role::System => {
                let content = self.instructions(&message.content);
                self.input.push(json!({"role": "system", "content": content}));
            }
            Role::User => self.user(message, path)?,
            Role::Assistant => {
                for block in &message.content {
                    self.assistant(block, path)?;
                }
            }
        }
        Ok(())
    }

    fn user(&mut self, message: &Message, path: &str) -> Result<(), Error> {
        let mut said = Vec::new();
        for block in &message.content {
            match block {
                Block::ToolResult { id, content, is_error, .. } => {
                    let output = self.output(content, *is_error, path)?;
                    let is_custom = self.customs.contains(id.as_str());
                    let kind =
                        if is_custom { "custom_tool_call_output" } else { "function_call_output" };
                    self.input.push(json!({"type": kind, "call_id": id, "output": output}));
                }
                Block::Opaque { dialect: NAME, value } if is_item(value) => {
                    self.input.push(value.clone());
                }
                other => {
                    said.extend(part::encode(other, self.request.dialect, path, &mut self.lost)?);
                }
            }
        }
        if !said.is_empty() || message.content.is_empty() {
            self.input.push(json!({"role": "user", "content": plain(said)}));
        }
        Ok(())
    }

    fn output(&mut self, content: &[Block], is_error: bool, path: &str) -> Result<Value, Error> {
        let mut parts = Vec::with_capacity(content.len() + 1);
        if is_error {
            // No field says it here, and what the model reads must.
            parts.push(json!({"type": "input_text", "text": "Error:"}));
        }
        for block in content {
            parts.extend(part::encode(block, self.request.dialect, path, &mut self.lost)?);
        }
        Ok(plain(parts))
    }

    fn assistant(&mut self, block: &'r Block, path: &str) -> Result<(), Error> {
        let item = match block {
            Block::Text { text, .. } => json!({"role": "assistant", "content": text}),
            Block::Refusal { text } => {
                json!({"role": "assistant", "content": [{"type": "refusal", "refusal": text}]})
            }
            Block::ToolUse { id, name, arguments, .. } => {
                let arguments = if arguments.is_empty() { "{}" } else { arguments };
                let item = alias::call_item(&self.request.aliases, id, name, arguments);
                if item.contains_key("input") {
                    self.customs.insert(id);
                }
                Value::Object(item)
            }
            Block::Thinking { .. } | Block::RedactedThinking { .. } => match thought(block) {
                Some(item) => item,
                None => {
                    self.lost.field("messages[].reasoning");
                    return Ok(());
                }
            },
            Block::Image { .. } | Block::Document { .. } | Block::Audio { .. } => {
                self.lost.field("messages[].content[].media");
                return Ok(());
            }
            Block::ToolResult { .. } => return Ok(()),
            Block::Opaque { .. } => {
                match part::encode(block, self.request.dialect, path, &mut self.lost)? {
                    Some(item) => item,
                    None => return Ok(()),
                }
            }
        };
        self.input.push(item);
        Ok(())
    }

    fn tools(&mut self, body: &mut Map<String, Value>) {
        let request = self.request;
        let tools: Vec<Value> = request.tools.iter().filter_map(|it| self.tool(it)).collect();
        if tools.is_empty() {
            return;
        }
        body.insert("tools".to_owned(), Value::Array(tools));
        let choice = request.tool_choice.as_ref().map(|choice| match choice {
            ToolChoice::Auto => json!("auto"),
            ToolChoice::None => json!("none"),
            ToolChoice::Any => json!("required"),
            ToolChoice::Named(name) => {
                let opaque = request.tools.iter().any(|it| it.name == *name && it.opaque.is_some());
                json!({"type": if opaque { "custom" } else { "function" }, "name": name})
            }
        });
        insert(body, "tool_choice", choice);
        insert(body, "parallel_tool_calls", request.parallel_tool_calls.map(Value::Bool));
    }

    fn tool(&mut self, tool: &Tool) -> Option<Value> {
        match &tool.opaque {
            // Its definition is within another's.
            Some((NAME, Value::Null)) => return None,
            Some((NAME, value)) => return Some(value.clone()),
            Some(_) if tool.parameters.is_none() => {
                self.lost.named(format!("tools[].{}", tool.name));
                return None;
            }
            Some(_) | None => {}
        }
        let mut words = Map::new();
        words.insert("type".to_owned(), json!("function"));
        words.insert("name".to_owned(), json!(tool.name));
        insert(&mut words, "description", tool.description.as_ref().map(|it| json!(it)));
        let empty = || json!({"type": "object", "properties": {}});
        words.insert("parameters".to_owned(), tool.parameters.clone().unwrap_or_else(empty));
        // Absent means strict here, and not strict everywhere else.
        let absent = (self.request.dialect != NAME).then_some(false);
        insert(&mut words, "strict", tool.strict.or(absent).map(Value::Bool));
        Some(Value::Object(words))
    }

    fn options(&mut self, body: &mut Map<String, Value>) {
        let request = self.request;
        insert(body, "max_output_tokens", request.max_tokens.map(|it| json!(it)));
        insert(body, "temperature", request.temperature.clone().map(Value::Number));
        insert(body, "top_p", request.top_p.clone().map(Value::Number));
        insert(body, "user", request.user.as_ref().map(|it| json!(it)));
        let mut include = Vec::new();
        if let Some(top) = request.logprobs {
            body.insert("top_logprobs".to_owned(), json!(top));
            include.push("message.output_text.logprobs");
        }
        if let Some(reasoning) = &request.reasoning {
            let mut words = Map::new();
            let effort = effort(reasoning);
            insert(&mut words, "effort", effort.map(|it| json!(it)));
            insert(&mut words, "summary", reasoning.summary.as_ref().map(|it| json!(it)));
            if effort != Some("none") {
                include.push("reasoning.encrypted_content");
            }
            body.insert("reasoning".to_owned(), Value::Object(words));
        }
        if !include.is_empty() {
            body.insert("include".to_owned(), json!(include));
        }
        if request.stream {
            body.insert("stream".to_owned(), json!(true));
        }
        let mut text = Map::new();
        insert(&mut text, "format", request.format.as_ref().map(format_words));
        insert(&mut text, "verbosity", request.extra.get("verbosity").cloned());
        if !text.is_empty() {
            body.insert("text".to_owned(), Value::Object(text));
        }
        for (is_set, name) in [
            (request.n.is_some_and(|it| it > 1), "n"),
            (!request.stop.is_empty(), "stop"),
            (request.seed.is_some(), "seed"),
            (request.top_k.is_some(), "top_k"),
            (request.presence_penalty.is_some(), "presence_penalty"),
            (request.frequency_penalty.is_some(), "frequency_penalty"),
        ] {
            if is_set {
                self.lost.field(name);
            }
        }
    }

    fn rest(&mut self, body: &mut Map<String, Value>) {
        let request = self.request;
        if request.dialect.starts_with("openai") {
            insert(body, "metadata", request.metadata.clone());
        } else if request.metadata.is_some() {
            self.lost.field("metadata");
        }
        for (key, value) in &request.extra {
            let known = match request.dialect {
                NAME => true,
                "openai" => SHARED_WITH_CHAT.contains(&key.as_str()),
                _ => false,
            };
            if key == "verbosity" && request.dialect.starts_with("openai") {
                continue;
            }
            match (body.get_mut(key), value) {
                (Some(Value::Array(list)), Value::Array(more)) if known => {
                    list.extend(more.clone());
                }
                (Some(_), _) if known => {}
                _ if known => {
                    body.insert(key.clone(), value.clone());
                }
                _ => self.lost.named(key.clone()),
            }
        }
        // Conversations are the caller's: nothing of them is left with the vendor.
        body.entry("store").or_insert(Value::Bool(false));
    }
}

/// Whether something opaque is an item of its own rather than a part of a message.
fn is_item(value: &Value) -> bool {
    let kind = value.get("type").and_then(Value::as_str).unwrap_or_default();
    kind.ends_with("_call") || kind.ends_with("_output") || value.get("call_id").is_some()
}

/// A reasoning item, if OpenAI sealed it: it takes back no other.
fn thought(block: &Block) -> Option<Value> {
    let (text, token, id) = match block {
        Block::Thinking { text, signature, id } => (text.as_str(), signature.as_deref()?, id),
        Block::RedactedThinking { data, id } => ("", data.as_str(), id),
        _ => return None,
    };
    let token = seal::own(NAME, token)?;
    let summary =
        if text.is_empty() { json!([]) } else { json!([{"type": "summary_text", "text": text}]) };
    let mut item = json!({"type": "reasoning", "summary": summary, "encrypted_content": token});
    if let (Value::Object(item), Some(id)) = (&mut item, id) {
        item.insert("id".to_owned(), json!(id));
    }
    Some(item)
}

fn format_words(format: &Format) -> Value {
    let mut words = schema_words(format);
    let kind = if words.is_empty() { "json_object" } else { "json_schema" };
    words.insert("type".to_owned(), json!(kind));
    Value::Object(words)
}

/// Parts, or the text alone where there is nothing else.
fn plain(mut parts: Vec<Value>) -> Value {
    match parts.as_mut_slice() {
        [] => json!(""),
        [part] if part.get("type").is_some_and(|it| it == "input_text") => {
            part.get_mut("text").map(Value::take).unwrap_or_default()
        }
        _ => Value::Array(parts),
    }
}
