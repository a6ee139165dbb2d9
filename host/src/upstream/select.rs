//! Picking a line and a node for one attempt.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::balance::Kind;
use super::health::{Sign, Source};
use super::model::{Forced, Line, Node, Upstream};
use super::outcome::Outcome;
use super::spec::{Prefer, ProxyProtocol};
use super::tls::ServerNameFrom;

/// The nodes one request or session has tried, so that none is tried twice.
#[derive(Debug, Default, Clone)]
pub struct Tried {
    /// Line and node, by their places in the upstream.
    places: SmallVec<[(u16, u16); 4]>,
}

impl Tried {
    /// How many attempts were made.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether this is the first attempt.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Forgets them: for a session that begins anew, or whose upstream changed.
    pub fn clear(&mut self) {
        self.places.clear();
    }

    fn has(&self, line: usize, node: u16) -> bool {
        self.places.contains(&(line as u16, node))
    }

    fn has_line(&self, line: usize) -> bool {
        self.places.iter().any(|(own, _)| usize::from(*own) == line)
    }
}

/// Why there is nothing to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoLine {
    /// The upstream has no node that takes traffic, or all lines are withdrawn.
    #[error("upstream has no node that takes traffic")]
    NoNodes,
    /// Every node has been tried.
    #[error("every node of the upstream has been tried")]
    AllTried,
}

/// A node picked for one attempt. It counts as in use until this is dropped.
#[derive(Debug)]
pub struct Target {
    /// The line it is reached by.
    pub line: Arc<Line>,
    /// The node.
    pub node: Arc<Node>,
    /// Nothing was up: this is the best of what is down.
    pub forced: bool,
    /// Limit of the connect while another line is left to try.
    hurry: Option<Duration>,
    down_epoch: u32,
}

impl Target {
    fn new(line: &Arc<Line>, node: &Arc<Node>, forced: Forced, hurry: Option<Duration>) -> Self {
        for counters in [&line.live.counters, &node.live.counters] {
            counters.in_use.fetch_add(1, Relaxed);
            counters.requests.fetch_add(1, Relaxed);
        }
        Self {
            line: Arc::clone(line),
            node: Arc::clone(node),
            forced: forced == Forced::Yes,
            hurry,
            down_epoch: line.live.down_epoch.load(Relaxed),
        }
    }

    /// Another use of the same node, for a connection that outlives the request
    /// it was made for.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::new(&self.line, &self.node, self.forced(), self.hurry)
    }

    pub(super) fn forced(&self) -> Forced {
        if self.forced { Forced::Yes } else { Forced::No }
    }

    /// How long connecting may take: the route's limit or the upstream's, and no
    /// longer than `failover.connect_timeout` while another line is left to try.
    #[must_use]
    pub fn connect_limit(&self, own: Option<Duration>) -> Duration {
        let limit = own.unwrap_or(self.line.plan.timeout);
        self.hurry.map_or(limit, |hurry| limit.min(hurry))
    }

    /// The name the node's certificate is asked for and must bear, when the
    /// upstream is reached by TLS; `host` is the Host the request will carry,
    /// without a port, if it is an HTTP request.
    #[must_use]
    pub fn tls_name<'a>(&'a self, host: Option<&'a str>) -> Option<&'a str> {
        let tls = self.line.plan.tls.as_ref()?;
        Some(match &tls.name {
            ServerNameFrom::Fixed(name) => name,
            ServerNameFrom::Request => host.filter(|host| !host.is_empty()).unwrap_or(&self.node.host),
            ServerNameFrom::Node => &self.node.host,
        })
    }

    /// Whether it is reached by TLS, so that [`tls_name`](Self::tls_name) asks for a host.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.line.plan.tls.is_some()
    }

    /// Whether its connections may serve one client after the other: not when
    /// each begins with a PROXY header.
    #[must_use]
    pub fn is_poolable(&self) -> bool {
        self.line.plan.proxy_protocol == ProxyProtocol::Off
    }

    /// Tells what became of the attempt and how long it took: for an answer, from
    /// the request to the answer's head. Feeds the passive checks, the averages
    /// and the state of node and line. Failed connects report themselves.
    pub fn report(&self, outcome: Outcome, took: Duration) {
        self.report_at(outcome, took, Instant::now());
    }

    /// [`report`](Self::report) by someone who knows what time it is.
    pub fn report_at(&self, outcome: Outcome, took: Duration, now: Instant) {
        let sign = match outcome {
            Outcome::Abandoned => return,
            Outcome::Failed(failure) => Some(Sign::Bad(failure)),
            Outcome::Answered => {
                self.node.live.latency.record(took, now);
                Some(Sign::Good)
            }
            Outcome::Status(status) => {
                self.node.live.latency.record(took, now);
                self.node.passive.as_ref().map_or(Some(Sign::Good), |statuses| statuses.judge(status))
            }
        };
        if let Some(sign) = sign {
            self.line.judge(&self.node, Source::Passive, sign, self.forced(), now);
        }
    }

    /// Whether the line went down since it was picked: an exchange that still
    /// waits on it is better tried elsewhere, if it may be.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.line.live.down_epoch.load(Relaxed) != self.down_epoch
    }

    /// Returns once the line goes down. Cancel-safe.
    pub async fn lost(&self) {
        loop {
            let lost = self.line.live.lost.notified();
            tokio::pin!(lost);
            lost.as_mut().enable();
            if self.is_lost() {
                return;
            }
            lost.await;
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.line.live.counters.in_use.fetch_sub(1, Relaxed);
        self.node.live.counters.in_use.fetch_sub(1, Relaxed);
    }
}

