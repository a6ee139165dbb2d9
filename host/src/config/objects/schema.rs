//! The JSON Schema of a type, from the way it is read.
//!
//! Serde says what it asks for: a struct names its fields, a list or a text is
//! asked for as such. Here a type is read with one field after the other, and
//! what is asked for there is noted. What can be written in several forms is
//! tried with a value of each.

use std::fmt;

use serde::de::value::{StrDeserializer, StringDeserializer};
use serde::de::{self, DeserializeOwned, Deserializer, Expected, MapAccess, SeqAccess, Unexpected, Visitor};
use serde_json::{Map, Value, json};

/// Levels of fields that are described; what lies deeper is any value.
const DEPTH_MAX: usize = 8;

/// The JSON Schema of what `T` is read from. That a field is left out is not said
/// by `null`, though that is read as well.
#[must_use]
pub fn schema<T: DeserializeOwned>() -> Value {
    described::<T>(&mut Vec::new())
}

/// A step from a value into it.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// To a field of a struct.
    Field(&'static str),
    /// To an element of a list.
    Item,
    /// To a value of a map.
    Entry,
}

/// What a value is asked for as.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// Whatever there is.
    Any,
    Bool,
    /// From this number, to that.
    Integer(Option<i64>, Option<i64>),
    Number,
    Text,
    List,
    Map,
    Struct(&'static [&'static str]),
    Words(&'static [&'static str]),
}

/// A value that is tried.
#[derive(Debug, Clone, Copy)]
enum Sample {
    Bool,
    Integer,
    Number,
    Text(&'static str),
    List,
    Map,
}

/// Samples of all types, with their names.
const SAMPLES: [(Sample, &str); 6] = [
    (Sample::Bool, "boolean"),
    (Sample::Integer, "integer"),
    (Sample::Number, "number"),
    (Sample::Text("1"), "string"),
    (Sample::List, "array"),
    (Sample::Map, "object"),
];

fn described<T: DeserializeOwned>(path: &mut Vec<Step>) -> Value {
    let Some(form) = form_of::<T>(path) else { return json!({}) };
    match form {
        Form::Any => described_by_trial::<T>(path),
        Form::Bool => json!({"type": "boolean"}),
        Form::Number => json!({"type": "number"}),
        Form::Text => json!({"type": "string"}),
        Form::Integer(least, most) => {
            let mut schema = json!({"type": "integer"});
            if let Some(least) = least {
                schema["minimum"] = json!(least);
            }
            if let Some(most) = most {
                schema["maximum"] = json!(most);
            }
            schema
        }
        Form::List => json!({"type": "array", "items": below::<T>(path, Step::Item)}),
        Form::Map => json!({"type": "object", "additionalProperties": below::<T>(path, Step::Entry)}),
        Form::Struct(fields) => {
            let fields =
                fields.iter().map(|field| ((*field).to_owned(), below::<T>(path, Step::Field(field))));
            let fields: Map<String, Value> = fields.collect();
            json!({"type": "object", "properties": fields, "additionalProperties": false})
        }
        // Words that have something with them are not written as texts.
        Form::Words(words) if words.iter().all(|word| is_taken::<T>(path, Sample::Text(word))) => {
            json!({"type": "string", "enum": words})
        }
        Form::Words(_) => json!({}),
    }
}

/// What may stand where any form is read.
fn described_by_trial<T: DeserializeOwned>(path: &mut Vec<Step>) -> Value {
    let taken = SAMPLES.into_iter().filter(|(sample, _)| is_taken::<T>(path, *sample));
    let mut types: Vec<&str> = taken.map(|(_, name)| name).collect();
    if types.is_empty() || types.len() == SAMPLES.len() {
        return json!({});
    }
    if types.contains(&"number") {
        types.retain(|name| *name != "integer");
    }
    let mut schema = match *types {
        [one] => json!({"type": one}),
        _ => json!({"type": types}),
    };
    if types.contains(&"array") {
        schema["items"] = below::<T>(path, Step::Item);
    }
    if types.contains(&"object") {
        schema["additionalProperties"] = below::<T>(path, Step::Entry);
    }
    schema
}

fn below<T: DeserializeOwned>(path: &mut Vec<Step>, step: Step) -> Value {
    if path.len() >= DEPTH_MAX {
        return json!({});
    }
    path.push(step);
    let schema = described::<T>(path);
    path.pop();
    schema
}

/// What the value at the end of a path is asked for as; none where the path does
/// not lead there.
fn form_of<T: DeserializeOwned>(path: &[Step]) -> Option<Form> {
    match T::deserialize(Probe { path, sample: None }) {
        Err(Answer::Asked(form)) => Some(form),
        _ => None,
    }
}

/// Whether the value at the end of a path may have the type of a sample.
fn is_taken<T: DeserializeOwned>(path: &[Step], sample: Sample) -> bool {
    !matches!(T::deserialize(Probe { path, sample: Some(sample) }), Err(Answer::WrongType))
}

/// What came of reading.
#[derive(Debug)]
enum Answer {
    /// The end of the path was reached, and asked for so.
    Asked(Form),
    /// The type of a value is wrong.
    WrongType,
    /// Something else is: a value, or what is missing.
    Other,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Answer {}

impl de::Error for Answer {
    fn custom<T: fmt::Display>(message: T) -> Self {
        // Of enums that are told apart by their form.
        if message.to_string().contains("did not match any variant") { Self::WrongType } else { Self::Other }
    }

