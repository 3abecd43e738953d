//! Embeddings.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::error;
use super::upstream::insert;
use crate::dialect::{Error, WireRequest};
use crate::embed::{Input, Reply, Request};
use crate::json::{self, Fields};
use crate::usage::wire;

/// Reads a caller's request.
pub(super) fn decode(body: &[u8], path_model: Option<&str>) -> Result<Request, Error> {
    let mut fields = json::body(body)?;
    let model = match path_model {
        Some(model) => model.to_owned(),
        None => fields.need_text("model")?,
    };
    let inputs = inputs(&mut fields)?;
    let base64 = match fields.text("encoding_format")?.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(fields.wrong("encoding_format", "must be float or base64")),
    };
    Ok(Request {
        model,
        inputs,
        dimensions: fields.count("dimensions")?,
        base64,
        task: None,
        single: false,
        title: None,
        user: fields.text("user")?,
    })
}

fn inputs(fields: &mut Fields) -> Result<Vec<Input>, Error> {
    const WORDS: &str = "must be a string, a list of strings, a list of tokens or a list of such lists, and not empty";
    let wrong = |fields: &Fields| fields.wrong("input", WORDS);
    match fields.any("input") {
        Some(Value::String(text)) => Ok(vec![Input::Text(text)]),
        Some(Value::Array(list)) if list.iter().all(Value::is_number) && !list.is_empty() => {
            Ok(vec![Input::Tokens(tokens(&list).ok_or_else(|| wrong(fields))?)])
        }
        Some(Value::Array(list)) if !list.is_empty() => list
            .into_iter()
            .map(|it| match it {
                Value::String(text) => Ok(Input::Text(text)),
                Value::Array(list) => tokens(&list).map(Input::Tokens).ok_or_else(|| wrong(fields)),
                _ => Err(wrong(fields)),
            })
            .collect(),
        _ => Err(wrong(fields)),
    }
}

fn tokens(list: &[Value]) -> Option<Vec<u64>> {
    list.iter().map(Value::as_u64).collect()
}

/// Writes a request for an upstream. Vectors are asked for as numbers: not every server knows base64.
pub(super) fn encode(request: &Request) -> WireRequest {
    let input: Vec<Value> = request
        .inputs
        .iter()
        .map(|it| match it {
            Input::Text(text) => json!(text),
            Input::Tokens(tokens) => json!(tokens),
        })
        .collect();
    let mut body = Map::new();
    body.insert("model".to_owned(), json!(request.model));
    body.insert("input".to_owned(), Value::Array(input));
    insert(&mut body, "dimensions", request.dimensions.map(|it| json!(it)));
    insert(&mut body, "user", request.user.as_ref().map(|it| json!(it)));
    body.insert("encoding_format".to_owned(), json!("float"));
    let mut dropped = Vec::new();
    if request.task.is_some() {
        dropped.push("taskType".to_owned());
    }
    if request.title.is_some() {
        dropped.push("title".to_owned());
    }
    WireRequest {
        path: "/embeddings".to_owned(),
        body: json::write(&Value::Object(body)),
        headers: Vec::new(),
        dropped,
    }
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    model: String,
    data: Vec<Item>,
    #[serde(default)]
    usage: Option<wire::OpenAi>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    index: Option<usize>,
    embedding: Vector,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Vector {
    Numbers(Vec<f32>),
    Base64(String),
}

/// Reads an upstream's reply.
pub(super) fn decode_reply(body: &[u8]) -> Result<Reply, Error> {
    let wire: Wire = serde_json::from_slice(body).map_err(|error| Error::Reply {
        problem: error::decode(body).message.unwrap_or_else(|| error.to_string()),
    })?;
    let mut items: Vec<(usize, Vec<f32>)> = Vec::with_capacity(wire.data.len());
    for (at, item) in wire.data.into_iter().enumerate() {
        let vector = match item.embedding {
            Vector::Numbers(numbers) => numbers,
            Vector::Base64(text) => floats(&text)?,
        };
        items.push((item.index.unwrap_or(at), vector));
    }
    items.sort_by_key(|it| it.0);
    Ok(Reply {
        model: wire.model,
        vectors: items.into_iter().map(|it| it.1).collect(),
        usage: wire.usage.map(|it| it.usage()).unwrap_or_default(),
    })
}

fn floats(text: &str) -> Result<Vec<f32>, Error> {
    let bytes = STANDARD
        .decode(text)
        .map_err(|_| Error::Reply { problem: "an embedding is not base64".to_owned() })?;
    let (words, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Error::Reply {
            problem: "an embedding is no list of 32-bit floats".to_owned(),
        });
    }
    Ok(words.iter().map(|it| f32::from_le_bytes(*it)).collect())
}

#[derive(Serialize)]
struct Listing<'r> {
    object: &'static str,
    data: Vec<Listed<'r>>,
    model: &'r str,
    usage: Value,
}

#[derive(Serialize)]
struct Listed<'r> {
    object: &'static str,
    index: usize,
    embedding: Written<'r>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Written<'r> {
    Numbers(&'r [f32]),
    Base64(String),
}

/// Writes a reply for a caller.
pub(super) fn encode_reply(request: &Request, reply: &Reply) -> Vec<u8> {
    let data = reply.vectors.iter().enumerate().map(|(index, vector)| Listed {
        object: "embedding",
        index,
        embedding: if request.base64 {
            let bytes: Vec<u8> = vector.iter().flat_map(|it| it.to_le_bytes()).collect();
            Written::Base64(STANDARD.encode(bytes))
        } else {
            Written::Numbers(vector)
        },
    });
    let listing = Listing {
        object: "list",
        data: data.collect(),
        model: &request.model,
        usage: json!({"prompt_tokens": reply.usage.input, "total_tokens": reply.usage.input}),
    };
    serde_json::to_vec(&listing).unwrap_or_default()
}
