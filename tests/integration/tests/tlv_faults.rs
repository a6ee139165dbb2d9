//! TLV peers that break the rules: each is told, closed in time with a counted
//! reason, and costs next to nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_harness::{Raw, Sluice, eventually};
use sluice_services::frame::{BEGIN, END, Frame, OVERHEAD, command};
use sluice_tests::lines::{
    Server, closes_for, frame, frames_of, heartbeat, im_route, merge, read_error, read_frame,
};

const MIB: u64 = 1024 * 1024;

fn gateway(server: &Server, listener: Value, route: Value) -> Sluice {
    let mut object = json!({"protocol": "tlv"});
    merge(&mut object, listener);
    Sluice::builder()
        .listener("im", object)
        .put("upstreams", "im", json!({"scheme": "tlv", "nodes": {server.node(): 1}}))
        .put("stream_routes", "im", &route)
        .start()
}

fn plain(server: &Server) -> Sluice {
    gateway(server, json!({}), im_route(json!({})))
}

/// A frame of 20 bytes of header and this length field, with nothing behind it.
fn head_with_length(length: [u8; 4]) -> Vec<u8> {
    let mut bytes = frame(command::SEND, 2, 7, b"");
    bytes[17..21].copy_from_slice(&length);
    bytes.truncate(21);
    bytes
}

/// A neighbour's session still works.
fn assert_served(sluice: &Sluice) {
    let mut raw = sluice.connect("im");
    raw.send(heartbeat(77));
    assert_eq!(read_frame(&mut raw).sequence, 77);
}

#[test]
fn what_is_no_frame_is_told_and_closed_and_good_frames_before_it_arrive_once() {
    let server = Server::frame_echo();
    let sluice = plain(&server);
    let good = frame(command::SEND, 1, 7, b"good");
    let mut bad_end = frame(command::SEND, 2, 7, b"bad");
    *bad_end.last_mut().expect("a frame has bytes") = 0x0B;
    let table: [(&str, Vec<u8>, &str); 6] = [
        ("bad begin", [&[0x08][..], &frame(command::SEND, 2, 7, b"x")[1..]].concat(), "frame_bad_begin"),
        ("bad end", bad_end, "frame_bad_end"),
        ("junk behind", b"junk".to_vec(), "frame_bad_begin"),
        ("max + 1", head_with_length(65_537_u32.to_be_bytes()), "frame_body_too_large"),
        ("2^31", head_with_length([0x80, 0, 0, 0]), "frame_body_too_large"),
        ("2^32 - 1", head_with_length([0xFF; 4]), "frame_body_too_large"),
    ];
    let mut good_frames = 0;
    for (name, bad, reason) in table {
        let before = sluice.metrics().count("sluice_session_closes_total", &[("reason", reason)]);
        let mut raw = sluice.connect("im");
        raw.send([good.clone(), bad].concat());
        let started = Instant::now();
        let mut rest = raw.read_to_close();
        assert!(started.elapsed() < Duration::from_secs(2), "{name}: {:?}", started.elapsed());
        let answers = frames_of(&rest);
        rest.clear();
        let told = answers.iter().find(|frame| frame.command == command::ERROR);
        let told = told.unwrap_or_else(|| panic!("{name}: not told: {answers:?}"));
        let error: sluice_services::im_v1::Error = told.message().expect("a body");
        assert_eq!((error.text.as_str(), error.code), (reason, 1), "{name}");
        good_frames += 1;
        eventually(&format!("{name}: the good frame is delivered"), || {
            (server.frames().len() == good_frames).then_some(())
        });
        closes_for(&sluice, reason, before as u32 + 1);
        assert_served(&sluice);
        good_frames += 1;
    }
    let sent = server.frames();
    assert!(
        sent.iter().all(|frame| frame.body == "good"[..] || frame.command == command::HEARTBEAT),
        "{sent:?}"
    );
}

#[test]
fn junk_in_front_of_a_good_frame_delivers_nothing() {
    let server = Server::frame_echo();
    let sluice = plain(&server);
    let mut raw = sluice.connect("im");
    raw.send([&b"junk"[..], &frame(command::SEND, 1, 7, b"good")].concat());
    assert_eq!(read_error(&mut raw).1, "frame_bad_begin");
    raw.read_to_close();
    closes_for(&sluice, "frame_bad_begin", 1);
    assert!(server.frames().is_empty(), "never a resync by guessing");
}

