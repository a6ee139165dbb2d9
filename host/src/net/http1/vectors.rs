//! Hostile and awkward messages: bytes in, what must become of them.

use super::chunked::{Decoder, Step};
use super::*;
use crate::message::{BodyLength, Fields, Scheme};

/// What a request's bytes must become: `Ok` with method, authority, path and
/// body length, or the status of the refusal.
type Expected = Result<(&'static str, &'static str, &'static str, BodyLength), u16>;

const NONE: BodyLength = BodyLength::None;
const CHUNKED: BodyLength = BodyLength::Unknown;

fn known(length: u64) -> BodyLength {
    BodyLength::Known(length)
}

fn requests() -> Vec<(&'static str, Expected)> {
    vec![
        // Plain ones.
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(("GET", "a", "/", NONE))),
        ("get / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(("get", "a", "/", NONE))),
        ("M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(("M-SEARCH", "a", "/", NONE))),
        ("GET /?a=b?c HTTP/1.1\r\nHost: a\r\n\r\n", Ok(("GET", "a", "/", NONE))),
        ("GET / HTTP/1.0\r\n\r\n", Ok(("GET", "", "/", NONE))),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", Ok(("GET", "a", "/", NONE))),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Ok(("OPTIONS", "a", "*", NONE))),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", Ok(("POST", "a", "/", known(0)))),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", Ok(("POST", "a", "/", known(5)))),
        ("POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH:5\r\n\r\n", Ok(("POST", "a", "/", known(5)))),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \t5 \t\r\n\r\n", Ok(("POST", "a", "/", known(5)))),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 005\r\n\r\n", Ok(("POST", "a", "/", known(5)))),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Ok(("POST", "a", "/", CHUNKED))),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n", Ok(("POST", "a", "/", CHUNKED))),
        ("GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n", Ok(("GET", "a", "/", NONE))),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \u{e9}\r\n\r\n", Ok(("GET", "a", "/", NONE))),
        // Content-Length.
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,6\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5a\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5.0\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5;\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \"5\"\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \u{665}\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\n Content-Length: 5\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length\r\n\r\n", Err(400)),
        // Transfer-Encoding.
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", Err(400)),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            Err(400),
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
            Err(400),
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", Err(501)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", Err(501)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunkedx\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\0\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n", Err(400)),
        ("POST / HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n", Err(400)),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Err(400)),
        // Line ends and control characters.
        ("GET / HTTP/1.1\nHost: a\n\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", Err(400)),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\n\r\n", Err(400)),
        ("GET / HTTP/1.1\rHost: a\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nX y: z\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nX(y): z\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\0: z\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\n\u{e9}: z\r\n\r\n", Err(400)),
        // Request lines.
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Err(400)),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("G\0T / HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Err(400)),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Err(400)),
        ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", Err(400)),
        ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", Err(400)),
        ("GET / HTTP/11\r\nHost: a\r\n\r\n", Err(400)),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET / XTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /\r\n\r\n", Err(400)),
        ("GET\r\n\r\n", Err(400)),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Err(400)),
        ("\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n", Err(400)),
        ("HTTP/1.1 200 OK\r\nHost: a\r\n\r\n", Err(400)),
        // Targets.
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET ?x HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /a%00 HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /a% HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /../a HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /a/..%2f..%2fb HTTP/1.1\r\nHost: a\r\n\r\n", Ok(("GET", "a", "/a/..%2F..%2Fb", NONE))),
        ("GET /a/%2e%2e/b HTTP/1.1\r\nHost: a\r\n\r\n", Ok(("GET", "a", "/b", NONE))),
        ("GET //a//b HTTP/1.1\r\nHost: a\r\n\r\n", Ok(("GET", "a", "/a/b", NONE))),
        ("GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", Ok(("GET", "b", "/x", NONE))),
        ("GET HTTP://b:81?x HTTP/1.1\r\nHost: a\r\n\r\n", Ok(("GET", "b:81", "/", NONE))),
        ("GET https://b HTTP/1.1\r\nHost: a\r\n\r\n", Ok(("GET", "b", "/", NONE))),
        ("GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET http://b/ HTTP/1.1\r\n\r\n", Err(400)),
        ("GET ftp://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET http:/b HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET //b/x HTTP/1.1\r\nHost: a\r\n\r\n", Ok(("GET", "a", "/b/x", NONE))),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", Err(501)),
        ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", Err(501)),
        // Host.
        ("GET / HTTP/1.1\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", Err(400)),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a:\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: http://a\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Err(400)),
        ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Ok(("GET", "[::1]:80", "/", NONE))),
        // Expect.
        (
            "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n",
            Ok(("PUT", "a", "/", known(1))),
        ),
        ("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\n", Err(417)),
        ("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, x\r\nContent-Length: 1\r\n\r\n", Err(417)),
    ]
}

