//! The distinct texts of one transaction.
//!
//! Values that are equal are one text, and so are results of transformations,
//! so that whatever is found out about a text is found out once. Everything
//! lies in a few buffers that are kept from transaction to transaction.

use super::bytes::ByteSet;
use super::transform::Transform;

/// Names a text of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TextId(u32);

impl TextId {
    /// The empty text, in every table.
    pub const EMPTY: TextId = TextId(0);
}

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone)]
struct Text {
    start: u32,
    length: u32,
    hash: u32,
    /// The next text whose hash leads to the same slot.
    next: u32,
    /// The first transformation done to it, in `derived`.
    derived: u32,
    present: Option<ByteSet>,
    /// What the scan found, in `hits`.
    hits: Option<(u32, u32)>,
}

#[derive(Debug, Clone, Copy)]
struct Derived {
    transform: Transform,
    text: TextId,
    next: u32,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Texts {
    bytes: Vec<u8>,
    texts: Vec<Text>,
    slots: Vec<u32>,
    derived: Vec<Derived>,
    hits: Vec<u32>,
    scratch: Vec<u8>,
    seed: u64,
}

impl Texts {
    /// A table that holds the empty text alone. Nobody outside should know the
    /// seed: with it texts could be made that all lead to one slot.
    pub fn new(seed: u64) -> Texts {
        let mut texts = Texts { slots: vec![NONE; 256], seed, ..Texts::default() };
        texts.intern(b"");
        texts
    }

    /// Forgets all texts and keeps the buffers, up to 1 MiB of them.
    pub fn clear(&mut self) {
        if self.bytes.capacity() > 1 << 20 || self.slots.len() > 1 << 12 {
            *self = Texts::new(self.seed);
            return;
        }
        self.bytes.clear();
        self.texts.clear();
        self.slots.fill(NONE);
        self.derived.clear();
        self.hits.clear();
        self.intern(b"");
    }

    /// The bytes of a text.
    #[inline]
    pub fn get(&self, id: TextId) -> &[u8] {
        let text = &self.texts[id.0 as usize];
        &self.bytes[text.start as usize..(text.start + text.length) as usize]
    }

    /// The text with these bytes.
    pub fn intern(&mut self, bytes: &[u8]) -> TextId {
        let hash = hash(self.seed, bytes);
        let slot = hash as usize & (self.slots.len() - 1);
        let mut at = self.slots[slot];
        while at != NONE {
            let text = &self.texts[at as usize];
            if text.hash == hash && self.get(TextId(at)) == bytes {
                return TextId(at);
            }
            at = text.next;
        }
        let id = self.texts.len() as u32;
        let next = std::mem::replace(&mut self.slots[slot], id);
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        self.texts.push(Text {
            start,
            length: bytes.len() as u32,
            hash,
            next,
            derived: NONE,
            present: None,
            hits: None,
        });
        if self.texts.len() > 2 * self.slots.len() {
            self.grow();
        }
        TextId(id)
    }

    fn grow(&mut self) {
        let slots = self.slots.len() * 4;
        self.slots.clear();
        self.slots.resize(slots, NONE);
        for (id, text) in self.texts.iter_mut().enumerate() {
            let slot = text.hash as usize & (slots - 1);
            text.next = std::mem::replace(&mut self.slots[slot], id as u32);
        }
    }

    /// The bytes that occur in a text.
    #[inline]
    pub fn present(&mut self, id: TextId) -> ByteSet {
        if let Some(set) = self.texts[id.0 as usize].present {
            return set;
        }
        let set = ByteSet::present_in(self.get(id));
        self.texts[id.0 as usize].present = Some(set);
        set
    }

    /// A text after a transformation.
    #[inline]
    pub fn transformed(&mut self, id: TextId, transform: Transform, trigger: &ByteSet) -> TextId {
        if !self.present(id).intersects(trigger) && *trigger != ByteSet::ALL {
            return id;
        }
        let mut at = self.texts[id.0 as usize].derived;
        while at != NONE {
            let derived = self.derived[at as usize];
            if derived.transform == transform {
                return derived.text;
            }
            at = derived.next;
        }
        self.transform(id, transform)
    }

    fn transform(&mut self, id: TextId, transform: Transform) -> TextId {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        transform.apply(self.get(id), &mut scratch);
        let text = self.intern(&scratch);
        self.scratch = scratch;
        let derived = self.derived.len() as u32;
        let next = std::mem::replace(&mut self.texts[id.0 as usize].derived, derived);
        self.derived.push(Derived { transform, text, next });
        text
    }

    /// What the scan of a text found, scanning it now if that was not done.
    pub fn hits(&mut self, id: TextId, scan: impl FnOnce(&[u8], &mut Vec<u32>)) -> (u32, u32) {
        if let Some(range) = self.texts[id.0 as usize].hits {
            return range;
        }
        let mut hits = std::mem::take(&mut self.hits);
        let start = hits.len() as u32;
        scan(self.get(id), &mut hits);
        let range = (start, hits.len() as u32);
        self.hits = hits;
        self.texts[id.0 as usize].hits = Some(range);
        range
    }

    /// One of the numbers a scan has left.
    #[inline]
    pub fn hit(&self, index: u32) -> u32 {
        self.hits[index as usize]
    }
}

fn hash(seed: u64, bytes: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = seed ^ bytes.len() as u64;
    let mut mix = |word: u64| {
        let product = u128::from(state ^ word) * u128::from(FACTOR);
        state = (product as u64) ^ (product >> 64) as u64;
    };
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        mix(u64::from_le_bytes(chunk.try_into().expect("chunks have eight bytes")));
    }
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    mix(u64::from_le_bytes(last) ^ FACTOR);
    (state ^ state >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one_text_before_and_after_growing() {
        let mut texts = Texts::new(7);
        let first: Vec<TextId> =
            (0..5000).map(|number: u32| texts.intern(number.to_string().as_bytes())).collect();
        let second: Vec<TextId> =
            (0..5000).map(|number: u32| texts.intern(number.to_string().as_bytes())).collect();
        assert_eq!(first, second);
        assert_eq!(texts.get(first[4321]), b"4321");
    }

    #[test]
    fn a_transformation_is_done_once_and_an_unchanged_text_is_itself() {
        let mut texts = Texts::new(7);
        let trigger = Transform::Lowercase.trigger();
        let mixed = texts.intern(b"Mixed");
        let lower = texts.transformed(mixed, Transform::Lowercase, &trigger);
        assert_eq!(texts.get(lower), b"mixed");
        assert_eq!(texts.transformed(mixed, Transform::Lowercase, &trigger), lower);
        assert_eq!(texts.transformed(lower, Transform::Lowercase, &trigger), lower);
    }
}
