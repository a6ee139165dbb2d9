//! Several objects at once, and going back: change sets, history, diff, rollback.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::access::Caller;
use super::address::{id_of, key};
use super::desk::{Held, Planned};
use super::diff::differences;
use super::fault::{Answer, Fault};
use super::history::{Change, Changed, FORGOTTEN_MAX, hidden, restore};
use super::write::{Stamp, completed, document, index_of};
use super::{AdminSite, Response};
use crate::admin::exchange::Request;
use crate::config::source::{Expect, TRANSACTION_MAX};
use crate::config::{DocumentChange, Id, Kind, Trial};

/// The most objects of one change set: a record and old ones go with them.
pub(super) const OBJECTS_MAX: usize = 100;
const _: () = assert!(OBJECTS_MAX + 1 + FORGOTTEN_MAX <= TRANSACTION_MAX);
/// The most objects of one trial.
const TRIAL_OBJECTS_MAX: usize = 1000;
/// Changes that one answer lists, unless it is asked for fewer.
const LISTED: usize = 100;
/// The most changes that one answer lists.
const LISTED_MAX: usize = 1000;

/// What a set does to one object.
struct Wanted {
    kind: Kind,
    id: Id,
    /// Its fields; none deletes it.
    value: Option<Value>,
    before: Option<Held>,
    /// Whether anything would be different.
    is_change: bool,
}

impl AdminSite {
    /// Answers `changes`: writes all objects of the body together, or none.
    pub(super) fn change_set(&self, caller: &Caller, request: &Request) -> Answer {
        let body = super::write::object(request)?;
        let objects = match body.get("objects") {
            Some(Value::Array(objects)) => objects,
            _ => return Err(Fault::bad("objects: must be a list of {kind, id, value}")),
        };
        let is_trial = request.query_value("dry_run").as_deref() == Some("true");
        let max = if is_trial { TRIAL_OBJECTS_MAX } else { OBJECTS_MAX };
        if objects.is_empty() || objects.len() > max {
            return Err(Fault::bad(format!("objects: must be 1 to {max}, not {}", objects.len())));
        }
        let is_forced = request.query_value("force").as_deref() == Some("true");
        let _turn = self.writing.lock();
        let mut wanted = Vec::new();
        let mut seen = HashSet::new();
        for (index, object) in objects.iter().enumerate() {
            let one = self.wanted(object).map_err(|fault| fault.at(&format!("objects[{index}]")))?;
            if !seen.insert((one.kind, one.id.clone())) {
                return Err(Fault::bad(format!("objects[{index}]: {}/{} is there twice", one.kind, one.id)));
            }
            wanted.push(one);
        }
        self.make(caller, "changes", wanted, is_trial, is_forced)
    }

    /// Reads one object of a set.
    fn wanted(&self, object: &Value) -> Result<Wanted, Fault> {
        let text = |name: &str| object.get(name).and_then(Value::as_str);
        let kind = text("kind").ok_or_else(|| Fault::bad("kind: is required"))?;
        let kind = Kind::from_name(kind).map_err(|error| Fault::bad(format!("kind: {error}")))?;
        let id = match object.get("id") {
            Some(Value::String(id)) => id_of(kind, id)?,
            Some(Value::Number(id)) => id_of(kind, &id.to_string())?,
            _ => return Err(Fault::bad("id: is required")),
        };
        let before = self.desk.held(kind, &id)?;
        if let Some(index) = object.get("modifiedIndex") {
            let there = before.as_ref().map_or(Value::Null, |held| json!(index_of(held)));
            if there != *index {
                let message = format!("{kind}/{id} was changed: its modifiedIndex is {there}, not {index}");
                return Err(Fault::new(412, message));
            }
        }
        let value = match object.get("value") {
            None | Some(Value::Null) => {
                if before.is_none() {
                    return Err(Fault::new(404, format!("{kind}/{id} does not exist")));
                }
                None
            }
            Some(Value::Object(fields)) => Some(self.prepared(kind, &id, fields.clone(), before.as_ref())?),
            Some(_) => return Err(Fault::bad("value: must be an object with fields, or null")),
        };
        let old = before.as_ref().map(|held| &held.document.value);
        let is_change = !differences(old, value.as_ref()).is_empty();
        Ok(Wanted { kind, id, value, before, is_change })
    }

    fn prepared(
        &self,
        kind: Kind,
        id: &Id,
        fields: Map<String, Value>,
        before: Option<&Held>,
    ) -> Result<Value, Fault> {
        super::write::wanted_id(kind, Some(id.clone()), &fields)?;
        Ok(completed(kind, id, fields, before, Stamp::Now))
    }

