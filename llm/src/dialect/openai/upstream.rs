//! A request for an upstream, written.

use serde_json::{Map, Value, json};

use super::part::{self, text_of};
use super::quirks::{
    CacheControl, Extra, MaxTokens, Quirks, ReasoningBack, ReasoningField, StreamUsage,
};
use super::{NAME, reasoning};
use crate::chat::{Block, Format, Message, Reasoning, Request, Role, Tool, ToolChoice};
use crate::dialect::{Error, WireRequest};
use crate::json;
use crate::lost::Lost;

/// What Responses has under the same name at its top level.
const SHARED_WITH_RESPONSES: &[&str] = &[
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "verbosity",
];

/// Writes a request.
pub(super) fn encode(request: &Request, quirks: &Quirks) -> Result<WireRequest, Error> {
    let mut writer = Writer { request, quirks, lost: Lost::of(request.dialect) };
    let mut body = Map::new();
    body.insert("model".to_owned(), json!(request.model));
    body.insert("messages".to_owned(), Value::Array(writer.messages()?));
    writer.tools(&mut body);
    writer.sampling(&mut body);
    writer.reasoning(&mut body);
    if let Some(format) = &request.format {
        body.insert("response_format".to_owned(), format_words(format));
    }
    writer.rest(&mut body);
    Ok(WireRequest {
        path: "/chat/completions".to_owned(),
        body: json::write(&Value::Object(body)),
        headers: Vec::new(),
        dropped: writer.lost.into_names(),
    })
}

struct Writer<'r> {
    request: &'r Request,
    quirks: &'r Quirks,
    lost: Lost,
}

