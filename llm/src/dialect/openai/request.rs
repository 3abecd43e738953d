//! A caller's request, read.

use std::collections::HashSet;

use serde_json::Value;

use super::{NAME, legacy, message};
use crate::chat::{Format, Reasoning, Request, Tool, ToolChoice};
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
    message::decode(&mut fields, &mut request)?;
    request.tools = tools(&mut fields)?;
    choice(&mut fields, &mut request)?;
    request.parallel_tool_calls = fields.flag("parallel_tool_calls")?;
    legacy::decode(&mut fields, &mut request)?;
    sampling(&mut fields, &mut request)?;
    request.reasoning = reasoning(&mut fields)?;
    request.format = format(&mut fields)?;
    request.user = fields.text("user")?;
    request.metadata = fields.any("metadata");
    request.stream = fields.flag("stream")?.unwrap_or(path_stream);
    if let Some(mut options) = fields.object("stream_options")? {
        request.stream_usage = options.flag("include_usage")?.unwrap_or(false);
    }
    // The gateway's own.
    fields.any("fallbacks");
    request.extra = fields.rest();
    request.extra.retain(|_, value| !value.is_null());
    Ok(request)
}

fn sampling(fields: &mut Fields, request: &mut Request) -> Result<(), Error> {
    let (old, new) = (fields.count("max_tokens")?, fields.count("max_completion_tokens")?);
    request.max_tokens = new.or(old);
    request.temperature = fields.number("temperature")?;
    request.top_p = fields.number("top_p")?;
    request.top_k = fields.count("top_k")?;
    request.presence_penalty = fields.number("presence_penalty")?;
    request.frequency_penalty = fields.number("frequency_penalty")?;
    request.seed = fields.integer("seed")?;
    request.stop = match fields.any_if("stop", Value::is_string) {
        Some(Value::String(stop)) => vec![stop],
        _ => fields.texts("stop")?,
    };
    request.n = fields.count("n")?;
    let top = fields.count("top_logprobs")?;
    request.logprobs = fields.flag("logprobs")?.unwrap_or(false).then(|| top.unwrap_or(0));
    Ok(())
}

fn tools(fields: &mut Fields) -> Result<Vec<Tool>, Error> {
    let list = fields.list("tools")?.unwrap_or_default();
    list.into_iter().enumerate().map(|(at, value)| tool(value, format!("tools[{at}]"))).collect()
}

fn tool(value: Value, path: String) -> Result<Tool, Error> {
    let kind = value.get("type").and_then(Value::as_str).unwrap_or("function");
    if kind != "function" {
        let name = value.pointer(&format!("/{kind}/name")).and_then(Value::as_str).unwrap_or(kind);
        let name = name.to_owned();
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
    let cache = fields.any("cache_control");
    let mut function = fields
        .object("function")?
        .ok_or_else(|| fields.wrong("function", "is required, as an object with a `name`"))?;
    Ok(Tool {
        name: function.need_text("name")?,
        description: function.text("description")?,
        parameters: function.object("parameters")?.map(|it| Value::Object(it.rest())),
        strict: function.flag("strict")?,
        cache,
        opaque: None,
    })
}

fn choice(fields: &mut Fields, request: &mut Request) -> Result<(), Error> {
    const WORDS: &str = "must be auto, none, required or an object that names a tool";
    let choice = match fields.any("tool_choice") {
        None => return Ok(()),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "required" | "any" => ToolChoice::Any,
            _ => return Err(fields.wrong("tool_choice", WORDS)),
        },
        Some(value) => {
            let mut choice = Fields::new(value, "tool_choice")?;
            let kind = choice.text("type")?.unwrap_or_else(|| "function".to_owned());
            match kind.as_str() {
                "function" | "custom" => {
                    let named = choice.object(&kind)?;
                    let mut named = named.ok_or_else(|| {
                        choice.wrong(&kind, "is required, as an object with a `name`")
                    })?;
                    ToolChoice::Named(named.need_text("name")?)
                }
                "allowed_tools" => allowed(choice, request)?,
                _ => return Err(fields.wrong("tool_choice", WORDS)),
            }
        }
    };
    request.tool_choice = Some(choice);
    Ok(())
}

/// A choice among some of the tools: the others are taken out, which means the same to every vendor.
fn allowed(mut choice: Fields, request: &mut Request) -> Result<ToolChoice, Error> {
    let nested = choice.object("allowed_tools")?;
    let mut allowed = nested.unwrap_or(choice);
    let mode = allowed.text("mode")?;
    let list = allowed
        .list("tools")?
        .ok_or_else(|| allowed.wrong("tools", "is required, as a list of tools"))?;
    let names: HashSet<&str> = list.iter().filter_map(tool_name).collect();
    request.tools.retain(|tool| names.contains(tool.name.as_str()));
    match mode.as_deref() {
        None | Some("auto") => Ok(ToolChoice::Auto),
        Some("required") => Ok(ToolChoice::Any),
        Some(_) => Err(allowed.wrong("mode", "must be auto or required")),
    }
}

fn tool_name(tool: &Value) -> Option<&str> {
    let kind = tool.get("type")?.as_str()?;
    tool.pointer(&format!("/{kind}/name"))
        .or_else(|| tool.get("name"))
        .map_or(Some(kind), Value::as_str)
}

fn reasoning(fields: &mut Fields) -> Result<Option<Reasoning>, Error> {
    let effort = fields.text("reasoning_effort")?;
    let nested = fields.object("reasoning")?;
    if effort.is_none() && nested.is_none() {
        return Ok(None);
    }
    let mut reasoning = Reasoning { effort, ..Reasoning::default() };
    if let Some(mut nested) = nested {
        if let Some(effort) = nested.text("effort")? {
            reasoning.effort = Some(effort);
        }
        reasoning.budget_tokens = nested.count("max_tokens")?;
        reasoning.summary = nested.text("summary")?;
        if nested.flag("enabled")? == Some(false) {
            reasoning.effort = Some("none".to_owned());
        }
    }
    Ok(Some(reasoning))
}

fn format(fields: &mut Fields) -> Result<Option<Format>, Error> {
    let Some(mut format) = fields.object("response_format")? else { return Ok(None) };
    match format.need_text("type")?.as_str() {
        "text" => Ok(None),
        "json_object" => Ok(Some(Format::JsonObject)),
        "json_schema" => {
            let schema = format.object("json_schema")?;
            let schema =
                schema.ok_or_else(|| format.wrong("json_schema", "is required, as an object"))?;
            json_schema(schema).map(Some)
        }
        _ => Err(format.wrong("type", "must be text, json_object or json_schema")),
    }
}

/// The named schema that chat completions and Responses share.
pub(crate) fn json_schema(mut fields: Fields) -> Result<Format, Error> {
    let schema = fields.object("schema")?.map_or_else(Default::default, Fields::rest);
    Ok(Format::JsonSchema {
        name: fields.need_text("name")?,
        description: fields.text("description")?,
        schema: Value::Object(schema),
        strict: fields.flag("strict")?,
    })
}
