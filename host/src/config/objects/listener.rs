//! Listeners: where connections are accepted, what is spoken there, and the
//! limits of a client.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::route::validate_positive;
use super::ssl::{TlsVersion, validate_certificates};
use super::{
    Labels, Object, Reference, SSL_CLIENT_DEPTH, Status, object_basics, units, validate_description,
};
use crate::config::{Id, Kind, Problems};

/// Connections open at once.
pub const LISTENER_CONNECTIONS: u32 = 100_000;
/// Connections the kernel holds until they are accepted.
pub const LISTENER_BACKLOG: u32 = 4096;
/// Bytes of a request's head, request line included: 64 KiB.
pub const LISTENER_HEADER_BYTES: usize = 64 * 1024;
/// Fields of a request's head.
pub const LISTENER_HEADER_COUNT: usize = 128;
/// Bytes of a request line (of `:path` in HTTP/2): 16 KiB.
pub const LISTENER_REQUEST_LINE: usize = 16 * 1024;
/// From the first byte of a head to its last.
pub const LISTENER_HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's body: 1 GiB.
pub const LISTENER_BODY_BYTES: u64 = 1 << 30;
/// Between two reads of a body.
pub const LISTENER_BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two writes to a client that takes nothing.
pub const LISTENER_SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes a second below which a body that arrives, or a client that reads, is too slow.
pub const LISTENER_MIN_RATE: u32 = 128;
/// The time over which the rate is taken.
pub const LISTENER_MIN_RATE_WINDOW: Duration = Duration::from_secs(20);
/// Silence between requests of an HTTP connection.
pub const LISTENER_IDLE_TIMEOUT_HTTP: Duration = Duration::from_secs(75);
/// Silence of a TLV or TCP connection, and of an upgraded one.
pub const LISTENER_IDLE_TIMEOUT_STREAM: Duration = Duration::from_secs(600);
/// HTTP/2 streams open at once.
pub const LISTENER_STREAMS: u32 = 128;
/// The TLS handshake, and the PROXY header before it.
pub const LISTENER_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of one HTTP connection.
pub const LISTENER_KEEPALIVE_REQUESTS: u32 = 10_000;
/// From the first byte of a frame to its last.
pub const LISTENER_FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that wait for a client, a session: 256 KiB.
pub const LISTENER_PENDING_BYTES: usize = 256 * 1024;
/// How long a PROXY header may take.
pub const PROXY_PROTOCOL_TIMEOUT: Duration = Duration::from_secs(5);
/// After this silence the kernel asks whether the peer is still there.
pub const LISTENER_TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// The most addresses of a listener.
pub const LISTENER_BINDS_MAX: usize = 64;

/// Where connections are accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// The id.
    #[serde(default)]
    pub id: Id,
    /// The addresses, one or a list: `0.0.0.0:8443`, `[::]:8443`. Port 0 lets
    /// the kernel choose; the status shows which.
    #[serde(deserialize_with = "binds")]
    pub bind: Vec<SocketAddr>,
    /// What is spoken. Default `http`.
    #[serde(default)]
    pub protocol: Protocol,
    /// Whether TLS ends here: `false` (default), `true`, `passthrough` (TCP by
    /// SNI, without ending it), or an object with settings.
    #[serde(default)]
    pub tls: ListenerTls,
    /// Who sends a PROXY protocol header before everything else. No one when not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Hops whose `X-Forwarded-For` is believed, from right to left. None by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "units::nets")]
    pub trusted: Vec<IpNet>,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
    /// Whether `//` in a path is one `/` for the rule and the upstream alike. Default true.
    #[serde(default = "super::yes")]
    pub merge_slashes: bool,
    /// Ours: whether clients may open WebSockets as streams of HTTP/2 (RFC 8441).
    /// Browsers that are offered it stop opening connections of their own for
    /// them. Only routes to upstreams that speak HTTP take such streams. Default
    /// false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub websocket_over_http2: bool,
    /// For `tlv`: the frame format of stream routes that name none. Default `im20`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame_format: Option<Id>,
    /// Connections the kernel holds until they are accepted. Default [`LISTENER_BACKLOG`].
    #[serde(default = "backlog")]
    pub backlog: u32,
    /// After this silence the kernel asks whether the peer is still there; 0
    /// means never. Default [`LISTENER_TCP_KEEPALIVE`].
    #[serde(default = "tcp_keepalive", with = "units::duration")]
    pub tcp_keepalive: Duration,
    /// 0 closes the listener. Default 1.
    #[serde(default)]
    pub status: Status,
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
}

