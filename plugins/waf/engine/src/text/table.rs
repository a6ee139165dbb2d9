//! The distinct texts of a transaction, and of those before.
//!
//! Values that are equal are one text, and so are results of transformations,
//! so that whatever is found out about a text is found out once. Nothing of it
//! depends on the transaction: while the texts are few they stay for the next one,
//! where names of fields, and what a browser says of itself, come again.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;

use super::bytes::{ByteSet, same};
use super::transform::Transform;

/// Bytes and texts that may be kept for the next transaction. More are forgotten,
/// and their buffers kept.
const KEPT_BYTES: usize = 64 << 10;
const KEPT_TEXTS: usize = 1 << 10;
/// Tests of texts that are remembered, of 12 bytes each.
const KEPT_CLEAN: usize = 1 << 13;
/// Larger buffers are given back.
const BUFFER_MAX: usize = 1 << 20;
const SLOTS_MAX: usize = 1 << 12;

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
    /// The first test that found nothing, in `clean`.
    clean: u32,
}

#[derive(Debug, Clone, Copy)]
struct Derived {
    transform: Transform,
    text: TextId,
    next: u32,
}

/// A test that found nothing in a text.
#[derive(Debug, Clone, Copy)]
struct Clean {
    test: (u32, u32),
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
    clean: Vec<Clean>,
    scratch: Vec<u8>,
    hasher: FixedState,
}

impl Texts {
    /// A table that holds the empty text alone. Nobody outside should know the
    /// seed: with it texts could be made that all lead to one slot.
    pub fn new(seed: u64) -> Texts {
        Texts::empty(FixedState::with_seed(seed))
    }

    fn empty(hasher: FixedState) -> Texts {
        let mut texts = Texts { slots: vec![NONE; 256], hasher, ..Texts::default() };
        texts.intern(b"");
        texts
    }

    /// Makes ready for another transaction.
    pub fn renew(&mut self) {
        if self.bytes.len() <= KEPT_BYTES && self.texts.len() <= KEPT_TEXTS {
            return;
        }
        if self.bytes.capacity() > BUFFER_MAX || self.slots.len() > SLOTS_MAX {
            *self = Texts::empty(self.hasher.clone());
            return;
        }
        self.bytes.clear();
        self.texts.clear();
        self.slots.fill(NONE);
        self.derived.clear();
        self.hits.clear();
        self.clean.clear();
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
        let hash = self.hasher.hash_one(bytes) as u32;
        let slot = hash as usize & (self.slots.len() - 1);
        let mut at = self.slots[slot];
        while at != NONE {
            let text = &self.texts[at as usize];
            if text.hash == hash && same(self.get(TextId(at)), bytes) {
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
            clean: NONE,
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

    /// Whether a test is known to find nothing in a text.
    #[inline]
    pub fn is_clean(&self, id: TextId, test: (u32, u32)) -> bool {
        let mut at = self.texts[id.0 as usize].clean;
        while let Some(clean) = self.clean.get(at as usize) {
            if clean.test == test {
                return true;
            }
            at = clean.next;
        }
        false
    }

    /// Remembers that a test found nothing in a text, while there is room for it.
    pub fn note_clean(&mut self, id: TextId, test: (u32, u32)) {
        if self.clean.len() < KEPT_CLEAN {
            let at = self.clean.len() as u32;
            let next = std::mem::replace(&mut self.texts[id.0 as usize].clean, at);
            self.clean.push(Clean { test, next });
        }
    }

    /// One of the numbers a scan has left.
    #[inline]
    pub fn hit(&self, index: u32) -> u32 {
        self.hits[index as usize]
    }
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
    fn texts_stay_for_the_next_transaction_while_they_are_few() {
        let mut texts = Texts::new(7);
        let (few, hits) = (texts.intern(b"few"), [3, 4]);
        let scan = |_: &[u8], found: &mut Vec<u32>| found.extend(hits);
        assert_eq!(texts.hits(few, scan), (0, 2));
        texts.renew();
        assert_eq!(texts.intern(b"few"), few);
        assert_eq!(texts.hits(few, |_, _| panic!("it was scanned")), (0, 2));
        texts.note_clean(few, (1, 0));
        texts.note_clean(few, (2, 0));
        assert!(texts.is_clean(few, (1, 0)) && texts.is_clean(few, (2, 0)));
        assert!(!texts.is_clean(few, (1, 1)) && !texts.is_clean(TextId::EMPTY, (1, 0)));
        for number in 0..KEPT_TEXTS {
            texts.intern(number.to_string().as_bytes());
        }
        texts.renew();
        assert_eq!(texts.texts.len(), 1, "only the empty text");
        assert_eq!(texts.intern(b""), TextId::EMPTY);
        let long = texts.intern(&vec![b'x'; BUFFER_MAX + 1]);
        assert_eq!(texts.get(long).len(), BUFFER_MAX + 1);
        texts.renew();
        assert!(texts.bytes.capacity() < BUFFER_MAX, "a large buffer is given back");
        assert_eq!(texts.get(TextId::EMPTY), b"");
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
