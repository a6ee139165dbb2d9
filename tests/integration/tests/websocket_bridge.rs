//! The rules of RFC 6455 where the gateway itself speaks WebSocket: a client
//! that sends what is wrong, text and binary.

use serde_json::{Value, json};
use sluice_harness::service::frame::command;
use sluice_harness::{ImServer, Raw, Sluice, eventually};
use sluice_tests::im::{change, gateway};
use sluice_tests::lines::{frame, frames_of, wait_active};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// Bytes of a message, at most.
const MESSAGE_MAX: usize = 4096;

const FIN: u8 = 0x80;
const MORE: u8 = 0x00;
const CONTINUE: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

fn started(server: &ImServer) -> Sluice {
    let sluice = gateway(server, |route| {
        change(route, &["protocol"], json!({"websocket": {"message_max": MESSAGE_MAX}}));
        // A client may begin with a heartbeat here, and need not log in.
        change(route, &["protocol", "conf"], json!({"login": []}));
    })
    .start();
    wait_active(&sluice, "im", "leased");
    sluice
}

fn server() -> ImServer {
    ImServer::start(&["leased", "public"])
}

fn handshake(protocol: &str, more: &str) -> String {
    format!(
        "GET /im HTTP/1.1\r\nHost: im.test:8443\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Protocol: {protocol}\r\n{more}\r\n"
    )
}

fn greeted(sluice: &Sluice, protocol: &str) -> Raw {
    let mut raw = sluice.connect("edge");
    raw.send(handshake(protocol, ""));
    let head = String::from_utf8_lossy(&raw.read_until(b"\r\n\r\n")).to_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains(&format!("sec-websocket-protocol: {protocol}")), "{head}");
    raw
}

fn with_text(sluice: &Sluice) -> Raw {
    greeted(sluice, "sluice.json")
}

/// A frame under a mask.
fn part(fin: u8, opcode: u8, payload: &[u8]) -> Vec<u8> {
    part_with(fin | opcode, payload, Some([0x37, 0xFA, 0x21, 0x3D]))
}

