//! Strings in JSON: what has to be escaped, and what was.

use wide::u8x16;

use crate::fault::{Checked, fault};

/// Whether a byte may not stand in a JSON string as it is.
#[inline]
fn is_special(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

/// How many bytes from the front may stand as they are. Sixteen are looked at
/// together.
#[inline]
pub(crate) fn plain_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some((chunk, _)) = bytes[at..].split_first_chunk::<16>() {
        let chunk = u8x16::new(*chunk);
        let is_control = chunk.simd_eq(chunk.min(u8x16::splat(0x1F)));
        let is_mark = chunk.simd_eq(u8x16::splat(b'"')) | chunk.simd_eq(u8x16::splat(b'\\'));
        let specials = (is_control | is_mark).to_bitmask();
        if specials != 0 {
            return at + specials.trailing_zeros() as usize;
        }
        at += 16;
    }
    let rest = &bytes[at..];
    at + rest.iter().position(|byte| is_special(*byte)).unwrap_or(rest.len())
}

/// Appends a text as a JSON string, with its quotes.
#[inline]
pub(crate) fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    let plain = plain_length(text);
    out.extend_from_slice(&text[..plain]);
    if plain < text.len() {
        put_escaped(out, &text[plain..]);
    }
    out.push(b'"');
}

fn put_escaped(out: &mut Vec<u8>, mut text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    while let [byte, rest @ ..] = text {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0C => out.extend_from_slice(b"\\f"),
            _ => out.extend_from_slice(&[
                b'\\',
                b'u',
                b'0',
                b'0',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]),
        }
        let plain = plain_length(rest);
        out.extend_from_slice(&rest[..plain]);
        text = &rest[plain..];
    }
}

/// Appends what a string says. `input` begins after the opening quote; the
/// bytes used are given back, with the closing quote.
pub(crate) fn unescape(input: &[u8], out: &mut Vec<u8>) -> Checked<usize> {
    let mut at = 0;
    loop {
        let plain = plain_length(&input[at..]);
        out.extend_from_slice(&input[at..at + plain]);
        at += plain;
        match input.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => at += unescape_one(&input[at + 1..], out)? + 1,
            Some(byte) => return fault(format_args!("the control character {byte:#04x} in a string")),
            None => return fault("the text ends in a string"),
        }
    }
}

/// One escape, from after its backslash.
fn unescape_one(input: &[u8], out: &mut Vec<u8>) -> Checked<usize> {
    let Some(byte) = input.first() else {
        return fault("the text ends in a string");
    };
    let plain = match byte {
        b'"' | b'\\' | b'/' => *byte,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'f' => 0x0C,
        b'u' => return unescape_unicode(&input[1..], out).map(|used| used + 1),
        _ => return fault(format_args!("the escape \\{} in a string", byte.escape_ascii())),
    };
    out.push(plain);
    Ok(1)
}

fn unescape_unicode(input: &[u8], out: &mut Vec<u8>) -> Checked<usize> {
    let first = hex4(input)?;
    let (code, used) = match first {
        0xD800..=0xDBFF => match input.get(4..6) {
            Some(b"\\u") => match hex4(&input[6..])? {
                second @ 0xDC00..=0xDFFF => (0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00), 10),
                _ => return fault(format_args!("the lone surrogate \\u{first:04x} in a string")),
            },
            _ => return fault(format_args!("the lone surrogate \\u{first:04x} in a string")),
        },
        _ => (first, 4),
    };
    let Some(character) = char::from_u32(code) else {
        return fault(format_args!("the lone surrogate \\u{first:04x} in a string"));
    };
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    Ok(used)
}

fn hex4(input: &[u8]) -> Checked<u32> {
    let digits = input.get(..4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    match digits.and_then(|digits| std::str::from_utf8(digits).ok()) {
        Some(digits) => Ok(u32::from_str_radix(digits, 16).unwrap_or_default()),
        None => fault("\\u without four hexadecimal digits in a string"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_comes_back() {
        let text: String = (0..0x3000).chain(0x1_F600..0x1_F650).filter_map(char::from_u32).collect();
        for cut in (0..40).chain([text.len()]) {
            let text = &text[..text.floor_char_boundary(cut)];
            let mut json = Vec::new();
            put_string(&mut json, text.as_bytes());
            let read: String = serde_json::from_slice(&json).unwrap();
            assert_eq!(read, text);
            let mut back = Vec::new();
            assert_eq!(unescape(&json[1..], &mut back).unwrap(), json.len() - 1);
            assert_eq!(back, text.as_bytes());
        }
    }

    #[test]
    fn a_special_character_is_found_wherever_it_stands() {
        for length in 0..70 {
            for at in 0..length {
                for special in [b'"', b'\\', 0, 0x1F] {
                    let mut text = vec![b'x'; length];
                    text[at] = special;
                    assert_eq!(plain_length(&text), at);
                }
            }
            assert_eq!(plain_length(&vec![0xE4; length]), length);
        }
    }

    #[test]
    fn bad_strings_are_refused() {
        for text in [
            r#"\ud800""#,
            r#"\ud800\u0041""#,
            r#"\udc00""#,
            r#"\u12g4""#,
            r#"\u+123""#,
            r#"\x41""#,
            "a\nb\"",
            "abc",
            "\\",
            r"\u12",
        ] {
            assert!(unescape(text.as_bytes(), &mut Vec::new()).is_err(), "{text}");
        }
    }
}
