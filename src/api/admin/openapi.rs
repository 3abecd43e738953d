//! The `OpenAPI` document, made from the table of routes and the types of policy.

use std::sync::Arc;

use althing_config::diff::{Diff, Field};
use althing_domain::budget::View;
use althing_domain::object::Kind;
use http::Method;
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::Admin;
use super::call::{Call, Failure, Reply};
use super::keys::Rotation;
use super::table::{self, Bound, Form, Gives, Param, Takes};
use super::{logs, usage};

mod shown;

pub(super) async fn serve(_: Arc<Admin>, _: Call) -> Result<Reply, Failure> {
    Ok(Reply::json(document()))
}

/// The document. The same bytes each time.
#[must_use]
pub fn document() -> Value {
    let settings = || {
        SchemaSettings::draft2020_12().with(|it| it.definitions_path = "/components/schemas".into())
    };
    let mut taken = settings().into_generator();
    let mut given = settings().for_serialize().into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for bound in table::bound() {
        let operation = operation(&bound, &mut taken, &mut given);
        let path = paths.entry(bound.path()).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(bound.route.method.as_str().to_lowercase(), operation);
        }
    }
    let components = shown::components(taken, given, &mut paths);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Althing administration",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Policy of an Althing gateway. What the policy file says, this API says: the same names, the same types. Secrets go in and are never shown again: answers have their reference, or {\"set\": true}, which a write may send back to keep them.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "security": [{ "bearer": [] }, { "header": [] }],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "description": "The admin key" },
                "header": { "type": "apiKey", "in": "header", "name": "x-althing-key" },
            },
        },
    })
}

fn operation(bound: &Bound, taken: &mut SchemaGenerator, given: &mut SchemaGenerator) -> Value {
    let route = bound.route;
    let mut operation = json!({
        "operationId": operation_id(bound),
        "summary": summary(bound),
        "tags": [bound.kind.map_or("node", Kind::route)],
        "responses": responses(bound, given),
    });
    let parameters = parameters(bound);
    if let Some(fields) = operation.as_object_mut() {
        if !parameters.is_empty() {
            fields.insert("parameters".to_owned(), Value::Array(parameters));
        }
        if let Some(body) = request_body(route.takes, bound.kind, taken) {
            fields.insert("requestBody".to_owned(), body);
        }
    }
    operation
}

/// `post_virtual_keys_name_rotate`.
fn operation_id(bound: &Bound) -> String {
    let path = bound.path().replace(['{', '}'], "").replace(['/', '-', '.'], "_");
    let path = path.strip_prefix("_api_").unwrap_or(&path).to_owned();
    format!("{}_{path}", bound.route.method.as_str().to_lowercase())
}

fn summary(bound: &Bound) -> String {
    match bound.kind {
        Some(kind) => format!("{} ({kind})", bound.route.summary),
        None => bound.route.summary.to_owned(),
    }
}

fn parameters(bound: &Bound) -> Vec<Value> {
    let mut all = Vec::new();
    if bound.route.path.contains("{name}") {
        all.push(json!({ "name": "name", "in": "path", "required": true, "schema": { "type": "string" } }));
    }
    let query = |it: &Param| {
        let mut shown = json!({ "name": it.name, "in": "query", "description": it.text, "schema": form(it.form) });
        if let (Form::Words(_), Some(fields)) = (it.form, shown.as_object_mut()) {
            fields.insert("explode".to_owned(), false.into());
        }
        shown
    };
    all.extend(bound.route.query.iter().map(query));
    // Each matters where it stands; on other routes it is allowed and changes nothing.
    let of_cluster = if bound.route.method == Method::GET { "min_index" } else { "wait" };
    all.extend(table::ANYWHERE.iter().filter(|it| it.name == of_cluster).map(query));
    if matches!(bound.route.gives, Gives::Written | Gives::Key) {
        all.push(json!({
            "name": "If-Match", "in": "header", "schema": { "type": "string" },
            "description": "The ETag of the object as it was read: 412 where it was changed since",
        }));
    }
    all
}

fn form(form: Form) -> Value {
    match form {
        Form::Text | Form::Time => json!({ "type": "string" }),
        Form::Number(min, u64::MAX) => json!({ "type": "integer", "minimum": min }),
        Form::Number(min, max) => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Form::Word(words) => json!({ "type": "string", "enum": words }),
        Form::Words(words) => {
            json!({ "type": "array", "items": { "type": "string", "enum": words }, "uniqueItems": true })
        }
        Form::Uuid => json!({ "type": "string", "format": "uuid" }),
        Form::Usd => json!({ "type": "string", "pattern": r"^[0-9]+(\.[0-9]{1,9})?$" }),
    }
}

fn request_body(takes: Takes, kind: Option<Kind>, schemas: &mut SchemaGenerator) -> Option<Value> {
    let (media, schema) = match takes {
        Takes::Nothing => return None,
        Takes::Object => ("application/json", object(kind, schemas)),
        Takes::Patch => (
            "application/merge-patch+json",
            json!({ "type": "object", "description": "The fields to change; null removes one" }),
        ),
        Takes::Rotation => ("application/json", json!(schemas.subschema_for::<Rotation>())),
        Takes::File => (
            "application/yaml",
            json!({ "type": "string", "description": "A policy file, YAML or JSON" }),
        ),
    };
    let required = !matches!(takes, Takes::Rotation);
    Some(json!({ "required": required, "content": { media: { "schema": schema } } }))
}

