//! Objects of JSON as messages.

use smallvec::SmallVec;

use super::json::Text;
use super::value::text_value;
use super::{Seen, ToWire, in_field};
use crate::fault::{Checked, FaultKind, fault, quoted};
use crate::schema::{Field, Kind, Known, MessageId, MessageType, Shape};
use crate::settings::Unknown;
use crate::wire::{close, open};

impl<'s, 'j> ToWire<'s, 'j, '_> {
    /// A message's content, without length. `depth` is how many levels may
    /// still come.
    pub(super) fn message(&mut self, id: MessageId, depth: usize) -> Checked {
        let message = self.schema.message(id);
        if message.known == Known::No {
            let mut seen = Seen::new(message);
            self.object(message, depth, &mut seen, false)
        } else if depth == 0 {
            self.too_deep()
        } else {
            self.known(message, depth)
        }
    }

    /// The same where fields have been set before.
    pub(super) fn message_with(&mut self, id: MessageId, depth: usize, seen: &mut Seen) -> Checked {
        let message = self.schema.message(id);
        if message.known == Known::No {
            self.object(message, depth, seen, false)
        } else {
            self.message(id, depth)
        }
    }

    /// An object whose names are fields. In an `Any` the name `@type` was read
    /// before.
    pub(super) fn object(
        &mut self,
        message: &'s MessageType,
        depth: usize,
        seen: &mut Seen,
        is_any: bool,
    ) -> Checked {
        if depth == 0 {
            return self.too_deep();
        }
        if self.begin(b'{', b'}', "an object")? {
            return Ok(());
        }
        let mut guess = 0;
        loop {
            let key = self.key()?;
            let name = match key {
                Text::Plain(name) => name,
                Text::Escaped => &self.scratch,
            };
            match message.find(name, guess) {
                Some(index) => {
                    guess = index + 1;
                    self.field(message, index, depth, seen)
                        .map_err(|fault| named(fault, message, index, key))?;
                }
                None if is_any && name == b"@type" => self.skip(depth)?,
                None => self.unknown_field(message, key, depth)?,
            }
            if !self.another(b'}')? {
                return Ok(());
            }
        }
    }

    #[cold]
    fn unknown_field(&mut self, message: &MessageType, key: Text<'j>, depth: usize) -> Checked {
        if self.options.unknown == Unknown::Ignore {
            return self.skip(depth);
        }
        let name = self.bytes(key);
        let unknown = fault(format_args!("no field of {}", message.name));
        unknown.map_err(|fault| in_field(fault, name))
    }

    /// A field's value, with its tag.
    #[inline]
    fn field(&mut self, message: &'s MessageType, index: usize, depth: usize, seen: &mut Seen) -> Checked {
        let field = &message.fields[index];
        if seen.mark(index) {
            return fault(seen.why(index));
        }
        if self.peek() == b'n' && !self.takes_null(field) {
            return self.word("null");
        }
        if seen.mark_oneof(field) {
            return fault("another field of the same oneof is set already");
        }
        let before = self.out.len();
        let done = match field.shape {
            Shape::Implicit | Shape::Explicit => self.singular(field, depth),
            Shape::Repeated => self.list(field, depth),
            Shape::Map => self.map(field, depth),
        };
        match done {
            // A name a newer client knows: as if the field were unknown.
            Err(fault) if self.is_ignorable(&fault.kind) => {
                self.out.truncate(before);
                Ok(())
            }
            done => done,
        }
    }

    fn is_ignorable(&self, kind: &FaultKind) -> bool {
        self.options.unknown == Unknown::Ignore && matches!(kind, FaultKind::UnknownName(_))
    }

    /// Whether null is a value of the field, and not its absence.
    fn takes_null(&self, field: &Field) -> bool {
        if !matches!(field.shape, Shape::Implicit | Shape::Explicit) {
            return false;
        }
        self.is_null_value(field.kind) || self.is_value(field.kind)
    }

    fn is_value(&self, kind: Kind) -> bool {
        matches!(kind, Kind::Message(id) if self.schema.message(id).known == Known::Value)
    }

    #[inline]
    fn singular(&mut self, field: &'s Field, depth: usize) -> Checked {
        let before = self.out.len();
        field.tag.put(self.out);
        match field.kind {
            Kind::Message(id) => self.nested(id, depth),
            kind => {
                let is_default = self.scalar(kind)?;
                if is_default && field.shape == Shape::Implicit {
                    self.out.truncate(before);
                }
                Ok(())
            }
        }
    }

    /// A message with its length.
    #[inline]
    pub(super) fn nested(&mut self, id: MessageId, depth: usize) -> Checked {
        let start = open(self.out);
        self.message(id, depth - 1)?;
        close(self.out, start);
        Ok(())
    }

    pub(super) fn list(&mut self, field: &'s Field, depth: usize) -> Checked {
        if self.begin(b'[', b']', "a list")? {
            return Ok(());
        }
        let packed = if field.is_packed {
            field.packed_tag.put(self.out);
            Some(open(self.out))
        } else {
            None
        };
        let mut index = 0;
        loop {
            self.element(field, depth).or_else(|fault| {
                // An unknown name takes no place in the list; its text is read.
                if self.is_ignorable(&fault.kind) { Ok(()) } else { Err(fault.at_index(index)) }
            })?;
            index += 1;
            if !self.another(b']')? {
                break;
            }
        }
        if let Some(start) = packed {
            close(self.out, start);
        }
        Ok(())
    }

    #[inline]
    fn element(&mut self, field: &'s Field, depth: usize) -> Checked {
        if self.peek() == b'n' && !self.is_null_value(field.kind) && !self.is_value(field.kind) {
            return fault("null in a list");
        }
        let before = self.out.len();
        if !field.is_packed {
            field.tag.put(self.out);
        }
        match field.kind {
            Kind::Message(id) => self.nested(id, depth),
            kind => match self.scalar(kind) {
                Ok(_) => Ok(()),
                Err(fault) => {
                    self.out.truncate(before);
                    Err(fault)
                }
            },
        }
    }

    pub(super) fn map(&mut self, field: &'s Field, depth: usize) -> Checked {
        let Kind::Message(entry) = field.kind else {
            return fault("a map without entries");
        };
        let entry = self.schema.message(entry);
        let (key_field, value_field) = entry.entry();
        if self.begin(b'{', b'}', "an object")? {
            return Ok(());
        }
        // Where the keys are in `out`.
        let mut keys: SmallVec<[(usize, usize); 8]> = SmallVec::new();
        loop {
            let before = self.out.len();
            let key = self.key()?;
            field.tag.put(self.out);
            let start = open(self.out);
            key_field.tag.put(self.out);
            let key_start = self.out.len();
            let done = match key {
                Text::Plain(text) => text_value(self.schema, key_field.kind, text, self.out),
                Text::Escaped => text_value(self.schema, key_field.kind, &self.scratch, self.out),
            };
            done.map_err(|fault| fault.at_key(&String::from_utf8_lossy(self.bytes(key))))?;
            let key_end = self.out.len();
            match self.map_value(value_field, depth) {
                Ok(()) => {
                    let unmoved = self.out.len();
                    close(self.out, start);
                    let moved = self.out.len() - unmoved;
                    keys.push((key_start + moved, key_end + moved));
                }
                Err(fault) if self.is_ignorable(&fault.kind) => self.out.truncate(before),
                Err(fault) => {
                    let key = printable(key_field.kind, &self.out[key_start..key_end]);
                    return Err(fault.at_key(&key));
                }
            }
            if !self.another(b'}')? {
                break;
            }
        }
        match duplicate(self.out, &mut keys) {
            Some((start, end)) => {
                let key = printable(key_field.kind, &self.out[start..end]);
                fault("is set twice").map_err(|fault| fault.at_key(&key))
            }
            None => Ok(()),
        }
    }

    fn map_value(&mut self, field: &'s Field, depth: usize) -> Checked {
        if self.peek() == b'n' && !self.is_null_value(field.kind) && !self.is_value(field.kind) {
            return fault("null in a map");
        }
        field.tag.put(self.out);
        match field.kind {
            Kind::Message(id) => self.nested(id, depth),
            kind => self.scalar(kind).map(|_| ()),
        }
    }
}

