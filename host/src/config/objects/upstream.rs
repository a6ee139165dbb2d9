//! Upstreams: the service side, as lines of nodes.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Checks, Labels, Nodes, Reference, units};
use crate::config::{Id, Kind};

/// How long a connection to a node may take to open. APISIX has 60 s, in which a
/// black hole would hold a request long after another node had answered it.
pub const UPSTREAM_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an upstream may take no byte.
pub const UPSTREAM_SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an upstream may send no byte.
pub const UPSTREAM_READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How many idle connections to a node are kept, on all workers together.
pub const KEEPALIVE_POOL_SIZE: u32 = 320;
/// How long an idle connection is kept.
pub const KEEPALIVE_POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How many requests a connection carries before it is closed.
pub const KEEPALIVE_POOL_REQUESTS: u32 = 1000;
/// How long a line that failed must be good before it is taken back.
pub const FAILOVER_HOLD_DOWN: Duration = Duration::from_secs(10);
/// How long a connection may take to open while another line could be tried.
pub const FAILOVER_CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// By how much another line must be faster to be changed to, in percent.
pub const FAILOVER_LATENCY_MARGIN: u32 = 25;
/// The name of the line that `nodes` of an upstream make.
pub const DEFAULT_LINE: &str = "default";
/// The most lines of an upstream.
pub const LINES_MAX: usize = 64;
/// The most nodes of a line.
pub const NODES_MAX: usize = 4096;
/// The most relays on the way of a line.
pub const VIA_MAX: usize = 8;
/// The heaviest node.
pub const WEIGHT_MAX: u32 = 65_535;
/// The most retries.
pub const RETRIES_MAX: u32 = 255;

/// The service side of routes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// The id; empty when the upstream is written inside a route or service.
    #[serde(default, skip_serializing_if = "is_unnamed")]
    pub id: Id,
    /// What is spoken to the nodes. Default `http`.
    #[serde(default)]
    pub scheme: UpstreamScheme,
    /// How a node is chosen. Default `roundrobin`.
    #[serde(rename = "type", default)]
    pub balance: Balance,
    /// The nodes of the only line; instead of `lines`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Nodes>,
    /// Ours: several ways to reach the service; instead of `nodes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<Vec<Line>>,
    /// Ours: how lines take over from each other.
    #[serde(default)]
    pub failover: Failover,
    /// What `chash` hashes. Default `vars`.
    #[serde(default)]
    pub hash_on: HashOn,
    /// The variable, header or cookie that is hashed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How health is found out. Without it only failed connections count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checks: Option<Checks>,
    /// How many other nodes are tried. All when not said; 0 means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// No retry begins after this time. Default 0: no such limit.
    #[serde(default, with = "units::duration")]
    pub retry_timeout: Duration,
    /// Times.
    #[serde(default)]
    pub timeout: Timeout,
    /// TLS towards the nodes, for schemes over TLS.
    #[serde(default)]
    pub tls: UpstreamTls,
    /// Idle connections.
    #[serde(default)]
    pub keepalive_pool: KeepalivePool,
    /// Which `Host` the nodes see. Default `pass`.
    #[serde(default)]
    pub pass_host: PassHost,
    /// The `Host` for `pass_host: rewrite`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_host: Option<String>,
    /// Ours: whether connections begin with a PROXY protocol header. Default `off`.
    #[serde(default)]
    pub send_proxy_protocol: SendProxyProtocol,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A description for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desc: Option<String>,
    /// Labels, for people and for filtering lists.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// When it was made, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_time: Option<i64>,
    /// When it was last changed, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_time: Option<i64>,
    /// Service discovery of APISIX; refused here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_name: Option<Value>,
    /// Service discovery of APISIX; refused here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery_type: Option<Value>,
    /// Service discovery of APISIX; refused here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery_args: Option<Value>,
}

fn is_unnamed(id: &Id) -> bool {
    id.is_empty()
}

