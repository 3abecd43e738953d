//! Embeddings: `embedContent` and `batchEmbedContents`.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::path;
use crate::dialect::{Error, WireRequest};
use crate::embed::{Input, Reply, Request};
use crate::json::{self, Fields};
use crate::usage::Usage;

/// What holds for every input of a request.
type Common = (Option<String>, Option<String>, Option<u64>);

/// Reads a caller's request, for one input or several.
pub(super) fn decode(body: &[u8], path_model: Option<&str>) -> Result<Request, Error> {
    let mut fields = json::body(body)?.or_snake();
    let mut body_model = fields.text("model")?;
    let single = !fields.has("requests");
    let (mut inputs, mut common) = (Vec::new(), None::<Common>);
    if single {
        let (input, of) = one(&mut fields)?;
        inputs.push(input);
        common = Some(of);
    }
    for (at, value) in fields.list("requests")?.unwrap_or_default().into_iter().enumerate() {
        let mut inner = Fields::new(value, format!("requests[{at}]"))?.or_snake();
        body_model = body_model.or(inner.text("model")?);
        let (input, of) = one(&mut inner)?;
        inputs.push(input);
        if *common.get_or_insert_with(|| of.clone()) != of {
            let problem = "taskType, title and outputDimensionality must be the same in all requests of a batch";
            return Err(json::field(inner.at("taskType"), problem));
        }
    }
    if inputs.is_empty() {
        return Err(fields.wrong("requests", "must not be empty"));
    }
    let model = path_model.or(body_model.as_deref());
    let model = model.ok_or_else(|| {
        fields.wrong("model", "is required, in the path: models/{model}:embedContent")
    })?;
    let (task, title, dimensions) = common.unwrap_or_default();
    let model = path::bare(model).to_owned();
    Ok(Request { model, inputs, dimensions, base64: false, task, single, title, user: None })
}

fn one(fields: &mut Fields) -> Result<(Input, Common), Error> {
    let mut content = fields
        .object("content")?
        .ok_or_else(|| fields.wrong("content", "is required, as an object"))?;
    let mut text = String::new();
    for (at, value) in content.list("parts")?.unwrap_or_default().into_iter().enumerate() {
        let mut part = Fields::new(value, content.at(&format!("parts[{at}]")))?.or_snake();
        text.push_str(&part.need_text("text")?);
    }
    let mut common: Common =
        (fields.text("taskType")?, fields.text("title")?, fields.count("outputDimensionality")?);
    if let Some(mut config) = fields.object("embedContentConfig")? {
        common.0 = common.0.or(config.text("taskType")?);
        common.1 = common.1.or(config.text("title")?);
        common.2 = common.2.or(config.count("outputDimensionality")?);
    }
    Ok((Input::Text(text), common))
}

/// A vector as Google writes it. Written from `f32`, whose digits are fewer than those of the same number as `f64`.
#[derive(Serialize)]
struct Vector<'a> {
    values: &'a [f32],
}

/// Writes vectors for a caller.
pub(super) fn encode_reply(request: &Request, reply: &Reply) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        embedding: Option<Vector<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        embeddings: Option<Vec<Vector<'a>>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        usage_metadata: Option<Value>,
    }
    let mut vectors = reply.vectors.iter().map(|values| Vector { values });
    let (embedding, embeddings) =
        if request.single { (vectors.next(), None) } else { (None, Some(vectors.collect())) };
    let usage_metadata =
        (reply.usage.input > 0).then(|| json!({"promptTokenCount": reply.usage.input}));
    // Strings and numbers only: nothing that could fail to be written.
    serde_json::to_vec(&Body { embedding, embeddings, usage_metadata }).unwrap_or_default()
}

/// Writes a request for an upstream: always a batch.
pub(super) fn encode(request: &Request) -> Result<WireRequest, Error> {
    let resource = path::resource(&request.model);
    let mut requests = Vec::with_capacity(request.inputs.len());
    for (at, input) in request.inputs.iter().enumerate() {
        let Input::Text(text) = input else {
            return Err(json::field(
                format!("input[{at}]"),
                "Gemini embeds text, not tokens: send the text itself",
            ));
        };
        let mut one = Map::new();
        one.insert("model".to_owned(), json!(resource));
        one.insert("content".to_owned(), json!({"parts": [{"text": text}]}));
        for (name, value) in [
            ("taskType", request.task.as_ref().map(|task| json!(task))),
            ("title", request.title.as_ref().map(|title| json!(title))),
            ("outputDimensionality", request.dimensions.map(Value::from)),
        ] {
            one.extend(value.map(|value| (name.to_owned(), value)));
        }
        requests.push(Value::Object(one));
    }
    Ok(WireRequest {
        path: path::of(&request.model, "batchEmbedContents"),
        body: json::write(&json!({ "requests": requests })),
        headers: Vec::new(),
        dropped: request.user.iter().map(|_| "user".to_owned()).collect(),
    })
}

/// Reads vectors. Google does not name the model, and often not the tokens.
pub(super) fn decode_reply(body: &[u8]) -> Result<Reply, Error> {
    read(body).map_err(json::of_reply)
}

fn read(body: &[u8]) -> Result<Reply, Error> {
    let mut fields = json::body(body)?.or_snake();
    let single = fields.any("embedding").map(|vector| vec![vector]);
    let list = match single {
        Some(list) => list,
        None => {
            fields.list("embeddings")?.ok_or_else(|| fields.wrong("embeddings", "is missing"))?
        }
    };
    let mut vectors = Vec::with_capacity(list.len());
    for (at, value) in list.into_iter().enumerate() {
        let mut vector = Fields::new(value, format!("embeddings[{at}]"))?.or_snake();
        let values = vector.list("values")?.unwrap_or_default();
        let numbers: Option<Vec<f32>> = values.iter().map(number).collect();
        vectors.push(numbers.ok_or_else(|| vector.wrong("values", "must be numbers"))?);
    }
    let input = fields.any("usageMetadata").map_or(0, |said| super::reply::usage(&said).input);
    Ok(Reply { model: String::new(), vectors, usage: Usage { input, ..Usage::default() } })
}

/// A vector's number. Read from its digits, as `f32` is meant, rather than by way of `f64`.
fn number(value: &Value) -> Option<f32> {
    let number: f32 = value.as_number()?.to_string().parse().ok()?;
    number.is_finite().then_some(number)
}
