//! A caller's request, read. Both of protobuf's spellings of a name are taken.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::part::{self, Calls};
use super::{NAME, path, schema};
use crate::chat::{Block, Format, Message, Reasoning, Request, Role, Tool, ToolChoice};
use crate::dialect::Error;
use crate::json::{self, Fields};

/// Reads a request.
pub(super) fn decode(
    body: &[u8],
    path_model: Option<&str>,
    path_stream: bool,
) -> Result<Request, Error> {
    read(json::body(body)?.or_snake(), path_model, path_stream)
}

/// Reads a request to count: contents alone, or a whole request inside.
pub(super) fn decode_count(body: &[u8], path_model: Option<&str>) -> Result<Request, Error> {
    let mut fields = json::body(body)?.or_snake();
    match fields.object("generateContentRequest")? {
        Some(inner) => read(inner, path_model, false),
        None => read(fields, path_model, false),
    }
}

fn read(mut fields: Fields, path_model: Option<&str>, path_stream: bool) -> Result<Request, Error> {
    let mut request = Request { dialect: NAME, stream: path_stream, ..Request::default() };
    let body_model = fields.text("model")?;
    request.model = match path_model.or(body_model.as_deref()) {
        Some(model) => path::bare(model).to_owned(),
        None => {
            return Err(
                fields.wrong("model", "is required, in the path: models/{model}:generateContent")
            );
        }
    };
    let mut calls = Calls::default();
    if let Some(mut system) = fields.object("systemInstruction")? {
        request.system = parts(&mut system, &mut calls)?;
    }
    request.messages = contents(&mut fields, &mut calls)?;
    let mut extra = Map::new();
    for (at, tool) in fields.list("tools")?.unwrap_or_default().into_iter().enumerate() {
        tools(Fields::new(tool, format!("tools[{at}]"))?.or_snake(), &mut request.tools)?;
    }
    choice(&mut fields, &mut request, &mut extra)?;
    if let Some(config) = fields.object("generationConfig")? {
        generation(config, &mut request, &mut extra)?;
    }
    fields.any("fallbacks"); // Ours, not the vendor's.
    extra.extend(fields.rest());
    request.extra = extra;
    Ok(request)
}

fn parts(content: &mut Fields, calls: &mut Calls) -> Result<Vec<Block>, Error> {
    let mut blocks = Vec::new();
    for (at, value) in content.list("parts")?.unwrap_or_default().into_iter().enumerate() {
        part::decode(value, &content.at(&format!("parts[{at}]")), calls, &mut blocks)?;
    }
    Ok(blocks)
}

fn contents(fields: &mut Fields, calls: &mut Calls) -> Result<Vec<Message>, Error> {
    let list = fields
        .list("contents")?
        .ok_or_else(|| fields.wrong("contents", "is required, as a list"))?;
    let mut messages: Vec<Message> = Vec::with_capacity(list.len());
    for (at, value) in list.into_iter().enumerate() {
        let mut turn = Fields::new(value, format!("contents[{at}]"))?.or_snake();
        let role = match turn.text("role")?.as_deref() {
            None | Some("" | "user" | "function" | "tool") => Role::User,
            Some("model") => Role::Assistant,
            Some("system") => Role::System,
            Some(_) => return Err(turn.wrong("role", "must be user or model")),
        };
        calls.scope = at.to_string();
        let content = parts(&mut turn, calls)?;
        match messages.last_mut() {
            // A streamed reply comes back from SDKs as one content for each chunk.
            Some(last) if last.role == role && role == Role::Assistant => {
                last.content.extend(content);
            }
            _ => messages.push(Message { role, content, name: None }),
        }
    }
    for message in &mut messages {
        if message.role == Role::Assistant {
            message.content = part::join(std::mem::take(&mut message.content));
        }
    }
    Ok(messages)
}

fn tools(mut fields: Fields, into: &mut Vec<Tool>) -> Result<(), Error> {
    for (at, value) in
        fields.list("functionDeclarations")?.unwrap_or_default().into_iter().enumerate()
    {
        let path = fields.at(&format!("functionDeclarations[{at}]"));
        let mut declared = Fields::new(value, path)?.or_snake();
        let own = declared
            .object("parameters")?
            .map(|own| schema::from_gemini(Value::Object(own.rest())));
        into.push(Tool {
            name: declared.need_text("name")?,
            description: declared.text("description")?,
            parameters: declared.any("parametersJsonSchema").or(own),
            strict: None,
            cache: None,
            opaque: None,
        });
    }
    // What is left are tools that Google runs, each under its own name.
    for (name, value) in fields.rest() {
        let opaque = Some((NAME, json!({ name.clone(): value })));
        into.push(Tool {
            name,
            description: None,
            parameters: None,
            strict: None,
            cache: None,
            opaque,
        });
    }
    Ok(())
}

