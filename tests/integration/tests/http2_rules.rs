//! What RFC 9113 says a receiver must do with frames that break its rules, one
//! case for each sentence with a MUST, over a bare connection.

use serde_json::json;
use sluice_harness::{HttpEcho, Sluice};
use sluice_tests::frames::{self, Client, END_HEADERS, END_STREAM, Frame, block, frame, get, kind};

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

const PUSH_PROMISE: u8 = 5;
const PADDED: u8 = 8;
const PRIORITY_FLAG: u8 = 0x20;

/// What must come of a case.
enum Outcome {
    /// The connection ends, with one of these codes where a GOAWAY is sent.
    Connection(&'static [u32]),
    /// The stream is reset with one of these codes, answered with an error, or
    /// the connection ends: a receiver may treat a stream's error so.
    Stream(u32, &'static [u32]),
    /// Nothing: a later request is answered.
    Ignored,
}

use Outcome::{Connection, Ignored, Stream};

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    outcome: Outcome,
}

fn gateway(origin: &HttpEcho) -> Sluice {
    let limits = json!({"header_timeout": "3s", "idle_timeout": "5s", "body_timeout": "3s"});
    Sluice::builder()
        .listener("edge", json!({"limits": limits}))
        .put("routes", "all", json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}}))
        .start()
}

