//! The living part of nodes and lines: what survives a change of configuration.
//!
//! Requests read and count with atomics. The state machines sit behind short
//! locks, taken only when something is wrong or about to be right again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::line::{LineHealth, LineRules, LineState};
use super::node::{Change, NodeHealth, NodeRules, Sign, Source};
use crate::upstream::model::{CurrentLine, CurrentUpstream};
use crate::upstream::outcome::Failure;

/// Counts of a node or line, for status and metrics.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Counters {
    pub(in crate::upstream) in_use: AtomicU32,
    pub(in crate::upstream) requests: AtomicU64,
    pub(in crate::upstream) failures: AtomicU64,
    pub(in crate::upstream) connects: AtomicU64,
    pub(in crate::upstream) connect_failures: AtomicU64,
}

/// How an average takes a sample above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peaks {
    /// At once, and forgets it within [`DECAY`]: to steer away from trouble.
    Follow,
    /// Like any other: one lost packet does not make a line slow.
    Smooth,
}

/// A measured time: the last value and an average.
///
/// Writers do not wait for each other: of two at the same moment one may be
/// lost, which an average survives.
#[derive(Debug)]
pub(in crate::upstream) struct Latency {
    base: Instant,
    peaks: Peaks,
    last: AtomicU64,
    average: AtomicU64,
    updated: AtomicU64,
}

/// Time constant of the averages.
const DECAY: Duration = Duration::from_secs(10);

impl Latency {
    fn new(base: Instant, peaks: Peaks) -> Self {
        Self { base, peaks, last: AtomicU64::new(0), average: AtomicU64::new(0), updated: AtomicU64::new(0) }
    }

    pub(in crate::upstream) fn record(&self, sample: Duration, now: Instant) {
        let sample = u64::try_from(sample.as_nanos()).unwrap_or(u64::MAX).max(1);
        let at = u64::try_from(now.saturating_duration_since(self.base).as_nanos()).unwrap_or(u64::MAX);
        let average = self.average.load(Relaxed);
        let next = if average == 0 || (sample >= average && self.peaks == Peaks::Follow) {
            sample
        } else if self.peaks == Peaks::Smooth {
            // An eighth, as TCP smooths its own round trips.
            (average / 8 * 7 + sample / 8).max(1)
        } else {
            let elapsed = at.saturating_sub(self.updated.load(Relaxed));
            let weight = (-(elapsed as f64) / DECAY.as_nanos() as f64).exp();
            // Samples in quick succession still move it a little.
            let weight = weight.min(0.98);
            (average as f64 * weight + sample as f64 * (1.0 - weight)) as u64
        };
        self.last.store(sample, Relaxed);
        self.average.store(next, Relaxed);
        self.updated.store(at, Relaxed);
    }

    /// The last value, if there is one.
    pub(in crate::upstream) fn last(&self) -> Option<Duration> {
        Some(self.last.load(Relaxed)).filter(|nanos| *nanos > 0).map(Duration::from_nanos)
    }

    /// The average, if anything was measured.
    pub(in crate::upstream) fn average(&self) -> Option<Duration> {
        Some(self.average.load(Relaxed)).filter(|nanos| *nanos > 0).map(Duration::from_nanos)
    }

    /// The average as a number to compare, fading while nothing is measured, so
    /// that a node once slow is tried again.
    pub(in crate::upstream) fn cost(&self, now: Instant) -> f64 {
        let at = now.saturating_duration_since(self.base).as_nanos() as f64;
        let elapsed = (at - self.updated.load(Relaxed) as f64).max(0.0);
        self.average.load(Relaxed) as f64 * (-elapsed / DECAY.as_nanos() as f64).exp()
    }
}

#[derive(Debug)]
struct NodeState {
    health: NodeHealth,
    last_failure: Option<(Failure, Instant)>,
}

/// What is known of a node's life, for status.
#[derive(Debug, Clone, Copy)]
pub(in crate::upstream) struct NodeFacts {
    pub(in crate::upstream) down: Option<Failure>,
    pub(in crate::upstream) is_recovering: bool,
    pub(in crate::upstream) since: Instant,
    pub(in crate::upstream) last_failure: Option<(Failure, Instant)>,
    /// Signs of its checks in a row: good ones, bad statuses, failed connections, timeouts.
    pub(in crate::upstream) in_a_row: [u32; 4],
}

/// The living part of a node.
#[derive(Debug)]
pub(in crate::upstream) struct NodeLive {
    state: Mutex<NodeState>,
    up: AtomicBool,
    recovering: AtomicBool,
    /// Down for a reason that speaks of the way to it.
    way: AtomicBool,
    doubted: AtomicBool,
    /// Grows each time it goes down: connections from before are not used again.
    pub(in crate::upstream) down_epoch: AtomicU32,
    /// Whether a recovery task looks after it.
    pub(in crate::upstream) is_watched: AtomicBool,
    /// Asks for a probe now.
    pub(in crate::upstream) nudge: Notify,
    /// Time to answer, as flows report it.
    pub(in crate::upstream) latency: Latency,
    /// Time to connect: the round trip.
    pub(in crate::upstream) rtt: Latency,
    pub(in crate::upstream) counters: Counters,
}

