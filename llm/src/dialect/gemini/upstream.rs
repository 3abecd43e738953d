//! A request for Gemini, written.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::part::{data, object, set_seal, sign};
use super::think::{self, Generation, UNSEALED, generation};
use super::{NAME, path, schema};
use crate::chat::{Block, Format, Message, Request, Role, Source, Tool, ToolChoice};
use crate::dialect::{Error, WireRequest};
use crate::json;
use crate::lost::Lost;
use crate::seal;

/// What a caller who says nothing first is taken to have said.
const OPENING: &str = "Continue.";

/// Gemini takes so many stop texts.
const STOP_MAX: usize = 5;

/// Writes a request.
pub(super) fn encode(request: &Request) -> Result<WireRequest, Error> {
    let mut writer = Writer::new(request);
    let mut body = writer.prompt()?;
    writer.generation(&mut body);
    writer.extra(&mut body);
    let method = if request.stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
    Ok(writer.finish(method, &body))
}

/// Writes a request to count.
pub(super) fn encode_count(request: &Request) -> Result<WireRequest, Error> {
    let mut writer = Writer::new(request);
    let mut inner = writer.prompt()?;
    inner.insert("model".to_owned(), json!(path::resource(&request.model)));
    let body = Map::from_iter([("generateContentRequest".to_owned(), Value::Object(inner))]);
    Ok(writer.finish("countTokens", &body))
}

struct Writer<'a> {
    request: &'a Request,
    generation: Generation,
    /// Functions' names by call, for results that do not say them.
    names: HashMap<&'a str, &'a str>,
    lost: Lost,
}

impl<'a> Writer<'a> {
    fn new(request: &'a Request) -> Self {
        let mut names = HashMap::new();
        for block in request.messages.iter().flat_map(|message| &message.content) {
            if let Block::ToolUse { id, name, .. } = block {
                names.insert(id.as_str(), name.as_str());
            }
        }
        Self {
            request,
            generation: generation(&request.model),
            names,
            lost: Lost::of(request.dialect),
        }
    }

    /// Contents, instructions and tools.
    fn prompt(&mut self) -> Result<Map<String, Value>, Error> {
        let request = self.request;
        let mut system = Vec::new();
        for block in &request.system {
            self.block(block, Role::System, "system", &mut system)?;
        }
        let mut contents = self.contents(&mut system)?;
        if contents.is_empty() && !system.is_empty() {
            contents.push(json!({"role": "user", "parts": std::mem::take(&mut system)}));
        }
        if contents.first().is_none_or(|first| first.get("role").is_some_and(|role| role != "user"))
        {
            contents.insert(0, json!({"role": "user", "parts": [{"text": OPENING}]}));
        }
        let mut body = Map::new();
        body.insert("contents".to_owned(), Value::Array(contents));
        if !system.is_empty() {
            body.insert("systemInstruction".to_owned(), json!({"parts": system}));
        }
        self.tools(&mut body);
        Ok(body)
    }

