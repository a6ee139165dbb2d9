//! Finds many literals in one pass over a text.
//!
//! Of every literal the rarest four bytes in a row (or three, or two, of
//! shorter ones) go into a table by hash, and a bitmap says which hashes are
//! taken. A text is read four bytes at a time, one step a byte; only where the
//! bitmap has an entry are literals compared. The text's capitals are made
//! small first, so that case makes no difference. In memory this takes a
//! fraction of what an automaton over the same literals takes.

use std::collections::HashMap;

use super::literals::commonness;

const BITMAP_BITS: u32 = 17;
const NONE: u32 = u32::MAX;

/// A table of literals, each with a number.
#[derive(Debug)]
pub struct Grams {
    /// Of hashes of four bytes.
    four: Vec<u64>,
    /// Of pairs of bytes that begin a literal of two or three; a bit each.
    pairs: Vec<u64>,
    slots: Vec<u32>,
    slot_mask: u32,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    key: u32,
    next: u32,
    start: u32,
    length: u16,
    /// Where in the literal the key stands.
    offset: u16,
    number: u32,
}

#[inline]
fn hash(word: u32) -> u32 {
    word.wrapping_mul(0x9e37_79b1)
}

impl Grams {
    /// A table of these literals: small letters, at least two bytes each.
    pub fn new(literals: &[(Vec<u8>, u32)]) -> Grams {
        let slot_count = (literals.len() * 2).next_power_of_two().max(16);
        let mut grams = Grams {
            four: vec![0; 1 << (BITMAP_BITS - 6)],
            pairs: vec![0; 1 << 10],
            slots: vec![NONE; slot_count],
            slot_mask: slot_count as u32 - 1,
            entries: Vec::with_capacity(literals.len()),
            bytes: Vec::new(),
        };
        let mut places: HashMap<&[u8], u32> = HashMap::new();
        for (literal, number) in literals {
            debug_assert!(literal.len() >= 2, "shorter ones are sets of bytes");
            let start = *places.entry(literal).or_insert_with(|| {
                grams.bytes.extend_from_slice(literal);
                (grams.bytes.len() - literal.len()) as u32
            });
            grams.insert(literal, start, *number);
        }
        grams
    }

    fn insert(&mut self, literal: &[u8], start: u32, number: u32) {
        let (key, offset) = if literal.len() >= 4 {
            let offset = rarest_window(literal);
            let word = word(&literal[offset..]);
            let bit = hash(word) >> (32 - BITMAP_BITS);
            self.four[(bit >> 6) as usize] |= 1 << (bit & 63);
            (word, offset)
        } else {
            // Shorter ones are found by their first pair.
            let pair = u32::from(u16::from_le_bytes([literal[0], literal[1]]));
            self.pairs[(pair >> 6) as usize] |= 1 << (pair & 63);
            (pair, 0)
        };
        let slot = (hash(key) >> 7 & self.slot_mask) as usize;
        let next = std::mem::replace(&mut self.slots[slot], self.entries.len() as u32);
        let (length, offset) = (literal.len() as u16, offset as u16);
        self.entries.push(Entry { key, next, start, length, offset, number });
    }

    /// Calls `found` with the number of every literal at every place where one
    /// stands in `folded`: a text with small letters, followed by four zero
    /// bytes that do not belong to it.
    #[inline]
    pub fn scan(&self, folded: &[u8], mut found: impl FnMut(u32)) {
        let length = folded.len().saturating_sub(4);
        let text = &folded[..length];
        for at in 0..length {
            let word = word(&folded[at..]);
            let bit = hash(word) >> (32 - BITMAP_BITS);
            let pair = word & 0xffff;
            let four = self.four[(bit >> 6) as usize] >> (bit & 63) & 1 != 0;
            let two = self.pairs[(pair >> 6) as usize] >> (pair & 63) & 1 != 0;
            if four {
                self.compare(text, at, word, Keys::Four, &mut found);
            }
            if two {
                self.compare(text, at, pair, Keys::Pair, &mut found);
            }
        }
    }

    fn compare(&self, text: &[u8], at: usize, key: u32, keys: Keys, found: &mut impl FnMut(u32)) {
        let mut index = self.slots[(hash(key) >> 7 & self.slot_mask) as usize];
        while index != NONE {
            let entry = &self.entries[index as usize];
            index = entry.next;
            if entry.key != key || (entry.length >= 4) != (keys == Keys::Four) {
                continue;
            }
            let Some(begin) = at.checked_sub(usize::from(entry.offset)) else { continue };
            let literal = &self.bytes[entry.start as usize..entry.start as usize + usize::from(entry.length)];
            if text.get(begin..begin + literal.len()) == Some(literal) {
                found(entry.number);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Keys {
    Four,
    Pair,
}

#[inline]
fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn rarest_window(literal: &[u8]) -> usize {
    let score = |window: &[u8]| window.iter().map(|&byte| u32::from(commonness(byte))).sum::<u32>();
    literal.windows(4).enumerate().min_by_key(|(_, window)| score(window)).map_or(0, |(offset, _)| offset)
}

/// Writes a text with small letters and what [`Grams::scan`] wants behind it.
pub fn fold_into(text: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend(text.iter().map(u8::to_ascii_lowercase));
    out.extend_from_slice(&[0; 4]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(grams: &Grams, text: &[u8]) -> Vec<u32> {
        let mut folded = Vec::new();
        fold_into(text, &mut folded);
        let mut found = Vec::new();
        grams.scan(&folded, |number| found.push(number));
        found.sort_unstable();
        found.dedup();
        found
    }

    #[test]
    fn literals_of_every_length_are_found_at_every_place() {
        let literals = ["<?", "php", "eval", "base64_decode", "e", "system"];
        let table: Vec<(Vec<u8>, u32)> = literals
            .iter()
            .enumerate()
            .filter(|(_, literal)| literal.len() >= 2)
            .map(|(number, literal)| (literal.as_bytes().to_vec(), number as u32))
            .collect();
        let grams = Grams::new(&table);
        for (literal, number) in &table {
            for before in 0..6 {
                let text = [&b"......"[..before], &literal.to_ascii_uppercase()].concat();
                assert_eq!(scan(&grams, &text), [*number], "{text:?}");
            }
        }
        assert_eq!(scan(&grams, b"<"), []);
        assert_eq!(scan(&grams, b"ph"), []);
        assert_eq!(scan(&grams, b"<?PHP EVAL(base64_decode(system"), [0, 1, 2, 3, 5]);
    }
}
