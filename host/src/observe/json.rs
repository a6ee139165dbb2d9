//! One line of JSON, written straight into a byte buffer.
//!
//! Values come from peers: whatever they hold, the line stays one line of valid
//! JSON. Control characters, DEL and the C1 range are escaped (a terminal would
//! obey them), bytes that are no UTF-8 become U+FFFD, and values are cut at a
//! limit, on a character's border, with `…` behind the cut.

use std::time::Duration;

/// A key of ours, with all that stands around it: made by [`key!`].
#[derive(Clone, Copy)]
pub(super) struct Key(pub(super) &'static str);

/// `,"name":` as one text, so that a key is one copy.
macro_rules! key {
    ($name:literal) => {
        $crate::observe::json::Key(concat!(",\"", $name, "\":"))
    };
}
pub(super) use key;

/// A JSON object being written at the end of a buffer.
pub(super) struct Object<'b> {
    out: &'b mut Vec<u8>,
    value_max: usize,
    first: bool,
}

impl<'b> Object<'b> {
    /// Opens an object; values longer than `value_max` bytes are cut.
    pub(super) fn open(out: &'b mut Vec<u8>, value_max: usize) -> Self {
        out.push(b'{');
        Self { out, value_max, first: true }
    }

    /// Closes the object.
    pub(super) fn close(self) {
        self.out.push(b'}');
    }

    #[inline]
    fn key(&mut self, key: Key) {
        self.out.extend_from_slice(&key.0.as_bytes()[usize::from(self.first)..]);
        self.first = false;
    }

    /// Fields that were written before by [`fields`], at least one.
    #[inline]
    pub(super) fn raw(&mut self, fields: &[u8]) {
        self.out.extend_from_slice(&fields[usize::from(self.first)..]);
        self.first = false;
    }

    /// A text value.
    #[inline]
    pub(super) fn text(&mut self, key: Key, value: &[u8]) {
        self.key(key);
        write_text(self.out, value, self.value_max);
    }

    /// A text value under a name that is known to need no escape.
    pub(super) fn text_named(&mut self, name: &str, value: &[u8]) {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        write_text(self.out, value, self.value_max);
    }

    /// A text value, left out when empty.
    #[inline]
    pub(super) fn text_unless_empty(&mut self, key: Key, value: &[u8]) {
        if !value.is_empty() {
            self.text(key, value);
        }
    }

    /// A text value in two pieces, cut as one.
    pub(super) fn joined(&mut self, key: Key, first: &[u8], between: &[u8], second: &[u8]) {
        self.key(key);
        self.out.push(b'"');
        let mut left = self.value_max;
        for piece in [first, between, second] {
            if !escape(self.out, piece, &mut left) {
                break;
            }
        }
        self.out.push(b'"');
    }

    /// A value whose text needs no escape, by construction: it is UTF-8 too.
    #[inline]
    pub(super) fn plain(&mut self, key: Key, value: &[u8]) {
        self.key(key);
        self.out.push(b'"');
        self.out.extend_from_slice(value);
        self.out.push(b'"');
    }

    /// The same, left out when empty.
    #[inline]
    pub(super) fn plain_unless_empty(&mut self, key: Key, value: &[u8]) {
        if !value.is_empty() {
            self.plain(key, value);
        }
    }