#[test]
fn a_length_in_the_wrong_order_waits_for_its_body_and_allocates_nothing() {
    let server = Server::frame_echo();
    let sluice = gateway(&server, json!({"limits": {"frame_timeout": "2s"}}), im_route(json!({})));
    assert_served(&sluice);
    let before = sluice.observe().resident_bytes();
    // 4 as a little-endian number is 2^26 in the order of the format.
    let mut wrong = sluice.connect("im");
    wrong.send(head_with_length(4_u32.to_le_bytes()));
    assert_eq!(read_error(&mut wrong).1, "frame_body_too_large");
    // The longest allowed, claimed by many and never sent.
    let mut claims: Vec<Raw> = (0..200).map(|_| sluice.connect("im")).collect();
    for raw in &mut claims {
        raw.send(head_with_length(65_536_u32.to_be_bytes()));
    }
    assert_served(&sluice);
    let grown = sluice.observe().resident_bytes().saturating_sub(before);
    assert!(grown < 8 * MIB, "{} KiB for 200 claims of 64 KiB", grown / 1024);
    for raw in &mut claims {
        assert_eq!(read_error(raw).1, "frame_timeout");
    }
    closes_for(&sluice, "frame_timeout", 200);
}

#[test]
fn the_shortest_and_the_longest_body_pass() {
    let server = Server::frame_echo();
    let sluice = plain(&server);
    let mut raw = sluice.connect("im");
    for (sequence, length) in [(1, 0), (2, 1), (3, 65_535), (4, 65_536)] {
        let body: Vec<u8> = (0..length).map(|at: u32| at as u8).collect();
        raw.send(frame(command::SEND, sequence, 7, &body));
        let answer = read_frame(&mut raw);
        assert_eq!((answer.sequence, &answer.body[..]), (sequence, &body[..]));
    }
}

#[test]
fn markers_inside_a_body_are_only_bytes() {
    let server = Server::frame_echo();
    let sluice = plain(&server);
    let mut raw = sluice.connect("im");
    let inner = frame(command::LOGIN, 9, 9, &[END, BEGIN, END, BEGIN]);
    let body = [&[END, BEGIN, END][..], &inner, &[BEGIN; 40], &[END; 40]].concat();
    for sequence in 1..=20 {
        raw.send(frame(command::SEND, sequence, 7, &body));
        let answer = read_frame(&mut raw);
        assert_eq!(
            (answer.command, answer.sequence, &answer.body[..]),
            (command::SEND_REPLY, sequence, &body[..])
        );
    }
    assert_eq!(server.frames().len(), 20);
}

#[test]
fn frames_survive_every_split() {
    let server = Server::frame_echo();
    let sluice = plain(&server);
    let two = [frame(command::SEND, 1, 7, b"one"), frame(command::SEND, 2, 7, &[END, BEGIN])].concat();
    let mut raw = sluice.connect("im");
    for cut in 0..=two.len() {
        let (head, tail) = two.split_at(cut);
        raw.send(head);
        // The other side has read the head once it answered the frame before.
        if cut > OVERHEAD + 3 {
            assert_eq!(read_frame(&mut raw).sequence, 1, "cut at {cut}");
            raw.send(tail);
        } else {
            raw.send(tail);
            assert_eq!(read_frame(&mut raw).sequence, 1, "cut at {cut}");
        }
        assert_eq!(read_frame(&mut raw).sequence, 2, "cut at {cut}");
    }
    // Byte by byte.
    for byte in &two {
        raw.send([*byte]);
    }
    assert_eq!((read_frame(&mut raw).sequence, read_frame(&mut raw).sequence), (1, 2));
    assert_eq!(server.frames().len(), (two.len() + 2) * 2);
}

