//! Makes the tables from checked definitions.

use std::collections::BTreeMap;

use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, MessageDescriptor, Syntax};

use super::{
    EnumType, FAST_FIELDS_MAX, FAST_ONEOFS_MAX, Field, Kind, Known, MessageType, Schema, Shape, Tag,
};
use crate::settings::FieldNames;
use crate::wire;

/// Field and enum numbers below this are found by index.
const DENSE_MAX: u32 = 1024;

/// Makes tables of all messages in `pool`. Fails on what has no JSON form; the
/// error names the field.
pub(crate) fn build(pool: &DescriptorPool, names: FieldNames) -> Result<Schema, String> {
    let mut message_ids = BTreeMap::new();
    for message in pool.all_messages() {
        message_ids.insert(message.full_name().to_owned(), message_ids.len() as u32);
    }
    let mut enum_ids = BTreeMap::new();
    for enumeration in pool.all_enums() {
        enum_ids.insert(enumeration.full_name().to_owned(), enum_ids.len() as u32);
    }
    let builder = Builder { names, message_ids, enum_ids };
    let messages =
        pool.all_messages().map(|message| builder.message(&message)).collect::<Result<Vec<_>, _>>()?;
    Ok(Schema {
        messages,
        enums: pool.all_enums().map(|enumeration| enum_type(&enumeration)).collect(),
        by_name: builder.message_ids.into_iter().map(|(name, id)| (name.into(), id)).collect(),
    })
}

struct Builder {
    names: FieldNames,
    message_ids: BTreeMap<String, u32>,
    enum_ids: BTreeMap<String, u32>,
}

impl Builder {
    fn message(&self, message: &MessageDescriptor) -> Result<MessageType, String> {
        let oneofs: Vec<String> = message
            .oneofs()
            .filter(|oneof| !oneof.is_synthetic())
            .map(|oneof| oneof.name().to_owned())
            .collect();
        let mut fields =
            message.fields().map(|field| self.field(&field, &oneofs)).collect::<Result<Vec<_>, _>>()?;
        fields.sort_by_key(|field| field.number);
        if fields.len() >= usize::from(u16::MAX) {
            return Err(format!("{}: {} fields are too many", message.full_name(), fields.len()));
        }
        Ok(MessageType {
            name: message.full_name().into(),
            known: known(message.full_name()),
            dense: dense(&fields),
            names: names(message.full_name(), &fields)?,
            oneofs: oneofs.len(),
            is_wide: fields.len() > FAST_FIELDS_MAX || oneofs.len() > FAST_ONEOFS_MAX,
            fields,
        })
    }

    fn field(&self, field: &FieldDescriptor, oneofs: &[String]) -> Result<Field, String> {
        if field.is_group() {
            return Err(format!("{}: groups have no JSON form", field.full_name()));
        }
        let kind = self.kind(field)?;
        let shape = if field.is_map() {
            Shape::Map
        } else if field.is_list() {
            Shape::Repeated
        } else if field.supports_presence() {
            Shape::Explicit
        } else {
            Shape::Implicit
        };
        let oneof = field
            .containing_oneof()
            .and_then(|oneof| oneofs.iter().position(|name| name == oneof.name()))
            .map_or(0, |at| at + 1);
        let shown = match self.names {
            FieldNames::Json => field.json_name(),
            FieldNames::Original => field.name(),
        };
        let mut key = Vec::new();
        crate::text::put_string(&mut key, shown.as_bytes());
        key.push(b':');
        Ok(Field {
            number: field.number(),
            name: field.name().into(),
            json_name: field.json_name().into(),
            key: key.into(),
            kind,
            shape,
            is_packed: field.is_packed() && kind.is_packable(),
            wire: kind.wire(),
            tag: Tag::new(field.number(), kind.wire()),
            packed_tag: Tag::new(field.number(), wire::LENGTH),
            oneof: oneof as u16,
        })
    }

