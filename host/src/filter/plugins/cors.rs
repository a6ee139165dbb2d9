//! `cors`: tells browsers which other origins may use the answers.

use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::Value;

use super::headers::check_value;
use crate::filter::build::{BuildContext, Built, FieldError, fields};
use crate::filter::chain::Step;
use crate::filter::exchange::Exchange;
use crate::filter::verdict::LocalResponse;
use crate::message::{Method, Name, ResponseHead};
use crate::route::vars::{REGEX_SIZE_MAX, compile_regex};

const ALL_METHODS: &str = "GET,POST,PUT,DELETE,PATCH,HEAD,OPTIONS,CONNECT,TRACE";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    allow_origins: Option<String>,
    #[serde(default = "star")]
    allow_methods: String,
    #[serde(default = "star")]
    allow_headers: String,
    #[serde(default = "star")]
    expose_headers: String,
    #[serde(default = "default_age")]
    max_age: i64,
    #[serde(default)]
    allow_credential: bool,
    #[serde(default)]
    allow_origins_by_regex: Option<Vec<String>>,
    #[serde(default)]
    allow_origins_by_metadata: Option<Value>,
    #[serde(default)]
    timing_allow_origins: Option<String>,
    #[serde(default)]
    timing_allow_origins_by_regex: Option<Vec<String>>,
}

fn star() -> String {
    "*".to_owned()
}

fn default_age() -> i64 {
    5
}

/// Which origins are named.
#[derive(Debug)]
enum Origins {
    /// `*`: all, by the star itself.
    Any,
    /// `**`: all, each by its own name.
    Every,
    /// One: it is named whoever asks.
    One(Box<str>),
    /// Those of a list.
    List(Box<[Box<str>]>),
    /// None but by expression.
    None,
}

#[derive(Debug)]
struct Rule {
    origins: Origins,
    patterns: Option<Regex>,
}

#[derive(Debug)]
pub(in crate::filter) struct Cors {
    allow: Rule,
    timing: Option<Rule>,
    methods: Box<str>,
    headers: Box<str>,
    expose: Box<str>,
    max_age: Box<str>,
    has_credentials: bool,
}

impl Cors {
    pub(super) fn build(config: &Value, _: &BuildContext<'_>, _: Option<&Self>) -> Built<Self> {
        let fields: Fields = fields(config)?;
        if let Some(value) = fields.allow_origins_by_metadata {
            let message = "plugin metadata is not offered; list the origins in allow_origins";
            return Err(FieldError::with("allow_origins_by_metadata", value, message));
        }
        let allow = Rule::build(
            ("allow_origins", fields.allow_origins.as_deref()),
            ("allow_origins_by_regex", fields.allow_origins_by_regex.as_deref()),
        )?;
        let has_timing =
            fields.timing_allow_origins.is_some() || fields.timing_allow_origins_by_regex.is_some();
        let timing = has_timing.then(|| {
            Rule::build(
                ("timing_allow_origins", fields.timing_allow_origins.as_deref()),
                ("timing_allow_origins_by_regex", fields.timing_allow_origins_by_regex.as_deref()),
            )
        });
        for (field, value) in [
            ("allow_methods", &fields.allow_methods),
            ("allow_headers", &fields.allow_headers),
            ("expose_headers", &fields.expose_headers),
        ] {
            check_value(field, value)?;
            if fields.allow_credential && value == "*" {
                return Err(FieldError::with(
                    field,
                    "*",
                    "must be spelled out when allow_credential is true",
                ));
            }
        }
        if fields.allow_credential && matches!(allow.origins, Origins::Any) {
            let message = "must be spelled out when allow_credential is true";
            return Err(FieldError::with("allow_origins", "*", message));
        }
        let methods = if fields.allow_methods == "**" { ALL_METHODS } else { &fields.allow_methods };
        Ok(Self {
            allow,
            timing: timing.transpose()?,
            methods: methods.into(),
            headers: fields.allow_headers.into(),
            expose: fields.expose_headers.into(),
            max_age: fields.max_age.to_string().into(),
            has_credentials: fields.allow_credential,
        })
    }

    /// As in APISIX every OPTIONS request ends here.
    pub(super) fn request(&self, exchange: &mut Exchange) -> Step {
        if exchange.request.method == Method::Options {
            return Step::Respond(Box::new(LocalResponse::new(200, "")));
        }
        Step::Next
    }

