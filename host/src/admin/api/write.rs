//! Writing objects: put, post, patch, delete, and trying without writing.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::access::Caller;
use super::address::{Place, id_of, key, singular};
use super::desk::{Held, Planned};
use super::fault::{Answer, Fault};
use super::read::answer;
use super::{AdminSite, Response, defaults, patch};
use crate::admin::exchange::Request;
use crate::config::source::Expect;
use crate::config::{
    Document, DocumentChange, Format, Id, Kind, Object, Origin, Problem, Store, parse_value, shown_id,
};
use crate::snapshot::Builder;

/// How often a patch begins again because the object was changed meanwhile.
const PATCHES_MAX: usize = 4;

/// Kinds of APISIX whose objects are never named by the store.
const WITHOUT_POST: [&str; 7] = [
    "consumers",
    "consumer_groups",
    "credentials",
    "global_rules",
    "plugin_configs",
    "plugin_metadata",
    "secrets",
];
/// Kinds of APISIX that are only written whole.
const WITHOUT_PATCH: [&str; 3] = ["consumers", "credentials", "plugin_metadata"];

impl AdminSite {
    /// Answers PUT: 201 where the object is new, 200 where it was there.
    pub(super) fn put(&self, caller: &Caller, place: Place, request: &Request) -> Answer {
        if !place.fields.is_empty() {
            return Err(Fault::new(404, "a part of an object is written with PATCH"));
        }
        check_arguments(request)?;
        let fields = object(request)?;
        let kind = place.kind;
        let id = wanted_id(kind, place.id, &fields)?;
        let _turn = self.writing.lock();
        let before = self.desk.held(kind, &id)?;
        let expect = expectation(request, before.as_ref())?;
        let value = completed(kind, &id, fields, before.as_ref(), Stamp::Given);
        self.check(kind, &id, &value)?;
        let status = if before.is_some() { 200 } else { 201 };
        let planned = Planned { kind, id, value: Some(value), before, expect };
        self.commit(caller, "put", planned, status)
    }

    /// Answers POST: the store names the object.
    pub(super) fn post(&self, caller: &Caller, place: Place, request: &Request) -> Answer {
        let kind = place.kind;
        if !has_post(kind) {
            return Err(unsupported("POST", kind));
        }
        if place.id.is_some() {
            return Err(Fault::bad(format!("wrong {} id, do not need it", singular(kind))));
        }
        check_arguments(request)?;
        let mut fields = object(request)?;
        fields.shift_remove("id");
        let _turn = self.writing.lock();
        let id = self.new_id(kind)?;
        let value = completed(kind, &id, fields, None, Stamp::Given);
        self.check(kind, &id, &value)?;
        let planned = Planned { kind, id, value: Some(value), before: None, expect: Expect::Absent };
        self.commit(caller, "post", planned, 201)
    }

    /// Answers PATCH, of an object or of a place in it.
    pub(super) fn patch(&self, caller: &Caller, place: Place, request: &Request) -> Answer {
        let kind = place.kind;
        if !has_patch(kind) {
            return Err(unsupported("PATCH", kind));
        }
        let id = place.id.ok_or_else(|| Fault::bad(format!("missing {} id", singular(kind))))?;
        check_arguments(request)?;
        let change = change(request)?;
        if place.fields.is_empty() && !change.is_object() {
            return Err(Fault::bad("invalid configuration"));
        }
        let _turn = self.writing.lock();
        let mut tries = 0;
        loop {
            tries += 1;
            let before = self.desk.held(kind, &id)?.ok_or_else(Fault::not_found)?;
            expectation(request, Some(&before))?;
            let mut value = before.document.value.clone();
            let stamp = if place.fields.is_empty() {
                let own = if change.get("update_time").is_some() { Stamp::Given } else { Stamp::Now };
                patch::merge(&mut value, change.clone());
                own
            } else {
                patch::put(&mut value, &place.fields, change.clone())?;
                Stamp::Now
            };
            let Value::Object(fields) = value else { return Err(Fault::bad("invalid configuration")) };
            wanted_id(kind, Some(id.clone()), &fields)?;
            let value = completed(kind, &id, fields, Some(&before), stamp);
            self.check(kind, &id, &value)?;
            let expect = match before.document.revision {
                0 => Expect::Any,
                revision => Expect::Revision(revision),
            };
            let planned = Planned { kind, id: id.clone(), value: Some(value), before: Some(before), expect };
            match self.commit(caller, "patch", planned, 200) {
                Err(fault) if fault.status() == 409 && tries < PATCHES_MAX && is_unconditional(request) => {}
                outcome => return outcome,
            }
        }
    }

