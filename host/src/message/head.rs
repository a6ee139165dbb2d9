//! Request and response heads.

use super::fields::{Fields, Name, Span};

/// A request method; the common ones are recognised once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Connect,
    Trace,
    /// Any other token, as received (methods are case-sensitive).
    Other(Box<str>),
}

impl Method {
    /// Recognises a method. The caller has checked that it is a token.
    #[must_use]
    pub fn of(text: &str) -> Self {
        match text {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            "PATCH" => Self::Patch,
            "CONNECT" => Self::Connect,
            "TRACE" => Self::Trace,
            other => Self::Other(other.into()),
        }
    }

    /// The method as it stands on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Connect => "CONNECT",
            Self::Trace => "TRACE",
            Self::Other(text) => text,
        }
    }

    /// Safe in the sense of RFC 9110 §9.2.1: sending it twice changes nothing.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Options | Self::Trace)
    }

    /// Idempotent in the sense of RFC 9110 §9.2.2.
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        self.is_safe() || matches!(self, Self::Put | Self::Delete)
    }
}

/// The scheme the client used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// `http` or `https`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The HTTP version a message came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Version {
    Http10,
    Http11,
    Http2,
}

impl Version {
    /// As logs and `$server_protocol` write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2.0",
        }
    }
}

/// The head of a request, whichever protocol it came by.
///
/// The text of target, authority and fields lies in one buffer. The path is in
/// normal form (see `net::path`) from the moment the head exists: rules, filters
/// and the origin see the same one.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The protocol it came by.
    pub version: Version,
    /// The scheme the client used, by the listener's TLS.
    pub scheme: Scheme,
    /// The header fields. `Host` is among them only on its way out: parsing
    /// moves it to the authority.
    pub fields: Fields,
    authority: Span,
    path: Span,
    query: Option<Span>,
}

impl RequestHead {
    /// A head over `fields`, whose buffer holds the bytes of the spans.
    #[must_use]
    pub fn new(
        method: Method,
        version: Version,
        scheme: Scheme,
        authority: Span,
        path: Span,
        query: Option<Span>,
        fields: Fields,
    ) -> Self {
        Self { method, version, scheme, fields, authority, path, query }
    }

    /// `host[:port]` as the client named it; empty only for HTTP/1.0 without Host.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.text(self.authority)
    }

    /// The [`authority`](Self::authority) as bytes, for those who only copy or compare it.
    #[must_use]
    pub fn authority_bytes(&self) -> &[u8] {
        self.fields.get(self.authority)
    }

    /// The [`path`](Self::path) as bytes.
    #[must_use]
    pub fn path_bytes(&self) -> &[u8] {
        self.fields.get(self.path)
    }

    /// The [`query`](Self::query) as bytes.
    #[must_use]
    pub fn query_bytes(&self) -> Option<&[u8]> {
        self.query.map(|span| self.fields.get(span))
    }

    /// The authority without its port, brackets of an IPv6 literal kept.
    #[must_use]
    pub fn host(&self) -> &str {
        let authority = self.authority();
        match authority.rfind(':') {
            Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
            _ => authority,
        }
    }

    /// The [`host`](Self::host) as bytes.
    #[must_use]
    pub fn host_bytes(&self) -> &[u8] {
        let authority = self.authority_bytes();
        match memchr::memrchr(b':', authority) {
            Some(colon) if memchr::memchr(b']', &authority[colon..]).is_none() => &authority[..colon],
            _ => authority,
        }
    }

    /// The path in normal form, beginning with `/` (or `*` for OPTIONS).
    #[must_use]
    pub fn path(&self) -> &str {
        self.text(self.path)
    }

    /// The query without its `?`, as received.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.query.map(|span| self.text(span))
    }

    /// Replaces the authority.
    pub fn set_authority(&mut self, authority: &str) {
        self.authority = self.fields.store(authority.as_bytes());
    }

    /// Replaces the path; the caller brings it in normal form.
    pub fn set_path(&mut self, path: &str) {
        self.path = self.fields.store(path.as_bytes());
    }

    /// Replaces or removes the query.
    pub fn set_query(&mut self, query: Option<&str>) {
        self.query = query.map(|query| self.fields.store(query.as_bytes()));
    }

    /// The spans of authority, path and query, for those who hand the head on
    /// in one piece.
    #[must_use]
    pub fn spans(&self) -> (Span, Span, Option<Span>) {
        (self.authority, self.path, self.query)
    }

    fn text(&self, span: Span) -> &str {
        // Parsing lets only ASCII into the target and authority, and the
        // setters take `&str`; a slip would read as empty, never as a panic.
        std::str::from_utf8(self.fields.get(span)).unwrap_or_default()
    }
}

/// The head of a response.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    /// Status code, 100 to 999.
    pub status: u16,
    /// The header fields.
    pub fields: Fields,
}

impl ResponseHead {
    /// A head with this status and no fields.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self { status, fields: Fields::default() }
    }

    /// With one more field.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.append(name.as_bytes(), value.as_bytes());
        self
    }

    /// The first value of a recognised field.
    #[must_use]
    pub fn value(&self, name: Name) -> Option<&[u8]> {
        self.fields.value(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_the_authority_without_its_port() {
        for (authority, host) in [
            ("a.example:8443", "a.example"),
            ("a.example", "a.example"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
        ] {
            let mut fields = Fields::default();
            let span = fields.store(authority.as_bytes());
            let path = fields.store(b"/");
            let head = RequestHead::new(Method::Get, Version::Http11, Scheme::Http, span, path, None, fields);
            assert_eq!((head.host(), head.host_bytes()), (host, host.as_bytes()));
        }
    }
}
