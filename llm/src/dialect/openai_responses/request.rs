//! A caller's request, read.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{NAME, alias, item};
use crate::chat::{Block, Format, Reasoning, Request, Tool, ToolChoice};
use crate::dialect::Error;
use crate::dialect::openai::json_schema;
use crate::json::{self, Fields};

/// What only the vendor's own store or servers can do, and what to do instead.
const NOT_HERE: &[(&str, &str)] = &[
    (
        "previous_response_id",
        "names a response in the store of a provider that does not serve this model: send the conversation in `input`",
    ),
    (
        "conversation",
        "names a conversation in the store of a provider that does not serve this model: send it in `input`",
    ),
    (
        "prompt",
        "names a prompt in the store of a provider that does not serve this model: send its text in `instructions`",
    ),
];

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
    for (key, problem) in NOT_HERE {
        if fields.any(key).is_some() {
            return Err(fields.wrong(key, *problem));
        }
    }
    if fields.flag("background")? == Some(true) {
        return Err(
            fields.wrong("background", "this model's provider cannot answer later: leave it out")
        );
    }
    if let Some(instructions) = fields.text("instructions")? {
        request.system.push(Block::text(instructions));
    }
    item::decode(&mut fields, &mut request)?;
    tools(&mut fields, &mut request)?;
    choice(&mut fields, &mut request)?;
    request.parallel_tool_calls = fields.flag("parallel_tool_calls")?;
    request.max_tokens = fields.count("max_output_tokens")?;
    request.temperature = fields.number("temperature")?;
    request.top_p = fields.number("top_p")?;
    request.logprobs = fields.count("top_logprobs")?;
    request.reasoning = reasoning(&mut fields)?;
    request.user = fields.text("user")?;
    request.metadata = fields.any("metadata").filter(|it| *it != json!({}));
    request.stream = fields.flag("stream")?.unwrap_or(path_stream);
    request.stream_usage = true;
    text(&mut fields, &mut request)?;
    rest(fields, &mut request)?;
    Ok(request)
}

/// Keeps what has no place, but for what means nothing elsewhere or is done anyway.
fn rest(mut fields: Fields, request: &mut Request) -> Result<(), Error> {
    fields.any("fallbacks");
    fields.any("stream_options");
    // Nothing is stored here, and a caller who asks for a store finds out when it names what is in it.
    fields.any("store");
    let mut include = fields.texts("include")?;
    // Sealed reasoning always comes; log-probabilities are asked for by their number.
    include
        .retain(|it| it != "reasoning.encrypted_content" && it != "message.output_text.logprobs");
    if fields.text("truncation")?.is_some_and(|it| it != "disabled") {
        request.extra.insert("truncation".to_owned(), json!("auto"));
    }
    request.extra.extend(fields.rest());
    request.extra.retain(|_, value| !value.is_null());
    if !include.is_empty() {
        request.extra.insert("include".to_owned(), json!(include));
    }
    Ok(())
}

fn tools(fields: &mut Fields, request: &mut Request) -> Result<(), Error> {
    for (at, value) in fields.list("tools")?.unwrap_or_default().into_iter().enumerate() {
        let path = format!("tools[{at}]");
        match value.get("type").and_then(Value::as_str) {
            Some("namespace") => {
                let fields = Fields::new(value.clone(), path)?;
                let tools = alias::namespace(fields, value, request)?;
                request.tools.extend(tools);
            }
            Some("custom") => {
                let fields = Fields::new(value.clone(), path)?;
                let tool = alias::custom(fields, value, request)?;
                request.tools.push(tool);
            }
            _ => request.tools.push(tool(value, &path)?),
        }
    }
    Ok(())
}

fn tool(value: Value, path: &str) -> Result<Tool, Error> {
    let mut fields = Fields::new(value.clone(), path)?;
    let kind = fields.need_text("type")?;
    if kind != "function" {
        let name = fields.text("name")?.unwrap_or(kind);
        let opaque = Some((NAME, value));
        return Ok(Tool {
            name,
            description: None,
            parameters: None,
            strict: None,
            cache: None,
            opaque,
        });
    }
    Ok(Tool {
        name: fields.need_text("name")?,
        description: fields.text("description")?,
        parameters: fields.object("parameters")?.map(|it| Value::Object(it.rest())),
        strict: fields.flag("strict")?,
        cache: None,
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
            "required" => ToolChoice::Any,
            _ => return Err(fields.wrong("tool_choice", WORDS)),
        },
        Some(value) => {
            let written = value.clone();
            let mut choice = Fields::new(value, "tool_choice")?;
            match choice.need_text("type")?.as_str() {
                "function" | "custom" => ToolChoice::Named(choice.need_text("name")?),
                "allowed_tools" => allowed(choice, request)?,
                // A tool that only this vendor runs.
                _ => {
                    request.extra.insert("tool_choice".to_owned(), written);
                    return Ok(());
                }
            }
        }
    };
    request.tool_choice = Some(choice);
    Ok(())
}

/// A choice among some of the tools: the others are taken out, which means the same to every vendor.
fn allowed(mut choice: Fields, request: &mut Request) -> Result<ToolChoice, Error> {
    let list = choice
        .list("tools")?
        .ok_or_else(|| choice.wrong("tools", "is required, as a list of tools"))?;
    let names: HashSet<&str> =
        list.iter().filter_map(|it| it.get("name").or_else(|| it.get("type"))?.as_str()).collect();
    request.tools.retain(|tool| names.contains(tool.name.as_str()));
    match choice.text("mode")?.as_deref() {
        None | Some("auto") => Ok(ToolChoice::Auto),
        Some("required") => Ok(ToolChoice::Any),
        Some(_) => Err(choice.wrong("mode", "must be auto or required")),
    }
}

fn reasoning(fields: &mut Fields) -> Result<Option<Reasoning>, Error> {
    let Some(mut fields) = fields.object("reasoning")? else { return Ok(None) };
    let effort = fields.text("effort")?;
    let summary = match fields.text("summary")? {
        Some(summary) => Some(summary),
        None => fields.text("generate_summary")?,
    };
    if effort.is_none() && summary.is_none() {
        return Ok(None);
    }
    Ok(Some(Reasoning { effort, summary, ..Reasoning::default() }))
}

fn text(fields: &mut Fields, request: &mut Request) -> Result<(), Error> {
    let Some(mut text) = fields.object("text")? else { return Ok(()) };
    if let Some(verbosity) = text.text("verbosity")? {
        request.extra.insert("verbosity".to_owned(), json!(verbosity));
    }
    let Some(mut format) = text.object("format")? else { return Ok(()) };
    request.format = match format.need_text("type")?.as_str() {
        "text" => None,
        "json_object" => Some(Format::JsonObject),
        "json_schema" => Some(json_schema(format)?),
        _ => return Err(format.wrong("type", "must be text, json_object or json_schema")),
    };
    Ok(())
}