#[test]
fn half_a_header_half_a_frame_and_a_drip_are_closed_at_the_limit() {
    let server = Server::frame_echo();
    let sluice = gateway(&server, json!({"limits": {"frame_timeout": "1s"}}), im_route(json!({})));
    let whole = frame(command::SEND, 2, 7, b"never");
    for cut in [1, 10, 20, 21, 24, whole.len() - 1] {
        let mut raw = sluice.connect("im");
        raw.send([heartbeat(1), whole[..cut].to_vec()].concat());
        assert_eq!(read_frame(&mut raw).sequence, 1);
        let started = Instant::now();
        assert_eq!(read_error(&mut raw).1, "frame_timeout", "cut at {cut}");
        assert!(started.elapsed() < Duration::from_secs(4), "cut at {cut}: {:?}", started.elapsed());
        raw.read_to_close();
    }
    // The limit counts from the first byte: a byte now and then does not help.
    let mut raw = sluice.connect("im");
    let started = Instant::now();
    let long = frame(command::SEND, 2, 7, &[b'x'; 200]);
    for byte in long.iter().take(150) {
        if raw.try_send([*byte]).is_err() || started.elapsed() > Duration::from_secs(6) {
            break;
        }
        std::thread::sleep(Duration::from_millis(40));
        if raw.is_closed() {
            break;
        }
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    closes_for(&sluice, "frame_timeout", 7);
    // The route may choose its nodes by the first frame: none of these got one
    // but those whose heartbeat went through.
    assert!(server.frames().iter().all(|frame| frame.command == command::HEARTBEAT));
}

#[test]
fn a_frame_that_ends_with_the_connection_is_a_fault() {
    let server = Server::frame_echo();
    let sluice = plain(&server);
    let mut raw = sluice.connect("im");
    raw.send(&frame(command::SEND, 2, 7, b"cut")[..15]);
    raw.finish();
    raw.read_to_close();
    closes_for(&sluice, "frame_truncated", 1);
}

#[test]
fn other_protocols_are_turned_away_in_a_second() {
    let server = Server::frame_echo();
    let sluice = plain(&server);
    let words: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    for word in words {
        let mut raw = sluice.connect("im");
        raw.send(word);
        let started = Instant::now();
        raw.read_to_close();
        assert!(started.elapsed() < Duration::from_secs(2), "{word:?}: {:?}", started.elapsed());
    }
    closes_for(&sluice, "frame_bad_begin", 5);
    assert_eq!(server.accepted(), 0, "no node was bothered");
}

#[test]
fn who_says_nothing_or_does_not_log_in_is_closed() {
    let server = Server::frame_echo();
    let conf = json!({"login": ["0x0101"], "first_frame_timeout": "1s"});
    let sluice = gateway(&server, json!({}), im_route(conf));
    let mut silent = sluice.connect("im");
    assert_eq!(read_error(&mut silent).1, "first_frame_timeout");
    silent.read_to_close();
    closes_for(&sluice, "first_frame_timeout", 1);

    let mut rude = sluice.connect("im");
    rude.send(frame(command::SEND, 1, 7, b"no login"));
    let answer = read_frame(&mut rude);
    let error: sluice_services::im_v1::Error = answer.message().expect("a body");
    assert_eq!((answer.command, error.text.as_str(), error.code), (command::ERROR, "login_required", 3));
    closes_for(&sluice, "login_required", 1);
    assert!(server.frames().is_empty());

    let mut polite = sluice.connect("im");
    polite.send([frame(command::LOGIN, 1, 7, b"me"), frame(command::SEND, 2, 7, b"hi")].concat());
    assert_eq!((read_frame(&mut polite).sequence, read_frame(&mut polite).sequence), (1, 2));
}

#[test]
fn sequence_numbers_are_the_clients_own_affair() {
    let server = Server::frame_echo();
    let sluice = plain(&server);
    let mut raw = sluice.connect("im");
    let sequences = [5, 5, 5, 65_535, 0, 1, 65_535, 3];
    for sequence in sequences {
        raw.send(frame(command::SEND, sequence, 7, b""));
    }
    for sequence in sequences {
        assert_eq!(read_frame(&mut raw).sequence, sequence);
    }
}

/// Writes `bytes` over and over, in whole rounds, until `goes_on` says no after a
/// write that found no room for a while, or the connection has ended. Counts
/// on from `sent`; says whether the connection ended.
fn flood(stream: &TcpStream, bytes: &[u8], sent: &mut usize, goes_on: impl Fn() -> bool) -> bool {
    let mut stream = stream;
    stream.set_write_timeout(Some(Duration::from_millis(500))).expect("the time is not zero");
    loop {
        match stream.write(&bytes[*sent % bytes.len()..]) {
            Ok(count) => *sent += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if !goes_on() {
                    return false;
                }
            }
            Err(_) => return true,
        }
    }
}

