//! `mocking`: answers in place of a service that is not there yet.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::fault_injection::DELAY_MAX;
use super::headers::{FieldText, check_value, fill_value, texts};
use super::random_below;
use crate::filter::build::{BuildContext, Built, FieldError, fields, within};
use crate::filter::chain::Step;
use crate::filter::exchange::Exchange;
use crate::filter::verdict::LocalResponse;
use crate::message::{Captures, Stage, Template};

const DEPTH_MAX: usize = 16;
/// The most values a schema may lead to, with every list at its longest.
const VALUES_MAX: usize = 4096;
const ITEMS_MAX: u32 = 3;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    delay: f64,
    #[serde(default)]
    response_status: Option<u16>,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default)]
    response_example: Option<String>,
    #[serde(default)]
    response_schema: Option<Value>,
    #[serde(default)]
    with_mock_header: Option<bool>,
    #[serde(default)]
    response_headers: Option<Value>,
}

#[derive(Debug)]
enum Shape {
    Text(Option<String>),
    Number(Option<Value>),
    Integer(Option<Value>),
    Boolean(Option<bool>),
    List(Option<Box<Shape>>),
    Object(Box<[(String, Shape)]>),
}

#[derive(Debug)]
enum Body {
    Example(Template),
    Json(Shape),
    Xml(Shape),
}

#[derive(Debug)]
pub(in crate::filter) struct Mocking {
    delay: Duration,
    status: u16,
    content_type: Box<str>,
    body: Body,
    is_marked: bool,
    headers: Box<[FieldText]>,
}

impl Mocking {
    pub(super) fn build(config: &Value, _: &BuildContext<'_>, _: Option<&Self>) -> Built<Self> {
        let fields: Fields = fields(config)?;
        if !(0.0..=DELAY_MAX).contains(&fields.delay) {
            return Err(FieldError::with("delay", fields.delay, "must be from 0 to 300 seconds"));
        }
        let status = fields.response_status.unwrap_or(200);
        within("response_status", status, 200, 599)?;
        let content_type = fields.content_type.unwrap_or_else(|| "application/json;charset=utf8".to_owned());
        check_value("content_type", &content_type)?;
        let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_known = ["application/json", "application/xml", "text/xml", "text/plain", "text/html"];
        if !is_known.contains(&kind.as_str()) {
            let message = format!("must be one of {}", is_known.join(", "));
            return Err(FieldError::with("content_type", content_type, message));
        }
        let body = match (fields.response_example, fields.response_schema) {
            (Some(example), _) => {
                let template = Template::parse(&example, Stage::Request, Captures::None)
                    .map_err(|error| FieldError::new("response_example", error))?;
                Body::Example(template)
            }
            (None, Some(schema)) => {
                let mut values = 0;
                let shape = Shape::parse("response_schema", &schema, 0, 1, &mut values)?;
                if kind.ends_with("/xml") { Body::Xml(shape) } else { Body::Json(shape) }
            }
            (None, None) => return Err(FieldError::new("", "needs response_example or response_schema")),
        };
        let headers = match &fields.response_headers {
            None => Box::default(),
            Some(value) => texts("response_headers", value, Stage::Request, Captures::None)?,
        };
        Ok(Self {
            delay: Duration::from_secs_f64(fields.delay),
            status,
            content_type: content_type.into(),
            body,
            is_marked: fields.with_mock_header.unwrap_or(true),
            headers,
        })
    }

    pub(super) fn needs_body(&self) -> bool {
        let example = matches!(&self.body, Body::Example(template) if template.needs_body());
        example || self.headers.iter().any(|(_, text)| text.needs_body())
    }

    pub(super) fn request(&self, exchange: &mut Exchange) -> Step {
        let subject = exchange.subject();
        let mut response = LocalResponse::new(self.status, "mocked");
        let fields = &mut response.head.fields;
        fields.append(b"Content-Type", self.content_type.as_bytes());
        if self.is_marked {
            fields.append(b"x-mock-by", concat!("Sluice/", env!("CARGO_PKG_VERSION")).as_bytes());
        }
        for (name, text) in &self.headers {
            fields.set(name, &fill_value(text, &subject, |_| None));
        }
        response.body = match &self.body {
            Body::Example(template) => {
                let mut body = Vec::new();
                template.fill_with(&subject, |_| None, |_, bytes| body.extend_from_slice(bytes));
                body.into()
            }
            Body::Json(shape) => shape.make().to_string().into(),
            Body::Xml(shape) => {
                let mut text = String::new();
                push_xml(&mut text, "data", &shape.make());
                text.into()
            }
        };
        Step::WaitAndRespond(self.delay, Box::new(response))
    }
}

