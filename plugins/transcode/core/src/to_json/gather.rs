//! The careful way through a message, for fields in any order.
//!
//! Fields are gathered, sorted by their place in the table, and written in that
//! order: of a field that stands often the last one counts, messages are merged
//! (the bytes of two messages one after the other are the merged message), lists
//! are joined, and the last member of a oneof takes the others' place.

use std::borrow::Cow;

use super::{Keys, ToJson, value::canonical};
use crate::fault::{Checked, fault};
use crate::schema::{Field, Kind, MessageType, Shape};
use crate::wire::{LENGTH, Raw, Reader};

/// One field as it stands on the wire.
struct Found<'a> {
    index: usize,
    wire: u8,
    raw: Raw<'a>,
}

impl<'s> ToJson<'s, '_> {
    pub(super) fn gathered(
        &mut self,
        message: &'s MessageType,
        bytes: &[u8],
        depth: usize,
        start: usize,
    ) -> Checked {
        let found = self.gather(message, bytes)?;
        let mut written = vec![false; if self.options.emit_defaults { message.fields.len() } else { 0 }];
        for group in found.chunk_by(|one, other| one.index == other.index) {
            let index = group[0].index;
            let field = &message.fields[index];
            let is_written = match field.shape {
                Shape::Implicit | Shape::Explicit => {
                    let merged = merge(field.kind, group.iter().map(|found| found.raw));
                    self.singular(field, merged.raw(), depth, start)
                }
                Shape::Repeated => self.gathered_list(field, group, depth, start),
                Shape::Map => self.gathered_map(field, group, depth, start),
            }
            .map_err(|fault| fault.in_field(self.shown(field)))?;
            if let Some(place) = written.get_mut(index) {
                *place = is_written;
            }
        }
        if self.options.emit_defaults {
            self.defaults(message, start, |index| written[index])?;
        }
        Ok(())
    }

    /// The fields that count, sorted by their place in the table and else in
    /// the order of the wire.
    fn gather<'a>(&self, message: &MessageType, bytes: &'a [u8]) -> Checked<Vec<Found<'a>>> {
        let mut found = Vec::new();
        // Of each oneof the member that was set last, and since which field.
        let mut members = vec![(usize::MAX, 0); message.oneofs];
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let (number, wire) = reader.tag()?;
            let raw = reader.value(number, wire)?;
            let field = message.index_of(number).map(|index| (index, &message.fields[index]));
            let Some((index, field)) = field.filter(|(_, field)| takes(field, wire)) else {
                self.unknown(number)?;
                continue;
            };
            if let Some(member) = usize::from(field.oneof).checked_sub(1).map(|oneof| &mut members[oneof])
                && member.0 != index
            {
                *member = (index, found.len());
            }
            found.push(Found { index, wire, raw });
        }
        let mut at = 0;
        found.retain(|found: &Found<'_>| {
            let oneof = usize::from(message.fields[found.index].oneof);
            let counts = oneof == 0 || (members[oneof - 1].0 == found.index && members[oneof - 1].1 <= at);
            at += 1;
            counts
        });
        found.sort_by_key(|found| found.index);
        Ok(found)
    }

    fn gathered_list(
        &mut self,
        field: &'s Field,
        group: &[Found<'_>],
        depth: usize,
        start: usize,
    ) -> Checked<bool> {
        let before = self.out.len();
        self.key(field, start)?;
        self.out.push(b'[');
        let mut count = 0;
        for found in group {
            self.elements(field, found.wire, found.raw, depth, &mut count)?;
        }
        self.end_of_list(before, count)
    }

    fn gathered_map(
        &mut self,
        field: &'s Field,
        group: &[Found<'_>],
        depth: usize,
        start: usize,
    ) -> Checked<bool> {
        self.key(field, start)?;
        let entries: Vec<Raw<'_>> = group.iter().map(|found| found.raw).collect();
        self.careful_map(field, &entries, depth)?;
        Ok(true)
    }

    /// The object of a map: of entries with the same key the last one.
    pub(super) fn careful_map(&mut self, field: &'s Field, entries: &[Raw<'_>], depth: usize) -> Checked {
        let Kind::Message(entry) = field.kind else {
            return fault("a map without entries");
        };
        let entry = self.schema.message(entry);
        let entries =
            entries.iter().map(|raw| self.merged_entry(entry, raw.bytes)).collect::<Checked<Vec<_>>>()?;
        let last =
            last_of_each(entries.iter().map(|(key, _)| canonical(entry.fields[0].kind, *key)).collect());
        self.out.push(b'{');
        for (count, at) in last.into_iter().enumerate() {
            if count > 0 {
                self.out.push(b',');
            }
            let (key, value) = &entries[at];
            self.map_entry(entry, *key, value.raw(), depth)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    /// Key and value of an entry whose value may stand in pieces.
    fn merged_entry<'a>(&self, entry: &MessageType, bytes: &'a [u8]) -> Checked<(Raw<'a>, Merged<'a>)> {
        let found = self.gather(entry, bytes)?;
        let key = found.iter().rfind(|found| found.index == 0).map_or_else(Raw::default, |found| found.raw);
        let values = found.iter().filter(|found| found.index == 1).map(|found| found.raw);
        Ok((key, merge(entry.fields[1].kind, values)))
    }
}

fn takes(field: &Field, wire: u8) -> bool {
    wire == field.wire || (field.shape == Shape::Repeated && wire == LENGTH)
}

/// A value, put together where it stood in pieces.
pub(super) struct Merged<'a> {
    number: u64,
    bytes: Cow<'a, [u8]>,
}

impl Merged<'_> {
    pub(super) fn raw(&self) -> Raw<'_> {
        Raw { number: self.number, bytes: &self.bytes }
    }
}

/// The last value, or all of them joined when they are messages.
pub(super) fn merge<'a>(kind: Kind, mut values: impl Iterator<Item = Raw<'a>>) -> Merged<'a> {
    let Some(first) = values.next() else {
        return Merged { number: 0, bytes: Cow::Borrowed(&[]) };
    };
    let mut merged = Merged { number: first.number, bytes: Cow::Borrowed(first.bytes) };
    for value in values {
        if matches!(kind, Kind::Message(_)) {
            merged.bytes.to_mut().extend_from_slice(value.bytes);
        } else {
            merged = Merged { number: value.number, bytes: Cow::Borrowed(value.bytes) };
        }
    }
    merged
}

/// The places of the last of equal keys, in order.
fn last_of_each(keys: Keys<'_>) -> Vec<usize> {
    let mut sorted: Vec<_> = keys.into_iter().enumerate().map(|(at, key)| (key, at)).collect();
    sorted.sort_unstable();
    let mut last: Vec<usize> = sorted
        .chunk_by(|one, other| one.0 == other.0)
        .filter_map(|group| group.last())
        .map(|(_, at)| *at)
        .collect();
    last.sort_unstable();
    last
}
