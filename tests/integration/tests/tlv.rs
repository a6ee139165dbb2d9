//! TLV sessions: what reaches whom, and how a session outlives its line.

use std::collections::HashSet;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_harness::{Authority, Background, ImServer, Network, Raw, Sluice, eventually, within};
use sluice_services::frame::{Frame, command};
use sluice_services::im::conversation_id;
use sluice_services::im_client::{ImClient, ImError};
use sluice_tests::lines::{
    Server, closes_for, frame, heartbeat, im_route, line_is, merge, read_error, read_frame, two_lines,
    wait_active,
};

/// A gateway in front of an IM server with a leased and a public line.
fn im_gateway(server: &ImServer, route: Value) -> Sluice {
    let sluice = Sluice::builder()
        .listener("im", json!({"protocol": "tlv"}))
        .put("upstreams", "im", lines_of(server))
        .put("stream_routes", "im", &route)
        .start();
    wait_active(&sluice, "im", "leased");
    sluice
}

fn lines_of(server: &ImServer) -> Value {
    two_lines("tlv", &server.line("leased").node(), &server.line("public").node(), "tlv")
}

/// A gateway in front of one server of the test's own.
fn simple_gateway(server: &Server, listener: Value, route: Value) -> Sluice {
    let mut object = json!({"protocol": "tlv"});
    merge(&mut object, listener);
    Sluice::builder()
        .listener("im", object)
        .put("upstreams", "im", json!({"scheme": "tlv", "nodes": {server.node(): 1}}))
        .put("stream_routes", "im", &route)
        .start()
}

/// One who sends numbered texts to another until told to stop, and what both
/// sides know at the end.
struct Talk {
    background: Background,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    tasks: Vec<std::sync::mpsc::Receiver<Pair>>,
}

/// What came of one pair of users.
#[derive(Debug)]
struct Pair {
    /// Texts whose sending was acknowledged.
    acknowledged: Vec<String>,
    /// Requests answered with an error frame.
    refused: usize,
    /// Texts the other one received, in their order.
    received: Vec<String>,
    /// Why one of the connections ended, or what else went wrong.
    broken: Option<String>,
}

impl Talk {
    /// Starts that many pairs against the gateway, from inside a network if given.
    fn start(network: Option<&Network>, address: SocketAddr, pairs: u32) -> Talk {
        let background = Background::start(network.map(Network::near));
        let stop = std::sync::Arc::<std::sync::atomic::AtomicBool>::default();
        let tasks = (0..pairs)
            .map(|pair| {
                let (send, end) = std::sync::mpsc::channel();
                let stop = stop.clone();
                background.handle().spawn(async move {
                    let _ = send.send(talk(address, pair * 2 + 1, stop).await);
                });
                end
            })
            .collect();
        Talk { background, stop, tasks }
    }

    fn finish(self) -> Vec<Pair> {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let wait = Duration::from_secs(40);
        let ends = self.tasks.iter().map(|task| task.recv_timeout(wait).expect("a talk ends"));
        let pairs = ends.collect();
        drop(self.background);
        pairs
    }
}

async fn talk(address: SocketAddr, user: u32, stop: std::sync::Arc<std::sync::atomic::AtomicBool>) -> Pair {
    let mut pair = Pair { acknowledged: Vec::new(), refused: 0, received: Vec::new(), broken: None };
    if let Err(error) = converse(address, user, &stop, &mut pair).await {
        pair.broken = Some(error.to_string());
    }
    pair
}

async fn converse(
    address: SocketAddr,
    user: u32,
    stop: &std::sync::atomic::AtomicBool,
    pair: &mut Pair,
) -> Result<(), ImError> {
    let other = user + 1;
    let (receiver, _) = ImClient::login_at(address, other, "phone").await?;
    let (sender, _) = ImClient::login_at(address, user, "desk").await?;
    let mut number = 0;
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        let text = format!("{user}-{number}");
        match sender.send(other, &text).await {
            Ok(_) => pair.acknowledged.push(text),
            Err(ImError::Refused(_)) => pair.refused += 1,
            Err(error) => return Err(error),
        }
        number += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // All that was acknowledged arrives; the server pushes again what a lost
    // connection had not acknowledged, so doubles are told by their id.
    let mut ids = HashSet::new();
    let wanted: HashSet<&String> = pair.acknowledged.iter().collect();
    let mut missing = wanted.len();
    while missing > 0 {
        let push = tokio::time::timeout(Duration::from_secs(10), receiver.push()).await;
        let Ok(Some(message)) = push else {
            return Err(ImError::Unexpected(format!("{missing} acknowledged texts never came")));
        };
        if ids.insert(message.message_id) {
            missing -= usize::from(wanted.contains(&message.text));
            pair.received.push(message.text);
        }
    }
    for client in [&sender, &receiver] {
        client.heartbeat().await?;
    }
    Ok(())
}