    pub(super) fn response(&self, exchange: &Exchange, head: &mut ResponseHead) {
        let request = &exchange.request.fields;
        let origin = request.value(Name::Origin);
        if let Some(value) = self.timing.as_ref().and_then(|timing| timing.answer(origin)) {
            head.fields.set(b"Timing-Allow-Origin", value);
        }
        let answer = self.allow.answer(origin);
        if self.allow.varies() {
            head.fields.append(b"Vary", b"Origin");
        }
        let Some(answer) = answer else { return };
        let fields = &mut head.fields;
        fields.set(b"Access-Control-Allow-Origin", answer);
        fields.set(b"Access-Control-Allow-Methods", self.methods.as_bytes());
        fields.set(b"Access-Control-Max-Age", self.max_age.as_bytes());
        fields.set(b"Access-Control-Expose-Headers", self.expose.as_bytes());
        if &*self.headers != "**" {
            fields.set(b"Access-Control-Allow-Headers", self.headers.as_bytes());
        } else if let Some(asked) = request.value(Name::AccessControlRequestHeaders) {
            fields.set(b"Access-Control-Allow-Headers", asked);
        }
        if self.has_credentials {
            fields.set(b"Access-Control-Allow-Credentials", b"true");
        }
    }
}

impl Rule {
    fn build((field, list): (&str, Option<&str>), (by, patterns): (&str, Option<&[String]>)) -> Built<Self> {
        let origins = match list {
            // Expressions alone would mean nothing beside a default of '*'.
            None if patterns.is_some() => Origins::None,
            None | Some("*") => Origins::Any,
            Some("**") => Origins::Every,
            Some(list) => {
                let list: Vec<Box<str>> = list.split(',').map(|origin| origin.trim().into()).collect();
                for origin in &list {
                    let is_origin = &**origin == "null" || origin.contains("://");
                    if !is_origin || !origin.bytes().all(|byte| byte.is_ascii_graphic()) {
                        let message = "is not an origin like https://host:port";
                        return Err(FieldError::with(field, &**origin, message));
                    }
                }
                match <[Box<str>; 1]>::try_from(list) {
                    Ok([one]) => Origins::One(one),
                    Err(list) => Origins::List(list.into()),
                }
            }
        };
        let patterns = patterns.map(|patterns| join_patterns(by, patterns)).transpose()?;
        Ok(Self { origins, patterns })
    }

    fn varies(&self) -> bool {
        !matches!(self.origins, Origins::Any)
    }

    fn answer<'a>(&'a self, origin: Option<&'a [u8]>) -> Option<&'a [u8]> {
        let by_pattern = || {
            let (patterns, origin) = (self.patterns.as_ref()?, origin?);
            patterns.is_match(origin).then_some(origin)
        };
        match &self.origins {
            Origins::Any => Some(b"*"),
            Origins::Every => Some(origin.unwrap_or(b"*")),
            Origins::One(one) => {
                let is_it = origin == Some(one.as_bytes());
                if is_it { Some(one.as_bytes()) } else { by_pattern().or(Some(one.as_bytes())) }
            }
            Origins::List(list) => {
                let own = origin.filter(|origin| list.iter().any(|own| own.as_bytes() == *origin));
                own.or_else(by_pattern)
            }
            Origins::None => by_pattern(),
        }
    }
}

/// One expression of several, each for the whole origin: APISIX looks anywhere
/// in it, which lets `https://good.example.evil.test` in.
fn join_patterns(field: &str, patterns: &[String]) -> Built<Regex> {
    if patterns.is_empty() {
        return Err(FieldError::new(field, "must not be empty"));
    }
    for (index, pattern) in patterns.iter().enumerate() {
        compile_regex(pattern, false).map_err(|error| FieldError::new(format!("{field}[{index}]"), error))?;
    }
    let joined =
        format!("^(?:{})$", patterns.iter().map(|own| format!("(?:{own})")).collect::<Vec<_>>().join("|"));
    RegexBuilder::new(&joined)
        .size_limit(REGEX_SIZE_MAX)
        .build()
        .map_err(|_| FieldError::new(field, "is too large when compiled"))
}