fn part_with(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut out = vec![first];
    match payload.len() {
        length @ 0..126 => out.push(masked | length as u8),
        length @ 126..65_536 => {
            out.push(masked | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(masked | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let mask = mask.inspect(|mask| out.extend_from_slice(mask)).unwrap_or_default();
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

/// The gateway's next frame. It masks nothing and sets no reserved bit.
fn answer(raw: &mut Raw) -> (u8, Vec<u8>) {
    let head = raw.read_bytes(2);
    assert_eq!(head[0] & 0x70, 0, "reserved bits");
    assert_eq!(head[1] & 0x80, 0, "a server's frame under a mask");
    let length = match head[1] {
        126 => usize::from(u16::from_be_bytes(raw.read_bytes(2).try_into().unwrap())),
        127 => u64::from_be_bytes(raw.read_bytes(8).try_into().unwrap()) as usize,
        length => usize::from(length),
    };
    (head[0], raw.read_bytes(length))
}

/// The next text, as JSON.
fn told(raw: &mut Raw) -> Value {
    let (first, payload) = answer(raw);
    assert_eq!(first, FIN | TEXT, "{}", String::from_utf8_lossy(&payload));
    serde_json::from_slice(&payload).expect("a text is JSON")
}

/// Reads to the close, which ends the connection; code and reason.
fn closes_with(raw: &mut Raw) -> (u16, String) {
    let (code, reason) = loop {
        let (first, payload) = answer(raw);
        if first == FIN | CLOSE {
            let code = payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
            break (code, String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned());
        }
    };
    assert!(raw.read_to_close().is_empty(), "nothing comes after a close");
    (code, reason)
}

fn beat(id: &str) -> String {
    format!("{{\"cmd\":1,\"id\":\"{id}\",\"body\":{{}}}}")
}

fn is_beaten(raw: &mut Raw, id: &str) {
    let told = told(raw);
    assert_eq!((&told["cmd"], &told["id"]), (&json!(2), &json!(id)), "{told}");
}

#[test]
fn a_text_may_come_in_any_fragments_with_control_frames_between() {
    let server = server();
    let sluice = started(&server);
    let mut raw = with_text(&sluice);
    let text = beat("zw\u{f6}lf \u{1f600}");
    let bytes = text.as_bytes();
    for cut in 0..=bytes.len() {
        // Cuts inside a character are none of a fragment's business.
        raw.send(part(MORE, TEXT, &bytes[..cut]));
        raw.send(part(FIN, PING, b"between"));
        raw.send(part(FIN, PONG, b"unasked"));
        raw.send(part(FIN, CONTINUE, &bytes[cut..]));
        assert_eq!(answer(&mut raw), (FIN | PONG, b"between".to_vec()), "cut at {cut}");
        is_beaten(&mut raw, "zw\u{f6}lf \u{1f600}");
    }
    // One byte each, empty ones in between, all in one write.
    let mut all = part(MORE, TEXT, b"");
    for byte in bytes {
        all.extend(part(MORE, CONTINUE, &[*byte]));
        all.extend(part(MORE, CONTINUE, b""));
    }
    all.extend(part(FIN, CONTINUE, b""));
    raw.send(&all);
    is_beaten(&mut raw, "zw\u{f6}lf \u{1f600}");
    // The same, a byte at a time.
    for byte in &all {
        raw.send([*byte]);
    }
    is_beaten(&mut raw, "zw\u{f6}lf \u{1f600}");
}

#[test]
fn a_text_that_is_not_utf8_is_closed_with_1007() {
    let server = server();
    let sluice = started(&server);
    let bad: [&[u8]; 9] = [
        b"\xff",
        b"\x80",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xce\xba\xe1\xbd",
    ];
    for bytes in bad {
        let mut raw = with_text(&sluice);
        raw.send(part(FIN, TEXT, bytes));
        assert_eq!(closes_with(&mut raw).0, 1007, "{bytes:x?}");
        let mut raw = with_text(&sluice);
        raw.send(part(MORE, TEXT, bytes));
        // Whether it is seen now or at the end of the message is the server's choice.
        let _ = raw.try_send(part(FIN, CONTINUE, b""));
        assert_eq!(closes_with(&mut raw).0, 1007, "{bytes:x?} in fragments");
    }
    for bytes in [&b"\xed\x9f\xbf"[..], b"\xee\x80\x80", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf"] {
        let mut raw = with_text(&sluice);
        let text = [b"{\"cmd\":1,\"id\":\"", bytes, b"\"}"].concat();
        raw.send(part(FIN, TEXT, &text));
        is_beaten(&mut raw, std::str::from_utf8(bytes).unwrap());
    }
    eventually("the reason is counted", || {
        let count = sluice.metrics().count("sluice_session_closes_total", &[("reason", "websocket_utf8")]);
        (count >= 18.0).then_some(())
    });
}

#[test]
fn what_breaks_the_framing_is_closed_with_1002() {
    let server = server();
    let sluice = started(&server);
    let text = beat("x");
    let text = text.as_bytes();
    let mut huge = vec![FIN | TEXT, 0x80 | 127];
    huge.extend_from_slice(&(1_u64 << 63).to_be_bytes());
    huge.extend_from_slice(&[0; 4]);
    let table: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("no mask", part_with(FIN | TEXT, text, None), &[1002]),
        ("a control frame without a mask", part_with(FIN | PING, b"", None), &[1002]),
        ("RSV1", part(FIN | 0x40, TEXT, text), &[1002]),
        ("RSV2", part(FIN | 0x20, TEXT, text), &[1002]),
        ("RSV3", part(FIN | 0x10, TEXT, text), &[1002]),
        ("RSV1 on a ping", part(FIN | 0x40, PING, b""), &[1002]),
        ("opcode 3", part(FIN, 0x3, text), &[1002]),
        ("opcode 7", part(FIN, 0x7, text), &[1002]),
        ("opcode 11", part(FIN, 0xB, b""), &[1002]),
        ("opcode 15", part(FIN, 0xF, b""), &[1002]),
        ("a ping in fragments", part(MORE, PING, b""), &[1002]),
        ("a close in fragments", part(MORE, CLOSE, b""), &[1002]),
        ("a ping of 126 bytes", part(FIN, PING, &[0; 126]), &[1002]),
        ("a close of 126 bytes", part(FIN, CLOSE, &[3; 126]), &[1002]),
        ("a continuation of nothing", part(FIN, CONTINUE, text), &[1002]),
        ("a message in another", [part(MORE, TEXT, b"{"), part(FIN, TEXT, text)].concat(), &[1002]),
        (
            "a continuation after the end",
            [part(FIN, TEXT, text), part(FIN, CONTINUE, text)].concat(),
            &[1002],
        ),
        ("a length of 2^63", huge, &[1002, 1009]),
    ];
    for (name, bytes, codes) in table {
        let mut raw = with_text(&sluice);
        raw.send(bytes);
        let (code, reason) = closes_with(&mut raw);
        assert!(codes.contains(&code), "{name}: {code} {reason}");
    }
}

#[test]
fn closes_are_answered_and_codes_that_are_none_refused() {
    let server = server();
    let sluice = started(&server);
    let close = |code: u16, reason: &[u8]| [&code.to_be_bytes()[..], reason].concat();
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        let mut raw = with_text(&sluice);
        raw.send(part(FIN, CLOSE, &close(code, b"bye")));
        assert_eq!(closes_with(&mut raw).0, code, "the code comes back");
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        let mut raw = with_text(&sluice);
        raw.send(part(FIN, CLOSE, &close(code, b"")));
        assert_eq!(closes_with(&mut raw).0, 1002, "{code}");
    }
    let mut raw = with_text(&sluice);
    raw.send(part(FIN, CLOSE, b""));
    assert!(matches!(closes_with(&mut raw).0, 1000 | 1005), "a close without a code");
    let mut raw = with_text(&sluice);
    raw.send(part(FIN, CLOSE, b"\x03"));
    assert_eq!(closes_with(&mut raw).0, 1002, "half a code");
    let mut raw = with_text(&sluice);
    raw.send(part(FIN, CLOSE, &close(1000, b"\xff")));
    assert!(matches!(closes_with(&mut raw).0, 1002 | 1007), "a reason that is not UTF-8");
    // What comes behind a close is not looked at.
    let mut raw = with_text(&sluice);
    raw.send([part(FIN, CLOSE, &close(1000, b"")), part(FIN, TEXT, beat("late").as_bytes())].concat());
    assert_eq!(closes_with(&mut raw).0, 1000);
    // Without a close the connection is as good as cut.
    let mut raw = with_text(&sluice);
    raw.send(part(FIN, TEXT, beat("x").as_bytes()));
    is_beaten(&mut raw, "x");
    drop(raw);
    eventually("the session ends", || {
        let count = |reason| sluice.metrics().count("sluice_session_closes_total", &[("reason", reason)]);
        (count("client_reset") + count("client_closed") >= 14.0).then_some(())
    });
}

#[test]
fn a_message_may_be_as_large_as_the_route_says_and_no_larger() {
    let server = server();
    let sluice = started(&server);
    let sized = |bytes: usize| {
        let text = beat("");
        beat(&"x".repeat(bytes - text.len()))
    };
    // An id has at most 128 bytes: the largest message is answered all the same.
    let largest = sized(MESSAGE_MAX);
    assert_eq!(largest.len(), MESSAGE_MAX);
    let mut raw = with_text(&sluice);
    raw.send(part(FIN, TEXT, largest.as_bytes()));
    assert_eq!(told(&mut raw)["error"]["path"], "id");
    let (one, two) = largest.as_bytes().split_at(1000);
    raw.send([part(MORE, TEXT, one), part(FIN, CONTINUE, two)].concat());
    assert_eq!(told(&mut raw)["error"]["status"], 400);

    let larger = sized(MESSAGE_MAX + 1);
    raw.send(part(FIN, TEXT, larger.as_bytes()));
    assert_eq!(closes_with(&mut raw).0, 1009);
    let mut raw = with_text(&sluice);
    let (one, two) = larger.as_bytes().split_at(1000);
    raw.send([part(MORE, TEXT, one), part(FIN, CONTINUE, two)].concat());
    assert_eq!(closes_with(&mut raw).0, 1009, "fragments count together");
    // Nothing is waited for once the head has said too much.
    let mut raw = with_text(&sluice);
    raw.send(&part(FIN, TEXT, &[b' '; 100_000])[..20]);
    assert_eq!(closes_with(&mut raw).0, 1009);
    // Fragments of nothing, again and again, make no message and no memory.
    let before = sluice.observe().resident_bytes();
    let mut raw = with_text(&sluice);
    raw.send(part(MORE, TEXT, b""));
    let empty: Vec<u8> = (0..1000).flat_map(|_| part(MORE, CONTINUE, b"")).collect();
    for _ in 0..100 {
        raw.send(&empty);
    }
    raw.send(part(FIN, CONTINUE, beat("end").as_bytes()));
    is_beaten(&mut raw, "end");
    assert!(sluice.observe().resident_bytes() < before + (16 << 20));
}

#[test]
fn every_mask_and_every_cut_gives_the_same_frame() {
    let server = server();
    let sluice = started(&server);
    let mut raw = greeted(&sluice, "sluice.im20");
    let frame = frame(command::HEARTBEAT, 7, 0, b"");
    let answered = |raw: &mut Raw| {
        let (first, payload) = answer(raw);
        assert_eq!(first, FIN | BINARY);
        let frames = frames_of(&payload);
        assert_eq!((frames.len(), frames[0].command, frames[0].sequence), (1, command::HEARTBEAT_REPLY, 7));
    };
    for mask in [[0; 4], [0xFF; 4], [1, 2, 3, 4], [0x80, 0, 0, 0x7F]] {
        let bytes = part_with(FIN | BINARY, &frame, Some(mask));
        for cut in 0..=bytes.len() {
            raw.send(&bytes[..cut]);
            raw.send(&bytes[cut..]);
            answered(&mut raw);
        }
    }
    // Many in one write.
    let many: Vec<u8> = (0..200).flat_map(|_| part(FIN, BINARY, &frame)).collect();
    raw.send(many);
    (0..200).for_each(|_| answered(&mut raw));
    // Text where frames are spoken, and the other way round.
    raw.send(part(FIN, TEXT, b"{}"));
    assert_eq!(closes_with(&mut raw).0, 1003);
    let mut raw = with_text(&sluice);
    raw.send(part(FIN, BINARY, &frame));
    assert_eq!(closes_with(&mut raw).0, 1003);
}

#[test]
fn pings_are_answered_in_order_and_pongs_nobody_asked_for_ignored() {
    let server = server();
    let sluice = started(&server);
    let mut raw = with_text(&sluice);
    let payloads: [&[u8]; 4] = [b"", b"hello", &[0xFF; 125], b"\x00\xFE"];
    for payload in payloads {
        raw.send([part(FIN, PONG, payload), part(FIN, PING, payload)].concat());
        assert_eq!(answer(&mut raw), (FIN | PONG, payload.to_vec()));
    }
    raw.send(part(FIN, TEXT, beat("after").as_bytes()));
    is_beaten(&mut raw, "after");
}

#[test]
fn handshakes_that_are_none_get_no_101() {
    let server = server();
    let sluice = started(&server);
    let good = handshake("sluice.json", "");
    let origin = |origin: &str| handshake("sluice.json", &format!("Origin: {origin}\r\n"));
    let table = [
        ("another site's page", origin("https://evil.test"), 403),
        ("a page without an origin", origin("null"), 403),
        ("another port's page", origin("http://im.test"), 403),
        ("an unknown subprotocol", handshake("chat", ""), 400),
        ("another version", good.replace("Version: 13", "Version: 8"), 426),
        ("no version", good.replace("Sec-WebSocket-Version: 13\r\n", ""), 426),
        ("a short key", good.replace(KEY, "c2hvcnQ="), 400),
        ("no key", good.replace(&format!("Sec-WebSocket-Key: {KEY}\r\n"), ""), 400),
        ("a key that is no base64", good.replace(KEY, "!!!!!!!!!!!!!!!!!!!!!!=="), 400),
        ("a POST", good.replace("GET /im", "POST /im"), 400),
        ("HTTP/1.0", good.replace("HTTP/1.1", "HTTP/1.0"), 400),
    ];
    for (name, request, status) in table {
        let mut raw = sluice.connect("edge");
        raw.send(&request);
        let head = String::from_utf8_lossy(&raw.read_until(b"\r\n\r\n")).into_owned();
        let found: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(found != 101 && (400..500).contains(&found), "{name}: {head}");
        if !matches!(name, "a POST" | "HTTP/1.0") {
            assert_eq!(found, status, "{name}: {head}");
        }
    }
    for request in [origin("http://im.test:8443"), origin("https://IM.test:8443"), good] {
        let mut raw = sluice.connect("edge");
        raw.send(&request);
        let head = String::from_utf8_lossy(&raw.read_until(b"\r\n\r\n")).into_owned();
        assert!(head.starts_with("HTTP/1.1 101"), "{request}: {head}");
    }
}
