//! What an upstream is told to be: its configuration, resolved and checked.

use std::net::IpAddr;
use std::time::Duration;

/// What an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Scheme {
    Http,
    Https,
    Grpc,
    Grpcs,
    Tcp,
    Tls,
    Tlv,
    Tlvs,
    Ws,
    Wss,
}

impl Scheme {
    /// Recognises the word of the configuration.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Some(match word {
            "http" => Self::Http,
            "https" => Self::Https,
            "grpc" => Self::Grpc,
            "grpcs" => Self::Grpcs,
            "tcp" => Self::Tcp,
            "tls" => Self::Tls,
            "tlv" => Self::Tlv,
            "tlvs" => Self::Tlvs,
            "ws" => Self::Ws,
            "wss" => Self::Wss,
            _ => return None,
        })
    }

    /// The word of the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
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

    /// Whether connections to it are encrypted.
    #[must_use]
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Grpcs | Self::Tls | Self::Tlvs | Self::Wss)
    }

    /// Whether it speaks HTTP/2 and nothing else.
    #[must_use]
    pub fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc | Self::Grpcs)
    }

    /// Whether it carries HTTP messages.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https | Self::Grpc | Self::Grpcs | Self::Ws | Self::Wss)
    }

    /// Whether it carries frames.
    #[must_use]
    pub fn is_tlv(self) -> bool {
        matches!(self, Self::Tlv | Self::Tlvs)
    }

    /// The port of a node written without one.
    #[must_use]
    pub fn default_port(self) -> Option<u16> {
        match self {
            Self::Http | Self::Grpc | Self::Ws => Some(80),
            Self::Https | Self::Grpcs | Self::Wss => Some(443),
            _ => None,
        }
    }
}

/// Time limits of an exchange with the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection stands, TLS and relays included. Default 5 s;
    /// `failover.connect_timeout` where it is set.
    pub connect: Duration,
    /// Between two writes that make progress. Default 60 s.
    pub send: Duration,
    /// Between two reads that bring bytes. Default 60 s.
    pub read: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), send: Duration::from_secs(60), read: Duration::from_secs(60) }
    }
}

/// The Host a request carries to the upstream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PassHost {
    /// The client's.
    #[default]
    Pass,
    /// The node's name, with its port where that is not the scheme's own.
    Node,
    /// This one.
    Rewrite(Box<str>),
}

/// Limits of idle connections kept for a node, for each worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepalivePool {
    /// Idle connections kept for a node. Default 320.
    pub size: u32,
    /// Time after which an idle one is closed. Default 60 s; zero keeps it.
    pub idle_timeout: Duration,
    /// Requests after which a connection is not used again. Default 1000.
    pub requests: u32,
}

impl Default for KeepalivePool {
    fn default() -> Self {
        Self { size: 320, idle_timeout: Duration::from_secs(60), requests: 1000 }
    }
}

/// The PROXY header a connection to the upstream begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// None.
    Off,
    /// The text form.
    V1,
    /// The binary form, with the path of Sluice hops as TLV 0xE5.
    V2,
}

/// Which of several lines that are up is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prefer {
    /// The one with the highest priority; among equals the first written.
    #[default]
    Priority,
    /// The one with the lowest measured round trip, changed only for a clear gain.
    Latency,
}

/// When traffic leaves a line and when it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failover {
    /// Order of the lines.
    pub prefer: Prefer,
    /// Least time a line stays out once it failed. Default 10 s. Doubles, up to
    /// 32 times, each time it fails again soon after it came back.
    pub hold_down: Duration,
    /// Good probes in a row that bring a node without active checks back. Default 2.
    pub rise: u32,
}

impl Default for Failover {
    fn default() -> Self {
        Self { prefer: Prefer::Priority, hold_down: Duration::from_secs(10), rise: 2 }
    }
}

/// How connections of a line are made.
#[derive(Debug, Clone)]
pub(super) struct ConnectSpec {
    /// What is spoken over them.
    pub scheme: Scheme,
    /// Time limits.
    pub timeouts: Timeouts,
    /// The header they begin with.
    pub proxy_protocol: ProxyProtocol,
    /// Source address, where the line names one.
    pub bind: Option<IpAddr>,
}
