//! Changing a part of an object, by APISIX's rules.

use serde_json::{Map, Value};

use super::fault::Fault;

/// Merges a change into a value: objects are merged field by field, `null`
/// takes a field out, everything else, lists included, replaces what was there.
pub(super) fn merge(value: &mut Value, change: Value) {
    match (value, change) {
        (Value::Object(fields), Value::Object(changes)) => {
            for (name, change) in changes {
                match (fields.get_mut(&name), change) {
                    (_, Value::Null) => {
                        fields.shift_remove(&name);
                    }
                    (Some(own @ Value::Object(_)), change @ Value::Object(_)) => merge(own, change),
                    (_, change) => {
                        fields.insert(name, without_nulls(change));
                    }
                }
            }
        }
        (value, change) => *value = without_nulls(change),
    }
}

/// Puts a value at a place in an object; `null` takes out what is there.
///
/// # Errors
/// The place leads through something that has no fields.
pub(super) fn put(value: &mut Value, fields: &[String], new: Value) -> Result<(), Fault> {
    let Some((last, path)) = fields.split_last() else {
        *value = new;
        return Ok(());
    };
    let mut place = value;
    for (depth, name) in path.iter().enumerate() {
        let Value::Object(own) = place else { return Err(lost(&fields[..depth])) };
        place = own.entry(name.as_str()).or_insert_with(|| Value::Object(Map::new()));
    }
    let Value::Object(own) = place else { return Err(lost(path)) };
    if new.is_null() {
        own.shift_remove(last);
    } else {
        own.insert(last.clone(), new);
    }
    Ok(())
}

fn lost(path: &[String]) -> Fault {
    let shown: String = path.join("/").chars().take(200).collect();
    Fault::bad(format!("invalid sub-path: /{shown}"))
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name, without_nulls(value)))
                .collect(),
        ),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_is_merged_field_by_field() {
        let mut value = json!({"a": 1, "nodes": {"x:1": 1, "y:1": 1}, "methods": ["GET", "PUT"]});
        merge(
            &mut value,
            json!({"a": null, "nodes": {"x:1": null, "z:1": 2}, "methods": ["POST"], "new": {"b": null}}),
        );
        assert_eq!(value, json!({"nodes": {"y:1": 1, "z:1": 2}, "methods": ["POST"], "new": {}}));
        let mut list = json!({"nodes": [{"host": "a"}]});
        merge(&mut list, json!({"nodes": {"a:1": 1}}));
        assert_eq!(list, json!({"nodes": {"a:1": 1}}));
    }

    #[test]
    fn a_place_is_replaced_made_or_taken_out() {
        let path = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
        let mut value = json!({"upstream": {"nodes": {"a:1": 1}}, "methods": ["GET"]});
        put(&mut value, &path("upstream/nodes"), json!({"b:1": 1})).unwrap();
        put(&mut value, &path("labels/team"), json!("x")).unwrap();
        put(&mut value, &path("methods"), json!(null)).unwrap();
        assert_eq!(value, json!({"upstream": {"nodes": {"b:1": 1}}, "labels": {"team": "x"}}));
        let fault = put(&mut value, &path("labels/team/deep"), json!(1)).unwrap_err();
        assert_eq!(fault, Fault::bad("invalid sub-path: /labels/team"));
    }
}
