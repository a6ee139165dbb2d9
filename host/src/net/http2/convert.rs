//! Heads between our form and that of the `http` crate, which `h2` speaks.
//!
//! What HTTP/2 leaves to the receiver is checked here, so that a request has
//! one authority and one path everywhere and nothing of HTTP/1.1's connection
//! handling crosses over.

use base64::Engine as _;
use http::header::{HeaderMap, HeaderValue};

use crate::message::{Fields, Method, Name, RequestHead, ResponseHead, Scheme, Span, Version};
use crate::net::http_types::{self, field_bytes, fields_of};
use crate::net::path;

/// Why a request that `h2` let through is not a sound one; answered with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRequest {
    /// Neither `:authority` nor `host`.
    NoAuthority,
    /// `:authority` and `host`, or two `host` fields, that differ.
    TwoAuthorities,
    /// An authority with user information or characters that have no place in one.
    BadAuthority,
    /// A `:path` that is empty, not a path, or has no normal form.
    BadPath,
    /// CONNECT but for WebSocket, which this gateway does not offer.
    Connect,
}

impl BadRequest {
    /// The reason code.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoAuthority => "h2_no_authority",
            Self::TwoAuthorities => "h2_two_authorities",
            Self::BadAuthority => "h2_bad_authority",
            Self::BadPath => "h2_bad_path",
            Self::Connect => "h2_connect",
        }
    }
}

impl std::fmt::Display for BadRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for BadRequest {}

/// The request head of an HTTP/2 stream.
///
/// # Errors
/// When authority or path are not sound; see [`BadRequest`].
pub(super) fn request_head(
    parts: &http::request::Parts,
    scheme: Scheme,
    merge_slashes: path::Slashes,
) -> Result<RequestHead, BadRequest> {
    let tunnel = tunnel_protocol(parts)?;
    let target = parts.uri.path_and_query().ok_or(BadRequest::BadPath)?;
    let authority = authority(parts)?;
    let room = target.as_str().len() + authority.len() + parts.headers.iter().map(field_bytes).sum::<usize>();
    let mut fields = Fields::over(Vec::with_capacity(room + 256));
    let authority = fields.store(authority.as_bytes());
    // A handshake goes on as HTTP/1.1 has it.
    let method = if tunnel.is_some() { Method::Get } else { Method::of(parts.method.as_str()) };
    let path_span = match target.path() {
        "*" if method == Method::Options => fields.store(b"*"),
        path => store_path(&mut fields, path, merge_slashes)?,
    };
    let query = target.query().map(|query| fields.store(query.as_bytes()));
    let mut cookies = parts.headers.get_all(http::header::COOKIE).iter();
    for (name, value) in &parts.headers {
        match *name {
            http::header::HOST => {}
            http::header::COOKIE => {
                // One field again before it meets HTTP/1.1, RFC 9113 §8.2.3.
                if let Some(first) = cookies.next() {
                    let joined = cookies.by_ref().fold(first.as_bytes().to_vec(), |mut all, next| {
                        all.extend_from_slice(b"; ");
                        all.extend_from_slice(next.as_bytes());
                        all
                    });
                    fields.append(b"cookie", &joined);
                }
            }
            _ => fields.append_parsed(name.as_str().as_bytes(), value.as_bytes()),
        }
    }
    if let Some(protocol) = tunnel {
        fields.append(b"upgrade", protocol.as_bytes());
        fields.append(b"sec-websocket-key", new_key().as_bytes());
    }
    Ok(RequestHead::new(method, Version::Http2, scheme, authority, path_span, query, fields))
}

/// The protocol of an extended CONNECT (RFC 8441); none for other methods.
///
/// # Errors
/// CONNECT without a protocol, or one this gateway does not offer.
pub(super) fn tunnel_protocol(parts: &http::request::Parts) -> Result<Option<&'static str>, BadRequest> {
    if parts.method != http::Method::CONNECT {
        return Ok(None);
    }
    match parts.extensions.get::<h2::ext::Protocol>() {
        Some(protocol) if protocol.as_str().eq_ignore_ascii_case("websocket") => Ok(Some("websocket")),
        _ => Err(BadRequest::Connect),
    }
}

/// A key of our own: over HTTP/2 the client sends none (RFC 8441 §5.1).
fn new_key() -> String {
    let mut key = [0; 16];
    // It proves that the answer belongs to the question, and hides nothing.
    let _ = getrandom::fill(&mut key);
    base64::engine::general_purpose::STANDARD.encode(key)
}

fn store_path(fields: &mut Fields, path: &str, slashes: path::Slashes) -> Result<Span, BadRequest> {
    let normal = path::normalize_text(path, slashes).map_err(|_| BadRequest::BadPath)?;
    Ok(fields.store(normal.as_bytes()))
}

