//! What the demo model says: the same for the same request at the same time, and always labelled.

use althing_domain::time::UnixMillis;
use serde_json::{Map, Value, json};

const LABEL: &str = "[demo]";
const ID: &str = "chatcmpl-demo";
const VECTOR_LENGTH: usize = 16;

/// A whole reply.
pub(super) fn whole(request: &Value, now: UnixMillis) -> Value {
    let said = Said::of(request);
    json!({
        "id": ID, "object": "chat.completion", "created": seconds(now), "model": request["model"],
        "choices": [{ "index": 0, "message": said.message(), "logprobs": null, "finish_reason": said.finish() }],
        "usage": said.usage(request),
    })
}

/// The same as chunks of a stream.
pub(super) fn chunks(request: &Value, now: UnixMillis) -> Vec<Value> {
    let said = Said::of(request);
    let chunk = |delta: Value, finish: Value| {
        json!({
            "id": ID, "object": "chat.completion.chunk", "created": seconds(now), "model": request["model"],
            "choices": [{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }],
        })
    };
    let mut chunks = vec![chunk(json!({ "role": "assistant", "content": "" }), Value::Null)];
    match &said {
        Said::Text(text) => {
            chunks.extend(
                text.split_inclusive(' ').map(|it| chunk(json!({ "content": it }), Value::Null)),
            );
        }
        Said::Call { name, arguments } => {
            let open = json!({ "index": 0, "id": call_id(name), "type": "function", "function": { "name": name, "arguments": "" } });
            chunks.push(chunk(json!({ "tool_calls": [open] }), Value::Null));
            let rest = json!({ "index": 0, "function": { "arguments": arguments } });
            chunks.push(chunk(json!({ "tool_calls": [rest] }), Value::Null));
        }
    }
    chunks.push(chunk(json!({}), said.finish().into()));
    if request["stream_options"]["include_usage"] == true {
        let mut last = chunk(Value::Null, Value::Null);
        last["choices"] = json!([]);
        last["usage"] = said.usage(request);
        chunks.push(last);
    }
    chunks
}

/// Vectors that depend on their text alone, of length one.
pub(super) fn embeddings(request: &Value) -> Value {
    let inputs: Vec<String> = match &request["input"] {
        Value::Array(all) => all.iter().map(text_of).collect(),
        one => vec![text_of(one)],
    };
    let data: Vec<Value> = inputs
        .iter()
        .enumerate()
        .map(|(index, text)| json!({ "object": "embedding", "index": index, "embedding": vector(text) }))
        .collect();
    let tokens: usize = inputs.iter().map(|it| tokens(it)).sum();
    json!({
        "object": "list", "data": data, "model": request["model"],
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    })
}

/// As OpenAI says times: whole seconds since 1970.
const fn seconds(now: UnixMillis) -> u64 {
    now.0 / 1000
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn vector(text: &str) -> Vec<f32> {
    let mut sums = [0_u16; VECTOR_LENGTH];
    for (at, byte) in text.bytes().enumerate() {
        if let Some(sum) = sums.get_mut(at % VECTOR_LENGTH) {
            *sum = sum.wrapping_mul(31).wrapping_add(u16::from(byte));
        }
    }
    let length = sums.iter().map(|it| f32::from(*it) * f32::from(*it)).sum::<f32>().sqrt().max(1.0);
    sums.iter().map(|it| f32::from(*it) / length).collect()
}

/// What the model says.
enum Said {
    Text(String),
    Call { name: String, arguments: String },
}

impl Said {
    fn of(request: &Value) -> Self {
        let messages = request["messages"].as_array().map_or(&[][..], Vec::as_slice);
        let Some(last) = messages.last() else {
            return Self::Text(format!("{LABEL} There is no message to answer."));
        };
        let text = content(&last["content"]);
        if last["role"] == "tool" {
            return Self::Text(format!("{LABEL} The tool answered: {text}"));
        }
        if let Some(call) = call(request, &text) {
            return call;
        }
        Self::Text(format!(
            "{LABEL} This is Althing's built-in demo provider, not a language model. You said: {text}"
        ))
    }

    const fn finish(&self) -> &'static str {
        match self {
            Self::Text(_) => "stop",
            Self::Call { .. } => "tool_calls",
        }
    }

    fn message(&self) -> Value {
        match self {
            Self::Text(text) => json!({ "role": "assistant", "content": text, "refusal": null }),
            Self::Call { name, arguments } => json!({
                "role": "assistant", "content": null, "refusal": null,
                "tool_calls": [{ "id": call_id(name), "type": "function", "function": { "name": name, "arguments": arguments } }],
            }),
        }
    }

    fn usage(&self, request: &Value) -> Value {
        let input = tokens(&request["messages"].to_string());
        let output = match self {
            Self::Text(text) => tokens(text),
            Self::Call { name, arguments } => tokens(name) + tokens(arguments),
        };
        json!({ "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output })
    }
}

fn call_id(name: &str) -> String {
    format!("call_demo_{name}").chars().take(40).collect()
}

fn tokens(text: &str) -> usize {
    text.len().div_ceil(4)
}

fn content(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|it| it["text"].as_str()).collect();
            texts.join(" ")
        }
        _ => String::new(),
    }
}

