//! Upstreams, lines and nodes as the flows see them.
//!
//! They are immutable and replaced whole when their configuration changes; what
//! lives on (health, measurements, counts) is in the `Arc`s they share with
//! their predecessors.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::message::Subject;

use super::balance::{Balance, Kind};
use super::check::CheckPlan;
use super::dns::Host;
use super::environment::Environment;
use super::hash::HashKey;
use super::health::{Change, LineLive, LineRules, LineState, NodeLive, NodeRules, Sign, Source};
use super::outcome::Failure;
use super::spec::{KeepalivePool, PassHost, Prefer, ProxyProtocol, Scheme, Timeouts};
use super::tls::TlsPlan;
use super::via::Way;

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
    pub retry_timeout: Option<Duration>,
    /// The Host requests carry.
    pub pass_host: PassHost,
    /// Limits of idle connections.
    pub keepalive: KeepalivePool,
    /// The PROXY header connections begin with.
    pub proxy_protocol: ProxyProtocol,
    /// The lines, those of the highest priority first.
    pub lines: Box<[Arc<Line>]>,
    pub(super) kind: Kind,
    pub(super) hash_key: Option<HashKey>,
    pub(super) failover: Failover,
    /// The line in use with `prefer: latency`.
    pub(super) fastest: AtomicUsize,
    pub(super) environment: Arc<Environment>,
}

/// How lines take over from each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failover {
    pub(super) prefer: Prefer,
    /// Limit of a connect while another line is left.
    pub(super) connect_timeout: Duration,
    /// Percent by which another line must be faster.
    pub(super) latency_margin: u32,
}

/// One way to reach the service.
#[derive(Debug)]
pub struct Line {
    /// Its name; `default` for an upstream written with `nodes` alone.
    pub name: Arc<str>,
    /// Id of the upstream it belongs to.
    pub upstream: Arc<str>,
    /// Higher is preferred.
    pub priority: i32,
    /// The nodes, as written.
    pub nodes: Box<[Arc<Node>]>,
    pub(super) tiers: Box<[Tier]>,
    pub(super) rules: LineRules,
    pub(super) live: Arc<LineLive>,
    pub(super) plan: ConnectPlan,
    /// Time after which a node that only traffic can judge is tried again.
    pub(super) trial_after: Duration,
    pub(super) environment: Arc<Environment>,
}

/// The nodes of one priority.
#[derive(Debug)]
pub(super) struct Tier {
    /// Places in the line's nodes.
    pub(super) nodes: Box<[u16]>,
    pub(super) balance: Balance,
}

/// How connections of a line are made.
#[derive(Debug)]
pub(super) struct ConnectPlan {
    pub(super) scheme: Scheme,
    pub(super) timeout: Duration,
    pub(super) proxy_protocol: ProxyProtocol,
    pub(super) tls: Option<Arc<TlsPlan>>,
    pub(super) via: Option<Via>,
}

/// The relays of a line.
#[derive(Debug)]
pub(super) struct Via {
    pub(super) first: Addresses,
    pub(super) relays: Box<[Box<str>]>,
}

impl Via {
    /// The way a connection to `host:port` takes after the first relay.
    pub(super) fn way_to(&self, host: &str, port: u16) -> Result<Way, super::via::WayError> {
        let node = super::via::stop_of(host, port);
        Way::new(self.relays.iter().skip(1).map(|relay| &**relay).chain([node.as_str()]))
    }
}

/// Where a name leads.
#[derive(Debug, Clone)]
pub(super) enum Addresses {
    /// An address as written.
    Fixed(SocketAddr),
    /// A name, resolved in the background.
    Named(Arc<Host>, u16),
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
    /// The Host of `pass_host: node`: the port only where it is not the scheme's own.
    pub authority: Box<str>,
    pub(super) addresses: Addresses,
    pub(super) rules: NodeRules,
    pub(super) check: Option<Arc<CheckPlan>>,
    pub(super) passive: Option<Arc<Statuses>>,
    pub(super) live: Arc<NodeLive>,
    pub(super) pool: Arc<PoolKey>,
}

/// Statuses of traffic and what they say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statuses {
    pub(super) good: Box<[u16]>,
    pub(super) bad: Box<[u16]>,
}

impl Statuses {
    /// What a status says; `None`: nothing.
    pub(super) fn judge(&self, status: u16) -> Option<Sign> {
        if self.bad.contains(&status) {
            Some(Sign::Bad(Failure::Status(status)))
        } else {
            self.good.contains(&status).then_some(Sign::Good)
        }
    }
}

