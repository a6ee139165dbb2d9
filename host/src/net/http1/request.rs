//! A request's head: bytes in, a [`RequestHead`] and its framing out.

use crate::message::{BodyLength, Fields, Method, Name, RequestHead, Scheme, Span, Version};
use crate::net::path;

use super::grammar::{self, Control, LineFault};
use super::{HeadLimits, Rejection};

/// Room behind the head's text for the fields the gateway adds, so that the
/// usual request allocates once.
const SLACK: usize = 320;

/// A request head, and what it says of the connection and the body.
#[derive(Debug)]
pub struct ParsedRequest {
    /// The head.
    pub head: RequestHead,
    /// Bytes it took.
    pub bytes: usize,
    /// The body that follows.
    pub body: BodyLength,
    /// Whether the client lets the connection live on.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue`.
    pub expects_continue: bool,
    /// Whether `Connection` names `upgrade` and an `Upgrade` field is there.
    pub upgrade: bool,
}

/// Parses the head at the beginning of `bytes`; `None` when it is not whole yet.
///
/// Empty lines before a request line are the caller's to skip.
///
/// # Errors
/// Whatever is not exactly RFC 9112, with the status to answer.
pub fn parse_request(
    bytes: &[u8],
    limits: &HeadLimits,
    scheme: Scheme,
) -> Result<Option<ParsedRequest>, Rejection> {
    grammar::with_headers(limits.fields_max, |headers| {
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, headers) {
            Ok(httparse::Status::Complete(length)) if length <= limits.head_bytes_max => {
                build(&bytes[..length], &request, limits, scheme).map(Some)
            }
            Ok(httparse::Status::Partial) if bytes.len() < limits.head_bytes_max => {
                check_partial(bytes, limits)
            }
            Ok(_) => Err(too_large(bytes)),
            Err(error) => Err(refused(grammar::reason(error))),
        }
    })
}

/// A head over its limit: the target's fault as long as the first line lasts.
pub(super) fn too_large(bytes: &[u8]) -> Rejection {
    match memchr::memchr(b'\n', bytes) {
        None => Rejection::with(414, "target_too_long"),
        Some(_) => Rejection::with(431, "head_too_large"),
    }
}

fn refused(fault: LineFault) -> Rejection {
    match fault {
        LineFault::LineEnd => Rejection::bad("bad_line_end"),
        LineFault::Grammar(reason) => Rejection::bad(reason),
        LineFault::TooMany => Rejection::with(431, "too_many_fields"),
    }
}

/// What can be refused before the head is whole: an endless target, and line
/// feeds without a carriage return, which httparse takes as a line's end.
fn check_partial(bytes: &[u8], limits: &HeadLimits) -> Result<Option<ParsedRequest>, Rejection> {
    let first_line = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
    // A method and a version are around the target.
    if first_line > limits.target_bytes_max + 64 {
        return Err(Rejection::with(414, "target_too_long"));
    }
    let bare = memchr::memchr_iter(b'\n', bytes).any(|at| at == 0 || bytes[at - 1] != b'\r');
    if bare { Err(Rejection::bad("bad_line_end")) } else { Ok(None) }
}

fn build(
    bytes: &[u8],
    request: &httparse::Request<'_, '_>,
    limits: &HeadLimits,
    scheme: Scheme,
) -> Result<ParsedRequest, Rejection> {
    if !bytes.ends_with(b"\r\n\r\n") {
        return Err(Rejection::bad("bad_line_end"));
    }
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Rejection::bad("bad_start_line"));
    };
    let version = if version == 0 { Version::Http10 } else { Version::Http11 };
    let method = Method::of(method);
    if method == Method::Connect {
        return Err(Rejection::with(501, "connect_not_supported"));
    }
    let mut text = Vec::with_capacity(bytes.len() + SLACK);
    text.extend_from_slice(bytes);
    let mut fields = Fields::over(text);
    let taken = take_fields(bytes, request.headers, &mut fields)?;
    let control = taken.control;
    let body = framing(&control, version)?;
    let target = Target::parse(bytes, target, &method, limits)?;
    let authority = authority(&target, taken.host, version)?;
    let path = normal_path(bytes, target.path, &mut fields, limits)?;
    let query = target.query.map(|query| encoded_query(bytes, query, &mut fields));
    Ok(ParsedRequest {
        bytes: bytes.len(),
        body,
        keep_alive: !control.close && (version == Version::Http11 || control.keep_alive),
        expects_continue: taken.expects_continue && version == Version::Http11 && !body.is_empty(),
        upgrade: control.upgrade && taken.upgrade && version == Version::Http11,
        head: RequestHead::new(method, version, scheme, authority, path, query, fields),
    })
}

