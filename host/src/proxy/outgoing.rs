//! What a request's head becomes on its way out, and a response's on its way back.
//!
//! Fields that are a connection's own business stay behind, and so do those
//! that `Connection` names, unless they belong to the message: a client cannot
//! have `Host`, a length or an address header taken away on its way.

use crate::message::{Fields, Name};
use crate::net::http1::tokens;

/// Tokens of `Connection` that are looked at.
const TOKENS_MAX: usize = 16;

/// Takes the hop-by-hop fields out of a request. Returns the protocols of
/// `Upgrade`, as the client listed them, and whether it takes trailers.
pub(super) fn strip_request(fields: &mut Fields) -> Stripped {
    let mut stripped = Stripped { upgrade: None, takes_trailers: takes_trailers(fields) };
    stripped.upgrade = fields.value(Name::Upgrade).map(Box::from);
    strip_named(fields);
    fields.retain(|known, name, _| {
        !is_hop(known)
            && !matches!(known, Name::Expect | Name::ProxyAuthorization)
            && (known != Name::Other || !is_disguised(name))
    });
    stripped
}

/// What [`strip_request`] found.
pub(super) struct Stripped {
    pub(super) upgrade: Option<Box<[u8]>>,
    pub(super) takes_trailers: bool,
}

/// Takes the hop-by-hop fields out of a response.
pub(super) fn strip_response(fields: &mut Fields) {
    strip_named(fields);
    if fields.table().iter().any(|field| is_hop(field.known)) {
        fields.retain(|known, _, _| !is_hop(known));
    }
}

fn is_hop(name: Name) -> bool {
    matches!(
        name,
        Name::Connection
            | Name::KeepAlive
            | Name::ProxyConnection
            | Name::TransferEncoding
            | Name::Upgrade
            | Name::Te
    )
}

fn takes_trailers(fields: &Fields) -> bool {
    fields
        .values(Name::Te)
        .flat_map(tokens)
        .any(|token| token.split(|&byte| byte == b';').next() == Some(b"trailers"))
}

/// Removes what `Connection` names.
fn strip_named(fields: &mut Fields) {
    if fields.values(Name::Connection).flat_map(tokens).all(is_own) {
        return;
    }
    let named: smallvec::SmallVec<[Box<[u8]>; 2]> = fields
        .values(Name::Connection)
        .flat_map(tokens)
        .filter(|token| !is_own(token))
        .take(TOKENS_MAX)
        .map(Box::from)
        .collect();
    for name in named {
        // What the gateway recognises is the message's, not the connection's.
        let known = Name::of(&name);
        let is_ours = known != Name::Other && !is_hop(known) && known != Name::ProxyAuthorization;
        if !is_ours {
            fields.remove(&name);
        }
    }
}

/// Whether a token of `Connection` is its own option and names no field.
fn is_own(token: &[u8]) -> bool {
    match token.len() {
        2 => token.eq_ignore_ascii_case(b"te"),
        5 => token.eq_ignore_ascii_case(b"close"),
        7 => token.eq_ignore_ascii_case(b"upgrade"),
        10 => token.eq_ignore_ascii_case(b"keep-alive"),
        _ => false,
    }
}

/// Whether a name with underscores would be taken by CGI-like origins for one
/// the gateway itself vouches for: `X_Real_IP` and `X-Real-IP` are both
/// `HTTP_X_REAL_IP` there.
fn is_disguised(name: &[u8]) -> bool {
    if memchr::memchr(b'_', name).is_none() || name.len() > 64 {
        return false;
    }
    let mut plain = [0_u8; 64];
    for (to, from) in plain.iter_mut().zip(name) {
        *to = if *from == b'_' { b'-' } else { *from };
    }
    Name::of(&plain[..name.len()]) != Name::Other
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in list {
            fields.append(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    fn names(fields: &Fields) -> Vec<String> {
        fields.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
    }

    #[test]
    fn hop_by_hop_fields_stay_behind() {
        let mut request = fields(&[
            ("Connection", "keep-alive, X-Hop, te"),
            ("Keep-Alive", "5"),
            ("X-Hop", "1"),
            ("TE", "gzip, trailers;q=1"),
            ("Proxy-Connection", "x"),
            ("Proxy-Authorization", "secret"),
            ("Transfer-Encoding", "chunked"),
            ("Expect", "100-continue"),
            ("X-Kept", "1"),
        ]);
        let stripped = strip_request(&mut request);
        assert_eq!(names(&request), ["X-Kept"]);
        assert!(stripped.takes_trailers);
    }

    #[test]
    fn connection_cannot_take_what_belongs_to_the_message() {
        let mut request = fields(&[
            ("Connection", "close, Content-Length, Host, X-Forwarded-For, Cookie, Authorization"),
            ("Content-Length", "5"),
            ("X-Forwarded-For", "192.0.2.1"),
            ("Cookie", "a=b"),
            ("Authorization", "x"),
        ]);
        strip_request(&mut request);
        assert_eq!(names(&request), ["Content-Length", "X-Forwarded-For", "Cookie", "Authorization"]);
    }

    #[test]
    fn names_that_pass_for_ours_at_the_origin_are_dropped() {
        let mut request =
            fields(&[("X_Real_IP", "1"), ("Content_Length", "5"), ("x_forwarded-for", "1"), ("my_own", "1")]);
        strip_request(&mut request);
        assert_eq!(names(&request), ["my_own"]);
    }
}
