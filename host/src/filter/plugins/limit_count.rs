//! `limit-count`: so many in a window of time, for each key. Also how all
//! limits refuse.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use super::key::{KeyBuffer, KeyType, LimitKey, check_policy};
use super::limit_req::keys_max;
use crate::filter::build::{BuildContext, Built, ChainKind, FieldError, fields, within};
use crate::filter::chain::Step;
use crate::filter::exchange::Exchange;
use crate::filter::verdict::{FrameVerdict, LocalResponse};
use crate::message::{Captures, Stage, Subject, Template};
use crate::rate::{WindowCount, WindowRule};

/// The longest window, in seconds: about a year.
const WINDOW_MAX: u64 = 366 * 24 * 3600;
/// The most `rules`.
const RULES_MAX: usize = 16;

/// `rejected`: what becomes of a frame over the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnReject {
    #[default]
    ErrorFrame,
    Drop,
    Close,
    Delay,
}

impl OnReject {
    fn as_str(self) -> &'static str {
        match self {
            Self::ErrorFrame => "error_frame",
            Self::Drop => "drop",
            Self::Close => "close",
            Self::Delay => "delay",
        }
    }
}

/// The fields of a refusal as configured.
pub(super) struct RefusalFields {
    pub(super) code: Option<u16>,
    pub(super) message: Option<String>,
    pub(super) on_frame: Option<OnReject>,
    /// APISIX lets requests pass when its store fails. The memory of the node
    /// does not fail, so it decides nothing here.
    pub(super) allow_degradation: bool,
}

/// How a limit refuses.
#[derive(Debug)]
pub(super) struct Refusal {
    code: u16,
    message: Option<Box<str>>,
    pub(super) on_frame: OnReject,
}

impl Refusal {
    pub(super) fn new(fields: RefusalFields, context: &BuildContext<'_>) -> Built<Self> {
        let _ = fields.allow_degradation;
        let code = fields.code.unwrap_or(503);
        within("rejected_code", code, 200, 599)?;
        if fields.message.as_deref() == Some("") {
            return Err(FieldError::with("rejected_msg", "", "must not be empty"));
        }
        if let Some(on_frame) = fields.on_frame
            && context.kind != ChainKind::Frames
        {
            return Err(FieldError::with(
                "rejected",
                on_frame.as_str(),
                "is for the frames of a stream route only",
            ));
        }
        Ok(Self {
            code,
            message: fields.message.map(Into::into),
            on_frame: fields.on_frame.unwrap_or_default(),
        })
    }

    /// The answer to a request over the limit.
    pub(super) fn answer(
        &self,
        reason: &'static str,
        retry_after: Option<Duration>,
        exchange: &Exchange,
    ) -> Step {
        let message = self.message.as_deref().unwrap_or("limit reached");
        let mut response = LocalResponse::error(self.code, reason, message, exchange.request_id.get());
        if let Some(time) = retry_after
            && matches!(self.code, 429 | 503)
        {
            response = response.retry_after(time);
        }
        Step::Respond(Box::new(response))
    }

    /// The verdict on a frame over the limit.
    pub(super) fn frame(&self, reason: &'static str, retry_after: Duration) -> FrameVerdict {
        match self.on_frame {
            OnReject::ErrorFrame => FrameVerdict::Reject { code: reason, retry_after: Some(retry_after) },
            OnReject::Drop => FrameVerdict::Drop(reason),
            OnReject::Close | OnReject::Delay => FrameVerdict::Close(reason),
        }
    }
}

