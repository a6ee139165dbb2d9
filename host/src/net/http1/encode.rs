//! Heads as bytes.
//!
//! Framing and hop-by-hop fields of a head are never copied: the connection
//! writes its own. Fields that still stand in the buffer as they were received
//! are copied in runs of whole lines, so a head that was not edited costs a few
//! copies and not one for each field.

use crate::message::{BodyLength, Fields, Name, RequestHead, RequestShape, ResponseHead, TransferError};

use super::response::reason_phrase;

/// Text going into a slice of fixed size. Overflow is remembered, not fatal.
pub(super) struct Encoder<'a> {
    space: &'a mut [u8],
    at: usize,
    overflow: bool,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(space: &'a mut [u8]) -> Self {
        Self { space, at: 0, overflow: false }
    }

    /// Bytes written, if all had room.
    pub(super) fn finish(self) -> Option<usize> {
        (!self.overflow).then_some(self.at)
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        match self.space.get_mut(self.at..self.at + bytes.len()) {
            Some(space) => {
                space.copy_from_slice(bytes);
                self.at += bytes.len();
            }
            None => self.overflow = true,
        }
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        self.put(name);
        self.put(b": ");
        self.put(value);
        self.put(b"\r\n");
    }

    fn number(&mut self, number: u64) {
        self.put(itoa::Buffer::new().format(number).as_bytes());
    }

    /// Every field `skip` does not name, in order.
    fn fields(&mut self, fields: &Fields, skip: impl Fn(Name) -> bool) {
        let text = fields.text();
        let mut run = 0..0;
        for field in fields.table() {
            if skip(field.known) {
                continue;
            }
            let name_end = (field.name.start + field.name.len) as usize;
            let start = field.name.start as usize;
            let value = field.value.start as usize;
            let end = value + field.value.len as usize;
            let is_line = value == name_end + 2
                && &text[name_end..value] == b": "
                && text.get(end..end + 2) == Some(b"\r\n");
            if is_line {
                if run.end != start {
                    self.put(&text[run.clone()]);
                    run.start = start;
                }
                run.end = end + 2;
                continue;
            }
            self.put(&text[run]);
            run = 0..0;
            self.field(field.name.get(text), field.value.get(text));
        }
        self.put(&text[run]);
    }

    fn framing(&mut self, body: BodyLength) {
        match body {
            BodyLength::None => {}
            BodyLength::Known(length) => {
                self.put(b"Content-Length: ");
                self.number(length);
                self.put(b"\r\n");
            }
            BodyLength::Unknown => self.put(b"Transfer-Encoding: chunked\r\n"),
        }
    }

    /// A trailer section with the last chunk before it.
    pub(super) fn last_chunk(&mut self, trailers: Option<&Fields>) {
        self.put(b"0\r\n");
        for (name, value) in trailers.iter().flat_map(|fields| fields.iter()) {
            if super::chunked::may_trail(name) && is_value(value) {
                self.field(name, value);
            }
        }
        self.put(b"\r\n");
    }
}

/// Whether a field is the connection's own business in HTTP/1.1.
fn is_of_connection(name: Name) -> bool {
    matches!(
        name,
        Name::Connection
            | Name::KeepAlive
            | Name::ProxyConnection
            | Name::TransferEncoding
            | Name::ContentLength
            | Name::Upgrade
            | Name::Te
    )
}

/// Whether bytes may stand as a value on the wire: no line ends, no NUL.
fn is_value(value: &[u8]) -> bool {
    memchr::memchr3(b'\r', b'\n', 0, value).is_none()
}

/// Refuses a head some field of which would break its line.
pub(super) fn check(fields: &Fields) -> Result<(), TransferError> {
    match fields.breaks_lines() {
        true => Err(TransferError::Malformed("line_end_in_field")),
        false => Ok(()),
    }
}

/// A request's head.
pub(super) fn request(encoder: &mut Encoder<'_>, head: &RequestHead, shape: RequestShape<'_>) {
    encoder.put(head.method.as_str().as_bytes());
    encoder.put(b" ");
    encoder.put(head.path_bytes());
    if let Some(query) = head.query_bytes() {
        encoder.put(b"?");
        encoder.put(query);
    }
    encoder.put(b" HTTP/1.1\r\nHost: ");
    encoder.put(head.authority_bytes());
    encoder.put(b"\r\n");
    encoder.fields(&head.fields, |name| is_of_connection(name) || matches!(name, Name::Host | Name::Expect));
    match shape.upgrade {
        Some(protocols) => {
            encoder.put(b"Connection: Upgrade\r\n");
            encoder.field(b"Upgrade", protocols);
        }
        None if shape.trailers => encoder.put(b"Connection: TE\r\nTE: trailers\r\n"),
        None => {}
    }
    encoder.framing(shape.body);
    encoder.put(b"\r\n");
}

/// What a response says of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Persistence {
    /// Nothing: HTTP/1.1 keeps it.
    Implied,
    /// `keep-alive`, for an HTTP/1.0 client that asked.
    Kept,
    /// `close`.
    Closed,
}

/// A response's head.
pub(super) fn response(
    encoder: &mut Encoder<'_>,
    head: &ResponseHead,
    body: BodyLength,
    persistence: Persistence,
) {
    status_line(encoder, head.status);
    // A length that describes a body left out (HEAD, 304) is passed on; 204 has none.
    let keeps_length = body == BodyLength::None && head.status != 204 && head.status >= 200;
    encoder.fields(&head.fields, |name| match name {
        Name::ContentLength => !keeps_length,
        name => is_of_connection(name),
    });
    encoder.framing(body);
    match persistence {
        Persistence::Implied => {}
        Persistence::Kept => encoder.put(b"Connection: keep-alive\r\n"),
        Persistence::Closed => encoder.put(b"Connection: close\r\n"),
    }
    encoder.put(b"\r\n");
}

/// A head that switches protocols: the fields of the upgrade stay.
pub(super) fn switch(encoder: &mut Encoder<'_>, head: &ResponseHead) {
    status_line(encoder, head.status);
    encoder.fields(&head.fields, |name| is_of_connection(name) && name != Name::Upgrade);
    encoder.put(b"Connection: Upgrade\r\n\r\n");
}

/// An interim head: no framing at all.
pub(super) fn interim(encoder: &mut Encoder<'_>, head: &ResponseHead) {
    status_line(encoder, head.status);
    encoder.fields(&head.fields, is_of_connection);
    encoder.put(b"\r\n");
}

fn status_line(encoder: &mut Encoder<'_>, status: u16) {
    if status == 200 {
        return encoder.put(b"HTTP/1.1 200 OK\r\n");
    }
    encoder.put(b"HTTP/1.1 ");
    encoder.number(u64::from(status));
    encoder.put(b" ");
    encoder.put(reason_phrase(status).as_bytes());
    encoder.put(b"\r\n");
}