/// What idle connections of a node are kept under. Goes away with the node, or
/// when connections made so far no longer fit its configuration.
#[derive(Debug)]
pub(super) struct PoolKey {
    pub(super) limits: KeepalivePool,
    /// Whether connections can be shared between clients at all: not when each
    /// begins with a header that names its client.
    pub(super) is_kept: bool,
    /// What a connection depends on besides; another one means another key.
    pub(super) fingerprint: String,
}

/// Which life of a node a connection was made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation {
    down: u32,
    addresses: u32,
}

/// Names a node as its connections see it: another one once what they depend on
/// has changed. Keeps no node alive.
#[derive(Debug, Clone)]
pub struct NodeKey(std::sync::Weak<PoolKey>);

impl PartialEq for NodeKey {
    fn eq(&self, other: &Self) -> bool {
        // While a weak handle is kept its address is given to no other node.
        self.0.ptr_eq(&other.0)
    }
}

impl Node {
    /// What connections to this node are kept under.
    #[must_use]
    pub fn key(&self) -> NodeKey {
        NodeKey(Arc::downgrade(&self.pool))
    }

    /// Changes whenever the node goes down or its addresses change.
    pub(super) fn generation(&self) -> Generation {
        let addresses = match &self.addresses {
            Addresses::Fixed(_) => 0,
            Addresses::Named(host, _) => host.generation(),
        };
        Generation { down: self.live.down_epoch.load(Relaxed), addresses }
    }

    /// Whether a connection to `address`, made in `generation`, may still be
    /// used: the node did not go down since, and the address is still one of
    /// its. `generation` is brought up to date.
    pub(super) fn is_current(&self, address: SocketAddr, generation: &mut Generation) -> bool {
        let now = self.generation();
        if now == *generation {
            return true;
        }
        let is_known = match &self.addresses {
            Addresses::Fixed(own) => *own == address,
            Addresses::Named(host, _) => host.contains(address.ip()),
        };
        let is_current = now.down == generation.down && is_known;
        *generation = now;
        is_current
    }

    /// Requests and sessions on it now.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.live.counters.in_use.load(Relaxed)
    }

    /// Whether it takes traffic.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.live.is_up()
    }
}

impl Line {
    /// How often it went down, wrapping: changes whenever sessions on it should look.
    #[must_use]
    pub fn losses(&self) -> u32 {
        self.live.down_epoch.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Whether it takes traffic.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.live.is_up()
    }

    /// Takes the line out of use by hand, or gives it back. Holds until the
    /// process ends; status shows it.
    pub fn set_withdrawn(&self, is_withdrawn: bool) {
        self.live.set_withdrawn(is_withdrawn);
        tracing::warn!(upstream = &*self.upstream, line = &*self.name, is_withdrawn, "line set by hand");
    }

    /// The nodes that count for whether the line is up.
    pub(super) fn members(&self) -> Box<[Arc<NodeLive>]> {
        self.nodes.iter().filter(|node| node.weight > 0).map(|node| Arc::clone(&node.live)).collect()
    }

    /// Takes a sign of a node in and does what follows from it: the node and
    /// with it the line go down or come back, and somebody looks after them.
    pub(super) fn judge(&self, node: &Arc<Node>, source: Source, sign: Sign, forced: Forced, now: Instant) {
        let change = node.live.observe(&node.rules, source, sign, now);
        let failure = match sign {
            Sign::Bad(failure) => Some(failure),
            Sign::Good => None,
        };
        match change {
            Change::None => {
                if let (Source::Passive, Some(Failure::Broken | Failure::Timeout | Failure::Malformed)) =
                    (source, failure)
                {
                    self.look_after(node);
                }
            }
            Change::WentDown => {
                let reason = failure.map_or("", Failure::code);
                tracing::warn!(
                    upstream = &*self.upstream,
                    line = &*self.name,
                    node = &*node.name,
                    reason,
                    "node is down"
                );
                self.settle(failure, now);
                self.look_after(node);
            }
            Change::CameUp => {
                tracing::info!(
                    upstream = &*self.upstream,
                    line = &*self.name,
                    node = &*node.name,
                    "node is up"
                );
                self.settle(None, now);
            }
        }
        // It serves and nothing else does: no reason to wait for the hold-down.
        if forced == Forced::Yes && sign == Sign::Good && node.live.is_up() && !self.live.is_up() {
            self.live.release(now);
        }
    }

    /// Puts a node back that only traffic can judge.
    pub(super) fn try_again(&self, node: &Node, now: Instant) {
        if node.live.try_again(now) == Change::CameUp {
            tracing::info!(
                upstream = &*self.upstream,
                line = &*self.name,
                node = &*node.name,
                "node is tried again"
            );
            self.settle(None, now);
        }
    }