/// Seconds, rounded up.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Amount {
    Number(u64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFields {
    count: Amount,
    time_window: Amount,
    key: String,
    #[serde(default)]
    header_prefix: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    count: Option<Amount>,
    #[serde(default)]
    time_window: Option<Amount>,
    #[serde(default)]
    rules: Option<Vec<RuleFields>>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    key_type: KeyType,
    #[serde(default)]
    group: Option<String>,
    #[serde(default, rename = "policy")]
    _policy: Option<String>,
    #[serde(default)]
    rejected_code: Option<u16>,
    #[serde(default)]
    rejected_msg: Option<String>,
    #[serde(default)]
    allow_degradation: bool,
    #[serde(default)]
    show_limit_quota_header: Option<bool>,
    #[serde(default)]
    rejected: Option<OnReject>,
    #[serde(default)]
    keys_max: Option<u32>,
}

/// A number, or variables that make one.
#[derive(Debug)]
enum Number {
    Fixed(u64),
    Filled(Template),
}

#[derive(Debug)]
struct Rule {
    count: Number,
    window: Number,
    key: LimitKey,
    /// Whether it counts only requests for which a variable of the key has a
    /// value, as the entries of `rules` do.
    is_conditional: bool,
    headers: [Box<str>; 3],
}

#[derive(Debug)]
pub(in crate::filter) struct LimitCount {
    rules: Box<[Rule]>,
    counters: Arc<WindowCount>,
    shows_headers: bool,
    refusal: Refusal,
}

impl LimitCount {
    pub(super) fn build(config: &Value, context: &BuildContext<'_>, same: Option<&Self>) -> Built<Self> {
        check_policy(config)?;
        let fields: Fields = fields(config)?;
        let keys_max = keys_max(fields.keys_max)?;
        let stage = context.stage();
        let rules = match (fields.count, fields.time_window, fields.rules) {
            (Some(count), Some(window), None) => {
                let key = fields.key.as_deref().unwrap_or("remote_addr");
                Box::new([Rule {
                    count: amount("count", count, u64::from(u32::MAX), stage)?,
                    window: amount("time_window", window, WINDOW_MAX, stage)?,
                    key: LimitKey::parse("key", key, fields.key_type, stage, context)?,
                    is_conditional: false,
                    headers: header_names(None),
                }]) as Box<[Rule]>
            }
            (None, None, Some(rules)) => build_rules(rules, context)?,
            (None, _, None) => return Err(FieldError::new("count", "is missing")),
            (_, None, None) => return Err(FieldError::new("time_window", "is missing")),
            _ => return Err(FieldError::new("rules", "cannot be combined with count and time_window")),
        };
        let counters = match (&fields.group, same) {
            (Some(group), _) if group.is_empty() => {
                return Err(FieldError::with("group", "", "must not be empty"));
            }
            (Some(group), _) => context.groups.join(group, config, keys_max).ok_or_else(|| {
                FieldError::with("group", group.clone(), "is in use with another configuration")
            })?,
            (None, Some(same)) => Arc::clone(&same.counters),
            (None, None) => Arc::new(WindowCount::new(keys_max)),
        };
        let refusal = Refusal::new(
            RefusalFields {
                code: fields.rejected_code,
                message: fields.rejected_msg,
                on_frame: fields.rejected,
                allow_degradation: fields.allow_degradation,
            },
            context,
        )?;
        if refusal.on_frame == OnReject::Delay {
            let message = "a count has no delay; use error_frame, drop or close, or limit-req";
            return Err(FieldError::with("rejected", "delay", message));
        }
        let shows_headers = fields.show_limit_quota_header.unwrap_or(true);
        Ok(Self { rules, counters, shows_headers, refusal })
    }

    pub(super) fn needs_body(&self) -> bool {
        let filled = |number: &Number| matches!(number, Number::Filled(text) if text.needs_body());
        self.rules.iter().any(|rule| rule.key.needs_body() || filled(&rule.count) || filled(&rule.window))
    }

    pub(super) fn request(&self, exchange: &mut Exchange) -> Step {
        let now = Instant::now();
        for (index, rule) in self.rules.iter().enumerate() {
            let subject = exchange.subject();
            let Some((key, limits)) = rule.prepare(index, &subject) else { continue };
            let Some(limits) = limits else {
                let message = "count or time_window of limit-count is no number for this request";
                let id = exchange.request_id.get();
                return Step::Respond(Box::new(LocalResponse::error(500, "limit_unreadable", message, id)));
            };
            let result = self.counters.incoming(&key, limits, now);
            if self.shows_headers {
                let (remaining, reset) = match result {
                    Ok(quota) => (quota.remaining, quota.reset),
                    Err(rejected) => (0, rejected.retry_after),
                };
                let mut text = itoa::Buffer::new();
                for (name, value) in rule.headers.iter().zip([limits.count, remaining, whole_seconds(reset)])
                {
                    exchange.set_response_field(name, text.format(value).as_bytes());
                }
            }
            if let Err(rejected) = result {
                return self.refusal.answer("quota_exceeded", Some(rejected.retry_after), exchange);
            }
        }
        Step::Next
    }

    pub(super) fn frame(&self, subject: &Subject<'_>, now: Instant) -> FrameVerdict {
        for (index, rule) in self.rules.iter().enumerate() {
            let Some((key, Some(limits))) = rule.prepare(index, subject) else { continue };
            if let Err(rejected) = self.counters.incoming(&key, limits, now) {
                return self.refusal.frame("quota_exceeded", rejected.retry_after);
            }
        }
        FrameVerdict::Pass
    }
}

impl Rule {
    /// The key and limits for a subject; no key when the rule does not apply,
    /// no limits when its variables make no number.
    fn prepare(&self, index: usize, subject: &Subject<'_>) -> Option<(KeyBuffer, Option<WindowRule>)> {
        let mut key = KeyBuffer::new();
        if self.is_conditional {
            // Rules share one table.
            key.extend_from_slice(&(index as u32).to_be_bytes());
        }
        let is_found = self.key.fill(subject, &mut key);
        if self.is_conditional && !is_found {
            return None;
        }
        let limits = self.count.read(subject, u64::from(u32::MAX)).and_then(|count| {
            let window = self.window.read(subject, WINDOW_MAX)?;
            Some(WindowRule { count, window: Duration::from_secs(window) })
        });
        Some((key, limits))
    }
}

impl Number {
    fn read(&self, subject: &Subject<'_>, most: u64) -> Option<u64> {
        match self {
            Self::Fixed(number) => Some(*number),
            Self::Filled(template) => {
                let mut text = KeyBuffer::new();
                template.fill(subject, &mut text);
                let number = std::str::from_utf8(&text).ok()?.trim().parse().ok()?;
                (1..=most).contains(&number).then_some(number)
            }
        }
    }
}

fn amount(field: &str, value: Amount, most: u64, stage: Stage) -> Built<Number> {
    match value {
        Amount::Number(number) => {
            within(field, number, 1, most)?;
            Ok(Number::Fixed(number))
        }
        Amount::Text(text) => {
            let template = Template::parse(&text, stage, Captures::None)
                .map_err(|error| FieldError::with(field, text.clone(), error))?;
            if let Some(literal) = template.as_literal() {
                let number = std::str::from_utf8(literal).ok().and_then(|text| text.parse().ok());
                let Some(number) = number else {
                    return Err(FieldError::with(field, text, "is neither a number nor a variable"));
                };
                return amount(field, Amount::Number(number), most, stage);
            }
            Ok(Number::Filled(template))
        }
    }
}

fn build_rules(rules: Vec<RuleFields>, context: &BuildContext<'_>) -> Built<Box<[Rule]>> {
    if rules.is_empty() || rules.len() > RULES_MAX {
        return Err(FieldError::with(
            "rules",
            rules.len(),
            format_args!("must have from 1 to {RULES_MAX} entries"),
        ));
    }
    let stage = context.stage();
    let mut seen: Vec<String> = Vec::new();
    let mut built = Vec::with_capacity(rules.len());
    for (index, rule) in rules.into_iter().enumerate() {
        let place = |field: &str| format!("rules[{index}].{field}");
        if seen.contains(&rule.key) {
            return Err(FieldError::with(place("key"), rule.key, "is the key of another rule too"));
        }
        let prefix = rule.header_prefix.unwrap_or_else(|| (index + 1).to_string());
        if !prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') || prefix.is_empty() {
            return Err(FieldError::with(place("header_prefix"), prefix, "must be letters, digits and '-'"));
        }
        built.push(Rule {
            count: amount(&place("count"), rule.count, u64::from(u32::MAX), stage)?,
            window: amount(&place("time_window"), rule.time_window, WINDOW_MAX, stage)?,
            key: LimitKey::parse(&place("key"), &rule.key, KeyType::VarCombination, stage, context)?,
            is_conditional: true,
            headers: header_names(Some(&prefix)),
        });
        seen.push(rule.key);
    }
    Ok(built.into())
}

fn header_names(prefix: Option<&str>) -> [Box<str>; 3] {
    let start = prefix.map_or_else(|| "X-".to_owned(), |prefix| format!("X-{prefix}-"));
    ["Limit", "Remaining", "Reset"].map(|name| format!("{start}RateLimit-{name}").into())
}
