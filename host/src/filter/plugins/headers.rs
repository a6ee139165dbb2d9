//! Changes to header fields, as `proxy-rewrite` and `response-rewrite` write them.

use serde_json::Value;
use smallvec::SmallVec;

use crate::filter::build::{Built, FieldError};
use crate::message::{Captures, Name, Stage, Subject, Template};

/// Fields the protocol or the connection owns.
const OWNED: &[Name] = &[
    Name::Connection,
    Name::ContentLength,
    Name::KeepAlive,
    Name::ProxyConnection,
    Name::Te,
    Name::Trailer,
    Name::TransferEncoding,
    Name::Upgrade,
];

/// The most changes in one list.
const CHANGES_MAX: usize = 256;

/// A field and the text it gets.
pub(super) type FieldText = (Box<[u8]>, Template);

/// What is added, set and removed, in this order.
#[derive(Debug, Default)]
pub(super) struct HeaderChanges {
    pub(super) add: Box<[FieldText]>,
    pub(super) set: Box<[FieldText]>,
    pub(super) remove: Box<[Box<[u8]>]>,
}

/// How `add` is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddForm {
    /// `{"X-A": "1"}`, of requests.
    Map,
    /// `["X-A: 1"]`, of responses; a map is taken too.
    Lines,
}

impl HeaderChanges {
    /// Parses `{add, set, remove}`, or a plain map of fields to set.
    pub(super) fn parse(value: &Value, form: AddForm, stage: Stage, captures: Captures) -> Built<Self> {
        let Value::Object(map) = value else {
            return Err(FieldError::with("headers", value.clone(), "must be an object"));
        };
        if map.is_empty() {
            return Err(FieldError::new("headers", "must not be empty"));
        }
        let is_structured = [("add", true), ("set", true), ("remove", false)]
            .iter()
            .any(|(name, _)| map.get(*name).is_some_and(|part| part.is_object() || part.is_array()));
        if !is_structured {
            let set = texts("headers", value, stage, captures)?;
            return Ok(Self { set, ..Self::default() });
        }
        let mut changes = Self::default();
        for (name, part) in map {
            let field = format!("headers.{name}");
            match name.as_str() {
                "add" if form == AddForm::Lines && part.is_array() => {
                    changes.add = lines(&field, part, stage, captures)?;
                }
                "add" => changes.add = texts(&field, part, stage, captures)?,
                "set" => changes.set = texts(&field, part, stage, captures)?,
                "remove" => changes.remove = names(&field, part)?,
                _ => return Err(FieldError::new(field, "unknown field, expected add, set or remove")),
            }
        }
        Ok(changes)
    }

    pub(super) fn needs_body(&self) -> bool {
        self.add.iter().chain(&self.set).any(|(_, text)| text.needs_body())
    }
}

/// Fills a field's text in and leaves out what must not stand in one: a value
/// may hold what a client sent, and a line break in it would make a field of
/// the client's choice.
pub(super) fn fill_value<'c>(
    text: &Template,
    subject: &Subject<'_>,
    capture: impl Fn(usize) -> Option<&'c [u8]>,
) -> SmallVec<[u8; 128]> {
    let mut out = SmallVec::new();
    text.fill_with(subject, capture, |_, bytes| {
        out.extend(bytes.iter().copied().filter(|byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f)));
    });
    let trimmed = out.trim_ascii();
    if trimmed.len() == out.len() { out } else { SmallVec::from_slice(trimmed) }
}

/// Checks a field's name.
pub(super) fn check_name(field: &str, name: &str) -> Built<()> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || name.len() > 256 || !name.bytes().all(is_token) {
        return Err(FieldError::with(field, name, "is not the name of a header field"));
    }
    if OWNED.contains(&Name::of(name.as_bytes())) {
        return Err(FieldError::with(field, name, "belongs to the connection and cannot be changed"));
    }
    Ok(())
}

/// Checks a field a module names.
pub(in crate::filter) fn check_field(name: &str, value: &[u8]) -> Result<(), String> {
    let is_bad = |byte: &u8| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f;
    if check_name("", name).is_err() || name.eq_ignore_ascii_case("host") {
        let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
        return Err(format!("the header field {shown:?}, which it cannot change"));
    }
    if value.len() > 8192 || value.iter().any(is_bad) {
        return Err(format!("a value for {name:?} that no header field can have"));
    }
    Ok(())
}

/// Checks a field's value or template of one.
pub(super) fn check_value(field: &str, value: &str) -> Built<()> {
    let is_bad = |byte: u8| (byte < 0x20 && byte != b'\t') || byte == 0x7f;
    if value.len() > 8192 || value.bytes().any(is_bad) {
        return Err(FieldError::with(field, value, "is not the value of a header field"));
    }
    Ok(())
}

/// A map of names to texts.
pub(super) fn texts(field: &str, value: &Value, stage: Stage, captures: Captures) -> Built<Box<[FieldText]>> {
    let Value::Object(map) = value else {
        return Err(FieldError::with(field, value.clone(), "must be an object of field names and values"));
    };
    check_count(field, map.len())?;
    map.iter()
        .map(|(name, value)| {
            let place = format!("{field}.{name}");
            check_name(&place, name)?;
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                other => return Err(FieldError::with(place, other.clone(), "must be text or a number")),
            };
            check_value(&place, &text)?;
            let template = Template::parse(&text, stage, captures)
                .map_err(|error| FieldError::with(place, text, error))?;
            Ok((name.as_bytes().into(), template))
        })
        .collect()
}

fn lines(field: &str, value: &Value, stage: Stage, captures: Captures) -> Built<Box<[FieldText]>> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    check_count(field, list.len())?;
    list.iter()
        .enumerate()
        .map(|(index, line)| {
            let place = format!("{field}[{index}]");
            let parts = line.as_str().and_then(|line| line.split_once(':'));
            let Some((name, text)) = parts else {
                return Err(FieldError::with(place, line.clone(), "must be text like \"name: value\""));
            };
            let (name, text) = (name.trim(), text.trim());
            check_name(&place, name)?;
            check_value(&place, text)?;
            let template = Template::parse(text, stage, captures)
                .map_err(|error| FieldError::with(place, text, error))?;
            Ok((name.as_bytes().into(), template))
        })
        .collect()
}

fn names(field: &str, value: &Value) -> Built<Box<[Box<[u8]>]>> {
    let list = value
        .as_array()
        .ok_or_else(|| FieldError::with(field, value.clone(), "must be a list of field names"))?;
    check_count(field, list.len())?;
    list.iter()
        .enumerate()
        .map(|(index, name)| {
            let place = format!("{field}[{index}]");
            let Some(name) = name.as_str() else {
                return Err(FieldError::with(place, name.clone(), "is not the name of a header field"));
            };
            check_name(&place, name)?;
            Ok(name.as_bytes().into())
        })
        .collect()
}

fn check_count(field: &str, count: usize) -> Built<()> {
    if (1..=CHANGES_MAX).contains(&count) {
        return Ok(());
    }
    Err(FieldError::with(field, count, format_args!("must have from 1 to {CHANGES_MAX} entries")))
}