/// Adds the field's step: its name as the client wrote it.
#[cold]
fn named(
    fault: Box<crate::fault::Fault>,
    message: &MessageType,
    index: usize,
    key: Text<'_>,
) -> Box<crate::fault::Fault> {
    match key {
        Text::Plain(name) => in_field(fault, name),
        Text::Escaped => fault.in_field(&message.fields[index].json_name),
    }
}

/// A key as it was in the text, from its bytes on the wire.
#[cold]
fn printable(kind: Kind, wire: &[u8]) -> String {
    let mut reader = crate::wire::Reader::new(wire);
    let Ok(raw) = reader.value(1, kind.wire()) else {
        return quoted(wire);
    };
    match kind {
        Kind::String => String::from_utf8_lossy(raw.bytes).into_owned(),
        Kind::Bool => (raw.number != 0).to_string(),
        Kind::Sint32 | Kind::Sint64 => crate::wire::unzigzag(raw.number).to_string(),
        Kind::Sfixed32 => (raw.number as i32).to_string(),
        Kind::Int32 | Kind::Int64 | Kind::Sfixed64 => (raw.number as i64).to_string(),
        _ => raw.number.to_string(),
    }
}

/// A key that stands in `out` twice. Few are compared with each other, many are
/// sorted, so that the time is bounded.
fn duplicate(out: &[u8], keys: &mut [(usize, usize)]) -> Option<(usize, usize)> {
    let bytes = |key: &(usize, usize)| &out[key.0..key.1];
    if keys.len() <= 8 {
        return keys
            .iter()
            .enumerate()
            .find_map(|(at, key)| keys[..at].iter().any(|other| bytes(other) == bytes(key)).then_some(*key));
    }
    keys.sort_unstable_by(|one, other| bytes(one).cmp(bytes(other)));
    keys.windows(2).find(|pair| bytes(&pair[0]) == bytes(&pair[1])).map(|pair| pair[0])
}