/// Every connection survived; nothing acknowledged is lost, doubled or out of order.
fn assert_whole(pairs: &[Pair]) {
    for pair in pairs {
        assert_eq!(pair.broken, None, "{pair:?}");
        assert!(!pair.acknowledged.is_empty());
        let numbers: Vec<u32> = pair
            .received
            .iter()
            .map(|text| {
                text.split_once('-').and_then(|(_, number)| number.parse().ok()).expect("our own text")
            })
            .collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "doubled or out of order: {numbers:?}");
        let received: HashSet<_> = pair.received.iter().collect();
        let lost: Vec<_> = pair.acknowledged.iter().filter(|text| !received.contains(text)).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    }
}

#[test]
fn sessions_survive_a_line_that_is_reset_and_flaps() {
    let server = ImServer::start(&["leased", "public"]);
    let sluice = im_gateway(&server, im_route(json!({})));
    let talk = Talk::start(None, sluice.address("im"), 10);
    eventually("everyone talks", || (server.stats().messages > 60).then_some(()));
    let logins = server.stats().logins;
    assert_eq!(logins, 20);

    server.line("leased").cut();
    eventually("sessions are on the public line", || {
        (server.line("public").open_connections() >= 20).then_some(())
    });
    eventually("the logins are replayed", || (server.stats().logins >= 40).then_some(()));
    let status = line_is(&sluice, "im", "leased", "unhealthy");
    assert!(status["why"].is_string(), "{status:#}");
    let before = server.stats().messages;
    eventually("the talk goes on", || (server.stats().messages > before + 60).then_some(()));

    for _ in 0..2 {
        server.line("public").reset_connections();
        let before = server.stats().messages;
        eventually("the talk goes on", || (server.stats().messages > before + 40).then_some(()));
    }
    server.line("leased").restore();
    wait_active(&sluice, "im", "leased");
    assert_whole(&talk.finish());
    let moved = sluice.metrics().count("sluice_sessions_moved_total", &[("route", "im")]);
    assert!(moved >= 20.0, "{moved} sessions were moved");
}

#[test]
fn sessions_survive_a_line_that_goes_silent() {
    let network = Network::new(2);
    let address = |link| SocketAddr::new(network.address(link), 9000);
    let server = ImServer::builder()
        .line("leased", address(0))
        .line("public", address(1))
        .within(network.far())
        .start();
    let sluice = Sluice::builder()
        .listener("im", json!({"protocol": "tlv"}))
        .put("upstreams", "im", lines_of(&server))
        .put("stream_routes", "im", im_route(json!({})))
        .within(network.near())
        .start();
    wait_active(&sluice, "im", "leased");
    let talk = Talk::start(Some(&network), sluice.address("im"), 6);
    eventually("everyone talks", || (server.stats().messages > 40).then_some(()));
    let cut = Instant::now();
    network.black_hole(0);
    eventually("sessions are on the public line", || {
        (server.line("public").open_connections() >= 12).then_some(())
    });
    assert!(cut.elapsed() < Duration::from_secs(10), "{:?}", cut.elapsed());
    let before = server.stats().messages;
    eventually("the talk goes on", || (server.stats().messages > before + 40).then_some(()));
    network.heal();
    assert_whole(&talk.finish());
}

