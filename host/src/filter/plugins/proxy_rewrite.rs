//! `proxy-rewrite`: what is asked of the upstream in place of what the client
//! asked for.

use serde::Deserialize;
use serde_json::Value;
use smallvec::SmallVec;

use super::headers::{AddForm, HeaderChanges, fill_value};
use super::uri::{Rewrite, fill, split_target};
use crate::filter::build::{BuildContext, Built, FieldError, fields};
use crate::filter::chain::Step;
use crate::filter::exchange::Exchange;
use crate::filter::verdict::LocalResponse;
use crate::message::{Captures, Method, Span, Stage, Template};
use crate::net::path::PathError;

const METHODS: [&str; 14] = [
    "GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "MKCOL", "COPY", "MOVE", "PROPFIND", "LOCK", "UNLOCK",
    "PATCH", "TRACE",
];
const REWRITES_MAX: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    uri: Option<String>,
    #[serde(default)]
    regex_uri: Option<Vec<String>>,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    headers: Option<Value>,
    #[serde(default)]
    use_real_request_uri_unsafe: bool,
    #[serde(default)]
    scheme: Option<Value>,
}

#[derive(Debug)]
pub(in crate::filter) struct ProxyRewrite {
    uri: Option<Template>,
    rewrites: Box<[Rewrite]>,
    host: Option<Template>,
    method: Option<Method>,
    headers: HeaderChanges,
    is_as_received: bool,
}

/// Groups of the regular expression that matched, as spans of the request's
/// buffer.
type Kept = SmallVec<[Option<Span>; 8]>;

