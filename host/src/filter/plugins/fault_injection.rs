//! `fault-injection`: delays and aborts for trying out how clients bear them.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::headers::{FieldText, fill_value, texts};
use super::random_below;
use crate::filter::build::{BuildContext, Built, FieldError, fields, within};
use crate::filter::chain::Step;
use crate::filter::exchange::Exchange;
use crate::filter::verdict::LocalResponse;
use crate::message::{Captures, Stage, Subject, Template};
use crate::route::Expression;

/// The longest delay, in seconds.
pub(super) const DELAY_MAX: f64 = 300.0;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    abort: Option<AbortFields>,
    #[serde(default)]
    delay: Option<DelayFields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AbortFields {
    http_status: u16,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    headers: Option<Value>,
    #[serde(default)]
    percentage: Option<u32>,
    #[serde(default)]
    vars: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DelayFields {
    duration: f64,
    #[serde(default)]
    percentage: Option<u32>,
    #[serde(default)]
    vars: Option<Value>,
}

/// Which requests are hit.
#[derive(Debug)]
struct Sample {
    percentage: Option<u32>,
    /// One of them has to hold; none at all means always.
    vars: Box<[Expression]>,
}

#[derive(Debug)]
struct Abort {
    status: u16,
    body: Template,
    headers: Box<[FieldText]>,
    sample: Sample,
}

#[derive(Debug)]
pub(in crate::filter) struct FaultInjection {
    abort: Option<Abort>,
    delay: Option<(Duration, Sample)>,
}

impl FaultInjection {
    pub(super) fn build(config: &Value, _: &BuildContext<'_>, _: Option<&Self>) -> Built<Self> {
        let fields: Fields = fields(config)?;
        if fields.abort.is_none() && fields.delay.is_none() {
            return Err(FieldError::new("", "needs abort or delay"));
        }
        let abort = fields.abort.map(Abort::build).transpose()?;
        let delay = fields.delay.map(|delay| {
            if !(0.0..=DELAY_MAX).contains(&delay.duration) {
                let message = "must be from 0 to 300 seconds";
                return Err(FieldError::with("delay.duration", delay.duration, message));
            }
            let sample = Sample::build("delay", delay.percentage, delay.vars.as_ref())?;
            Ok((Duration::from_secs_f64(delay.duration), sample))
        });
        Ok(Self { abort, delay: delay.transpose()? })
    }

    pub(super) fn needs_body(&self) -> bool {
        let abort = self.abort.as_ref().is_some_and(|abort| {
            abort.sample.needs_body()
                || abort.body.needs_body()
                || abort.headers.iter().any(|(_, text)| text.needs_body())
        });
        abort || self.delay.as_ref().is_some_and(|(_, sample)| sample.needs_body())
    }

    pub(super) fn request(&self, exchange: &mut Exchange) -> Step {
        let subject = exchange.subject();
        let delay = self.delay.as_ref().filter(|(_, sample)| sample.hits(&subject)).map(|(time, _)| *time);
        let abort = self.abort.as_ref().filter(|abort| abort.sample.hits(&subject));
        match (abort, delay) {
            (None, None) => Step::Next,
            (None, Some(time)) => Step::Wait(time),
            (Some(abort), None) => Step::Respond(abort.answer(&subject)),
            (Some(abort), Some(time)) => Step::WaitAndRespond(time, abort.answer(&subject)),
        }
    }
}

impl Abort {
    fn build(fields: AbortFields) -> Built<Self> {
        within("abort.http_status", fields.http_status, 200, 599)?;
        let body = fields.body.unwrap_or_default();
        let body = Template::parse(&body, Stage::Request, Captures::None)
            .map_err(|error| FieldError::with("abort.body", body, error))?;
        let headers = match &fields.headers {
            None => Box::default(),
            Some(value) => texts("abort.headers", value, Stage::Request, Captures::None)?,
        };
        let sample = Sample::build("abort", fields.percentage, fields.vars.as_ref())?;
        Ok(Self { status: fields.http_status, body, headers, sample })
    }

    fn answer(&self, subject: &Subject<'_>) -> Box<LocalResponse> {
        let mut response = LocalResponse::new(self.status, "fault_injected");
        let mut body = Vec::new();
        self.body.fill_with(subject, |_| None, |_, bytes| body.extend_from_slice(bytes));
        if !body.is_empty() {
            response.head.fields.append(b"Content-Type", b"text/plain; charset=utf-8");
        }
        response.body = body.into();
        for (name, text) in &self.headers {
            response.head.fields.set(name, &fill_value(text, subject, |_| None));
        }
        Box::new(response)
    }
}

impl Sample {
    fn build(field: &str, percentage: Option<u32>, vars: Option<&Value>) -> Built<Self> {
        if let Some(percentage) = percentage {
            within(&format!("{field}.percentage"), percentage, 0, 100)?;
        }
        let list = match vars {
            None => &[][..],
            Some(Value::Array(list)) if list.len() <= 64 => list,
            Some(other) => {
                let message = "must be a list of at most 64 expressions";
                return Err(FieldError::with(format!("{field}.vars"), other.clone(), message));
            }
        };
        let parse = |(index, vars)| {
            Expression::parse(vars, Stage::Request)
                .map_err(|error| FieldError::new(format!("{field}.vars[{index}]{}", error.at), error.message))
        };
        let vars = list.iter().enumerate().map(parse).collect::<Built<_>>()?;
        Ok(Self { percentage, vars })
    }

    fn needs_body(&self) -> bool {
        self.vars.iter().any(Expression::needs_body)
    }

    fn hits(&self, subject: &Subject<'_>) -> bool {
        self.percentage.is_none_or(|percentage| random_below(100) < percentage)
            && (self.vars.is_empty() || self.vars.iter().any(|vars| vars.holds(subject)))
    }
}