    fn kind(&self, field: &FieldDescriptor) -> Result<Kind, String> {
        use prost_reflect::Kind as Reflected;
        let missing = |name: &str| format!("{}: type {name} is not defined", field.full_name());
        Ok(match field.kind() {
            Reflected::Double => Kind::Double,
            Reflected::Float => Kind::Float,
            Reflected::Int32 => Kind::Int32,
            Reflected::Int64 => Kind::Int64,
            Reflected::Uint32 => Kind::Uint32,
            Reflected::Uint64 => Kind::Uint64,
            Reflected::Sint32 => Kind::Sint32,
            Reflected::Sint64 => Kind::Sint64,
            Reflected::Fixed32 => Kind::Fixed32,
            Reflected::Fixed64 => Kind::Fixed64,
            Reflected::Sfixed32 => Kind::Sfixed32,
            Reflected::Sfixed64 => Kind::Sfixed64,
            Reflected::Bool => Kind::Bool,
            Reflected::String => Kind::String,
            Reflected::Bytes => Kind::Bytes,
            Reflected::Enum(enumeration) => {
                let name = enumeration.full_name();
                Kind::Enum(self.enum_ids.get(name).copied().ok_or_else(|| missing(name))?)
            }
            Reflected::Message(message) => {
                let name = message.full_name();
                Kind::Message(self.message_ids.get(name).copied().ok_or_else(|| missing(name))?)
            }
        })
    }
}

fn dense(fields: &[Field]) -> Box<[u16]> {
    let last = fields.iter().map(|field| field.number).filter(|number| *number < DENSE_MAX).max();
    let mut dense = vec![0; last.map_or(0, |last| last as usize + 1)];
    for (index, field) in fields.iter().enumerate() {
        if let Some(place) = dense.get_mut(field.number as usize) {
            *place = index as u16 + 1;
        }
    }
    dense.into()
}

/// Both names of every field. A name that could mean two fields is refused.
fn names(message: &str, fields: &[Field]) -> Result<BTreeMap<Box<[u8]>, u16>, String> {
    let mut names: BTreeMap<Box<[u8]>, u16> = BTreeMap::new();
    for (index, field) in fields.iter().enumerate() {
        for name in [&field.json_name, &field.name] {
            match names.insert(name.as_bytes().into(), index as u16) {
                Some(other) if usize::from(other) != index => {
                    return Err(format!("{message}: {name:?} is the name of two fields in JSON"));
                }
                _ => {}
            }
        }
    }
    Ok(names)
}

fn known(name: &str) -> Known {
    match name.strip_prefix("google.protobuf.") {
        Some("Timestamp") => Known::Timestamp,
        Some("Duration") => Known::Duration,
        Some("FieldMask") => Known::FieldMask,
        Some("Struct") => Known::Struct,
        Some("Value") => Known::Value,
        Some("ListValue") => Known::ListValue,
        Some("Any") => Known::Any,
        Some(
            "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value" | "UInt32Value"
            | "BoolValue" | "StringValue" | "BytesValue",
        ) => Known::Wrapper,
        _ => Known::No,
    }
}

fn enum_type(enumeration: &EnumDescriptor) -> EnumType {
    let mut dense = Vec::new();
    let mut sparse: BTreeMap<i32, Box<str>> = BTreeMap::new();
    let mut numbers = BTreeMap::new();
    for value in enumeration.values() {
        numbers.insert(value.name().as_bytes().into(), value.number());
        match u32::try_from(value.number()) {
            Ok(number) if number < DENSE_MAX => {
                let at = number as usize;
                if dense.len() <= at {
                    dense.resize(at + 1, None);
                }
                // Of aliases the first is written.
                dense[at].get_or_insert_with(|| value.name().into());
            }
            _ => {
                sparse.entry(value.number()).or_insert_with(|| value.name().into());
            }
        }
    }
    EnumType {
        name: enumeration.full_name().into(),
        is_null: enumeration.full_name() == "google.protobuf.NullValue",
        is_open: enumeration.parent_file().syntax() == Syntax::Proto3,
        dense,
        sparse,
        numbers,
    }
}