/// Calls a tool that must be called, or whose name (or last part of it) the message has in it.
fn call(request: &Value, text: &str) -> Option<Said> {
    let tools = request["tools"].as_array()?;
    let choice = &request["tool_choice"];
    if choice == "none" {
        return None;
    }
    let named = choice["function"]["name"].as_str();
    let lower = text.to_lowercase();
    let is_meant = |name: &str| {
        let words = name.rsplit(['-', '/']).next().unwrap_or(name).to_lowercase();
        lower.contains(&name.to_lowercase())
            || lower.contains(&words)
            || lower.contains(&words.replace('_', " "))
    };
    let functions = || tools.iter().map(|it| &it["function"]).filter(|it| it["name"].is_string());
    let chosen = match named {
        Some(named) => functions().find(|it| it["name"] == named),
        None if choice == "required" => functions()
            .find(|it| is_meant(it["name"].as_str().unwrap_or("")))
            .or_else(|| functions().next()),
        None => functions().find(|it| is_meant(it["name"].as_str().unwrap_or(""))),
    }?;
    let name = chosen["name"].as_str()?.to_owned();
    let arguments = Value::Object(arguments(&chosen["parameters"], text)).to_string();
    Some(Said::Call { name, arguments })
}

/// Arguments that fit the required parameters: numbers of the message in their order, its text for texts.
fn arguments(schema: &Value, text: &str) -> Map<String, Value> {
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit() && c != '.' && c != '-')
        .filter_map(|it| it.trim_end_matches('.').parse::<serde_json::Number>().ok());
    let required = schema["required"].as_array().map_or(&[][..], Vec::as_slice);
    let mut arguments = Map::new();
    for name in required.iter().filter_map(Value::as_str) {
        let property = &schema["properties"][name];
        let value = if let Some(first) = property["enum"].as_array().and_then(|it| it.first()) {
            first.clone()
        } else {
            match property["type"].as_str() {
                Some("number" | "integer") => {
                    numbers.next().map_or_else(|| json!(1), Value::Number)
                }
                Some("boolean") => json!(true),
                Some("array") => json!([]),
                Some("object") => json!({}),
                _ if name.contains("zone") => json!("UTC"),
                _ if name.contains("path") => json!("."),
                _ => json!(text),
            }
        };
        arguments.insert(name.to_owned(), value);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use althing_domain::time::UnixMillis;
    use serde_json::json;

    use super::{chunks, whole};

    const NOW: UnixMillis = UnixMillis(1_800_000_000_999);

    #[test]
    fn an_answer_says_when_it_was_made() {
        let request =
            json!({ "model": "m", "messages": [], "stream_options": { "include_usage": true } });
        assert_eq!(whole(&request, NOW)["created"], 1_800_000_000);
        let chunks = chunks(&request, NOW);
        assert!(chunks.iter().all(|it| it["created"] == 1_800_000_000), "{chunks:?}");
    }

    fn adding() -> serde_json::Value {
        json!({
            "model": "demo", "messages": [{ "role": "user", "content": "please add 2 and 40" }],
            "tools": [{ "type": "function", "function": { "name": "demo-add", "parameters": {
                "type": "object", "required": ["a", "b"],
                "properties": { "a": { "type": "number" }, "b": { "type": "number" } } } } }],
        })
    }

    #[test]
    fn every_text_is_labelled_as_a_demo() {
        let reply = whole(
            &json!({ "model": "m", "messages": [{ "role": "user", "content": "hello" }] }),
            NOW,
        );
        let text = reply["choices"][0]["message"]["content"].as_str().expect("text");
        assert!(text.starts_with("[demo]") && text.contains("hello"), "{text}");
    }

    #[test]
    fn a_tool_that_the_message_names_is_called_with_its_numbers() {
        let reply = whole(&adding(), NOW);
        let call = &reply["choices"][0]["message"]["tool_calls"][0]["function"];
        assert_eq!(call["name"], "demo-add");
        assert_eq!(call["arguments"], r#"{"a":2,"b":40}"#);
        assert_eq!(reply["choices"][0]["finish_reason"], "tool_calls");
    }

    #[test]
    fn a_stream_says_what_the_whole_reply_says() {
        let request =
            json!({ "model": "m", "messages": [{ "role": "user", "content": "one two" }] });
        let streamed: String = chunks(&request, NOW)
            .iter()
            .filter_map(|it| it["choices"][0]["delta"]["content"].as_str())
            .collect();
        assert_eq!(whole(&request, NOW)["choices"][0]["message"]["content"], streamed);
    }
}