    fn invalid_type(_: Unexpected<'_>, _: &dyn Expected) -> Self {
        Self::WrongType
    }
}

/// Leads along a path, and notes there what is asked for, or gives a sample.
#[derive(Clone, Copy)]
struct Probe<'a> {
    path: &'a [Step],
    sample: Option<Sample>,
}

impl<'a> Probe<'a> {
    fn answer<'de, V: Visitor<'de>>(self, form: Form, visitor: V) -> Result<V::Value, Answer> {
        let Some((step, path)) = self.path.split_first() else {
            return match self.sample {
                None => Err(Answer::Asked(form)),
                Some(Sample::Bool) => visitor.visit_bool(true),
                Some(Sample::Integer) => visitor.visit_u64(1),
                Some(Sample::Number) => visitor.visit_f64(0.5),
                Some(Sample::Text(word)) if matches!(form, Form::Words(_)) => {
                    visitor.visit_enum(StrDeserializer::new(word))
                }
                Some(Sample::Text(text)) => visitor.visit_str(text),
                Some(Sample::List) => visitor.visit_seq(Inside(None)),
                Some(Sample::Map) => visitor.visit_map(Inside(None)),
            };
        };
        let below = Inside(Some((*step, Probe { path, ..self })));
        match step {
            Step::Item => visitor.visit_seq(below),
            Step::Field(_) | Step::Entry => visitor.visit_map(below),
        }
    }
}

/// Asked for a number, of these bounds.
macro_rules! integers {
    ($($function:ident $least:expr, $most:expr;)*) => {
        $(fn $function<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Answer> {
            self.answer(Form::Integer($least, $most), visitor)
        })*
    };
}

/// Asked for in a form.
macro_rules! forms {
    ($($function:ident $form:expr;)*) => {
        $(fn $function<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Answer> {
            self.answer($form, visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Answer;

    integers! {
        deserialize_i8 Some(i8::MIN.into()), Some(i8::MAX.into());
        deserialize_i16 Some(i16::MIN.into()), Some(i16::MAX.into());
        deserialize_i32 Some(i32::MIN.into()), Some(i32::MAX.into());
        deserialize_i64 None, None;
        deserialize_u8 Some(0), Some(u8::MAX.into());
        deserialize_u16 Some(0), Some(u16::MAX.into());
        deserialize_u32 Some(0), Some(u32::MAX.into());
        deserialize_u64 Some(0), None;
    }

    forms! {
        deserialize_any Form::Any;
        deserialize_bool Form::Bool;
        deserialize_f32 Form::Number;
        deserialize_f64 Form::Number;
        deserialize_char Form::Text;
        deserialize_str Form::Text;
        deserialize_string Form::Text;
        deserialize_bytes Form::Text;
        deserialize_byte_buf Form::Text;
        deserialize_unit Form::Any;
        deserialize_seq Form::List;
        deserialize_map Form::Map;
        deserialize_identifier Form::Text;
        deserialize_ignored_any Form::Any;
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Answer> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Answer> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Answer> {
        self.answer(Form::Any, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Answer> {
        self.answer(Form::List, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Answer> {
        self.answer(Form::List, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Answer> {
        self.answer(Form::Struct(fields), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Answer> {
        self.answer(Form::Words(variants), visitor)
    }
}

/// The one value on the path inside a list or map; none where it is empty.
struct Inside<'a>(Option<(Step, Probe<'a>)>);

impl<'de> SeqAccess<'de> for Inside<'_> {
    type Error = Answer;

    fn next_element_seed<S: de::DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Answer> {
        self.0.take().map(|(_, probe)| seed.deserialize(probe)).transpose()
    }
}

impl<'de> MapAccess<'de> for Inside<'_> {
    type Error = Answer;

    fn next_key_seed<S: de::DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Answer> {
        let name = match &self.0 {
            None => return Ok(None),
            Some((Step::Field(name), _)) => *name,
            Some(_) => "name",
        };
        seed.deserialize(StringDeserializer::new(name.to_owned())).map(Some)
    }

    fn next_value_seed<S: de::DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Answer> {
        match self.0.take() {
            Some((_, probe)) => seed.deserialize(probe),
            None => Err(Answer::Other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{KINDS, Kind, Object};

    fn field(kind: Kind, path: &str) -> Value {
        let schema = Object::schema(kind);
        path.split('.').fold(schema, |schema, name| match name {
            "[]" => schema["items"].clone(),
            "*" => schema["additionalProperties"].clone(),
            name => schema["properties"][name].clone(),
        })
    }

    #[test]
    fn fields_have_the_types_that_are_read() {
        for (kind, path, expected) in [
            (Kind::Routes, "id", json!({"type": ["integer", "string"]})),
            (Kind::Routes, "uris", json!({"type": "array", "items": {"type": "string"}})),
            (Kind::Routes, "enable_websocket", json!({"type": "boolean"})),
            (Kind::Routes, "create_time", json!({"type": "integer"})),
            (Kind::Upstreams, "retries", json!({"type": "integer", "minimum": 0, "maximum": u32::MAX})),
            (
                Kind::Upstreams,
                "lines.[].priority",
                json!({"type": "integer", "minimum": i32::MIN, "maximum": i32::MAX}),
            ),
            (Kind::Modules, "grants.kv", json!({"type": "array", "items": {"type": "string"}})),
            (Kind::Modules, "limits.deadline", json!({"type": ["number", "string"]})),
            (Kind::Modules, "on_failure", json!({"type": "string", "enum": ["open", "closed"]})),
            (Kind::Modules, "config", json!({"type": "object", "additionalProperties": {}})),
            (Kind::TrustKeys, "revoked", json!({"type": "boolean"})),
            (
                Kind::FrameFormats,
                "header.[].bytes",
                json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
            ),
        ] {
            assert_eq!(field(kind, path), expected, "{kind} {path}");
        }
    }

    /// Whether a field is known and refused, whatever stands in it.
    fn is_refused(kind: Kind, field: &str) -> bool {
        let id = crate::config::Id::new("a").unwrap();
        let found = Object::parse(kind, &id, &json!({ field: "x" }));
        found.is_err_and(|error| error.problems.iter().any(|problem| problem.field == field))
    }

    #[test]
    fn every_field_of_every_kind_has_a_type() {
        for kind in KINDS {
            let schema = Object::schema(kind);
            let fields = schema["properties"].as_object();
            let bare: Vec<&String> = fields
                .into_iter()
                .flatten()
                .filter(|(name, schema)| schema.get("type").is_none() && !is_refused(kind, name))
                .map(|(name, _)| name)
                .collect();
            assert!(bare.is_empty(), "{kind}: {bare:?}");
        }
    }
}
