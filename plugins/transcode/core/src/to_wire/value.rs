//! One value from JSON.

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::ToWire;
use super::json::Text;
use super::number::{self, BadNumber};
use crate::fault::{Checked, fault, quoted, unknown_name};
use crate::schema::{Kind, Schema};
use crate::wire::{close, open, put_varint, zigzag};

/// Both alphabets are taken, with padding or without.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const PLAIN: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
const URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

impl<'j> ToWire<'_, 'j, '_> {
    /// A value that is no message, without its tag. Says whether it is zero or
    /// empty.
    #[inline]
    pub(super) fn scalar(&mut self, kind: Kind) -> Checked<bool> {
        match kind {
            Kind::String => self.string(),
            Kind::Bool => {
                let value = self.peek() == b't';
                match self.peek() {
                    b't' => self.word("true")?,
                    b'f' => self.word("false")?,
                    _ => return self.unexpected("true or false"),
                }
                self.out.push(u8::from(value));
                Ok(!value)
            }
            Kind::Bytes | Kind::Enum(_) if self.peek() == b'"' => self.read_text(kind, "a string"),
            Kind::Bytes => self.unexpected("a string of base64"),
            _ => match self.peek() {
                b'"' => self.read_text(kind, "a number"),
                b'-' | b'0'..=b'9' => {
                    let digits = self.number()?;
                    put_number(kind, digits, self.out).or_else(|bad| bad_number(digits, bad))
                }
                b'n' if self.is_null_value(kind) => {
                    self.word("null")?;
                    self.out.push(0);
                    Ok(true)
                }
                _ => self.unexpected(if matches!(kind, Kind::Enum(_)) {
                    "a name or a number"
                } else {
                    "a number"
                }),
            },
        }
    }

    /// Whether null is a value of this kind.
    pub(super) fn is_null_value(&self, kind: Kind) -> bool {
        matches!(kind, Kind::Enum(id) if self.schema.enumeration(id).is_null)
    }

    #[inline]
    fn string(&mut self) -> Checked<bool> {
        if self.peek() != b'"' {
            return self.unexpected("a string");
        }
        let rest = &self.input[self.at + 1..];
        let plain = crate::text::plain_length(rest);
        if rest.get(plain) == Some(&b'"') {
            self.at += plain + 2;
            put_varint(self.out, plain as u64);
            self.out.extend_from_slice(&rest[..plain]);
            return Ok(plain == 0);
        }
        // With escapes: straight to where it belongs.
        let start = open(self.out);
        self.at += 1 + crate::text::unescape(rest, self.out)?;
        let is_empty = self.out.len() == start;
        close(self.out, start);
        Ok(is_empty)
    }

    fn read_text(&mut self, kind: Kind, wanted: &str) -> Checked<bool> {
        match self.text(wanted)? {
            Text::Plain(text) => text_value(self.schema, kind, text, self.out),
            Text::Escaped => text_value(self.schema, kind, &self.scratch, self.out),
        }
    }
}

/// A value that stands in quotes, in a path or in a query, without its tag.
/// Says whether it is zero or empty.
pub(crate) fn text_value(schema: &Schema, kind: Kind, text: &[u8], out: &mut Vec<u8>) -> Checked<bool> {
    match kind {
        Kind::String => {
            put_varint(out, text.len() as u64);
            out.extend_from_slice(text);
            Ok(text.is_empty())
        }
        Kind::Bytes => put_base64(text, out),
        Kind::Bool => {
            let value = match text {
                b"true" => true,
                b"false" => false,
                _ => return fault(format_args!("{} is not true or false", quoted(text))),
            };
            out.push(u8::from(value));
            Ok(!value)
        }
        Kind::Enum(id) => {
            let enumeration = schema.enumeration(id);
            match enumeration.numbers.get(text) {
                Some(number) => {
                    put_varint(out, i64::from(*number) as u64);
                    Ok(*number == 0)
                }
                None if number::is_number(text) => put_enum(schema, kind, text, out),
                None => unknown_name(format!("{} is no value of {}", quoted(text), enumeration.name)),
            }
        }
        Kind::Double | Kind::Float => {
            let value = match text {
                b"NaN" => f64::NAN,
                b"Infinity" => f64::INFINITY,
                b"-Infinity" => f64::NEG_INFINITY,
                _ if number::is_number(text) => {
                    return put_number(kind, text, out).or_else(|bad| bad_number(text, bad));
                }
                _ => return bad_number(text, BadNumber::NoNumber),
            };
            if kind == Kind::Double {
                out.extend_from_slice(&value.to_le_bytes());
            } else {
                out.extend_from_slice(&(value as f32).to_le_bytes());
            }
            Ok(false)
        }
        Kind::Message(_) => fault("a message cannot be written as a text"),
        _ => put_number(kind, text, out).or_else(|bad| bad_number(text, bad)),
    }
}

