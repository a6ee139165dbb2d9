//! What is measured, and the goals.

use crate::origin::{LARGE, SMALL};

/// A group of cases, as named on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Bench {
    /// HTTP/1.1 keep-alive in plain: answers of 128 bytes and of 64 KiB
    Http1,
    /// The same over TLS
    Https,
    /// TLS 1.3 full handshakes with a P-256 certificate
    Handshake,
    /// HTTP/2 over TLS to an origin that speaks HTTP/1.1
    H2,
    /// Frames relayed: ping-pong of 64 bytes, and 16 frames of 1 KiB at a time
    Tlv,
    /// What plugins add: calls of a filter, fresh instances, edge functions, the firewall
    Plugin,
    /// What wasmtime alone takes for calls and instances
    Engine,
    /// JSON to frames and back, and WebSocket to frames, against nginx with Lua
    Im,
    /// One message between JSON and protobuf: the module, the same natively, Lua
    Messages,
    /// Memory of idle connections
    Idle,
    /// Time until five nodes on one etcd have applied a write; only when it is named
    Fleet,
}

impl Bench {
    /// Those that run when none is named, in their order.
    pub(crate) const ALL: [Self; 10] = [
        Self::Http1,
        Self::Https,
        Self::Handshake,
        Self::H2,
        Self::Tlv,
        Self::Plugin,
        Self::Engine,
        Self::Im,
        Self::Messages,
        Self::Idle,
    ];
}

/// The transcoder as it is shipped; `cargo xtask plugins` builds it.
pub(crate) const TRANSCODER: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/plugins/transcode.wasm");

/// What a client does over and over.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Load {
    /// One request at a time on each of `connections`, with `upload` bytes of
    /// body where that is not 0.
    Http { tls: bool, connections: usize, path: &'static str, upload: usize, body_bytes: usize },
    /// `streams` requests at a time on each of `connections`.
    Http2 { connections: usize, streams: usize, path: &'static str, body_bytes: usize },
    /// A new connection each time, closed after the handshake.
    Handshake { connections: usize },
    /// `batch` frames sent in one write, all awaited before the next.
    Tlv { connections: usize, frame_bytes: usize, batch: usize },
    /// One message at a time as JSON on each of `connections`, which becomes a frame.
    Json { connections: usize },
    /// The like of `Tlv`, each frame as a WebSocket message.
    WebSocket { connections: usize, frame_bytes: usize, batch: usize },
}

/// What is to be reached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal {
    /// What is aimed at.
    pub(crate) aim: f64,
    /// What must hold in every release.
    pub(crate) limit: f64,
}

/// One thing that is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) bench: Bench,
    /// Its name in reports and in the history.
    pub(crate) name: &'static str,
    /// What one operation is.
    pub(crate) operation: &'static str,
    pub(crate) load: Load,
    /// CPU time of an operation relative to nginx's.
    pub(crate) goal: Goal,
}

/// Connections of most loads.
pub(crate) const CONNECTIONS: usize = 32;

/// Everything that is measured under load.
pub(crate) const CASES: &[Case] = &[
    http(Bench::Http1, "http1-128B", SMALL, false, Goal { aim: 0.80, limit: 1.0 }),
    http(Bench::Http1, "http1-64KiB", LARGE, false, Goal { aim: 0.80, limit: 1.0 }),
    http(Bench::Https, "https-128B", SMALL, true, Goal { aim: 0.60, limit: 0.75 }),
    http(Bench::Https, "https-64KiB", LARGE, true, Goal { aim: 0.60, limit: 0.75 }),
    Case {
        bench: Bench::Handshake,
        name: "handshake",
        operation: "handshake",
        load: Load::Handshake { connections: 16 },
        goal: Goal { aim: 0.50, limit: 0.60 },
    },
    Case {
        bench: Bench::H2,
        name: "h2-128B",
        operation: "request",
        load: Load::Http2 { connections: 8, streams: 8, path: SMALL.0, body_bytes: SMALL.1 },
        goal: Goal { aim: 0.80, limit: 0.85 },
    },
    Case {
        bench: Bench::Tlv,
        name: "tlv-ping-pong-64B",
        operation: "frame",
        load: Load::Tlv { connections: CONNECTIONS, frame_bytes: 64, batch: 1 },
        goal: Goal { aim: 0.95, limit: 1.0 },
    },
    Case {
        bench: Bench::Tlv,
        name: "tlv-pipelined-1KiB",
        operation: "frame",
        load: Load::Tlv { connections: CONNECTIONS, frame_bytes: 1024, batch: 16 },
        goal: Goal { aim: 0.60, limit: 0.70 },
    },
    Case {
        bench: Bench::Im,
        name: "im-json-request",
        operation: "request",
        load: Load::Json { connections: CONNECTIONS },
        goal: Goal { aim: 0.45, limit: 0.45 },
    },
    Case {
        bench: Bench::Im,
        name: "im-websocket-ping-pong-256B",
        operation: "message",
        load: Load::WebSocket { connections: CONNECTIONS, frame_bytes: 256, batch: 1 },
        goal: Goal { aim: 0.65, limit: 0.65 },
    },
    Case {
        bench: Bench::Im,
        name: "im-websocket-pipelined-256B",
        operation: "message",
        load: Load::WebSocket { connections: CONNECTIONS, frame_bytes: 256, batch: 16 },
        goal: Goal { aim: 0.10, limit: 0.10 },
    },
];

const fn http(
    bench: Bench,
    name: &'static str,
    (path, body_bytes): (&'static str, usize),
    tls: bool,
    goal: Goal,
) -> Case {
    let load = Load::Http { tls, connections: CONNECTIONS, path, upload: 0, body_bytes };
    Case { bench, name, operation: "request", load, goal }
}

/// A kind of connection that is held idle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdleCase {
    pub(crate) name: &'static str,
    pub(crate) is_http: bool,
    pub(crate) tls: bool,
    /// Bytes of process memory a connection.
    pub(crate) goal: Goal,
}

/// Every kind of idle connection.
pub(crate) const IDLE_CASES: &[IdleCase] = &[
    IdleCase { name: "idle-tlv", is_http: false, tls: false, goal: bytes(2_000.0) },
    IdleCase { name: "idle-tlv-tls", is_http: false, tls: true, goal: bytes(11_000.0) },
    IdleCase { name: "idle-http", is_http: true, tls: false, goal: bytes(4_000.0) },
    IdleCase { name: "idle-https", is_http: true, tls: true, goal: bytes(13_000.0) },
];

const fn bytes(aim: f64) -> Goal {
    Goal { aim, limit: aim }
}
