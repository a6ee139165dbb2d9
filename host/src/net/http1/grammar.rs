//! The small rules heads are made of: lists, lengths, codings, hosts.

use std::mem::MaybeUninit;

use crate::message::{Field, Fields, Name, Span};

/// Fields that need no memory but the stack's: as many as the limits for
/// requests and responses are unless they were raised.
const STACK_FIELDS: usize = 256;

/// What `Content-Length`, `Transfer-Encoding` and `Connection` say, gathered
/// while the fields of a head are taken over.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Control {
    pub(super) content_length: Option<u64>,
    pub(super) chunked: bool,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
}

impl Control {
    /// Notes one field. The error is a reason code and the status a request gets.
    pub(super) fn note(&mut self, known: Name, value: &[u8]) -> Result<(), (u16, &'static str)> {
        match known {
            Name::ContentLength => {
                if self.content_length.is_some() {
                    return Err((400, "several_content_lengths"));
                }
                self.content_length = Some(parse_length(value).ok_or((400, "bad_content_length"))?);
            }
            Name::TransferEncoding => {
                if self.chunked {
                    return Err((400, "several_transfer_encodings"));
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(refused_coding(value));
                }
                self.chunked = true;
            }
            Name::Connection => {
                for token in tokens(value) {
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                    self.upgrade |= token.eq_ignore_ascii_case(b"upgrade");
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// A coding that is spelled properly but not ours is 501; anything that could
/// be read as `chunked` by a laxer parser is 400.
fn refused_coding(value: &[u8]) -> (u16, &'static str) {
    let foreign = [&b"gzip"[..], b"x-gzip", b"deflate", b"compress", b"x-compress", b"identity"];
    let all_foreign = tokens(value).all(|token| foreign.iter().any(|name| token.eq_ignore_ascii_case(name)));
    match all_foreign && !value.is_empty() {
        true => (501, "unsupported_transfer_encoding"),
        false => (400, "bad_transfer_encoding"),
    }
}

/// A length: digits only, within 64 bits.
pub(super) fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 20 {
        return None;
    }
    value.iter().try_fold(0_u64, |sum, &byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// The elements of a comma-separated list, trimmed, empty ones left out.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim).filter(|token| !token.is_empty())
}

/// Without surrounding spaces and tabs.
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// What went wrong while the lines of a head were taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineFault {
    /// A line that does not end in CR LF.
    LineEnd,
    /// The grammar, as a reason code.
    Grammar(&'static str),
    /// More fields than the limit.
    TooMany,
}

/// What httparse found, as offsets into the head.
pub(super) struct Line {
    pub(super) name: Span,
    pub(super) value: Span,
}

/// Makes offsets of the borrowed slices httparse returns, and checks what it
/// lets pass: each line must end in CR LF.
pub(super) fn lines<'a>(
    bytes: &'a [u8],
    headers: &'a [httparse::Header<'a>],
) -> impl Iterator<Item = Result<Line, LineFault>> + 'a {
    headers.iter().map(move |header| {
        let name = offset(bytes, header.name.as_bytes());
        if name.start < 2 || &bytes[name.start as usize - 2..name.start as usize] != b"\r\n" {
            return Err(LineFault::LineEnd);
        }
        Ok(Line { name, value: offset(bytes, trim(header.value)) })
    })
}

/// Where `part`, a slice of `whole`, lies in it.
pub(super) fn offset(whole: &[u8], part: &[u8]) -> Span {
    if part.is_empty() {
        return Span::of(0, 0);
    }
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    Span::of(start, start + part.len())
}

/// Runs `parse` with room for `fields_max` headers: on the stack when few, on
/// the heap when the limit was raised.
pub(super) fn with_headers<'b, T>(
    fields_max: usize,
    parse: impl FnOnce(&mut [MaybeUninit<httparse::Header<'b>>]) -> T,
) -> T {
    if fields_max <= STACK_FIELDS {
        let mut headers = [const { MaybeUninit::uninit() }; STACK_FIELDS];
        return parse(&mut headers[..fields_max]);
    }
    let mut headers = vec![MaybeUninit::uninit(); fields_max];
    parse(&mut headers)
}

/// Adds a field whose text is in the buffer and whose name is recognised.
pub(super) fn push(fields: &mut Fields, known: Name, line: &Line) {
    fields.push(Field { known, name: line.name, value: line.value });
}

/// The reason code of an httparse error.
pub(super) fn reason(error: httparse::Error) -> LineFault {
    match error {
        httparse::Error::TooManyHeaders => LineFault::TooMany,
        httparse::Error::HeaderName => LineFault::Grammar("bad_field_name"),
        httparse::Error::HeaderValue => LineFault::Grammar("bad_field_value"),
        httparse::Error::NewLine => LineFault::LineEnd,
        httparse::Error::Status => LineFault::Grammar("bad_status_line"),
        httparse::Error::Token => LineFault::Grammar("bad_start_line"),
        httparse::Error::Version => LineFault::Grammar("bad_version"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_digits_within_64_bits() {
        assert_eq!(parse_length(b"0"), Some(0));
        assert_eq!(parse_length(b"18446744073709551615"), Some(u64::MAX));
        for bad in
            ["", "+5", "-5", "0x5", "5 ", " 5", "5,5", "1e3", "18446744073709551616", "000000000000000000005"]
        {
            assert_eq!(parse_length(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