fn authority(parts: &http::request::Parts) -> Result<&str, BadRequest> {
    let pseudo = parts.uri.authority().map(http::uri::Authority::as_str);
    let mut authority = pseudo;
    for host in parts.headers.get_all(http::header::HOST) {
        let host = host.to_str().map_err(|_| BadRequest::BadAuthority)?;
        match authority {
            None => authority = Some(host),
            Some(known) if known.eq_ignore_ascii_case(host) => {}
            Some(_) => return Err(BadRequest::TwoAuthorities),
        }
    }
    let authority = authority.filter(|text| !text.is_empty()).ok_or(BadRequest::NoAuthority)?;
    if path::is_authority(authority.as_bytes()) { Ok(authority) } else { Err(BadRequest::BadAuthority) }
}

/// The head of a response received over HTTP/2.
#[must_use]
pub(super) fn response_head(parts: &http::response::Parts) -> ResponseHead {
    ResponseHead { status: parts.status.as_u16(), fields: fields_of(&parts.headers) }
}

/// Our fields as a map to send, without those that belong to an HTTP/1.1 connection
/// (RFC 9113 §8.2.2).
#[must_use]
pub(super) fn map_of(fields: &Fields) -> HeaderMap {
    http_types::map_of(fields, is_connection_field)
}

fn is_connection_field(name: Name) -> bool {
    matches!(
        name,
        Name::Connection
            | Name::KeepAlive
            | Name::ProxyConnection
            | Name::TransferEncoding
            | Name::Upgrade
            | Name::Host
    )
}

/// A response head as `h2` sends it; 500 where the status is none.
#[must_use]
pub(super) fn response(head: &ResponseHead) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.status_mut() =
        http::StatusCode::from_u16(head.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    *response.version_mut() = http::Version::HTTP_2;
    *response.headers_mut() = map_of(&head.fields);
    response
}

/// A request head as `h2` sends it to an upstream; `authority` is what
/// `pass_host` made of the client's.
///
/// # Errors
/// When the pieces are no URI, which a filter's edit can bring about.
pub(super) fn request(
    head: &RequestHead,
    scheme: Scheme,
    authority: &str,
) -> Result<http::Request<()>, http::Error> {
    let mut request = http_types::request_of(head, scheme, authority, ())?;
    *request.version_mut() = http::Version::HTTP_2;
    let mut map = map_of(&head.fields);
    // TE may say `trailers` and nothing else, RFC 9113 §8.2.2.
    if let Some(te) = map.remove(http::header::TE) {
        let trailers = te.to_str().is_ok_and(|te| te.split(',').any(|one| one.trim() == "trailers"));
        if trailers {
            map.insert(http::header::TE, HeaderValue::from_static("trailers"));
        }
    }
    *request.headers_mut() = map;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(build: impl FnOnce(http::request::Builder) -> http::request::Builder) -> http::request::Parts {
        build(http::Request::builder()).body(()).unwrap().into_parts().0
    }

    fn head(parts: &http::request::Parts) -> Result<RequestHead, BadRequest> {
        request_head(parts, Scheme::Https, path::Slashes::Merge)
    }

    #[test]
    fn cookies_become_one_field() {
        let parts = parts(|request| {
            request
                .uri("https://a.example/x?y")
                .header("cookie", "a=1")
                .header("z", "1")
                .header("cookie", "b=2")
        });
        let head = head(&parts).unwrap();
        assert_eq!(head.fields.values(Name::Cookie).collect::<Vec<_>>(), [b"a=1; b=2"]);
        assert_eq!((head.authority(), head.path(), head.query()), ("a.example", "/x", Some("y")));
    }

    #[test]
    fn an_authority_is_one_and_sound() {
        for (uri, host, expected) in [
            ("/x", None, BadRequest::NoAuthority),
            ("https://a.example/x", Some("b.example"), BadRequest::TwoAuthorities),
            ("/x", Some("user@a.example"), BadRequest::BadAuthority),
            ("/x", Some("a b"), BadRequest::BadAuthority),
            ("/x", Some(""), BadRequest::NoAuthority),
        ] {
            let parts = parts(|request| {
                let request = request.uri(uri);
                match host {
                    Some(host) => request.header("host", host),
                    None => request,
                }
            });
            assert_eq!(head(&parts).unwrap_err(), expected, "{uri} {host:?}");
        }
    }

    #[test]
    fn connection_fields_do_not_cross_over() {
        let head = ResponseHead::new(200)
            .with("Connection", "close")
            .with("Transfer-Encoding", "chunked")
            .with("X-Own", "1");
        let response = response(&head);
        assert_eq!(response.headers().len(), 1);
        assert_eq!(response.headers()["x-own"], "1");
    }
}
