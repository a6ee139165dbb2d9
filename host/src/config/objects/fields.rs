//! The names of the fields a type is read from.

use std::fmt;

use serde::de::{self, DeserializeOwned, Visitor};
use serde::forward_to_deserialize_any;

/// The names of the fields `T` is read from, in the order they are declared;
/// none when `T` is not read from a map of known fields.
pub fn fields<T: DeserializeOwned>() -> &'static [&'static str] {
    match T::deserialize(Asked) {
        Err(Answer(names)) => names,
        Ok(_) => &[],
    }
}

/// A deserializer that has nothing to give and notes what it is asked for.
struct Asked;

/// What it was asked for.
#[derive(Debug)]
struct Answer(&'static [&'static str]);

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no value")
    }
}

impl std::error::Error for Answer {}

impl de::Error for Answer {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }
}

impl<'de> de::Deserializer<'de> for Asked {
    type Error = Answer;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Answer> {
        Err(Answer(&[]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Answer> {
        Err(Answer(fields))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{KINDS, Object};

    #[test]
    fn every_kind_tells_its_fields() {
        for kind in KINDS {
            let fields = Object::fields(kind);
            // What a plugin's metadata holds is the plugin's own.
            let is_open = kind == crate::config::Kind::PluginMetadata;
            assert!(is_open || fields.contains(&"id"), "{kind}: {fields:?}");
        }
        assert!(Object::fields(crate::config::Kind::Routes).contains(&"upstream_id"));
    }
}
