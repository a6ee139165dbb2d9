//! Protobuf bytes to JSON text in one pass.
//!
//! Fields are written as they come, by the tables of [`Schema`]. The wire may
//! hold fields in an order that JSON has no words for: a field twice, a list in
//! pieces, two members of a oneof, a map's key twice. Then what was written is
//! thrown away and the whole message gone through again with care, which first
//! gathers the fields of each message and sorts them: see [`gather`]. So the
//! cost is at most that of two passes, whatever the bytes are.

mod gather;
mod known;
mod value;

use smallvec::SmallVec;

use crate::fault::{Checked, FaultKind, Problem, fault, irregular};
use crate::schema::{Field, Kind, MessageId, MessageType, Schema, Shape};
use crate::settings::Unknown;
use crate::wire::{LENGTH, Raw, Reader};

/// How JSON is written, and the limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JsonOptions {
    pub(crate) emit_defaults: bool,
    pub(crate) enum_numbers: bool,
    pub(crate) unknown: Unknown,
    pub(crate) depth_max: usize,
    /// Bytes of JSON.
    pub(crate) output_max: usize,
}

/// Appends the JSON of a message of type `id`. On an error `out` is as before.
pub(crate) fn to_json(
    schema: &Schema,
    options: &JsonOptions,
    id: MessageId,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Problem> {
    let start = out.len();
    let output_end = start.saturating_add(options.output_max);
    let mut writer = ToJson { schema, options, out, output_end, is_careful: false };
    let mut done = writer.message(id, bytes, options.depth_max);
    if done.as_ref().is_err_and(|fault| matches!(fault.kind, FaultKind::Irregular)) {
        writer.out.truncate(start);
        writer.is_careful = true;
        done = writer.message(id, bytes, options.depth_max);
    }
    done.map_err(|fault| {
        out.truncate(start);
        fault.into_problem(502)
    })
}

struct ToJson<'s, 'o> {
    schema: &'s Schema,
    options: &'s JsonOptions,
    out: &'o mut Vec<u8>,
    /// What `out` may grow to.
    output_end: usize,
    is_careful: bool,
}

/// The keys of a map's entries so far: a number, or bytes.
type Keys<'a> = SmallVec<[(u64, &'a [u8]); 8]>;