    /// A number.
    #[inline]
    pub(super) fn number(&mut self, key: Key, value: u64) {
        self.key(key);
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// A flag.
    pub(super) fn flag(&mut self, key: Key, value: bool) {
        self.key(key);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// A duration in milliseconds with three decimals.
    pub(super) fn milliseconds(&mut self, key: Key, value: Duration) {
        self.key(key);
        let millis = value.as_secs().saturating_mul(1000).saturating_add(value.subsec_millis().into());
        self.out.extend_from_slice(itoa::Buffer::new().format(millis).as_bytes());
        let rest = value.subsec_micros() % 1000;
        let digit = |value: u32| b'0' + (value % 10) as u8;
        self.out.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
    }

    /// An object inside this one.
    pub(super) fn object(&mut self, key: Key, fill: impl FnOnce(&mut Object<'_>)) {
        self.key(key);
        let mut inner = Object::open(self.out, self.value_max);
        fill(&mut inner);
        inner.close();
    }

    /// A list of objects.
    pub(super) fn objects<T>(&mut self, key: Key, list: &[T], fill: impl Fn(&T, &mut Object<'_>)) {
        self.key(key);
        self.out.push(b'[');
        for (index, item) in list.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            let mut inner = Object::open(self.out, self.value_max);
            fill(item, &mut inner);
            inner.close();
        }
        self.out.push(b']');
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, key: Key, list: &[&str]) {
        self.key(key);
        self.out.push(b'[');
        for (index, item) in list.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            write_text(self.out, item.as_bytes(), self.value_max);
        }
        self.out.push(b']');
    }
}

/// Fields to be put into other objects later, by [`Object::raw`].
pub(super) fn fields(value_max: usize, fill: impl FnOnce(&mut Object<'_>)) -> Box<[u8]> {
    let mut out = Vec::with_capacity(128);
    fill(&mut Object { out: &mut out, value_max, first: false });
    out.into_boxed_slice()
}

fn write_text(out: &mut Vec<u8>, value: &[u8], max: usize) {
    out.push(b'"');
    if value.len() <= max && is_plain(value) {
        out.extend_from_slice(value);
    } else {
        escape(out, value, &mut { max });
    }
    out.push(b'"');
}

/// Whether a text needs no escape, eight bytes at a time.
fn is_plain(value: &[u8]) -> bool {
    let mut chunks = value.chunks_exact(8);
    let mut special = 0;
    for chunk in &mut chunks {
        special |= special_bytes(u64::from_le_bytes(chunk.try_into().unwrap_or_default()));
    }
    let mut rest = [b' '; 8];
    rest[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    special | special_bytes(u64::from_le_bytes(rest)) == 0
}

/// Not zero if one of eight bytes is a control character, DEL, outside ASCII, a
/// quote or a backslash. The tests for "below" and "equal" are exact as to
/// whether there is one, which is all that is asked.
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word;
    let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    (word | below(word, 0x20) | equal(0x7f) | equal(b'"') | equal(b'\\')) & HIGH
}

/// Appends `value` escaped; says whether it fitted into what is `left`.
fn escape(out: &mut Vec<u8>, value: &[u8], left: &mut usize) -> bool {
    if value.len() <= *left && is_plain(value) {
        *left -= value.len();
        out.extend_from_slice(value);
        return true;
    }
    for chunk in value.utf8_chunks() {
        for character in chunk.valid().chars() {
            if !escape_char(out, character, left) {
                return false;
            }
        }
        if !chunk.invalid().is_empty() && !escape_char(out, char::REPLACEMENT_CHARACTER, left) {
            return false;
        }
    }
    true
}

fn escape_char(out: &mut Vec<u8>, character: char, left: &mut usize) -> bool {
    if character.len_utf8() > *left {
        out.extend_from_slice("…".as_bytes());
        *left = 0;
        return false;
    }
    *left -= character.len_utf8();
    match character {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        // The line and paragraph separators break lines in some viewers.
        c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => {
            let hex = |shift: u32| b"0123456789abcdef"[(u32::from(c) >> shift & 0xf) as usize];
            out.extend_from_slice(&[b'\\', b'u', hex(12), hex(8), hex(4), hex(0)]);
        }
        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: &[u8], max: usize) -> (String, String) {
        let mut out = Vec::new();
        let mut object = Object::open(&mut out, max);
        object.text(key!("v"), value);
        object.close();
        let line = String::from_utf8(out).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        (line.clone(), parsed["v"].as_str().unwrap().to_owned())
    }

    #[test]
    fn every_byte_gives_one_line_of_valid_json() {
        for byte in 0..=255u8 {
            let (line, back) = one(&[b'a', byte, b'z'], 100);
            assert!(!line.bytes().any(|b| b < 0x20 || b == 0x7f), "{byte:#x}: {line:?}");
            let expected = if byte < 0x80 { char::from(byte) } else { '\u{fffd}' };
            assert_eq!(back, format!("a{expected}z"));
        }
    }

    #[test]
    fn plain_is_what_needs_no_escape_wherever_it_stands() {
        for byte in 0..=255_u8 {
            let plain = (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
            for length in 1..20 {
                for at in 0..length {
                    let mut text = vec![b'a'; length];
                    text[at] = byte;
                    assert_eq!(is_plain(&text), plain, "{byte:#x} at {at} of {length}");
                }
            }
        }
        assert!(is_plain(b""));
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        for text in ["\u{1b}[2J", "\u{9b}31m", "\u{2028}", "\u{7f}", "\r\n{\"forged\":1}"] {
            let (line, back) = one(text.as_bytes(), 100);
            assert!(!line.chars().any(|c| c.is_control() || c == '\u{2028}'), "{line:?}");
            assert_eq!(back, text);
        }
    }

    #[test]
    fn long_values_are_cut_on_a_border() {
        assert_eq!(one("äöü".as_bytes(), 6).1, "äöü");
        assert_eq!(one("äöü".as_bytes(), 5).1, "äö…");
        assert_eq!(one("äöü".as_bytes(), 1).1, "…");
        assert_eq!(one(&[b'x'; 100_000], 64).1.chars().count(), 65);
        assert_eq!(one(&[0xff; 1000], 9).1, "\u{fffd}\u{fffd}\u{fffd}…");
    }

    #[test]
    fn durations_have_three_decimals() {
        let mut out = Vec::new();
        let mut object = Object::open(&mut out, 10);
        object.milliseconds(key!("a"), Duration::from_micros(1_234_007));
        object.milliseconds(key!("b"), Duration::from_nanos(999));
        object.milliseconds(key!("c"), Duration::MAX);
        object.close();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with(r#"{"a":1234.007,"b":0.000,"c":"#), "{text}");
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
    }

    #[test]
    fn joined_pieces_are_cut_as_one() {
        let mut out = Vec::new();
        let mut object = Object::open(&mut out, 8);
        object.joined(key!("u"), b"/path", b"?", b"query=1");
        object.close();
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"u":"/path?qu…"}"#);
    }
}
