//! Functions as chat completions had them first: `functions`, `function_call` and messages of the role `function`. There
//! is one call at a time, and it has no id.

use std::collections::{HashMap, VecDeque};

use serde_json::{Map, Value, json};

use super::message;
use super::reply::call_id;
use crate::chat::{Alias, Aliased, Block, Request, Tool, ToolChoice};
use crate::dialect::Error;
use crate::json::{self, Fields};

/// Calls of a conversation that wait for their result, by function.
#[derive(Debug, Default)]
pub(super) struct Calls {
    made: usize,
    open: HashMap<String, VecDeque<String>>,
}

impl Calls {
    /// The call of an assistant's message.
    pub(super) fn begin(&mut self, mut call: Fields) -> Result<Block, Error> {
        let name = call.need_text("name")?;
        let arguments = message::arguments(&mut call)?;
        let id = self.id(&name);
        self.open.entry(name.clone()).or_default().push_back(id.clone());
        Ok(Block::ToolUse { id, name, arguments, signature: None, cache: None })
    }

    /// The result in a message of the role `function`: of the first call of that function that has none.
    pub(super) fn end(&mut self, turn: &mut Fields, content: Vec<Block>) -> Result<Block, Error> {
        let name = turn.need_text("name")?;
        let waiting = self.open.get_mut(&name).and_then(VecDeque::pop_front);
        let Some(id) = waiting else {
            let problem = "answers no `function_call` of a message before it";
            return Err(turn.wrong("name", problem));
        };
        Ok(Block::ToolResult { id, name: Some(name), content, is_error: false, cache: None })
    }

    fn id(&mut self, name: &str) -> String {
        self.made += 1;
        call_id(&["function", name, &self.made.to_string()])
    }
}

/// Reads `functions` and `function_call` into the request's tools. The reply is written in the same form.
pub(super) fn decode(fields: &mut Fields, request: &mut Request) -> Result<(), Error> {
    let functions = fields.list("functions")?.unwrap_or_default();
    let choice = fields.any("function_call");
    if functions.is_empty() {
        return Ok(());
    }
    if !request.tools.is_empty() {
        return Err(fields.wrong("functions", "must not stand beside `tools`: use `tools` alone"));
    }
    for (at, value) in functions.into_iter().enumerate() {
        let mut function = Fields::new(value, format!("functions[{at}]"))?;
        let name = function.need_text("name")?;
        request.aliases.push(Alias { function: name.clone(), tool: Aliased::Legacy });
        request.tools.push(Tool {
            name,
            description: function.text("description")?,
            parameters: function.object("parameters")?.map(|it| Value::Object(it.rest())),
            strict: None,
            cache: None,
            opaque: None,
        });
    }
    request.tool_choice = match choice {
        None => None,
        Some(Value::String(word)) if word == "auto" => Some(ToolChoice::Auto),
        Some(Value::String(word)) if word == "none" => Some(ToolChoice::None),
        Some(Value::Object(named)) => {
            let mut named = Fields::new(Value::Object(named), "function_call")?;
            Some(ToolChoice::Named(named.need_text("name")?))
        }
        Some(_) => {
            let problem = "must be auto, none or an object that names a function";
            return Err(json::field("function_call", problem));
        }
    };
    // This form has room for one.
    request.parallel_tool_calls = Some(false);
    Ok(())
}

/// Whether a reply goes to a caller of this form.
pub(super) fn is_asked(aliases: &[Alias]) -> bool {
    aliases.iter().any(|it| it.tool == Aliased::Legacy)
}

/// Puts a whole message's calls into this form: the first is the one.
pub(super) fn put(message: &mut Map<String, Value>) {
    let calls = message.shift_remove("tool_calls");
    let first = calls.as_ref().and_then(|it| it.get(0)?.get("function"));
    if let Some(function) = first {
        message.insert("function_call".to_owned(), function.clone());
    }
}

/// What a piece of a stream says of its calls, in this form: of the first, without its number and id.
pub(super) fn delta(delta: &Value) -> Option<Value> {
    let Some(call) = delta.get("tool_calls").and_then(|it| it.get(0)) else {
        return Some(delta.clone());
    };
    let is_first = call.get("index").is_none_or(|it| it == 0);
    call.get("function").filter(|_| is_first).map(|it| json!({"function_call": it}))
}

/// The word for a reply that ends with a call.
pub(super) fn finish_reason(reason: &'static str) -> &'static str {
    if reason == "tool_calls" { "function_call" } else { reason }
}

#[cfg(test)]
mod tests;