fn parse(bytes: &[u8]) -> Result<Option<ParsedRequest>, Rejection> {
    parse_request(bytes, &HeadLimits::default(), Scheme::Http)
}

#[test]
fn requests_are_taken_or_refused_as_the_standard_says() {
    for (text, expected) in requests() {
        let parsed = match parse(text.as_bytes()) {
            Ok(Some(parsed)) => {
                let head = &parsed.head;
                assert!(head.fields.value(crate::message::Name::Host).is_none(), "{text:?}");
                Ok((
                    head.method.as_str().to_owned(),
                    head.authority().to_owned(),
                    head.path().to_owned(),
                    parsed.body,
                ))
            }
            Ok(None) => panic!("{text:?} is whole"),
            Err(rejection) => Err(rejection.status),
        };
        let expected = expected.map(|(m, a, p, b)| (m.to_owned(), a.to_owned(), p.to_owned(), b));
        assert_eq!(parsed, expected, "{text:?}");
    }
}

#[test]
fn a_request_in_pieces_becomes_what_it_is_whole() {
    for (text, _) in requests() {
        let bytes = text.as_bytes();
        let whole = parse(bytes).map(|parsed| parsed.map(|parsed| parsed.bytes));
        for cut in 0..bytes.len() {
            match parse(&bytes[..cut]) {
                Ok(None) => {}
                // What is refused early would have been refused whole.
                Err(_) => assert!(whole.is_err(), "{text:?} cut at {cut}"),
                Ok(Some(early)) => assert_eq!(Ok(Some(early.bytes)), whole, "{text:?} cut at {cut}"),
            }
        }
    }
}

#[test]
fn heads_over_their_limits_are_refused_before_they_are_whole() {
    let limits =
        HeadLimits { head_bytes_max: 1024, fields_max: 10, target_bytes_max: 256, ..HeadLimits::default() };
    let status =
        |text: &str| parse_request(text.as_bytes(), &limits, Scheme::Http).map(|_| ()).map_err(|r| r.status);
    assert_eq!(status(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(256))), Err(414));
    assert_eq!(status(&format!("GET /{}", "a".repeat(2000))), Err(414));
    assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(2000))), Err(431));
    assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(10))), Err(431));
    assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(9))), Ok(()));
}

#[test]
fn what_a_head_says_of_its_connection_is_understood() {
    for (text, keep_alive, expects, upgrade) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true, false, false),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false, false, false),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n", false, false, false),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", false, false, false),
        ("GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n", true, false, false),
        ("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", true, true, false),
        ("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", true, false, false),
        (
            "PUT / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
            false,
            false,
            false,
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", true, false, true),
        ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n", true, false, false),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\r\n", true, false, false),
        ("GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", false, false, false),
    ] {
        let parsed = parse(text.as_bytes()).unwrap().unwrap();
        let found = (parsed.keep_alive, parsed.expects_continue, parsed.upgrade);
        assert_eq!(found, (keep_alive, expects, upgrade), "{text:?}");
    }
}

/// What a response's bytes must become: status, body length and whether it
/// lasts until the connection closes, or nothing.
#[allow(clippy::type_complexity, reason = "a table of one test")]
fn responses() -> Vec<(&'static str, Option<(u16, BodyLength, bool)>)> {
    let until_close = BodyLength::Unknown;
    vec![
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Some((200, known(5), false))),
        ("HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n", Some((200, known(5), false))),
        ("HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", Some((200, known(0), false))),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Some((200, CHUNKED, false))),
        ("HTTP/1.1 200 OK\r\n\r\n", Some((200, until_close, true))),
        ("HTTP/1.0 200 OK\r\n\r\n", Some((200, until_close, true))),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", Some((204, NONE, false))),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Some((304, NONE, false))),
        ("HTTP/1.1 100 Continue\r\n\r\n", Some((100, NONE, false))),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0x10\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n", None),
        ("HTTP/1.1 204 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        ("HTTP/1.1 200 OK\nContent-Length: 5\n\n", None),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nX : a\r\n\r\n", None),
        ("HTTP/1.1 20 OK\r\n\r\n", None),
        ("HTTP/1.1 2000 OK\r\n\r\n", None),
        ("HTTP/1.1 099 OK\r\n\r\n", None),
        ("HTTP/1.1 999 OK\r\n\r\n", None),
        ("HTTP/1.1  200 OK\r\n\r\n", None),
        ("HTTP/2.0 200 OK\r\n\r\n", None),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", None),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", None),
        ("\x09\x01\x02garbage\r\n\r\n", None),
    ]
}

