//! The wire format of protobuf: tags, varints, lengths.

use crate::fault::{Checked, fault};

pub(crate) const VARINT: u8 = 0;
pub(crate) const FIXED64: u8 = 1;
pub(crate) const LENGTH: u8 = 2;
pub(crate) const GROUP_START: u8 = 3;
pub(crate) const GROUP_END: u8 = 4;
pub(crate) const FIXED32: u8 = 5;

/// How deep groups of unknown fields may nest; they are skipped without
/// recursion, so this bounds nothing but nonsense.
const GROUPS_MAX: usize = 100;

/// One field's value as it stands on the wire: a number, or bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Raw<'a> {
    pub(crate) number: u64,
    pub(crate) bytes: &'a [u8],
}

/// Reads a message's bytes from front to end.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The number of the next field and its wire type.
    #[inline]
    pub(crate) fn tag(&mut self) -> Checked<(u32, u8)> {
        let tag = self.varint()?;
        if tag > u64::from(u32::MAX) || tag < 8 {
            return fault(format_args!("{tag} is no field's tag"));
        }
        Ok(((tag >> 3) as u32, (tag & 7) as u8))
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Checked<u64> {
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            [first, second, rest @ ..] if *second < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*first & 0x7F) | u64::from(*second) << 7)
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Checked<u64> {
        let mut value = 0_u64;
        for (at, byte) in self.rest.iter().take(10).enumerate() {
            if at == 9 && *byte > 1 {
                return fault("a varint of more than 64 bits");
            }
            value |= u64::from(*byte & 0x7F) << (7 * at);
            if *byte < 0x80 {
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        if self.rest.len() < 10 {
            fault("the bytes end in a varint")
        } else {
            fault("a varint of more than 64 bits")
        }
    }

    #[inline]
    fn take(&mut self, length: u64) -> Checked<&'a [u8]> {
        match usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length)) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => fault(format_args!("a length of {length} where {} bytes are left", self.rest.len())),
        }
    }

    /// A field's value by its wire type. A group is skipped; what it held
    /// belongs to no field a definition may have.
    #[inline]
    pub(crate) fn value(&mut self, number: u32, wire: u8) -> Checked<Raw<'a>> {
        match wire {
            VARINT => Ok(Raw { number: self.varint()?, bytes: &[] }),
            LENGTH => {
                let length = self.varint()?;
                Ok(Raw { number: 0, bytes: self.take(length)? })
            }
            FIXED32 | FIXED64 => self.fixed(wire),
            GROUP_START => self.skip_group(number),
            _ => fault(format_args!("wire type {wire} of field {number}")),
        }
    }

    #[inline]
    pub(crate) fn fixed(&mut self, wire: u8) -> Checked<Raw<'a>> {
        let number = if wire == FIXED32 {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(self.take(4)?);
            u64::from(u32::from_le_bytes(bytes))
        } else {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(self.take(8)?);
            u64::from_le_bytes(bytes)
        };
        Ok(Raw { number, bytes: &[] })
    }

    #[cold]
    fn skip_group(&mut self, number: u32) -> Checked<Raw<'a>> {
        let mut open = vec![number];
        while let Some(innermost) = open.last().copied() {
            let (number, wire) = self.tag()?;
            match wire {
                GROUP_START if open.len() == GROUPS_MAX => {
                    return fault(format_args!("groups nested deeper than {GROUPS_MAX}"));
                }
                GROUP_START => open.push(number),
                GROUP_END if number == innermost => {
                    open.pop();
                }
                GROUP_END => return fault(format_args!("the end of group {number} in group {innermost}")),
                _ => {
                    self.value(number, wire)?;
                }
            }
        }
        Ok(Raw::default())
    }
}

/// Appends a varint.
#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Begins a part whose length is not known yet; [`close`] ends it.
#[inline]
pub(crate) fn open(out: &mut Vec<u8>) -> usize {
    out.push(0);
    out.len()
}

/// Writes the length of the part that began at `start`. Most parts are short
/// and their length fits the byte that was left; a long one moves.
#[inline]
pub(crate) fn close(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start;
    if length < 0x80 {
        out[start - 1] = length as u8;
    } else {
        close_long(out, start, length);
    }
}

fn close_long(out: &mut Vec<u8>, start: usize, length: usize) {
    let bits = usize::BITS - length.leading_zeros();
    let width = bits.div_ceil(7) as usize;
    out.resize(out.len() + width - 1, 0);
    out.copy_within(start..start + length, start + width - 1);
    let mut rest = length;
    for (at, byte) in out[start - 1..start - 1 + width].iter_mut().enumerate() {
        *byte = (rest & 0x7F) as u8 | if at + 1 < width { 0x80 } else { 0 };
        rest >>= 7;
    }
}

#[inline]
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[inline]
pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.varint().unwrap(), value);
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn zigzag_comes_back() {
        for value in [0, -1, 1, i64::from(i32::MIN), i64::MIN, i64::MAX] {
            assert_eq!(unzigzag(zigzag(value)), value);
        }
    }

    #[test]
    fn a_part_of_any_length_gets_its_length() {
        for length in [0, 1, 127, 128, 129, 16_383, 16_384, 70_000] {
            let mut out = vec![9];
            let start = open(&mut out);
            out.extend((0..length).map(|at| at as u8));
            close(&mut out, start);
            let mut reader = Reader::new(&out[1..]);
            let raw = reader.value(1, LENGTH).unwrap();
            assert_eq!(raw.bytes, (0..length).map(|at| at as u8).collect::<Vec<u8>>(), "{length}");
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn bad_bytes_are_refused() {
        for bytes in [
            &[0xFF; 11][..],
            &[0x80],
            &[0x0A, 5, 1],
            &[0x0D, 1, 2],
            &[0x0B],
            &[0x0B, 0x14],
            &[0x07],
            &[0x0E, 0],
        ] {
            let mut reader = Reader::new(bytes);
            let read = reader.tag().and_then(|(number, wire)| reader.value(number, wire).map(|_| ()));
            assert!(read.is_err(), "{bytes:x?}");
        }
    }
}
