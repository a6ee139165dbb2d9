//! Reading objects: one, or a list with filters and pages.

use serde_json::{Value, json};

use super::access::{Caller, Role};
use super::address::{Place, key};
use super::desk::{Held, held};
use super::fault::{Answer, Fault};
use super::{AdminSite, Response};
use crate::admin::exchange::Request;
use crate::config::{Id, Kind, Problem, redact, shown_id};
use crate::snapshot::Builder;

/// The least and the most objects of a page, as in APISIX.
pub(super) const PAGE_SIZES: std::ops::RangeInclusive<u64> = 10..=500;
/// The largest automaton a filter's pattern may become, in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

impl AdminSite {
    /// Answers GET.
    pub(super) fn read(&self, caller: &Caller, place: &Place, request: &Request) -> Answer {
        match &place.id {
            Some(id) => self.one(caller, place.kind, id, &place.fields),
            None => self.list(caller, place, request),
        }
    }

    fn one(&self, caller: &Caller, kind: Kind, id: &Id, fields: &[String]) -> Answer {
        if !fields.is_empty() {
            return Err(Fault::new(404, "only whole objects can be read"));
        }
        let wanted = id.clone();
        let found = self.desk.ask(move |store, builder| {
            let why = store.quarantine_of(kind, &wanted).map(|quarantine| quarantine.problems.clone());
            let why = why.or_else(|| failure(builder, kind, &wanted));
            held(store, kind, &wanted).map(|held| (held, why))
        })?;
        let (held, why) = found.ok_or_else(Fault::not_found)?;
        Ok(answer(200, caller, &held, why.as_deref(), &[]))
    }

    fn list(&self, caller: &Caller, place: &Place, request: &Request) -> Answer {
        let (kind, within) = (place.kind, place.within.clone().unwrap_or_default());
        let page = Page::of(request)?;
        let filter = Filter::of(request);
        let all = self.desk.ask(move |store, _| {
            let documents = store.documents(kind).into_iter();
            let all = documents.filter(|document| document.id.starts_with(&within)).map(|document| Held {
                document: document.clone(),
                indexes: store.indexes(kind, &document.id),
            });
            all.collect::<Vec<_>>()
        })?;
        let mut found: Vec<&Held> = all.iter().filter(|held| filter.admits(&held.document.value)).collect();
        found.sort_by(|a, b| (a.indexes.created, &a.document.id).cmp(&(b.indexes.created, &b.document.id)));
        let total = found.len();
        let shown: Vec<Value> = page.cut(&found).iter().map(|held| shown(caller, held)).collect();
        Ok(Response::json(200, &json!({"total": total, "list": shown})))
    }
}

/// Why an object that is sound in itself is not live.
pub(super) fn failure(builder: &Builder, kind: Kind, id: &Id) -> Option<Vec<Problem>> {
    builder.failed().get(&(kind, id.clone())).map(|failure| failure.problems.clone())
}

/// An object as an answer, with its index as a tag, why it is not live, and what
/// a change of it breaks.
pub(super) fn answer(
    status: u16,
    caller: &Caller,
    held: &Held,
    why: Option<&[Problem]>,
    breaking: &[String],
) -> Response {
    let mut body = shown(caller, held);
    if let Some(problems) = why {
        body["quarantine"] = json!(problems);
    }
    if !breaking.is_empty() {
        body["warnings"] = json!(breaking);
    }
    Response::json(status, &body).with("etag", &format!("\"{}\"", held.indexes.modified))
}

/// An object as lists and answers show it.
fn shown(caller: &Caller, held: &Held) -> Value {
    let document = &held.document;
    let mut value = document.value.clone();
    if let Value::Object(fields) = &mut value {
        fields.insert("id".to_owned(), json!(shown_id(document.kind, &document.id)));
        if document.kind == Kind::Ssls {
            // As APISIX: private keys go in and never come out.
            fields.shift_remove("key");
            fields.shift_remove("keys");
        }
    }
    if caller.role == Role::Viewer {
        redact(document.kind, &mut value, &mut |_| json!("(hidden)"));
    }
    json!({
        "key": key(document.kind, &document.id),
        "value": value,
        "createdIndex": held.indexes.created,
        "modifiedIndex": held.indexes.modified,
    })
}

/// Which part of a list is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    All,
    Part { skipped: usize, size: usize },
}

impl Page {
    fn of(request: &Request) -> Result<Self, Fault> {
        let number = |name: &str| request.query_value(name).map(|text| text.parse::<u64>().ok());
        let size = match number("page_size") {
            None if number("page").is_none() => return Ok(Self::All),
            None => *PAGE_SIZES.start(),
            Some(size) => size
                .filter(|size| PAGE_SIZES.contains(size))
                .ok_or_else(|| Fault::bad("page_size must be between 10 and 500"))?,
        };
        let page = number("page").flatten().unwrap_or(1).max(1);
        let skipped = usize::try_from((page - 1).saturating_mul(size)).unwrap_or(usize::MAX);
        Ok(Self::Part { skipped, size: size as usize })
    }

