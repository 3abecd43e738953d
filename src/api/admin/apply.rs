//! Whole policy files: applied, compared, exported.

use std::sync::Arc;

use althing_config::Problem;
use althing_config::diff::{Diff, Field, Place, Secrets, diff as compare};
use althing_domain::command::{Delete, Effect, Expect, Op, Put, Write};
use althing_domain::id::Name;
use althing_domain::object::{Object, Row};
use althing_domain::secret::{Form, Secret};
use althing_domain::state::State;
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

use super::call::{Call, Content, Failure, Reply};
use super::{Admin, policy, secrets};
use crate::error::{Code, Error};

/// Compares secrets by opening them: nothing of them leaves this place.
struct Opened<'a> {
    admin: &'a Admin,
    state: &'a State,
}

impl Secrets for Opened<'_> {
    fn is_same(&self, place: &Place<'_>, file: &Secret, law: &Secret) -> bool {
        let field = place.path.to_string();
        let place =
            crate::secret::Place { kind: place.kind, name: place.name.as_str(), field: &field };
        let same = |value: &str| secrets::opens_to(self.admin, law, value, &place);
        match file.form() {
            Form::Literal(value) => same(value),
            Form::Env(_) | Form::File(_) => file == law,
            // It may have been sealed anew since the file was exported.
            Form::Sealed(sealed) => {
                file == law
                    || self
                        .admin
                        .law
                        .open(sealed, &place)
                        .is_some_and(|it| same(it.expose_secret()))
            }
        }
    }

    fn is_same_key(&self, key: &Name, file: &Secret) -> bool {
        // What may not be read here is said when it is applied.
        let Ok(value) = secrets::given(self.admin, file) else { return false };
        let hash = self.admin.law.hash(value.expose_secret().as_bytes());
        self.state.credentials(key.as_str()).first().is_some_and(|it| it.hash == hash)
    }
}

/// What making the law what `objects` say would change.
pub(super) fn compared(admin: &Admin, state: &State, objects: &[Object]) -> Diff {
    let law = state.export().map(|it| it.object);
    compare(objects, law, &Opened { admin, state })
}

/// Virtual keys that were made: name to key.
type Made = Map<String, Value>;

/// The difference, the writes that end it, and the keys that were made for it.
pub(super) fn prepare(
    admin: &Admin,
    state: &State,
    objects: Vec<Object>,
    prune: bool,
) -> Result<(Diff, Vec<Write>, Made), Failure> {
    let diff = compared(admin, state, &objects);
    let (writes, made) = writes(admin, state, &diff, objects, prune)?;
    Ok((diff, writes, made))
}

/// The file's policy, and which of its node settings are others than those that this node runs with.
fn read(admin: &Admin, call: &Call) -> Result<(Vec<Object>, Vec<Field>), Failure> {
    Ok(althing_config::file_from_text(call.text()?, &admin.vendors, &admin.settings)?)
}

/// Says which settings wait for a restart, in the answer and in the log.
fn tell_settings(body: &mut Value, settings: &[Field]) {
    for Field { path, before, after } in settings {
        tracing::warn!(setting = %path, runs_with = %before, file = %after, "a setting of the file is another than this node runs with: it needs a restart");
    }
    if let Some(fields) = body.as_object_mut() {
        fields.insert("settings".to_owned(), json!(settings));
    }
}

pub(super) async fn diff(admin: Arc<Admin>, call: Call) -> Result<Reply, Failure> {
    let state = admin.law.state();
    let prune = call.flag("prune")?;
    let (objects, settings) = read(&admin, &call)?;
    let mut body = changes(&compared(&admin, &state, &objects), prune);
    tell_settings(&mut body, &settings);
    Ok(Reply::json(body).with_index(state.index()))
}