    /// Answers DELETE. What is in use stays, unless `force=true`.
    pub(super) fn delete(&self, caller: &Caller, place: Place, request: &Request) -> Answer {
        let kind = place.kind;
        let id = place.id.ok_or_else(|| Fault::bad(format!("missing {} id", singular(kind))))?;
        if !place.fields.is_empty() {
            return Err(Fault::bad("only whole objects can be deleted; PATCH a field with null"));
        }
        let _turn = self.writing.lock();
        let before = self.desk.held(kind, &id)?.ok_or_else(Fault::not_found)?;
        let expect = expectation(request, Some(&before))?;
        let is_forced = request.query_value("force").as_deref() == Some("true");
        // A consumer's credentials go with it.
        if !is_forced && kind != Kind::Consumers {
            self.check_unused(kind, &id)?;
        }
        let mut planned = self.credentials_of(kind, &id)?;
        let shown = key(kind, &id);
        planned.push(Planned { kind, id, value: None, before: Some(before), expect });
        self.desk.write_all(&caller.name, "delete", planned)?;
        Ok(Response::json(200, &json!({"deleted": "1", "key": shown})))
    }

    /// Answers `schema/validate/<kind>`: the object's own faults, nothing else.
    pub(super) fn validate(&self, kind: Kind, request: &Request) -> Answer {
        let fields = object(request)?;
        let id = match fields.get("id").or_else(|| fields.get("username")) {
            Some(value) => id_in_body(kind, value)?,
            None => match kind {
                Kind::Credentials => id_of(kind, "consumer.validated")?,
                Kind::Secrets => id_of(kind, "file.validated")?,
                _ => id_of(kind, "validated")?,
            },
        };
        let document = document(kind, &id, Value::Object(fields));
        let problems = self.desk.ask(move |store, _| store.faults_of(&document))?;
        if problems.is_empty() {
            return Ok(Response { status: 200, headers: Vec::new(), body: Vec::new() });
        }
        Err(Fault::invalid("invalid configuration", &problems))
    }

    /// Checks an object with all it names.
    fn check(&self, kind: Kind, id: &Id, value: &Value) -> Result<(), Fault> {
        let change = DocumentChange::Put(Arc::new(document(kind, id, value.clone())));
        let problems = self.desk.ask(move |store, builder| {
            let trial = store.try_changes(std::slice::from_ref(&change));
            let mut problems: Vec<_> = trial.problems.into_iter().map(|(_, problem)| problem).collect();
            problems.extend(faults_beyond(store, builder, &change));
            problems
        })?;
        if problems.is_empty() { Ok(()) } else { Err(Fault::invalid("invalid configuration", &problems)) }
    }

    fn check_unused(&self, kind: Kind, id: &Id) -> Result<(), Fault> {
        let change = DocumentChange::Deleted((kind, id.clone()));
        let upstream = id.clone();
        let (user, by_plugin) = self.desk.ask(move |store, builder| {
            let user = store.try_changes(&[change]).in_use.into_iter().next().map(|(_, user)| user);
            let by_plugin =
                (kind == Kind::Upstreams).then(|| builder.named_by_plugins(&upstream).next().cloned());
            (user, by_plugin.flatten())
        })?;
        let directly = if kind == Kind::Services { " directly" } else { "" };
        let (what, user) = match (user, by_plugin) {
            (Some(user), _) => ("", user),
            (None, Some(user)) => ("plugin in ", user),
            (None, None) => return Ok(()),
        };
        let (own, by, user) = (singular(kind), singular(user.0).replace(' ', "_"), user.1);
        Err(Fault::bad(format!(
            "can not delete this {own}{directly}, {what}{by} [{user}] is still using it now"
        )))
    }