    /// Checks a set as a whole and writes what is different, together.
    fn make(
        &self,
        caller: &Caller,
        action: &str,
        wanted: Vec<Wanted>,
        is_trial: bool,
        is_forced: bool,
    ) -> Answer {
        let documents: Vec<DocumentChange> = wanted
            .iter()
            .map(|one| match &one.value {
                Some(value) => DocumentChange::Put(Arc::new(document(one.kind, &one.id, value.clone()))),
                None => DocumentChange::Deleted((one.kind, one.id.clone())),
            })
            .collect();
        let mut trial: Trial = self.desk.ask(move |store, builder| {
            let mut trial = store.try_changes(&documents);
            for change in &documents {
                let beyond = super::write::faults_beyond(store, builder, change).into_iter();
                trial.problems.extend(beyond.map(|problem| (change.key(), problem)));
            }
            trial
        })?;
        if is_forced {
            // Only what the set itself names must stay.
            trial
                .in_use
                .retain(|(_, user)| wanted.iter().any(|one| (one.kind, &one.id) == (user.0, &user.1)));
        }
        if !trial.is_clean() {
            return Err(refused(&trial));
        }
        let told: Vec<Value> = wanted.iter().map(told).collect();
        let planned: Vec<Planned> = wanted
            .into_iter()
            .filter(|one| one.is_change)
            .map(|one| {
                let expect = match one.before.as_ref().map(|held| held.document.revision) {
                    None => Expect::Absent,
                    Some(0) => Expect::Any,
                    Some(revision) => Expect::Revision(revision),
                };
                Planned { kind: one.kind, id: one.id, value: one.value, before: one.before, expect }
            })
            .collect();
        if is_trial || planned.is_empty() {
            return Ok(Response::json(200, &json!({"dry_run": is_trial, "objects": told})));
        }
        let written: Vec<(Kind, Id)> = planned.iter().map(|one| (one.kind, one.id.clone())).collect();
        let began = SystemTime::now();
        let (change, _) = self.desk.write_all(&caller.name, action, planned)?;
        let mut answer = json!({"change": change, "objects": told});
        let mut warnings = Vec::new();
        for (kind, id) in written {
            let (_, breaking) = self.desk.outcome(kind, &id, began)?;
            warnings.extend(breaking.into_iter().map(|change| format!("{kind}/{id}: {change}")));
        }
        if !warnings.is_empty() {
            answer["warnings"] = json!(warnings);
        }
        Ok(Response::json(200, &answer))
    }

    /// Answers `history`: the changes that are kept, the newest first.
    pub(super) fn history(&self, request: &Request) -> Answer {
        let limit = match request.query_value("limit").map(|text| text.parse::<usize>()) {
            None => LISTED,
            Some(Ok(limit @ 1..=LISTED_MAX)) => limit,
            Some(_) => return Err(Fault::bad(format!("limit must be between 1 and {LISTED_MAX}"))),
        };
        let (kind, id) = (request.query_value("kind"), request.query_value("id"));
        let is_wanted = |one: &Changed| {
            kind.as_ref().is_none_or(|kind| *kind == one.kind) && id.as_ref().is_none_or(|id| *id == one.id)
        };
        let ids = self.desk.history()?;
        let mut list = Vec::new();
        for number in &ids {
            if list.len() == limit {
                break;
            }
            let Some(change) = self.desk.change(*number)? else { continue };
            if change.objects.iter().any(is_wanted) {
                list.push(change.summary());
            }
        }
        Ok(Response::json(200, &json!({"total": ids.len(), "list": list})))
    }

    /// Answers `history/<number>`: one change with what was before and after.
    pub(super) fn one_change(&self, number: u64) -> Answer {
        let change = self.desk.change(number)?.ok_or_else(|| no_change(number))?;
        Ok(Response::json(200, &change))
    }

    /// Answers `diff`: how an object was after a change, or before its last one,
    /// against how it is.
    pub(super) fn diff(&self, request: &Request) -> Answer {
        let (kind, id) = named(request.query_value("kind"), request.query_value("id"))?;
        let to = request.query_value("to").map(|text| number(&text)).transpose()?;
        let (change, state) = self.state(kind, &id, to)?;
        let now = self.desk.held(kind, &id)?.map(|held| hidden(kind, &held.document.value));
        let differences = differences(state.as_ref(), now.as_ref());
        Ok(Response::json(
            200,
            &json!({"kind": kind.name(), "id": id, "change": change, "differences": differences}),
        ))
    }

