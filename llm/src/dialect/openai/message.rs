//! Messages, read from a caller's request.

use std::collections::HashMap;

use serde_json::Value;

use super::{NAME, legacy, part, reasoning};
use crate::chat::{Block, Message, Request, Role};
use crate::dialect::Error;
use crate::json::{self, Fields};
use crate::seal;

/// Reads `messages` into the system's and the others'.
pub(super) fn decode(fields: &mut Fields, request: &mut Request) -> Result<(), Error> {
    let list = fields
        .list("messages")?
        .ok_or_else(|| fields.wrong("messages", "is required, as a list"))?;
    let mut names = HashMap::new();
    let mut legacy = legacy::Calls::default();
    let mut results = false;
    for (at, value) in list.into_iter().enumerate() {
        let mut turn = Fields::new(value, format!("messages[{at}]"))?;
        let role = turn.need_text("role")?;
        if role != "tool" {
            results = false;
        }
        match role.as_str() {
            "system" | "developer" => system(&mut turn, request)?,
            "user" => {
                let content = said(&mut turn)?;
                request.messages.push(Message {
                    role: Role::User,
                    content,
                    name: turn.text("name")?,
                });
            }
            "assistant" => {
                let mut content = assistant(&mut turn, &mut names)?;
                if let Some(call) = turn.object("function_call")? {
                    content.push(legacy.begin(call)?);
                }
                let name = turn.text("name")?;
                request.messages.push(Message { role: Role::Assistant, content, name });
            }
            "tool" => {
                let result = result(&mut turn, &names)?;
                match request.messages.last_mut().filter(|_| results) {
                    Some(last) => last.content.push(result),
                    None => request.messages.push(Message {
                        role: Role::User,
                        content: vec![result],
                        name: None,
                    }),
                }
                results = true;
            }
            "function" => {
                let content = said(&mut turn)?;
                let content = vec![legacy.end(&mut turn, content)?];
                request.messages.push(Message { role: Role::User, content, name: None });
            }
            _ => {
                return Err(
                    turn.wrong("role", "must be system, developer, user, assistant or tool")
                );
            }
        }
    }
    Ok(())
}

fn said(turn: &mut Fields) -> Result<Vec<Block>, Error> {
    if !turn.has("content") {
        return Err(turn.wrong("content", "is required, as a string or a list of content parts"));
    }
    part::content(turn, "content")
}

/// Instructions before the conversation are the system's; later ones stay where they are.
fn system(turn: &mut Fields, request: &mut Request) -> Result<(), Error> {
    let content = said(turn)?;
    if request.messages.is_empty() {
        request.system.extend(content);
    } else {
        request.messages.push(Message { role: Role::System, content, name: turn.text("name")? });
    }
    Ok(())
}

fn assistant(turn: &mut Fields, names: &mut HashMap<String, String>) -> Result<Vec<Block>, Error> {
    let mut content = reasoning::take(turn)?;
    content.extend(part::content(turn, "content")?);
    if let Some(text) = turn.text("refusal")? {
        content.push(Block::Refusal { text });
    }
    if let Some(audio) = turn.any("audio") {
        content.push(Block::Opaque { dialect: NAME, value: serde_json::json!({"audio": audio}) });
    }
    let calls = turn.list("tool_calls")?.unwrap_or_default();
    for (at, call) in calls.into_iter().enumerate() {
        content.push(tool_call(call, &turn.at(&format!("tool_calls[{at}]")), names)?);
    }
    Ok(content)
}

fn tool_call(
    value: Value,
    path: &str,
    names: &mut HashMap<String, String>,
) -> Result<Block, Error> {
    let kind = value.get("type").and_then(Value::as_str).unwrap_or("function");
    if kind != "function" {
        return Ok(Block::Opaque { dialect: NAME, value });
    }
    let mut fields = Fields::new(value, path)?;
    let id = fields.need_text("id")?;
    let signature = signature(&mut fields);
    let mut function = fields
        .object("function")?
        .ok_or_else(|| fields.wrong("function", "is required, as an object"))?;
    let name = function.need_text("name")?;
    let arguments = arguments(&mut function)?;
    names.insert(id.clone(), name.clone());
    Ok(Block::ToolUse { id, name, arguments, signature, cache: None })
}

/// A call's arguments are JSON text; some clients and vendors write the object itself.
pub(super) fn arguments(function: &mut Fields) -> Result<String, Error> {
    if let Some(object) = function.any_if("arguments", Value::is_object) {
        return Ok(object.to_string());
    }
    Ok(function.text("arguments")?.unwrap_or_default())
}

/// A call's seal, where Google's own endpoint in this dialect has it.
pub(super) fn signature(call: &mut Fields) -> Option<String> {
    let extra = call.any("extra_content")?;
    let signature = extra.pointer("/google/thought_signature")?.as_str()?;
    Some(seal::marked("gemini", signature))
}

fn result(turn: &mut Fields, names: &HashMap<String, String>) -> Result<Block, Error> {
    let id = turn.need_text("tool_call_id")?;
    let name = names.get(&id).cloned().or(turn.text("name")?);
    let cache = turn.any("cache_control");
    let content = said(turn)?;
    if content.iter().any(|it| matches!(it, Block::Refusal { .. })) {
        return Err(json::field(turn.at("content"), "a tool does not refuse: send text"));
    }
    Ok(Block::ToolResult { id, name, content, is_error: false, cache })
}
