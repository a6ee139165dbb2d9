//! Lines, frames and small upstreams for the tests of failover, balance, TLV and TCP.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_harness::{Raw, Sluice, eventually};
use sluice_services::frame::{Frame, command};

/// An `upstreams` object with a leased line of priority 10 and a public one of
/// priority 5; checks every 200 ms, hold-down of a second.
pub fn two_lines(scheme: &str, leased: &str, public: &str, check: &str) -> Value {
    let active = json!({"type": check, "interval": 0.2, "timeout": 0.3, "rise": 2});
    json!({
        "scheme": scheme,
        "lines": [
            {"name": "leased", "priority": 10, "nodes": {leased: 1}, "checks": {"active": active.clone()}},
            {"name": "public", "priority": 5, "nodes": {public: 1}, "checks": {"active": active}},
        ],
        "failover": {"hold_down": "1s", "connect_timeout": "300ms"},
    })
}

/// A `stream_routes` object for frames of the demo's IM protocol, by way of the
/// upstream `im`.
pub fn im_route(extra: Value) -> Value {
    let mut conf = json!({
        "frame_format": "im20", "replay": ["0x0101"], "safe": ["0x0320"], "heartbeat": "0x0001",
    });
    merge(&mut conf, extra);
    json!({"listener": "im", "protocol": {"name": "tlv", "conf": conf}, "upstream_id": "im"})
}

/// Lays the fields of `over` over those of `under`.
pub fn merge(under: &mut Value, over: Value) {
    if let (Some(under), Value::Object(over)) = (under.as_object_mut(), over) {
        under.extend(over);
    }
}

/// A frame's bytes.
pub fn frame(command: u16, sequence: u16, user: u32, body: &[u8]) -> Vec<u8> {
    let frame =
        Frame { version: 1, command, sequence, from: user, body: body.to_vec().into(), ..Frame::default() };
    frame.to_bytes().to_vec()
}

/// A heartbeat's bytes.
pub fn heartbeat(sequence: u16) -> Vec<u8> {
    frame(command::HEARTBEAT, sequence, 0, b"")
}

/// Reads one `im20` frame.
pub fn read_frame(raw: &mut Raw) -> Frame {
    let mut bytes = bytes::BytesMut::from(&raw.read_bytes(21)[..]);
    let length = u32::from_be_bytes([bytes[17], bytes[18], bytes[19], bytes[20]]);
    bytes.extend_from_slice(&raw.read_bytes(length as usize + 1));
    match sluice_services::frame::decode(&mut bytes) {
        Ok(Some(frame)) => frame,
        other => panic!("no frame came: {other:?}"),
    }
}

/// Reads the error frame and returns its sequence number and the text of the reason.
pub fn read_error(raw: &mut Raw) -> (u16, String) {
    let frame = read_frame(raw);
    assert_eq!(frame.command, command::ERROR, "{frame:?}");
    let error: sluice_services::im_v1::Error = frame.message().expect("an error frame has a body");
    (frame.sequence, error.text)
}

/// All whole frames at the front of `bytes`.
pub fn frames_of(bytes: &[u8]) -> Vec<Frame> {
    let mut rest = bytes::BytesMut::from(bytes);
    let mut found = Vec::new();
    while let Ok(Some(frame)) = sluice_services::frame::decode(&mut rest) {
        found.push(frame);
    }
    found
}

/// Waits until sessions that ended for `reason` are at least `count`, in the
/// counters, and that one of them is in the access log.
pub fn closes_for(sluice: &Sluice, reason: &str, count: u32) -> Value {
    eventually(&format!("{count} sessions ended by {reason}"), || {
        let found = sluice.metrics().count("sluice_session_closes_total", &[("reason", reason)]);
        (found >= f64::from(count)).then_some(())
    });
    sluice.logged(reason, |line| line["kind"] == "connection" && line["reason"] == reason)
}

