//! `plugins` and `schema`: what plugins and kinds there are.

use serde_json::{Map, Value, json};

use super::Response;
use super::fault::{Answer, Fault};
use crate::config::{Kind, Object};
use crate::filter::built_in_plugins;

/// The names of plugins, by priority.
pub(super) fn names() -> Response {
    let mut all: Vec<_> = built_in_plugins().collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    Response::json(200, &all.iter().map(|(name, _)| *name).collect::<Vec<_>>())
}

/// Every plugin.
pub(super) fn all() -> Response {
    let all: Map<String, Value> =
        built_in_plugins().map(|(name, priority)| (name.to_owned(), described(priority))).collect();
    Response::json(200, &all)
}

/// One plugin.
pub(super) fn one(name: &str) -> Answer {
    built_in_plugins()
        .find(|(known, _)| *known == name)
        .map(|(_, priority)| Response::json(200, &described(priority)))
        .ok_or_else(|| Fault::new(404, "plugin not found"))
}

/// What is said of a plugin: the fields are checked by itself and stand in the docs.
fn described(priority: i32) -> Value {
    json!({"type": "object", "priority": priority})
}

/// The fields of a kind.
pub(super) fn schema(kind: Kind) -> Response {
    Response::json(200, &Object::schema(kind))
}