fn responses(bound: &Bound, schemas: &mut SchemaGenerator) -> Value {
    let route = bound.route;
    let answer = |schemas: &mut SchemaGenerator| {
        let schema = match route.gives {
            Gives::File => json!({ "type": "object" }),
            gives => given(gives, bound.kind, schemas),
        };
        let mut content = json!({ "application/json": { "schema": schema } });
        if let (Gives::File, Some(media)) = (route.gives, content.as_object_mut()) {
            media.insert("application/yaml".to_owned(), json!({ "schema": { "type": "string" } }));
        }
        json!({ "description": route.summary, "content": content })
    };
    let failure = |text: &str| json!({ "description": text, "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } } });
    let mut all = Map::new();
    // A rehearsal creates nothing.
    all.insert("200".to_owned(), answer(schemas));
    if route.gives == Gives::Created || route.method == Method::PUT {
        all.insert("201".to_owned(), answer(schemas));
    }
    all.insert("401".to_owned(), failure("No admin key, or a wrong one"));
    all.insert("default".to_owned(), failure("What went wrong, and how to mend it"));
    Value::Object(all)
}

fn given(gives: Gives, kind: Option<Kind>, schemas: &mut SchemaGenerator) -> Value {
    let page = |items: Value| {
        json!({
            "type": "object",
            "required": ["items", "next"],
            "properties": {
                "items": { "type": "array", "items": items },
                "next": { "type": ["string", "null"], "description": "The cursor of the next page" },
            },
        })
    };
    let stored = |schemas: &mut SchemaGenerator| object(kind, schemas);
    match gives {
        Gives::List => page(stored(schemas)),
        Gives::Object => stored(schemas),
        Gives::Created | Gives::Written => {
            written(&stored(schemas), kind == Some(Kind::VirtualKey))
        }
        Gives::Key => written(&object(Some(Kind::VirtualKey), schemas), true),
        Gives::Changes => {
            let field = json!(schemas.subschema_for::<Field>());
            changes(&json!(schemas.subschema_for::<Diff>()), &field)
        }
        Gives::Budgets => page(json!(schemas.subschema_for::<View>())),
        Gives::Budget => json!(schemas.subschema_for::<View>()),
        Gives::Logs => json!(schemas.subschema_for::<logs::Logs>()),
        Gives::Log => json!(schemas.subschema_for::<logs::Detail>()),
        Gives::Usage => json!(schemas.subschema_for::<usage::Answer>()),
        Gives::File | Gives::Json => json!({ "type": "object" }),
    }
}

fn changes(diff: &Value, field: &Value) -> Value {
    json!({ "allOf": [diff, { "type": "object", "properties": {
        "kept": { "type": "array", "items": { "type": "object" }, "description": "What the file does not name, and stays" },
        "settings": { "type": "array", "items": field, "description": "Settings of the node that are others in the file: they need a restart" },
        "dry_run": { "type": "boolean" },
        "index": { "type": "integer" },
        "certain_by": { "type": "string", "format": "date-time" },
        "keys": { "type": "object", "additionalProperties": { "type": "string" }, "description": "Virtual keys that were made, by name: shown this once" },
    } }] })
}

fn written(object: &Value, may_show_key: bool) -> Value {
    let mut properties = json!({
        "dry_run": { "type": "boolean", "description": "Nothing was changed: this is what would be" },
        "effect": { "enum": ["created", "updated", "unchanged", "deleted", null], "description": "Of a rehearsal" },
        "changes": { "type": "array", "items": { "type": "object" }, "description": "Of a rehearsal: the fields that would be others" },
        "old_valid_until": { "type": ["string", "null"], "format": "date-time", "description": "Of a rotation: until when the old key holds" },
        "object": object,
        "index": { "type": "integer", "description": "The log index at which it took effect" },
        "certain_by": { "type": "string", "format": "date-time", "description": "From when on no node acts on what was there before" },
    });
    if let Some(properties) = properties.as_object_mut().filter(|_| may_show_key) {
        let text = "The key itself, where it was made here: shown this once";
        properties.insert("key".to_owned(), json!({ "type": "string", "description": text }));
    }
    json!({ "type": "object", "properties": properties })
}

fn object(kind: Option<Kind>, schemas: &mut SchemaGenerator) -> Value {
    kind.map_or_else(|| json!({ "type": "object" }), |it| json!(as_value(it.schema(schemas))))
}

fn as_value(schema: Schema) -> Value {
    schema.to_value()
}

fn error() -> Value {
    json!({
        "type": "object",
        "required": ["error", "request_id"],
        "properties": { "error": {
            "type": "object",
            "required": ["type", "code", "message", "request_id"],
            "properties": {
                "type": { "type": "string" },
                "code": { "type": "string", "description": "Stable; see docs/errors.md" },
                "message": { "type": "string" },
                "param": { "type": ["string", "null"] },
                "request_id": { "type": "string" },
                "problems": { "type": "array", "items": {
                    "type": "object",
                    "properties": { "path": { "type": "string" }, "message": { "type": "string" } },
                } },
            },
        }, "request_id": { "type": "string", "description": "As in the errors of the data plane" } },
    })
}
