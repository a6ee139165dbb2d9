//! Messages with a JSON form of their own.

use super::gather::merge;
use super::{Keys, ToJson};
use crate::fault::{Checked, fault, irregular, quoted, shown};
use crate::schema::{Known, MessageType};
use crate::time::{put_duration, put_timestamp};
use crate::wire::{FIXED64, LENGTH, Raw, Reader, VARINT};

impl<'s> ToJson<'s, '_> {
    pub(super) fn known(&mut self, message: &'s MessageType, bytes: &[u8], depth: usize) -> Checked {
        if depth == 0 {
            return fault(format_args!("nested deeper than {}", self.options.depth_max));
        }
        match message.known {
            Known::Timestamp => {
                let (seconds, nanos) = self.seconds_and_nanos(bytes)?;
                put_timestamp(self.out, seconds, nanos)
            }
            Known::Duration => {
                let (seconds, nanos) = self.seconds_and_nanos(bytes)?;
                put_duration(self.out, seconds, nanos)
            }
            Known::FieldMask => self.field_mask(bytes),
            Known::Wrapper => self.wrapper(message, bytes),
            Known::Any => self.any(bytes, depth),
            Known::Value => self.any_value(message, bytes, depth),
            // Their one field is the map or list that stands for the whole.
            Known::Struct | Known::ListValue => self.only_field(message, bytes, depth),
            Known::No => fault(format_args!("{} has no form of its own", message.name)),
        }
    }

    /// Fields 1 and 2 of timestamps and durations.
    fn seconds_and_nanos(&mut self, bytes: &[u8]) -> Checked<(i64, i32)> {
        let (mut seconds, mut nanos) = (0, 0);
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let (number, wire) = reader.tag()?;
            let raw = reader.value(number, wire)?;
            match (number, wire) {
                (1, VARINT) => seconds = raw.number as i64,
                (2, VARINT) => nanos = raw.number as i32,
                _ => self.unknown(number)?,
            }
        }
        Ok((seconds, nanos))
    }

    fn wrapper(&mut self, message: &'s MessageType, bytes: &[u8]) -> Checked {
        let field = &message.fields[0];
        let mut value = Raw::default();
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let (number, wire) = reader.tag()?;
            let raw = reader.value(number, wire)?;
            if number == 1 && wire == field.wire {
                value = raw;
            } else {
                self.unknown(number)?;
            }
        }
        self.value(field.kind, value, 1)
    }

    /// `a.b,c.dE`: names as they are written in JSON.
    fn field_mask(&mut self, bytes: &[u8]) -> Checked {
        let mut mask = Vec::new();
        let mut count = 0;
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let (number, wire) = reader.tag()?;
            let raw = reader.value(number, wire)?;
            if (number, wire) != (1, LENGTH) {
                self.unknown(number)?;
                continue;
            }
            if count > 0 {
                mask.push(b',');
            }
            count += 1;
            put_mask_path(&mut mask, raw.bytes)?;
        }
        self.string(&mask)
    }

    fn only_field(&mut self, message: &'s MessageType, bytes: &[u8], depth: usize) -> Checked {
        let field = &message.fields[0];
        let is_list = message.known == Known::ListValue;
        self.out.push(if is_list { b'[' } else { b'{' });
        let mut count = 0;
        let mut keys = Keys::new();
        let mut reader = Reader::new(bytes);
        let mut entries = Vec::new();
        while !reader.is_empty() {
            let (number, wire) = reader.tag()?;
            let raw = reader.value(number, wire)?;
            if number != field.number || wire != LENGTH {
                self.unknown(number)?;
            } else if is_list {
                self.element(field, raw, depth, &mut count)?;
            } else if self.is_careful {
                entries.push(raw);
            } else {
                self.struct_entry(field, raw, depth, &mut keys)?;
            }
        }
        if super::has_duplicates(&mut keys) {
            return irregular();
        }
        if !entries.is_empty() {
            self.out.pop();
            return self.careful_map(field, &entries, depth);
        }
        self.out.push(if is_list { b']' } else { b'}' });
        Ok(())
    }

    fn struct_entry<'a>(
        &mut self,
        field: &'s crate::schema::Field,
        raw: Raw<'a>,
        depth: usize,
        keys: &mut Keys<'a>,
    ) -> Checked {
        let crate::schema::Kind::Message(entry) = field.kind else {
            return fault("a map without entries");
        };
        let entry = self.schema.message(entry);
        if !keys.is_empty() {
            self.out.push(b',');
        }
        let (key, value) = self.entry(entry, raw.bytes)?;
        keys.push((0, key.bytes));
        self.map_entry(entry, key, value, depth)
    }

    /// `google.protobuf.Value`: any JSON.
    fn any_value(&mut self, message: &'s MessageType, bytes: &[u8], depth: usize) -> Checked {
        let mut last: Option<u32> = None;
        let mut values: smallvec::SmallVec<[Raw<'_>; 1]> = smallvec::SmallVec::new();
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let (number, wire) = reader.tag()?;
            let raw = reader.value(number, wire)?;
            let is_value = matches!((number, wire), (1 | 4, VARINT) | (2, FIXED64) | (3 | 5 | 6, LENGTH));
            if !is_value {
                self.unknown(number)?;
                continue;
            }
            if last != Some(number) {
                values.clear();
            }
            last = Some(number);
            values.push(raw);
        }
        let Some(field) = last.and_then(|number| message.fields.iter().find(|field| field.number == number))
        else {
            self.out.extend_from_slice(b"null");
            return Ok(());
        };
        let merged = merge(field.kind, values.into_iter());
        let raw = merged.raw();
        if field.number == 2 && !f64::from_bits(raw.number).is_finite() {
            return fault(format_args!(
                "{} has no form in a google.protobuf.Value",
                f64::from_bits(raw.number)
            ));
        }
        self.value(field.kind, raw, depth)
    }

    fn any(&mut self, bytes: &[u8], depth: usize) -> Checked {
        let (mut url, mut value): (&[u8], &[u8]) = (&[], &[]);
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let (number, wire) = reader.tag()?;
            let raw = reader.value(number, wire)?;
            match (number, wire) {
                (1, LENGTH) => url = raw.bytes,
                (2, LENGTH) => value = raw.bytes,
                _ => self.unknown(number)?,
            }
        }
        if url.is_empty() && value.is_empty() {
            self.out.extend_from_slice(b"{}");
            return Ok(());
        }
        let Some(id) = std::str::from_utf8(url).ok().and_then(|url| self.schema.by_url(url)) else {
            let url = shown(&String::from_utf8_lossy(url));
            return fault(format_args!("the type {url:?} of an Any is not in the definitions"));
        };
        let start = self.out.len() + 1;
        self.out.extend_from_slice(b"{\"@type\":");
        self.string(url)?;
        let message = self.schema.message(id);
        if message.known == Known::No {
            self.fields(message, value, depth - 1, start)?;
        } else {
            self.out.extend_from_slice(b",\"value\":");
            self.message(id, value, depth - 1).map_err(|fault| fault.in_field("value"))?;
        }
        self.out.push(b'}');
        Ok(())
    }
}

/// A path in camel case. One that would not come back as it was is refused.
fn put_mask_path(mask: &mut Vec<u8>, path: &[u8]) -> Checked {
    let mut is_upper = false;
    for byte in path {
        match byte {
            b'_' if !is_upper => is_upper = true,
            b'a'..=b'z' if is_upper => {
                mask.push(byte.to_ascii_uppercase());
                is_upper = false;
            }
            b'A'..=b'Z' | b',' => return bad_mask_path(path),
            byte if !is_upper => mask.push(*byte),
            _ => return bad_mask_path(path),
        }
    }
    if is_upper { bad_mask_path(path) } else { Ok(()) }
}

#[cold]
fn bad_mask_path(path: &[u8]) -> Checked {
    fault(format_args!("{} is no path of a field mask", quoted(path)))
}