pub(super) async fn apply(admin: Arc<Admin>, call: Call) -> Result<Reply, Failure> {
    let state = admin.law.state();
    let prune = call.flag("prune")?;
    let (objects, settings) = read(&admin, &call)?;
    let (diff, writes, made) = prepare(&admin, &state, objects, prune)?;
    let mut body = changes(&diff, prune);
    tell_settings(&mut body, &settings);
    let fields = body.as_object_mut();
    if call.flag("dry_run")? {
        fields.map(|it| it.insert("dry_run".to_owned(), true.into()));
        return Ok(Reply::json(body).with_index(state.index()));
    }
    let mut index = state.index();
    if !writes.is_empty() {
        let written;
        (index, written) = policy::propose(&admin, &call, Op::Batch(writes)).await?;
        tracing::info!(
            written = written.iter().filter(|it| it.effect != Effect::Unchanged).count(),
            index,
            "a policy file was applied"
        );
    }
    if let Some(fields) = fields {
        fields.insert("index".to_owned(), index.into());
        fields.insert("certain_by".to_owned(), policy::certain_by(&admin).into());
        fields.insert("keys".to_owned(), Value::Object(made));
    }
    Ok(Reply::json(body).with_index(index))
}

/// The writes that make the law what the file says, and the keys that were made for it.
fn writes(
    admin: &Admin,
    state: &State,
    diff: &Diff,
    objects: Vec<Object>,
    prune: bool,
) -> Result<(Vec<Write>, Made), Failure> {
    let (mut writes, mut made, mut problems) = (Vec::new(), Map::new(), Vec::new());
    for mut object in objects {
        let (kind, name) = (object.kind(), object.name().clone());
        let is_new = diff.added.iter().any(|it| it.kind == kind && it.name == name);
        if !is_new && !diff.changed.iter().any(|it| it.kind == kind && it.name == name) {
            continue;
        }
        let old = state.get(kind, name.as_str());
        let old = old.as_ref();
        let mut found: Vec<Problem> = Vec::new();
        secrets::seal(admin, &mut object, old.map(|it| &it.object), &mut found)?;
        let credential =
            secrets::credential(admin, &mut object, old.map(|it| &it.object), &mut found)?;
        let place = format!("{}[{name}]", kind.field());
        problems.extend(found.into_iter().map(|it| it.within(&place)));
        if let Some(key) = credential.made {
            made.insert(name.to_string(), key.into());
        }
        let put = Put { object, expect: seen(old), credential: credential.hash };
        writes.push(Write::Put(put));
    }
    if prune {
        let delete = |it: &althing_config::diff::Entry| {
            let (kind, name) = (it.kind, it.name.clone());
            let expect = seen(state.get(kind, name.as_str()).as_ref());
            Write::Delete(Delete { kind, name, expect })
        };
        writes.extend(diff.removed.iter().map(delete));
    }
    if problems.is_empty() { Ok((writes, made)) } else { Err(Failure::invalid(problems)) }
}

/// A write happens only to what was compared.
fn seen(old: Option<&Row>) -> Expect {
    old.map_or(Expect::Absent, |it| Expect::Version(it.version))
}

/// What is different. Without `prune`, what the file does not name stays.
pub(super) fn changes(diff: &Diff, prune: bool) -> Value {
    let mut json = json!(diff);
    if let Some(fields) = json.as_object_mut()
        && !prune
        && let Some(removed) = fields.insert("removed".to_owned(), json!([]))
    {
        fields.insert("kept".to_owned(), removed);
    }
    json
}

pub(super) async fn export(admin: Arc<Admin>, call: Call) -> Result<Reply, Failure> {
    let state = admin.law.state();
    let mut file: Map<String, Value> = Map::new();
    for row in state.export() {
        let json =
            row.object.to_json().map_err(|_| secrets::internal("the object does not read"))?;
        let list =
            file.entry(row.object.kind().field()).or_insert_with(|| Value::Array(Vec::new()));
        if let Some(list) = list.as_array_mut() {
            list.push(json);
        }
    }
    let file = Value::Object(file);
    let reply = match call.param("format") {
        None | Some("json") => Reply::json(file),
        Some("yaml") => {
            let text = serde_saphyr::to_string(&file)
                .map_err(|_| secrets::internal("the export cannot be written as YAML"))?;
            Reply { body: Content::Yaml(text), ..Reply::json(Value::Null) }
        }
        Some(_) => {
            return Err(Error::new(Code::InvalidField, "write json or yaml")
                .with_param("format")
                .into());
        }
    };
    Ok(reply.with_index(state.index()))
}