fn backlog() -> u32 {
    LISTENER_BACKLOG
}

fn tcp_keepalive() -> Duration {
    LISTENER_TCP_KEEPALIVE
}

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1, HTTP/2 and WebSocket.
    #[default]
    Http,
    /// Frames.
    Tlv,
    /// Bytes.
    Tcp,
    /// Bytes of other Sluices, to where their signed way says (`via`).
    Relay,
}

/// Whether TLS ends at a listener.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum ListenerTls {
    /// No TLS.
    #[default]
    Off,
    /// The hello is read for its server name and everything is passed on.
    Passthrough,
    /// TLS ends here, with certificates from `ssls`.
    Terminate(TlsSettings),
}

/// How TLS is spoken at a listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSettings {
    /// The versions. Default both.
    pub versions: Vec<TlsVersion>,
    /// The protocols offered, best first. By the listener's protocol when not
    /// said: `h2`, `http/1.1` for HTTP, none else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpn: Option<Vec<String>>,
    /// Whether clients must show a certificate, for names whose `ssls` object
    /// does not say. They need not when not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<ListenerClientAuth>,
    /// The name whose certificate is shown to a client that sends none or an
    /// unknown one. Such a handshake fails when not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback_sni: Option<String>,
    /// Whether sessions can be resumed by ticket. Default true.
    pub session_tickets: bool,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            versions: vec![TlsVersion::Tls12, TlsVersion::Tls13],
            alpn: None,
            client: None,
            fallback_sni: None,
            session_tickets: true,
        }
    }
}

/// Which client certificates a listener accepts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerClientAuth {
    /// The authorities' certificates, PEM.
    pub ca: String,
    /// How many certificates may stand between the client's and the
    /// authority's. Default [`SSL_CLIENT_DEPTH`].
    #[serde(default = "client_depth")]
    pub depth: u32,
    /// Whether a client may come without one. Default false.
    #[serde(default)]
    pub optional: bool,
}

fn client_depth() -> u32 {
    SSL_CLIENT_DEPTH
}

/// Who sends a PROXY protocol header, version 1 or 2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocol {
    /// The addresses whose header is believed. Others are clients of their own.
    #[serde(deserialize_with = "units::nets")]
    pub from: Vec<IpNet>,
    /// Whether a connection from these must begin with one. Default true.
    #[serde(default = "super::yes")]
    pub required: bool,
    /// How long it may take. Default [`PROXY_PROTOCOL_TIMEOUT`].
    #[serde(default = "proxy_timeout", with = "units::duration")]
    pub timeout: Duration,
}

fn proxy_timeout() -> Duration {
    PROXY_PROTOCOL_TIMEOUT
}

