//! A caller's request, read.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{NAME, block};
use crate::chat::{Block, Format, Message, Reasoning, Request, Role, Tool, ToolChoice};
use crate::dialect::Error;
use crate::json::{self, Fields};

/// Reads a request. `stream` in the body wins over the path.
pub(super) fn decode(
    body: &[u8],
    path_model: Option<&str>,
    path_stream: bool,
) -> Result<Request, Error> {
    let mut fields = json::body(body)?;
    let mut request = Request { dialect: NAME, ..Request::default() };
    request.model = match (path_model, fields.text("model")?) {
        (Some(model), _) => model.to_owned(),
        (None, Some(model)) => model,
        (None, None) => return Err(fields.wrong("model", "is required, as a string")),
    };
    request.system = block::content(&mut fields, "system")?;
    request.messages = messages(&mut fields)?;
    request.max_tokens = fields.count("max_tokens")?;
    request.temperature = fields.number("temperature")?;
    request.top_p = fields.number("top_p")?;
    request.top_k = fields.count("top_k")?;
    request.stop = fields.texts("stop_sequences")?;
    request.stream = fields.flag("stream")?.unwrap_or(path_stream);
    request.tools = tools(&mut fields)?;
    let mut extra = Map::new();
    fields.any("fallbacks"); // Ours, not the vendor's.
    choice(&mut fields, &mut request)?;
    thinking(&mut fields, &mut request, &mut extra)?;
    output(&mut fields, &mut request, &mut extra)?;
    metadata(&mut fields, &mut request, &mut extra)?;
    extra.extend(fields.rest());
    request.extra = extra;
    Ok(request)
}

fn messages(fields: &mut Fields) -> Result<Vec<Message>, Error> {
    let list = fields
        .list("messages")?
        .ok_or_else(|| fields.wrong("messages", "is required, as a list"))?;
    let mut messages = Vec::with_capacity(list.len());
    let mut names = HashMap::new();
    for (at, value) in list.into_iter().enumerate() {
        let mut turn = Fields::new(value, format!("messages[{at}]"))?;
        let role = match turn.need_text("role")?.as_str() {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "system" => Role::System,
            _ => return Err(turn.wrong("role", "must be user, assistant or system")),
        };
        if !turn.has("content") {
            return Err(
                turn.wrong("content", "is required, as a string or a list of content blocks")
            );
        }
        let mut content = block::content(&mut turn, "content")?;
        name_results(&mut content, &mut names);
        messages.push(Message { role, content, name: None });
    }
    Ok(messages)
}

/// Gives each result its function's name, which Anthropic says only at the call.
fn name_results(content: &mut [Block], names: &mut HashMap<String, String>) {
    for block in content {
        match block {
            Block::ToolUse { id, name, .. } => {
                names.insert(id.clone(), name.clone());
            }
            Block::ToolResult { id, name, .. } => *name = names.get(id).cloned(),
            _ => {}
        }
    }
}

fn tools(fields: &mut Fields) -> Result<Vec<Tool>, Error> {
    let list = fields.list("tools")?.unwrap_or_default();
    list.into_iter().enumerate().map(|(at, value)| tool(value, format!("tools[{at}]"))).collect()
}

fn tool(value: Value, path: String) -> Result<Tool, Error> {
    let kind = value.get("type").and_then(Value::as_str).unwrap_or("custom");
    if kind != "custom" {
        let name = value.get("name").and_then(Value::as_str).unwrap_or(kind).to_owned();
        return Ok(Tool {
            name,
            description: None,
            parameters: None,
            strict: None,
            cache: None,
            opaque: Some((NAME, value)),
        });
    }
    let mut fields = Fields::new(value, path)?;
    let parameters = fields.object("input_schema")?.map(|schema| Value::Object(schema.rest()));
    if parameters.is_none() {
        return Err(fields.wrong("input_schema", "is required, as a JSON schema of type object"));
    }
    Ok(Tool {
        name: fields.need_text("name")?,
        description: fields.text("description")?,
        parameters,
        strict: fields.flag("strict")?,
        cache: fields.any("cache_control"),
        opaque: None,
    })
}

fn choice(fields: &mut Fields, request: &mut Request) -> Result<(), Error> {
    let Some(mut choice) = fields.object("tool_choice")? else { return Ok(()) };
    request.tool_choice = Some(match choice.need_text("type")?.as_str() {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Any,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Named(choice.need_text("name")?),
        _ => return Err(choice.wrong("type", "must be auto, any, tool or none")),
    });
    request.parallel_tool_calls =
        choice.flag("disable_parallel_tool_use")?.map(|disabled| !disabled);
    Ok(())
}

fn thinking(
    fields: &mut Fields,
    request: &mut Request,
    extra: &mut Map<String, Value>,
) -> Result<(), Error> {
    let Some(thinking) = fields.any("thinking") else { return Ok(()) };
    let written = thinking.clone();
    let mut thinking = Fields::new(thinking, "thinking")?;
    let shown = thinking.text("display")?.is_none_or(|display| display != "omitted");
    let mut reasoning =
        Reasoning { summary: shown.then(|| "auto".to_owned()), ..Reasoning::default() };
    match thinking.need_text("type")?.as_str() {
        "disabled" => {
            reasoning = Reasoning { effort: Some("none".to_owned()), ..Reasoning::default() }
        }
        "enabled" => {
            let budget = thinking.count("budget_tokens")?;
            reasoning.budget_tokens = Some(budget.ok_or_else(|| {
                thinking.wrong("budget_tokens", "is required, as a number of tokens")
            })?);
        }
        "adaptive" => reasoning.adaptive = true,
        // A way of thinking that no other vendor has.
        _ => {
            extra.insert("thinking".to_owned(), written);
            return Ok(());
        }
    }
    request.reasoning = Some(reasoning);
    Ok(())
}

/// `output_config` and its predecessor `output_format`.
fn output(
    fields: &mut Fields,
    request: &mut Request,
    extra: &mut Map<String, Value>,
) -> Result<(), Error> {
    if let Some(format) = fields.object("output_format")? {
        request.format = Some(format_of(format)?);
    }
    let Some(mut config) = fields.object("output_config")? else { return Ok(()) };
    if let Some(effort) = config.text("effort")? {
        request.reasoning.get_or_insert_default().effort.get_or_insert(effort);
    }
    if let Some(format) = config.object("format")? {
        request.format = Some(format_of(format)?);
    }
    let rest = config.rest();
    if !rest.is_empty() {
        extra.insert("output_config".to_owned(), Value::Object(rest));
    }
    Ok(())
}

fn format_of(mut fields: Fields) -> Result<Format, Error> {
    if fields.need_text("type")? != "json_schema" {
        return Err(fields.wrong("type", "must be json_schema"));
    }
    let schema = fields
        .object("schema")?
        .ok_or_else(|| fields.wrong("schema", "is required, as a JSON schema"))?;
    Ok(Format::JsonSchema {
        name: "output".to_owned(),
        description: None,
        schema: Value::Object(schema.rest()),
        strict: Some(true),
    })
}

fn metadata(
    fields: &mut Fields,
    request: &mut Request,
    extra: &mut Map<String, Value>,
) -> Result<(), Error> {
    let Some(mut metadata) = fields.object("metadata")? else { return Ok(()) };
    request.user = metadata.text("user_id")?;
    let rest = metadata.rest();
    if !rest.is_empty() {
        extra.insert("metadata".to_owned(), Value::Object(rest));
    }
    Ok(())
}
