//! What is different between two states of an object.

use serde::Serialize;
use serde_json::{Map, Value};

/// Fields that differ with every write and mean nothing.
const STAMPS: [&str; 3] = ["create_time", "update_time", "id"];

/// One field that is different.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Difference {
    /// The path of the field; empty for the object as a whole.
    pub(super) field: String,
    /// What it was; none where it was not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<Value>,
    /// What it is; none where it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) after: Option<Value>,
}

/// The fields that are different, in the order of the objects. Times and the id
/// do not count.
pub(super) fn differences(before: Option<&Value>, after: Option<&Value>) -> Vec<Difference> {
    let mut found = Vec::new();
    match (before, after) {
        (Some(Value::Object(before)), Some(Value::Object(after))) => fields("", before, after, &mut found),
        (before, after) if before == after => {}
        (before, after) => found.push(Difference {
            field: String::new(),
            before: before.map(without_stamps),
            after: after.map(without_stamps),
        }),
    }
    found
}

fn without_stamps(value: &Value) -> Value {
    let mut value = value.clone();
    if let Value::Object(fields) = &mut value {
        fields.retain(|name, _| !STAMPS.contains(&name.as_str()));
    }
    value
}

fn fields(path: &str, before: &Map<String, Value>, after: &Map<String, Value>, found: &mut Vec<Difference>) {
    let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
    for name in names {
        if path.is_empty() && STAMPS.contains(&name.as_str()) {
            continue;
        }
        let field = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match (before.get(name), after.get(name)) {
            (Some(Value::Object(before)), Some(Value::Object(after))) => fields(&field, before, after, found),
            (before, after) if before == after => {}
            (before, after) => {
                found.push(Difference { field, before: before.cloned(), after: after.cloned() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_differ_are_told_with_both_values() {
        let before = json!({"id": "1", "uri": "/a", "plugins": {"cors": {}, "mocking": {"delay": 1}}, "update_time": 1});
        let after = json!({"uri": "/b", "plugins": {"mocking": {"delay": 2}}, "name": "n", "update_time": 2});
        let told: Vec<_> = differences(Some(&before), Some(&after))
            .into_iter()
            .map(|one| (one.field, one.before.is_some(), one.after.is_some()))
            .collect();
        let expected = [
            ("uri".to_owned(), true, true),
            ("plugins.cors".to_owned(), true, false),
            ("plugins.mocking.delay".to_owned(), true, true),
            ("name".to_owned(), false, true),
        ];
        assert_eq!(told, expected);
        assert!(differences(Some(&before), Some(&before)).is_empty());
        assert_eq!(differences(None, Some(&after)).len(), 1);
    }
}
