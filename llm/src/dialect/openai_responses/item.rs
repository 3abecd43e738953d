//! Input items, read into turns.

use std::collections::HashMap;

use serde_json::Value;

use super::seals::{self, Sealed};
use super::{NAME, alias, part};
use crate::chat::{Aliased, Block, Message, Request, Role};
use crate::dialect::Error;
use crate::json::{self, Fields};

/// Reads `input` into the request's system and messages.
pub(super) fn decode(fields: &mut Fields, request: &mut Request) -> Result<(), Error> {
    let list = match fields.any("input") {
        Some(Value::String(text)) => {
            push(request, Role::User, vec![Block::text(text)]);
            return Ok(());
        }
        Some(Value::Array(list)) => list,
        Some(other) => {
            let problem = format!("must be a string or a list, but is {}", json::kind(&other));
            return Err(fields.wrong("input", problem));
        }
        None => return Err(fields.wrong("input", "is required, as a string or a list of items")),
    };
    let mut reader = Reader { request, names: HashMap::new(), seal: None };
    for (at, value) in list.into_iter().enumerate() {
        reader.item(value, &format!("input[{at}]"))?;
    }
    Ok(())
}

struct Reader<'r> {
    request: &'r mut Request,
    /// The functions of the calls so far, by the call's id.
    names: HashMap<String, String>,
    /// A seal that waits for its call.
    seal: Option<String>,
}

impl Reader<'_> {
    fn item(&mut self, value: Value, path: &str) -> Result<(), Error> {
        let kind = value.get("type").and_then(Value::as_str).map(str::to_owned);
        match kind.as_deref() {
            None | Some("message") => self.message(Fields::new(value, path)?),
            Some("function_call") => self.call(Fields::new(value, path)?),
            Some("custom_tool_call") => self.custom_call(Fields::new(value, path)?),
            Some("function_call_output" | "custom_tool_call_output") => {
                self.output(Fields::new(value, path)?)
            }
            Some("reasoning") => self.reasoning(Fields::new(value, path)?),
            Some("item_reference") => Err(json::field(
                path,
                "refers to the store of a provider that does not serve this model: send the item itself",
            )),
            Some(kind) => {
                let role = if kind.ends_with("_output") { Role::User } else { Role::Assistant };
                self.append(role, Block::Opaque { dialect: NAME, value });
                Ok(())
            }
        }
    }

    fn message(&mut self, mut fields: Fields) -> Result<(), Error> {
        let role = fields.need_text("role")?;
        if !fields.has("content") {
            return Err(
                fields.wrong("content", "is required, as a string or a list of content parts")
            );
        }
        let content = part::content(&mut fields, "content")?;
        match role.as_str() {
            "user" => push(self.request, Role::User, content),
            "assistant" => {
                for block in content {
                    self.append(Role::Assistant, block);
                }
            }
            "system" | "developer" if self.request.messages.is_empty() => {
                self.request.system.extend(content);
            }
            "system" | "developer" => push(self.request, Role::System, content),
            _ => return Err(fields.wrong("role", "must be user, assistant, system or developer")),
        }
        Ok(())
    }

    fn call(&mut self, mut fields: Fields) -> Result<(), Error> {
        let id = fields.need_text("call_id")?;
        let mut name = fields.need_text("name")?;
        if let Some(namespace) = fields.text("namespace")?.filter(|it| !it.is_empty()) {
            let function = alias::flat(&namespace, &name);
            alias::note(self.request, &function, Aliased::Namespaced { namespace, name })?;
            name = function;
        }
        let arguments = fields.text("arguments")?.unwrap_or_default();
        self.called(id, name, arguments);
        Ok(())
    }

    fn custom_call(&mut self, mut fields: Fields) -> Result<(), Error> {
        let id = fields.need_text("call_id")?;
        let name = fields.need_text("name")?;
        let input = fields.text("input")?.unwrap_or_default();
        alias::note(self.request, &name, Aliased::Custom { name: name.clone() })?;
        self.called(id, name, alias::arguments(&input));
        Ok(())
    }

    fn called(&mut self, id: String, name: String, arguments: String) {
        self.names.insert(id.clone(), name.clone());
        let signature = self.seal.take();
        self.append(
            Role::Assistant,
            Block::ToolUse { id, name, arguments, signature, cache: None },
        );
    }

    fn output(&mut self, mut fields: Fields) -> Result<(), Error> {
        let id = fields.need_text("call_id")?;
        let content = part::content(&mut fields, "output")?;
        let name = self.names.get(&id).cloned();
        let result = Block::ToolResult { id, name, content, is_error: false, cache: None };
        self.append(Role::User, result);
        Ok(())
    }

    fn reasoning(&mut self, fields: Fields) -> Result<(), Error> {
        match reasoning(fields)? {
            Sealed::Thought(block) => self.append(Role::Assistant, block),
            Sealed::Call(seal) => self.seal = Some(seal),
        }
        Ok(())
    }

    /// Adds to the turn that the last item began: one turn of a model is many items here. A user's words are a turn
    /// of their own, results after results are one.
    fn append(&mut self, role: Role, block: Block) {
        let joins = |last: &&mut Message| {
            last.role == role
                && (role == Role::Assistant
                    || last.content.iter().all(|it| matches!(it, Block::ToolResult { .. })))
        };
        match self.request.messages.last_mut().filter(joins) {
            Some(last) => last.content.push(block),
            None => push(self.request, role, vec![block]),
        }
    }
}

fn push(request: &mut Request, role: Role, content: Vec<Block>) {
    request.messages.push(Message { role, content, name: None });
}

/// Reads a reasoning item: its full text where it has one, else its summary.
pub(super) fn reasoning(mut fields: Fields) -> Result<Sealed, Error> {
    let id = fields.text("id")?;
    let encrypted = fields.text("encrypted_content")?;
    let mut text = texts(&fields.list("content")?.unwrap_or_default());
    if text.is_empty() {
        text = texts(&fields.list("summary")?.unwrap_or_default());
    }
    Ok(seals::read(text, encrypted.as_deref(), id))
}

fn texts(parts: &[Value]) -> String {
    let texts: Vec<&str> = parts.iter().filter_map(|it| it.get("text")?.as_str()).collect();
    texts.join("\n\n")
}
