//! The normal form of a request's path.
//!
//! A rule, a plugin and the origin must see one path, or a rule can be walked
//! around. So a path is brought into one form when its head is parsed, and that
//! form is matched, filtered and sent:
//!
//! - `%41` of an unreserved character (letters, digits, `-`, `.`, `_`, `~`) is
//!   decoded; every other escape stays, with upper-case digits. `%2F` is no slash.
//! - `.` and `..` segments are resolved, after decoding, so `%2e%2E` is one too.
//!   One that climbs above the root is refused, and so is one with a parameter
//!   (`..;x`), which some origins resolve and others do not.
//! - Runs of slashes become one, unless the listener says otherwise.
//! - Bytes that may not stand in a path are escaped (`"`, `<`, UTF-8).
//! - Refused: broken escapes; backslashes and NUL, escaped or not; `#`, spaces
//!   and control characters as they are.
//!
//! The normal form of a normal path is itself.

use std::borrow::Cow;

/// What runs of slashes become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Slashes {
    /// One slash, as nginx and APISIX do.
    #[default]
    Merge,
    /// They stay.
    Keep,
}

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A `%` without two hex digits.
    #[error("path has a broken percent-escape")]
    Escape,
    /// A NUL or a backslash, escaped or not, or a bare space, control or `#`.
    #[error("path has a forbidden character")]
    Forbidden,
    /// A `..` above the root.
    #[error("path climbs above its root")]
    Climbs,
    /// A dot segment with a parameter.
    #[error("path has a dot segment with a parameter")]
    DotParameter,
    /// No leading slash.
    #[error("path does not begin with a slash")]
    NotAbsolute,
}

impl PathError {
    /// A fixed code for logs and counters.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Escape => "bad_path_escape",
            Self::Forbidden => "forbidden_in_path",
            Self::Climbs => "path_climbs",
            Self::DotParameter => "path_dot_parameter",
            Self::NotAbsolute => "path_not_absolute",
        }
    }
}

/// Classes of bytes in a path.
const PLAIN: u8 = 0;
const ESCAPE: u8 = 1;
const FOREIGN: u8 = 2;
const FORBIDDEN: u8 = 3;
const SLASH: u8 = 4;

const CLASS: [u8; 256] = {
    let mut class = [FOREIGN; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        class[byte] = match byte as u8 {
            b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' | b'?' => FOREIGN,
            b'\\' | b'#' => FORBIDDEN,
            b'%' => ESCAPE,
            b'/' => SLASH,
            _ => PLAIN,
        };
        byte += 1;
    }
    let mut control = 0;
    while control <= b' ' as usize {
        class[control] = FORBIDDEN;
        control += 1;
    }
    class[0x7f] = FORBIDDEN;
    class
};

/// Whether a path is in normal form for certain: a quick look that has no
/// escapes, foreign bytes, doubled slashes or segments beginning with a dot to
/// think about. False only means that [`normalize`] is to be asked.
#[must_use]
pub fn is_normal(path: &[u8], slashes: Slashes) -> bool {
    if path.first() != Some(&b'/') {
        return false;
    }
    let mut after_slash = false;
    for &byte in path {
        match CLASS[byte as usize] {
            PLAIN if after_slash && byte == b'.' => return false,
            PLAIN => after_slash = false,
            SLASH if after_slash && slashes == Slashes::Merge => return false,
            SLASH => after_slash = true,
            _ => return false,
        }
    }
    true
}

/// The normal form of a path. An empty one is the root's, and one without a
/// leading slash gets it.
///
/// # Errors
/// [`PathError`] for a path that is refused.
pub fn normalize(path: &[u8], slashes: Slashes) -> Result<Vec<u8>, PathError> {
    let decoded = decode(path)?;
    let body = decoded.strip_prefix(b"/").unwrap_or(&decoded);
    let mut normal = Vec::with_capacity(decoded.len() + 1);
    let mut segments = body.split(|&byte| byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            b"" if slashes == Slashes::Merge && !is_last => continue,
            b"." => {
                if is_last {
                    normal.push(b'/');
                }
                continue;
            }
            b".." => {
                let parent = memchr::memrchr(b'/', &normal).ok_or(PathError::Climbs)?;
                normal.truncate(parent);
                if is_last {
                    normal.push(b'/');
                }
                continue;
            }
            [b'.', b';', ..] | [b'.', b'.', b';', ..] => return Err(PathError::DotParameter),
            _ => {}
        }
        normal.push(b'/');
        normal.extend_from_slice(segment);
    }
    if normal.is_empty() {
        normal.push(b'/');
    }
    Ok(normal)
}

