//! The transformations that undo an encoding.

use super::transform::is_space;

/// How much of what URLs encode is undone.
#[derive(Clone, Copy, PartialEq)]
pub enum Url {
    /// `%hh` and `+`.
    Plain,
    /// `%uhhhh` as well.
    WithUnicode,
}

/// What becomes of characters that are not of the alphabet.
#[derive(Clone, Copy, PartialEq)]
pub enum Base64 {
    /// Decoding ends there.
    Strict,
    /// They are skipped.
    Forgiving,
}

/// The value of a hexadecimal digit.
pub fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

fn hex_pair(input: &[u8]) -> Option<u8> {
    match input {
        [high, low, ..] => Some(hex_digit(*high)? << 4 | hex_digit(*low)?),
        _ => None,
    }
}

/// Four digits as one byte: the low half, and full-width letters as their
/// plain ones.
fn unicode_digits(digits: &[u8]) -> Option<u8> {
    let high = hex_pair(digits)?;
    let low = hex_pair(&digits[2..])?;
    Some(if high == 0xff && (0x01..0x5f).contains(&low) { low + 0x20 } else { low })
}

/// Undoes URL encoding; what is no encoding stays.
pub fn url(input: &[u8], out: &mut Vec<u8>, kind: Url) {
    let mut at = 0;
    while at < input.len() {
        match input[at] {
            b'+' => {
                out.push(b' ');
                at += 1;
            }
            b'%' => {
                let rest = &input[at + 1..];
                if kind == Url::WithUnicode && matches!(rest.first(), Some(b'u' | b'U')) {
                    match rest.get(1..5).and_then(unicode_digits) {
                        Some(byte) => {
                            out.push(byte);
                            at += 6;
                        }
                        None => {
                            out.extend_from_slice(&input[at..at + 2]);
                            at += 2;
                        }
                    }
                } else if let Some(byte) = hex_pair(rest) {
                    out.push(byte);
                    at += 3;
                } else {
                    out.push(b'%');
                    at += 1;
                }
            }
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
}

/// Undoes the escapes of JavaScript strings.
pub fn javascript(input: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while at < input.len() {
        if input[at] != b'\\' || at + 1 == input.len() {
            out.push(input[at]);
            at += 1;
            continue;
        }
        let rest = &input[at + 1..];
        if rest[0] == b'u'
            && let Some(byte) = rest.get(1..5).and_then(unicode_digits)
        {
            out.push(byte);
            at += 6;
        } else if rest[0] == b'x'
            && let Some(byte) = hex_pair(&rest[1..])
        {
            out.push(byte);
            at += 4;
        } else if let (b'0'..=b'7', (byte, length)) = (rest[0], octal(rest)) {
            out.push(byte);
            at += 1 + length;
        } else {
            out.push(control_character(rest[0]).unwrap_or(rest[0]));
            at += 2;
        }
    }
}

/// Undoes the escapes of C and of many shells; what is no escape stays.
pub fn escape_sequences(input: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while at < input.len() {
        if input[at] != b'\\' || at + 1 == input.len() {
            out.push(input[at]);
            at += 1;
            continue;
        }
        let rest = &input[at + 1..];
        if let Some(byte) = control_character(rest[0]) {
            out.push(byte);
            at += 2;
        } else if matches!(rest[0], b'\\' | b'?' | b'\'' | b'"') {
            out.push(rest[0]);
            at += 2;
        } else if rest[0] == b'x'
            && let Some(byte) = hex_pair(&rest[1..])
        {
            out.push(byte);
            at += 4;
        } else if let (b'0'..=b'7', (byte, length)) = (rest[0], octal(rest)) {
            out.push(byte);
            at += 1 + length;
        } else {
            out.push(b'\\');
            at += 1;
        }
    }
}

fn control_character(letter: u8) -> Option<u8> {
    Some(match letter {
        b'a' => 0x07,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        _ => return None,
    })
}

/// Up to three octal digits that fit a byte: its value and how many they are.
fn octal(input: &[u8]) -> (u8, usize) {
    let digits = input.iter().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
    let digits = if digits == 3 && input[0] > b'3' { 2 } else { digits };
    let value =
        input[..digits].iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0'));
    (value, digits)
}

/// Undoes the escapes of style sheets.
pub fn css(input: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while at < input.len() {
        if input[at] != b'\\' {
            out.push(input[at]);
            at += 1;
            continue;
        }
        let rest = &input[at + 1..];
        let digits = rest.iter().take(6).take_while(|byte| hex_digit(**byte).is_some()).count();
        at += 1;
        if digits > 0 {
            let value = rest[..digits]
                .iter()
                .fold(0u32, |value, &digit| value << 4 | u32::from(hex_digit(digit).unwrap_or(0)));
            let [.., high, low] = value.to_be_bytes();
            let full_width = value >> 8 == 0xff && digits >= 4 && (0x01..0x5f).contains(&low);
            debug_assert!(!full_width || high == 0xff, "a full-width letter is U+FFxx");
            out.push(if full_width { low + 0x20 } else { low });
            at += digits;
            if input.get(at).is_some_and(|&byte| is_space(byte)) {
                at += 1;
            }
        } else if let Some(&next) = rest.first() {
            if next != b'\n' {
                out.push(next);
            }
            at += 1;
        }
    }
}

/// Undoes numeric entities and the names `quot amp lt gt nbsp`.
pub fn html_entities(input: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while at < input.len() {
        if input[at] != b'&' {
            out.push(input[at]);
            at += 1;
            continue;
        }
        match entity(&input[at + 1..]) {
            Some((byte, length)) => {
                out.push(byte);
                at += 1 + length;
                if input.get(at) == Some(&b';') {
                    at += 1;
                }
            }
            None => {
                out.push(b'&');
                at += 1;
            }
        }
    }
}

/// The byte an entity stands for and the length of its text after the `&`.
fn entity(rest: &[u8]) -> Option<(u8, usize)> {
    if let Some(number) = rest.strip_prefix(b"#") {
        let (digits, radix, skipped) = match number.first() {
            Some(b'x' | b'X') => (&number[1..], 16, 2),
            _ => (number, 10, 1),
        };
        let length = digits
            .iter()
            .take_while(|&&byte| if radix == 16 { hex_digit(byte).is_some() } else { byte.is_ascii_digit() })
            .count();
        if length == 0 {
            return None;
        }
        let value = digits[..length].iter().fold(0u32, |value, &digit| {
            value.wrapping_mul(radix).wrapping_add(u32::from(hex_digit(digit).unwrap_or(0)))
        });
        return Some((value.to_le_bytes()[0], skipped + length));
    }
    let length = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
    const NAMES: [(&[u8], u8); 5] =
        [(b"quot", b'"'), (b"amp", b'&'), (b"lt", b'<'), (b"gt", b'>'), (b"nbsp", 0xa0)];
    let name = &rest[..length];
    NAMES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, byte)| (*byte, length))
}

