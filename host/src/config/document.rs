//! Documents: what stands in a file, before it is understood.
//!
//! Reads YAML and JSON into values, with duplicate keys, alias bombs, deep
//! nesting and oversize refused, and splits them into objects by kind and id.
//! Reads no file. Start at [`parse_object`] and [`parse_standalone`].

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};

use super::{Id, Kind, Problem};

/// The largest file, in bytes: 16 MiB.
pub const FILE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The deepest nesting of a document.
pub const DEPTH_MAX: usize = 64;
/// The most aliases in a YAML file.
pub const ALIASES_MAX: usize = 1000;
/// The most values in a YAML file, counted after aliases have been replaced.
pub const NODES_MAX: usize = 2_000_000;

/// An object as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The kind.
    pub kind: Kind,
    /// The id.
    pub id: Id,
    /// The fields, `id` included where it was written.
    pub value: Value,
    /// Where it stands.
    pub origin: Origin,
    /// Changes with every write, for a write that must not undo another; 0
    /// where the source cannot be written.
    pub revision: u64,
    /// The revision that made it, in a store whose revisions count; 0 in others.
    pub created: u64,
}

/// Where a document stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file, or the key in a remote store.
    pub file: Arc<Path>,
    /// The place in the file, where it is known.
    pub position: Option<Position>,
}

impl Origin {
    /// The start of a file.
    pub fn file(path: &Path) -> Self {
        Self { file: path.into(), position: None }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        match self.position {
            Some(Position { line, column }) => write!(f, ":{line}:{column}"),
            None => Ok(()),
        }
    }
}

/// A place in a file; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Position {
    /// The line.
    pub line: u64,
    /// The character in the line.
    pub column: u64,
}

/// Why a file, or an object in it, is not a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentError {
    /// Where.
    pub origin: Origin,
    /// The object, where it is known which.
    pub object: Option<(Kind, Id)>,
    /// What is wrong; boxed, as errors travel through results.
    pub problem: Box<Problem>,
}

impl DocumentError {
    /// An error of a file as a whole.
    pub fn file(origin: Origin, message: impl Into<String>) -> Self {
        let problem = Problem { field: String::new(), message: message.into(), value: None };
        Self { origin, object: None, problem: Box::new(problem) }
    }
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if let Some((kind, id)) = &self.object {
            write!(f, "{kind}/{id}: ")?;
        }
        write!(f, "{}", self.problem)
    }
}

impl std::error::Error for DocumentError {}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// YAML 1.2.
    Yaml,
    /// JSON.
    Json,
}

impl Format {
    /// The format of a file by its ending; `None` for files that are none of ours.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "yaml" | "yml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// A file that is not well-formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// What is wrong.
    pub message: String,
    /// Where, when it is known.
    pub position: Option<Position>,
}