/// [`normalize`] for text; borrows a path that is in normal form already.
///
/// # Errors
/// [`PathError`] for a path that is refused, or that is not absolute.
pub fn normalize_text(path: &str, slashes: Slashes) -> Result<Cow<'_, str>, PathError> {
    if is_normal(path.as_bytes(), slashes) {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    let normal = normalize(path.as_bytes(), slashes)?;
    // A normal path is ASCII; a slip would show as a replacement character.
    Ok(Cow::Owned(String::from_utf8_lossy(&normal).into_owned()))
}

/// Decodes what is unreserved, escapes what is foreign.
fn decode(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut decoded = Vec::with_capacity(path.len() + 16);
    let mut at = 0;
    while at < path.len() {
        let byte = path[at];
        match CLASS[byte as usize] {
            FORBIDDEN => return Err(PathError::Forbidden),
            FOREIGN => push_escape(&mut decoded, byte),
            ESCAPE => {
                let digits = path.get(at + 1..at + 3).ok_or(PathError::Escape)?;
                let (Some(high), Some(low)) = (hex(digits[0]), hex(digits[1])) else {
                    return Err(PathError::Escape);
                };
                match high << 4 | low {
                    0 | b'\\' => return Err(PathError::Forbidden),
                    value if is_unreserved(value) => decoded.push(value),
                    value => push_escape(&mut decoded, value),
                }
                at += 2;
            }
            _ => decoded.push(byte),
        }
        at += 1;
    }
    Ok(decoded)
}

/// Escapes the bytes outside ASCII, for a query, which is otherwise passed on
/// as it came.
#[must_use]
pub fn encode_foreign(query: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(query.len() * 2);
    for &byte in query {
        match byte.is_ascii() {
            true => encoded.push(byte),
            false => push_escape(&mut encoded, byte),
        }
    }
    encoded
}

/// Whether `text` is a host with an optional port, as Host, `:authority` and an
/// absolute target may name it: a name of letters, digits, `-`, `.`, `_` and
/// `~` without empty labels, or a bracketed IPv6 address; a port from 1 to
/// 65535. No user information, no percent-encoding.
#[must_use]
pub fn is_authority(text: &[u8]) -> bool {
    if let Some(rest) = text.strip_prefix(b"[") {
        let Some(end) = memchr::memchr(b']', rest) else { return false };
        let literal = std::str::from_utf8(&rest[..end]).unwrap_or_default();
        return literal.parse::<std::net::Ipv6Addr>().is_ok() && is_port_suffix(&rest[end + 1..]);
    }
    let (name, port) = match memchr::memchr(b':', text) {
        Some(colon) => text.split_at(colon),
        None => (text, &b""[..]),
    };
    if name.is_empty() || name.len() > 255 || name[0] == b'.' || !is_port_suffix(port) {
        return false;
    }
    let mut before = 0;
    for &byte in name {
        let allowed = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        if !allowed || (byte == b'.' && before == b'.') {
            return false;
        }
        before = byte;
    }
    true
}