impl Shape {
    fn parse(field: &str, schema: &Value, depth: usize, times: usize, values: &mut usize) -> Built<Self> {
        *values += times;
        if depth > DEPTH_MAX || *values > VALUES_MAX {
            let message = format!("is deeper than {DEPTH_MAX} levels or makes more than {VALUES_MAX} values");
            return Err(FieldError::new(field, message));
        }
        let kind = match schema.get("type") {
            Some(Value::String(kind)) => kind.to_ascii_lowercase(),
            // The outermost one is an object, said or not.
            None if depth == 0 => "object".to_owned(),
            other => {
                let message = "must be string, number, integer, boolean, array or object";
                return Err(FieldError::with(
                    format!("{field}.type"),
                    other.cloned().unwrap_or_default(),
                    message,
                ));
            }
        };
        let example = schema.get("example");
        Ok(match kind.as_str() {
            "string" => Self::Text(example.and_then(Value::as_str).map(str::to_owned)),
            "number" => Self::Number(example.filter(|example| example.is_number()).cloned()),
            "integer" => {
                Self::Integer(example.and_then(Value::as_f64).map(|number| Value::from(number as i64)))
            }
            "boolean" => Self::Boolean(example.and_then(Value::as_bool)),
            "array" => {
                let items = schema.get("items").map(|items| {
                    let times = times * ITEMS_MAX as usize;
                    Self::parse(&format!("{field}.items"), items, depth + 1, times, values).map(Box::new)
                });
                Self::List(items.transpose()?)
            }
            "object" => {
                let none = Map::new();
                let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
                let parse = |(name, schema): (&String, &Value)| {
                    let place = format!("{field}.properties.{name}");
                    Ok((name.clone(), Self::parse(&place, schema, depth + 1, times, values)?))
                };
                Self::Object(properties.iter().map(parse).collect::<Built<_>>()?)
            }
            other => {
                let message = "must be string, number, integer, boolean, array or object";
                return Err(FieldError::with(format!("{field}.type"), other, message));
            }
        })
    }

    fn make(&self) -> Value {
        match self {
            Self::Text(example) => match example {
                Some(example) => Value::from(example.as_str()),
                None => {
                    let letter = |_| char::from(b'a' + random_below(26) as u8);
                    Value::from((0..=random_below(10)).map(letter).collect::<String>())
                }
            },
            Self::Number(example) => {
                let random = || Value::from(f64::from(random_below(1_000_000)) / 100.0);
                example.clone().unwrap_or_else(random)
            }
            Self::Integer(example) => {
                example.clone().unwrap_or_else(|| Value::from(1 + random_below(10_000)))
            }
            Self::Boolean(example) => Value::from(example.unwrap_or_else(|| random_below(2) == 1)),
            Self::List(None) => Value::Array(Vec::new()),
            Self::List(Some(items)) => (0..=random_below(ITEMS_MAX)).map(|_| items.make()).collect(),
            Self::Object(list) => {
                Value::Object(list.iter().map(|(name, shape)| (name.clone(), shape.make())).collect())
            }
        }
    }
}

fn push_xml(out: &mut String, name: &str, value: &Value) {
    match value {
        Value::Array(list) => list.iter().for_each(|item| push_xml(out, name, item)),
        value => {
            // A name that XML has no element for would break the document.
            let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '.';
            let name: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
            out.push_str(&format!("<{name}>"));
            match value {
                Value::Object(map) => map.iter().for_each(|(name, value)| push_xml(out, name, value)),
                Value::String(text) => {
                    for c in text.chars() {
                        match c {
                            '<' => out.push_str("&lt;"),
                            '>' => out.push_str("&gt;"),
                            '&' => out.push_str("&amp;"),
                            c => out.push(c),
                        }
                    }
                }
                other => out.push_str(&other.to_string()),
            }
            out.push_str(&format!("</{name}>"));
        }
    }
}