#[test]
fn unanswered_requests_are_told_and_safe_ones_sent_again() {
    // The first connection takes the login and then no longer answers; the
    // next one answers everything.
    let server = Server::start(|mut connection| {
        while let Some(frame) = connection.next_frame() {
            if connection.number == 0 && frame.command != command::LOGIN {
                if frame.sequence == 9 {
                    return;
                }
                continue;
            }
            let reply = Frame { command: frame.command + 1, ..frame };
            if connection.stream.write_all(&reply.to_bytes()).is_err() {
                return;
            }
        }
    });
    let sluice = simple_gateway(&server, json!({}), im_route(json!({})));
    let mut raw = sluice.connect("im");
    raw.send(frame(command::LOGIN, 1, 7, b"me"));
    assert_eq!(read_frame(&mut raw).command, command::LOGIN_REPLY);
    raw.send(frame(command::SEND, 2, 7, b"unsafe"));
    raw.send(frame(command::HISTORY, 3, 7, b"safe"));
    raw.send(frame(command::SEND, 9, 7, b"the last straw"));
    let mut told = HashSet::new();
    let mut answered = Vec::new();
    for _ in 0..3 {
        let frame = read_frame(&mut raw);
        match frame.command {
            command::ERROR => {
                let error: sluice_services::im_v1::Error = frame.message().expect("a body");
                assert_eq!(error.text, "request_lost");
                assert_eq!(error.command, u32::from(command::SEND));
                told.insert(frame.sequence);
            }
            _ => answered.push((frame.command, frame.sequence, frame.body)),
        }
    }
    assert_eq!(told, HashSet::from([2, 9]));
    assert_eq!(answered, [(command::HISTORY_REPLY, 3, "safe".into())]);
    // The client's connection is the same, its login was replayed, and the
    // reply to that was swallowed.
    raw.send(frame(command::SEND, 10, 7, b"on"));
    assert_eq!(read_frame(&mut raw).sequence, 10);
    let second = &server.received()[1];
    let seen: Vec<_> = sluice_tests::lines::frames_of(second).iter().map(|frame| frame.sequence).collect();
    assert_eq!(seen, [1, 3, 10]);
}

#[test]
fn a_route_without_replay_ends_its_sessions_with_their_node() {
    let server = ImServer::start(&["leased", "public"]);
    let sluice = im_gateway(&server, im_route(json!({"replay": [], "safe": []})));
    let mut raw = sluice.connect("im");
    raw.send(heartbeat(1));
    assert_eq!(read_frame(&mut raw).sequence, 1);
    server.line("leased").cut();
    raw.read_to_close();
    closes_for(&sluice, "upstream_reset", 1);
}

