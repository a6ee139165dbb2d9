//! The keys of objects below the prefix, as APISIX has them.
//!
//! `<kind>/<id>`, but `consumers/<consumer>/credentials/<id>` and
//! `secrets/<manager>/<id>`: their ids are two parts divided by a dot.

use serde_json::{Value, json};

use crate::config::{Id, Kind, shown_id};

/// What a key is.
#[derive(Debug, PartialEq)]
pub(super) enum Place {
    /// An object.
    Object(Kind, Id),
    /// Nothing: APISIX marks folders by keys that end with a slash.
    Folder,
    /// Something else; why.
    Strange(String),
}

/// The key of an object, below the prefix.
pub(in crate::config) fn key_of(kind: Kind, id: &Id) -> String {
    match (kind, id.split_once('.')) {
        (Kind::Credentials, Some((consumer, own))) => format!("consumers/{consumer}/credentials/{own}"),
        (Kind::Secrets, Some((manager, own))) => format!("secrets/{manager}/{own}"),
        _ => format!("{kind}/{id}"),
    }
}

/// Writes the id in an object as APISIX has it there.
pub(super) fn with_short_id(kind: Kind, id: &Id, value: &mut Value) {
    let short = shown_id(kind, id);
    if short != id.as_str() && value.get("id").is_some() {
        value["id"] = json!(short);
    }
}

/// The opposite: an object that APISIX wrote has the short id.
pub(super) fn with_whole_id(kind: Kind, id: &Id, value: &mut Value) {
    let (_, own) = id.split_once('.').unwrap_or_default();
    let is_short = |given: &str| given == shown_id(kind, id) || given == own;
    if matches!(kind, Kind::Credentials | Kind::Secrets)
        && value.get("id").and_then(Value::as_str).is_some_and(is_short)
    {
        value["id"] = json!(id.as_str());
    }
}

/// What stands at a key below the prefix.
pub(super) fn place_of(inside: &str) -> Place {
    let strange = |message: &str| Place::Strange(message.to_owned());
    let Some((folder, rest)) = inside.split_once('/') else {
        return strange("is not an object: its key is not <prefix>/<kind>/<id>");
    };
    if rest.is_empty() {
        return Place::Folder;
    }
    let kind = match Kind::from_name(folder) {
        Ok(kind) => kind,
        Err(error) => return Place::Strange(error.to_string()),
    };
    let parts: Vec<&str> = rest.split('/').collect();
    match (kind, &parts[..]) {
        (Kind::Consumers, [_, "credentials", ""]) => Place::Folder,
        (Kind::Consumers, [consumer, "credentials", id]) if !consumer.contains('.') => {
            object(Kind::Credentials, &format!("{consumer}.{id}"))
        }
        (Kind::Credentials, _) => {
            strange("is not an object: a credential's key is consumers/<consumer>/credentials/<id>")
        }
        (Kind::Secrets, [manager, id]) if !manager.contains('.') => {
            object(Kind::Secrets, &format!("{manager}.{id}"))
        }
        (Kind::Secrets, _) => strange("is not an object: a secret's key is secrets/<manager>/<id>"),
        _ => object(kind, rest),
    }
}

fn object(kind: Kind, id: &str) -> Place {
    match Id::new(id) {
        Ok(id) => Place::Object(kind, id),
        Err(error) => Place::Strange(format!("the end of the key is not an id: it {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_has_one_key_and_comes_back_from_it() {
        for (kind, id, key) in [
            (Kind::Routes, "1", "routes/1"),
            (Kind::Routes, "a.b", "routes/a.b"),
            (Kind::Consumers, "jack", "consumers/jack"),
            (Kind::Credentials, "jack.one", "consumers/jack/credentials/one"),
            (Kind::Credentials, "jack.one.two", "consumers/jack/credentials/one.two"),
            (Kind::Secrets, "vault.1", "secrets/vault/1"),
        ] {
            let id = Id::new(id).unwrap();
            assert_eq!(key_of(kind, &id), key);
            assert_eq!(place_of(key), Place::Object(kind, id));
        }
    }

    #[test]
    fn ids_in_values_are_as_in_apisix() {
        for (kind, id, short) in [
            (Kind::Credentials, "jack.one", "one"),
            (Kind::Secrets, "vault.1", "vault/1"),
            (Kind::Routes, "a.b", "a.b"),
        ] {
            let id = Id::new(id).unwrap();
            let whole = json!({"id": id.as_str(), "desc": "d"});
            let mut value = whole.clone();
            with_short_id(kind, &id, &mut value);
            assert_eq!(value["id"], short);
            with_whole_id(kind, &id, &mut value);
            assert_eq!(value, whole);
            let mut without = json!({"desc": "d"});
            with_short_id(kind, &id, &mut without);
            assert_eq!(without, json!({"desc": "d"}));
        }
    }

    #[test]
    fn what_is_no_object_says_why() {
        for (key, words) in [
            ("routes", "not <prefix>/<kind>/<id>"),
            ("cookies/x", "there is no kind"),
            ("routes/a/b", "not an id"),
            ("routes/..", "not an id"),
            ("consumers/jack/credentials/a/b", "not an id"),
            ("consumers/a.b/credentials/c", "not an id"),
            ("credentials/jack.one", "consumers/<consumer>/credentials/<id>"),
            ("secrets/vault.1", "secrets/<manager>/<id>"),
        ] {
            match place_of(key) {
                Place::Strange(message) => assert!(message.contains(words), "{key}: {message}"),
                other => panic!("{key}: {other:?}"),
            }
        }
        for folder in ["routes/", "consumers/jack/credentials/"] {
            assert_eq!(place_of(folder), Place::Folder, "{folder}");
        }
    }
}
