//! The server name of a hello, read without ending TLS.
//!
//! For listeners that pass TLS through. Pure: called with all bytes so far,
//! which are then sent on as they came. The hello may be spread over records
//! in any way; what counts is bounded by [`HELLO_BYTES_MAX`](super::HELLO_BYTES_MAX)
//! and the caller's buffer.

use std::borrow::Cow;

/// What a hello asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    /// The server name, in lower case.
    pub sni: Option<Box<str>>,
    /// The protocols offered by ALPN, the preferred first.
    pub alpn: Vec<Box<[u8]>>,
}

/// Why bytes are no hello.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The bytes are not TLS.
    #[error("not a TLS handshake")]
    NotTls,
    /// TLS, but not a hello that can be read.
    #[error("malformed TLS hello: {0}")]
    Malformed(&'static str),
    /// Longer than the limit.
    #[error("TLS hello of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Bytes it declares.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

const RECORD_HEAD: usize = 5;
const RECORD_HANDSHAKE: u8 = 22;
const RECORD_BYTES_MAX: usize = 1 << 14;
const MESSAGE_HEAD: usize = 4;
const MESSAGE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const ALPN_NAMES_MAX: usize = 32;

/// Reads the hello at the start of `bytes`; nothing when more are needed.
/// `limit` bounds the message, records' heads not counted.
///
/// # Errors
/// As soon as the bytes cannot become a hello.
pub fn parse(bytes: &[u8], limit: usize) -> Result<Option<Hello>, HelloError> {
    let Some(message) = message(bytes, limit)? else { return Ok(None) };
    read(&message).unwrap_or(Err(HelloError::Malformed("lengths do not fit"))).map(Some)
}

/// The handshake message's body, joined from the records it is in. Borrowed
/// when it is in one, as it mostly is.
fn message(bytes: &[u8], limit: usize) -> Result<Option<Cow<'_, [u8]>>, HelloError> {
    let mut joined: Vec<u8> = Vec::new();
    let mut rest = bytes;
    loop {
        let Some(fragment) = record(&mut rest)? else { return Ok(None) };
        let is_first = joined.is_empty();
        let so_far: &[u8] = if is_first {
            fragment
        } else {
            joined.extend_from_slice(fragment);
            &joined
        };
        if so_far[0] != MESSAGE_CLIENT_HELLO {
            return Err(HelloError::Malformed("the first message is no client hello"));
        }
        if let Some(&[_, a, b, c]) = so_far.first_chunk::<MESSAGE_HEAD>() {
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if length > limit {
                return Err(HelloError::TooLarge { bytes: length, limit });
            }
            let end = MESSAGE_HEAD + length;
            if so_far.len() >= end {
                return Ok(Some(if is_first {
                    Cow::Borrowed(&fragment[MESSAGE_HEAD..end])
                } else {
                    Cow::Owned(joined[MESSAGE_HEAD..end].to_vec())
                }));
            }
        }
        if is_first {
            joined.extend_from_slice(fragment);
        }
    }
}

/// The next record's bytes; nothing when it is not whole.
fn record<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, HelloError> {
    match **rest {
        [] => return Ok(None),
        [kind, ..] if kind != RECORD_HANDSHAKE => return Err(HelloError::NotTls),
        [_, major, ..] if major != 3 => return Err(HelloError::NotTls),
        [_, _, minor, ..] if minor > 4 => return Err(HelloError::NotTls),
        _ => {}
    }
    let Some(&[_, _, _, high, low]) = rest.first_chunk::<RECORD_HEAD>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length == 0 {
        return Err(HelloError::Malformed("an empty record"));
    }
    if length > RECORD_BYTES_MAX {
        return Err(HelloError::Malformed("a record over 16384 bytes"));
    }
    let Some(fragment) = rest.get(RECORD_HEAD..RECORD_HEAD + length) else { return Ok(None) };
    *rest = &rest[RECORD_HEAD + length..];
    Ok(Some(fragment))
}

/// A cursor that runs out instead of panicking.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// A vector with a length of `bytes` bytes before it.
    fn vector(&mut self, bytes: usize) -> Option<Reader<'a>> {
        let length = self.number(bytes)?;
        self.take(length).map(Reader)
    }
}

/// Nothing when a length does not fit; an error for what fits but may not be.
fn read(message: &[u8]) -> Option<Result<Hello, HelloError>> {
    let mut reader = Reader(message);
    reader.take(2 + 32)?;
    let session = reader.vector(1)?;
    if session.0.len() > 32 {
        return None;
    }
    reader.vector(2)?;
    reader.vector(1)?;
    let mut hello = Hello::default();
    if reader.0.is_empty() {
        return Some(Ok(hello));
    }
    let mut extensions = reader.vector(2)?;
    if !reader.0.is_empty() {
        return None;
    }
    let (mut has_name, mut has_alpn) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let body = extensions.vector(2)?;
        let is_repeated = match u16::try_from(kind).ok()? {
            EXTENSION_SERVER_NAME => {
                hello.sni = match server_name(body)? {
                    Ok(name) => Some(name),
                    Err(error) => return Some(Err(error)),
                };
                std::mem::replace(&mut has_name, true)
            }
            EXTENSION_ALPN => {
                hello.alpn = protocols(body)?;
                std::mem::replace(&mut has_alpn, true)
            }
            _ => false,
        };
        if is_repeated {
            return Some(Err(HelloError::Malformed("an extension is there twice")));
        }
    }
    Some(Ok(hello))
}