    fn commit(&self, caller: &Caller, action: &str, planned: Planned, status: u16) -> Answer {
        let (kind, id, began) = (planned.kind, planned.id.clone(), SystemTime::now());
        let (_, mut held) = self.desk.write_all(&caller.name, action, vec![planned])?;
        let held = held.pop().flatten();
        let held = held.ok_or_else(|| Fault::new(409, "was deleted by someone else in the meantime"))?;
        let (why, breaking) = self.desk.outcome(kind, &id, began)?;
        Ok(answer(status, caller, &held, why.as_deref(), &breaking))
    }

    /// A consumer's credentials, which go with it.
    fn credentials_of(&self, kind: Kind, id: &Id) -> Result<Vec<Planned>, Fault> {
        if kind != Kind::Consumers {
            return Ok(Vec::new());
        }
        let prefix = format!("{id}.");
        let all = self.desk.ask(move |store, _| {
            let own = store.documents(Kind::Credentials).into_iter();
            let own = own.filter(|document| document.id.starts_with(&prefix));
            own.filter_map(|document| super::desk::held(store, Kind::Credentials, &document.id))
                .collect::<Vec<_>>()
        })?;
        let planned = all.into_iter().map(|held| Planned {
            kind: Kind::Credentials,
            id: held.document.id.clone(),
            value: None,
            before: Some(held),
            expect: Expect::Any,
        });
        Ok(planned.collect())
    }

    /// An id nobody has: the time in microseconds, as long as APISIX's.
    fn new_id(&self, kind: Kind) -> Result<Id, Fault> {
        let mut number = micros();
        loop {
            let id = id_of(kind, &format!("{number:020}"))?;
            if self.desk.held(kind, &id)?.is_none() {
                return Ok(id);
            }
            number += 1;
        }
    }
}

/// What the builder alone knows to be wrong.
pub(super) fn faults_beyond(store: &Store, builder: &Builder, change: &DocumentChange) -> Vec<Problem> {
    let DocumentChange::Put(document) = change else { return Vec::new() };
    let object = Object::parse(document.kind, &document.id, &document.value);
    object.map_or_else(|_| Vec::new(), |object| builder.faults_of(store, &object))
}

/// Who says when an object was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stamp {
    /// The object, where it says so.
    Given,
    /// The clock.
    Now,
}

/// An object with what APISIX adds to it.
pub(super) fn completed(
    kind: Kind,
    id: &Id,
    mut fields: Map<String, Value>,
    before: Option<&Held>,
    stamp: Stamp,
) -> Value {
    fields.insert("id".to_owned(), json!(id.as_str()));
    defaults::fill(kind, &mut fields);
    let known = Object::fields(kind);
    let now = seconds();
    if known.contains(&"create_time") && !fields.contains_key("create_time") {
        let made = before.and_then(|held| held.document.value.get("create_time").cloned());
        fields.insert("create_time".to_owned(), made.unwrap_or_else(|| json!(now)));
    }
    let is_given = stamp == Stamp::Given && fields.contains_key("update_time");
    if known.contains(&"update_time") && !is_given {
        fields.insert("update_time".to_owned(), json!(now));
    }
    Value::Object(fields)
}

pub(super) fn document(kind: Kind, id: &Id, value: Value) -> Document {
    let origin = Origin::file(Path::new("the request"));
    Document { kind, id: id.clone(), value, origin, revision: 0, created: 0 }
}

