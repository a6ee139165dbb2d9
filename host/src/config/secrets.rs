//! Which fields hold secrets, and taking them out of what is shown.

use serde_json::Value;

use super::Kind;

/// Names of fields that hold a secret wherever they stand.
const SECRET_NAMES: [&str; 12] = [
    "access_key",
    "client_key",
    "client_secret",
    "keys",
    "password",
    "path_key",
    "private_key",
    "secret",
    "secret_access_key",
    "secret_key",
    "token",
    "session_key",
];

/// Plugins whose `key` is a credential of a consumer. The `key` of `jwt-auth`
/// is a name that stands in every token, not a secret.
const KEY_PLUGINS: [&str; 1] = ["key-auth"];

/// What begins a reference to a secret: that is no secret itself.
const REFERENCES: [&str; 3] = ["$env://", "$ENV://", "$secret://"];

/// Whether a field, by its path as messages write it, holds something that no
/// message may show.
pub(super) fn is_secret_path(kind: Kind, field: &str) -> bool {
    let names: Vec<&str> = field.split('.').map(|part| part.split('[').next().unwrap_or(part)).collect();
    match names[..] {
        [.., plugin, name] => is_secret(kind, plugin, name),
        [name] => is_secret(kind, "", name),
        [] => false,
    }
}

fn is_secret(kind: Kind, parent: &str, name: &str) -> bool {
    SECRET_NAMES.contains(&name)
        || (name == "key" && (kind == Kind::Ssls && parent.is_empty() || KEY_PLUGINS.contains(&parent)))
}

/// Puts what `shown` gives in the place of every secret of an object. References
/// to secrets stay.
pub fn redact(kind: Kind, value: &mut Value, shown: &mut dyn FnMut(&str) -> Value) {
    walk(kind, "", value, shown);
}

fn walk(kind: Kind, parent: &str, value: &mut Value, shown: &mut dyn FnMut(&str) -> Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if is_secret(kind, parent, name) {
                    hide(value, shown);
                } else {
                    walk(kind, name, value, shown);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| walk(kind, parent, item, shown)),
        // A key may stand where nobody looks for one.
        Value::String(text) if text.contains("PRIVATE KEY") => *value = shown(text),
        _ => {}
    }
}

fn hide(value: &mut Value, shown: &mut dyn FnMut(&str) -> Value) {
    match value {
        Value::String(text) if REFERENCES.iter().any(|head| text.starts_with(head)) => {}
        Value::String(text) => *value = shown(text),
        Value::Array(items) => items.iter_mut().for_each(|item| hide(item, shown)),
        Value::Object(fields) => fields.values_mut().for_each(|value| hide(value, shown)),
        Value::Number(number) => *value = shown(&number.to_string()),
        Value::Bool(_) | Value::Null => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn redacted(kind: Kind, mut value: Value) -> Value {
        redact(kind, &mut value, &mut |_| json!("hidden"));
        value
    }

    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        assert_eq!(
            redacted(Kind::Ssls, json!({"cert": "c", "key": "k", "keys": ["a", "b"], "snis": ["x"]})),
            json!({"cert": "c", "key": "hidden", "keys": ["hidden", "hidden"], "snis": ["x"]})
        );
        assert_eq!(
            redacted(
                Kind::Routes,
                json!({"plugins": {"key-auth": {"key": "k"}, "limit-count": {"key": "uri"}}})
            ),
            json!({"plugins": {"key-auth": {"key": "hidden"}, "limit-count": {"key": "uri"}}})
        );
        assert_eq!(
            redacted(
                Kind::Upstreams,
                json!({"key": "uri", "tls": {"client_key": "-----BEGIN PRIVATE KEY-----"}})
            ),
            json!({"key": "uri", "tls": {"client_key": "hidden"}})
        );
    }

    #[test]
    fn references_are_shown() {
        let value = json!({"plugins": {"jwt-auth": {"key": "user", "secret": "$env://JWT"}}});
        assert_eq!(redacted(Kind::Routes, value.clone()), value);
    }

    #[test]
    fn paths_of_messages_are_judged_the_same() {
        for (field, is_secret) in [
            ("key", true),
            ("keys[0]", true),
            ("plugins.key-auth.key", true),
            ("plugins.limit-count.key", false),
            ("tls.client_key", true),
        ] {
            assert_eq!(is_secret_path(Kind::Ssls, field), is_secret, "{field}");
        }
        assert!(!is_secret_path(Kind::Upstreams, "key"));
    }
}