/// Waits until a line is in this state (`healthy`, `unhealthy`, …; several are
/// separated by `|`), and returns its status.
pub fn line_is(sluice: &Sluice, upstream: &str, line: &str, states: &str) -> Value {
    let mut last = Value::Null;
    let what = format!("line {line} of {upstream} is {states}");
    let started = std::time::Instant::now();
    loop {
        let status = sluice.line_status(upstream, line);
        if states.split('|').any(|state| status["state"] == state) {
            return status;
        }
        assert!(started.elapsed() < sluice_harness::DEADLINE, "not in time: {what}; last: {last:#}");
        last = status;
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The `reason` of the counter that says which line takes new traffic.
pub fn wait_active(sluice: &Sluice, upstream: &str, line: &str) {
    eventually(&format!("line {line} of {upstream} takes the traffic"), || {
        (sluice.line_status(upstream, line)["active"] == true).then_some(())
    });
}

/// A TCP server of a test's own: a thread for each connection.
pub struct Server {
    address: SocketAddr,
    shared: Arc<ServerShared>,
}

#[derive(Default)]
struct ServerShared {
    accepted: AtomicUsize,
    stop: AtomicBool,
    received: Mutex<Vec<Vec<u8>>>,
}

impl Server {
    /// Serves every connection with `serve`, which gets its number from 0.
    pub fn start(serve: impl Fn(Connection) + Send + Sync + 'static) -> Server {
        Server::start_at("127.0.0.1:0", serve)
    }

    /// The same on an address of your choice.
    pub fn start_at(address: &str, serve: impl Fn(Connection) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind(address).expect("the address is free");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(ServerShared::default());
        let (serve, own) = (Arc::new(serve), Arc::clone(&shared));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if own.stop.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let number = own.accepted.fetch_add(1, Ordering::Relaxed);
                own.lock().push(Vec::new());
                let connection = Connection { stream, number, shared: Arc::clone(&own) };
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(connection));
            }
        });
        Server { address, shared }
    }

    /// One that answers every `im20` frame with the same body, command and
    /// sequence number, the command plus one.
    pub fn frame_echo() -> Server {
        Server::start(|mut connection| {
            while let Some(frame) = connection.next_frame() {
                let reply = Frame { command: frame.command + 1, ..frame };
                if connection.stream.write_all(&reply.to_bytes()).is_err() {
                    return;
                }
            }
        })
    }

    /// One that answers every `im20` frame with an empty body, the command plus
    /// one and the same sequence number.
    pub fn frame_sink() -> Server {
        Server::start(|mut connection| {
            while let Some(frame) = connection.next_frame() {
                let reply = Frame { command: frame.command + 1, body: bytes::Bytes::new(), ..frame };
                if connection.stream.write_all(&reply.to_bytes()).is_err() {
                    return;
                }
            }
        })
    }

    /// One that sends back every byte, and its end when the client has ended.
    pub fn byte_echo() -> Server {
        Server::start(|mut connection| {
            let mut buffer = [0; 16 * 1024];
            while let Ok(count @ 1..) = connection.read(&mut buffer) {
                if connection.stream.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        })
    }

    /// Where it listens, as a key of `nodes`.
    pub fn node(&self) -> String {
        self.address.to_string()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// What each connection has sent so far.
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.shared.lock().clone()
    }

    /// The frames of all connections so far.
    pub fn frames(&self) -> Vec<Frame> {
        self.received().iter().flat_map(|bytes| frames_of(bytes)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the accepting thread; if it cannot be reached it has ended.
        let _ = TcpStream::connect(self.address);
    }
}

impl ServerShared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection of a [`Server`]. What is read through it is remembered.
pub struct Connection {
    /// The socket.
    pub stream: TcpStream,
    /// From 0.
    pub number: usize,
    shared: Arc<ServerShared>,
}

impl Connection {
    /// Reads one frame; none when the stream ends or holds something else.
    pub fn next_frame(&mut self) -> Option<Frame> {
        let mut bytes = vec![0; 21];
        self.read_exact(&mut bytes).ok()?;
        let length = u32::from_be_bytes([bytes[17], bytes[18], bytes[19], bytes[20]]) as usize;
        bytes.resize(22 + length.min(sluice_services::frame::BODY_MAX), 0);
        self.read_exact(&mut bytes[21..]).ok()?;
        sluice_services::frame::decode(&mut bytes::BytesMut::from(&bytes[..])).ok()?
    }

    /// Waits until the client has ended, reading what comes.
    pub fn drain(&mut self) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(1..) = self.read(&mut buffer) {}
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.shared.lock()[self.number].extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

/// An HTTP origin whose status can be switched while it runs.
pub struct SwitchedOrigin {
    server: Server,
    status: Arc<AtomicU16>,
}

impl SwitchedOrigin {
    /// Answers 200 with `name` until told otherwise.
    pub fn start(name: &str) -> SwitchedOrigin {
        SwitchedOrigin::slow(name, Duration::ZERO)
    }

    /// The same; each answer takes that long.
    pub fn slow(name: &str, delay: Duration) -> SwitchedOrigin {
        let status = Arc::new(AtomicU16::new(200));
        let (shown, name) = (Arc::clone(&status), name.to_owned());
        let server = Server::start(move |mut connection| {
            let mut head = Vec::new();
            let mut byte = [0; 1];
            while let Ok(1) = connection.read(&mut byte) {
                head.push(byte[0]);
                if !head.ends_with(b"\r\n\r\n") {
                    continue;
                }
                head.clear();
                std::thread::sleep(delay);
                let status = shown.load(Ordering::Relaxed);
                let answer =
                    format!("HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n\r\n{name}", name.len());
                if connection.stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        });
        SwitchedOrigin { server, status }
    }

    /// Answers this from now on.
    pub fn answer(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// As a key of `nodes`.
    pub fn node(&self) -> String {
        self.server.node()
    }

    /// Requests whose request line begins with this.
    pub fn requests(&self, start: &str) -> usize {
        let received = self.server.received();
        received.iter().map(|bytes| String::from_utf8_lossy(bytes).matches(start).count()).sum()
    }
}

/// Sends a GET over a new connection and returns status and body.
pub fn get(sluice: &Sluice, listener: &str, target: &str) -> (u16, String) {
    get_with(sluice, listener, target, "")
}

/// The same with more header lines, each ended by CR LF.
pub fn get_with(sluice: &Sluice, listener: &str, target: &str, lines: &str) -> (u16, String) {
    let mut raw = sluice.connect(listener);
    raw.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n{lines}Connection: close\r\n\r\n"));
    let (status, _, body) = raw.read_answer();
    (status, String::from_utf8_lossy(&body).into_owned())
}