#[test]
fn responses_are_taken_or_refused_as_the_standard_says() {
    for (text, expected) in responses() {
        let found = parse_response(text.as_bytes(), &HeadLimits::default(), false)
            .ok()
            .map(|parsed| parsed.expect("whole"))
            .map(|parsed| (parsed.head.status, parsed.body, parsed.until_close));
        assert_eq!(found, expected, "{text:?}");
        for cut in 0..text.len() {
            let early = parse_response(&text.as_bytes()[..cut], &HeadLimits::default(), false);
            match early {
                Ok(None) => {}
                Ok(Some(parsed)) => {
                    assert_eq!(Some((parsed.head.status, parsed.body, parsed.until_close)), expected)
                }
                Err(_) => assert_eq!(expected, None, "{text:?} cut at {cut}"),
            }
        }
    }
}

#[test]
fn the_answer_to_head_has_no_body() {
    let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let parsed = parse_response(text, &HeadLimits::default(), true).unwrap().unwrap();
    assert_eq!((parsed.body, parsed.keep_alive), (BodyLength::None, true));
}

/// Decodes pieces: body, trailers and what was left over, or the reason.
#[allow(clippy::type_complexity, reason = "a helper of one test")]
fn decode(pieces: &[&[u8]]) -> Result<Option<(Vec<u8>, Option<Fields>, Vec<u8>)>, &'static str> {
    let mut decoder = Decoder::default();
    let mut waiting = Vec::new();
    let mut body = Vec::new();
    let mut pieces = pieces.iter();
    loop {
        match decoder.step(&waiting)? {
            Step::More(skip) => {
                waiting.drain(..skip);
                let Some(piece) = pieces.next() else { return Ok(None) };
                waiting.extend_from_slice(piece);
            }
            Step::Data { skip, data } => {
                body.extend_from_slice(&waiting[skip..skip + data]);
                waiting.drain(..skip + data);
                decoder.consumed(data);
            }
            Step::End(skip, trailers) => {
                waiting.drain(..skip);
                for piece in pieces {
                    waiting.extend_from_slice(piece);
                }
                return Ok(Some((body, trailers, waiting)));
            }
        }
    }
}

#[test]
fn a_chunked_body_survives_every_split() {
    for (text, body, rest) in [
        ("5\r\nhello\r\n0\r\n\r\nGET", "hello", "GET"),
        ("5;a=b;c=\"d\"\r\nhello\r\n00\r\n\r\n", "hello", ""),
        ("1\r\na\r\nA\r\n0123456789\r\n000\r\nX-Sum: 1\r\n\r\n\r\n", "a0123456789", "\r\n"),
        ("0\r\n\r\n", "", ""),
    ] {
        let bytes = text.as_bytes();
        for cut in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            let (found, _, left) = decode(&[head, tail]).unwrap().unwrap();
            assert_eq!((&found[..], &left[..]), (body.as_bytes(), rest.as_bytes()), "{text:?} cut at {cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(decode(&single).unwrap().unwrap().0, body.as_bytes());
    }
}

#[test]
fn broken_chunks_are_refused_at_every_split() {
    for text in [
        "\r\nhello",
        "g\r\n",
        "0x5\r\nhello\r\n",
        "+5\r\nhello\r\n",
        "-5\r\nhello\r\n",
        " 5\r\nhello\r\n",
        "5 \r\nhello\r\n",
        "5 ;a\r\nhello\r\n",
        ";a\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhelloo\r\n",
        "5;a\nb\r\nhello\r\n",
        "5;a\rb\r\nhello\r\n",
        "5;a\0\r\nhello\r\n",
        "10000000000000000\r\n",
        "ffffffffffffffff\r\n",
        "00000000000000005\r\nhello\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\nX y\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\n X: y\r\n\r\n",
        "0\r\nX: y\r\n z\r\n\r\n",
        "0\r\nX: \0\r\n\r\n",
        "0\r\n\nGET",
    ] {
        let bytes = text.as_bytes();
        for cut in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            assert!(decode(&[head, tail]).is_err(), "{text:?} cut at {cut}");
        }
    }
}

#[test]
fn extensions_and_trailers_are_bounded_and_trailers_filtered() {
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(9000));
    assert_eq!(decode(&[long.as_bytes()]).unwrap_err(), "chunk_extensions_too_large");
    let many = "1;aaaaaaaa\r\na\r\n".repeat(2000);
    assert_eq!(decode(&[many.as_bytes()]).unwrap_err(), "chunk_extensions_too_large");
    let long = format!("0\r\nX: {}", "a".repeat(9000));
    assert_eq!(decode(&[long.as_bytes()]).unwrap_err(), "trailers_too_large");
    let many = format!("0\r\n{}\r\n", "X: y\r\n".repeat(65));
    assert_eq!(decode(&[many.as_bytes()]).unwrap_err(), "too_many_trailers");
    let text = b"0\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nAuthorization: y\r\nX-Sum: 1\r\n\r\n";
    let (_, trailers, _) = decode(&[text]).unwrap().unwrap();
    let trailers = trailers.unwrap();
    let names: Vec<_> = trailers.iter().map(|(name, _)| name.to_vec()).collect();
    assert_eq!(names, [b"X-Sum".to_vec()]);
}
