//! A request for Anthropic, written.

use serde_json::{Map, Value, json};

use super::model::{Traits, traits};
use super::think::{self, Plan};
use super::{NAME, VERSION, schema};
use crate::chat::{Format, Request, Role, Tool, ToolChoice};
use crate::dialect::{Error, WireRequest};
use crate::json;
use crate::lost::Lost;

mod blocks;

pub(super) use blocks::input;

/// What a caller who says nothing first is taken to have said: Anthropic's conversations begin with the user.
const OPENING: &str = "Continue.";

/// Writes a request.
pub(super) fn encode(request: &Request) -> Result<WireRequest, Error> {
    let mut writer = Writer::new(request);
    let mut body = writer.prompt()?;
    let plan = writer.plan(&body);
    body.insert("max_tokens".to_owned(), json!(plan.max_tokens));
    writer.options(&plan, &mut body);
    writer.extra(&mut body);
    Ok(writer.finish("/messages", body))
}

/// Writes one request.
pub(super) struct Writer<'a> {
    request: &'a Request,
    traits: Traits,
    files: bool,
    lost: Lost,
}

/// Consecutive messages of one side.
struct Turn {
    role: &'static str,
    content: Vec<Value>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(request: &'a Request) -> Self {
        Self {
            request,
            traits: traits(&request.model),
            files: false,
            lost: Lost::of(request.dialect),
        }
    }

    /// Model, system, messages and tools: what is counted, too.
    pub(super) fn prompt(&mut self) -> Result<Map<String, Value>, Error> {
        let request = self.request;
        let mut body = Map::new();
        body.insert("model".to_owned(), json!(request.model));
        let (mut system, mut turns) = self.turns()?;
        if turns.is_empty() && !system.is_empty() {
            turns.push(Turn { role: "user", content: std::mem::take(&mut system) });
        }
        if turns.first().is_none_or(|turn| turn.role != "user") {
            turns.insert(
                0,
                Turn { role: "user", content: vec![json!({"type": "text", "text": OPENING})] },
            );
        }
        trim_prefill(&mut turns);
        if !system.is_empty() {
            body.insert("system".to_owned(), Value::Array(system));
        }
        let messages = turns
            .into_iter()
            .map(|turn| json!({"role": turn.role, "content": turn.content}))
            .collect();
        body.insert("messages".to_owned(), messages);
        let tools: Vec<Value> = request.tools.iter().filter_map(|tool| self.tool(tool)).collect();
        if !tools.is_empty() {
            body.insert("tools".to_owned(), Value::Array(tools));
            if let Some(choice) = self.choice() {
                body.insert("tool_choice".to_owned(), choice);
            }
        }
        Ok(body)
    }

    /// What to think, given the turns in `body`.
    pub(super) fn plan(&mut self, body: &Map<String, Value>) -> Plan {
        think::plan(self.request, self.traits, is_sealed(body), &mut self.lost)
    }

    /// Everything else that this form has a place for.
    pub(super) fn options(&mut self, plan: &Plan, body: &mut Map<String, Value>) {
        let request = self.request;
        self.configure(plan, body);
        self.sampling(plan, body);
        let (stop, blank): (Vec<_>, Vec<_>) =
            request.stop.iter().partition(|text| !text.trim().is_empty());
        if !stop.is_empty() {
            body.insert("stop_sequences".to_owned(), json!(stop));
        }
        if !blank.is_empty() {
            self.lost.field("stop");
        }
        if let Some(user) = &request.user {
            body.insert("metadata".to_owned(), json!({"user_id": user}));
        }
        if request.stream {
            body.insert("stream".to_owned(), Value::Bool(true));
        }
        for (name, is_asked) in [
            ("n", request.n.is_some_and(|n| n > 1)),
            ("seed", request.seed.is_some()),
            ("presence_penalty", is_set(request.presence_penalty.as_ref())),
            ("frequency_penalty", is_set(request.frequency_penalty.as_ref())),
            ("logprobs", request.logprobs.is_some()),
            ("metadata", request.metadata.is_some()),
        ] {
            if is_asked {
                self.lost.field(name);
            }
        }
    }