    fn cut<T>(self, all: &[T]) -> &[T] {
        match self {
            Self::All => all,
            Self::Part { skipped, size } => {
                let from = skipped.min(all.len());
                &all[from..(from + size).min(all.len())]
            }
        }
    }
}

/// Which objects are wanted. All that is said must hold.
struct Filter {
    name: Option<Pattern>,
    uri: Option<Pattern>,
    /// A label, or a label and its value behind a colon.
    label: Option<String>,
    /// Fields and their values: `filter=service_id%3D1`.
    fields: Vec<(String, String)>,
}

impl Filter {
    fn of(request: &Request) -> Self {
        let pattern = |name| request.query_value(name).map(|text| Pattern::new(&text));
        let fields = request.query_value("filter").unwrap_or_default();
        let fields = fields.split('&').filter_map(|pair| pair.split_once('='));
        Self {
            name: pattern("name"),
            uri: pattern("uri"),
            label: request.query_value("label"),
            fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        }
    }

    fn admits(&self, value: &Value) -> bool {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let name = || text("name").or_else(|| text("username"));
        let uris = value.get("uris").and_then(Value::as_array).into_iter().flatten();
        let mut uris = uris.filter_map(Value::as_str).chain(text("uri"));
        self.name.as_ref().is_none_or(|pattern| name().is_some_and(|name| pattern.is_in(name)))
            && self.uri.as_ref().is_none_or(|pattern| uris.any(|uri| pattern.is_in(uri)))
            && self.label.as_ref().is_none_or(|label| has_label(value, label))
            && self.fields.iter().all(|(name, wanted)| match value.get(name) {
                Some(Value::String(own)) => own == wanted,
                Some(Value::Number(own)) => own.to_string() == *wanted,
                _ => false,
            })
    }
}

fn has_label(value: &Value, label: &str) -> bool {
    let Some(labels) = value.get("labels").and_then(Value::as_object) else { return false };
    match label.split_once(':') {
        _ if labels.contains_key(label) => true,
        Some((name, wanted)) => labels.get(name).is_some_and(|own| own == wanted),
        None => false,
    }
}

/// A regular expression as APISIX's filters are; one that is none is a plain text.
enum Pattern {
    Regex(regex::Regex),
    Text(String),
}

impl Pattern {
    fn new(text: &str) -> Self {
        match regex::RegexBuilder::new(text).size_limit(PATTERN_BYTES_MAX).build() {
            Ok(regex) => Self::Regex(regex),
            Err(_) => Self::Text(text.to_owned()),
        }
    }

    fn is_in(&self, text: &str) -> bool {
        match self {
            Self::Regex(regex) => regex.is_match(text),
            Self::Text(own) => text.contains(own.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(query: &str) -> Request {
        Request { query: Some(query.to_owned()), ..Request::get("/apisix/admin/routes") }
    }

    #[test]
    fn pages_are_as_in_apisix() {
        let all: Vec<usize> = (1..=11).collect();
        let cut = |query| Page::of(&request(query)).unwrap().cut(&all).to_vec();
        assert_eq!(cut("page=1&page_size=10"), (1..=10).collect::<Vec<_>>());
        assert_eq!(cut("page=2&page_size=10"), [11]);
        assert!(cut("page=3&page_size=10").is_empty());
        assert_eq!(cut("page=-1&page_size=10").len(), 10);
        assert!(cut("page=18446744073709551615&page_size=500").is_empty());
        assert_eq!(cut("name=x").len(), 11);
        for bad in ["page=1&page_size=2", "page=1&page_size=501", "page_size=many"] {
            assert_eq!(Page::of(&request(bad)).unwrap_err().status(), 400, "{bad}");
        }
    }

    #[test]
    fn filters_find_names_labels_and_paths() {
        let route =
            json!({"name": "chat-1", "uris": ["/a", "/chat/*"], "labels": {"env": "prod"}, "service_id": 7});
        let admits = |query: &str| Filter::of(&request(query)).admits(&route);
        for yes in [
            "name=chat",
            "name=%5Echat-%5Cd%24",
            "uri=%2Fchat",
            "label=env",
            "label=env:prod",
            "filter=service_id%3D7",
            "name=chat&label=env&uri=a",
            "",
        ] {
            assert!(admits(yes), "{yes}");
        }
        for no in
            ["name=other", "uri=%2Fb", "label=team", "label=env:test", "filter=service_id%3D8", "name=(chat"]
        {
            assert!(!admits(no), "{no}");
        }
    }
}
