//! What a path is about.

use percent_encoding::percent_decode_str;

use super::fault::Fault;
use crate::config::{Id, Kind};

/// The head of every path.
const ROOT: &str = "/apisix/admin";

/// What a request is about.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Target {
    /// A kind, an object of it, or a place in one.
    Objects(Place),
    /// `schema/validate/<kind>`.
    Validate(Kind),
    /// `schema/<kind>`.
    Schema(Kind),
    /// `plugins/…` and `schema/plugins/…`: the segments behind it.
    Plugins(Vec<String>),
}

/// A kind, an object of it, or a place in one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) id: Option<Id>,
    /// What the ids of a list begin with: a consumer's credentials.
    pub(super) within: Option<String>,
    /// Names of fields, from the outermost on.
    pub(super) fields: Vec<String>,
}

impl Target {
    pub(super) fn parse(path: &str) -> Result<Self, Fault> {
        let nowhere = || Fault::new(404, format!("there is nothing at {}", shortened(path)));
        let rest = path.strip_prefix(ROOT).ok_or_else(nowhere)?;
        let rest = rest.strip_prefix('/').ok_or_else(nowhere)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let segments: Vec<String> = rest.split('/').map(decoded).collect::<Result<_, _>>()?;
        let names: Vec<&str> = segments.iter().map(String::as_str).collect();
        match names[..] {
            ["schema", "validate", kind] => Ok(Self::Validate(kind_of(kind)?)),
            ["schema", "plugins", ..] => Ok(Self::Plugins(segments[2..].to_vec())),
            ["schema", kind] => Ok(Self::Schema(kind_of(kind).or_else(|fault| {
                // APISIX says `schema/route` for `routes`.
                kind_of(&format!("{kind}s")).map_err(|_| fault)
            })?)),
            ["plugins", ..] => Ok(Self::Plugins(segments[1..].to_vec())),
            ["consumers", consumer, "credentials"] => {
                let consumer = id_of(Kind::Consumers, consumer)?;
                let within = Some(format!("{consumer}."));
                Ok(Self::Objects(Place { kind: Kind::Credentials, id: None, within, fields: Vec::new() }))
            }
            ["consumers", consumer, "credentials", id, ..] => {
                let id = id_of(Kind::Credentials, &format!("{consumer}.{id}"))?;
                Ok(Self::Objects(Place::of(Kind::Credentials, id, &segments[4..])))
            }
            ["secrets", manager, id, ..] => {
                let id = id_of(Kind::Secrets, &format!("{manager}.{id}"))?;
                Ok(Self::Objects(Place::of(Kind::Secrets, id, &segments[3..])))
            }
            [kind] => {
                let kind = kind_of(kind)?;
                Ok(Self::Objects(Place { kind, id: None, within: None, fields: Vec::new() }))
            }
            [kind, id, ..] => {
                let kind = kind_of(kind)?;
                let id = id_of(kind, id)?;
                Ok(Self::Objects(Place::of(kind, id, &segments[2..])))
            }
            [] => Err(nowhere()),
        }
    }
}

impl Place {
    fn of(kind: Kind, id: Id, fields: &[String]) -> Self {
        Self { kind, id: Some(id), within: None, fields: fields.to_vec() }
    }
}

fn kind_of(name: &str) -> Result<Kind, Fault> {
    Kind::from_name(name)
        .map_err(|error| Fault::new(404, format!("Unsupported resource type: {}: {error}", shortened(name))))
}

/// An id as the path or a body says it.
pub(super) fn id_of(kind: Kind, text: &str) -> Result<Id, Fault> {
    Id::new(text)
        .map_err(|error| Fault::bad(format!("wrong {} id {:?}: it {error}", singular(kind), shortened(text))))
}

fn decoded(segment: &str) -> Result<String, Fault> {
    percent_decode_str(segment)
        .decode_utf8()
        .map(|text| text.into_owned())
        .map_err(|_| Fault::bad("the path is not UTF-8 text"))
}

fn shortened(text: &str) -> String {
    text.chars().take(100).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A kind in the singular, as APISIX's messages name it: `stream route`.
pub(super) fn singular(kind: Kind) -> String {
    let words = kind.name().replace('_', " ");
    words.strip_suffix('s').unwrap_or(&words).to_owned()
}

/// An id as answers show it: a credential's without its consumer, a secret's
/// with its manager as `manager/id`.
pub(super) fn shown_id(kind: Kind, id: &Id) -> String {
    match (kind, id.split_once('.')) {
        (Kind::Credentials, Some((_, own))) => own.to_owned(),
        (Kind::Secrets, Some((manager, own))) => format!("{manager}/{own}"),
        _ => id.as_str().to_owned(),
    }
}

/// The key of an object, as APISIX shows it.
pub(super) fn key(kind: Kind, id: &Id) -> String {
    match (kind, id.split_once('.')) {
        (Kind::Credentials, Some((consumer, own))) => {
            format!("/apisix/consumers/{consumer}/credentials/{own}")
        }
        _ => format!("/apisix/{kind}/{}", shown_id(kind, id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(path: &str) -> (Kind, Option<String>, Vec<String>) {
        match Target::parse(path) {
            Ok(Target::Objects(place)) => {
                (place.kind, place.id.map(|id| id.as_str().to_owned()), place.fields)
            }
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn a_path_names_a_kind_an_object_or_a_place_in_it() {
        assert_eq!(objects("/apisix/admin/routes"), (Kind::Routes, None, vec![]));
        assert_eq!(objects("/apisix/admin/routes/"), (Kind::Routes, None, vec![]));
        assert_eq!(objects("/apisix/admin/routes/1"), (Kind::Routes, Some("1".into()), vec![]));
        let (_, id, fields) = objects("/apisix/admin/upstreams/u/nodes/127.0.0.1%3A80");
        assert_eq!((id.as_deref(), fields), (Some("u"), vec!["nodes".to_owned(), "127.0.0.1:80".to_owned()]));
        assert_eq!(Target::parse("/apisix/admin/schema/validate/routes"), Ok(Target::Validate(Kind::Routes)));
        let (kind, id, fields) = objects("/apisix/admin/consumers/jack/credentials/one");
        assert_eq!((kind, id.as_deref(), fields.len()), (Kind::Credentials, Some("jack.one"), 0));
        let id = Id::new("jack.one").unwrap();
        assert_eq!(key(kind, &id), "/apisix/consumers/jack/credentials/one");
        assert_eq!(objects("/apisix/admin/secrets/file/run").1.as_deref(), Some("file.run"));
        assert_eq!(Target::parse("/apisix/admin/schema/route"), Ok(Target::Schema(Kind::Routes)));
    }

    #[test]
    fn paths_that_climb_or_lead_nowhere_are_refused() {
        for (path, status) in [
            ("/apisix/admin/routes/..", 400),
            ("/apisix/admin/routes/%2e%2e%2f%2e%2e%2fetc", 400),
            ("/apisix/admin/routes/..%5c..", 400),
            ("/apisix/admin/routes/a%00b", 400),
            ("/apisix/admin/routes/%ff", 400),
            ("/apisix/admin/../admin/routes", 404),
            ("/apisix/admin/nothing/1", 404),
            ("/apisix/admin", 404),
            ("/apisix/adminroutes", 404),
            ("/", 404),
        ] {
            assert_eq!(Target::parse(path).map_err(|fault| fault.status()), Err(status), "{path}");
        }
    }

    #[test]
    fn kinds_are_named_in_the_singular() {
        assert_eq!(singular(Kind::StreamRoutes), "stream route");
        assert_eq!(singular(Kind::Ssls), "ssl");
    }
}