    /// `thinking` and `output_config`: they bind what the prompt costs, too.
    pub(super) fn configure(&mut self, plan: &Plan, body: &mut Map<String, Value>) {
        if let Some(thinking) = &plan.thinking {
            body.insert("thinking".to_owned(), thinking.clone());
        }
        let mut output = Map::new();
        if let Some(effort) = plan.effort {
            output.insert("effort".to_owned(), json!(effort));
        }
        match &self.request.format {
            Some(Format::JsonSchema { schema: wanted, .. }) if self.traits.structured => {
                let format = json!({"type": "json_schema", "schema": schema::fit(wanted.clone())});
                output.insert("format".to_owned(), format);
            }
            Some(_) => self.lost.field("response_format"),
            None => {}
        }
        if !output.is_empty() {
            body.insert("output_config".to_owned(), Value::Object(output));
        }
    }

    /// The caller's own extra fields, if they are Anthropic's.
    pub(super) fn extra(&mut self, body: &mut Map<String, Value>) {
        let request = self.request;
        for (key, value) in &request.extra {
            if request.dialect != NAME {
                self.lost.named(key.clone());
                continue;
            }
            match (body.get_mut(key), value) {
                (Some(Value::Object(written)), Value::Object(more)) => written.extend(more.clone()),
                (Some(_), _) => {}
                (None, value) => {
                    body.insert(key.clone(), value.clone());
                }
            }
        }
    }

    pub(super) fn finish(self, path: &str, body: Map<String, Value>) -> WireRequest {
        let mut headers = vec![("anthropic-version", VERSION.to_owned())];
        if self.files {
            headers.push(("anthropic-beta", "files-api-2025-04-14".to_owned()));
        }
        WireRequest {
            path: path.to_owned(),
            body: json::write(&Value::Object(body)),
            headers,
            dropped: self.lost.into_names(),
        }
    }