/// Writes characters beyond ASCII as `%uhhhh`; bytes that are no UTF-8 stay.
pub fn utf8_to_unicode(input: &[u8], out: &mut Vec<u8>) {
    use std::io::Write;
    for chunk in input.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_ascii() {
                out.push(character as u8);
            } else {
                write!(out, "%u{:04x}", u32::from(character)).expect("writing to memory cannot fail");
            }
        }
        out.extend_from_slice(chunk.invalid());
    }
}

/// Undoes Base64.
pub fn base64(input: &[u8], out: &mut Vec<u8>, kind: Base64) {
    let mut bits = 0u32;
    let mut count = 0;
    for &byte in input {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ if kind == Base64::Forgiving => continue,
            _ => break,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count).to_le_bytes()[0]);
        }
    }
}

/// Base64 with padding.
pub fn base64_encode(input: &[u8], out: &mut Vec<u8>) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for group in input.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, at| bits << 8 | u32::from(group.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let index = (bits >> (18 - 6 * at) & 63) as usize;
            out.push(if at <= group.len() { ALPHABET[index] } else { b'=' });
        }
    }
}

/// Undoes hexadecimal text; odd characters at the end are left out.
pub fn hex(input: &[u8], out: &mut Vec<u8>) {
    out.extend(input.chunks_exact(2).map(|pair| {
        let digit = |byte: u8| hex_digit(byte).unwrap_or(0);
        digit(pair[0]) << 4 | digit(pair[1])
    }));
}

/// Undoes the hexadecimal literals of SQL, `0x414243`.
pub fn sql_hex(input: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while at < input.len() {
        if input[at] == b'0'
            && matches!(input.get(at + 1), Some(b'x' | b'X'))
            && hex_pair(&input[at + 2..]).is_some()
        {
            at += 2;
            while let Some(byte) = hex_pair(&input[at..]) {
                out.push(byte);
                at += 2;
            }
        } else {
            out.push(input[at]);
            at += 1;
        }
    }
}
