//! One value as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::ToJson;
use crate::fault::{Checked, fault, quoted};
use crate::schema::Kind;
use crate::text::put_string;
use crate::wire::{Raw, unzigzag};

impl ToJson<'_, '_> {
    /// A value of any kind.
    #[inline]
    pub(super) fn value(&mut self, kind: Kind, raw: Raw<'_>, depth: usize) -> Checked {
        match kind {
            Kind::String => self.string(raw.bytes)?,
            Kind::Message(id) => self.message(id, raw.bytes, depth - 1)?,
            Kind::Uint32 | Kind::Fixed32 => self.integer(raw.number as u32),
            Kind::Uint64 | Kind::Fixed64 => self.quoted_integer(raw.number),
            Kind::Int64 | Kind::Sfixed64 => self.quoted_integer(raw.number as i64),
            Kind::Int32 | Kind::Sfixed32 => self.integer(raw.number as i32),
            Kind::Sint32 => self.integer(unzigzag(u64::from(raw.number as u32)) as i32),
            Kind::Sint64 => self.quoted_integer(unzigzag(raw.number)),
            Kind::Bool => self.out.extend_from_slice(if raw.number == 0 { b"false" } else { b"true" }),
            Kind::Enum(id) => {
                let enumeration = self.schema.enumeration(id);
                let number = raw.number as i32;
                match enumeration.name_of(number) {
                    _ if enumeration.is_null => self.out.extend_from_slice(b"null"),
                    Some(name) if !self.options.enum_numbers => {
                        self.out.push(b'"');
                        self.out.extend_from_slice(name.as_bytes());
                        self.out.push(b'"');
                    }
                    _ => self.integer(number),
                }
            }
            Kind::Double => self.double(f64::from_bits(raw.number)),
            Kind::Float => self.float(f32::from_bits(raw.number as u32)),
            Kind::Bytes => self.base64(raw.bytes),
        }
        Ok(())
    }

    #[inline]
    pub(super) fn string(&mut self, bytes: &[u8]) -> Checked {
        if simdutf8::basic::from_utf8(bytes).is_err() {
            return fault(format_args!("{} is not UTF-8", quoted(bytes)));
        }
        put_string(self.out, bytes);
        Ok(())
    }

    #[inline]
    fn integer(&mut self, value: impl itoa::Integer) {
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// A number of 64 bits is a string: JavaScript's numbers end at 53.
    #[inline]
    fn quoted_integer(&mut self, value: impl itoa::Integer) {
        self.out.push(b'"');
        self.integer(value);
        self.out.push(b'"');
    }

    pub(super) fn double(&mut self, value: f64) {
        if value.is_finite() {
            self.out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
        } else {
            self.not_finite(value);
        }
    }

    fn float(&mut self, value: f32) {
        if value.is_finite() {
            self.out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
        } else {
            self.not_finite(f64::from(value));
        }
    }

    fn not_finite(&mut self, value: f64) {
        let text: &[u8] = if value.is_nan() {
            b"\"NaN\""
        } else if value > 0.0 {
            b"\"Infinity\""
        } else {
            b"\"-Infinity\""
        };
        self.out.extend_from_slice(text);
    }

    fn base64(&mut self, bytes: &[u8]) {
        self.out.push(b'"');
        let start = self.out.len();
        self.out.resize(start + bytes.len().div_ceil(3) * 4, 0);
        let written = STANDARD.encode_slice(bytes, &mut self.out[start..]).unwrap_or(0);
        self.out.truncate(start + written);
        self.out.push(b'"');
    }

    /// A map's key: always a string in JSON.
    pub(super) fn map_key(&mut self, kind: Kind, raw: Raw<'_>) -> Checked {
        match kind {
            Kind::String | Kind::Uint64 | Kind::Fixed64 | Kind::Int64 | Kind::Sfixed64 | Kind::Sint64 => {
                self.value(kind, raw, 1)
            }
            _ => {
                self.out.push(b'"');
                self.value(kind, raw, 1)?;
                self.out.push(b'"');
                Ok(())
            }
        }
    }
}

/// A map's key so that equal keys are equal, however they stand on the wire.
pub(super) fn canonical(kind: Kind, raw: Raw<'_>) -> (u64, &[u8]) {
    let number = match kind {
        Kind::Bool => u64::from(raw.number != 0),
        Kind::Int32 | Kind::Uint32 | Kind::Sint32 => raw.number & u64::from(u32::MAX),
        _ => raw.number,
    };
    (number, raw.bytes)
}
