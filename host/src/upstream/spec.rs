//! What an upstream is told to be: its configuration, resolved and checked.

use std::time::Duration;

use crate::config::objects;

pub use objects::{Prefer, SendProxyProtocol as ProxyProtocol, UpstreamScheme as Scheme};

impl Scheme {
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
}

/// Time limits of an exchange with the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection stands, TLS and relays included.
    pub connect: Duration,
    /// Between two writes that make progress.
    pub send: Duration,
    /// Between two reads that bring bytes.
    pub read: Duration,
    /// The whole request, retries included; `None`: no such limit.
    pub total: Option<Duration>,
}

impl Timeouts {
    /// As an object says.
    #[must_use]
    pub fn of(object: &objects::Timeout) -> Self {
        Self { connect: object.connect, send: object.send, read: object.read, total: object.total }
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

impl PassHost {
    pub(super) fn of(object: &objects::Upstream) -> Self {
        match (object.pass_host, &object.upstream_host) {
            (objects::PassHost::Rewrite, Some(host)) => Self::Rewrite(host.as_str().into()),
            (objects::PassHost::Node, _) => Self::Node,
            _ => Self::Pass,
        }
    }
}

/// Limits of the idle connections kept for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepalivePool {
    /// Idle connections kept for a node, on all workers together.
    pub size: u32,
    /// Time after which an idle one is closed; zero keeps none.
    pub idle_timeout: Duration,
    /// Requests after which a connection is not used again.
    pub requests: u32,
}

impl KeepalivePool {
    pub(super) fn of(object: &objects::KeepalivePool) -> Self {
        Self { size: object.size, idle_timeout: object.idle_timeout, requests: object.requests }
    }
}