/// HEADERS that open a stream whose body is still to come.
fn opened(stream: u32) -> Vec<u8> {
    let mut fields = get("/?echo=1");
    fields[0].1 = "POST";
    frame(kind::HEADERS, END_HEADERS, stream, &block(&fields))
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name, bytes: Vec<u8>, outcome| cases.push(Case { name, bytes, outcome });
    // 4.1, 5.5: what is not known is ignored.
    add("a frame of an unknown type", frame(0xfa, 0xff, 0, b"what"), Ignored);
    add("unknown flags of PING", frame(kind::PING, 0xfe, 0, &[0; 8]), Ignored);
    add("an unknown setting", frame(kind::SETTINGS, 0, 0, &setting(0xfafa, 7)), Ignored);
    add("PRIORITY of an idle stream", frame(kind::PRIORITY, 0, 9, &[0, 0, 0, 0, 1]), Ignored);
    add(
        "the reserved bit of a stream's number",
        frame(kind::WINDOW_UPDATE, 0, 1 << 31, &[0, 0, 0, 1]),
        Ignored,
    );
    // 4.2
    add("DATA over the frame size", frame(kind::DATA, 0, 1, &[0; 16_385]), Connection(&[FRAME_SIZE_ERROR]));
    add(
        "HEADERS over the frame size",
        frame(kind::HEADERS, END_HEADERS, 1, &[0; 16_385]),
        Connection(&[FRAME_SIZE_ERROR]),
    );
    // 4.3
    add(
        "a header block that cannot be unpacked",
        frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        // The library says PROTOCOL_ERROR of a block that is no HPACK at all.
        Connection(&[COMPRESSION_ERROR, PROTOCOL_ERROR]),
    );
    add(
        "another frame inside a header block",
        [frame(kind::HEADERS, END_STREAM, 1, &block(&get("/"))), frame(kind::PING, 0, 0, &[0; 8])].concat(),
        Connection(&[PROTOCOL_ERROR]),
    );
    add(
        "another stream's HEADERS inside a header block",
        [frame(kind::HEADERS, END_STREAM, 1, &block(&get("/"))), frames::request(3, &get("/"))].concat(),
        Connection(&[PROTOCOL_ERROR]),
    );
    add(
        "CONTINUATION of nothing",
        frame(kind::CONTINUATION, END_HEADERS, 1, b""),
        Connection(&[PROTOCOL_ERROR]),
    );
    // 5.1
    add("DATA on an idle stream", frame(kind::DATA, END_STREAM, 1, b"x"), Connection(&[PROTOCOL_ERROR]));
    add(
        "RST_STREAM on an idle stream",
        frame(kind::RST_STREAM, 0, 1, &8_u32.to_be_bytes()),
        Connection(&[PROTOCOL_ERROR]),
    );
    add(
        "WINDOW_UPDATE on an idle stream",
        frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
        Connection(&[PROTOCOL_ERROR]),
    );
    add(
        "DATA after the end of a stream",
        [frames::request(1, &get("/?delay=2000")), frame(kind::DATA, END_STREAM, 1, b"x")].concat(),
        Stream(1, &[STREAM_CLOSED, PROTOCOL_ERROR]),
    );
    add(
        "HEADERS after the end of a stream",
        [frames::request(1, &get("/?delay=2000")), frames::request(1, &get("/"))].concat(),
        Stream(1, &[STREAM_CLOSED, PROTOCOL_ERROR]),
    );
    // 5.1.1
    add("HEADERS on stream 0", frames::request(0, &get("/")), Connection(&[PROTOCOL_ERROR]));
    add(
        "a client's stream with an even number",
        frames::request(2, &get("/")),
        Connection(&[PROTOCOL_ERROR]),
    );
    add(
        "a stream's number below one in use",
        [frames::request(5, &get("/?delay=2000")), frames::request(3, &get("/"))].concat(),
        Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
    );
    // 6.1, 6.2
    add("DATA on stream 0", frame(kind::DATA, 0, 0, b"x"), Connection(&[PROTOCOL_ERROR]));
    add(
        "padding longer than its DATA",
        [opened(1), frame(kind::DATA, PADDED | END_STREAM, 1, &[9, 0, 0])].concat(),
        Connection(&[PROTOCOL_ERROR]),
    );
    add(
        "padding longer than its HEADERS",
        frame(kind::HEADERS, PADDED | END_HEADERS | END_STREAM, 1, &[200, 0x82]),
        Connection(&[PROTOCOL_ERROR]),
    );
    // 6.3, 6.4
    add("PRIORITY on stream 0", frame(kind::PRIORITY, 0, 0, &[0, 0, 0, 0, 1]), Connection(&[PROTOCOL_ERROR]));
    add(
        "RST_STREAM on stream 0",
        frame(kind::RST_STREAM, 0, 0, &8_u32.to_be_bytes()),
        Connection(&[PROTOCOL_ERROR]),
    );
    add(
        "RST_STREAM of a wrong size",
        [opened(1), frame(kind::RST_STREAM, 0, 1, &[0; 3])].concat(),
        Connection(&[FRAME_SIZE_ERROR]),
    );
    // 6.5
    add("SETTINGS on a stream", frame(kind::SETTINGS, 0, 1, b""), Connection(&[PROTOCOL_ERROR]));
    add("SETTINGS of a wrong size", frame(kind::SETTINGS, 0, 0, &[0; 5]), Connection(&[FRAME_SIZE_ERROR]));
    add(
        "an acknowledgement with a payload",
        frame(kind::SETTINGS, 1, 0, &setting(3, 1)),
        Connection(&[FRAME_SIZE_ERROR]),
    );
    add("ENABLE_PUSH of 2", frame(kind::SETTINGS, 0, 0, &setting(2, 2)), Connection(&[PROTOCOL_ERROR]));
    add(
        "INITIAL_WINDOW_SIZE of 2^31",
        frame(kind::SETTINGS, 0, 0, &setting(4, 1 << 31)),
        // The library says PROTOCOL_ERROR of every bad value of a setting.
        Connection(&[FLOW_CONTROL_ERROR, PROTOCOL_ERROR]),
    );
    for (name, size) in [("MAX_FRAME_SIZE of 16,383", 16_383), ("MAX_FRAME_SIZE of 2^24", 1 << 24)] {
        add(name, frame(kind::SETTINGS, 0, 0, &setting(5, size)), Connection(&[PROTOCOL_ERROR]));
    }
    // 6.6: a client pushes nothing.
    let promise = [&2_u32.to_be_bytes()[..], &block(&get("/"))].concat();
    add(
        "PUSH_PROMISE from a client",
        [opened(1), frame(PUSH_PROMISE, END_HEADERS, 1, &promise)].concat(),
        Connection(&[PROTOCOL_ERROR]),
    );
    // 6.7, 6.8
    add("PING on a stream", frame(kind::PING, 0, 1, &[0; 8]), Connection(&[PROTOCOL_ERROR]));
    add("PING of a wrong size", frame(kind::PING, 0, 0, &[0; 7]), Connection(&[FRAME_SIZE_ERROR]));
    add("GOAWAY on a stream", frame(kind::GOAWAY, 0, 1, &[0; 8]), Connection(&[PROTOCOL_ERROR]));
    // 6.9
    add(
        "a window of the connection that grows by 0",
        frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]),
        Connection(&[PROTOCOL_ERROR]),
    );
    add(
        "a window of a stream that grows by 0",
        [opened(1), frame(kind::WINDOW_UPDATE, 0, 1, &[0; 4])].concat(),
        Stream(1, &[PROTOCOL_ERROR]),
    );
    add(
        "WINDOW_UPDATE of a wrong size",
        frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]),
        Connection(&[FRAME_SIZE_ERROR]),
    );
    let most = 0x7fff_ffff_u32.to_be_bytes();
    add(
        "a window of the connection over 2^31 - 1",
        frame(kind::WINDOW_UPDATE, 0, 0, &most),
        Connection(&[FLOW_CONTROL_ERROR]),
    );
    add(
        "a window of a stream over 2^31 - 1",
        [opened(1), frame(kind::WINDOW_UPDATE, 0, 1, &most)].concat(),
        Stream(1, &[FLOW_CONTROL_ERROR]),
    );
    // 5.3.1 of RFC 7540, which old clients go by, and 8.1: trailers.
    let depends = [&1_u32.to_be_bytes()[..], &[16], &block(&get("/"))].concat();
    add(
        "a stream that depends on itself",
        frame(kind::HEADERS, END_HEADERS | END_STREAM | PRIORITY_FLAG, 1, &depends),
        Stream(1, &[PROTOCOL_ERROR]),
    );
    add(
        "a pseudo-header among trailers",
        [opened(1), frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, &block(&[(":path", "/x")]))].concat(),
        Stream(1, &[PROTOCOL_ERROR]),
    );
    add(
        "trailers that do not end the stream",
        [opened(1), frame(kind::HEADERS, END_HEADERS, 1, &block(&[("x", "1")]))].concat(),
        Stream(1, &[PROTOCOL_ERROR]),
    );
    // RFC 8441 §3: not where it was not offered.
    let connect = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "a.test"),
        (":path", "/"),
    ];
    add(
        "extended CONNECT that was not offered",
        frame(kind::HEADERS, END_HEADERS, 1, &block(&connect)),
        Stream(1, &[PROTOCOL_ERROR]),
    );
    cases
}