impl Writer<'_> {
    fn messages(&mut self) -> Result<Vec<Value>, Error> {
        let mut messages = Vec::with_capacity(self.request.messages.len() + 1);
        if !self.request.system.is_empty() {
            let content = self.instructions(&self.request.system);
            messages.push(json!({"role": "system", "content": content}));
        }
        for (at, message) in self.request.messages.iter().enumerate() {
            match message.role {
                Role::User => self.user(message, at, &mut messages)?,
                Role::Assistant => messages.push(self.assistant(message, at)?),
                Role::System => {
                    let content = self.instructions(&message.content);
                    messages.push(json!({"role": "system", "content": content}));
                }
            }
        }
        Ok(messages)
    }

    /// One text, because many servers take instructions as nothing else; parts only where a cache break point
    /// needs them.
    fn instructions(&mut self, blocks: &[Block]) -> Value {
        if blocks.iter().any(|it| text_of(it).is_none()) {
            self.lost.field("messages[].content[].media");
        }
        if self.quirks.cache_control == CacheControl::Kept
            && blocks.iter().any(|it| cache(it).is_some())
        {
            let texts = blocks.iter().filter(|it| text_of(it).is_some());
            let parts = texts.filter_map(|it| self.part(it, "system").ok().flatten());
            return parts.collect();
        }
        let texts: Vec<&str> = blocks.iter().filter_map(text_of).collect();
        json!(texts.join("\n\n"))
    }

    fn part(&mut self, block: &Block, path: &str) -> Result<Option<Value>, Error> {
        let mut part = part::encode(block, self.request.dialect, path, &mut self.lost)?;
        if self.quirks.cache_control == CacheControl::Kept
            && let (Some(Value::Object(part)), Some(cache)) = (&mut part, cache(block))
        {
            part.insert("cache_control".to_owned(), cache.clone());
        }
        Ok(part)
    }

    /// Results first, each as its own message, then what the user says. What a result shows besides text goes to the
    /// user's message: a tool's takes text only.
    fn user(&mut self, message: &Message, at: usize, out: &mut Vec<Value>) -> Result<(), Error> {
        let path = format!("messages[{at}].content");
        let mut shown = Vec::new();
        for block in &message.content {
            if let Block::ToolResult { id, content, is_error, .. } = block {
                out.push(self.result(id, content, *is_error, &path, &mut shown)?);
            }
        }
        let mut said = Vec::with_capacity(message.content.len());
        for block in &message.content {
            match block {
                Block::ToolResult { .. } => {}
                other => said.extend(self.part(other, &path)?),
            }
        }
        if said.is_empty() && shown.is_empty() {
            let only_results =
                message.content.iter().any(|it| matches!(it, Block::ToolResult { .. }));
            if only_results {
                return Ok(());
            }
        }
        shown.append(&mut said);
        let mut words = json!({"role": "user", "content": plain(shown)});
        if let (Value::Object(words), Some(name)) = (&mut words, &message.name) {
            words.insert("name".to_owned(), json!(name));
        }
        out.push(words);
        Ok(())
    }

    fn result(
        &mut self,
        id: &str,
        content: &[Block],
        is_error: bool,
        path: &str,
        shown: &mut Vec<Value>,
    ) -> Result<Value, Error> {
        let mut texts = Vec::new();
        let before = shown.len();
        for block in content {
            match text_of(block) {
                Some(text) => texts.push(text),
                None => shown.extend(self.part(block, path)?),
            }
        }
        let mut text = texts.join("\n");
        if text.is_empty() && shown.len() > before {
            "The result is shown in the next message.".clone_into(&mut text);
        }
        if is_error {
            // No field says it here, and what the model reads must.
            text = if text.is_empty() { "Error.".to_owned() } else { format!("Error: {text}") };
        }
        Ok(json!({"role": "tool", "tool_call_id": id, "content": text}))
    }

    fn assistant(&mut self, message: &Message, at: usize) -> Result<Value, Error> {
        let mut words = Map::new();
        words.insert("role".to_owned(), json!("assistant"));
        words.insert("content".to_owned(), Value::Null);
        let mut said = Vec::new();
        let mut calls = Vec::new();
        for block in &message.content {
            match block {
                Block::ToolUse { id, name, arguments, .. } => {
                    let arguments = if arguments.is_empty() { "{}" } else { arguments };
                    let function = json!({"name": name, "arguments": arguments});
                    calls.push(json!({"id": id, "type": "function", "function": function}));
                }
                Block::Refusal { text } => {
                    words.insert("refusal".to_owned(), json!(text));
                }
                Block::Opaque { dialect: NAME, value } if value.get("audio").is_some() => {
                    let audio = value.get("audio").cloned().unwrap_or_default();
                    words.insert("audio".to_owned(), audio);
                }
                Block::Opaque { dialect: NAME, value } if value.get("id").is_some() => {
                    calls.push(value.clone());
                }
                Block::Image { .. } | Block::Document { .. } | Block::Audio { .. } => {
                    self.lost.field("messages[].content[].media");
                }
                other => said.extend(self.part(other, &format!("messages[{at}].content"))?),
            }
        }
        if !said.is_empty() || (calls.is_empty() && words.len() == 2) {
            words.insert("content".to_owned(), plain(said));
        }
        self.thoughts(&message.content, &mut words);
        if let Some(name) = &message.name {
            words.insert("name".to_owned(), json!(name));
        }
        if !calls.is_empty() {
            words.insert("tool_calls".to_owned(), Value::Array(calls));
        }
        Ok(Value::Object(words))
    }

    fn thoughts(&mut self, content: &[Block], words: &mut Map<String, Value>) {
        let thinks =
            |it: &Block| matches!(it, Block::Thinking { .. } | Block::RedactedThinking { .. });
        match self.quirks.reasoning_back {
            ReasoningBack::Never if content.iter().any(thinks) => {
                self.lost.field("messages[].reasoning");
            }
            ReasoningBack::Never => {}
            ReasoningBack::Content => {
                reasoning::put(content, words);
                words.remove("reasoning_details");
            }
            ReasoningBack::Details => reasoning::put(content, words),
        }
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
            ToolChoice::Named(name) => self.named(name),
        });
        insert(body, "tool_choice", choice);
        insert(body, "parallel_tool_calls", request.parallel_tool_calls.map(Value::Bool));
    }

    fn named(&self, name: &str) -> Value {
        let is_own =
            |it: &&Tool| it.name == name && it.opaque.as_ref().is_some_and(|it| it.0 == NAME);
        let kind =
            if self.request.tools.iter().any(|it| is_own(&it)) { "custom" } else { "function" };
        json!({"type": kind, kind: {"name": name}})
    }

    fn tool(&mut self, tool: &Tool) -> Option<Value> {
        match &tool.opaque {
            Some((NAME, value)) => return Some(value.clone()),
            Some(_) if tool.parameters.is_none() => {
                self.lost.named(format!("tools[].{}", tool.name));
                return None;
            }
            Some(_) | None => {}
        }
        let mut function = Map::new();
        function.insert("name".to_owned(), json!(tool.name));
        insert(&mut function, "description", tool.description.as_ref().map(|it| json!(it)));
        insert(&mut function, "parameters", tool.parameters.clone());
        insert(&mut function, "strict", tool.strict.map(Value::Bool));
        let mut words = json!({"type": "function", "function": function});
        if self.quirks.cache_control == CacheControl::Kept
            && let (Value::Object(words), Some(cache)) = (&mut words, &tool.cache)
        {
            words.insert("cache_control".to_owned(), cache.clone());
        }
        Some(words)
    }

    fn sampling(&mut self, body: &mut Map<String, Value>) {
        let request = self.request;
        let max = match self.quirks.max_tokens {
            MaxTokens::MaxCompletionTokens => "max_completion_tokens",
            MaxTokens::MaxTokens => "max_tokens",
        };
        insert(body, max, request.max_tokens.map(|it| json!(it)));
        insert(body, "temperature", request.temperature.clone().map(Value::Number));
        insert(body, "top_p", request.top_p.clone().map(Value::Number));
        match self.quirks.top_k {
            Extra::Known => insert(body, "top_k", request.top_k.map(|it| json!(it))),
            Extra::Unknown if request.top_k.is_some() => self.lost.field("top_k"),
            Extra::Unknown => {}
        }
        insert(body, "presence_penalty", request.presence_penalty.clone().map(Value::Number));
        insert(body, "frequency_penalty", request.frequency_penalty.clone().map(Value::Number));
        insert(body, "seed", request.seed.map(|it| json!(it)));
        insert(body, "n", request.n.map(|it| json!(it)));
        if !request.stop.is_empty() {
            body.insert("stop".to_owned(), json!(request.stop));
        }
        if let Some(top) = request.logprobs {
            body.insert("logprobs".to_owned(), json!(true));
            insert(body, "top_logprobs", (top > 0).then(|| json!(top)));
        }
        insert(body, "user", request.user.as_ref().map(|it| json!(it)));
        if request.stream {
            body.insert("stream".to_owned(), json!(true));
            if self.quirks.stream_usage == StreamUsage::OnRequest {
                body.insert("stream_options".to_owned(), json!({"include_usage": true}));
            }
        }
    }

    fn reasoning(&mut self, body: &mut Map<String, Value>) {
        let Some(reasoning) = &self.request.reasoning else { return };
        if reasoning.summary.is_some() && self.request.dialect == "openai_responses" {
            self.lost.named("reasoning.summary");
        }
        match self.quirks.reasoning {
            ReasoningField::Effort => {
                insert(body, "reasoning_effort", effort(reasoning).map(|it| json!(it)));
            }
            ReasoningField::Nested => {
                let mut words = Map::new();
                match (&reasoning.effort, reasoning.budget_tokens) {
                    (_, Some(budget)) => insert(&mut words, "max_tokens", Some(json!(budget))),
                    (Some(effort), None) => insert(&mut words, "effort", Some(json!(effort))),
                    (None, None) => insert(&mut words, "enabled", Some(json!(true))),
                }
                body.insert("reasoning".to_owned(), Value::Object(words));
            }
            ReasoningField::None => self.lost.field("reasoning"),
        }
    }

    /// The caller's labels and whatever else was written, where it means here what it means there.
    fn rest(&mut self, body: &mut Map<String, Value>) {
        let request = self.request;
        let family = request.dialect.starts_with(NAME);
        if family {
            insert(body, "metadata", request.metadata.clone());
        } else if request.metadata.is_some() {
            self.lost.field("metadata");
        }
        for (key, value) in &request.extra {
            let known = match request.dialect {
                NAME => true,
                "openai_responses" => {
                    self.quirks.additions == Extra::Known
                        && SHARED_WITH_RESPONSES.contains(&key.as_str())
                }
                _ => false,
            };
            if known {
                body.entry(key.clone()).or_insert_with(|| value.clone());
            } else {
                self.lost.named(key.clone());
            }
        }
    }
}