    fn contents(&mut self, system: &mut Vec<Value>) -> Result<Vec<Value>, Error> {
        let mut turns: Vec<(&'static str, Vec<Value>)> = Vec::new();
        for (at, message) in self.request.messages.iter().enumerate() {
            let path = format!("messages[{at}]");
            if message.name.is_some() {
                self.lost.field("messages[].name");
            }
            match message.role {
                Role::System => {
                    for block in &message.content {
                        self.block(block, Role::System, &path, system)?;
                    }
                }
                Role::Assistant => {
                    let mut parts = Vec::new();
                    for block in &message.content {
                        self.block(block, Role::Assistant, &path, &mut parts)?;
                    }
                    push(&mut turns, "model", parts);
                }
                Role::User => self.user(message, &path, &mut turns)?,
            }
        }
        if self.generation == Generation::Level {
            turns
                .iter_mut()
                .filter(|(role, _)| *role == "model")
                .for_each(|(_, parts)| seal_first_call(parts));
        }
        Ok(turns.into_iter().map(|(role, parts)| json!({"role": role, "parts": parts})).collect())
    }

    /// A user's turn. Results stand in a content of their own, as many as there were calls; the rest follows.
    fn user(
        &mut self,
        message: &Message,
        path: &str,
        turns: &mut Vec<(&'static str, Vec<Value>)>,
    ) -> Result<(), Error> {
        let (mut results, mut rest) = (Vec::new(), Vec::new());
        for block in &message.content {
            match block {
                Block::ToolResult { .. } => results.push(self.result(block, path, &mut rest)?),
                other => self.block(other, Role::User, path, &mut rest)?,
            }
        }
        let answers =
            |parts: &[Value]| parts.iter().any(|part| part.get("functionResponse").is_some());
        match turns.last_mut() {
            _ if results.is_empty() => {}
            // Some dialects have a message for each result.
            Some(("user", parts)) if answers(parts) => parts.append(&mut results),
            _ => turns.push(("user", results)),
        }
        match turns.last_mut() {
            _ if rest.is_empty() => {}
            Some(("user", parts)) if !answers(parts) => parts.append(&mut rest),
            _ => turns.push(("user", rest)),
        }
        Ok(())
    }

    fn block(
        &mut self,
        block: &Block,
        role: Role,
        path: &str,
        parts: &mut Vec<Value>,
    ) -> Result<(), Error> {
        match block {
            Block::Text { text, cache, .. } => {
                self.no_cache(cache.as_ref());
                if !text.is_empty() {
                    parts.push(json!({"text": text}));
                }
            }
            Block::Refusal { text } => parts.push(json!({"text": text})),
            Block::Image { source, detail, cache } => {
                self.no_cache(cache.as_ref());
                if detail.as_deref().is_some_and(|detail| detail != "auto") {
                    self.lost.field("messages[].content[].image_url.detail");
                }
                parts.push(self.media(source, path)?);
            }
            Block::Document { source, title, cache } => {
                self.no_cache(cache.as_ref());
                if title.is_some() {
                    self.lost.field("messages[].content[].title");
                }
                parts.push(self.media(source, path)?);
            }
            Block::Audio { source } => parts.push(self.media(source, path)?),
            Block::ToolUse { id, name, arguments, signature, cache } => {
                self.no_cache(cache.as_ref());
                let mut part =
                    json!({"functionCall": {"id": id, "name": name, "args": object(arguments)}});
                let seal = signature.as_deref().and_then(|seal| seal::own(NAME, seal));
                set_seal(&mut part, seal.map(str::to_owned));
                parts.push(part);
            }
            Block::ToolResult { .. } => {
                let mut media = Vec::new();
                let result = self.result(block, path, &mut media)?;
                parts.push(result);
                parts.append(&mut media);
            }
            Block::Thinking { .. } | Block::RedactedThinking { .. } => self.thought(block, parts),
            Block::Opaque { dialect: NAME, value } => parts.push(value.clone()),
            Block::Opaque { value, .. } => {
                let kind = value.get("type").and_then(Value::as_str).unwrap_or("part");
                let list = if role == Role::System { "system" } else { "messages" };
                self.lost.named(format!("{list}[].{kind}"));
            }
        }
        Ok(())
    }

    /// Reasoning: Gemini takes back its own seals, and thoughts from those who speak its dialect.
    fn thought(&mut self, block: &Block, parts: &mut Vec<Value>) {
        let Block::Thinking { text, signature, .. } = block else {
            self.lost.field("messages[].reasoning");
            return;
        };
        let seal = signature.as_deref().and_then(|seal| seal::own(NAME, seal)).map(str::to_owned);
        match seal {
            Some(seal) if text.is_empty() => sign(&seal, parts),
            None if self.request.dialect != NAME || signature.is_some() => {
                self.lost.field("messages[].reasoning");
            }
            seal => {
                let mut part = json!({"text": text, "thought": true});
                set_seal(&mut part, seal);
                parts.push(part);
            }
        }
    }

    /// A result. Media goes into it where the model's generation takes it there, else into `rest`.
    fn result(&mut self, block: &Block, path: &str, rest: &mut Vec<Value>) -> Result<Value, Error> {
        let Block::ToolResult { id, name, content, is_error, cache } = block else {
            return Ok(Value::Null);
        };
        self.no_cache(cache.as_ref());
        let (mut text, mut media) = (String::new(), Vec::new());
        for block in content {
            match block {
                Block::Text { text: more, .. } | Block::Refusal { text: more } => {
                    if !text.is_empty() {
                        text.push('\n');
                    }
                    text.push_str(more);
                }
                other => self.block(other, Role::User, path, &mut media)?,
            }
        }
        let response = match serde_json::from_str(&text) {
            _ if *is_error => json!({"error": text}),
            Ok(Value::Object(object)) => Value::Object(object),
            _ => json!({"output": text}),
        };
        let name = name.as_deref().or_else(|| self.names.get(id.as_str()).copied()).unwrap_or(id);
        let mut said = json!({"id": id, "name": name, "response": response});
        match &mut said {
            Value::Object(said) if self.generation == Generation::Level && !media.is_empty() => {
                said.insert("parts".to_owned(), Value::Array(media));
            }
            _ => rest.append(&mut media),
        }
        Ok(json!({"functionResponse": said}))
    }

    fn no_cache(&mut self, cache: Option<&Value>) {
        if cache.is_some() {
            self.lost.named("cache_control");
        }
    }

    fn media(&self, source: &Source, path: &str) -> Result<Value, Error> {
        match source {
            Source::File { id } if self.request.dialect == NAME => Ok(json!({"fileData": {"fileUri": id}})),
            other => data(other).ok_or_else(|| {
                json::field(path, "the file lies in another vendor's store: send its bytes as base64 or its address")
            }),
        }
    }

    fn tools(&mut self, body: &mut Map<String, Value>) {
        let (mut declared, mut tools) = (Vec::new(), Vec::new());
        for tool in &self.request.tools {
            match &tool.opaque {
                Some((NAME, value)) => tools.push(value.clone()),
                Some(_) if tool.parameters.is_none() => {
                    self.lost.named(format!("tools[].{}", tool.name));
                }
                Some(_) | None => declared.push(self.declaration(tool)),
            }
        }
        if !declared.is_empty() {
            tools.insert(0, json!({"functionDeclarations": declared}));
        }
        if tools.is_empty() {
            return;
        }
        body.insert("tools".to_owned(), Value::Array(tools));
        if self.request.parallel_tool_calls == Some(false) {
            self.lost.field("parallel_tool_calls");
        }
        let calling = match &self.request.tool_choice {
            None => return,
            Some(ToolChoice::Auto) => json!({"mode": "AUTO"}),
            Some(ToolChoice::None) => json!({"mode": "NONE"}),
            Some(ToolChoice::Any) => json!({"mode": "ANY"}),
            Some(ToolChoice::Named(name)) => json!({"mode": "ANY", "allowedFunctionNames": [name]}),
        };
        body.insert("toolConfig".to_owned(), json!({"functionCallingConfig": calling}));
    }

    fn declaration(&mut self, tool: &Tool) -> Value {
        self.no_cache(tool.cache.as_ref());
        if tool.strict == Some(true) {
            self.lost.named("tools[].strict");
        }
        let mut declared = Map::new();
        declared.insert("name".to_owned(), json!(tool.name));
        if let Some(description) = &tool.description {
            declared.insert("description".to_owned(), json!(description));
        }
        // An object without properties is an error to Gemini; a function without arguments says nothing of them.
        let is_bare = |schema: &&Value| {
            let properties = schema.get("properties").and_then(Value::as_object);
            properties.is_none_or(Map::is_empty)
                && ["$ref", "anyOf", "oneOf", "allOf"].iter().all(|key| schema.get(key).is_none())
        };
        if let Some(parameters) = tool.parameters.as_ref().filter(|schema| !is_bare(schema)) {
            match schema::to_gemini(parameters) {
                Some(own) => declared.insert("parameters".to_owned(), own),
                None => declared.insert("parametersJsonSchema".to_owned(), parameters.clone()),
            };
        }
        Value::Object(declared)
    }

    fn generation(&mut self, body: &mut Map<String, Value>) {
        let request = self.request;
        let mut config = Map::new();
        let number = |number: &Option<serde_json::Number>| number.clone().map(Value::Number);
        let stop: Vec<_> =
            request.stop.iter().filter(|text| !text.is_empty()).take(STOP_MAX).collect();
        if stop.len() < request.stop.len() {
            self.lost.field("stop");
        }
        for (name, value) in [
            ("temperature", number(&request.temperature)),
            ("topP", number(&request.top_p)),
            ("topK", request.top_k.map(Value::from)),
            ("candidateCount", request.n.filter(|n| *n > 1).map(Value::from)),
            ("maxOutputTokens", request.max_tokens.map(Value::from)),
            ("stopSequences", (!stop.is_empty()).then(|| json!(stop))),
            ("seed", request.seed.map(Value::from)),
            ("presencePenalty", number(&request.presence_penalty)),
            ("frequencyPenalty", number(&request.frequency_penalty)),
            ("responseLogprobs", request.logprobs.map(|_| Value::Bool(true))),
            ("logprobs", request.logprobs.filter(|n| *n > 0).map(Value::from)),
            ("thinkingConfig", think::config(request, &mut self.lost)),
        ] {
            if let Some(value) = value {
                config.insert(name.to_owned(), value);
            }
        }
        if let Some(format) = &request.format {
            config.insert("responseMimeType".to_owned(), json!("application/json"));
            if let Format::JsonSchema { schema: wanted, .. } = format {
                match schema::to_gemini(wanted) {
                    Some(own) => config.insert("responseSchema".to_owned(), own),
                    None => config.insert("responseJsonSchema".to_owned(), wanted.clone()),
                };
            }
        }
        if !config.is_empty() {
            body.insert("generationConfig".to_owned(), Value::Object(config));
        }
        for (name, is_asked) in
            [("user", request.user.is_some()), ("metadata", request.metadata.is_some())]
        {
            if is_asked {
                self.lost.field(name);
            }
        }
    }

    fn extra(&mut self, body: &mut Map<String, Value>) {
        for (key, value) in &self.request.extra {
            if self.request.dialect == NAME {
                merge(body.entry(key.clone()).or_insert(Value::Null), value);
            } else {
                self.lost.named(key.clone());
            }
        }
    }

    fn finish(self, method: &str, body: &Map<String, Value>) -> WireRequest {
        WireRequest {
            path: path::of(&self.request.model, method),
            body: json!(body).to_string().into_bytes(),
            headers: Vec::new(),
            dropped: self.lost.into_names(),
        }
    }
}

fn push(turns: &mut Vec<(&'static str, Vec<Value>)>, role: &'static str, mut parts: Vec<Value>) {
    match turns.last_mut() {
        _ if parts.is_empty() => {}
        Some((last, before)) if *last == role => before.append(&mut parts),
        _ => turns.push((role, parts)),
    }
}

/// The first call of a turn must be sealed; those beside it need not be.
fn seal_first_call(parts: &mut [Value]) {
    let first = parts.iter_mut().find(|part| part.get("functionCall").is_some());
    if let Some(first) = first.filter(|first| first.get("thoughtSignature").is_none()) {
        set_seal(first, Some(UNSEALED.to_owned()));
    }
}

/// Merges objects into objects; anything else takes the place of what was there.
fn merge(into: &mut Value, value: &Value) {
    match (into, value) {
        (Value::Object(into), Value::Object(value)) => {
            for (key, value) in value {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, value) => *into = value.clone(),
    }
}