/// Limits of a listener. Counts and sizes of 0 are errors unless said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections open at once, on all workers together. Default [`LISTENER_CONNECTIONS`].
    pub connections: u32,
    /// Bytes of a head. Default [`LISTENER_HEADER_BYTES`].
    #[serde(with = "units::bytes")]
    pub header_bytes: usize,
    /// Fields of a head. Default [`LISTENER_HEADER_COUNT`].
    pub header_count: usize,
    /// Bytes of a request line. Default [`LISTENER_REQUEST_LINE`].
    #[serde(with = "units::bytes")]
    pub request_line: usize,
    /// From the first byte of a head to its last. Default [`LISTENER_HEADER_TIMEOUT`].
    #[serde(with = "units::duration")]
    pub header_timeout: Duration,
    /// Bytes of a request's body; 0 means no limit. Default [`LISTENER_BODY_BYTES`].
    #[serde(with = "units::bytes")]
    pub body_bytes: u64,
    /// Between two reads of a body. Default [`LISTENER_BODY_TIMEOUT`].
    #[serde(with = "units::duration")]
    pub body_timeout: Duration,
    /// Between two writes to a client that takes nothing. Default [`LISTENER_SEND_TIMEOUT`].
    #[serde(with = "units::duration")]
    pub send_timeout: Duration,
    /// Bytes a second, over `min_rate_window`, that a client's body must
    /// arrive at and its answer be taken at while bytes wait; not for
    /// upgraded connections and gRPC. 0 means any. Default [`LISTENER_MIN_RATE`].
    pub min_rate: u32,
    /// The time over which the rate is taken. Default [`LISTENER_MIN_RATE_WINDOW`].
    #[serde(with = "units::duration")]
    pub min_rate_window: Duration,
    /// Silence between requests, or on a stream. By protocol when not said:
    /// [`LISTENER_IDLE_TIMEOUT_HTTP`] or [`LISTENER_IDLE_TIMEOUT_STREAM`].
    #[serde(skip_serializing_if = "Option::is_none", with = "units::duration_option")]
    pub idle_timeout: Option<Duration>,
    /// Silence of a connection after an upgrade. Default [`LISTENER_IDLE_TIMEOUT_STREAM`].
    #[serde(with = "units::duration")]
    pub upgrade_idle_timeout: Duration,
    /// HTTP/2 streams open at once. Default [`LISTENER_STREAMS`].
    pub streams: u32,
    /// The TLS handshake. Default [`LISTENER_HANDSHAKE_TIMEOUT`].
    #[serde(with = "units::duration")]
    pub handshake_timeout: Duration,
    /// Requests of one HTTP connection; 0 means no limit. Default [`LISTENER_KEEPALIVE_REQUESTS`].
    pub keepalive_requests: u32,
    /// From the first byte of a frame to its last. Default [`LISTENER_FRAME_TIMEOUT`].
    #[serde(with = "units::duration")]
    pub frame_timeout: Duration,
    /// Bytes that wait for a client, a session. Default [`LISTENER_PENDING_BYTES`].
    #[serde(with = "units::bytes")]
    pub pending_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: LISTENER_CONNECTIONS,
            header_bytes: LISTENER_HEADER_BYTES,
            header_count: LISTENER_HEADER_COUNT,
            request_line: LISTENER_REQUEST_LINE,
            header_timeout: LISTENER_HEADER_TIMEOUT,
            body_bytes: LISTENER_BODY_BYTES,
            body_timeout: LISTENER_BODY_TIMEOUT,
            send_timeout: LISTENER_SEND_TIMEOUT,
            min_rate: LISTENER_MIN_RATE,
            min_rate_window: LISTENER_MIN_RATE_WINDOW,
            idle_timeout: None,
            upgrade_idle_timeout: LISTENER_IDLE_TIMEOUT_STREAM,
            streams: LISTENER_STREAMS,
            handshake_timeout: LISTENER_HANDSHAKE_TIMEOUT,
            keepalive_requests: LISTENER_KEEPALIVE_REQUESTS,
            frame_timeout: LISTENER_FRAME_TIMEOUT,
            pending_bytes: LISTENER_PENDING_BYTES,
        }
    }
}

impl Listener {
    /// The longest silence of a connection.
    pub fn idle_timeout(&self) -> Duration {
        self.limits.idle_timeout.unwrap_or(match self.protocol {
            Protocol::Http => LISTENER_IDLE_TIMEOUT_HTTP,
            Protocol::Tlv | Protocol::Tcp | Protocol::Relay => LISTENER_IDLE_TIMEOUT_STREAM,
        })
    }

    /// The TLS settings, where TLS ends here.
    pub fn tls_settings(&self) -> Option<&TlsSettings> {
        match &self.tls {
            ListenerTls::Terminate(settings) => Some(settings),
            ListenerTls::Off | ListenerTls::Passthrough => None,
        }
    }
}

impl Object for Listener {
    object_basics!(Kind::Listeners);

    fn validate(&self, problems: &mut Problems) {
        validate_description(self.name.as_ref(), self.desc.as_ref(), &self.labels, problems);
        if self.bind.is_empty() || self.bind.len() > LISTENER_BINDS_MAX {
            problems.add("bind", self.bind.len(), "must hold 1 to 64 addresses");
        }
        for (index, address) in self.bind.iter().enumerate() {
            if address.port() != 0 && self.bind[..index].contains(address) {
                problems.add(&format!("bind[{index}]"), address.to_string(), "is in the list twice");
            }
        }
        if self.tls == ListenerTls::Passthrough && self.protocol != Protocol::Tcp {
            problems.add("tls", "passthrough", "is for protocol: tcp only");
        }
        if let ListenerTls::Terminate(settings) = &self.tls {
            problems.within("tls", |problems| settings.validate(problems));
        }
        if self.protocol == Protocol::Relay && self.proxy_protocol.is_some() {
            problems.add_plain("proxy_protocol", "is not for protocol: relay, whose ways are such headers");
        }
        if let Some(proxy) = &self.proxy_protocol {
            if proxy.from.is_empty() {
                problems.add("proxy_protocol.from", 0, "must hold at least one address or block");
            }
            validate_positive("proxy_protocol.timeout", proxy.timeout, problems);
        }
        if self.protocol != Protocol::Tlv
            && let Some(format) = &self.frame_format
        {
            problems.add("frame_format", format.as_str(), "is for protocol: tlv only");
        }
        if !(1..=65_535).contains(&self.backlog) {
            problems.add("backlog", self.backlog, "must be 1 to 65535");
        }
        problems.within("limits", |problems| self.limits.validate(problems));
    }

