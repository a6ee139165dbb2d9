//! From a JSON value to a checked object, with every fault found on the way.

use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use super::Object;
use crate::config::problem::{Problem, Problems, shown};
use crate::config::secrets::is_secret_path;
use crate::config::{Id, Kind, ObjectError};

/// The most faults of form told about one object.
const PROBLEMS_MAX: usize = 32;

/// Reads and checks one object.
///
/// # Errors
/// All faults of form (unknown fields, wrong types) and all faults of meaning
/// that do not come from those.
pub fn parse<T: Object>(id: &Id, value: &Value) -> Result<T, ObjectError> {
    let failed = |problems| ObjectError { kind: T::KIND, id: id.clone(), problems };
    let mut object: T = read(T::KIND, value).map_err(failed)?;
    let mut problems = Problems::default();
    if !object.id().is_empty() && object.id() != id {
        problems.add("id", object.id().as_str(), format!("does not match the id {id:?} it is stored under"));
    }
    object.set_id(id.clone());
    object.validate(&mut problems);
    let problems = problems.into_vec();
    if problems.is_empty() { Ok(object) } else { Err(failed(problems)) }
}

/// Deserializes; after a fault, looks for more in a copy without the faulty part.
fn read<T: Object>(kind: Kind, value: &Value) -> Result<T, Vec<Problem>> {
    let mut fault = match serde_path_to_error::deserialize(value) {
        Ok(object) => return Ok(object),
        Err(error) => error,
    };
    let mut problems = Vec::new();
    let mut rest = value.clone();
    let mut removed: Vec<String> = Vec::new();
    loop {
        let problem = problem_of(kind, &fault, &rest);
        // A required field that was taken out for its own fault is not missing.
        if !removed.contains(&problem.field) {
            problems.push(problem);
        }
        if problems.len() >= PROBLEMS_MAX {
            break;
        }
        let Some(path) = remove(&mut rest, fault.path()) else { break };
        removed.push(path);
        match serde_path_to_error::deserialize::<_, T>(&rest) {
            Ok(object) => {
                problems.extend(faults_of_meaning(&object));
                break;
            }
            Err(error) => fault = error,
        }
    }
    Err(problems)
}

/// Faults of an object from which faulty parts were taken: only those of a
/// value that is there, as what is missing may be what was taken.
fn faults_of_meaning<T: Object>(object: &T) -> impl Iterator<Item = Problem> + use<T> {
    let mut problems = Problems::default();
    object.validate(&mut problems);
    problems.into_vec().into_iter().filter(|problem| problem.value.is_some())
}

fn problem_of(kind: Kind, error: &serde_path_to_error::Error<serde_json::Error>, root: &Value) -> Problem {
    let message = error.inner().to_string();
    let mut field = match error.path().to_string() {
        path if path == "." => String::new(),
        path => path,
    };
    if let Some(name) = quoted_after(&message, "missing field ") {
        let field = if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") };
        return Problem { field, message: "is required".to_owned(), value: None };
    }
    if let Some(name) = quoted_after(&message, "unknown field ") {
        if field != name && !field.ends_with(&format!(".{name}")) {
            field = if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") };
        }
        let known = message.split_once(", ").map_or("", |(_, known)| known).replace('`', "");
        let message = match known.strip_prefix("expected ") {
            Some(known) => format!("is not a field; fields are {}", known.trim_start_matches("one of ")),
            None => "is not a field".to_owned(),
        };
        return Problem { field, message, value: None };
    }
    let value = at(root, error.path()).map(shown);
    if is_secret_path(kind, &field) {
        return Problem { field, message: "has the wrong type".to_owned(), value: None };
    }
    let message = match message.split_once(", expected ") {
        Some((head, expected)) if head.starts_with("invalid ") || head.starts_with("unknown variant") => {
            format!("expected {}", expected.replace('`', ""))
        }
        _ => message,
    };
    Problem { field, message, value }
}

fn quoted_after<'a>(message: &'a str, head: &str) -> Option<&'a str> {
    message.strip_prefix(head)?.strip_prefix('`')?.split('`').next()
}

fn at<'a>(root: &'a Value, path: &Path) -> Option<&'a Value> {
    path.iter().try_fold(root, |value, segment| match segment {
        Segment::Seq { index } => value.get(index),
        Segment::Map { key } => value.get(key),
        Segment::Enum { .. } | Segment::Unknown => None,
    })
}

/// Takes the value at a path out; in a list it is taken with its whole item's
/// place, by taking the list itself. `None` when nothing can be taken.
fn remove(root: &mut Value, path: &Path) -> Option<String> {
    let segments: Vec<&Segment> = path.iter().collect();
    // Taking an item out of a list would shift the others and the paths told
    // after it, so the nearest named value is taken.
    let last = segments.iter().rposition(|segment| matches!(segment, Segment::Map { .. }))?;
    let mut place = root;
    for segment in &segments[..last] {
        place = match segment {
            Segment::Seq { index } => place.get_mut(index)?,
            Segment::Map { key } => place.get_mut(key)?,
            Segment::Enum { .. } | Segment::Unknown => return None,
        };
    }
    let Segment::Map { key } = segments[last] else { return None };
    place.as_object_mut()?.shift_remove(key)?;
    let mut told = String::new();
    for segment in &segments[..=last] {
        match segment {
            Segment::Seq { index } => told.push_str(&format!("[{index}]")),
            Segment::Map { key } if told.is_empty() => told.push_str(key),
            Segment::Map { key } => told.push_str(&format!(".{key}")),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    Some(told)
}
