//! `response-rewrite`: changes what the client is answered.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::Value;

use super::headers::{AddForm, HeaderChanges, fill_value};
use crate::filter::build::{BuildContext, Built, FieldError, fields, within};
use crate::filter::exchange::Exchange;
use crate::filter::verdict::{BodyAction, Longer};
use crate::message::{Captures, Name, ResponseHead, Stage, Template, UpstreamView};
use crate::route::Expression;
use crate::route::vars::{REGEX_SIZE_MAX, compile_regex};

const BODY_MAX_DEFAULT: u64 = 1 << 20;
const BODY_MAX_LIMIT: u64 = 16 << 20;
const FILTERS_MAX: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    status_code: Option<u16>,
    #[serde(default)]
    headers: Option<Value>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    body_base64: bool,
    #[serde(default)]
    filters: Option<Vec<FilterFields>>,
    #[serde(default)]
    vars: Option<Value>,
    #[serde(default)]
    body_max: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FilterFields {
    regex: String,
    replace: String,
    #[serde(default)]
    scope: Scope,
    #[serde(default)]
    options: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Scope {
    #[default]
    Once,
    Global,
}

#[derive(Debug)]
struct BodyFilter {
    regex: Regex,
    replace: Template,
    scope: Scope,
}

#[derive(Debug)]
pub(in crate::filter) struct ResponseRewrite {
    status: Option<u16>,
    headers: HeaderChanges,
    body: Option<Bytes>,
    filters: Box<[BodyFilter]>,
    vars: Option<Expression>,
    body_max: usize,
}

impl ResponseRewrite {
    pub(super) fn build(config: &Value, _: &BuildContext<'_>, _: Option<&Self>) -> Built<Self> {
        let fields: Fields = fields(config)?;
        if let Some(status) = fields.status_code {
            within("status_code", status, 200, 598)?;
        }
        if fields.body.is_some() && fields.filters.is_some() {
            return Err(FieldError::new("filters", "cannot be combined with body"));
        }
        let body_max = fields.body_max.unwrap_or(BODY_MAX_DEFAULT);
        within("body_max", body_max, 1, BODY_MAX_LIMIT)?;
        let headers = match &fields.headers {
            None => HeaderChanges::default(),
            Some(value) => HeaderChanges::parse(value, AddForm::Lines, Stage::Response, Captures::None)?,
        };
        let vars = fields.vars.as_ref().map(|vars| {
            Expression::parse(vars, Stage::Response)
                .map_err(|error| FieldError::new(format!("vars{}", error.at), error.message))
        });
        Ok(Self {
            status: fields.status_code,
            headers,
            body: parse_body(fields.body, fields.body_base64)?,
            filters: parse_filters(fields.filters)?,
            vars: vars.transpose()?,
            body_max: body_max as usize,
        })
    }

    pub(super) fn response(
        &self,
        exchange: &Exchange,
        head: &mut ResponseHead,
        upstream: Option<UpstreamView<'_>>,
    ) -> BodyAction {
        if let Some(vars) = &self.vars
            && !vars.holds(&exchange.response_subject(head, upstream))
        {
            return BodyAction::Pass;
        }
        if let Some(status) = self.status {
            head.status = status;
        }
        let action = self.body_action(head);
        if action != BodyAction::Pass {
            // These describe the body that was.
            head.fields.remove_known(Name::ContentLength);
            for name in [&b"Etag"[..], b"Last-Modified", b"Content-MD5", b"Digest", b"Accept-Ranges"] {
                head.fields.remove(name);
            }
        }
        if matches!(action, BodyAction::Replace(_)) {
            head.fields.remove_known(Name::ContentEncoding);
        }
        for (name, text) in &self.headers.add {
            let value = fill_value(text, &exchange.response_subject(head, upstream), |_| None);
            head.fields.append(name, &value);
        }
        for (name, text) in &self.headers.set {
            let value = fill_value(text, &exchange.response_subject(head, upstream), |_| None);
            if value.is_empty() {
                head.fields.remove(name);
            } else {
                head.fields.set(name, &value);
            }
        }
        for name in &self.headers.remove {
            head.fields.remove(name);
        }
        action
    }

    fn body_action(&self, head: &ResponseHead) -> BodyAction {
        if let Some(body) = &self.body {
            return BodyAction::Replace(body.clone());
        }
        let encoding = head.fields.value(Name::ContentEncoding);
        // Expressions are for text: in a compressed or partial body they would
        // find nothing, or the wrong thing.
        let is_plain = encoding.is_none_or(|encoding| encoding.eq_ignore_ascii_case(b"identity"));
        if self.filters.is_empty() || !is_plain || head.status == 206 {
            return BodyAction::Pass;
        }
        BodyAction::Transform { max: self.body_max, longer: Longer::Pass, encoded: false }
    }

    pub(super) fn transform(&self, exchange: &Exchange, body: Bytes) -> Bytes {
        if body.len() > self.body_max {
            return body;
        }
        let mut body = body;
        for filter in &self.filters {
            if let Some(changed) = filter.apply(exchange, &body, self.body_max) {
                body = changed.into();
            }
        }
        body
    }
}

impl BodyFilter {
    /// The body with what matches replaced. It may grow to four times the most
    /// that is read; replacing ends there.
    fn apply(&self, exchange: &Exchange, body: &[u8], body_max: usize) -> Option<Vec<u8>> {
        let most = if self.scope == Scope::Once { 1 } else { usize::MAX };
        let subject = exchange.subject();
        let mut out = Vec::new();
        let mut done = 0;
        for groups in self.regex.captures_iter(body).take(most) {
            let Some(whole) = groups.get(0) else { break };
            out.extend_from_slice(&body[done..whole.start()]);
            let group = |index| groups.get(index).map(|group| group.as_bytes());
            self.replace.fill_with(&subject, group, |_, bytes| out.extend_from_slice(bytes));
            done = whole.end();
            if out.len() > body_max.saturating_mul(4) {
                break;
            }
        }
        if done == 0 && out.is_empty() {
            return None;
        }
        out.extend_from_slice(&body[done..]);
        Some(out)
    }
}

fn parse_body(body: Option<String>, is_base64: bool) -> Built<Option<Bytes>> {
    match (body, is_base64) {
        (None, true) => Err(FieldError::new("body_base64", "needs a body")),
        (Some(body), true) => match STANDARD.decode(body.trim()) {
            Ok(bytes) if !bytes.is_empty() => Ok(Some(bytes.into())),
            _ => Err(FieldError::with("body", body, "is not base64")),
        },
        (body, false) => Ok(body.map(Bytes::from)),
    }
}

fn parse_filters(list: Option<Vec<FilterFields>>) -> Built<Box<[BodyFilter]>> {
    let Some(list) = list else { return Ok(Box::default()) };
    within("filters", list.len(), 1, FILTERS_MAX)?;
    list.into_iter()
        .enumerate()
        .map(|(index, filter)| {
            let place = |field: &str| format!("filters[{index}].{field}");
            if filter.regex.is_empty() {
                return Err(FieldError::with(place("regex"), "", "must not be empty"));
            }
            // The plain form tells best what is wrong with an expression.
            compile_regex(&filter.regex, false).map_err(|error| FieldError::new(place("regex"), error))?;
            let options = filter.options.as_deref().unwrap_or("jo");
            let regex = with_options(&filter.regex, options)
                .map_err(|message| FieldError::with(place("options"), options, message))?;
            let replace = Template::parse(&filter.replace, Stage::Response, Captures::Allowed)
                .map_err(|error| FieldError::with(place("replace"), filter.replace.clone(), error))?;
            Ok(BodyFilter { regex, replace, scope: filter.scope })
        })
        .collect()
}

/// The options of `ngx.re`, as far as they mean something here.
fn with_options(regex: &str, options: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(regex);
    builder.size_limit(REGEX_SIZE_MAX).dfa_size_limit(REGEX_SIZE_MAX);
    for option in options.chars() {
        match option {
            // Compile once and just in time: always so.
            'j' | 'o' => {}
            // Text is UTF-8 here without being told.
            'u' => {}
            'i' => drop(builder.case_insensitive(true)),
            'm' => drop(builder.multi_line(true)),
            's' => drop(builder.dot_matches_new_line(true)),
            'x' => drop(builder.ignore_whitespace(true)),
            other => return Err(format!("option {other:?} is not offered, only i, j, m, o, s, u and x")),
        }
    }
    builder.build().map_err(|_| "make the expression too large or invalid".to_owned())
}