fn choice(
    fields: &mut Fields,
    request: &mut Request,
    extra: &mut Map<String, Value>,
) -> Result<(), Error> {
    let Some(mut config) = fields.object("toolConfig")? else { return Ok(()) };
    let mut kept = Map::new();
    if let Some(mut calling) = config.object("functionCallingConfig")? {
        let mode = calling.text("mode")?.map(|mode| mode.to_ascii_uppercase());
        let mut allowed = calling.texts("allowedFunctionNames")?;
        request.tool_choice = match mode.as_deref() {
            None | Some("MODE_UNSPECIFIED") => None,
            Some("AUTO") => Some(ToolChoice::Auto),
            Some("NONE") => Some(ToolChoice::None),
            Some("ANY") if allowed.len() == 1 => allowed.pop().map(ToolChoice::Named),
            Some("ANY") => Some(ToolChoice::Any),
            Some("VALIDATED") => {
                calling_extra(&mut kept, "mode", json!("VALIDATED"));
                Some(ToolChoice::Auto)
            }
            Some(_) => return Err(calling.wrong("mode", "must be AUTO, ANY, NONE or VALIDATED")),
        };
        if !allowed.is_empty() {
            // To other vendors a choice among some is the same without the others.
            if mode.as_deref() == Some("ANY") {
                let names: HashSet<&str> = allowed.iter().map(String::as_str).collect();
                request.tools.retain(|it| it.opaque.is_some() || names.contains(it.name.as_str()));
            }
            calling_extra(&mut kept, "allowedFunctionNames", json!(allowed));
        }
        for (name, value) in calling.rest() {
            calling_extra(&mut kept, &name, value);
        }
    }
    kept.extend(config.rest());
    if !kept.is_empty() {
        extra.insert("toolConfig".to_owned(), Value::Object(kept));
    }
    Ok(())
}

fn calling_extra(kept: &mut Map<String, Value>, name: &str, value: Value) {
    let calling = kept.entry("functionCallingConfig").or_insert_with(|| json!({}));
    if let Value::Object(calling) = calling {
        calling.insert(name.to_owned(), value);
    }
}

fn generation(
    mut config: Fields,
    request: &mut Request,
    extra: &mut Map<String, Value>,
) -> Result<(), Error> {
    request.temperature = config.number("temperature")?;
    request.top_p = config.number("topP")?;
    request.top_k = config.count("topK")?;
    request.n = config.count("candidateCount")?;
    request.max_tokens = config.count("maxOutputTokens")?;
    request.stop = config.texts("stopSequences")?;
    request.seed = config.integer("seed")?;
    request.presence_penalty = config.number("presencePenalty")?;
    request.frequency_penalty = config.number("frequencyPenalty")?;
    let how_many = config.count("logprobs")?;
    if config.flag("responseLogprobs")? == Some(true) {
        request.logprobs = Some(how_many.unwrap_or(0));
    }
    request.format = format(&mut config)?;
    if let Some(thinking) = config.object("thinkingConfig")? {
        request.reasoning = reasoning(thinking)?;
    }
    let rest = config.rest();
    if !rest.is_empty() {
        extra.insert("generationConfig".to_owned(), Value::Object(rest));
    }
    Ok(())
}

fn format(config: &mut Fields) -> Result<Option<Format>, Error> {
    let own =
        config.object("responseSchema")?.map(|own| schema::from_gemini(Value::Object(own.rest())));
    let json_schema = config.object("responseJsonSchema")?.map(|given| Value::Object(given.rest()));
    let media_type = config.text("responseMimeType")?;
    Ok(match (json_schema.or(own), media_type.as_deref()) {
        (Some(schema), _) => Some(Format::JsonSchema {
            name: "output".to_owned(),
            description: None,
            schema,
            strict: None,
        }),
        (None, Some("application/json")) => Some(Format::JsonObject),
        (None, None | Some("text/plain" | "")) => None,
        (None, Some(_)) => {
            return Err(config.wrong(
                "responseMimeType",
                "must be text/plain or application/json, or come with a schema",
            ));
        }
    })
}

fn reasoning(mut config: Fields) -> Result<Option<Reasoning>, Error> {
    let mut reasoning = Reasoning::default();
    match config.integer("thinkingBudget")? {
        None => {}
        Some(0) => reasoning.effort = Some("none".to_owned()),
        Some(budget) if budget > 0 => reasoning.budget_tokens = u64::try_from(budget).ok(),
        Some(_) => reasoning.adaptive = true,
    }
    let level = config.text("thinkingLevel")?.map(|level| level.to_ascii_lowercase());
    if let Some(level) = level.filter(|level| level != "thinking_level_unspecified") {
        reasoning.effort = Some(level);
    }
    if config.flag("includeThoughts")? == Some(true) {
        reasoning.summary = Some("auto".to_owned());
        // Gemini's models think as they see fit where nothing else is said.
        reasoning.adaptive |= reasoning.effort.is_none() && reasoning.budget_tokens.is_none();
    }
    Ok((reasoning != Reasoning::default()).then_some(reasoning))
}
