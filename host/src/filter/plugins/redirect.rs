//! `redirect`: sends the client elsewhere.

use serde::Deserialize;
use serde_json::Value;

use super::uri::{Rewrite, push_encoded};
use crate::filter::build::{BuildContext, Built, FieldError, fields, within};
use crate::filter::chain::Step;
use crate::filter::exchange::Exchange;
use crate::filter::plugins::headers::fill_value;
use crate::filter::verdict::LocalResponse;
use crate::message::{Captures, Method, Scheme, Stage, Template};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    http_to_https: Option<bool>,
    #[serde(default)]
    uri: Option<String>,
    #[serde(default)]
    regex_uri: Option<Vec<String>>,
    #[serde(default)]
    ret_code: Option<u16>,
    #[serde(default)]
    encode_uri: bool,
    #[serde(default)]
    append_query_string: bool,
}

#[derive(Debug)]
enum Target {
    Https { port: u16 },
    Uri(Template),
    Rewrite(Rewrite),
}

#[derive(Debug)]
pub(in crate::filter) struct Redirect {
    target: Target,
    code: u16,
    encodes: bool,
    appends_query: bool,
}

impl Redirect {
    pub(super) fn build(config: &Value, context: &BuildContext<'_>, _: Option<&Self>) -> Built<Self> {
        let fields: Fields = fields(config)?;
        let code = fields.ret_code.unwrap_or(302);
        within("ret_code", code, 200, 599)?;
        let target = match (fields.http_to_https, fields.uri, fields.regex_uri) {
            (Some(_), None, None) if fields.append_query_string => {
                return Err(FieldError::new("append_query_string", "cannot be combined with http_to_https"));
            }
            (Some(true), None, None) => Target::Https { port: context.https_port },
            (Some(false), None, None) => {
                return Err(FieldError::with("http_to_https", false, "leaves the plugin without any effect"));
            }
            (None, Some(uri), None) => {
                if uri.len() < 2 || uri.len() > 4096 {
                    return Err(FieldError::with("uri", uri, "must have from 2 to 4096 bytes"));
                }
                let template = Template::parse(&uri, Stage::Request, Captures::None)
                    .map_err(|error| FieldError::with("uri", uri, error))?;
                Target::Uri(template)
            }
            (None, None, Some(pair)) => {
                let [regex, template] = pair.as_slice() else {
                    let message = "must be an expression and a template";
                    return Err(FieldError::with("regex_uri", pair.len(), message));
                };
                Target::Rewrite(Rewrite::parse("regex_uri", regex, template)?)
            }
            _ => return Err(FieldError::new("", "needs exactly one of http_to_https, uri and regex_uri")),
        };
        Ok(Self { target, code, encodes: fields.encode_uri, appends_query: fields.append_query_string })
    }

    pub(super) fn needs_body(&self) -> bool {
        match &self.target {
            Target::Https { .. } => false,
            Target::Uri(template) => template.needs_body(),
            Target::Rewrite(rewrite) => rewrite.template.needs_body(),
        }
    }

    pub(super) fn request(&self, exchange: &mut Exchange) -> Step {
        let request = &exchange.request;
        let subject = exchange.subject();
        let (mut location, mut code) = (String::new(), self.code);
        match &self.target {
            Target::Https { .. } if request.scheme == Scheme::Https => return Step::Next,
            Target::Https { port } => {
                location = https_location(exchange, *port);
                // 301 lets a client turn a POST into a GET; 308 does not.
                code = if matches!(request.method, Method::Get | Method::Head) { 301 } else { 308 };
            }
            Target::Uri(template) => {
                let filled = fill_value(template, &subject, |_| None);
                push_encoded(&mut location, &filled, |_| true);
            }
            Target::Rewrite(rewrite) => match rewrite.apply(request.path(), &subject) {
                Some((made, _)) => location = made,
                None => return Step::Next,
            },
        }
        if self.appends_query
            && let Some(query) = request.query()
        {
            location.push(if location.contains('?') { '&' } else { '?' });
            location.push_str(query);
        }
        if self.encodes {
            location = encode_whole(&location);
        }
        let mut response = LocalResponse::new(code, "redirected");
        response.head.fields.append(b"Location", location.as_bytes());
        Step::Respond(Box::new(response))
    }
}

fn https_location(exchange: &Exchange, port: u16) -> String {
    let (_, path, query) = exchange.original();
    let mut location = format!("https://{}", exchange.request.host());
    if port != 443 {
        location.push_str(&format!(":{port}"));
    }
    push_encoded(&mut location, path, |_| true);
    if let Some(query) = query {
        location.push('?');
        push_encoded(&mut location, query, |_| true);
    }
    location
}

/// Encodes all but unreserved and reserved characters (RFC 3986), `%` too: what
/// was encoded before is encoded once more, as in APISIX.
fn encode_whole(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!#$&'()*+,/:;=?@[]".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
