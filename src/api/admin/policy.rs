//! Creating, showing, changing and deleting policy objects of every kind.

use std::sync::Arc;

use althing_config::Problem;
use althing_config::diff::{Unopened, diff};
use althing_domain::command::{self, Command, Delete, Effect, Expect, Op, Put, Written};
use althing_domain::object::{Kind, Object, Row};
use althing_domain::state::{At, State};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::call::{Call, Failure, Reply};
use super::page::Wanted;
use super::{Admin, secrets};
use crate::error::{Code, Error};

/// Who an act is noted under, while there is one administrator.
pub(super) const WHO: &str = "admin";
/// How often a write is tried where somebody else wrote in between.
const TRIES_MAX: usize = 8;

/// A write that is ready to be proposed.
struct Ready {
    op: Op,
    /// The key that was made for it.
    made: Option<String>,
}

pub(super) async fn list(admin: Arc<Admin>, call: Call) -> Result<Reply, Failure> {
    let (kind, wanted) = (kind(&call)?, Wanted::of(&call)?);
    let state = admin.law.state();
    let rows = state.tables().rows(kind, wanted.after_number()?).filter_map(|row| {
        let json = row.to_public_json().ok()?;
        let description = json.get("description").and_then(Value::as_str).unwrap_or_default();
        let found = wanted.finds(&[row.object.name().as_str(), description]);
        found.then(|| (row.id.to_string(), json))
    });
    Ok(wanted.page(rows).with_index(state.index()))
}

pub(super) async fn show(admin: Arc<Admin>, call: Call) -> Result<Reply, Failure> {
    let state = admin.law.state();
    let row = find(&state, kind(&call)?, &call.name)?;
    let index = state.index();
    Ok(Reply::json(public(&row)?).with_version(row.version).with_index(index))
}

pub(super) async fn create(admin: Arc<Admin>, call: Call) -> Result<Reply, Failure> {
    let kind = kind(&call)?;
    let ready = ready(&admin, kind, None, call.json()?, Expect::Absent)?;
    let reply = write(&admin, &call, ready).await?;
    Ok(reply.with_status(if call.flag("dry_run")? { StatusCode::OK } else { StatusCode::CREATED }))
}

pub(super) async fn replace(admin: Arc<Admin>, call: Call) -> Result<Reply, Failure> {
    let mut call = call;
    for _ in 1..TRIES_MAX {
        let seen = version(&admin, &call)?;
        let done = replace_once(&admin, &call).await;
        if done.is_ok() || !is_overtaken(&admin, &call, seen)? {
            return done;
        }
        call = call.again();
    }
    replace_once(&admin, &call).await
}

async fn replace_once(admin: &Admin, call: &Call) -> Result<Reply, Failure> {
    let (kind, state) = (kind(call)?, admin.law.state());
    let old = find(&state, kind, &call.name).ok();
    let name = old.as_ref().map_or_else(|| call.name.clone(), |it| it.object.name().to_string());
    let mut json = call.json()?;
    set_name(&mut json, &name)?;
    // Secrets that are sent back as `{"set": true}` are those of what was read: so it is written over that, and nothing else.
    let seen = old.as_ref().map_or(Expect::Absent, |it| Expect::Version(it.version));
    let expect = call.if_match()?.unwrap_or(seen);
    let ready = ready(admin, kind, old.as_ref(), json, expect)?;
    let reply = write(admin, call, ready).await?;
    let is_new = old.is_none() && !call.flag("dry_run")?;
    Ok(reply.with_status(if is_new { StatusCode::CREATED } else { StatusCode::OK }))
}

/// Whether somebody else wrote between reading and writing, and the caller did not say what must be there.
fn is_overtaken(admin: &Admin, call: &Call, seen: Option<u64>) -> Result<bool, Failure> {
    Ok(call.if_match()?.is_none() && version(admin, call)? != seen)
}

fn version(admin: &Admin, call: &Call) -> Result<Option<u64>, Failure> {
    Ok(find(&admin.law.state(), kind(call)?, &call.name).ok().map(|it| it.version))
}

pub(super) async fn patch(admin: Arc<Admin>, call: Call) -> Result<Reply, Failure> {
    let patch = call.json()?;
    if !patch.is_object() {
        let text = "a patch is an object of the fields to change; null removes one";
        return Err(Error::new(Code::InvalidField, text).into());
    }
    change(&admin, call, &patch).await
}

pub(super) async fn enable(admin: Arc<Admin>, call: Call) -> Result<Reply, Failure> {
    change(&admin, call, &json!({ "enabled": true })).await
}