    fn references(&self) -> Vec<Reference> {
        let format = self.frame_format.iter();
        format
            .map(|id| Reference { field: "frame_format".into(), kind: Kind::FrameFormats, id: id.clone() })
            .collect()
    }
}

impl TlsSettings {
    fn validate(&self, problems: &mut Problems) {
        if self.versions.is_empty() {
            problems.add("versions", 0, "must hold at least one version");
        }
        super::validate_unique("versions", &self.versions, problems);
        for (index, name) in self.alpn.iter().flatten().enumerate() {
            if !(1..=255).contains(&name.len()) {
                problems.add(&format!("alpn[{index}]"), name.as_str(), "must be 1 to 255 bytes long");
            }
        }
        if let Some(client) = &self.client {
            validate_certificates("client.ca", &client.ca, problems);
        }
        if let Some(sni) = &self.fallback_sni
            && !super::is_host_pattern(sni)
        {
            problems.add("fallback_sni", sni.as_str(), "must be a server name");
        }
    }
}

impl Limits {
    fn validate(&self, problems: &mut Problems) {
        let counts = [
            ("connections", u64::from(self.connections), u64::from(u32::MAX)),
            ("header_bytes", self.header_bytes as u64, 1 << 20),
            ("header_count", self.header_count as u64, 4096),
            ("request_line", self.request_line as u64, 1 << 20),
            ("streams", u64::from(self.streams), 65_535),
            ("pending_bytes", self.pending_bytes as u64, 64 << 20),
        ];
        for (field, count, most) in counts {
            if count == 0 || count > most {
                problems.add(field, count, format!("must be 1 to {most}"));
            }
        }
        for (field, count) in [("header_bytes", self.header_bytes), ("pending_bytes", self.pending_bytes)] {
            if (1..1024).contains(&count) {
                problems.add(field, count, "must be at least 1KiB");
            }
        }
        if self.request_line > self.header_bytes {
            problems.add("request_line", self.request_line, "must not be more than header_bytes");
        }
        let times = [
            ("header_timeout", self.header_timeout),
            ("body_timeout", self.body_timeout),
            ("send_timeout", self.send_timeout),
            ("min_rate_window", self.min_rate_window),
            ("upgrade_idle_timeout", self.upgrade_idle_timeout),
            ("handshake_timeout", self.handshake_timeout),
            ("frame_timeout", self.frame_timeout),
        ];
        for (field, time) in times {
            validate_positive(field, time, problems);
        }
        if let Some(time) = self.idle_timeout {
            validate_positive("idle_timeout", time, problems);
        }
    }
}

struct Bind(SocketAddr);

impl<'de> Deserialize<'de> for Bind {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        text.parse().map(Bind).map_err(|_| {
            de::Error::custom("expected an address and port such as \"0.0.0.0:8443\" or \"[::]:8443\"")
        })
    }
}

fn binds<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<SocketAddr>, D::Error> {
    Ok(units::one_or_many::<Bind, D>(input)?.into_iter().map(|bind| bind.0).collect())
}

impl Serialize for ListenerTls {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => out.serialize_bool(false),
            Self::Passthrough => out.serialize_str("passthrough"),
            Self::Terminate(settings) => settings.serialize(out),
        }
    }
}

impl<'de> Deserialize<'de> for ListenerTls {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct TlsVisitor;

        impl<'de> Visitor<'de> for TlsVisitor {
            type Value = ListenerTls;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, \"passthrough\" or an object")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<ListenerTls, E> {
                Ok(if on { ListenerTls::Terminate(TlsSettings::default()) } else { ListenerTls::Off })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ListenerTls, E> {
                match text {
                    "passthrough" => Ok(ListenerTls::Passthrough),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ListenerTls, A::Error> {
                TlsSettings::deserialize(de::value::MapAccessDeserializer::new(map))
                    .map(ListenerTls::Terminate)
            }
        }

        input.deserialize_any(TlsVisitor)
    }
}