/// Whether a frame is an answer that is no success: a status of 4xx or 5xx as
/// the static table has it, or a literal one.
fn is_refusal(frame: &Frame) -> bool {
    frame.kind == kind::HEADERS && frame.payload.first().is_some_and(|first| *first != 0x88)
}

fn verdict(sluice: &Sluice, case: &Case) -> Result<(), String> {
    let mut client = Client::connect(sluice.address("edge"));
    client.send(&case.bytes);
    if matches!(case.outcome, Ignored) {
        client.send(frames::request(11, &get("/")));
    }
    let mut seen = Vec::new();
    while let Some(frame) = client.frame() {
        seen.push((frame.kind, frame.stream, frame.error_code()));
        let code = frame.error_code();
        match case.outcome {
            Ignored if frame.kind == kind::HEADERS && frame.stream == 11 => return Ok(()),
            Connection(codes) if frame.kind == kind::GOAWAY => {
                return match code {
                    Some(code) if codes.contains(&code) || code == ENHANCE_YOUR_CALM => {
                        client.until_end();
                        Ok(())
                    }
                    _ => Err(format!("{seen:?}")),
                };
            }
            Stream(stream, codes) if frame.kind == kind::RST_STREAM && frame.stream == stream => {
                return if code.is_some_and(|code| codes.contains(&code)) {
                    Ok(())
                } else {
                    Err(format!("{seen:?}"))
                };
            }
            Stream(stream, _) if frame.stream == stream && is_refusal(&frame) => return Ok(()),
            Stream(_, codes) if frame.kind == kind::GOAWAY => {
                let fits = code.is_some_and(|code| code == 0 || codes.contains(&code));
                return if fits { Ok(()) } else { Err(format!("{seen:?}")) };
            }
            _ => {}
        }
    }
    // The connection ended without a GOAWAY, which a connection error need not have.
    match case.outcome {
        Connection(_) | Stream(..) => Ok(()),
        Ignored => Err(format!("the connection ended after {seen:?}")),
    }
}

#[test]
fn frames_that_break_the_rules_get_what_the_standard_says() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(&origin);
    let mut wrong = Vec::new();
    for case in cases() {
        if let Err(seen) = verdict(&sluice, &case) {
            wrong.push(format!("{}: {seen}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_connection_that_does_not_begin_as_one_gets_nothing_of_http_2() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(&origin);
    // The preface must be followed by SETTINGS.
    let mut raw = sluice.connect("edge");
    raw.send([frames::PREFACE, &frame(kind::PING, 0, 0, &[0; 8])].concat());
    let answer = raw.read_to_close();
    assert!(!answer.windows(9).any(|bytes| bytes[3] == kind::PING && bytes[4] == 1), "{answer:?}");
    // A preface that is wrong in its last byte is no HTTP/2 and no HTTP/1.1.
    let mut raw = sluice.connect("edge");
    raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX");
    let answer = raw.read_to_close();
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{answer:?}");
}