pub(super) async fn disable(admin: Arc<Admin>, call: Call) -> Result<Reply, Failure> {
    change(&admin, call, &json!({ "enabled": false })).await
}

/// Merges `patch` into an object, again where somebody else wrote in between.
async fn change(admin: &Admin, call: Call, patch: &Value) -> Result<Reply, Failure> {
    let mut call = call;
    for _ in 1..TRIES_MAX {
        let seen = version(admin, &call)?;
        let done = change_once(admin, &call, patch).await;
        if done.is_ok() || !is_overtaken(admin, &call, seen)? {
            return done;
        }
        call = call.again();
    }
    change_once(admin, &call, patch).await
}

async fn change_once(admin: &Admin, call: &Call, patch: &Value) -> Result<Reply, Failure> {
    let kind = kind(call)?;
    let old = find(&admin.law.state(), kind, &call.name)?;
    let mut json = Object::to_public_json(&old.object)
        .map_err(|_| secrets::internal("the object does not read"))?;
    unfold_budget(&mut json, patch)?;
    merge(&mut json, patch);
    set_name(&mut json, old.object.name().as_str())?;
    let expect = call.if_match()?.unwrap_or(Expect::Version(old.version));
    let ready = ready(admin, kind, Some(&old), json, expect)?;
    write(admin, call, ready).await
}

pub(super) async fn delete(admin: Arc<Admin>, call: Call) -> Result<Reply, Failure> {
    let (kind, state) = (kind(&call)?, admin.law.state());
    let old = find(&state, kind, &call.name)?;
    let expect = call.if_match()?.unwrap_or(Expect::Present);
    let op = Op::Delete(Delete { kind, name: old.object.name().clone(), expect });
    let ready = Ready { op, made: None };
    if call.flag("dry_run")? {
        return rehearse(&admin, &call, ready);
    }
    let outcome = propose(&admin, &call, ready.op).await?;
    let body = json!({
        "object": public(&old)?,
        "index": outcome.0,
        "certain_by": certain_by(&admin),
    });
    Ok(Reply::json(body).with_index(outcome.0))
}

/// Makes of JSON what can be proposed: checked, its secrets sealed, its key hashed.
fn ready(
    admin: &Admin,
    kind: Kind,
    old: Option<&Row>,
    mut json: Value,
    expect: Expect,
) -> Result<Ready, Failure> {
    drop_read_only(&mut json);
    let old = old.map(|it| &it.object);
    if let Some(old) = old {
        old.keep_secrets(&mut json);
    }
    let mut object = althing_config::object_from_json(kind, json, &admin.vendors)?;
    let mut problems: Vec<Problem> = Vec::new();
    secrets::seal(admin, &mut object, old, &mut problems)?;
    let credential = secrets::credential(admin, &mut object, old, &mut problems)?;
    if !problems.is_empty() {
        return Err(Failure::invalid(problems));
    }
    let put = Put { object, expect, credential: credential.hash };
    Ok(Ready { op: Op::Put(put), made: credential.made })
}

async fn write(admin: &Admin, call: &Call, ready: Ready) -> Result<Reply, Failure> {
    if call.flag("dry_run")? {
        return rehearse(admin, call, ready);
    }
    let (index, written) = propose(admin, call, ready.op).await?;
    let object = written.first().map(|it| {
        let state = admin.law.state();
        state.get(it.kind, it.name.as_str()).map_or(Ok((Value::Null, it.version)), |row| {
            Ok::<_, Failure>((public(&row)?, row.version))
        })
    });
    let (object, version) = object.transpose()?.unwrap_or_default();
    let mut body = json!({ "object": object, "index": index, "certain_by": certain_by(admin) });
    show_once(&mut body, ready.made);
    Ok(Reply::json(body).with_version(version).with_index(index))
}

pub(super) fn show_once(body: &mut Value, made: Option<String>) {
    if let (Some(key), Some(fields)) = (made, body.as_object_mut()) {
        fields.insert("key".to_owned(), Value::String(key));
    }
}