/// The id in path or body; both must be the same.
pub(super) fn wanted_id(kind: Kind, by_path: Option<Id>, fields: &Map<String, Value>) -> Result<Id, Fault> {
    let given = match kind {
        // A consumer's id is its name.
        Kind::Consumers => fields.get("username").or_else(|| fields.get("id")),
        _ => fields.get("id").filter(|id| !id.is_null()),
    };
    if let (Some(path), Some(Value::String(text))) = (&by_path, given)
        && *text == shown_id(kind, path)
    {
        return Ok(path.clone());
    }
    let by_body = given.map(|id| id_in_body(kind, id)).transpose()?;
    match (by_path, by_body) {
        (Some(path), Some(body)) if path != body => Err(Fault::bad(format!("wrong {} id", singular(kind)))),
        (Some(id), _) | (None, Some(id)) => Ok(id),
        (None, None) => Err(Fault::bad(format!("missing {} id", singular(kind)))),
    }
}

fn id_in_body(kind: Kind, value: &Value) -> Result<Id, Fault> {
    match value {
        Value::String(text) => id_of(kind, text),
        Value::Number(number) if number.as_u64().is_some_and(|number| number > 0) => {
            id_of(kind, &number.to_string())
        }
        other => Err(Fault::bad(format!(
            "wrong {} id {other}: it must be a text or a positive integer",
            singular(kind)
        ))),
    }
}

/// The body as an object.
pub(super) fn object(request: &Request) -> Result<Map<String, Value>, Fault> {
    match change(request)? {
        Value::Object(fields) => Ok(fields),
        _ => Err(Fault::bad("invalid configuration: must be an object with fields")),
    }
}

/// The body as any value; `null` is one.
fn change(request: &Request) -> Result<Value, Fault> {
    if request.body.trim_ascii().is_empty() {
        return Err(Fault::bad("missing configurations"));
    }
    if request.body.trim_ascii() == b"null" {
        return Ok(Value::Null);
    }
    parse_value(&request.body, Format::Json).map_err(|error| {
        let place = error.position.map(|at| format!(" (line {}, column {})", at.line, at.column));
        Fault::bad(format!("invalid request body: it {}{}", error.message, place.unwrap_or_default()))
    })
}

/// Arguments that APISIX has and that mean something else here.
fn check_arguments(request: &Request) -> Result<(), Fault> {
    match request.query_value("ttl") {
        None => Ok(()),
        Some(ttl) if ttl.parse::<f64>().is_err() => {
            Err(Fault::bad("invalid argument ttl: should be a number"))
        }
        Some(_) => Err(Fault::bad("ttl is not supported: objects do not expire")),
    }
}

fn unsupported(method: &str, kind: Kind) -> Fault {
    Fault::new(405, format!("not supported `{method}` method for {}", singular(kind)))
}

fn is_unconditional(request: &Request) -> bool {
    request.header("if-match").is_none()
}

/// What must be there for the write to be made, by `If-Match` and `If-None-Match`.
fn expectation(request: &Request, before: Option<&Held>) -> Result<Expect, Fault> {
    let failed = |message: String| Err(Fault::new(412, message));
    if let Some(value) = request.header("if-none-match") {
        if value.trim() != "*" {
            return Err(Fault::bad("If-None-Match must be *"));
        }
        return if before.is_none() { Ok(Expect::Absent) } else { failed("the object exists".to_owned()) };
    }
    let Some(wanted) = request.header("if-match") else { return Ok(Expect::Any) };
    let Some(held) = before else { return failed("the object does not exist".to_owned()) };
    let index = held.indexes.modified.to_string();
    let is_same = |tag: &str| {
        let tag = tag.trim();
        tag == "*" || tag.trim_start_matches("W/").trim_matches('"') == index
    };
    if !wanted.split(',').any(is_same) {
        return failed(format!(
            "the object was changed: its modifiedIndex is {index}, not {}",
            wanted.trim()
        ));
    }
    Ok(match held.document.revision {
        0 => Expect::Any,
        revision => Expect::Revision(revision),
    })
}

/// The index of a held object, as answers show it.
pub(super) fn index_of(held: &Held) -> u64 {
    held.indexes.modified
}

/// Whether the store names objects of a kind.
pub(super) fn has_post(kind: Kind) -> bool {
    !WITHOUT_POST.contains(&kind.name())
}

/// Whether parts of objects of a kind are written.
pub(super) fn has_patch(kind: Kind) -> bool {
    !WITHOUT_PATCH.contains(&kind.name())
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn micros() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros()
}
