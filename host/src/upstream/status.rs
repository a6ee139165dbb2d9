//! How upstreams, lines and nodes are, for status pages and metrics.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::health::{Counters, Latency, LineState};
use super::model::{Addresses, Line, Node, Upstream};
use super::spec::Prefer;

/// How an upstream is.
#[derive(Debug, Clone, Serialize)]
pub struct UpstreamStatus {
    /// Its id.
    pub id: Arc<str>,
    /// What it speaks.
    pub scheme: &'static str,
    /// Whether any line takes traffic. While none does, the best is tried all the same.
    pub up: bool,
    /// Name of the line new traffic takes first; absent while none is up.
    pub line_in_use: Option<Arc<str>>,
    /// The lines.
    pub lines: Vec<LineStatus>,
}

/// How a line is.
#[derive(Debug, Clone, Serialize)]
pub struct LineStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Its priority.
    pub priority: i32,
    /// The relays it goes through, the nearest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub via: Vec<Box<str>>,
    /// `up`, `down`, `probing` (answers again, hold-down not over) or `withdrawn` (by hand).
    pub state: &'static str,
    /// Since when, in seconds since 1970.
    pub since: f64,
    /// Why it is not up, as a code.
    pub why: Option<&'static str>,
    /// When its hold-down ends, in seconds since 1970.
    pub hold_until: Option<f64>,
    /// Times in a row it failed soon after it came back.
    pub flaps: u32,
    /// Time to connect.
    #[serde(flatten)]
    pub rtt: Rtt,
    /// Counts.
    #[serde(flatten)]
    pub counts: Counts,
    /// The nodes.
    pub nodes: Vec<NodeStatus>,
}

/// How a node is.
#[derive(Debug, Clone, Serialize)]
pub struct NodeStatus {
    /// `host:port` as written.
    pub name: Arc<str>,
    /// Its weight.
    pub weight: u32,
    /// Its priority.
    pub priority: i32,
    /// `up`, `down` or `probing` (answered last time).
    pub state: &'static str,
    /// Since when, in seconds since 1970.
    pub since: f64,
    /// Why it is down, as a code.
    pub why: Option<&'static str>,
    /// Signs of its checks in a row: good ones, bad statuses, failed
    /// connections, timeouts.
    pub in_a_row: [u32; 4],
    /// The last failure, as a code, and when.
    pub last_failure: Option<LastFailure>,
    /// The addresses its name leads to, where it has a name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<std::net::IpAddr>,
    /// Why and since when the addresses are not known afresh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale: Option<Stale>,
    /// Time to connect.
    #[serde(flatten)]
    pub rtt: Rtt,
    /// Average time to answer, in milliseconds, as `ewma` sees it.
    pub latency_ms: Option<f64>,
    /// Counts.
    #[serde(flatten)]
    pub counts: Counts,
}

/// A failure and its time.
#[derive(Debug, Clone, Serialize)]
pub struct LastFailure {
    /// What, as a code.
    pub why: &'static str,
    /// The status, if that is what it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// When, in seconds since 1970.
    pub at: f64,
}

/// A name that could not be resolved again.
#[derive(Debug, Clone, Serialize)]
pub struct Stale {
    /// Since when, in seconds since 1970.
    pub since: f64,
    /// What the resolver said.
    pub why: Arc<str>,
}

/// Time to connect, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Rtt {
    /// The last one.
    pub rtt_ms: Option<f64>,
    /// The average.
    pub rtt_average_ms: Option<f64>,
}

/// Counts since the line or node came into use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Requests and sessions now.
    pub in_use: u32,
    /// Requests and sessions so far, each attempt counted.
    pub requests: u64,
    /// Bad signs of any kind (nodes only).
    pub failures: u64,
    /// Connections attempted for traffic.
    pub connects: u64,
    /// Those that failed.
    pub connect_failures: u64,
}

/// Turns instants into times of day: one reading of both clocks for a page.
#[derive(Clone, Copy)]
struct Clock {
    instant: Instant,
    time: f64,
}