/// Says what a write would do.
fn rehearse(admin: &Admin, call: &Call, ready: Ready) -> Result<Reply, Failure> {
    let state = admin.law.state();
    let at = At { index: state.index() + 1, time: admin.clock.now() };
    let request_id = call.request_id.as_u128();
    let command = Command { request_id, who: WHO.to_owned(), op: ready.op };
    let outcome = state.dry_run(at, &command);
    let written = written(outcome.reply)?;
    let old = written.first().and_then(|it| state.get(it.kind, it.name.as_str()));
    let effect = written.first().map(|it| effect(it.effect));
    let (object, changes) = match &command.op {
        Op::Put(put) => {
            let json = put
                .object
                .to_public_json()
                .map_err(|_| secrets::internal("the object does not read"))?;
            let changes =
                diff(std::slice::from_ref(&put.object), old.map(|it| it.object), &Unopened);
            let fields = changes.changed.into_iter().flat_map(|it| it.fields).collect::<Vec<_>>();
            (json, json!(fields))
        }
        _ => (old.as_ref().map(public).transpose()?.unwrap_or_default(), json!([])),
    };
    let body = json!({ "dry_run": true, "effect": effect, "object": object, "changes": changes });
    Ok(Reply::json(body).with_index(state.index()))
}

const fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::Created => "created",
        Effect::Updated => "updated",
        Effect::Unchanged => "unchanged",
        Effect::Deleted => "deleted",
    }
}

/// Proposes, and says at which index what was written.
pub(super) async fn propose(
    admin: &Admin,
    call: &Call,
    op: Op,
) -> Result<(u64, Vec<Written>), Failure> {
    let outcome = admin.law.propose(call.request_id.as_u128(), WHO, op).await?;
    Ok((outcome.index, written(outcome.reply)?))
}

fn written(reply: command::Reply) -> Result<Vec<Written>, Failure> {
    match reply {
        command::Reply::Written(written) => Ok(written),
        command::Reply::Refused(refusal) => Err(refusal.into()),
        command::Reply::Done | command::Reply::Leases(_) | command::Reply::Closed { .. } => {
            Ok(Vec::new())
        }
    }
}

/// From when on no node acts on what was there before. One node: from the answer on.
pub(super) fn certain_by(admin: &Admin) -> String {
    admin.clock.now().to_rfc3339()
}

pub(super) fn kind(call: &Call) -> Result<Kind, Failure> {
    call.kind.ok_or_else(|| secrets::internal("the route has no kind"))
}

/// The object of that name, or else of that id.
pub(super) fn find(state: &State, kind: Kind, name: &str) -> Result<Row, Failure> {
    let by_id = || {
        let id = name.parse::<u64>().ok()?;
        let row = state.tables().rows(kind, id.checked_sub(1)?).next()?;
        (row.id == id).then_some(row)
    };
    state.get(kind, name).or_else(by_id).ok_or_else(|| {
        let shown: String = name.chars().filter(|it| !it.is_control()).take(64).collect();
        Error::new(Code::NotFound, format!("there is no {kind} `{shown}`")).into()
    })
}

pub(super) fn public(row: &Row) -> Result<Value, Failure> {
    row.to_public_json().map_err(|_| secrets::internal("the object does not read"))
}

/// What answers show beside the fields, so that an answer can be sent back as it is.
fn drop_read_only(json: &mut Value) {
    if let Some(fields) = json.as_object_mut() {
        for name in ["id", "version", "created_at", "updated_at"] {
            fields.shift_remove(name);
        }
    }
}

fn set_name(json: &mut Value, name: &str) -> Result<(), Failure> {
    let Some(fields) = json.as_object_mut() else { return Ok(()) };
    match fields.get("name") {
        Some(Value::String(it)) if it != name => {
            let text =
                format!("this is `{name}`, and names do not change: create another object instead");
            Err(Error::field("name", text).into())
        }
        _ => {
            fields.insert("name".to_owned(), Value::String(name.to_owned()));
            Ok(())
        }
    }
}

/// An object has a list of budgets, and mostly one in it, which may be given without the list: a patch of that one changes the
/// one there is, and does not put another in its place.
fn unfold_budget(target: &mut Value, patch: &Value) -> Result<(), Error> {
    if !patch.get("budget").is_some_and(Value::is_object) {
        return Ok(());
    }
    let Some(budgets) = target.get_mut("budget").and_then(Value::as_array_mut) else {
        return Ok(());
    };
    if 1 < budgets.len() {
        let problem = "there are several: give the whole list, since a patch does not say which of them is meant";
        return Err(Error::field("budget", problem));
    }
    if let Some(one) = budgets.pop()
        && let Some(fields) = target.as_object_mut()
    {
        fields.insert("budget".to_owned(), one);
    }
    Ok(())
}

/// A JSON merge patch (RFC 7396).
fn merge(target: &mut Value, patch: &Value) {
    let Some(changes) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(fields) = target.as_object_mut() else { return };
    for (name, change) in changes {
        if change.is_null() {
            fields.shift_remove(name);
        } else {
            merge(fields.entry(name.clone()).or_insert(Value::Null), change);
        }
    }
}