#[test]
fn floods_and_readers_that_never_read_cost_less_than_a_mebibyte_each() {
    const PEERS: u64 = 12;
    let server = Server::frame_echo();
    let sluice = gateway(&server, json!({"limits": {"send_timeout": "3s"}}), im_route(json!({})));
    assert_served(&sluice);
    let before = sluice.observe().resident_bytes();
    let chunk: Vec<u8> = (0..8).flat_map(|at| frame(command::SEND, at, 7, &[b'x'; 8000])).collect();
    let peers: Vec<Raw> = (0..PEERS).map(|_| sluice.connect("im")).collect();
    let mut sent = vec![0; peers.len()];
    let all = |sent: &mut Vec<usize>, goes_on: &(dyn Fn() -> bool + Sync)| {
        std::thread::scope(|scope| {
            let floods = peers.iter().zip(sent).map(|(raw, sent)| {
                let chunk = &chunk;
                scope.spawn(move || flood(raw.socket(), chunk, sent, goes_on))
            });
            let floods: Vec<_> = floods.collect();
            floods.into_iter().map(|flood| flood.join().expect("it does not panic")).collect::<Vec<bool>>()
        })
    };
    all(&mut sent, &|| false);
    let grown = sluice.observe().resident_bytes().saturating_sub(before);
    assert!(grown < PEERS * MIB, "{} KiB for {PEERS} floods that read nothing", grown / 1024);
    assert_served(&sluice);
    // One pause may only have been the machine's. Whoever goes on, the sockets'
    // buffers full on both sides, is closed for not reading.
    let started = Instant::now();
    let ended = all(&mut sent, &|| started.elapsed() < sluice_harness::DEADLINE);
    assert!(ended.iter().all(|ended| *ended), "{ended:?}, {sent:?} bytes");
    closes_for(&sluice, "client_stalled", PEERS as u32);
    assert_served(&sluice);
}

#[test]
fn a_server_that_floods_a_client_that_does_not_read_is_held_back() {
    let server = Server::start(|mut connection| {
        connection.next_frame();
        let push = Frame { command: command::PUSH, body: vec![b'p'; 8000].into(), ..Frame::default() };
        let bytes = push.to_bytes();
        for _ in 0..8000 {
            if connection.stream.write_all(&bytes).is_err() {
                return;
            }
        }
    });
    let sluice = gateway(&server, json!({"limits": {"send_timeout": "2s"}}), im_route(json!({})));
    let mut clients: Vec<Raw> = (0..8).map(|_| sluice.connect("im")).collect();
    let before = sluice.observe().resident_bytes();
    for raw in &mut clients {
        raw.send(heartbeat(1));
    }
    closes_for(&sluice, "client_stalled", 8);
    let grown = sluice.observe().resident_bytes().saturating_sub(before);
    assert!(grown < 8 * MIB, "{} KiB for 8 clients", grown / 1024);
}

#[test]
fn a_server_that_sends_no_frames_is_found_out() {
    let server = Server::start(|mut connection| {
        connection.next_frame();
        let _ = connection.stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        connection.drain();
    });
    let sluice = gateway(&server, json!({}), im_route(json!({"replay": [], "safe": []})));
    let mut raw = sluice.connect("im");
    raw.send(heartbeat(1));
    assert_eq!(read_error(&mut raw).1, "upstream_frame_bad_begin");
    raw.read_to_close();
    let line = closes_for(&sluice, "upstream_frame_bad_begin", 1);
    assert_eq!(line["frames_out"], 0, "{line:#}");
}

#[test]
fn a_thousand_connections_that_come_back_at_once_are_served() {
    let server = Server::start(|mut connection| {
        // One thread each: small stacks would be nicer, frames are short.
        while let Some(frame) = connection.next_frame() {
            let reply = Frame { command: frame.command + 1, ..frame };
            if connection.stream.write_all(&reply.to_bytes()).is_err() {
                return;
            }
        }
    });
    let sluice = plain(&server);
    let descriptors = sluice.observe().descriptors();
    for _ in 0..2 {
        let address = sluice.address("im");
        let mut clients: Vec<TcpStream> =
            (0..1000).map(|_| TcpStream::connect(address).expect("the backlog holds them")).collect();
        for client in &mut clients {
            client.write_all(&frame(command::LOGIN, 1, 7, b"back")).expect("it is taken");
        }
        for client in &mut clients {
            client.set_read_timeout(Some(Duration::from_secs(20))).expect("the time is not zero");
            let mut answer = [0; OVERHEAD + 4];
            client.read_exact(&mut answer).expect("everyone is answered");
        }
    }
    eventually("the descriptors are given back", || {
        (sluice.observe().descriptors() <= descriptors + 16).then_some(())
    });
    let metrics = sluice.metrics();
    assert_eq!(metrics.count("sluice_frames_total", &[("direction", "out"), ("route", "im")]), 2000.0);
}