/// What is spoken to the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamScheme {
    /// HTTP/1.1.
    #[default]
    Http,
    /// HTTP/1.1 over TLS; HTTP/2 when the node offers it.
    Https,
    /// HTTP/2 without TLS.
    Grpc,
    /// HTTP/2 over TLS.
    Grpcs,
    /// Bytes.
    Tcp,
    /// Bytes over TLS.
    Tls,
    /// Frames.
    Tlv,
    /// Frames over TLS.
    Tlvs,
    /// WebSocket.
    Ws,
    /// WebSocket over TLS.
    Wss,
}

impl UpstreamScheme {
    /// Whether connections are encrypted.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Grpcs | Self::Tls | Self::Tlvs | Self::Wss)
    }

    /// The port of a node that names none, where the scheme has a usual one.
    pub fn default_port(self) -> Option<u16> {
        match self {
            Self::Http | Self::Grpc | Self::Ws => Some(80),
            Self::Https | Self::Grpcs | Self::Wss => Some(443),
            Self::Tcp | Self::Tls | Self::Tlv | Self::Tlvs => None,
        }
    }

    /// The scheme as it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Grpc => "grpc",
            Self::Grpcs => "grpcs",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Tlv => "tlv",
            Self::Tlvs => "tlvs",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }
}

/// How a node is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// In turn, by weight.
    #[default]
    Roundrobin,
    /// By a consistent hash of `key`.
    Chash,
    /// The faster of two at random, by measured latency.
    Ewma,
    /// The one with the fewest in use, by weight.
    LeastConn,
}

/// What `chash` hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashOn {
    /// A variable.
    #[default]
    Vars,
    /// A header.
    Header,
    /// A cookie.
    Cookie,
    /// The consumer.
    Consumer,
    /// A text with several variables, `$request_uri$remote_addr`.
    VarsCombinations,
}

/// Which `Host` the nodes see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PassHost {
    /// The client's.
    #[default]
    Pass,
    /// The node's.
    Node,
    /// `upstream_host`.
    Rewrite,
}

/// Whether connections to nodes begin with a PROXY protocol header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SendProxyProtocol {
    /// No header.
    #[default]
    Off,
    /// Version 1, text: the client's address alone.
    V1,
    /// Version 2, binary.
    V2,
}

/// A way to reach the service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The name, unique in the upstream.
    pub name: String,
    /// The highest that is healthy is used, with `prefer: priority`. Default 0.
    #[serde(default)]
    pub priority: i32,
    /// The addresses.
    pub nodes: Nodes,
    /// Relays on the way, each `host:port`, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub via: Vec<String>,
    /// Checks of this line; the upstream's when not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checks: Option<Checks>,
    /// TLS of this line; the upstream's when not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTls>,
}

/// How lines take over from each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Failover {
    /// Which healthy line is used. Default `priority`.
    pub prefer: Prefer,
    /// How long a line that failed is held off. Default [`FAILOVER_HOLD_DOWN`].
    #[serde(with = "units::duration")]
    pub hold_down: Duration,
    /// How long a connection may take to open while another line is left to
    /// try. Default [`FAILOVER_CONNECT_TIMEOUT`].
    #[serde(with = "units::duration")]
    pub connect_timeout: Duration,
    /// With `prefer: latency`, by how many percent another line must be faster
    /// to be changed to. Default [`FAILOVER_LATENCY_MARGIN`].
    pub latency_margin: u32,
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            prefer: Prefer::default(),
            hold_down: FAILOVER_HOLD_DOWN,
            connect_timeout: FAILOVER_CONNECT_TIMEOUT,
            latency_margin: FAILOVER_LATENCY_MARGIN,
        }
    }
}

/// Which healthy line is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefer {
    /// The one of the highest priority.
    #[default]
    Priority,
    /// The one with the lowest measured latency.
    Latency,
}

/// Times towards an upstream. As in APISIX the first three come together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeout {
    /// To open a connection. Default [`UPSTREAM_CONNECT_TIMEOUT`].
    #[serde(with = "units::duration")]
    pub connect: Duration,
    /// Between two writes. Default [`UPSTREAM_SEND_TIMEOUT`].
    #[serde(with = "units::duration")]
    pub send: Duration,
    /// Between two reads. Default [`UPSTREAM_READ_TIMEOUT`].
    #[serde(with = "units::duration")]
    pub read: Duration,
    /// Ours: the whole request, retries included. No limit when not said.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "units::duration_option")]
    pub total: Option<Duration>,
}

