//! The defaults APISIX writes into an object, which its clients read back.

use serde_json::{Map, Value, json};

use crate::config::Kind;

/// Fills in what APISIX would have.
pub(super) fn fill(kind: Kind, fields: &mut Map<String, Value>) {
    match kind {
        Kind::Routes => set(fields, &[("priority", json!(0)), ("status", json!(1))]),
        Kind::Ssls => set(fields, &[("status", json!(1)), ("type", json!("server"))]),
        Kind::Upstreams => upstream(fields),
        _ => {}
    }
    if matches!(kind, Kind::Routes | Kind::Services | Kind::StreamRoutes)
        && let Some(Value::Object(inner)) = fields.get_mut("upstream")
    {
        upstream(inner);
    }
}

fn upstream(fields: &mut Map<String, Value>) {
    let common = [
        ("type", json!("roundrobin")),
        ("hash_on", json!("vars")),
        ("scheme", json!("http")),
        ("pass_host", json!("pass")),
    ];
    set(fields, &common);
}

fn set(fields: &mut Map<String, Value>, defaults: &[(&str, Value)]) {
    for (name, value) in defaults {
        if !fields.contains_key(*name) {
            fields.insert((*name).to_owned(), value.clone());
        }
    }
}
