//! Bytes: sets of their values, and whether two texts have the same.

/// Whether two texts are equal. In Wasm the comparison of the standard library goes
/// byte by byte.
#[inline]
pub fn same(one: &[u8], other: &[u8]) -> bool {
    let (words, rest) = one.as_chunks::<8>();
    let (other_words, other_rest) = other.as_chunks::<8>();
    one.len() == other.len()
        && words
            .iter()
            .zip(other_words)
            .all(|(one, other)| u64::from_le_bytes(*one) == u64::from_le_bytes(*other))
        && rest.iter().zip(other_rest).all(|(one, other)| one == other)
}

/// A set of byte values, 256 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ByteSet(pub [u64; 4]);

impl ByteSet {
    /// No byte.
    pub const EMPTY: ByteSet = ByteSet([0; 4]);
    /// Every byte.
    pub const ALL: ByteSet = ByteSet([u64::MAX; 4]);

    /// The bytes of this list.
    pub fn of(bytes: &[u8]) -> ByteSet {
        ByteSet::present_in(bytes)
    }

    /// This set and the bytes from `first` to `last`.
    pub fn with_range(mut self, first: u8, last: u8) -> ByteSet {
        for byte in first..=last {
            self.insert(byte);
        }
        self
    }

    /// Adds a byte.
    pub fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    /// Whether it holds this byte.
    pub fn contains(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1
    }

    /// The bytes that occur in a text.
    pub fn present_in(text: &[u8]) -> ByteSet {
        if text.len() >= 192 {
            let mut seen = [0u8; 256];
            for &byte in text {
                seen[usize::from(byte)] = 1;
            }
            let mut set = ByteSet::EMPTY;
            for (word, chunk) in set.0.iter_mut().zip(seen.chunks_exact(64)) {
                *word = chunk.iter().enumerate().fold(0, |word, (bit, &seen)| word | u64::from(seen) << bit);
            }
            return set;
        }
        let mut set = ByteSet::EMPTY;
        for &byte in text {
            set.insert(byte);
        }
        set
    }

    /// Whether the two have a byte in common.
    #[inline]
    pub fn intersects(&self, other: &ByteSet) -> bool {
        (self.0[0] & other.0[0])
            | (self.0[1] & other.0[1])
            | (self.0[2] & other.0[2])
            | (self.0[3] & other.0[3])
            != 0
    }

    /// Both together.
    pub fn union(mut self, other: &ByteSet) -> ByteSet {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word |= other;
        }
        self
    }

    /// What is not in it.
    pub fn complement(mut self) -> ByteSet {
        for word in &mut self.0 {
            *word = !*word;
        }
        self
    }

    /// The set with small letters in place of capitals.
    #[inline]
    pub fn folded(mut self) -> ByteSet {
        const CAPITALS: u64 = 0x07ff_fffe;
        self.0[1] = (self.0[1] & !CAPITALS) | (self.0[1] & CAPITALS) << 32;
        self
    }

    /// How many bytes it holds.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        *self == ByteSet::EMPTY
    }

    /// Its bytes in order.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=255).filter(|&byte| self.contains(byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_the_same_when_every_byte_is() {
        for length in 0..40 {
            let text = vec![b'x'; length];
            assert!(same(&text, &text.clone()));
            assert!(!same(&text, &vec![b'x'; length + 1]));
            for at in 0..length {
                let mut other = text.clone();
                other[at] = b'y';
                assert!(!same(&text, &other), "{at} of {length}");
            }
        }
    }

    #[test]
    fn folding_turns_capitals_into_small_letters_and_keeps_the_rest() {
        let folded = ByteSet::of(b"AZaz@[`{09").folded();
        assert_eq!(folded, ByteSet::of(b"az@[`{09"));
    }

    #[test]
    fn long_and_short_texts_are_read_alike() {
        let text: Vec<u8> = (0..=255).step_by(3).cycle().take(600).collect();
        let short = text.chunks(100).fold(ByteSet::EMPTY, |set, part| set.union(&ByteSet::present_in(part)));
        assert_eq!(ByteSet::present_in(&text), short);
    }
}
