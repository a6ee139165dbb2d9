//! Where a request ends: hostile HTTP/1.1 through the running gateway to an
//! origin that keeps every byte and reads by the standard's grammar alone.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use sluice_harness::{Raw, Sluice};
use sluice_tests::origin::Origin;
use sluice_tests::strict::Request;

/// What becomes of a vector.
enum Outcome {
    /// Answered with one of these statuses and closed; no byte of it reaches
    /// the origin.
    Refused(&'static [u16]),
    /// The head is sound and the body is not: the origin may see a beginning
    /// and never a whole request; the connection is closed.
    Broken,
    /// The origin sees these requests, whole and in this order, and the
    /// connection can be used further: method, target, host, body.
    Passed(Vec<[&'static str; 4]>),
    /// The origin sees these requests; then the connection is closed.
    PassedThenClosed(Vec<[&'static str; 4]>),
}

use Outcome::{Broken, Passed, PassedThenClosed, Refused};

struct Vector {
    name: String,
    bytes: Vec<u8>,
    outcome: Outcome,
}

#[derive(Default)]
struct Table(Vec<Vector>);

const BAD: &[u16] = &[400];
const BAD_OR_UNKNOWN: &[u16] = &[400, 501];

impl Table {
    fn add(&mut self, name: impl Into<String>, bytes: impl AsRef<[u8]>, outcome: Outcome) {
        self.0.push(Vector { name: name.into(), bytes: bytes.as_ref().to_vec(), outcome });
    }

    /// POST with these framing fields and body, refused.
    fn framing(&mut self, statuses: &'static [u16], fields: &str, body: &str) {
        let bytes = format!("POST /f HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n{body}");
        self.add(format!("framing {fields:?}"), bytes, Refused(statuses));
    }

    /// POST whose chunked body is broken.
    fn chunks(&mut self, body: impl AsRef<[u8]>) {
        let mut bytes = b"POST /c HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        bytes.extend_from_slice(body.as_ref());
        let name = format!(
            "chunks {:?}",
            String::from_utf8_lossy(body.as_ref()).chars().take(60).collect::<String>()
        );
        self.add(name, bytes, Broken);
    }

    /// POST whose chunked body is sound.
    fn sound_chunks(&mut self, body: &str, joined: &'static str) {
        let bytes = format!("POST /c HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        self.add(format!("sound chunks {body:?}"), bytes, Passed(vec![["POST", "/c", "a.test", joined]]));
    }

    fn start_line(&mut self, statuses: &'static [u16], line: impl AsRef<[u8]>) {
        let mut bytes = line.as_ref().to_vec();
        bytes.extend_from_slice(b"\r\nHost: a.test\r\n\r\n");
        self.add(
            format!("start line {:?}", String::from_utf8_lossy(line.as_ref())),
            bytes,
            Refused(statuses),
        );
    }

    fn target(&mut self, target: &str, seen: &'static str, host: &'static str) {
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n");
        self.add(format!("target {target:?}"), bytes, Passed(vec![["GET", seen, host, ""]]));
    }

    fn host(&mut self, host: impl AsRef<[u8]>) {
        let mut bytes = b"GET /h HTTP/1.1\r\nHost:".to_vec();
        bytes.extend_from_slice(host.as_ref());
        bytes.extend_from_slice(b"\r\n\r\n");
        self.add(format!("host {:?}", String::from_utf8_lossy(host.as_ref())), bytes, Refused(BAD));
    }

    fn field(&mut self, line: impl AsRef<[u8]>) {
        let mut bytes = b"GET /l HTTP/1.1\r\nHost: a.test\r\n".to_vec();
        bytes.extend_from_slice(line.as_ref());
        bytes.extend_from_slice(b"\r\n\r\n");
        self.add(format!("field {:?}", String::from_utf8_lossy(line.as_ref())), bytes, Refused(BAD));
    }

    /// GET with these fields, which pass.
    fn harmless(&mut self, fields: &str) {
        let bytes = format!("GET /ok HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n");
        self.add(format!("harmless {fields:?}"), bytes, Passed(vec![["GET", "/ok", "a.test", ""]]));
    }
}

fn vectors() -> Vec<Vector> {
    let mut table = Table::default();
    lengths(&mut table);
    codings(&mut table);
    chunks(&mut table);
    line_ends(&mut table);
    start_lines(&mut table);
    targets(&mut table);
    hosts(&mut table);
    hops(&mut table);
    pipelines(&mut table);
    table.0
}

fn lengths(table: &mut Table) {
    const BODY: &str = "5\r\nhello\r\n0\r\n\r\n";
    table.framing(BAD, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", BODY);
    table.framing(BAD, "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", BODY);
    table.framing(BAD, "transfer-encoding: CHUNKED\r\ncontent-length: 0\r\n", BODY);
    table.framing(BAD_OR_UNKNOWN, "Transfer-Encoding: identity\r\nContent-Length: 5\r\n", "hello");
    table.framing(BAD_OR_UNKNOWN, "Transfer-Encoding: x\r\nContent-Length: 5\r\n", "hello");
    table.framing(BAD, "Content-Length: 5\r\nContent-Length: 5\r\n", "hello");
    table.framing(BAD, "Content-Length: 5\r\nContent-Length: 6\r\n", "hello!");
    table.framing(BAD, "Content-Length: 0\r\nX: y\r\ncontent-length: 5\r\n", "hello");
    for value in [
        "5, 5",
        "5,6",
        "5 5",
        "5,",
        ",5",
        "+5",
        "-5",
        "-0",
        "0x5",
        "5h",
        "5.0",
        "5e0",
        "1_0",
        "5;",
        "\"5\"",
        "five",
        "",
        " ",
        "\u{665}",
        "5 ;a",
        "18446744073709551616",
        "99999999999999999999999999",
        "0x",
        "5\u{b}",
        "\u{b}5",
        "5\u{c}",
        "%35",
        "5\u{a0}",
        "000000000000000000005",
    ] {
        table.framing(BAD, &format!("Content-Length: {value}\r\n"), "hello");
    }
    table.framing(&[413], "Content-Length: 18446744073709551615\r\n", "hello");
    table.framing(&[413], "Content-Length: 9223372036854775808\r\n", "hello");
    for name in
        ["Content-Length ", "Content-Length\t", "Content Length", "Content-Length\u{b}", " Content-Length"]
    {
        table.framing(BAD, &format!("{name}: 5\r\n"), "hello");
    }
    let passes = [
        ("Content-Length: 5\r\n", "hello"),
        ("Content-Length:5\r\n", "hello"),
        ("content-LENGTH:\t 5 \t\r\n", "hello"),
    ];
    for (fields, body) in passes {
        let bytes = format!("POST /f HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n{body}");
        table.add(format!("length {fields:?}"), bytes, Passed(vec![["POST", "/f", "a.test", "hello"]]));
    }
    let zeros = "POST /f HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0005\r\n\r\nhello";
    table.add("length with zeros in front", zeros, Passed(vec![["POST", "/f", "a.test", "hello"]]));
    // Names a CGI-like origin takes for the real ones never reach it.
    let disguised = "POST /f HTTP/1.1\r\nHost: a.test\r\nContent_Length: 50\r\nTransfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello";
    table.add("underscores", disguised, Passed(vec![["POST", "/f", "a.test", "hello"]]));
}

fn codings(table: &mut Table) {
    const BODY: &str = "5\r\nhello\r\n0\r\n\r\n";
    for value in [
        "xchunked",
        "chunked, chunked",
        "chunked, identity",
        "identity, chunked",
        "gzip, chunked",
        "chunked, gzip",
        "identity",
        "gzip",
        "deflate",
        "chunked;q=1",
        "\"chunked\"",
        "'chunked'",
        "chun ked",
        "chunked,",
        ",chunked",
        "",
        "chunk",
        "chunked\u{b}",
        "\u{b}chunked",
        "\u{c}chunked",
        "\u{a0}chunked",
        "chunKed ;",
        "ch\u{17f}unked",
        "chunked\tidentity",
        "x, chunked",
        "chunked x",
        "chunked\u{0}",
        "[chunked]",
        "{chunked}",
        "chunked/1.0",
    ] {
        table.framing(BAD_OR_UNKNOWN, &format!("Transfer-Encoding: {value}\r\n"), BODY);
    }
    table.framing(BAD, "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", BODY);
    table.framing(BAD_OR_UNKNOWN, "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", BODY);
    table.framing(BAD_OR_UNKNOWN, "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", BODY);
    for fields in [
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "\tTransfer-Encoding: chunked\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding: chunked\r\n , identity\r\n",
        "Transfer-Encoding\r\n: chunked\r\n",
        "X: y\nTransfer-Encoding: chunked\r\n",
        "X: y\rTransfer-Encoding: chunked\r\n",
        "X: y\r\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\n",
        "\u{0}Transfer-Encoding: chunked\r\n",
        "Transfer\u{0}-Encoding: chunked\r\n",
        "Transfer-Encoding\u{a0}: chunked\r\n",
        "(Transfer-Encoding): chunked\r\n",
        ": chunked\r\n",
        "Transfer-Encoding\r\n",
    ] {
        table.framing(BAD, fields, BODY);
    }
    let old = "POST /f HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    table.add("chunks in HTTP/1.0", old, Refused(BAD));
    for value in ["chunked", "CHUNKED", "  Chunked\t", "\tchunked"] {
        let bytes = format!("POST /f HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding:{value}\r\n\r\n{BODY}");
        table.add(format!("coding {value:?}"), bytes, Passed(vec![["POST", "/f", "a.test", "hello"]]));
    }
}

fn chunks(table: &mut Table) {
    for body in [
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\t\r\nhello\r\n0\r\n\r\n",
        "5g\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        ";a\r\nhello\r\n0\r\n\r\n",
        "five\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "4\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFF\r\nhello",
        "8000000000000000\r\nhello",
        "10000000000000000\r\nhello",
        "00000000000000005\r\nhello\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFFFFFF\r\nhello",
        "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5;a\r\r\nhello\r\n0\r\n\r\n",
        "5;\u{0}\r\nhello\r\n0\r\n\r\n",
        "5;\u{7f}\r\nhello\r\n0\r\n\r\n",
        "5\u{0}\r\nhello\r\n0\r\n\r\n",
        "5,\r\nhello\r\n0\r\n\r\n",
        "5\\;a\r\nhello\r\n0\r\n\r\n",
        "0\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n0\r\nX : y\r\n\r\n",
        "5\r\nhello\r\n0\r\nX\r\n\r\n",
        "5\r\nhello\r\n0\r\n X: y\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: y\n\r\n",
        "5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: \u{0}\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: y\rz: 1\r\n\r\n",
        "5\r\nhello\r\n0\r\n: y\r\n\r\n",
    ] {
        table.chunks(body);
    }
    table.chunks(format!("5;{}\r\nhello\r\n0\r\n\r\n", "e".repeat(20_000)));
    table.chunks(format!("{}0\r\n\r\n", format!("1;{}\r\nx\r\n", "e".repeat(100)).repeat(200)));
    table.chunks(format!("5\r\nhello\r\n0\r\nX: {}\r\n\r\n", "y".repeat(20_000)));
    table.chunks(format!("5\r\nhello\r\n0\r\n{}\r\n", "X: y\r\n".repeat(1_000)));
    table.sound_chunks("5\r\nhello\r\n0\r\n\r\n", "hello");
    table.sound_chunks("05\r\nhello\r\n000\r\n\r\n", "hello");
    table.sound_chunks("5;name=value\r\nhello\r\n0;last\r\n\r\n", "hello");
    table.sound_chunks("5;name=\"a;b\"\r\nhello\r\n0\r\n\r\n", "hello");
    table.sound_chunks("1\r\nh\r\n1\r\ne\r\nA\r\nllo world!\r\n0\r\n\r\n", "hello world!");
    table.sound_chunks("a\r\n0\r\n\r\nGET /\r\n0\r\n\r\n", "0\r\n\r\nGET /");
    table.sound_chunks("5\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n", "hello");
    table.sound_chunks(
        "5\r\nhello\r\n0\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\nHost: evil\r\n\r\n",
        "hello",
    );
    table.sound_chunks("0\r\n\r\n", "");
}

fn line_ends(table: &mut Table) {
    let heads: [&[u8]; 22] = [
        b"GET / HTTP/1.1\nHost: a.test\n\n",
        b"GET / HTTP/1.1\nHost: a.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\n\n",
        b"GET / HTTP/1.1\r\nHost: a.test\n\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\r\n\r\n",
        b"GET / HTTP/1.1\r\r\nHost: a.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: 1\nHost: a.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: 1\rHost: b\r\nHost: a.test\r\n\r\n",
        b"\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"\r\n\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"\rGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b" GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"\tGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"\0GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\nHost: a.test\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\n\tX: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\n \r\n\r\n",
        b"\xef\xbb\xbfGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ];
    for head in heads {
        table.add(format!("line ends {:?}", String::from_utf8_lossy(head)), head, Refused(BAD));
    }
    let one = "\r\nGET /e HTTP/1.1\r\nHost: a.test\r\n\r\n";
    table.add("one empty line in front", one, Passed(vec![["GET", "/e", "a.test", ""]]));
    for line in [
        &b"X: a\0b"[..],
        b"X: a\x01b",
        b"X: a\x7fb",
        b"X:\x0b1",
        b"X\x80: 1",
        b"X Y: 1",
        b"X\t: 1",
        b"X@Y: 1",
        b"X[: 1",
        b"X",
        b": 1",
        b"X\0: 1",
        b"X: 1\r2",
        b"\"X\": 1",
        b"X;: 1",
        b"X/Y: 1",
        b"\xc3\xa9: 1",
    ] {
        table.field(line);
    }
}

fn start_lines(table: &mut Table) {
    for line in [
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET /  HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET / HTTP/1.2",
        "GET / HTTP/1.10",
        "GET / HTTP/2.0",
        "GET / HTTP/0.9",
        "GET / HTTP/01.1",
        "GET / http/1.1",
        "GET / HTTP/ 1.1",
        "GET / HTTP 1.1",
        "GET / HTTP/1,1",
        "GET / HTTP/1.1x",
        "GET / ICY/1.1",
        "GET / HTTP/-1.1",
        "GET /",
        "GET",
        "/ HTTP/1.1",
        "GE(T / HTTP/1.1",
        "G\u{0}T / HTTP/1.1",
        "GET,POST / HTTP/1.1",
        "\"GET\" / HTTP/1.1",
        "GET: / HTTP/1.1",
        "GÉT / HTTP/1.1",
        "GET / a HTTP/1.1",
        "GET / HTTP/1.1 HTTP/1.1",
        "GET /\u{0} HTTP/1.1",
        "GET /\u{1} HTTP/1.1",
        "GET /\u{7f} HTTP/1.1",
        "GET /\u{b} HTTP/1.1",
        "GET / HTTP/1.1\u{0}",
    ] {
        table.start_line(BAD, line);
    }
    table.start_line(&[400, 501], "CONNECT a.test:443 HTTP/1.1");
    table.start_line(&[400, 501], "CONNECT / HTTP/1.1");
    let lower = "get /m HTTP/1.1\r\nHost: a.test\r\n\r\n";
    table.add("methods are case-sensitive", lower, Passed(vec![["get", "/m", "a.test", ""]]));
    let own = "M-SEARCH! /m HTTP/1.1\r\nHost: a.test\r\n\r\n";
    table.add("any token is a method", own, Passed(vec![["M-SEARCH!", "/m", "a.test", ""]]));
}

fn targets(table: &mut Table) {
    for target in [
        "*",
        "a",
        "a/b",
        "?x",
        "#f",
        "/a#f",
        "http:/a",
        "http:///a",
        "http://",
        "http://u@a.test/",
        "http://u:p@a.test/",
        "http://a.test:99999/",
        "http://a.test:x/",
        "http://a b/",
        "ftp://a.test/",
        "file:///etc/passwd",
        "javascript:1",
        "http://[::1/",
        "http://[zz]/",
        "http://a.test#f",
        "/%",
        "/%4",
        "/%zz",
        "/%00",
        "/a%5cb",
        "/a\\b",
        "/..",
        "/../a",
        "/a/../../b",
        "/%2e%2e/a",
        "/a/..;/b",
        "/..;x/a",
        "/.;/a",
        "\\a",
        "/%c0%ae%c0%ae/../../../x",
        "a.test:443",
        "http://.a.test/",
        "http://a..test/",
        "http://a%2etest/",
        "//../a",
    ] {
        table.start_line(BAD, format!("GET {target} HTTP/1.1"));
    }
    table.target("/", "/", "a.test");
    table.target("/a/../b", "/b", "a.test");
    table.target("/a/%2e%2E/b", "/b", "a.test");
    table.target("/a/./b/.", "/a/b/", "a.test");
    table.target("/a//b///c", "/a/b/c", "a.test");
    table.target("//evil.test/x", "/evil.test/x", "a.test");
    table.target("/%61%2Fb%2fc", "/a%2Fb%2Fc", "a.test");
    table.target("/a;x=1/b", "/a;x=1/b", "a.test");
    table.target("/a?x=//../%zz?y", "/a?x=//../%zz?y", "a.test");
    table.target("/a?", "/a?", "a.test");
    table.target("/\"<>|", "/%22%3C%3E%7C", "a.test");
    table.target("/a%20b%09", "/a%20b%09", "a.test");
    table.target("/a%0d%0aX:%201", "/a%0D%0AX:%201", "a.test");
    table.target("/a%252e%252e/", "/a%252e%252e/", "a.test");
    // One authority for everyone: the target's.
    table.target("http://b.test/x", "/x", "b.test");
    table.target("HTTP://b.test:8080/x?y", "/x?y", "b.test:8080");
    table.target("http://b.test", "/", "b.test");
    table.target("http://b.test?x", "/?x", "b.test");
    table.target("https://[::1]:1/x", "/x", "[::1]:1");
    table.target("http://b.test/a/../../b/../c", "/c", "b.test");
    let last = table.0.pop().expect("it was just added");
    table.add("absolute target that climbs", last.bytes, Refused(BAD));
}

fn hosts(table: &mut Table) {
    table.add("no host", "GET / HTTP/1.1\r\nX: 1\r\n\r\n", Refused(BAD));
    table.add("no host, absolute target", "GET http://a.test/ HTTP/1.1\r\nX: 1\r\n\r\n", Refused(BAD));
    table.add("two hosts", "GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n", Refused(BAD));
    table.add("the same host twice", "GET / HTTP/1.1\r\nHost: a.test\r\nhOST: a.test\r\n\r\n", Refused(BAD));
    table.add(
        "two hosts, absolute target",
        "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nHost: b\r\n\r\n",
        Refused(BAD),
    );
    table.add("two hosts in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a.test\r\nHost: b\r\n\r\n", Refused(BAD));
    table.add("folded host", "GET / HTTP/1.1\r\nHost:\r\n a.test\r\n\r\n", Refused(BAD));
    table.add("space before the colon", "GET / HTTP/1.1\r\nHost : a.test\r\n\r\n", Refused(BAD));
    for host in [
        "",
        " ",
        " a@b",
        " u:p@a.test",
        " a.test/x",
        " a.test?x",
        " a.test#x",
        " a.test,b.test",
        " a.test, b.test",
        " a b",
        " a\tb",
        " a:b",
        " a:",
        " a:0",
        " a:65536",
        " a:+80",
        " a:80:80",
        " a:8 0",
        " [::1",
        " ::1",
        " [::1]x",
        " [zz]",
        " [::1]:x",
        " .a",
        " a..b",
        " a%00b",
        " a%2eb",
        " a\\b",
        " \"a\"",
        " http://a.test",
        " a;b",
        " a=b",
        " (a)",
        " a!",
        " *",
        " a$b",
        " <a>",
        " \u{e9}.test",
        " a\u{0}b",
    ] {
        table.host(host);
    }
    table.host(format!(" {}", "a".repeat(300)));
    let passes = [
        (":a.test", "a.test"),
        (": a.test \t", "a.test"),
        (": A.test:80", "A.test:80"),
        (": [::1]:80", "[::1]:80"),
        (": my_host", "my_host"),
    ];
    for (value, seen) in passes {
        let bytes = format!("GET /h HTTP/1.1\r\nHost{value}\r\n\r\n");
        table.add(format!("sound host {value:?}"), bytes, Passed(vec![["GET", "/h", seen, ""]]));
    }
}

fn hops(table: &mut Table) {
    for fields in [
        "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n",
        "Connection: Host\r\n",
        "Connection: Content-Length, Transfer-Encoding\r\n",
        "Connection: X-Real-IP, X-Forwarded-For, Forwarded\r\n",
        "Connection: ,,,\r\n",
        "Connection: \r\n",
        "Connection: upgrade\r\n",
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "Connection: upgrade\r\nUpgrade: TLS/1.0\r\n",
        "Proxy-Connection: close\r\n",
        "TE: trailers, chunked\r\n",
        "Trailer: Content-Length\r\n",
        "Expect: 100-continue\r\n",
        "X-HTTP-Method-Override: DELETE\r\nX-Original-URL: /admin\r\n",
    ] {
        table.harmless(fields);
    }
    for value in ["200-ok", "100-continue, x", "100-continued", "", "x"] {
        let bytes =
            format!("POST /x HTTP/1.1\r\nHost: a.test\r\nExpect: {value}\r\nContent-Length: 1\r\n\r\nx");
        table.add(format!("expect {value:?}"), bytes, Refused(&[400, 417]));
    }
    let sound = "POST /x HTTP/1.1\r\nHost: a.test\r\nExpect: 100-CONTINUE\r\nContent-Length: 1\r\n\r\nx";
    table.add("expect with the body at once", sound, Passed(vec![["POST", "/x", "a.test", "x"]]));
    let named =
        "POST /x HTTP/1.1\r\nHost: a.test\r\nConnection: Content-Length\r\nContent-Length: 4\r\n\r\nGET ";
    table.add("the length named by Connection", named, Passed(vec![["POST", "/x", "a.test", "GET "]]));
    let named = "POST /x HTTP/1.1\r\nHost: a.test\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    table.add("the coding named by Connection", named, Passed(vec![["POST", "/x", "a.test", "x"]]));
}

fn pipelines(table: &mut Table) {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let seen = |path: &'static str| ["GET", path, "a.test", ""];
    table.add("two", get("/1") + &get("/2"), Passed(vec![seen("/1"), seen("/2")]));
    table.add(
        "one with a body between",
        get("/1") + "POST /p HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nGET" + &get("/2"),
        Passed(vec![seen("/1"), ["POST", "/p", "a.test", "GET"], seen("/2")]),
    );
    table.add(
        "GET with a body",
        "GET /g HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\nbody".to_owned() + &get("/2"),
        Passed(vec![["GET", "/g", "a.test", "body"], seen("/2")]),
    );
    table.add(
        "no length is no body",
        "POST /p HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned() + &get("/2"),
        Passed(vec![["POST", "/p", "a.test", ""], seen("/2")]),
    );
    table.add(
        "a chunked one before",
        "POST /p HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
            .to_owned()
            + &get("/2"),
        Passed(vec![["POST", "/p", "a.test", "x"], seen("/2")]),
    );
    table.add("garbage behind a good one", get("/1") + "garbage\r\n\r\n", PassedThenClosed(vec![seen("/1")]));
    table.add(
        "two lengths behind a good one",
        get("/1") + "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        PassedThenClosed(vec![seen("/1")]),
    );
    table.add(
        "a body that is too long",
        "POST /p HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nxyz\r\n\r\n",
        PassedThenClosed(vec![["POST", "/p", "a.test", "x"]]),
    );
    table.add(
        "behind Connection: close",
        "GET /1 HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n".to_owned() + &get("/2"),
        PassedThenClosed(vec![seen("/1")]),
    );
    table.add(
        "behind HTTP/1.0",
        "GET /1 HTTP/1.0\r\nHost: a.test\r\n\r\n".to_owned() + &get("/2"),
        PassedThenClosed(vec![seen("/1")]),
    );
    table.add("behind a refused upgrade to WebSocket",
        "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".to_owned() + &get("/2"),
        Passed(vec![seen("/ws"), seen("/2")]));
    table.add("behind an upgrade to h2c",
        "GET /h2 HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n".to_owned() + &get("/2"),
        Passed(vec![seen("/h2"), seen("/2")]));
    let head = "HEAD /h HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned();
    table.add("behind HEAD", head + &get("/2"), Passed(vec![["HEAD", "/h", "a.test", ""], seen("/2")]));
}

/// Behind every vector, on the same connection: it shows whether the gateway
/// and the test agree on where the vector ended.
const PROBE: &str = "GET /end HTTP/1.1\r\nHost: end.test\r\nConnection: close\r\n\r\n";

/// What is wrong with how a vector went; nothing if it went as it should.
fn run(sluice: &Sluice, origin: &Origin, vector: &Vector) -> Result<(), String> {
    let before = origin.log();
    let mut client = Raw::connect(sluice.address("edge"));
    // The gateway may have closed while the rest is sent.
    let _ = client.try_send([vector.bytes.as_slice(), PROBE.as_bytes()].concat());
    let answer = client.try_read_to_close().map_err(|error| format!("the connection stays open: {error}"))?;
    let answers = statuses(&answer);
    let log = origin.log();
    let requests = origin.take_requests();
    let fresh = |all: usize| log.bytes() - all;
    if log.faults.len() > before.faults.len() {
        return Err(format!("the origin got {:?}", &log.faults[before.faults.len()..]));
    }
    match &vector.outcome {
        Refused(expected) => {
            let last = answers.last().copied().unwrap_or_default();
            if answers.len() != 1 || !expected.contains(&last) {
                return Err(format!("answered {answers:?} instead of {expected:?}"));
            }
            match fresh(before.bytes()) {
                0 => Ok(()),
                count => Err(format!("{count} bytes reached the origin: {requests:?}")),
            }
        }
        Broken => match (requests.as_slice(), answers.as_slice()) {
            ([], [] | [400]) => Ok(()),
            _ => Err(format!("answered {answers:?}, the origin saw {requests:?}")),
        },
        Passed(expected) => {
            let mut all = expected.clone();
            all.push(["GET", "/end", "end.test", ""]);
            same(&all, &requests)?;
            let good = answers.iter().filter(|status| **status == 200).count();
            if good == all.len() { Ok(()) } else { Err(format!("answered {answers:?}")) }
        }
        PassedThenClosed(expected) => same(expected, &requests),
    }
}

fn same(expected: &[[&str; 4]], requests: &[Request]) -> Result<(), String> {
    let seen: Vec<[String; 4]> = requests
        .iter()
        .map(|request| {
            let host = request.field("host").unwrap_or_default();
            let body = String::from_utf8_lossy(&request.body).into_owned();
            [request.method.clone(), request.target.clone(), host.to_owned(), body]
        })
        .collect();
    let is_same = expected.len() == seen.len() && expected.iter().zip(&seen).all(|(one, other)| one == other);
    if is_same { Ok(()) } else { Err(format!("expected {expected:?}, the origin saw {seen:?}")) }
}

/// The statuses in what a client received. The origin's bodies hold no status line.
fn statuses(answer: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answer);
    let lines = text.split("HTTP/1.1 ").skip(1);
    lines.filter_map(|line| line.get(..3)?.parse().ok()).filter(|status| *status != 100).collect()
}

#[test]
fn both_sides_agree_on_where_every_request_ends() {
    let origin = Origin::answering(|request| {
        let length = if request.method == "HEAD" { "" } else { "ok" };
        format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{length}").into_bytes()
    });
    let limits = json!({"header_timeout": "2s", "body_timeout": "2s"});
    let mut sluice = Sluice::builder()
        .listener("edge", json!({"limits": limits}))
        .put("routes", "all", json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}}))
        .start();
    let vectors = vectors();
    assert!(vectors.len() >= 300, "{} vectors", vectors.len());
    let mut wrong = BTreeMap::new();
    for vector in &vectors {
        if let Err(why) = run(&sluice, &origin, vector) {
            wrong.insert(&vector.name, why);
        }
    }
    sluice.process().expect_running();
    assert!(wrong.is_empty(), "{} of {} vectors: {wrong:#?}", wrong.len(), vectors.len());
    // A neighbour is served as ever.
    let mut client = Raw::connect(sluice.address("edge")).read_timeout(Duration::from_secs(5));
    client.send(PROBE);
    assert_eq!(client.read_answer().0, 200);
}
