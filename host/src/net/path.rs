//! The normal form of a request's path, and what an authority may be.
//!
//! Rules, filters and the origin all see this one form (RFC 3986 §6.2.2): dot
//! segments are resolved, also when their dots are encoded; characters that
//! need no encoding are decoded; other encodings are kept, in capitals, so
//! `%2F` never becomes a separator. What has no harmless reading is refused.

use std::borrow::Cow;

/// What becomes of several slashes in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slashes {
    /// They become one, as in nginx.
    Merge,
    /// They stay.
    Keep,
}

/// Why a path has no normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("path_not_absolute")]
    NotAbsolute,
    /// A `%` without two hex digits behind it.
    #[error("path_bad_encoding")]
    BadEncoding,
    /// A control character, NUL, white space, backslash or `#`, plain or (but for the last) encoded NUL.
    #[error("path_bad_character")]
    BadCharacter,
    /// `..` above the root.
    #[error("path_above_root")]
    AboveRoot,
}

/// Brings `path` into its normal form; borrows when it is in it already.
///
/// # Errors
/// When it has none; see [`PathError`].
pub fn normalise(path: &str, slashes: Slashes) -> Result<Cow<'_, str>, PathError> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    if is_normal(bytes, slashes)? {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode_unreserved(bytes)?;
    let mut normal: Vec<u8> = Vec::with_capacity(decoded.len());
    let mut segments = decoded[1..].split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            b"." if is_last => normal.push(b'/'),
            b"." => {}
            b".." => {
                let parent = normal.iter().rposition(|byte| *byte == b'/').ok_or(PathError::AboveRoot)?;
                normal.truncate(parent);
                if is_last {
                    normal.push(b'/');
                }
            }
            b"" if slashes == Slashes::Merge && !is_last => {}
            segment => {
                normal.push(b'/');
                normal.extend_from_slice(segment);
            }
        }
    }
    if normal.is_empty() {
        normal.push(b'/');
    }
    // Every byte is ASCII by `is_normal`.
    Ok(Cow::Owned(String::from_utf8_lossy(&normal).into_owned()))
}

/// Whether `path` needs no change; refuses what may not stand in a path.
fn is_normal(path: &[u8], slashes: Slashes) -> Result<bool, PathError> {
    let mut normal = true;
    let mut index = 0;
    while index < path.len() {
        let byte = path[index];
        match byte {
            0..=0x20 | 0x7f.. | b'\\' | b'#' => return Err(PathError::BadCharacter),
            b'%' => {
                let value = encoded(&path[index..]).ok_or(PathError::BadEncoding)?;
                if value == 0 {
                    return Err(PathError::BadCharacter);
                }
                let has_small = path[index + 1..index + 3].iter().any(u8::is_ascii_lowercase);
                normal &= !is_unreserved(value) && !has_small;
                index += 2;
            }
            b'/' if slashes == Slashes::Merge && path.get(index + 1) == Some(&b'/') => normal = false,
            b'/' if path.get(index + 1) == Some(&b'.') => {
                let end = path[index + 1..]
                    .iter()
                    .position(|byte| *byte == b'/')
                    .map_or(path.len(), |at| index + 1 + at);
                normal &= !matches!(&path[index + 1..end], b"." | b"..");
            }
            _ => {}
        }
        index += 1;
    }
    Ok(normal)
}

/// Decodes the encodings of unreserved characters and writes the others in capitals.
fn decode_unreserved(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut index = 0;
    while index < path.len() {
        if path[index] != b'%' {
            decoded.push(path[index]);
            index += 1;
            continue;
        }
        let value = encoded(&path[index..]).ok_or(PathError::BadEncoding)?;
        if is_unreserved(value) {
            decoded.push(value);
        } else {
            decoded.push(b'%');
            decoded.extend(path[index + 1..index + 3].iter().map(u8::to_ascii_uppercase));
        }
        index += 3;
    }
    Ok(decoded)
}

fn encoded(text: &[u8]) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let value = digit(text.get(1)?)? * 16 + digit(text.get(2)?)?;
    u8::try_from(value).ok()
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether `text` is a host with an optional port, RFC 3986 §3.2 without user
/// information.
#[must_use]
pub fn is_authority(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (host, port) = if bytes.first() == Some(&b'[') {
        let Some(end) = bytes.iter().position(|byte| *byte == b']') else { return false };
        let literal = &bytes[1..end];
        if !literal.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')) {
            return false;
        }
        (literal, &bytes[end + 1..])
    } else {
        let end = bytes.iter().position(|byte| *byte == b':').unwrap_or(bytes.len());
        let is_name = |byte: &u8| is_unreserved(*byte) || b"!$&'()*+,;=%".contains(byte);
        if !bytes[..end].iter().all(is_name) {
            return false;
        }
        (&bytes[..end], &bytes[end..])
    };
    let is_port = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    !host.is_empty() && host.len() <= 255 && is_port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_come_into_their_normal_form() {
        for (path, normal) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/a/%2e%2E/b", "/b"),
            ("/%61dmin", "/admin"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2Fb", "/a%2Fb"),
            ("//a///b//", "/a/b/"),
            ("/.hidden/..x", "/.hidden/..x"),
            ("/a/..", "/"),
            ("/%7euser", "/~user"),
        ] {
            assert_eq!(normalise(path, Slashes::Merge).as_deref(), Ok(normal), "{path}");
        }
        assert_eq!(normalise("//a/../b", Slashes::Keep).as_deref(), Ok("//b"));
        assert!(matches!(normalise("/a/b", Slashes::Merge), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn what_has_no_harmless_reading_is_refused() {
        for (path, error) in [
            ("", PathError::NotAbsolute),
            ("a", PathError::NotAbsolute),
            ("/%", PathError::BadEncoding),
            ("/%4", PathError::BadEncoding),
            ("/%zz", PathError::BadEncoding),
            ("/%00", PathError::BadCharacter),
            ("/a\\b", PathError::BadCharacter),
            ("/a b", PathError::BadCharacter),
            ("/a\tb", PathError::BadCharacter),
            ("/é", PathError::BadCharacter),
            ("/..", PathError::AboveRoot),
            ("/a/../../b", PathError::AboveRoot),
        ] {
            assert_eq!(normalise(path, Slashes::Merge), Err(error), "{path}");
        }
    }

    #[test]
    fn the_normal_form_of_a_normal_form_is_itself() {
        let pieces = ["/", "/.", "/..", "a", "%2e", "%2F", "%61", "//", "b%20", "~"];
        let mut seed = 7usize;
        for _ in 0..20_000 {
            let mut path = String::from("/");
            for _ in 0..8 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                path.push_str(pieces[(seed >> 33) % pieces.len()]);
            }
            for slashes in [Slashes::Merge, Slashes::Keep] {
                if let Ok(normal) = normalise(&path, slashes) {
                    assert_eq!(normalise(&normal, slashes).as_deref(), Ok(&*normal), "{path}");
                }
            }
        }
    }

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        for text in ["a", "a.example:80", "127.0.0.1", "[::1]:443", "[::1]", "a_b:1"] {
            assert!(is_authority(text), "{text}");
        }
        for text in ["", ":80", "a@b", "a b", "a:b", "a:123456", "[::1", "[zz]", "a/b", "a:1:2", "[::1]x"] {
            assert!(!is_authority(text), "{text}");
        }
    }
}