impl NodeLive {
    pub(in crate::upstream) fn new(now: Instant) -> Self {
        Self {
            state: Mutex::new(NodeState { health: NodeHealth::new(now), last_failure: None }),
            up: AtomicBool::new(true),
            recovering: AtomicBool::new(false),
            way: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
            down_epoch: AtomicU32::new(0),
            is_watched: AtomicBool::new(false),
            nudge: Notify::new(),
            latency: Latency::new(now, Peaks::Follow),
            rtt: Latency::new(now, Peaks::Smooth),
            counters: Counters::default(),
        }
    }

    pub(in crate::upstream) fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    pub(in crate::upstream) fn is_recovering(&self) -> bool {
        self.recovering.load(Relaxed)
    }

    /// Down, and because of the way to it.
    pub(in crate::upstream) fn is_cut_off(&self) -> bool {
        !self.is_up() && self.way.load(Relaxed)
    }

    /// Takes a sign in. A good one for a node that is well costs no lock.
    pub(in crate::upstream) fn observe(
        &self,
        rules: &NodeRules,
        source: Source,
        sign: Sign,
        now: Instant,
    ) -> Change {
        if sign == Sign::Good && source == Source::Passive && self.is_up() && !self.doubted.load(Relaxed) {
            return Change::None;
        }
        let mut state = self.state.lock();
        if let Sign::Bad(failure) = sign {
            self.counters.failures.fetch_add(1, Relaxed);
            state.last_failure = Some((failure, now));
        }
        let change = state.health.observe(rules, source, sign, now);
        self.publish(&state.health, change);
        change
    }

    /// Puts it back on trial.
    pub(in crate::upstream) fn try_again(&self, now: Instant) -> Change {
        let mut state = self.state.lock();
        let change = state.health.try_again(now);
        self.publish(&state.health, change);
        change
    }

    fn publish(&self, health: &NodeHealth, change: Change) {
        self.doubted.store(health.is_doubted(), Relaxed);
        self.recovering.store(health.down().is_some() && health.is_recovering(), Relaxed);
        self.way.store(health.down().is_some_and(Failure::is_of_the_way), Relaxed);
        self.up.store(health.down().is_none(), Relaxed);
        if change == Change::WentDown {
            self.down_epoch.fetch_add(1, Relaxed);
        }
    }

    pub(in crate::upstream) fn facts(&self) -> NodeFacts {
        let state = self.state.lock();
        NodeFacts {
            down: state.health.down(),
            is_recovering: state.health.down().is_some() && state.health.is_recovering(),
            since: state.health.since,
            last_failure: state.last_failure,
            in_a_row: state.health.in_a_row(),
        }
    }
}

#[derive(Debug)]
struct LineInner {
    health: LineHealth,
    why: Option<Failure>,
    /// The nodes that count, those of the configuration in force.
    members: Box<[Arc<NodeLive>]>,
}

/// What is known of a line's life, for status.
#[derive(Debug, Clone, Copy)]
pub(in crate::upstream) struct LineFacts {
    pub(in crate::upstream) state: LineState,
    pub(in crate::upstream) since: Instant,
    pub(in crate::upstream) why: Option<Failure>,
    pub(in crate::upstream) hold_until: Option<Instant>,
    pub(in crate::upstream) flaps: u32,
}

/// The living part of a line.
#[derive(Debug)]
pub(in crate::upstream) struct LineLive {
    inner: Mutex<LineInner>,
    state: AtomicU8,
    withdrawn: AtomicBool,
    /// Grows each time it goes down.
    pub(in crate::upstream) down_epoch: AtomicU32,
    /// Wakes those who wait for the line to be lost.
    pub(in crate::upstream) lost: Notify,
    /// The line in force that this is the life of.
    pub(in crate::upstream) current: CurrentLine,
    /// And the upstream it belongs to.
    pub(in crate::upstream) upstream: CurrentUpstream,
    /// Whether a task waits for its hold-down.
    pub(in crate::upstream) is_watched: AtomicBool,
    pub(in crate::upstream) rtt: Latency,
    pub(in crate::upstream) counters: Counters,
}

impl LineLive {
    pub(in crate::upstream) fn new(now: Instant) -> Self {
        Self {
            inner: Mutex::new(LineInner { health: LineHealth::new(now), why: None, members: Box::default() }),
            state: AtomicU8::new(LineState::Up as u8),
            withdrawn: AtomicBool::new(false),
            down_epoch: AtomicU32::new(0),
            lost: Notify::new(),
            current: CurrentLine::default(),
            upstream: CurrentUpstream::default(),
            is_watched: AtomicBool::new(false),
            rtt: Latency::new(now, Peaks::Smooth),
            counters: Counters::default(),
        }
    }

    pub(in crate::upstream) fn is_up(&self) -> bool {
        self.state.load(Relaxed) == LineState::Up as u8 && !self.is_withdrawn()
    }

