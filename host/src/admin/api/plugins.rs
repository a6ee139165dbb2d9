//! `plugins` and `schema`: what plugins and kinds there are.

use serde_json::{Map, Value, json};

use super::Response;
use super::fault::{Answer, Fault};
use crate::admin::exchange::Request;
use crate::config::{Kind, Object};
use crate::filter::built_in_plugins;

/// Answers `plugins/…` and `schema/plugins/…`.
pub(super) fn answer(place: &[String], request: &Request) -> Answer {
    let names: Vec<&str> = place.iter().map(String::as_str).collect();
    match (request.method.as_str(), &names[..]) {
        ("GET" | "HEAD", ["list"]) => {
            let mut all: Vec<_> = built_in_plugins().collect();
            all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
            Ok(Response::json(200, &all.iter().map(|(name, _)| *name).collect::<Vec<_>>()))
        }
        ("GET" | "HEAD", []) => {
            let all: Map<String, Value> =
                built_in_plugins().map(|(name, priority)| (name.to_owned(), described(priority))).collect();
            Ok(Response::json(200, &all))
        }
        // Plugins are read when objects name them: there is nothing to load again.
        ("PUT", ["reload"]) => Ok(Response::text(200, "text/plain", "done".to_owned())),
        ("GET" | "HEAD", [name]) => built_in_plugins()
            .find(|(known, _)| known == name)
            .map(|(_, priority)| Response::json(200, &described(priority)))
            .ok_or_else(|| Fault::new(404, "plugin not found")),
        ("GET" | "HEAD" | "PUT", _) => Err(Fault::new(404, "there is nothing at this path")),
        _ => Err(Fault::method(&request.method, "GET, PUT")),
    }
}

/// What is said of a plugin: the fields are checked by itself and stand in the docs.
fn described(priority: i32) -> Value {
    json!({"type": "object", "priority": priority})
}

/// The fields of a kind.
pub(super) fn schema(kind: Kind) -> Response {
    let fields: Map<String, Value> =
        Object::fields(kind).iter().map(|field| ((*field).to_owned(), json!({}))).collect();
    Response::json(200, &json!({"type": "object", "properties": fields, "additionalProperties": false}))
}
