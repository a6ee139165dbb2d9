//! What was changed, when and by whom: kept in the store, up to a limit, with no
//! secret in it.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::desk::Desk;
use super::fault::Fault;
use crate::config::source::{Area, RecordName};
use crate::config::{Id, Kind, redact};

/// How many changes are made until the history is counted anew: other nodes add to
/// it, too.
const COUNT_EVERY: usize = 64;
/// The most old changes that go with a new one: an overfull history shrinks in steps.
pub(super) const FORGOTTEN_MAX: usize = 16;
/// The largest record with the values in it, in bytes; a larger one goes without.
const VALUES_BYTES_MAX: usize = 256 << 10;
/// What stands in the place of a secret.
pub(super) const HIDDEN: &str = "(hidden)";

/// A change of one or several objects.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Change {
    /// Its number; later ones are larger.
    pub(super) id: u64,
    /// When, in milliseconds since 1970.
    pub(super) time: u64,
    /// The name of the key it was made with, or the node that made it by itself.
    pub(super) by: String,
    /// By what: `put`, `post`, `patch`, `delete`, `changes`, `rollback`.
    pub(super) action: String,
    /// What it changed.
    pub(super) objects: Vec<Changed>,
    /// Whether the values were too large to be kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) without_values: bool,
}

/// One object that was changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Changed {
    /// The name of its kind.
    pub(super) kind: String,
    /// Its id.
    pub(super) id: String,
    /// `created`, `updated` or `deleted`.
    pub(super) action: String,
    /// What it was, without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<Value>,
    /// What it became, without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) after: Option<Value>,
    /// Whether a secret in it was changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) secrets_changed: bool,
}

impl Changed {
    pub(super) fn new(kind: Kind, id: &Id, before: Option<&Value>, after: Option<&Value>) -> Self {
        let action = match (before, after) {
            (None, _) => "created",
            (_, None) => "deleted",
            _ => "updated",
        };
        Self {
            kind: kind.name().to_owned(),
            id: id.as_str().to_owned(),
            action: action.to_owned(),
            before: before.map(|value| hidden(kind, value)),
            after: after.map(|value| hidden(kind, value)),
            secrets_changed: secrets(kind, before) != secrets(kind, after),
        }
    }
}

impl Change {
    /// A change made now, with a number above `last`.
    pub(super) fn now(by: &str, action: &str, objects: Vec<Changed>, last: u64) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            id: (now.as_micros() as u64).max(last + 1),
            time: now.as_millis() as u64,
            by: by.to_owned(),
            action: action.to_owned(),
            objects,
            without_values: false,
        }
    }

    /// The record of it, and its name.
    pub(super) fn record(mut self) -> Result<(RecordName, Vec<u8>), Fault> {
        let written = |change: &Self| serde_json::to_vec(change).unwrap_or_default();
        let mut bytes = written(&self);
        if bytes.len() > VALUES_BYTES_MAX {
            self.without_values = true;
            for object in &mut self.objects {
                (object.before, object.after) = (None, None);
            }
            bytes = written(&self);
        }
        Ok((name(self.id)?, bytes))
    }

    /// What lists show of it.
    pub(super) fn summary(&self) -> Value {
        let objects: Vec<_> = self
            .objects
            .iter()
            .map(|one| json!({"kind": one.kind, "id": one.id, "action": one.action}))
            .collect();
        json!({"id": self.id, "time": self.time, "by": self.by, "action": self.action, "objects": objects})
    }
}

/// The record of a change of one object that a node makes by itself, and its name.
#[must_use]
pub fn own_change(
    node: &str,
    action: &str,
    (kind, id): (Kind, &Id),
    before: &Value,
    after: &Value,
) -> Option<(RecordName, Vec<u8>)> {
    let changed = Changed::new(kind, id, Some(before), Some(after));
    Change::now(&format!("node {node}"), action, vec![changed], 0).record().ok()
}

fn name(id: u64) -> Result<RecordName, Fault> {
    RecordName::new(Area::History, &format!("{id:020}")).map_err(|error| Fault::new(500, error.to_string()))
}

/// A value without its secrets.
pub(super) fn hidden(kind: Kind, value: &Value) -> Value {
    let mut value = value.clone();
    redact(kind, &mut value, &mut |_| json!(HIDDEN));
    value
}

fn secrets(kind: Kind, value: Option<&Value>) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(value) = value {
        redact(kind, &mut value.clone(), &mut |secret| {
            found.push(secret.to_owned());
            json!(HIDDEN)
        });
    }
    found
}

