//! Writes a pattern of PCRE in the words of the `regex` crate.
//!
//! The two agree on nearly everything. What differs: PCRE reads bytes above
//! 0x7f as themselves, takes `[`, `&&`, `~~` and `--` in a class and `{` where
//! no count follows as plain characters, and lets any punctuation be escaped.

/// See the module's documentation.
pub fn rewrite(source: &[u8]) -> String {
    let mut out = String::with_capacity(source.len() + 8);
    let mut at = 0;
    while at < source.len() {
        match source[at] {
            b'\\' => at = escape(source, at, Place::Outside, &mut out),
            b'[' => at = class(source, at, &mut out),
            b'{' if !is_count(&source[at..]) => {
                out.push_str("\\{");
                at += 1;
            }
            byte => {
                plain(byte, &mut out);
                at += 1;
            }
        }
    }
    out
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Outside,
    InClass,
}

fn plain(byte: u8, out: &mut String) {
    if byte.is_ascii() {
        out.push(char::from(byte));
    } else {
        out.push_str(&format!("\\x{byte:02x}"));
    }
}

/// Whether this is `{n}`, `{n,}` or `{n,m}`.
fn is_count(rest: &[u8]) -> bool {
    let Some(end) = rest.iter().position(|&byte| byte == b'}') else { return false };
    let inner = &rest[1..end];
    inner.first().is_some_and(u8::is_ascii_digit)
        && inner.iter().all(|byte| byte.is_ascii_digit() || *byte == b',')
        && inner.iter().filter(|&&byte| byte == b',').count() <= 1
}

/// Copies the escape at `at`; returns where the next item begins.
fn escape(source: &[u8], at: usize, place: Place, out: &mut String) -> usize {
    let Some(&next) = source.get(at + 1) else {
        out.push_str("\\\\");
        return at + 1;
    };
    match next {
        b'x' => {
            let (digits, end) = hex_digits(source, at + 2);
            let value = digits
                .iter()
                .fold(0u32, |value, &digit| value << 4 | char::from(digit).to_digit(16).unwrap_or(0));
            out.push_str(&format!("\\x{:02x}", value & 0xff));
            end
        }
        b'e' => {
            out.push_str("\\x1b");
            at + 2
        }
        b'h' => {
            out.push_str(if place == Place::InClass { " \\t" } else { "[ \\t]" });
            at + 2
        }
        b'Z' => {
            out.push_str("\\z");
            at + 2
        }
        b'b' if place == Place::InClass => {
            out.push_str("\\x08");
            at + 2
        }
        b'0' => {
            let length =
                source[at + 1..].iter().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
            let value = source[at + 1..at + 1 + length]
                .iter()
                .fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            out.push_str(&format!("\\x{:02x}", value & 0xff));
            at + 1 + length
        }
        // The one crate's word boundaries are the other's plain characters.
        b'<' | b'>' => {
            out.push(char::from(next));
            at + 2
        }
        byte if byte.is_ascii() => {
            out.push('\\');
            out.push(char::from(byte));
            at + 2
        }
        byte => {
            plain(byte, out);
            at + 2
        }
    }
}

/// The digits of `\xhh` or `\x{hh}` and where they end.
fn hex_digits(source: &[u8], from: usize) -> (&[u8], usize) {
    if source.get(from) == Some(&b'{')
        && let Some(length) = source[from + 1..].iter().position(|&byte| byte == b'}')
    {
        return (&source[from + 1..from + 1 + length], from + length + 2);
    }
    let length = source[from..].iter().take(2).take_while(|byte| byte.is_ascii_hexdigit()).count();
    (&source[from..from + length], from + length)
}

/// Copies the class at `at`; returns where the next item begins.
fn class(source: &[u8], at: usize, out: &mut String) -> usize {
    out.push('[');
    let mut at = at + 1;
    if source.get(at) == Some(&b'^') {
        out.push('^');
        at += 1;
    }
    // A bracket that comes first is a plain one.
    if source.get(at) == Some(&b']') {
        out.push_str("\\]");
        at += 1;
    }
    let mut after_shorthand = false;
    while at < source.len() {
        let shorthand = std::mem::take(&mut after_shorthand);
        match source[at] {
            b']' => {
                out.push(']');
                return at + 1;
            }
            b'\\' => {
                after_shorthand =
                    matches!(source.get(at + 1), Some(b'w' | b'W' | b'd' | b'D' | b's' | b'S' | b'h'));
                at = escape(source, at, Place::InClass, out);
            }
            b'[' if source.get(at + 1) == Some(&b':') && posix_end(source, at).is_some() => {
                let end = posix_end(source, at).unwrap_or(at + 1);
                out.push_str(&String::from_utf8_lossy(&source[at..end]));
                after_shorthand = true;
                at = end;
            }
            b'-' if shorthand || source.get(at + 1) == Some(&b']') || source.get(at + 1) == Some(&b'-') => {
                out.push_str(
                    if source.get(at + 1) == Some(&b'-') && !shorthand && source.get(at + 2) != Some(&b']') {
                        "-"
                    } else {
                        "\\-"
                    },
                );
                at += 1;
                if source.get(at) == Some(&b'-') && !shorthand && source.get(at + 1) != Some(&b']') {
                    out.push_str("\\-");
                    at += 1;
                }
            }
            byte @ (b'[' | b'&' | b'~') => {
                out.push('\\');
                out.push(char::from(byte));
                at += 1;
            }
            byte => {
                plain(byte, out);
                at += 1;
            }
        }
    }
    at
}

/// Where `[:name:]` ends.
fn posix_end(source: &[u8], at: usize) -> Option<usize> {
    let rest = &source[at + 2..];
    let length = rest.iter().take_while(|byte| byte.is_ascii_alphabetic() || **byte == b'^').count();
    rest[length..].starts_with(b":]").then_some(at + 2 + length + 2)
}