/// The effort in words; a bound in tokens becomes the nearest.
pub(crate) fn effort(reasoning: &Reasoning) -> Option<&str> {
    match (&reasoning.effort, reasoning.budget_tokens) {
        (Some(effort), _) => Some(effort),
        (None, Some(0)) => Some("none"),
        (None, Some(1..=2_048)) => Some("low"),
        (None, Some(2_049..=16_384)) => Some("medium"),
        (None, Some(_)) => Some("high"),
        (None, None) => None,
    }
}

fn format_words(format: &Format) -> Value {
    match format {
        Format::JsonObject => json!({"type": "json_object"}),
        Format::JsonSchema { .. } => {
            json!({"type": "json_schema", "json_schema": schema_words(format)})
        }
    }
}

/// The named schema that chat completions and Responses share. Empty where the format has none.
pub(crate) fn schema_words(format: &Format) -> Map<String, Value> {
    let mut words = Map::new();
    if let Format::JsonSchema { name, description, schema, strict } = format {
        words.insert("name".to_owned(), json!(name));
        insert(&mut words, "description", description.as_ref().map(|it| json!(it)));
        words.insert("schema".to_owned(), schema.clone());
        insert(&mut words, "strict", strict.map(Value::Bool));
    }
    words
}

/// Parts, or the text alone where there is nothing else.
fn plain(mut parts: Vec<Value>) -> Value {
    let is_text = |part: &Value| {
        part.get("type").is_some_and(|it| it == "text") && part.get("cache_control").is_none()
    };
    match parts.as_mut_slice() {
        [] => json!(""),
        [part] if is_text(part) => part.get_mut("text").map(Value::take).unwrap_or_default(),
        _ => Value::Array(parts),
    }
}

fn cache(block: &Block) -> Option<&Value> {
    match block {
        Block::Text { cache, .. } | Block::Image { cache, .. } | Block::Document { cache, .. } => {
            cache.as_ref()
        }
        _ => None,
    }
}

/// Sets a field that may be absent.
pub(crate) fn insert(map: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        map.insert(key.to_owned(), value);
    }
}
