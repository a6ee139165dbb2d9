//! JSON text to protobuf bytes in one pass.
//!
//! The bytes of a field are written as soon as its value has been read. Only
//! the length of a message within a message comes late: a byte is left for it,
//! and a longer one moves what follows.
//!
//! The text is checked to be UTF-8 before it is read, so that every string of
//! it is.

mod fields;
mod json;
mod known;
mod number;
mod value;

use smallvec::SmallVec;

use crate::fault::{Checked, Fault, Problem, fault};
use crate::schema::{Field, MessageId, MessageType, Schema};
use crate::settings::Unknown;

pub(crate) use known::known_text;
pub(crate) use value::text_value;

/// How JSON is read, and the limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WireOptions {
    pub(crate) unknown: Unknown,
    pub(crate) depth_max: usize,
}

/// Reads one JSON text and writes what it says to `out`.
pub(crate) struct ToWire<'s, 'j, 'o> {
    pub(crate) schema: &'s Schema,
    pub(crate) options: &'s WireOptions,
    pub(crate) input: &'j [u8],
    pub(crate) at: usize,
    pub(crate) out: &'o mut Vec<u8>,
    /// Strings that had to be unescaped before they could be understood.
    pub(crate) scratch: Vec<u8>,
}

/// Which fields of one message have been set, and by whom.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    fields: SmallVec<[u64; 2]>,
    oneofs: SmallVec<[u64; 1]>,
    /// What was set from outside the text, and from where.
    outside: SmallVec<[(usize, &'static str); 2]>,
}

impl Seen {
    #[inline]
    pub(crate) fn new(message: &MessageType) -> Self {
        let mut seen = Self::default();
        if message.is_wide {
            seen.fields.resize(message.fields.len().div_ceil(64), 0);
            seen.oneofs.resize(message.oneofs.div_ceil(64), 0);
        } else {
            seen.fields.extend_from_slice(&[0, 0]);
            seen.oneofs.push(0);
        }
        seen
    }

    /// Marks a field; says whether it was marked before.
    #[inline]
    pub(crate) fn mark(&mut self, index: usize) -> bool {
        set(&mut self.fields, index)
    }

    /// Marks a field that is set from outside the text; `why` is what a client
    /// is told that sets it again.
    pub(crate) fn mark_outside(&mut self, index: usize, why: &'static str) -> bool {
        self.outside.push((index, why));
        self.mark(index)
    }

    /// Why a field cannot be set again.
    #[cold]
    fn why(&self, index: usize) -> &'static str {
        self.outside.iter().find(|(at, _)| *at == index).map_or("is set twice", |(_, why)| why)
    }

    /// Marks the oneof of a field; says whether another member is set already.
    #[inline]
    pub(crate) fn mark_oneof(&mut self, field: &Field) -> bool {
        match usize::from(field.oneof).checked_sub(1) {
            Some(oneof) => set(&mut self.oneofs, oneof),
            None => false,
        }
    }
}

#[inline]
fn set(words: &mut [u64], at: usize) -> bool {
    let bit = 1 << (at % 64);
    match words.get_mut(at / 64) {
        Some(word) => {
            let was_set = *word & bit != 0;
            *word |= bit;
            was_set
        }
        None => false,
    }
}

/// Bytes at the front that are not UTF-8 end the reading before it begins.
pub(crate) fn check_utf8(input: &[u8]) -> Result<(), Problem> {
    if simdutf8::basic::from_utf8(input).is_ok() {
        return Ok(());
    }
    let at = std::str::from_utf8(input).map_or_else(|error| error.valid_up_to(), str::len);
    Err(Problem::new(400, "", format!("the JSON is not UTF-8 at byte {at}")))
}

/// Appends the bytes of a message of type `id`, read from a whole text. Fields
/// that are marked have been set already and may not stand in the text. On an
/// error `out` is as before.
pub(crate) fn to_wire_with(
    schema: &Schema,
    options: &WireOptions,
    id: MessageId,
    json: &[u8],
    out: &mut Vec<u8>,
    seen: &mut Seen,
) -> Result<(), Problem> {
    check_utf8(json)?;
    let start = out.len();
    let mut reader = ToWire { schema, options, input: json, at: 0, out, scratch: Vec::new() };
    reader.whole(id, seen).map_err(|fault| {
        out.truncate(start);
        fault.into_problem(400)
    })
}

impl ToWire<'_, '_, '_> {
    fn whole(&mut self, id: MessageId, seen: &mut Seen) -> Checked {
        self.skip_space();
        self.message_with(id, self.options.depth_max, seen)?;
        self.end()
    }

    /// Nothing but space may follow.
    pub(crate) fn end(&mut self) -> Checked {
        self.skip_space();
        if self.at < self.input.len() { self.unexpected("the end") } else { Ok(()) }
    }

    /// What stands here is not what should.
    #[cold]
    pub(crate) fn unexpected<T>(&self, wanted: &str) -> Checked<T> {
        let rest = &self.input[self.at.min(self.input.len())..];
        let found = match std::str::from_utf8(&rest[..rest.len().min(4)]) {
            Ok(text) => text.chars().next(),
            Err(error) => {
                std::str::from_utf8(&rest[..error.valid_up_to()]).ok().and_then(|text| text.chars().next())
            }
        };
        match found {
            Some(found) => fault(format_args!("{found:?} at byte {} where {wanted} should be", self.at)),
            None => fault(format_args!("the text ends where {wanted} should be")),
        }
    }

    #[cold]
    pub(crate) fn too_deep<T>(&self) -> Checked<T> {
        fault(format_args!("nested deeper than {}", self.options.depth_max))
    }
}

/// Adds the step of a field by the name the client used for it.
#[cold]
fn in_field(fault: Box<Fault>, name: &[u8]) -> Box<Fault> {
    fault.in_field(&String::from_utf8_lossy(name))
}
