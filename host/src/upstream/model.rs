//! Upstreams, lines and nodes as the flows see them.

use std::sync::Arc;

use super::spec::{Failover, KeepalivePool, PassHost, ProxyProtocol, Scheme, Timeouts};

/// A service and the ways to reach it.
#[derive(Debug)]
pub struct Upstream {
    /// Its id; for one written inside a route or service, an id made of theirs.
    pub id: Arc<str>,
    /// What it speaks.
    pub scheme: Scheme,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Attempts after the first one; by default one for each further node.
    pub retries: u32,
    /// Time after which no further attempt begins; `None`: no such limit.
    pub retry_timeout: Option<std::time::Duration>,
    /// The Host requests carry.
    pub pass_host: PassHost,
    /// Limits of idle connections.
    pub keepalive: KeepalivePool,
    /// The PROXY header connections begin with.
    pub proxy_protocol: ProxyProtocol,
    /// When traffic moves.
    pub failover: Failover,
    /// The lines in the order they are preferred.
    pub lines: Box<[Arc<Line>]>,
}

/// One way to reach the service.
#[derive(Debug)]
pub struct Line {
    /// Its name; `default` for an upstream written with `nodes` alone.
    pub name: Arc<str>,
    /// Higher is preferred.
    pub priority: i32,
    /// The nodes.
    pub nodes: Box<[Arc<Node>]>,
}

/// One address of the service on a line.
#[derive(Debug)]
pub struct Node {
    /// `host:port` as written.
    pub name: Arc<str>,
    /// Name or address.
    pub host: Arc<str>,
    /// Port.
    pub port: u16,
    /// Share of the traffic; 0 takes none.
    pub weight: u32,
    /// Nodes of a lower priority are used when all above are down.
    pub priority: i32,
    pub(super) pool: Arc<PoolKey>,
}

/// What idle connections of a node are kept under. Goes away with the node, or
/// when connections made so far no longer fit its configuration.
#[derive(Debug)]
pub(super) struct PoolKey {
    pub(super) limits: KeepalivePool,
    /// Whether connections can be shared between clients at all: not when each
    /// begins with a header that names its client.
    pub(super) is_kept: bool,
}

impl Node {
    /// Changes whenever the node's addresses do.
    pub(super) fn generation(&self) -> u32 {
        0
    }

    /// Whether `address` is still one of the node's; `generation` is that of the
    /// last look and is brought up to date.
    pub(super) fn is_current(&self, address: std::net::SocketAddr, generation: &mut u32) -> bool {
        let _ = address;
        *generation == self.generation()
    }
}