struct Taken {
    control: Control,
    host: Option<Span>,
    expects_continue: bool,
    upgrade: bool,
}

fn take_fields(
    bytes: &[u8],
    headers: &[httparse::Header<'_>],
    fields: &mut Fields,
) -> Result<Taken, Rejection> {
    let mut taken =
        Taken { control: Control::default(), host: None, expects_continue: false, upgrade: false };
    for line in grammar::lines(bytes, headers) {
        let line = line.map_err(refused)?;
        let known = Name::of(line.name.get(bytes));
        let value = line.value.get(bytes);
        match known {
            Name::Other => {}
            Name::Host => {
                if taken.host.is_some() {
                    return Err(Rejection::bad("several_hosts"));
                }
                if !path::is_authority(value) {
                    return Err(Rejection::bad("bad_host"));
                }
                taken.host = Some(line.value);
                continue;
            }
            Name::Expect => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Rejection::with(417, "unknown_expectation"));
                }
                taken.expects_continue = true;
            }
            Name::Upgrade => taken.upgrade = true,
            known => {
                taken.control.note(known, value).map_err(|(status, reason)| Rejection { status, reason })?
            }
        }
        grammar::push(fields, known, &line);
    }
    Ok(taken)
}

fn framing(control: &Control, version: Version) -> Result<BodyLength, Rejection> {
    match (control.chunked, control.content_length) {
        (true, Some(_)) => Err(Rejection::bad("length_and_transfer_encoding")),
        (true, None) if version == Version::Http10 => Err(Rejection::bad("transfer_encoding_in_http_1_0")),
        (true, None) => Ok(BodyLength::Unknown),
        (false, Some(length)) => Ok(BodyLength::Known(length)),
        (false, None) => Ok(BodyLength::None),
    }
}

/// A request target's parts, as spans of the head.
struct Target {
    authority: Option<Span>,
    path: Span,
    query: Option<Span>,
}

impl Target {
    fn parse(bytes: &[u8], target: &str, method: &Method, limits: &HeadLimits) -> Result<Self, Rejection> {
        let whole = target.as_bytes();
        if whole.len() > limits.target_bytes_max {
            return Err(Rejection::with(414, "target_too_long"));
        }
        if memchr::memchr(b'#', whole).is_some() {
            return Err(Rejection::bad("fragment_in_target"));
        }
        if whole == b"*" {
            return match method {
                Method::Options => {
                    Ok(Self { authority: None, path: grammar::offset(bytes, whole), query: None })
                }
                _ => Err(Rejection::bad("bad_target")),
            };
        }
        let (authority, rest) = match whole.first() {
            Some(b'/') => (None, whole),
            _ => {
                let (authority, rest) = absolute(whole).ok_or(Rejection::bad("bad_target"))?;
                if !path::is_authority(authority) {
                    return Err(Rejection::bad("bad_host"));
                }
                (Some(grammar::offset(bytes, authority)), rest)
            }
        };
        let (path, query) = match memchr::memchr(b'?', rest) {
            Some(mark) => (&rest[..mark], Some(&rest[mark + 1..])),
            None => (rest, None),
        };
        Ok(Self {
            authority,
            path: grammar::offset(bytes, path),
            query: query.map(|query| grammar::offset(bytes, query)),
        })
    }
}

/// Splits `http://authority/rest`.
fn absolute(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let after = [&b"http://"[..], b"https://"].iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    })?;
    let end = memchr::memchr2(b'/', b'?', after).unwrap_or(after.len());
    Some(after.split_at(end))
}

/// One authority for everyone: the target's, else Host's (RFC 9112 §3.2.2).
fn authority(target: &Target, host: Option<Span>, version: Version) -> Result<Span, Rejection> {
    match (target.authority, host) {
        (_, None) if version == Version::Http11 => Err(Rejection::bad("no_host")),
        (Some(authority), _) => Ok(authority),
        (None, Some(host)) => Ok(host),
        (None, None) => Ok(Span::of(0, 0)),
    }
}

fn normal_path(
    bytes: &[u8],
    span: Span,
    fields: &mut Fields,
    limits: &HeadLimits,
) -> Result<Span, Rejection> {
    let raw = span.get(bytes);
    if raw == b"*" || path::is_normal(raw, limits.slashes) {
        return Ok(span);
    }
    let path = path::normalize(raw, limits.slashes).map_err(|error| Rejection::bad(error.reason()))?;
    Ok(fields.store(&path))
}

/// A query is passed on as received, but for bytes that may not stand in one.
fn encoded_query(bytes: &[u8], span: Span, fields: &mut Fields) -> Span {
    let raw = span.get(bytes);
    if raw.is_ascii() {
        return span;
    }
    fields.store(&path::encode_foreign(raw))
}
