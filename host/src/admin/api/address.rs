//! What a path is about.

use percent_encoding::percent_decode_str;

use super::fault::Fault;
use crate::config::{Id, Kind, shown_id};

/// The head of every path.
pub(super) const ROOT: &str = "/apisix/admin";

/// A path that is not of objects, with its methods and what each does. A part
/// in braces stands for any text.
pub(super) struct Fixed {
    pub(super) pattern: &'static str,
    pub(super) methods: &'static [(&'static str, &'static str)],
    pub(super) call: Call,
}

/// What is called at a path that is not of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Checks an object alone.
    Validate,
    /// The fields of a kind.
    Schema,
    /// What is known of every plugin.
    Plugins,
    /// The names of plugins.
    PluginNames,
    /// What is known of one plugin.
    Plugin,
    /// Loads plugins again.
    Reload,
    /// Writes several objects together.
    Changes,
    /// Goes back.
    Rollback,
    /// Lists changes.
    History,
    /// One change.
    Change,
    /// Compares an object with how it was.
    Diff,
    /// The pieces of a component.
    Component,
    /// One of them.
    Piece,
    /// The description of all this.
    OpenApi,
}

const fn fixed(pattern: &'static str, methods: &'static [(&'static str, &'static str)], call: Call) -> Fixed {
    Fixed { pattern, methods, call }
}

/// Every path that is not of objects. The first that fits is taken.
pub(super) const FIXED: [Fixed; 16] = [
    fixed(
        "schema/validate/{kind}",
        &[("POST", "check an object alone, without what it names")],
        Call::Validate,
    ),
    fixed("schema/plugins", &[("GET", "what is known of every plugin")], Call::Plugins),
    fixed("schema/plugins/{name}", &[("GET", "what is known of a plugin")], Call::Plugin),
    fixed("schema/{kind}", &[("GET", "the fields of a kind")], Call::Schema),
    fixed("plugins", &[("GET", "what is known of every plugin")], Call::Plugins),
    fixed("plugins/list", &[("GET", "the names of plugins, by priority")], Call::PluginNames),
    fixed(
        "plugins/reload",
        &[("PUT", "does nothing: plugins are read when objects name them")],
        Call::Reload,
    ),
    fixed("plugins/{name}", &[("GET", "what is known of a plugin")], Call::Plugin),
    fixed("changes", &[("POST", "write several objects together, or none")], Call::Changes),
    fixed(
        "rollback",
        &[("POST", "take a change back, or bring one object back to how it was")],
        Call::Rollback,
    ),
    fixed("history", &[("GET", "the changes that are kept, the newest first")], Call::History),
    fixed("history/{change}", &[("GET", "one change with what was before and after")], Call::Change),
    fixed("diff", &[("GET", "how an object was against how it is")], Call::Diff),
    fixed(
        "blobs/{digest}",
        &[
            ("GET", "which pieces of a component are there"),
            ("POST", "check that they are the whole"),
            ("DELETE", "delete them, where no module names the component"),
        ],
        Call::Component,
    ),
    fixed("blobs/{digest}/{piece}", &[("PUT", "send a piece of a component")], Call::Piece),
    fixed("openapi.json", &[("GET", "this document")], Call::OpenApi),
];

/// What a request is about.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Target {
    /// A kind, an object of it, or a place in one.
    Objects(Place),
    /// Another path, the parts its pattern leaves open, and its methods.
    Fixed(Call, Vec<String>, &'static [(&'static str, &'static str)]),
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
        for fixed in &FIXED {
            if let Some((open, [])) = fitted(fixed.pattern, &segments) {
                return Ok(Self::Fixed(fixed.call, open, fixed.methods));
            }
        }
        Place::parse(&segments).map(Self::Objects)
    }
}

