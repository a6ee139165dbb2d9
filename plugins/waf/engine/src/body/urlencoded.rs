//! `a=b&c=d`, of queries and forms.

use super::Sink;
use crate::text::decode::hex_digit;

/// Hands on names and values, decoded. True if every `%` began an encoding.
pub fn read(text: &[u8], separator: u8, sink: &mut Sink<'_>) -> bool {
    let mut well_formed = true;
    let (mut name, mut value) = (Vec::new(), Vec::new());
    for pair in text.split(|&byte| byte == separator).filter(|pair| !pair.is_empty()) {
        let (raw_name, raw_value) = match pair.iter().position(|&byte| byte == b'=') {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &b""[..]),
        };
        name.clear();
        value.clear();
        well_formed &= decode(raw_name, &mut name, Plus::Space);
        well_formed &= decode(raw_value, &mut value, Plus::Space);
        if !sink(&name, &value) {
            break;
        }
    }
    well_formed
}

/// What a plus sign means.
#[derive(Clone, Copy, PartialEq)]
pub enum Plus {
    /// A space, as in forms.
    Space,
    /// Itself, as in paths.
    Plus,
}

/// Appends the decoded text. True if every `%` began an encoding; others stay.
pub fn decode(text: &[u8], out: &mut Vec<u8>, plus: Plus) -> bool {
    let mut well_formed = true;
    let mut rest = text;
    loop {
        let is_mark = |byte: &u8| *byte == b'%' || (*byte == b'+' && plus == Plus::Space);
        let plain = rest.iter().position(is_mark).unwrap_or(rest.len());
        out.extend_from_slice(&rest[..plain]);
        let Some((mark, after)) = rest[plain..].split_first() else {
            return well_formed;
        };
        let digit = |at: usize| after.get(at).copied().and_then(hex_digit);
        (rest, well_formed) = match (mark, digit(0), digit(1)) {
            (b'+', ..) => {
                out.push(b' ');
                (after, well_formed)
            }
            (_, Some(high), Some(low)) => {
                out.push(high << 4 | low);
                (&after[2..], well_formed)
            }
            _ => {
                out.push(b'%');
                (after, false)
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded_and_odd_ones_kept() {
        let mut found = Vec::new();
        let good = read(b"a=1+2&b%5b%5d=%3C&&c&=x&d=%zz", b'&', &mut |name, value| {
            found.push((
                String::from_utf8_lossy(name).into_owned(),
                String::from_utf8_lossy(value).into_owned(),
            ));
            true
        });
        assert!(!good);
        let expected = [("a", "1 2"), ("b[]", "<"), ("c", ""), ("", "x"), ("d", "%zz")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