fn is_port_suffix(text: &[u8]) -> bool {
    let [b':', digits @ ..] = text else { return text.is_empty() };
    let value = digits.iter().try_fold(0_u32, |sum, &digit| {
        digit.is_ascii_digit().then(|| sum.saturating_mul(10) + u32::from(digit - b'0'))
    });
    !digits.is_empty() && digits.len() <= 5 && value.is_some_and(|port| (1..=65535).contains(&port))
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

fn push_escape(text: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(path: &str) -> Result<String, PathError> {
        normalize(path.as_bytes(), Slashes::Merge).map(|path| String::from_utf8(path).unwrap())
    }

    #[test]
    fn paths_have_one_form() {
        for (path, normal) in [
            ("", "/"),
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//", "/"),
            ("//a///b//", "/a/b/"),
            ("/a/./b", "/a/b"),
            ("/a/.", "/a/"),
            ("/.", "/"),
            ("/./", "/"),
            ("/a/../b", "/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../..", "/"),
            ("/a//../b", "/b"),
            ("/%61%2Db", "/a-b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/%2e/b", "/a/b"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2F..%2Fb", "/a%2F..%2Fb"),
            ("/%252e%252e/b", "/%252e%252e/b"),
            ("/%7Euser", "/~user"),
            ("/caf\u{e9}", "/caf%C3%A9"),
            ("/a\"<b>", "/a%22%3Cb%3E"),
            ("/a{b}", "/a%7Bb%7D"),
            ("/...", "/..."),
            ("/.well-known/x", "/.well-known/x"),
            ("/..a/.b", "/..a/.b"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/%0d%0a", "/%0D%0A"),
        ] {
            assert_eq!(merged(path).as_deref(), Ok(normal), "{path:?}");
        }
    }

    #[test]
    fn paths_that_could_be_read_in_two_ways_are_refused() {
        for (path, error) in [
            ("/..", PathError::Climbs),
            ("/a/../../b", PathError::Climbs),
            ("/%2e%2e/etc", PathError::Climbs),
            ("//../a", PathError::Climbs),
            ("/%", PathError::Escape),
            ("/%4", PathError::Escape),
            ("/%zz", PathError::Escape),
            ("/%+1", PathError::Escape),
            ("/a\\b", PathError::Forbidden),
            ("/a%5cb", PathError::Forbidden),
            ("/a%00", PathError::Forbidden),
            ("/a\0", PathError::Forbidden),
            ("/a/..;/b", PathError::DotParameter),
            ("/a/.;x/b", PathError::DotParameter),
            ("/a/%2e%2e;/b", PathError::DotParameter),
        ] {
            assert_eq!(merged(path), Err(error), "{path:?}");
        }
    }

    #[test]
    fn kept_slashes_stay() {
        let kept = |path: &str| normalize(path.as_bytes(), Slashes::Keep).unwrap();
        assert_eq!(kept("//a//b/"), b"//a//b/");
        assert_eq!(kept("/a//../b"), b"/a/b");
    }

    #[test]
    fn the_normal_form_is_its_own_and_the_quick_look_agrees() {
        // All paths of up to seven pieces out of an alphabet of what matters.
        let pieces = ["/", ".", "a", "%2e", "%2F", ";", "%5A", "\u{e9}", "\"", "%25"];
        let mut state = 0x9e37_79b9_u64;
        for _ in 0..60_000 {
            let mut path = String::from("/");
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut bits = state >> 8;
            for _ in 0..(bits % 9) {
                bits = (bits / 9) ^ (bits << 7);
                path.push_str(pieces[(bits % pieces.len() as u64) as usize]);
            }
            for slashes in [Slashes::Merge, Slashes::Keep] {
                let Ok(once) = normalize(path.as_bytes(), slashes) else {
                    assert!(!is_normal(path.as_bytes(), slashes), "{path:?}");
                    continue;
                };
                assert_eq!(once.first(), Some(&b'/'));
                assert_eq!(normalize(&once, slashes).as_ref(), Ok(&once), "{path:?}");
                if is_normal(path.as_bytes(), slashes) {
                    assert_eq!(once, path.as_bytes());
                }
            }
        }
    }

    #[test]
    fn hosts_are_names_or_addresses_with_a_port() {
        for good in
            ["a", "a.example", "a.example.", "A-1_x:80", "127.0.0.1:65535", "[::1]", "[::1]:443", "xn--a~"]
        {
            assert!(is_authority(good.as_bytes()), "{good:?}");
        }
        for bad in [
            "",
            "a@b",
            "user:pw@a",
            "a:",
            "a:0",
            "a:65536",
            "a:+80",
            "a:80:80",
            "a b",
            "a/b",
            "a,b",
            "a%41",
            "a..b",
            ".a",
            "[::1",
            "::1",
            "[::1]x",
            "[fe80::1%25eth0]",
            "a\\b",
            "a?b",
            "a#b",
            "\u{e9}.example",
            "[v1.a]",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad:?}");
        }
    }
}