/// Reads one value.
///
/// # Errors
/// Bad syntax, duplicate keys, more than one document, or a limit of this
/// module exceeded.
pub fn parse_value(bytes: &[u8], format: Format) -> Result<Value, SyntaxError> {
    let plain = |message: &str| SyntaxError { message: message.to_owned(), position: None };
    if bytes.len() > FILE_BYTES_MAX {
        return Err(plain("is larger than 16 MiB, the largest file"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = before.iter().filter(|b| **b == b'\n').count() as u64 + 1;
        SyntaxError { message: "is not UTF-8 text".to_owned(), position: Some(Position { line, column: 1 }) }
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let value = match format {
        Format::Yaml => parse_yaml::<Strict>(text)?.0,
        Format::Json => serde_json::from_str::<Strict>(text).map_err(json_error)?.0,
    };
    if value.is_null() {
        return Err(plain("is empty"));
    }
    Ok(value)
}

/// A value as YAML; as JSON, which is YAML too, where the writer's YAML would
/// mean something else.
pub fn to_yaml(value: &Value) -> String {
    let yaml = serde_saphyr::to_string(value).unwrap_or_default();
    match parse_value(yaml.as_bytes(), Format::Yaml) {
        Ok(back) if back == *value => yaml,
        _ => serde_json::to_string_pretty(value).map(|text| text + "\n").unwrap_or_default(),
    }
}

fn json_error(error: serde_json::Error) -> SyntaxError {
    let position = (error.line() > 0)
        .then(|| Position { line: error.line() as u64, column: error.column().max(1) as u64 });
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or(&message);
    SyntaxError { message: format!("is not JSON: {message}"), position }
}

fn parse_yaml<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, SyntaxError> {
    let budget = serde_saphyr::budget! {
        max_aliases: ALIASES_MAX,
        max_anchors: ALIASES_MAX,
        max_depth: DEPTH_MAX,
        flow_nesting_limit: DEPTH_MAX,
        max_nodes: NODES_MAX,
        max_events: 2 * NODES_MAX,
        max_merge_keys: ALIASES_MAX,
    };
    let options = serde_saphyr::options! {
        budget: budget,
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        strict_booleans: true,
        emit_comments: false,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location();
        let position = place.map(|place| Position { line: place.line(), column: place.column() });
        let message = error.to_string();
        // The position is told on its own.
        let message = message.split(" at line ").next().unwrap_or(&message);
        let message = match message.split_once(": ") {
            Some((head, rest)) if head.starts_with("line ") => rest,
            _ => message,
        };
        SyntaxError { message: format!("is not YAML: {}", message.trim()), position }
    })
}

/// Reads a file that holds one object.
///
/// # Errors
/// As [`parse_value`], and a value that is not an object.
pub fn parse_object(
    kind: Kind,
    id: &Id,
    bytes: &[u8],
    format: Format,
    path: &Path,
) -> Result<Document, DocumentError> {
    let fault = |message, position| DocumentError {
        object: Some((kind, id.clone())),
        ..DocumentError::file(Origin { file: path.into(), position }, message)
    };
    let value = parse_value(bytes, format).map_err(|error| fault(error.message, error.position))?;
    if !value.is_object() {
        return Err(fault("must be an object with fields".to_owned(), None));
    }
    let revision = revision_of(bytes);
    Ok(Document { kind, id: id.clone(), value, origin: Origin::file(path), revision, created: 0 })
}

/// The revision of an object file: the same for the same bytes, and never 0.
pub(super) fn revision_of(bytes: &[u8]) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = foldhash::quality::FixedState::with_seed(0x51_u64).build_hasher();
    hasher.write(bytes);
    hasher.finish().max(1)
}

/// Reads a file in APISIX's standalone form: a map of kinds to lists of
/// objects. A consumer without an id has its name for one; any other object is
/// called `arr_` and its number in the list, as in APISIX.
///
/// # Errors
/// The second list: faults of the file, of a kind, or of an object that leave
/// no document. The other objects are not concerned. `Err` when the file as a
/// whole cannot be read.
pub fn parse_standalone(
    bytes: &[u8],
    format: Format,
    path: &Path,
) -> Result<(Vec<Document>, Vec<DocumentError>), DocumentError> {
    let file: Arc<Path> = path.into();
    let at = |position| Origin { file: file.clone(), position };
    let value =
        parse_value(bytes, format).map_err(|error| DocumentError::file(at(error.position), error.message))?;
    let Value::Object(kinds) = value else {
        return Err(DocumentError::file(at(None), "must be a map of kinds to lists of objects"));
    };
    let places = if format == Format::Yaml { positions(bytes) } else { Positions::default() };
    let (mut documents, mut errors) = (Vec::new(), Vec::new());
    for (name, list) in kinds {
        let fault = |position, message: String| {
            let problem = Problem { field: name.clone(), message, value: None };
            DocumentError { origin: at(position), object: None, problem: Box::new(problem) }
        };
        let kind = match Kind::from_name(&name) {
            Ok(kind) => kind,
            Err(error) => {
                errors.push(fault(None, error.to_string()));
                continue;
            }
        };
        let Value::Array(list) = list else {
            errors.push(fault(None, "must be a list of objects".to_owned()));
            continue;
        };
        for (index, value) in list.into_iter().enumerate() {
            let position = places.of(&name, index);
            match id_of(kind, &value, index) {
                Ok(id) => {
                    let origin = at(position);
                    documents.push(Document { kind, id, value, origin, revision: 0, created: 0 });
                }
                Err((field, message)) => {
                    let field = format!("{name}[{index}]{field}");
                    let shown = value.get("id").map(super::problem::shown);
                    let problem = Problem { field, message, value: shown };
                    errors.push(DocumentError {
                        origin: at(position),
                        object: None,
                        problem: Box::new(problem),
                    });
                }
            }
        }
    }
    Ok((documents, errors))
}

fn id_of(kind: Kind, value: &Value, index: usize) -> Result<Id, (&'static str, String)> {
    let Value::Object(fields) = value else { return Err(("", "must be an object with fields".to_owned())) };
    // A consumer's id is its name.
    let name = fields.get("username").filter(|_| kind == Kind::Consumers);
    let (field, given) = match (fields.get("id"), name) {
        (Some(id), _) => (".id", Id::deserialize(id).map_err(|_| super::IdError)),
        (None, Some(name)) => (".username", Id::deserialize(name).map_err(|_| super::IdError)),
        (None, None) => (".id", Id::new(&format!("arr_{}", index + 1))),
    };
    given.map_err(|error| (field, error.to_string()))
}

/// Where the objects of a standalone file stand.
#[derive(Default)]
struct Positions(std::collections::HashMap<String, Items>);

/// The places of the items of a list; nothing for other values.
struct Items(Vec<serde_saphyr::Spanned<de::IgnoredAny>>);

impl Positions {
    fn of(&self, kind: &str, index: usize) -> Option<Position> {
        let place = self.0.get(kind)?.0.get(index)?.referenced;
        Some(Position { line: place.line(), column: place.column() })
    }
}

fn positions(bytes: &[u8]) -> Positions {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    // A file whose shape has no positions to tell is read all the same.
    Positions(parse_yaml(text.strip_prefix('\u{feff}').unwrap_or(text)).unwrap_or_default())
}

/// Reads a text in every way a file can be read, for fuzzing: whatever the
/// bytes, this returns.
pub fn parse_document(bytes: &[u8]) {
    let path = Path::new("fuzz");
    let id = Id::new("fuzz").unwrap_or_default();
    for format in [Format::Yaml, Format::Json] {
        let mut documents = Vec::new();
        for kind in super::KINDS {
            documents.extend(parse_object(kind, &id, bytes, format, path));
        }
        if let Ok((listed, _)) = parse_standalone(bytes, format, path) {
            documents.extend(listed);
        }
        for document in documents {
            if let Err(error) = super::Object::parse(document.kind, &document.id, &document.value) {
                let _shown = error.to_string();
            }
        }
    }
}

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct ItemsVisitor;

        impl<'de> Visitor<'de> for ItemsVisitor {
            type Value = Items;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Items, A::Error> {
                let mut places = Vec::new();
                while let Some(place) = list.next_element()? {
                    places.push(place);
                }
                Ok(Items(places))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Items, A::Error> {
                while map.next_entry::<de::IgnoredAny, de::IgnoredAny>()?.is_some() {}
                Ok(Items(Vec::new()))
            }

            fn visit_unit<E>(self) -> Result<Items, E> {
                Ok(Items(Vec::new()))
            }

            fn visit_str<E>(self, _: &str) -> Result<Items, E> {
                Ok(Items(Vec::new()))
            }
        }

        input.deserialize_any(ItemsVisitor)
    }
}

/// A value without duplicate keys and without numbers JSON does not have.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("infinity and NaN are no values"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        input.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if fields.contains_key(&key) {
                return Err(de::Error::custom(format_args!("duplicate key {key:?}")));
            }
            let Strict(value) = map.next_value()?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