impl ProxyRewrite {
    pub(super) fn build(config: &Value, _: &BuildContext<'_>, _: Option<&Self>) -> Built<Self> {
        if config.as_object().is_none_or(serde_json::Map::is_empty) {
            return Err(FieldError::new("", "needs at least one field"));
        }
        let fields: Fields = fields(config)?;
        if let Some(scheme) = fields.scheme {
            return Err(FieldError::with("scheme", scheme, "is set on the upstream, as in APISIX since 3.0"));
        }
        let parse = |field: &str, text: &str| {
            Template::parse(text, Stage::Request, Captures::None)
                .map_err(|error| FieldError::with(field, text, error))
        };
        let uri = fields.uri.as_deref().map(|uri| {
            if !uri.starts_with('/') || uri.len() > 4096 {
                let message = "must begin with '/' and have at most 4096 bytes";
                return Err(FieldError::with("uri", uri, message));
            }
            parse("uri", uri)
        });
        let host = fields.host.as_deref().map(|host| {
            let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]${}".contains(&byte);
            if host.is_empty() || !host.bytes().all(is_fine) {
                return Err(FieldError::with("host", host, "is not a host, with or without a port"));
            }
            parse("host", host)
        });
        let method = match fields.method.as_deref() {
            None => None,
            Some(method) if METHODS.contains(&method) => Some(Method::of(method)),
            Some(method) => {
                let message = format!("must be one of {}", METHODS.join(", "));
                return Err(FieldError::with("method", method, message));
            }
        };
        let headers = match &fields.headers {
            None => HeaderChanges::default(),
            Some(value) => HeaderChanges::parse(value, AddForm::Map, Stage::Request, Captures::Allowed)?,
        };
        Ok(Self {
            uri: uri.transpose()?,
            rewrites: parse_rewrites(fields.regex_uri.as_deref())?,
            host: host.transpose()?,
            method,
            headers,
            is_as_received: fields.use_real_request_uri_unsafe,
        })
    }

    pub(super) fn needs_body(&self) -> bool {
        let own =
            self.uri.iter().chain(&self.host).chain(self.rewrites.iter().map(|rewrite| &rewrite.template));
        self.headers.needs_body() || own.into_iter().any(Template::needs_body)
    }

    pub(super) fn request(&self, exchange: &mut Exchange) -> Step {
        let mut groups = Kept::new();
        // The host is filled in first: it may name the path the client asked for.
        if let Some(host) = &self.host {
            let host = fill_value(host, &exchange.subject(), |_| None);
            let is_fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(byte);
            if !host.is_empty() && host.iter().all(is_fine) {
                exchange.upstream_host = Some(exchange.request.fields.store(&host));
            }
        }
        if let Err(error) = self.rewrite_target(exchange, &mut groups) {
            let id = exchange.request_id.get();
            let message = format!("rewritten {error}");
            return Step::Respond(Box::new(LocalResponse::error(400, error.reason(), &message, id)));
        }
        self.change_headers(exchange, &groups);
        if let Some(method) = &self.method {
            exchange.request.method = method.clone();
        }
        Step::Next
    }

    fn rewrite_target(&self, exchange: &mut Exchange, groups: &mut Kept) -> Result<(), PathError> {
        if self.is_as_received {
            let (_, path, query) = exchange.original();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (path, query) = (text(path), query.map(text));
            exchange.request.set_path(&path);
            exchange.request.set_query(query.as_deref());
        }
        let target = match &self.uri {
            Some(uri) => {
                let mut out = String::new();
                fill(&mut out, uri, &exchange.subject(), |_| None);
                out
            }
            None => {
                let path = exchange.request.path();
                let start = exchange.request.spans().1.start;
                let subject = exchange.subject();
                let found = self.rewrites.iter().find_map(|rewrite| rewrite.apply(path, &subject));
                let Some((out, found)) = found else { return Ok(()) };
                groups.extend(found.iter().map(|group| {
                    let group = group?;
                    Some(Span { start: start + group.start() as u32, len: group.len() as u32 })
                }));
                out
            }
        };
        let (path, own) = split_target(&target)?;
        exchange.request.set_path(&path);
        if let Some(own) = own {
            let query = match exchange.request.query() {
                Some(asked) => format!("{own}&{asked}"),
                None => own.to_owned(),
            };
            exchange.request.set_query(Some(&query));
        }
        Ok(())
    }

    fn change_headers(&self, exchange: &mut Exchange, groups: &Kept) {
        let filled = |exchange: &Exchange, text: &Template| {
            let fields = &exchange.request.fields;
            let group = |index: usize| groups.get(index).copied().flatten().map(|span| fields.get(span));
            fill_value(text, &exchange.subject(), group)
        };
        for (name, text) in &self.headers.add {
            let value = filled(exchange, text);
            exchange.request.fields.append(name, &value);
        }
        for (name, text) in &self.headers.set {
            let value = filled(exchange, text);
            set(exchange, (name, &value));
        }
        for name in &self.headers.remove {
            exchange.request.fields.remove(name);
        }
    }
}

/// Sets a field; an empty value takes it out, and `Host` is the authority.
fn set(exchange: &mut Exchange, (name, value): (&[u8], &[u8])) {
    if name.eq_ignore_ascii_case(b"host") {
        if !value.is_empty()
            && value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(byte))
        {
            exchange.upstream_host = Some(exchange.request.fields.store(value));
        }
    } else if value.is_empty() {
        exchange.request.fields.remove(name);
    } else {
        exchange.request.fields.set(name, value);
    }
}

fn parse_rewrites(list: Option<&[String]>) -> Built<Box<[Rewrite]>> {
    let Some(list) = list else { return Ok(Box::default()) };
    if list.is_empty() || list.len() % 2 != 0 || list.len() > 2 * REWRITES_MAX {
        let message = format!("must be pairs of expression and template, at most {REWRITES_MAX}");
        return Err(FieldError::with("regex_uri", list.len(), message));
    }
    let pairs = list.chunks_exact(2).enumerate();
    pairs
        .map(|(index, pair)| Rewrite::parse(&format!("regex_uri[{}]", index * 2), &pair[0], &pair[1]))
        .collect()
}