/// Which nodes of which lines may be picked, from the best case to the last resort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// What is up, on lines that this request has not found cut off.
    Up,
    /// What is up.
    UpAnywhere,
    /// Nodes that are up on a line that waits for its hold-down.
    Held,
    /// Nodes that are down, but answered last time.
    Recovering,
    /// Anything not tried yet.
    Any,
}

const PASSES: [Pass; 5] = [Pass::Up, Pass::UpAnywhere, Pass::Held, Pass::Recovering, Pass::Any];

impl Upstream {
    /// Picks the node for the next attempt and marks it as tried.
    ///
    /// `hash` is what [`Upstream::hash_key`] made of the request; only `chash`
    /// reads it. Waits for nothing and allocates nothing.
    ///
    /// # Errors
    /// [`NoLine`] when there is nothing left to try.
    pub fn select(&self, hash: u64, tried: &mut Tried) -> Result<Target, NoLine> {
        // Nearly always the first line by priority has a node that is up.
        if self.failover.prefer == Prefer::Priority
            && let Some(node) = self.lines.first().and_then(|_| self.pick(0, Pass::Up, hash, tried))
        {
            return Ok(self.take(0, node, Pass::Up, tried));
        }
        let order = self.order();
        for pass in PASSES {
            for &index in &order {
                if let Some(node) = self.pick(index, pass, hash, tried) {
                    return Ok(self.take(index, node, pass, tried));
                }
            }
        }
        Err(if tried.is_empty() { NoLine::NoNodes } else { NoLine::AllTried })
    }

    /// The lines in the order they are preferred.
    fn order(&self) -> SmallVec<[usize; 8]> {
        let mut order: SmallVec<[usize; 8]> = (0..self.lines.len()).collect();
        if self.failover.prefer == Prefer::Latency && order.len() > 1 {
            let fastest = self.fastest.load(Relaxed);
            let cost = |index: &usize| self.lines[*index].live.rtt.average().unwrap_or(Duration::MAX);
            order.sort_by_key(|index| (*index != fastest, cost(index)));
        }
        order
    }

    fn pick(&self, index: usize, pass: Pass, hash: u64, tried: &Tried) -> Option<u16> {
        let line = &self.lines[index];
        let fits = match pass {
            Pass::Up => line.is_up() && !(tried.has_line(index) && is_cut_off(line, index, tried)),
            Pass::UpAnywhere => line.is_up() && tried.has_line(index),
            Pass::Held => !line.is_up() && !line.live.is_withdrawn(),
            Pass::Recovering | Pass::Any => !line.live.is_withdrawn(),
        };
        if !fits {
            return None;
        }
        let may = |node: u16| {
            let live = &line.nodes[usize::from(node)].live;
            let is_well = match pass {
                Pass::Up | Pass::UpAnywhere | Pass::Held => live.is_up(),
                Pass::Recovering => live.is_recovering(),
                Pass::Any => true,
            };
            is_well && !tried.has(index, node)
        };
        let now = (self.kind == Kind::Ewma).then(Instant::now);
        line.tiers.iter().find_map(|tier| {
            let own = |place: usize| &line.nodes[usize::from(tier.nodes[place])];
            let place =
                tier.balance.pick(hash, |place| may(tier.nodes[place]), |place| own(place).cost(now))?;
            Some(tier.nodes[place])
        })
    }

    fn take(&self, index: usize, node: u16, pass: Pass, tried: &mut Tried) -> Target {
        let line = &self.lines[index];
        // A last try although another line is up, but tried, forces nothing.
        let is_best = matches!(pass, Pass::Up | Pass::UpAnywhere) || self.is_up();
        let forced = if is_best { Forced::No } else { Forced::Yes };
        if forced == Forced::Yes && tried.is_empty() {
            self.environment.forced.fetch_add(1, Relaxed);
        }
        tried.places.push((index as u16, node));
        let is_other_left = self.lines.len() > 1
            && self.lines.iter().enumerate().any(|(other, line)| line.is_up() && !tried.has_line(other));
        let hurry = is_other_left.then_some(self.failover.connect_timeout);
        Target::new(line, &line.nodes[usize::from(node)], forced, hurry)
    }
}

/// Whether this request found the way to one of the line's nodes cut: the
/// others would likely cost it the same wait.
fn is_cut_off(line: &Line, index: usize, tried: &Tried) -> bool {
    let own = tried.places.iter().filter(|(line, _)| usize::from(*line) == index);
    own.into_iter().any(|(_, node)| line.nodes[usize::from(*node)].live.is_cut_off())
}

/// What a node not measured yet is taken to need, in nanoseconds.
const UNMEASURED: f64 = 100_000.0;

impl Node {
    /// The price of one more request here: by load, and by latency if `now` is given.
    fn cost(&self, now: Option<Instant>) -> f64 {
        let load = f64::from(self.in_use()) + 1.0;
        let latency = now.map_or(1.0, |now| self.live.latency.cost(now).max(UNMEASURED));
        load * latency / f64::from(self.weight.max(1))
    }
}