#[test]
fn heartbeats_pass_or_are_answered_and_their_absence_ends_the_session() {
    let server = Server::frame_echo();
    let conf = |mode: &str| im_route(json!({"heartbeat_mode": mode, "idle_timeout": "1s"}));
    let sluice = simple_gateway(&server, json!({}), conf("forward"));
    let mut raw = sluice.connect("im");
    raw.send(heartbeat(5));
    let reply = read_frame(&mut raw);
    assert_eq!((reply.command, reply.sequence), (command::HEARTBEAT_REPLY, 5));
    assert_eq!(server.frames().len(), 1);

    sluice.apply("stream_routes", "im", conf("answer"));
    let mut other = sluice.connect("im");
    other.send(heartbeat(6));
    let reply = read_frame(&mut other);
    assert_eq!((reply.command, reply.sequence, reply.body.len()), (command::HEARTBEAT_REPLY, 6, 0));
    assert_eq!(server.frames().len(), 1, "the upstream saw none of it");

    // Heartbeats keep a session, silence ends it.
    let until = Instant::now() + Duration::from_millis(1600);
    let mut sequence = 7;
    while Instant::now() < until {
        other.send(heartbeat(sequence));
        assert_eq!(read_frame(&mut other).sequence, sequence);
        sequence += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(read_error(&mut other), (0, "heartbeat_missed".into()));
    other.read_to_close();
    let line = closes_for(&sluice, "heartbeat_missed", 1);
    assert_eq!((&line["protocol"], &line["route"]), (&json!("tlv"), &json!("im")), "{line:#}");
}

#[test]
fn a_silent_client_is_closed_at_the_idle_limit_of_its_listener() {
    let server = Server::frame_echo();
    let mut route = im_route(json!({}));
    route["protocol"]["conf"].as_object_mut().map(|conf| conf.remove("heartbeat"));
    let sluice = simple_gateway(&server, json!({"limits": {"idle_timeout": "700ms"}}), route);
    let mut raw = sluice.connect("im");
    raw.send(heartbeat(1));
    read_frame(&mut raw);
    let started = Instant::now();
    assert_eq!(read_error(&mut raw).1, "idle_timeout");
    assert!(started.elapsed() >= Duration::from_millis(500), "{:?}", started.elapsed());
    closes_for(&sluice, "idle_timeout", 1);
}

#[test]
fn a_drain_closes_sessions_between_frames_within_its_time() {
    let server = Server::frame_echo();
    let mut sluice = Sluice::builder()
        .boot("shutdown", json!({"deadline": "5s"}))
        .listener("im", json!({"protocol": "tlv"}))
        .put("upstreams", "im", json!({"scheme": "tlv", "nodes": {server.node(): 1}}))
        .put("stream_routes", "im", im_route(json!({"drain_spread": "1s"})))
        .start();
    let mut clients: Vec<Raw> = (0..20).map(|_| sluice.connect("im")).collect();
    for raw in &mut clients {
        raw.send(heartbeat(1));
        assert_eq!(read_frame(raw).sequence, 1);
    }
    let started = Instant::now();
    let status = sluice.terminate(Duration::from_secs(10));
    assert!(status.success(), "{status}");
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    for raw in &mut clients {
        assert!(raw.read_to_close().is_empty(), "nothing but the end");
    }
    let drained = sluice.access_log().iter().filter(|line| line["reason"] == "drained").count();
    assert_eq!(drained, 20);
}

#[test]
fn a_plugin_change_reaches_open_sessions() {
    let server = Server::frame_echo();
    let sluice = simple_gateway(&server, json!({}), im_route(json!({})));
    let mut raw = sluice.connect("im");
    raw.send(frame(command::SEND, 1, 7, b""));
    assert_eq!(read_frame(&mut raw).sequence, 1);
    let mut limited = im_route(json!({}));
    limited["plugins"] =
        json!({"limit-req": {"rate": 0.001, "burst": 0, "key": "frame_from", "nodelay": true}});
    sluice.apply("stream_routes", "im", &limited);
    let mut refused = false;
    for sequence in 2..5 {
        raw.send(frame(command::SEND, sequence, 7, b""));
        let answer = read_frame(&mut raw);
        assert_eq!(answer.sequence, sequence);
        refused |= answer.command == command::ERROR;
    }
    assert!(refused, "the new limit holds for the session that was there before");
    sluice.apply("stream_routes", "im", im_route(json!({})));
    for sequence in 5..8 {
        raw.send(frame(command::SEND, sequence, 7, b""));
        assert_eq!(read_frame(&mut raw).command, command::SEND_REPLY);
    }
    assert_eq!(server.accepted(), 1, "the session stayed");
}

/// A gateway whose route limits frames by `key`, with this fate of those over
/// the limit.
fn limited(server: &Server, key: &str, rejected: &str, rate: f64) -> Sluice {
    let mut route = im_route(json!({}));
    route["plugins"] = json!({"limit-req": {
        "rate": rate, "burst": 0, "key": key, "rejected": rejected, "nodelay": rejected != "delay",
    }});
    simple_gateway(server, json!({}), route)
}

#[test]
fn frames_over_a_limit_get_an_error_frame_each_user_for_itself() {
    let server = Server::frame_echo();
    let sluice = limited(&server, "frame_from", "error_frame", 0.01);
    let mut raw = sluice.connect("im");
    raw.send(frame(command::SEND, 1, 7, b""));
    assert_eq!(read_frame(&mut raw).command, command::SEND_REPLY);
    raw.send(frame(command::SEND, 2, 7, b""));
    let (sequence, text) = read_error(&mut raw);
    assert_eq!(sequence, 2);
    assert!(text.contains("limit"), "{text}");
    raw.send(frame(command::SEND, 3, 8, b""));
    assert_eq!(read_frame(&mut raw).command, command::SEND_REPLY, "another user has a bucket of its own");
    let line = sluice.logged("a blocked frame", |line| line["kind"] == "blocked");
    assert_eq!((&line["command"], &line["sequence"]), (&json!(command::SEND), &json!(2)), "{line:#}");
    assert_eq!(server.frames().len(), 2);
}

#[test]
fn frames_over_a_limit_are_dropped_by_command() {
    let server = Server::frame_echo();
    let sluice = limited(&server, "frame_cmd", "drop", 0.01);
    let mut raw = sluice.connect("im");
    for sequence in 1..=3 {
        raw.send(frame(command::SEND, sequence, 7, b""));
    }
    raw.send(frame(command::ACK, 4, 7, b""));
    let first = read_frame(&mut raw);
    let second = read_frame(&mut raw);
    assert_eq!((first.sequence, second.sequence), (1, 4), "the two between are gone without a word");
    assert_eq!(server.frames().len(), 2);
}

#[test]
fn frames_over_a_limit_close_the_session() {
    let server = Server::frame_echo();
    let sluice = limited(&server, "frame_from", "close", 0.01);
    let mut raw = sluice.connect("im");
    raw.send([frame(command::SEND, 1, 7, b""), frame(command::SEND, 2, 7, b"")].concat());
    raw.read_to_close();
    eventually("the close is logged", || {
        let log = sluice.access_log();
        let line = log.iter().find(|line| line["kind"] == "connection")?.clone();
        assert!(line["reason"].as_str().is_some_and(|reason| reason.contains("limit")), "{line:#}");
        Some(())
    });
    assert!(server.frames().len() <= 1);
}

#[test]
fn frames_over_a_limit_wait_and_none_is_lost() {
    let server = Server::frame_echo();
    let sluice = limited(&server, "frame_from", "delay", 20.0);
    let mut raw = sluice.connect("im");
    let started = Instant::now();
    let all: Vec<u8> = (1..=11).flat_map(|sequence| frame(command::SEND, sequence, 7, b"x")).collect();
    raw.send(all);
    for sequence in 1..=11 {
        let answer = read_frame(&mut raw);
        assert_eq!((answer.command, answer.sequence), (command::SEND_REPLY, sequence));
    }
    assert!(started.elapsed() >= Duration::from_millis(400), "{:?}", started.elapsed());
}

#[test]
fn a_listener_with_tls_ends_it_for_frames() {
    let server = ImServer::start(&["leased", "public"]);
    let authority = Authority::new("ours");
    let leaf = authority.leaf(&["im.test"]);
    let sluice = Sluice::builder()
        .listener("im", json!({"protocol": "tlv", "tls": true}))
        .put("ssls", "im", leaf.ssl(&["im.test"]))
        .put("upstreams", "im", lines_of(&server))
        .put("stream_routes", "im", im_route(json!({})))
        .start();
    wait_active(&sluice, "im", "leased");
    let background = Background::start(None);
    let (address, config) = (sluice.address("im"), authority.client_config(&[]));
    let reply = background.run(async move {
        let client = ImClient::connect_tls(address, 1, config, "im.test").await?;
        let login = client.login("a").await?;
        client.send(2, "hello").await?;
        Ok::<_, ImError>(login)
    });
    assert_eq!(reply.expect("the client is served").client_ip, "127.0.0.1");
    let line = sluice.logged("the session", |line| line["kind"] == "connection" && line["listener"] == "im");
    assert!(line["tls"]["version"].is_string(), "{line:#}");
    assert_eq!(line["user"], "1", "{line:#}");
}

#[test]
fn a_server_over_tls_is_verified() {
    let authority = Authority::new("ours");
    let leaf = authority.leaf(&["im.test"]);
    let start = |name: &str| {
        ImServer::builder()
            .line(name, "127.0.0.1:0".parse().expect("an address"))
            .without_proxy_protocol()
            .tls(leaf.server_config(&[]))
            .start()
    };
    let server = start("only");
    let upstream = |ca: &Authority| {
        json!({
            "scheme": "tlvs", "nodes": {server.line("only").node(): 1},
            "tls": {"ca": ca.pem(), "sni": "im.test"}, "timeout": {"connect": 2, "send": 5, "read": 60},
        })
    };
    let sluice = Sluice::builder()
        .listener("im", json!({"protocol": "tlv"}))
        .put("upstreams", "im", upstream(&authority))
        .put("stream_routes", "im", im_route(json!({})))
        .start();
    let mut raw = sluice.connect("im");
    raw.send(heartbeat(1));
    assert_eq!(read_frame(&mut raw).command, command::HEARTBEAT_REPLY);
    sluice.apply("upstreams", "im", upstream(&Authority::new("others")));
    let mut raw = sluice.connect("im");
    raw.send(heartbeat(1));
    assert_eq!(read_error(&mut raw).1, "no_upstream");
    raw.read_to_close();
    closes_for(&sluice, "no_upstream", 1);
}

#[test]
fn an_own_frame_format_is_followed() {
    // Little endian, no markers, a length that counts the header.
    let format = json!({
        "header": [
            {"name": "length", "at": 0, "bytes": 2, "endian": "little"},
            {"name": "command", "at": 2, "bytes": 1},
            {"name": "seq", "at": 3, "bytes": 1},
        ],
        "roles": {"length": "length", "command": "command", "sequence": "seq"},
        "length_counts": "frame",
        "body_max": 16,
    });
    let server = Server::byte_echo();
    let sluice = Sluice::builder()
        .listener("im", json!({"protocol": "tlv", "frame_format": "own"}))
        .put("frame_formats", "own", &format)
        .put("upstreams", "im", json!({"scheme": "tlv", "nodes": {server.node(): 1}}))
        .put("stream_routes", "im", json!({
            "listener": "im", "upstream_id": "im", "protocol": {"name": "tlv", "conf": {"errors": "close"}},
        }))
        .start();
    let mut raw = sluice.connect("im");
    let frames = [&[6, 0, 1, 1, b'h', b'i'][..], &[4, 0, 2, 2]].concat();
    raw.send(&frames);
    assert_eq!(raw.read_bytes(10), frames);
    // One byte more than the longest body.
    raw.send([21, 0, 1, 3]);
    assert!(raw.read_to_close().is_empty());
    let line = closes_for(&sluice, "frame_body_too_large", 1);
    assert_eq!((&line["frames_in"], &line["frames_out"]), (&json!(2), &json!(2)), "{line:#}");
}

#[test]
fn a_reader_that_does_not_read_stops_the_writer_and_loses_nothing() {
    let server = Server::frame_echo();
    let sluice = simple_gateway(&server, json!({"limits": {"send_timeout": "60s"}}), im_route(json!({})));
    let mut raw = sluice.connect("im");
    let mut writer = raw.socket().try_clone().expect("a socket can be copied");
    let body = vec![b'x'; 60_000];
    let count = 800_u16;
    let sending = std::thread::spawn(move || {
        for sequence in 1..=count {
            writer.write_all(&frame(command::SEND, sequence, 7, &body)).expect("the session lives");
        }
    });
    // Nothing is read until everything on the way is full.
    let full = eventually("the stream stands still", || {
        let before = server.received().first().map_or(0, Vec::len);
        std::thread::sleep(Duration::from_millis(300));
        let after = server.received().first().map_or(0, Vec::len);
        (after > 0 && before == after).then_some(after)
    });
    assert!(full < usize::from(count) * 60_000, "48 MB fit nowhere: the writer was not stopped");
    assert!(!sending.is_finished());
    for sequence in 1..=count {
        let answer = read_frame(&mut raw);
        assert_eq!((answer.sequence, answer.body.len()), (sequence, 60_000));
    }
    sending.join().expect("all was sent");
}

#[test]
fn frames_are_counted_by_command_and_direction() {
    let server = ImServer::start(&["leased", "public"]);
    let sluice = im_gateway(&server, im_route(json!({})));
    let background = Background::start(None);
    let address = sluice.address("im");
    let found = background.run(async move {
        let (client, _) = ImClient::login_at(address, 1, "a").await?;
        client.send(2, "one").await?;
        client.send(2, "two").await?;
        client.history(conversation_id(1, 2), 0).await
    });
    assert_eq!(found.expect("the client is served").messages.len(), 2);
    let count = |direction: &str, command: &str| {
        let labels = [("route", "im"), ("direction", direction), ("command", command)];
        sluice.metrics().count("sluice_frames_total", &labels)
    };
    within(Duration::from_secs(5), "the frames are counted", || {
        (count("in", "0x0301") == 2.0 && count("out", "0x0302") == 2.0 && count("in", "0x0101") == 1.0)
            .then_some(())
    });
    let line = closes_for(&sluice, "client_closed", 1);
    assert_eq!((&line["frames_in"], &line["frames_out"]), (&json!(4), &json!(4)), "{line:#}");
    assert_eq!((&line["line"], &line["upstream"]), (&json!("leased"), &json!("im")), "{line:#}");
    assert!(line["bytes_in"].as_u64() > Some(100) && line["client_ip"] == "127.0.0.1", "{line:#}");
}
