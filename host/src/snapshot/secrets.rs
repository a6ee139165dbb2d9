//! References to secrets: what stands in an object instead of the secret, and
//! reading what it names.
//!
//! A reference is the whole text of a field: `$env://NAME` (also `$ENV://`) or
//! `$secret://file/<id>/<name>`, each with one more `/<member>` where the secret
//! is a JSON object. One that leads nowhere is an error, never a literal.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::config::{Id, Kind, Object, Problem, Store};

/// The largest secret, in bytes.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Whether a text is a reference to a secret.
pub(super) fn is_reference(text: &str) -> bool {
    ["$env://", "$ENV://", "$secret://"].iter().any(|head| text.starts_with(head))
}

/// Whether there is a reference anywhere in a value.
pub(super) fn has_reference(value: &Value) -> bool {
    match value {
        Value::String(text) => is_reference(text),
        Value::Array(items) => items.iter().any(has_reference),
        Value::Object(fields) => fields.values().any(has_reference),
        _ => false,
    }
}

/// A value with what its references name in their place.
///
/// # Errors
/// One problem for each that leads nowhere, below `field`.
pub(super) fn resolve(store: &Store, field: &str, value: &Value) -> Result<Value, Vec<Problem>> {
    let mut value = value.clone();
    let mut problems = Vec::new();
    walk(store, field, &mut value, &mut problems);
    if problems.is_empty() { Ok(value) } else { Err(problems) }
}

fn walk(store: &Store, field: &str, value: &mut Value, problems: &mut Vec<Problem>) {
    match value {
        Value::String(text) if is_reference(text) => match read(store, text) {
            Ok(secret) => *text = secret,
            Err(message) => {
                let shown = Some(format!("{text:?}"));
                problems.push(Problem { field: field.to_owned(), message, value: shown });
            }
        },
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                walk(store, &format!("{field}[{index}]"), item, problems);
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                walk(store, &format!("{field}.{name}"), value, problems);
            }
        }
        _ => {}
    }
}

/// The secret a reference names; the error never has a secret in it.
fn read(store: &Store, reference: &str) -> Result<String, String> {
    let named = |rest: &str| {
        let (name, member) = rest.split_once('/').map_or((rest, None), |(name, member)| (name, Some(member)));
        (name.to_owned(), member.map(str::to_owned))
    };
    if let Some(rest) = reference.strip_prefix("$secret://") {
        let mut parts = rest.splitn(3, '/');
        let (Some(manager), Some(id), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("must be $secret://file/<id>/<name>".to_owned());
        };
        if manager != "file" {
            return Err(format!("there is no manager {manager:?}; the only one is \"file\""));
        }
        let (name, member) = named(rest);
        return member_of(from_file(store, id, &name)?, member.as_deref());
    }
    let rest = reference.split_once("://").map_or("", |(_, rest)| rest);
    let (name, member) = named(rest);
    let value = std::env::var(&name)
        .map_err(|_| format!("names the environment variable {name:?}, which is not set"))?;
    member_of(value, member.as_deref())
}

fn from_file(store: &Store, id: &str, name: &str) -> Result<String, String> {
    let object = Id::new(&format!("file.{id}")).ok().and_then(|id| store.live(Kind::Secrets, &id));
    let Some(Object::Secret(object)) = object else {
        return Err(format!("names secrets/file/{id}, which does not exist"));
    };
    // Right in the folder: a name never leads out of it.
    if name.is_empty() || name.starts_with('.') || Path::new(name).components().count() != 1 {
        return Err(format!("names the file {name:?}, which is no plain file name"));
    }
    let path = object.dir.join(name);
    let failed = |why: &dyn std::fmt::Display| Err(format!("names the file {}: {why}", path.display()));
    match fs::metadata(&path) {
        Ok(metadata) if !metadata.is_file() => return failed(&"it is no file"),
        Ok(metadata) if metadata.len() > SECRET_BYTES_MAX => return failed(&"it is larger than 64 KiB"),
        Ok(_) => {}
        Err(error) => return failed(&error),
    }
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text
            .strip_suffix('\n')
            .map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t))
            .to_owned()),
        Err(error) => failed(&error),
    }
}

/// The secret itself, or a member of the JSON object it is.
fn member_of(secret: String, member: Option<&str>) -> Result<String, String> {
    let Some(member) = member else { return Ok(secret) };
    let object: Value = serde_json::from_str(&secret)
        .map_err(|_| format!("names the member {member:?} of what is no JSON"))?;
    match object.get(member) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        _ => Err(format!("names the member {member:?}, which is not there or no text")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use serde_json::json;

    use super::*;
    use crate::config::{Document, DocumentChange, Origin};

    fn store(folder: &Path) -> Store {
        let mut store = Store::new(Box::new(|_, _| {}));
        let id = Id::new("file.run").unwrap();
        let origin = Origin::file(Path::new("test"));
        let value = json!({"dir": folder});
        let document = Document { kind: Kind::Secrets, id, value, origin, revision: 1, created: 0 };
        store.apply(vec![DocumentChange::Put(Arc::new(document))], SystemTime::now());
        store
    }

    #[test]
    fn references_are_read_and_what_is_none_stays() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("plain"), "s3cret\n").unwrap();
        fs::write(folder.path().join("all.json"), r#"{"jack": "k-1"}"#).unwrap();
        let value =
            json!({"key": "$secret://file/run/all.json/jack", "list": ["$secret://file/run/plain", "$x", 1]});
        let resolved = resolve(&store(folder.path()), "plugins.x", &value).unwrap();
        assert_eq!(resolved, json!({"key": "k-1", "list": ["s3cret", "$x", 1]}));
        let home = std::env::var("PATH").unwrap();
        let resolved = resolve(&store(folder.path()), "", &json!("$ENV://PATH")).unwrap();
        assert_eq!(resolved, json!(home));
    }

    #[test]
    fn what_leads_nowhere_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("plain"), "s3cret").unwrap();
        let store = store(folder.path());
        for (text, words) in [
            ("$env://SLUICE_NOT_SET", "SLUICE_NOT_SET"),
            ("$secret://vault/1/a/b", "vault"),
            ("$secret://file/run", "must be $secret://file/"),
            ("$secret://file/none/plain", "secrets/file/none"),
            ("$secret://file/run/gone", "gone"),
            ("$secret://file/run/..", "no plain file name"),
            ("$secret://file/run/.plain", "no plain file name"),
            ("$secret://file/run/plain/member", "no JSON"),
        ] {
            let problems = resolve(&store, "plugins.key-auth", &json!({"key": text})).unwrap_err();
            assert_eq!(problems[0].field, "plugins.key-auth.key");
            let told = problems[0].to_string();
            assert!(told.contains(words) && !told.contains("s3cret"), "{text}: {told}");
        }
    }
}
