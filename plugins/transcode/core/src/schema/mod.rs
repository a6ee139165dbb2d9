//! Message types as tables: what one pass over a message needs, and no more.
//!
//! The tables are made from checked definitions when a configuration is taken
//! and never change. Types name each other by index.

mod build;

use std::collections::BTreeMap;

pub(crate) use build::build;

pub(crate) type MessageId = u32;
pub(crate) type EnumId = u32;

/// Fields a message may have for the fast way, whose sets of fields are bits.
pub(crate) const FAST_FIELDS_MAX: usize = 128;
/// The same for its oneofs.
pub(crate) const FAST_ONEOFS_MAX: usize = 64;

/// All types a configuration's definitions have.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) messages: Vec<MessageType>,
    pub(crate) enums: Vec<EnumType>,
    pub(crate) by_name: BTreeMap<Box<str>, MessageId>,
}

#[derive(Debug)]
pub(crate) struct MessageType {
    pub(crate) name: Box<str>,
    pub(crate) known: Known,
    /// By number, rising.
    pub(crate) fields: Vec<Field>,
    /// For numbers below its length the index of the field, and one; 0 is none.
    dense: Box<[u16]>,
    /// By both names a client may use.
    names: BTreeMap<Box<[u8]>, u16>,
    pub(crate) oneofs: usize,
    /// Too many fields or oneofs for sets of bits.
    pub(crate) is_wide: bool,
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) name: Box<str>,
    pub(crate) json_name: Box<str>,
    /// The name that is written, quoted and with its colon.
    pub(crate) key: Box<[u8]>,
    pub(crate) kind: Kind,
    pub(crate) shape: Shape,
    /// Whether a list of it is written as one packed field.
    pub(crate) is_packed: bool,
    /// The wire type of one value.
    pub(crate) wire: u8,
    /// The tag of one value.
    pub(crate) tag: Tag,
    /// The tag of a packed list.
    pub(crate) packed_tag: Tag,
    /// The oneof it belongs to, and one; 0 is none.
    pub(crate) oneof: u16,
}

/// A tag as it stands on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tag {
    bytes: [u8; 5],
    length: u8,
}

impl Tag {
    fn new(number: u32, wire: u8) -> Self {
        let mut out = Vec::with_capacity(5);
        crate::wire::put_varint(&mut out, u64::from(number) << 3 | u64::from(wire));
        let mut bytes = [0; 5];
        bytes[..out.len()].copy_from_slice(&out);
        Self { bytes, length: out.len() as u8 }
    }

    #[inline]
    pub(crate) fn put(self, out: &mut Vec<u8>) {
        if self.length == 1 {
            out.push(self.bytes[0]);
        } else {
            out.extend_from_slice(&self.bytes[..usize::from(self.length)]);
        }
    }
}

/// How often a field may stand in a message, and what its absence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Absent is the same as zero or empty.
    Implicit,
    /// Absent can be told from zero.
    Explicit,
    Repeated,
    /// The kind is the message of an entry: field 0 is the key, 1 the value.
    Map,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    String,
    Bytes,
    Enum(EnumId),
    Message(MessageId),
}

impl Kind {
    /// The wire type of one value.
    pub(crate) fn wire(self) -> u8 {
        match self {
            Self::Double | Self::Fixed64 | Self::Sfixed64 => crate::wire::FIXED64,
            Self::Float | Self::Fixed32 | Self::Sfixed32 => crate::wire::FIXED32,
            Self::String | Self::Bytes | Self::Message(_) => crate::wire::LENGTH,
            _ => crate::wire::VARINT,
        }
    }

    /// Whether lists of it may be packed.
    pub(crate) fn is_packable(self) -> bool {
        self.wire() != crate::wire::LENGTH
    }
}

/// Messages with a JSON form of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    No,
    Timestamp,
    Duration,
    FieldMask,
    Struct,
    Value,
    ListValue,
    /// The message of a wrapper such as `Int64Value`: field 0 is the value.
    Wrapper,
    Any,
}

#[derive(Debug)]
pub(crate) struct EnumType {
    pub(crate) name: Box<str>,
    /// The one value of `google.protobuf.NullValue` is JSON's null.
    pub(crate) is_null: bool,
    /// Whether numbers without a name are values too.
    pub(crate) is_open: bool,
    /// Names by number: first the small ones in their places, then the rest.
    dense: Vec<Option<Box<str>>>,
    sparse: BTreeMap<i32, Box<str>>,
    pub(crate) numbers: BTreeMap<Box<[u8]>, i32>,
}

impl Schema {
    pub(crate) fn message(&self, id: MessageId) -> &MessageType {
        &self.messages[id as usize]
    }

    pub(crate) fn enumeration(&self, id: EnumId) -> &EnumType {
        &self.enums[id as usize]
    }

    /// The type a type URL of `Any` names.
    pub(crate) fn by_url(&self, url: &str) -> Option<MessageId> {
        let (_, name) = url.rsplit_once('/')?;
        self.by_name.get(name).copied()
    }
}

impl MessageType {
    /// The index of a field by its number.
    #[inline]
    pub(crate) fn index_of(&self, number: u32) -> Option<usize> {
        match self.dense.get(number as usize) {
            Some(0) => None,
            Some(index) => Some(usize::from(*index) - 1),
            None => self.fields.binary_search_by_key(&number, |field| field.number).ok(),
        }
    }

    /// The index of a field by a name a client used. Clients write fields in
    /// the same order again and again: the one after the last is tried first.
    #[inline]
    pub(crate) fn find(&self, name: &[u8], guess: usize) -> Option<usize> {
        if let Some(field) = self.fields.get(guess)
            && (field.json_name.as_bytes() == name || field.name.as_bytes() == name)
        {
            return Some(guess);
        }
        self.names.get(name).map(|index| usize::from(*index))
    }

    /// The key and the value of a map's entry.
    pub(crate) fn entry(&self) -> (&Field, &Field) {
        (&self.fields[0], &self.fields[1])
    }
}

impl EnumType {
    #[inline]
    pub(crate) fn name_of(&self, number: i32) -> Option<&str> {
        match usize::try_from(number).ok().and_then(|at| self.dense.get(at)) {
            Some(name) => name.as_deref(),
            None => self.sparse.get(&number).map(|name| &**name),
        }
    }

    /// All names with their numbers, for comparisons.
    pub(crate) fn values(&self) -> impl Iterator<Item = (&str, i32)> {
        self.numbers.iter().filter_map(|(name, number)| Some((std::str::from_utf8(name).ok()?, *number)))
    }
}
