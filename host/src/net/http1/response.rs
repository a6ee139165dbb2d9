//! A response's head: bytes in, a [`ResponseHead`] and its framing out.

use crate::message::{BodyLength, Fields, Name, ResponseHead, Version};

use super::HeadLimits;
use super::grammar::{self, Control, LineFault};

/// Room behind the text for what filters set.
const SLACK: usize = 192;

/// A response head, and what it says of the connection and the body.
#[derive(Debug)]
pub struct ParsedResponse {
    /// The head.
    pub head: ResponseHead,
    /// Bytes it took.
    pub bytes: usize,
    /// The body that follows.
    pub body: BodyLength,
    /// Whether the body lasts until the connection closes.
    pub until_close: bool,
    /// Whether the connection may carry another request afterwards.
    pub keep_alive: bool,
    /// Whether `Connection: upgrade` and an `Upgrade` field are there.
    pub upgrade: bool,
}

/// Parses the head at the beginning of `bytes`; `None` when it is not whole
/// yet. `to_head` says that the request was HEAD.
///
/// # Errors
/// A reason code: whatever is not exactly RFC 9112.
pub fn parse_response(
    bytes: &[u8],
    limits: &HeadLimits,
    to_head: bool,
) -> Result<Option<ParsedResponse>, &'static str> {
    // An interim answer's empty line is no part of the next head.
    if bytes.first().is_some_and(|&byte| byte != b'H') {
        return Err("bad_status_line");
    }
    grammar::with_headers(limits.fields_max, |headers| {
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        match config.parse_response_with_uninit_headers(&mut response, bytes, headers) {
            Ok(httparse::Status::Complete(length)) if length <= limits.head_bytes_max => {
                build(&bytes[..length], &response, to_head).map(Some)
            }
            Ok(httparse::Status::Partial) if bytes.len() < limits.head_bytes_max => {
                let bare = memchr::memchr_iter(b'\n', bytes).any(|at| at == 0 || bytes[at - 1] != b'\r');
                if bare { Err("bad_line_end") } else { Ok(None) }
            }
            Ok(_) => Err("head_too_large"),
            Err(error) => Err(refused(grammar::reason(error))),
        }
    })
}

fn refused(fault: LineFault) -> &'static str {
    match fault {
        LineFault::LineEnd => "bad_line_end",
        LineFault::Grammar(reason) => reason,
        LineFault::TooMany => "too_many_fields",
    }
}

fn build(
    bytes: &[u8],
    response: &httparse::Response<'_, '_>,
    to_head: bool,
) -> Result<ParsedResponse, &'static str> {
    if !bytes.ends_with(b"\r\n\r\n") {
        return Err("bad_line_end");
    }
    let (Some(version), Some(status)) = (response.version, response.code) else {
        return Err("bad_status_line");
    };
    if !(100..=599).contains(&status) {
        return Err("bad_status");
    }
    let version = if version == 0 { Version::Http10 } else { Version::Http11 };
    let mut text = Vec::with_capacity(bytes.len() + SLACK);
    text.extend_from_slice(bytes);
    let mut head = ResponseHead { status, fields: Fields::over(text) };
    let mut control = Control::default();
    let mut upgrade = false;
    for line in grammar::lines(bytes, response.headers) {
        let line = line.map_err(refused)?;
        let known = Name::of(line.name.get(bytes));
        match known {
            Name::Other => {}
            Name::Upgrade => upgrade = true,
            known => control.note(known, line.value.get(bytes)).map_err(|(_, reason)| reason)?,
        }
        grammar::push(&mut head.fields, known, &line);
    }
    let (body, until_close) = framing(&control, version, status, to_head)?;
    Ok(ParsedResponse {
        head,
        bytes: bytes.len(),
        body,
        until_close,
        keep_alive: !until_close && !control.close && (version == Version::Http11 || control.keep_alive),
        upgrade: upgrade && control.upgrade,
    })
}

fn framing(
    control: &Control,
    version: Version,
    status: u16,
    to_head: bool,
) -> Result<(BodyLength, bool), &'static str> {
    if control.chunked && control.content_length.is_some() {
        return Err("length_and_transfer_encoding");
    }
    if control.chunked && version == Version::Http10 {
        return Err("transfer_encoding_in_http_1_0");
    }
    if to_head || status < 200 || status == 204 || status == 304 {
        return Ok((BodyLength::None, false));
    }
    Ok(match (control.chunked, control.content_length) {
        (true, _) => (BodyLength::Unknown, false),
        (false, Some(length)) => (BodyLength::Known(length), false),
        (false, None) => (BodyLength::Unknown, true),
    })
}

/// The reason phrase of a status, for the status line; empty when unknown.
#[must_use]
pub(super) fn reason_phrase(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("")
}