    pub(in crate::upstream) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Relaxed)
    }

    pub(in crate::upstream) fn set_withdrawn(&self, withdrawn: bool) {
        self.withdrawn.store(withdrawn, Relaxed);
    }

    /// Makes these the nodes that count, and brings the state up to date.
    pub(in crate::upstream) fn adopt(&self, members: Box<[Arc<NodeLive>]>, rules: &LineRules, now: Instant) {
        self.inner.lock().members = members;
        self.update(rules, None, now);
    }

    /// Brings the state up to date with the nodes and the time. `why` is the
    /// failure just seen. Returns the new state if it changed.
    pub(in crate::upstream) fn update(
        &self,
        rules: &LineRules,
        why: Option<Failure>,
        now: Instant,
    ) -> Option<LineState> {
        let mut inner = self.inner.lock();
        let any_up = inner.members.is_empty() || inner.members.iter().any(|node| node.is_up());
        if !inner.health.update(rules, any_up, now) {
            return None;
        }
        let state = inner.health.state();
        if state == LineState::Down {
            inner.why = why.or_else(|| inner.members.iter().find_map(|node| node.facts().down));
        }
        self.publish(state);
        Some(state)
    }

    /// Takes the line back although its hold-down is not over.
    pub(in crate::upstream) fn release(&self, now: Instant) {
        let mut inner = self.inner.lock();
        if inner.health.release(now) {
            self.publish(inner.health.state());
        }
    }

    fn publish(&self, state: LineState) {
        self.state.store(state as u8, Relaxed);
        if state == LineState::Down {
            self.down_epoch.fetch_add(1, Relaxed);
            self.lost.notify_waiters();
        }
    }

    pub(in crate::upstream) fn facts(&self) -> LineFacts {
        let inner = self.inner.lock();
        LineFacts {
            state: inner.health.state(),
            since: inner.health.since,
            why: inner.why.filter(|_| inner.health.state() != LineState::Up),
            hold_until: inner.health.hold_until(),
            flaps: inner.health.flaps(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: NodeRules = NodeRules { active: None, passive: None, first_connect: true, rise: 2 };

    #[test]
    fn an_average_follows_a_peak_at_once_and_forgets_it() {
        let base = Instant::now();
        let latency = Latency::new(base, Peaks::Follow);
        assert_eq!(latency.average(), None);
        latency.record(Duration::from_millis(10), base);
        latency.record(Duration::from_millis(500), base + Duration::from_secs(1));
        assert_eq!(latency.average(), Some(Duration::from_millis(500)));
        for second in 2..60 {
            latency.record(Duration::from_millis(10), base + Duration::from_secs(second));
        }
        assert!(latency.average().unwrap() < Duration::from_millis(15));
        assert_eq!(latency.last(), Some(Duration::from_millis(10)));
        let (early, late) = (base + Duration::from_secs(60), base + Duration::from_secs(90));
        assert!(latency.cost(late) < latency.cost(early) / 10.0);
    }

    #[test]
    fn one_slow_connect_hardly_moves_a_round_trip() {
        let now = Instant::now();
        let rtt = Latency::new(now, Peaks::Smooth);
        rtt.record(Duration::from_millis(8), now);
        rtt.record(Duration::from_millis(16), now);
        assert_eq!(rtt.average(), Some(Duration::from_millis(9)));
    }

    #[test]
    fn a_line_is_down_with_its_last_node_and_says_why() {
        let now = Instant::now();
        let rules = LineRules { hold_down: Duration::from_secs(10) };
        let nodes: Vec<_> = (0..2).map(|_| Arc::new(NodeLive::new(now))).collect();
        let line = LineLive::new(now);
        line.adopt(nodes.clone().into(), &rules, now);
        let bad = Sign::Bad(Failure::ConnectTimeout);
        assert_eq!(nodes[0].observe(&RULES, Source::Passive, bad, now), Change::WentDown);
        assert!(nodes[0].is_cut_off());
        assert_eq!(line.update(&rules, Some(Failure::ConnectTimeout), now), None);
        nodes[1].observe(&RULES, Source::Passive, bad, now);
        assert_eq!(line.update(&rules, Some(Failure::ConnectTimeout), now), Some(LineState::Down));
        assert!(!line.is_up());
        assert_eq!(line.facts().why, Some(Failure::ConnectTimeout));
    }

    #[test]
    fn a_line_whose_dead_nodes_are_taken_out_of_the_configuration_is_back() {
        let now = Instant::now();
        let rules = LineRules { hold_down: Duration::ZERO };
        let dead = Arc::new(NodeLive::new(now));
        let line = LineLive::new(now);
        line.adopt([Arc::clone(&dead)].into(), &rules, now);
        dead.observe(&RULES, Source::Passive, Sign::Bad(Failure::Refused), now);
        line.update(&rules, None, now);
        assert!(!line.is_up());
        line.adopt([Arc::new(NodeLive::new(now))].into(), &rules, now);
        assert!(line.is_up());
    }
}
