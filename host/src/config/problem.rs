//! What is wrong with an object, told so that an operator can mend it: which
//! object, which field, which value, why.

use std::fmt;

use serde_json::Value;

use super::{Id, Kind};

/// The longest value shown in a message, in characters.
const VALUE_SHOWN_MAX: usize = 80;

/// One fault in an object.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The path of the field, for example `upstream.nodes[1].weight`; empty
    /// when the fault is of the object as a whole.
    pub field: String,
    /// What is wrong, without the field and the value.
    pub message: String,
    /// The offending value as JSON, shortened; `None` when a value is missing
    /// or must not be shown.
    pub value: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        match &self.value {
            Some(value) => write!(f, " ({value})"),
            None => Ok(()),
        }
    }
}

/// All that is wrong with one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectError {
    /// The kind of the object.
    pub kind: Kind,
    /// Its id; empty when that is what is wrong.
    pub id: Id,
    /// At least one problem.
    pub problems: Vec<Problem>,
}

impl ObjectError {
    /// An error of one problem without a value.
    pub fn new(kind: Kind, id: &Id, field: impl Into<String>, message: impl Into<String>) -> Self {
        let problem = Problem { field: field.into(), message: message.into(), value: None };
        Self { kind, id: id.clone(), problems: vec![problem] }
    }
}

impl fmt::Display for ObjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}: ", self.kind, self.id)?;
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ObjectError {}

/// Collects problems while an object is checked, and knows where in the
/// object the check is.
#[derive(Debug, Default)]
pub struct Problems {
    prefix: String,
    found: Vec<Problem>,
}

impl Problems {
    /// Notes a problem of `field` (relative to where the check is) with its value.
    pub fn add(&mut self, field: &str, value: impl Into<Value>, message: impl Into<String>) {
        let value = shown(&value.into());
        self.push(field, Some(value), message.into());
    }

    /// Notes a problem found elsewhere, below the field the check is at.
    pub fn add_problem(&mut self, problem: Problem) {
        self.push(&problem.field, problem.value, problem.message);
    }

    /// Notes a problem where there is no value, or none that may be shown.
    pub fn add_plain(&mut self, field: &str, message: impl Into<String>) {
        self.push(field, None, message.into());
    }

    /// Runs a check of what stands under `field`.
    pub fn within(&mut self, field: &str, check: impl FnOnce(&mut Self)) {
        let length = self.prefix.len();
        self.prefix = joined(&self.prefix, field);
        check(self);
        self.prefix.truncate(length);
    }

    /// The problems found, in the order they were noted.
    pub fn into_vec(self) -> Vec<Problem> {
        self.found
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    fn push(&mut self, field: &str, value: Option<String>, message: String) {
        self.found.push(Problem { field: joined(&self.prefix, field), message, value });
    }
}

fn joined(prefix: &str, field: &str) -> String {
    match (prefix, field) {
        ("", field) => field.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, field) if field.starts_with('[') => format!("{prefix}{field}"),
        (prefix, field) => format!("{prefix}.{field}"),
    }
}

/// A value as compact JSON, cut at a length and never with key material in it.
pub(super) fn shown(value: &Value) -> String {
    let text = match value {
        Value::Object(map) if map.len() > 8 => format!("an object of {} fields", map.len()),
        Value::Array(list) if list.len() > 32 => format!("a list of {} values", list.len()),
        Value::String(text) if text.len() > 4 * VALUE_SHOWN_MAX => {
            let head: String = text.chars().take(VALUE_SHOWN_MAX).collect();
            Value::String(head).to_string() + "…"
        }
        other => other.to_string(),
    };
    if text.contains("PRIVATE KEY") {
        return "a private key, not shown".to_owned();
    }
    match text.char_indices().nth(VALUE_SHOWN_MAX + 2) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}