    /// Instructions, and the turns in strict alternation, results before all else in theirs.
    fn turns(&mut self) -> Result<(Vec<Value>, Vec<Turn>), Error> {
        let request = self.request;
        let mut system = Vec::new();
        for block in &request.system {
            system.extend(self.block(block, Role::System, "system")?);
        }
        let mut turns: Vec<Turn> = Vec::new();
        for (at, message) in request.messages.iter().enumerate() {
            let path = format!("messages[{at}]");
            let mut content = Vec::with_capacity(message.content.len());
            for block in &message.content {
                content.extend(self.block(block, message.role, &path)?);
            }
            if message.name.is_some() {
                self.lost.field("messages[].name");
            }
            let role = match message.role {
                Role::System => {
                    system.append(&mut content);
                    continue;
                }
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            match turns.last_mut() {
                _ if content.is_empty() => {}
                Some(turn) if turn.role == role => turn.content.append(&mut content),
                _ => turns.push(Turn { role, content }),
            }
        }
        for turn in &mut turns {
            turn.content.sort_by_key(|block| {
                block.get("type").and_then(Value::as_str) != Some("tool_result")
            });
        }
        Ok((system, turns))
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
        let mut parameters =
            tool.parameters.clone().unwrap_or_else(|| json!({"type": "object", "properties": {}}));
        if let Value::Object(root) = &mut parameters {
            root.entry("type").or_insert_with(|| json!("object"));
        }
        let mut written = json!({"name": tool.name});
        set(
            &mut written,
            "description",
            tool.description.as_ref().map(|text| json!(text)).as_ref(),
        );
        set(&mut written, "input_schema", Some(&parameters));
        if tool.strict == Some(true) {
            if self.traits.structured {
                set(&mut written, "strict", Some(&Value::Bool(true)));
                set(&mut written, "input_schema", Some(&schema::fit(parameters)));
            } else {
                self.lost.named("tools[].strict");
            }
        }
        set(&mut written, "cache_control", tool.cache.as_ref());
        Some(written)
    }

    fn choice(&self) -> Option<Value> {
        let one_at_a_time = self.request.parallel_tool_calls == Some(false);
        let mut choice = match &self.request.tool_choice {
            None if one_at_a_time => json!({"type": "auto"}),
            None => return None,
            Some(ToolChoice::Auto) => json!({"type": "auto"}),
            Some(ToolChoice::Any) => json!({"type": "any"}),
            Some(ToolChoice::Named(name)) => json!({"type": "tool", "name": name}),
            Some(ToolChoice::None) => return Some(json!({"type": "none"})),
        };
        set(
            &mut choice,
            "disable_parallel_tool_use",
            one_at_a_time.then_some(Value::Bool(true)).as_ref(),
        );
        Some(choice)
    }

    /// Temperature, top-p and top-k, as far as the model and its thinking leave room for them.
    fn sampling(&mut self, plan: &Plan, body: &mut Map<String, Value>) {
        let request = self.request;
        let is_free = self.traits.sampling && !plan.thinks();
        let unit = |number: &serde_json::Number| number.as_f64() == Some(1.0);
        match &request.temperature {
            Some(temperature)
                if is_free && temperature.as_f64().is_some_and(|value| value > 1.0) =>
            {
                self.lost.field("temperature");
                body.insert("temperature".to_owned(), json!(1.0));
            }
            Some(temperature) if is_free => {
                body.insert("temperature".to_owned(), Value::Number(temperature.clone()));
            }
            Some(temperature) if !unit(temperature) => self.lost.field("temperature"),
            _ => {}
        }
        match &request.top_p {
            Some(top_p) if is_free && (self.traits.both || request.temperature.is_none()) => {
                body.insert("top_p".to_owned(), Value::Number(top_p.clone()));
            }
            Some(top_p) if !unit(top_p) => self.lost.field("top_p"),
            _ => {}
        }
        match request.top_k {
            Some(top_k) if is_free => {
                body.insert("top_k".to_owned(), json!(top_k));
            }
            Some(_) => self.lost.field("top_k"),
            None => {}
        }
    }
}

fn is_set(penalty: Option<&serde_json::Number>) -> bool {
    penalty.is_some_and(|penalty| penalty.as_f64() != Some(0.0))
}

/// Sets a field of an object that was written as one.
pub(super) fn set(object: &mut Value, key: &str, value: Option<&Value>) {
    if let (Value::Object(map), Some(value)) = (object, value) {
        map.insert(key.to_owned(), value.clone());
    }
}

/// White space at the end of words put in the model's mouth is an error to Anthropic.
fn trim_prefill(turns: &mut [Turn]) {
    let Some(last) = turns.last_mut().filter(|turn| turn.role == "assistant") else { return };
    if let Some(Value::String(text)) =
        last.content.last_mut().and_then(|block| block.get_mut("text"))
    {
        text.truncate(text.trim_end().len());
    }
}

/// Whether thinking with a fixed budget may go on: the turn that is being answered with results began with thought,
/// or there is none.
fn is_sealed(body: &Map<String, Value>) -> bool {
    let Some(Value::Array(messages)) = body.get("messages") else { return true };
    let Some(last) = messages
        .iter()
        .rev()
        .find(|message| message.get("role").is_some_and(|role| role == "assistant"))
    else {
        return true;
    };
    let kinds = || {
        last.get("content")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|block| block.get("type"))
    };
    let calls = kinds().any(|kind| kind.is_some_and(|kind| kind == "tool_use"));
    let first = kinds().next().flatten().and_then(Value::as_str);
    !calls || matches!(first, Some("thinking" | "redacted_thinking"))
}