    /// Brings the line's state up to date.
    pub(super) fn settle(&self, why: Option<Failure>, now: Instant) {
        let changed = self.live.update(&self.rules, why, now);
        let (upstream, line) = (&*self.upstream, &*self.name);
        match changed {
            Some(LineState::Down) => {
                tracing::warn!(upstream, line, reason = why.map_or("", Failure::code), "line is down");
            }
            Some(LineState::Up) => tracing::info!(upstream, line, "line is up"),
            Some(LineState::Probing) => {
                tracing::info!(upstream, line, "line answers again, waiting for its hold-down");
                self.environment.suspects.line(&self.live);
            }
            None => {}
        }
    }

    /// Has a node probed: by its active check now, or by a task of its own.
    pub(super) fn look_after(&self, node: &Node) {
        if node.check.is_some() {
            node.live.nudge.notify_one();
        } else {
            self.environment.suspects.node(&self.live, &node.live);
        }
    }
}

/// Whether a node was used although nothing was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forced {
    Yes,
    No,
}

impl Upstream {
    /// What `chash` makes of a request; 0 for the other balancers, which do not
    /// look at it. To be given to [`select`](Self::select).
    #[must_use]
    pub fn hash_key(&self, subject: &Subject<'_>) -> u64 {
        self.hash_key.as_ref().map_or(0, |key| key.hash(subject))
    }

    /// Whether [`hash_key`](Self::hash_key) looks at the request at all.
    #[must_use]
    pub fn is_hashed(&self) -> bool {
        self.hash_key.is_some()
    }

    /// The Host a request to `node` carries; `own` is the client's.
    #[must_use]
    pub fn host_for<'a>(&'a self, node: &'a Node, own: &'a str) -> &'a str {
        match &self.pass_host {
            PassHost::Pass => own,
            PassHost::Node => &node.authority,
            PassHost::Rewrite(host) => host,
        }
    }

    /// Whether any line takes traffic. If none does, the best of them is tried.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.lines.iter().any(|line| line.is_up())
    }

    /// Puts this upstream in force: its lines and nodes are from now on those
    /// that count. To be called once the snapshot that has it was swapped in.
    pub fn adopt(self: &Arc<Self>, now: Instant) {
        for line in &self.lines {
            *line.live.upstream.lock() = Arc::downgrade(self);
            *line.live.current.lock() = Arc::downgrade(line);
            line.live.adopt(line.members(), &line.rules, now);
            for node in line.nodes.iter().filter(|node| !node.live.is_up()) {
                line.look_after(node);
            }
            if !line.live.is_up() {
                self.environment.suspects.line(&line.live);
            }
        }
    }

    /// With `prefer: latency`: whether another line has become clearly faster.
    pub(super) fn compare_lines(&self) {
        if self.failover.prefer != Prefer::Latency || self.lines.len() < 2 {
            return;
        }
        let cost = |line: &Arc<Line>| line.live.rtt.average().filter(|_| line.is_up());
        let Some((best, least)) = self
            .lines
            .iter()
            .enumerate()
            .filter_map(|(index, line)| Some((index, cost(line)?)))
            .min_by_key(|(_, cost)| *cost)
        else {
            return;
        };
        let current = self.fastest.load(Relaxed).min(self.lines.len() - 1);
        let is_clear = match cost(&self.lines[current]) {
            None => true,
            Some(own) => {
                own.as_nanos() * 100 > least.as_nanos() * u128::from(100 + self.failover.latency_margin)
            }
        };
        if best != current && is_clear {
            self.fastest.store(best, Relaxed);
            let (from, to) = (&*self.lines[current].name, &*self.lines[best].name);
            tracing::info!(
                upstream = &*self.id,
                from,
                to,
                rtt_ms = least.as_secs_f64() * 1e3,
                "faster line preferred"
            );
        }
    }
}

/// The line and node in force behind their living parts, if they still are.
pub(super) fn locate(line: &LineLive, node: &Arc<NodeLive>) -> Option<(Arc<Line>, Arc<Node>)> {
    let line = line.current.lock().upgrade()?;
    let node = line.nodes.iter().find(|own| Arc::ptr_eq(&own.live, node)).cloned()?;
    Some((line, node))
}

/// The line in force behind its living part.
pub(super) type CurrentLine = parking_lot::Mutex<Weak<Line>>;

/// The upstream in force behind a line's living part.
pub(super) type CurrentUpstream = parking_lot::Mutex<Weak<Upstream>>;