    /// Answers `rollback`: takes a change back, or brings one object back to how
    /// it was after a change (`to`), or before its last one.
    pub(super) fn rollback(&self, caller: &Caller, request: &Request) -> Answer {
        let body = super::write::object(request)?;
        let of = |name: &str| match body.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) if number.as_u64().is_some() => Ok(number.as_u64()),
            Some(other) => Err(Fault::bad(format!("{name}: must be the number of a change, not {other}"))),
        };
        let _turn = self.writing.lock();
        let states = match of("change")? {
            Some(number) => self.states_before(number)?,
            None => {
                let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
                let (kind, id) = named(text("kind"), text("id"))?;
                let (_, state) = self.state(kind, &id, of("to")?)?;
                vec![(kind, id, state)]
            }
        };
        let mut wanted = Vec::new();
        for (kind, id, state) in states {
            let before = self.desk.held(kind, &id)?;
            let value = match state {
                None if before.is_none() => continue,
                None => None,
                Some(mut state) => {
                    let now = before.as_ref().map(|held| &held.document.value);
                    restore(&mut state, now, "").map_err(|field| {
                        Fault::new(409, format!("{kind}/{id}: {field} was a secret that history does not keep and the object has no more: write it anew"))
                    })?;
                    let Value::Object(fields) = state else { continue };
                    Some(self.prepared(kind, &id, fields, before.as_ref())?)
                }
            };
            let old = before.as_ref().map(|held| &held.document.value);
            let is_change = !differences(old, value.as_ref()).is_empty();
            wanted.push(Wanted { kind, id, value, before, is_change });
        }
        self.make(
            caller,
            "rollback",
            wanted,
            request.query_value("dry_run").as_deref() == Some("true"),
            false,
        )
    }

    /// How the objects of a change were before it.
    fn states_before(&self, number: u64) -> Result<Vec<(Kind, Id, Option<Value>)>, Fault> {
        let change = self.desk.change(number)?.ok_or_else(|| no_change(number))?;
        check_values(&change)?;
        let one = |one: Changed| {
            let (kind, id) = named(Some(one.kind), Some(one.id))?;
            Ok((kind, id, one.before))
        };
        change.objects.into_iter().map(one).collect()
    }

    /// How an object was after the change `to`, or before its last one; and that
    /// change's number.
    fn state(&self, kind: Kind, id: &Id, to: Option<u64>) -> Result<(u64, Option<Value>), Fault> {
        for number in self.desk.history()? {
            if to.is_some_and(|to| number > to) {
                continue;
            }
            let Some(change) = self.desk.change(number)? else { continue };
            let is_own = |one: &&Changed| one.kind == kind.name() && one.id == id.as_str();
            if let Some(found) = change.objects.iter().find(is_own) {
                check_values(&change)?;
                let state = if to.is_some() { found.after.clone() } else { found.before.clone() };
                return Ok((number, state));
            }
        }
        Err(Fault::new(404, format!("the history has no change of {kind}/{id}")))
    }
}

/// What a set does to one object, as answers tell it.
fn told(one: &Wanted) -> Value {
    let (old, new) = (one.before.as_ref().map(|held| &held.document.value), one.value.as_ref());
    let changed = Changed::new(one.kind, &one.id, old, new);
    let action = if one.is_change { changed.action.as_str() } else { "unchanged" };
    json!({
        "kind": one.kind.name(),
        "id": one.id,
        "key": key(one.kind, &one.id),
        "action": action,
        "differences": differences(changed.before.as_ref(), changed.after.as_ref()),
        "secrets_changed": one.is_change && changed.secrets_changed,
    })
}

fn refused(trial: &Trial) -> Fault {
    let mut told = Vec::new();
    let mut problems = Vec::new();
    for ((kind, id), problem) in &trial.problems {
        told.push(format!("{kind}/{id}: {problem}"));
        problems.push(json!({"kind": kind.name(), "id": id, "field": problem.field, "message": problem.message, "value": problem.value}));
    }
    for ((kind, id), (by, user)) in &trial.in_use {
        let message = format!("{by}/{user} is still using it");
        told.push(format!("{kind}/{id}: {message}"));
        problems.push(json!({"kind": kind.name(), "id": id, "field": "", "message": message, "value": null}));
    }
    Fault::bad(format!("nothing was changed: {}", told.join("; "))).with("problems", problems)
}

fn check_values(change: &Change) -> Result<(), Fault> {
    if !change.without_values {
        return Ok(());
    }
    Err(Fault::new(409, format!("change {} was too large for its values to be kept", change.id)))
}

fn named(kind: Option<String>, id: Option<String>) -> Result<(Kind, Id), Fault> {
    let kind = kind.ok_or_else(|| Fault::bad("kind: is required"))?;
    let kind = Kind::from_name(&kind).map_err(|error| Fault::bad(format!("kind: {error}")))?;
    let id = id.ok_or_else(|| Fault::bad("id: is required"))?;
    Ok((kind, id_of(kind, &id)?))
}

pub(super) fn number(text: &str) -> Result<u64, Fault> {
    text.parse().map_err(|_| Fault::bad("a change is named by its number"))
}

fn no_change(number: u64) -> Fault {
    Fault::new(404, format!("the history has no change {number}"))
}