impl Clock {
    fn now() -> Self {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { instant: Instant::now(), time: time.as_secs_f64() }
    }

    fn seconds(&self, at: Instant) -> f64 {
        let seconds = if at <= self.instant {
            self.time - (self.instant - at).as_secs_f64()
        } else {
            self.time + (at - self.instant).as_secs_f64()
        };
        (seconds * 1000.0).round() / 1000.0
    }
}

impl Upstream {
    /// The type of its active checks, as the object names it; none without any.
    #[must_use]
    pub fn check_name(&self) -> Option<&'static str> {
        let nodes = self.lines.iter().flat_map(|line| &line.nodes);
        nodes.filter_map(|node| node.check.as_ref()).map(|check| check.name()).next()
    }
}

/// How `upstream` is right now.
#[must_use]
pub fn status(upstream: &Upstream) -> UpstreamStatus {
    let clock = Clock::now();
    let first = match upstream.failover.prefer {
        Prefer::Latency => upstream.lines.get(upstream.fastest.load(Relaxed)).filter(|line| line.is_up()),
        Prefer::Priority => None,
    };
    UpstreamStatus {
        id: Arc::clone(&upstream.id),
        scheme: upstream.scheme.name(),
        up: upstream.is_up(),
        line_in_use: first
            .or_else(|| upstream.lines.iter().find(|line| line.is_up()))
            .map(|line| Arc::clone(&line.name)),
        lines: upstream.lines.iter().map(|line| of_line(line, clock)).collect(),
    }
}

fn of_line(line: &Line, clock: Clock) -> LineStatus {
    let facts = line.live.facts();
    let state = match facts.state {
        _ if line.live.is_withdrawn() => "withdrawn",
        LineState::Up => "up",
        LineState::Down => "down",
        LineState::Probing => "probing",
    };
    LineStatus {
        name: Arc::clone(&line.name),
        priority: line.priority,
        via: line.plan.via.iter().flat_map(|via| via.relays.iter().cloned()).collect(),
        state,
        since: clock.seconds(facts.since),
        why: facts.why.map(super::Failure::code),
        hold_until: facts.hold_until.map(|until| clock.seconds(until)),
        flaps: facts.flaps,
        rtt: rtt(&line.live.rtt),
        counts: counts(&line.live.counters),
        nodes: line.nodes.iter().map(|node| of_node(node, clock)).collect(),
    }
}

fn of_node(node: &Node, clock: Clock) -> NodeStatus {
    let facts = node.live.facts();
    let state = match facts.down {
        None => "up",
        Some(_) if facts.is_recovering => "probing",
        Some(_) => "down",
    };
    let (addresses, trouble) = match &node.addresses {
        Addresses::Fixed(_) => (Vec::new(), None),
        Addresses::Named(host, _) => host.facts(),
    };
    NodeStatus {
        name: Arc::clone(&node.name),
        weight: node.weight,
        priority: node.priority,
        state,
        since: clock.seconds(facts.since),
        why: facts.down.map(super::Failure::code),
        in_a_row: facts.in_a_row,
        last_failure: facts.last_failure.map(|(failure, at)| LastFailure {
            why: failure.code(),
            status: match failure {
                super::Failure::Status(status) => Some(status),
                _ => None,
            },
            at: clock.seconds(at),
        }),
        addresses,
        stale: trouble.map(|(since, why)| Stale { since: clock.seconds(since), why }),
        rtt: rtt(&node.live.rtt),
        latency_ms: node.live.latency.average().map(millis),
        counts: counts(&node.live.counters),
    }
}

fn rtt(latency: &Latency) -> Rtt {
    Rtt { rtt_ms: latency.last().map(millis), rtt_average_ms: latency.average().map(millis) }
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn counts(counters: &Counters) -> Counts {
    Counts {
        in_use: counters.in_use.load(Relaxed),
        requests: counters.requests.load(Relaxed),
        failures: counters.failures.load(Relaxed),
        connects: counters.connects.load(Relaxed),
        connect_failures: counters.connect_failures.load(Relaxed),
    }
}