impl<'s> ToJson<'s, '_> {
    /// A message's value. `depth` is how many levels may still come.
    fn message(&mut self, id: MessageId, bytes: &[u8], depth: usize) -> Checked {
        let message = self.schema.message(id);
        if !matches!(message.known, crate::schema::Known::No) {
            return self.known(message, bytes, depth);
        }
        self.out.push(b'{');
        let start = self.out.len();
        self.fields(message, bytes, depth, start)?;
        self.out.push(b'}');
        Ok(())
    }

    /// The fields of a message, without braces. `start` is where its object
    /// begins, so that it is known whether a comma is needed.
    fn fields(&mut self, message: &'s MessageType, bytes: &[u8], depth: usize, start: usize) -> Checked {
        if depth == 0 {
            return fault(format_args!("nested deeper than {}", self.options.depth_max));
        }
        if self.is_careful || message.is_wide {
            return self.gathered(message, bytes, depth, start);
        }
        let mut reader = Reader::new(bytes);
        let mut seen = 0_u128;
        let mut oneofs = 0_u64;
        while !reader.is_empty() {
            let (number, wire) = reader.tag()?;
            let Some(index) = message.index_of(number) else {
                reader.value(number, wire)?;
                self.unknown(number)?;
                continue;
            };
            let field = &message.fields[index];
            if seen & (1 << index) != 0 {
                return irregular();
            }
            if field.oneof != 0 {
                let bit = 1 << (field.oneof - 1);
                if oneofs & bit != 0 {
                    return irregular();
                }
                oneofs |= bit;
            }
            let is_written = match field.shape {
                Shape::Implicit | Shape::Explicit => {
                    let raw = reader.value(number, wire)?;
                    if wire != field.wire {
                        self.unknown(number)?;
                        oneofs &= !oneof_bit(field);
                        continue;
                    }
                    self.singular(field, raw, depth, start)
                }
                Shape::Repeated => self.list(field, wire, &mut reader, depth, start),
                Shape::Map => self.map(field, wire, &mut reader, depth, start),
            }
            .map_err(|fault| fault.in_field(self.shown(field)))?;
            seen |= u128::from(is_written) << index;
        }
        if self.options.emit_defaults {
            self.defaults(message, start, |index| seen & (1 << index) != 0)?;
        }
        Ok(())
    }

    /// The key of a field, after a comma where one is needed.
    #[inline]
    fn key(&mut self, field: &Field, start: usize) -> Checked {
        if self.out.len() > start {
            self.out.push(b',');
        }
        self.out.extend_from_slice(&field.key);
        if self.out.len() > self.output_end { self.too_long() } else { Ok(()) }
    }

    #[cold]
    fn too_long<T>(&self) -> Checked<T> {
        fault(format_args!("the JSON is longer than {} bytes", self.options.output_max))
    }

    /// A field that stands once; says whether it was written.
    #[inline]
    fn singular(&mut self, field: &'s Field, raw: Raw<'_>, depth: usize, start: usize) -> Checked<bool> {
        let is_default = field.shape == Shape::Implicit && raw.number == 0 && raw.bytes.is_empty();
        if is_default && !self.options.emit_defaults {
            return Ok(false);
        }
        self.key(field, start)?;
        self.value(field.kind, raw, depth)?;
        Ok(true)
    }

    /// A list whose values stand next to each other, packed or not. Says whether
    /// there was one.
    fn list(
        &mut self,
        field: &'s Field,
        mut wire: u8,
        reader: &mut Reader<'_>,
        depth: usize,
        start: usize,
    ) -> Checked<bool> {
        let before = self.out.len();
        self.key(field, start)?;
        self.out.push(b'[');
        let mut count = 0;
        loop {
            let raw = reader.value(field.number, wire)?;
            self.elements(field, wire, raw, depth, &mut count)?;
            match next_of(field, reader)? {
                Some(next) => wire = next,
                None => break,
            }
        }
        self.end_of_list(before, count)
    }

    fn end_of_list(&mut self, before: usize, count: usize) -> Checked<bool> {
        if count == 0 {
            self.out.truncate(before);
        } else {
            self.out.push(b']');
        }
        Ok(count > 0)
    }

    /// One piece of a list: a value, or many that are packed.
    fn elements(
        &mut self,
        field: &'s Field,
        wire: u8,
        raw: Raw<'_>,
        depth: usize,
        count: &mut usize,
    ) -> Checked {
        if wire == field.wire {
            self.element(field, raw, depth, count)
        } else if wire == LENGTH {
            let mut packed = Reader::new(raw.bytes);
            while !packed.is_empty() {
                let raw = packed.value(field.number, field.wire).map_err(|fault| fault.at_index(*count))?;
                self.element(field, raw, depth, count)?;
            }
            Ok(())
        } else {
            self.unknown(field.number)
        }
    }

    #[inline]
    fn element(&mut self, field: &'s Field, raw: Raw<'_>, depth: usize, count: &mut usize) -> Checked {
        if *count > 0 {
            self.out.push(b',');
        }
        self.value(field.kind, raw, depth).map_err(|fault| fault.at_index(*count))?;
        *count += 1;
        if self.out.len() > self.output_end { self.too_long() } else { Ok(()) }
    }

    /// A map whose entries stand next to each other. Says whether there were any.
    fn map(
        &mut self,
        field: &'s Field,
        mut wire: u8,
        reader: &mut Reader<'_>,
        depth: usize,
        start: usize,
    ) -> Checked<bool> {
        let Kind::Message(entry) = field.kind else {
            return fault("a map without entries");
        };
        let entry = self.schema.message(entry);
        let before = self.out.len();
        self.key(field, start)?;
        self.out.push(b'{');
        let mut keys = Keys::new();
        loop {
            let raw = reader.value(field.number, wire)?;
            if wire == LENGTH {
                if !keys.is_empty() {
                    self.out.push(b',');
                }
                let (key, value) = self.entry(entry, raw.bytes)?;
                keys.push(value::canonical(entry.fields[0].kind, key));
                self.map_entry(entry, key, value, depth)?;
            } else {
                self.unknown(field.number)?;
            }
            match next_of(field, reader)? {
                Some(next) => wire = next,
                None => break,
            }
        }
        if has_duplicates(&mut keys) {
            return irregular();
        }
        if keys.is_empty() {
            self.out.truncate(before);
        } else {
            self.out.push(b'}');
        }
        Ok(!keys.is_empty())
    }

    /// Key and value of an entry. Both may be missing, and then are zero.
    fn entry<'a>(&mut self, entry: &MessageType, bytes: &'a [u8]) -> Checked<(Raw<'a>, Raw<'a>)> {
        let (key_field, value_field) = entry.entry();
        let (mut key, mut value) = (Raw::default(), Raw::default());
        let mut has_value = false;
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let (number, wire) = reader.tag()?;
            let raw = reader.value(number, wire)?;
            match number {
                1 if wire == key_field.wire => key = raw,
                2 if wire == value_field.wire => {
                    if has_value && matches!(value_field.kind, Kind::Message(_)) {
                        return irregular();
                    }
                    has_value = true;
                    value = raw;
                }
                _ => self.unknown(number)?,
            }
        }
        Ok((key, value))
    }

    fn map_entry(&mut self, entry: &'s MessageType, key: Raw<'_>, value: Raw<'_>, depth: usize) -> Checked {
        let (key_field, value_field) = entry.entry();
        let key_start = self.out.len();
        self.map_key(key_field.kind, key)?;
        let key_end = self.out.len();
        self.out.push(b':');
        self.value(value_field.kind, value, depth).map_err(|fault| {
            let key = &self.out[key_start + 1..key_end - 1];
            fault.at_key(&String::from_utf8_lossy(key))
        })?;
        if self.out.len() > self.output_end { self.too_long() } else { Ok(()) }
    }

    /// What is not set is written as zero or empty, unless its absence says
    /// something.
    fn defaults(
        &mut self,
        message: &'s MessageType,
        start: usize,
        is_written: impl Fn(usize) -> bool,
    ) -> Checked {
        for (index, field) in message.fields.iter().enumerate() {
            if is_written(index) || field.shape == Shape::Explicit {
                continue;
            }
            self.key(field, start)?;
            match field.shape {
                Shape::Repeated => self.out.extend_from_slice(b"[]"),
                Shape::Map => self.out.extend_from_slice(b"{}"),
                _ => self.value(field.kind, Raw::default(), 1)?,
            }
        }
        Ok(())
    }

    /// A field the definitions do not have.
    #[inline]
    fn unknown(&self, number: u32) -> Checked {
        match self.options.unknown {
            Unknown::Ignore => Ok(()),
            Unknown::Reject => fault(format_args!("field {number} is not in the definitions")),
        }
    }

    /// A field's name as the JSON has it.
    fn shown<'f>(&self, field: &'f Field) -> &'f str {
        let name = &field.key[1..field.key.len() - 2];
        std::str::from_utf8(name).unwrap_or(&field.name)
    }
}

fn oneof_bit(field: &Field) -> u64 {
    if field.oneof == 0 { 0 } else { 1 << (field.oneof - 1) }
}

/// The wire type of the next field when it is of the same list or map.
#[inline]
fn next_of(field: &Field, reader: &mut Reader<'_>) -> Checked<Option<u8>> {
    if reader.is_empty() {
        return Ok(None);
    }
    let mut ahead = *reader;
    let (number, wire) = ahead.tag()?;
    if number != field.number {
        return Ok(None);
    }
    *reader = ahead;
    Ok(Some(wire))
}

/// Few keys are compared with each other, many are sorted: the time is bounded
/// whatever the keys are.
fn has_duplicates(keys: &mut Keys<'_>) -> bool {
    if keys.len() <= 8 {
        return keys.iter().enumerate().any(|(at, key)| keys[..at].contains(key));
    }
    keys.sort_unstable();
    keys.windows(2).any(|pair| pair[0] == pair[1])
}