fn server_name(mut body: Reader<'_>) -> Option<Result<Box<str>, HelloError>> {
    let mut names = body.vector(2)?;
    let kind = names.number(1)?;
    let name = names.vector(2)?.0;
    // One name of the type host name: no other was ever defined.
    if kind != 0 || !names.0.is_empty() || !body.0.is_empty() {
        return Some(Err(HelloError::Malformed("not one host name")));
    }
    let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_good = !name.is_empty() && name.len() <= 255 && name.iter().all(is_host);
    let text = std::str::from_utf8(name).ok().filter(|_| is_good);
    Some(match text {
        None => Err(HelloError::Malformed("the server name is no host name")),
        Some(text) => {
            let text = text.strip_suffix('.').unwrap_or(text);
            Ok(text.to_ascii_lowercase().into())
        }
    })
}

fn protocols(mut body: Reader<'_>) -> Option<Vec<Box<[u8]>>> {
    let mut list = body.vector(2)?;
    let mut names = Vec::new();
    while !list.0.is_empty() {
        let name = list.vector(1)?.0;
        if name.is_empty() {
            return None;
        }
        if names.len() < ALPN_NAMES_MAX {
            names.push(name.into());
        }
    }
    body.0.is_empty().then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &u16::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
    }

    fn sni(name: &[u8]) -> Vec<u8> {
        let length = u16::try_from(name.len()).unwrap();
        let body = [&(length + 3).to_be_bytes()[..], &[0], &length.to_be_bytes(), name].concat();
        extension(0, &body)
    }

    fn message_of(extensions: &[u8]) -> Vec<u8> {
        let length = u16::try_from(extensions.len()).unwrap().to_be_bytes();
        let fixed = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]].concat();
        let body = [&fixed[..], &length, extensions].concat();
        let head = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[1, head[1], head[2], head[3]][..], &body].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for chunk in message.chunks(size) {
            out.extend([22, 3, 1]);
            out.extend(u16::try_from(chunk.len()).unwrap().to_be_bytes());
            out.extend(chunk);
        }
        out
    }

    fn good() -> Vec<u8> {
        let alpn = extension(16, b"\0\x0c\x02h2\x08http/1.1");
        message_of(&[&extension(0x0a0a, b"")[..], &sni(b"IM.Example."), &alpn].concat())
    }

    #[test]
    fn the_name_is_found_in_every_cut_and_fragmentation() {
        let wanted =
            Hello { sni: Some("im.example".into()), alpn: vec![(*b"h2").into(), (*b"http/1.1").into()] };
        for size in [1, 2, 3, 4, 5, 7, 50, 4000] {
            let bytes = records(&good(), size);
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut], 4000), Ok(None), "records of {size}, cut at {cut}");
            }
            assert_eq!(parse(&bytes, 4000).unwrap().unwrap(), wanted);
            let followed = [&bytes[..], b"more"].concat();
            assert_eq!(parse(&followed, 4000).unwrap().unwrap(), wanted);
        }
    }

    #[test]
    fn a_hello_without_extensions_has_no_name() {
        let mut message = message_of(b"");
        message.truncate(message.len() - 2);
        message[3] -= 2;
        assert_eq!(parse(&records(&message, 100), 4000), Ok(Some(Hello::default())));
    }

    #[test]
    fn a_message_over_the_limit_is_refused_from_its_head() {
        let start = [22, 3, 1, 0, 4, 1, 1, 0, 0];
        assert_eq!(parse(&start, 4000), Err(HelloError::TooLarge { bytes: 65536, limit: 4000 }));
    }

    #[test]
    fn bad_hellos_are_refused() {
        let with = |extensions: &[u8]| records(&message_of(extensions), 4000);
        let mut cut_short = good();
        cut_short[3] -= 1;
        let table: Vec<(&str, Vec<u8>)> = vec![
            ("http", b"GET / HTTP/1.1".to_vec()),
            ("alert record", vec![21, 3, 1, 0, 2, 2, 40]),
            ("ssl 2", vec![0x80, 0x2e, 1, 3, 1]),
            ("record version 2", vec![22, 2, 0]),
            ("record version 3.5", vec![22, 3, 5]),
            ("empty record", vec![22, 3, 1, 0, 0]),
            ("record too long", vec![22, 3, 1, 0x40, 1]),
            ("server hello", records(&[2, 0, 0, 1, 0], 100)),
            ("length one short", records(&cut_short, 4000)),
            ("body of one byte", records(&[1, 0, 0, 1, 3], 100)),
            ("name twice", with(&[sni(b"a"), sni(b"b")].concat())),
            ("name empty", with(&sni(b""))),
            ("name with a space", with(&sni(b"a b"))),
            ("name with a zero", with(&sni(b"a\0b"))),
            ("name not ascii", with(&sni("ä.example".as_bytes()))),
            ("name of 256 bytes", with(&sni(&[b'a'; 256]))),
            ("name of another type", with(&extension(0, b"\0\x04\x01\0\x01a"))),
            ("name list over the end", with(&extension(0, b"\0\x09\0\0\x01a"))),
            ("two names", with(&extension(0, b"\0\x08\0\0\x01a\0\0\x01b"))),
            ("empty protocol", with(&extension(16, b"\0\x01\0"))),
            ("extension over the end", with(b"\0\0\0\x09x")),
        ];
        for (name, bytes) in table {
            let outcome = parse(&bytes, 4000);
            assert!(outcome.is_err(), "{name} gave {outcome:?}");
        }
    }
}