/// The open parts of a pattern in the head of a path, and what follows it.
fn fitted<'a>(pattern: &str, segments: &'a [String]) -> Option<(Vec<String>, &'a [String])> {
    let mut rest = segments;
    let mut open = Vec::new();
    for part in pattern.split('/') {
        let (first, others) = rest.split_first()?;
        if part.starts_with('{') {
            open.push(first.clone());
        } else if part != first {
            return None;
        }
        rest = others;
    }
    Some((open, rest))
}

/// The path of a kind's objects, below the root.
pub(super) fn list_pattern(kind: Kind) -> &'static str {
    match kind {
        Kind::Credentials => "consumers/{consumer}/credentials",
        _ => kind.name(),
    }
}

/// The path of one object, below the root.
pub(super) fn one_pattern(kind: Kind) -> String {
    match kind {
        Kind::Secrets => "secrets/{manager}/{id}".to_owned(),
        _ => format!("{}/{{id}}", list_pattern(kind)),
    }
}

impl Place {
    fn parse(segments: &[String]) -> Result<Self, Fault> {
        // Ids of two parts stand in two segments; in one they are taken as well.
        for kind in [Kind::Credentials, Kind::Secrets] {
            if let Some((parts, fields)) = fitted(&one_pattern(kind), segments) {
                return Ok(Self::of(kind, id_of(kind, &parts.join("."))?, fields));
            }
        }
        if let Some((parts, [])) = fitted(list_pattern(Kind::Credentials), segments) {
            let consumer = id_of(Kind::Consumers, &parts[0])?;
            return Ok(Self { within: Some(format!("{consumer}.")), ..Self::whole(Kind::Credentials) });
        }
        let (name, rest) = segments.split_first().map_or(("", &[][..]), |(name, rest)| (name, rest));
        let kind = kind_of(name)?;
        match rest {
            [] => Ok(Self::whole(kind)),
            [id, fields @ ..] => Ok(Self::of(kind, id_of(kind, id)?, fields)),
        }
    }

    fn whole(kind: Kind) -> Self {
        Self { kind, id: None, within: None, fields: Vec::new() }
    }

    fn of(kind: Kind, id: Id, fields: &[String]) -> Self {
        Self { kind, id: Some(id), within: None, fields: fields.to_vec() }
    }
}

/// A kind by its name.
pub(super) fn kind_of(name: &str) -> Result<Kind, Fault> {
    Kind::from_name(name)
        .map_err(|error| Fault::new(404, format!("Unsupported resource type: {}: {error}", shortened(name))))
}

/// A kind by its name, which APISIX says in the singular for a schema.
pub(super) fn kind_of_schema(name: &str) -> Result<Kind, Fault> {
    kind_of(name).or_else(|fault| kind_of(&format!("{name}s")).map_err(|_| fault))
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
        let fixed = |path: &str| match Target::parse(path) {
            Ok(Target::Fixed(call, open, _)) => (call, open),
            other => panic!("{path}: {other:?}"),
        };
        let validate = fixed("/apisix/admin/schema/validate/routes");
        assert_eq!(validate, (Call::Validate, vec!["routes".to_owned()]));
        assert_eq!(fixed("/apisix/admin/history/7"), (Call::Change, vec!["7".to_owned()]));
        assert_eq!(fixed("/apisix/admin/changes"), (Call::Changes, vec![]));
        let (kind, id, fields) = objects("/apisix/admin/consumers/jack/credentials/one");
        assert_eq!((kind, id.as_deref(), fields.len()), (Kind::Credentials, Some("jack.one"), 0));
        let id = Id::new("jack.one").unwrap();
        assert_eq!(key(kind, &id), "/apisix/consumers/jack/credentials/one");
        assert_eq!(objects("/apisix/admin/secrets/file/run").1.as_deref(), Some("file.run"));
        assert_eq!(objects("/apisix/admin/secrets/file.run").1.as_deref(), Some("file.run"));
        assert_eq!(kind_of_schema("route").ok(), Some(Kind::Routes));
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