impl Default for Timeout {
    fn default() -> Self {
        Self {
            connect: UPSTREAM_CONNECT_TIMEOUT,
            send: UPSTREAM_SEND_TIMEOUT,
            read: UPSTREAM_READ_TIMEOUT,
            total: None,
        }
    }
}

/// Idle connections to a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeepalivePool {
    /// How many are kept. Default [`KEEPALIVE_POOL_SIZE`].
    pub size: u32,
    /// How long they are kept; 0 means none are. Default [`KEEPALIVE_POOL_IDLE_TIMEOUT`].
    #[serde(with = "units::duration")]
    pub idle_timeout: Duration,
    /// How many requests one carries. Default [`KEEPALIVE_POOL_REQUESTS`].
    pub requests: u32,
}

impl Default for KeepalivePool {
    fn default() -> Self {
        Self {
            size: KEEPALIVE_POOL_SIZE,
            idle_timeout: KEEPALIVE_POOL_IDLE_TIMEOUT,
            requests: KEEPALIVE_POOL_REQUESTS,
        }
    }
}

/// TLS towards the nodes.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTls {
    /// Whether the certificate is verified. Default true (false in APISIX).
    pub verify: bool,
    /// Ours: authorities to trust instead of the public ones, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Ours: the server name; what `pass_host` gives when not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// The certificate shown, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<String>,
    /// Its key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<String>,
    /// The certificate shown, as an `ssls` object of type `client`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert_id: Option<Id>,
}

impl Default for UpstreamTls {
    fn default() -> Self {
        Self { verify: true, ca: None, sni: None, client_cert: None, client_key: None, client_cert_id: None }
    }
}

impl fmt::Debug for UpstreamTls {
    // The key never reaches a log, not even by accident.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls")
            .field("verify", &self.verify)
            .field("ca", &self.ca.is_some())
            .field("sni", &self.sni)
            .field("client_cert", &self.client_cert.is_some())
            .field("client_cert_id", &self.client_cert_id)
            .finish_non_exhaustive()
    }
}

impl Upstream {
    /// The lines, where `nodes` are one line of the name [`DEFAULT_LINE`].
    pub fn all_lines(&self) -> Vec<Line> {
        match (&self.lines, &self.nodes) {
            (Some(lines), _) => lines.clone(),
            (None, nodes) => vec![Line {
                name: DEFAULT_LINE.to_owned(),
                priority: 0,
                nodes: nodes.clone().unwrap_or_default(),
                via: Vec::new(),
                checks: None,
                tls: None,
            }],
        }
    }

    pub(super) fn references_under(&self, prefix: &str) -> Vec<Reference> {
        let mut all = Vec::new();
        let join =
            |field: &str| if prefix.is_empty() { field.to_owned() } else { format!("{prefix}.{field}") };
        if let Some(id) = &self.tls.client_cert_id {
            all.push(Reference { field: join("tls.client_cert_id"), kind: Kind::Ssls, id: id.clone() });
        }
        let mut format = |checks: &Option<Checks>, field: String| {
            let active = checks.as_ref().and_then(|checks| checks.active.as_ref());
            if let Some(id) = active.and_then(|active| active.frame_format.as_ref()) {
                let field = join(&format!("{field}.active.frame_format"));
                all.push(Reference { field, kind: Kind::FrameFormats, id: id.clone() });
            }
        };
        format(&self.checks, "checks".to_owned());
        for (index, line) in self.lines.iter().flatten().enumerate() {
            format(&line.checks, format!("lines[{index}].checks"));
        }
        for (index, line) in self.lines.iter().flatten().enumerate() {
            if let Some(id) = line.tls.as_ref().and_then(|tls| tls.client_cert_id.as_ref()) {
                let field = join(&format!("lines[{index}].tls.client_cert_id"));
                all.push(Reference { field, kind: Kind::Ssls, id: id.clone() });
            }
        }
        all
    }
}
