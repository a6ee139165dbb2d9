//! Heads of messages, as views of the one buffer the host gives.

use std::borrow::Cow;
use std::fmt;

/// Pairs before the fields of a request: method, scheme, authority, path, peer.
const REQUEST_PARTS: usize = 5;
/// Pairs before the fields of a response: status.
const RESPONSE_PARTS: usize = 1;

/// The head of a request. Nothing is copied: what the methods return lies in the
/// buffer the host filled.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    packed: Packed<'a>,
}

/// The head of a response, as [`RequestHead`].
#[derive(Clone, Copy)]
pub struct ResponseHead<'a> {
    packed: Packed<'a>,
}

/// The header fields of a head, in the order in which they came: name in lower
/// case, and value.
#[derive(Clone)]
pub struct Fields<'a> {
    packed: Packed<'a>,
    pair: usize,
}

#[derive(Clone, Copy)]
struct Packed<'a> {
    bytes: &'a [u8],
    /// Pairs of a start and a length in `bytes`.
    spans: &'a [u32],
}

impl<'a> RequestHead<'a> {
    /// The view of a buffer and its table of spans, as the host packs them.
    #[must_use]
    pub fn new(bytes: &'a [u8], spans: &'a [u32]) -> Self {
        Self { packed: Packed { bytes, spans } }
    }

    /// The method, as it came: `GET`.
    #[must_use]
    pub fn method(&self) -> &'a str {
        self.packed.text(0)
    }

    /// `http` or `https`.
    #[must_use]
    pub fn scheme(&self) -> &'a str {
        self.packed.text(1)
    }

    /// Host and port the client asked for; borrowed unless it is not UTF-8.
    #[must_use]
    pub fn authority(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.packed.part(2))
    }

    /// The path without its query; borrowed unless it is not UTF-8.
    #[must_use]
    pub fn path(&self) -> Cow<'a, str> {
        let target = self.target();
        let end = target.iter().position(|&byte| byte == b'?').unwrap_or(target.len());
        String::from_utf8_lossy(&target[..end])
    }

    /// The query, without its question mark; none when there is no question mark.
    #[must_use]
    pub fn query(&self) -> Option<&'a [u8]> {
        let target = self.target();
        let mark = target.iter().position(|&byte| byte == b'?')?;
        Some(&target[mark + 1..])
    }

    /// The path with its query.
    #[must_use]
    pub fn target(&self) -> &'a [u8] {
        self.packed.part(3)
    }

    /// The client's address, without a port, as text.
    #[must_use]
    pub fn peer(&self) -> &'a str {
        self.packed.text(4)
    }

    /// All fields the plugin asked for.
    #[must_use]
    pub fn fields(&self) -> Fields<'a> {
        Fields { packed: self.packed, pair: REQUEST_PARTS }
    }

    /// The value of the first field of this name, which is in lower case.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'a [u8]> {
        self.fields().find(|(field, _)| *field == name).map(|(_, value)| value)
    }
}

impl<'a> ResponseHead<'a> {
    /// The view of a buffer and its table of spans, as the host packs them.
    #[must_use]
    pub fn new(bytes: &'a [u8], spans: &'a [u32]) -> Self {
        Self { packed: Packed { bytes, spans } }
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.packed.text(0).parse().unwrap_or(0)
    }

    /// All fields the plugin asked for.
    #[must_use]
    pub fn fields(&self) -> Fields<'a> {
        Fields { packed: self.packed, pair: RESPONSE_PARTS }
    }

    /// The value of the first field of this name, which is in lower case.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'a [u8]> {
        self.fields().find(|(field, _)| *field == name).map(|(_, value)| value)
    }
}

impl<'a> Packed<'a> {
    /// The bytes of a pair; empty past the table's end, or for a span outside the
    /// buffer, which no host sends.
    fn part(&self, pair: usize) -> &'a [u8] {
        let Some(&[start, length]) = self.spans.get(2 * pair..2 * pair + 2) else { return &[] };
        let start = start as usize;
        self.bytes.get(start..start.saturating_add(length as usize)).unwrap_or(&[])
    }

    /// The same where the grammar allows ASCII alone. Anything else becomes a
    /// character that equals nothing one would ask for.
    fn text(&self, pair: usize) -> &'a str {
        std::str::from_utf8(self.part(pair)).unwrap_or("\u{fffd}")
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if 2 * (self.pair + 2) > self.packed.spans.len() {
            return None;
        }
        let field = (self.packed.text(self.pair), self.packed.part(self.pair + 1));
        self.pair += 2;
        Some(field)
    }
}

impl fmt::Debug for RequestHead<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RequestHead")
            .field("method", &self.method())
            .field("authority", &self.authority())
            .field("target", &String::from_utf8_lossy(self.target()))
            .field("peer", &self.peer())
            .field("fields", &self.fields())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ResponseHead<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ResponseHead")
            .field("status", &self.status())
            .field("fields", &self.fields())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Fields<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.clone().map(|(name, value)| (name, String::from_utf8_lossy(value)));
        formatter.debug_map().entries(fields).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_request_reads_as_it_was_packed() {
        let request = testing::Request::new("POST", "/a/b?c=d")
            .authority("example.org")
            .peer("192.0.2.7")
            .field("accept", "*/*")
            .field("cookie", "a=1")
            .field("cookie", "b=2");
        let (bytes, spans) = request.pack(&[]);
        let head = RequestHead::new(&bytes, &spans);
        assert_eq!((head.method(), head.scheme(), &*head.authority()), ("POST", "https", "example.org"));
        assert_eq!((&*head.path(), head.query(), head.peer()), ("/a/b", Some(&b"c=d"[..]), "192.0.2.7"));
        assert_eq!(head.field("cookie"), Some(&b"a=1"[..]));
        assert_eq!(head.field("host"), None);
        let names: Vec<&str> = head.fields().map(|(name, _)| name).collect();
        assert_eq!(names, ["accept", "cookie", "cookie"]);
    }

    #[test]
    fn a_table_that_is_cut_or_wrong_reads_as_empty() {
        for spans in [&[][..], &[0, 3, 9], &[0, 900, 5, 1, 0, 0, 0, 0, 0, 0, 7, 7, u32::MAX, u32::MAX, 1]] {
            let head = RequestHead::new(b"GETx", spans);
            assert_eq!(head.path(), "");
            assert!(head.fields().all(|(name, value)| name.is_empty() && value.is_empty()));
        }
    }
}