/// Puts the secrets an object has now where an old state of it has hidden ones.
/// Says the field of the first that it has not.
pub(super) fn restore(old: &mut Value, now: Option<&Value>, field: &str) -> Result<(), String> {
    match old {
        Value::String(text) if *text == *HIDDEN => match now {
            Some(now @ (Value::String(_) | Value::Number(_))) => {
                *old = now.clone();
                Ok(())
            }
            _ => Err(field.to_owned()),
        },
        Value::Object(fields) => fields.iter_mut().try_for_each(|(name, value)| {
            let field = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
            restore(value, now.and_then(|now| now.get(name)), &field)
        }),
        Value::Array(items) => items.iter_mut().enumerate().try_for_each(|(index, value)| {
            restore(value, now.and_then(|now| now.get(index)), &format!("{field}[{index}]"))
        }),
        _ => Ok(()),
    }
}

impl Desk {
    /// The numbers of all changes that are kept, the newest first.
    pub(super) fn history(&self) -> Result<Vec<u64>, Fault> {
        let names = self.records(Area::History)?;
        let mut ids: Vec<u64> = names.iter().filter_map(|name| name.name().parse().ok()).collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        Ok(ids)
    }

    /// One change.
    pub(super) fn change(&self, id: u64) -> Result<Option<Change>, Fault> {
        let Some(bytes) = self.record(name(id)?)? else { return Ok(None) };
        let unread =
            |error: serde_json::Error| Fault::new(500, format!("change {id} cannot be read: {error}"));
        serde_json::from_slice(&bytes).map(Some).map_err(unread)
    }

    /// The records of changes that are over the limit once the one of this number is
    /// kept.
    pub(super) fn forgotten(&self, id: u64) -> Result<Vec<RecordName>, Fault> {
        let known = self.kept.lock().take().filter(|kept| kept.made < COUNT_EVERY);
        let mut kept = match known {
            Some(kept) => kept,
            None => Kept::of(self.history()?),
        };
        let gone = kept.one_more(id, self.history_max);
        *self.kept.lock() = Some(kept);
        gone.into_iter().map(name).collect()
    }
}

/// What is known of the history, so that not every change has to list it.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Numbers of the changes that are kept, the oldest first.
    ids: VecDeque<u64>,
    /// How many of them were made here since the others were listed.
    made: usize,
}

impl Kept {
    /// Of a history with these numbers, the newest first.
    fn of(ids: Vec<u64>) -> Self {
        Self { ids: ids.into_iter().rev().collect(), made: 0 }
    }

    /// Counts a change; gives the numbers of those that are too many with it, a few
    /// at most.
    fn one_more(&mut self, id: u64, max: usize) -> Vec<u64> {
        self.made += 1;
        self.ids.push_back(id);
        let over = self.ids.len().saturating_sub(max);
        self.ids.drain(..over.min(FORGOTTEN_MAX)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Id {
        Id::new(text).unwrap()
    }

    #[test]
    fn a_change_has_no_secret_in_it_and_says_that_one_changed() {
        let before = json!({"username": "jack", "plugins": {"key-auth": {"key": "old-one"}}});
        let after = json!({"username": "jack", "plugins": {"key-auth": {"key": "new-one"}}});
        let changed = Changed::new(Kind::Consumers, &id("jack"), Some(&before), Some(&after));
        assert!(changed.secrets_changed);
        let (_, bytes) = Change::now("ops", "put", vec![changed], 0).record().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert!(!text.contains("old-one") && !text.contains("new-one"), "{text}");
        assert!(!Changed::new(Kind::Consumers, &id("jack"), Some(&before), Some(&before)).secrets_changed);
    }

    #[test]
    fn what_is_too_much_goes_with_the_next_changes_the_oldest_first() {
        let mut kept = Kept::of((0..20).rev().collect());
        let first: Vec<u64> = (0..FORGOTTEN_MAX as u64).collect();
        assert_eq!(kept.one_more(20, 4), first, "no more at once");
        assert_eq!(kept.one_more(21, 4), [16, 17]);
        assert_eq!(kept.one_more(22, 4), [18]);
        assert_eq!(Kept::of(vec![1]).one_more(2, 2), Vec::<u64>::new());
    }

    #[test]
    fn hidden_secrets_are_those_of_now_or_missing() {
        let now = json!({"plugins": {"key-auth": {"key": "k"}}, "list": ["a"]});
        let mut old = json!({"desc": "old", "plugins": {"key-auth": {"key": HIDDEN}}});
        restore(&mut old, Some(&now), "").unwrap();
        assert_eq!(old, json!({"desc": "old", "plugins": {"key-auth": {"key": "k"}}}));
        let mut old = json!({"keys": [HIDDEN]});
        assert_eq!(restore(&mut old, Some(&now), ""), Err("keys[0]".to_owned()));
    }

    #[test]
    fn what_is_large_is_kept_without_its_values() {
        let large = json!({"desc": "x".repeat(VALUES_BYTES_MAX)});
        let changed = Changed::new(Kind::Routes, &id("r"), None, Some(&large));
        let (_, bytes) = Change::now("ops", "put", vec![changed], 0).record().unwrap();
        let change: Change = serde_json::from_slice(&bytes).unwrap();
        assert!(change.without_values && change.objects[0].after.is_none());
    }
}