#[cold]
fn bad_number<T>(text: &[u8], bad: BadNumber) -> Checked<T> {
    fault(format_args!("{} {}", quoted(text), bad.text()))
}

fn put_enum(schema: &Schema, kind: Kind, digits: &[u8], out: &mut Vec<u8>) -> Checked<bool> {
    let Kind::Enum(id) = kind else {
        return fault("no enum");
    };
    let number = match number::signed(digits, i32::MIN.into(), i32::MAX.into()) {
        Ok(number) => number,
        Err(bad) => return bad_number(digits, bad),
    };
    let enumeration = schema.enumeration(id);
    if !enumeration.is_open && enumeration.name_of(number as i32).is_none() {
        return unknown_name(format!("{number} is no value of {}", enumeration.name));
    }
    put_varint(out, number as u64);
    Ok(number == 0)
}

/// A number of a kind that has one, from its digits.
#[inline]
fn put_number(kind: Kind, digits: &[u8], out: &mut Vec<u8>) -> Result<bool, BadNumber> {
    let (int, uint) = ((i64::from(i32::MIN), i64::from(i32::MAX)), u64::from(u32::MAX));
    let value = match kind {
        Kind::Uint32 => number::unsigned(digits, uint)?,
        Kind::Uint64 => number::unsigned(digits, u64::MAX)?,
        Kind::Int32 | Kind::Enum(_) => number::signed(digits, int.0, int.1)? as u64,
        Kind::Int64 => number::signed(digits, i64::MIN, i64::MAX)? as u64,
        Kind::Sint32 => zigzag(number::signed(digits, int.0, int.1)?),
        Kind::Sint64 => zigzag(number::signed(digits, i64::MIN, i64::MAX)?),
        Kind::Fixed32 => return Ok(put_fixed32(number::unsigned(digits, uint)? as u32, out)),
        Kind::Sfixed32 => return Ok(put_fixed32(number::signed(digits, int.0, int.1)? as u32, out)),
        Kind::Float => return Ok(put_fixed32(number::float(digits)?.to_bits(), out)),
        Kind::Fixed64 => return Ok(put_fixed64(number::unsigned(digits, u64::MAX)?, out)),
        Kind::Sfixed64 => return Ok(put_fixed64(number::signed(digits, i64::MIN, i64::MAX)? as u64, out)),
        Kind::Double => return Ok(put_fixed64(number::double(digits)?.to_bits(), out)),
        _ => return Err(BadNumber::NoNumber),
    };
    put_varint(out, value);
    Ok(value == 0)
}

fn put_fixed32(value: u32, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(&value.to_le_bytes());
    value == 0
}

fn put_fixed64(value: u64, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(&value.to_le_bytes());
    value == 0
}

/// Bytes with their length, from base64 of either alphabet.
fn put_base64(text: &[u8], out: &mut Vec<u8>) -> Checked<bool> {
    let engine = if text.iter().any(|byte| matches!(byte, b'-' | b'_')) { &URL } else { &PLAIN };
    let start = open(out);
    out.resize(start + base64::decoded_len_estimate(text.len()), 0);
    match engine.decode_slice(text, &mut out[start..]) {
        Ok(length) => {
            out.truncate(start + length);
            close(out, start);
            Ok(length == 0)
        }
        Err(_) => fault(format_args!("{} is not base64", quoted(text))),
    }
}
