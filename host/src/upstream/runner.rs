//! What goes on beside the traffic: active checks, recovery, hold-downs, names.
//!
//! Runs on the control runtime. Active checks are one task for each node that
//! has one; nodes without are looked after only while they are down or in
//! doubt. Tasks look their node up anew before each probe, so a change of
//! settings reaches them without starting over.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, JoinSet, spawn_local};
use tokio::time::{sleep, timeout};

use super::balance::mix;
use super::connect::Dial;
use super::environment::{Environment, Suspect};
use super::health::{LineLive, LineState, NodeLive, Sign, Source};
use super::model::{Forced, Line, Node, Upstream, locate};
use super::outcome::Failure;

/// Time between background connects to a node that is down.
const RECOVERY_INTERVAL: Duration = Duration::from_secs(1);

/// Time limit of a background connect; the upstream's own where it is shorter.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs the checks of all upstreams in force. Dropping it stops them.
#[derive(Debug)]
pub struct Runner {
    environment: Arc<Environment>,
    /// The upstreams in force, by identity; each is kept, so that is unique.
    in_force: HashMap<usize, Arc<Upstream>>,
    checks: HashMap<CheckKey, AbortHandle>,
    background: Vec<AbortHandle>,
}

/// A node's place among the running checks: the living parts it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct CheckKey {
    line: usize,
    node: usize,
}

impl Runner {
    /// Starts resolving and recovery. To be called on a local runtime, the one
    /// it stays on.
    #[must_use]
    pub fn start(environment: &Arc<Environment>) -> Self {
        let names = Arc::clone(&environment.hosts).run(environment.dns.clone());
        let recovery = look_after_suspects(Arc::clone(environment));
        Self {
            environment: Arc::clone(environment),
            in_force: HashMap::new(),
            checks: HashMap::new(),
            background: vec![spawn_local(names).abort_handle(), spawn_local(recovery).abort_handle()],
        }
    }

    /// Upstreams have come and gone. Those that are new are put in force and
    /// their checks started; checks of nodes that are gone end, those of nodes
    /// that a new version has taken over go on. The others are not looked at.
    pub fn change<'a>(
        &mut self,
        new: impl IntoIterator<Item = &'a Arc<Upstream>>,
        gone: impl IntoIterator<Item = &'a Arc<Upstream>>,
    ) {
        let now = Instant::now();
        let mut orphans = HashMap::new();
        for upstream in gone {
            if self.in_force.remove(&address(upstream)).is_some() {
                let keys = check_keys(upstream);
                orphans.extend(keys.filter_map(|(key, ..)| Some((key, self.checks.remove(&key)?))));
            }
        }
        for upstream in new {
            if self.in_force.insert(address(upstream), Arc::clone(upstream)).is_some() {
                continue;
            }
            upstream.adopt(now);
            for (key, line, node) in check_keys(upstream) {
                let running = orphans.remove(&key).filter(|task: &AbortHandle| !task.is_finished());
                self.checks.insert(key, running.unwrap_or_else(|| start_check(line, node)));
            }
        }
        orphans.into_values().for_each(|task| task.abort());
    }

    /// Active checks that run now.
    #[must_use]
    pub fn checks(&self) -> usize {
        self.checks.len()
    }

    #[cfg(test)]
    pub(super) fn task_ids(&self) -> std::collections::HashSet<tokio::task::Id> {
        self.checks.values().map(AbortHandle::id).collect()
    }

    /// What the upstreams share.
    #[must_use]
    pub fn environment(&self) -> &Arc<Environment> {
        &self.environment
    }
}

/// The nodes of an upstream that have an active check.
fn check_keys(upstream: &Upstream) -> impl Iterator<Item = (CheckKey, &Line, &Node)> {
    upstream.lines.iter().flat_map(|line| {
        let checked = line.nodes.iter().filter(|node| node.check.is_some() && node.weight > 0);
        checked.map(move |node| {
            let key = CheckKey { line: address(&line.live), node: address(&node.live) };
            (key, &**line, &**node)
        })
    })
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.background.iter().chain(self.checks.values()).for_each(AbortHandle::abort);
    }
}

fn address<T>(shared: &Arc<T>) -> usize {
    Arc::as_ptr(shared) as usize
}

fn start_check(line: &Line, node: &Node) -> AbortHandle {
    spawn_local(check(Arc::clone(&line.live), Arc::clone(&node.live))).abort_handle()
}

/// Probes one node for as long as it is in force.
async fn check(line_live: Arc<LineLive>, node_live: Arc<NodeLive>) {
    let mut dice = address(&node_live) as u64;
    // Nodes that came together are not probed together.
    let Some((_, node)) = locate(&line_live, &node_live) else { return };
    let first = node.check.as_ref().map_or(Duration::ZERO, |check| check.healthy_interval);
    drop(node);
    wait(first.min(Duration::from_secs(1)).mul_f64(chance(&mut dice)), &node_live).await;
    loop {
        let Some((line, node)) = locate(&line_live, &node_live) else { return };
        let Some(plan) = node.check.clone() else { return };
        let Ok(permit) = Arc::clone(&plan.permits).acquire_owned().await else { return };
        let sign = plan.run(&line, &node).await;
        drop(permit);
        if let Some(sign) = sign {
            line.judge(&node, Source::Active, sign, Forced::No, Instant::now());
        }
        let upstream = line_live.upstream.lock().upgrade();
        if let Some(upstream) = upstream {
            upstream.compare_lines();
        }
        let interval = if node.live.is_up() { plan.healthy_interval } else { plan.unhealthy_interval };
        drop((line, node));
        wait(interval.mul_f64(0.9 + 0.2 * chance(&mut dice)), &node_live).await;
    }
}

/// Waits, or less if somebody wants the node probed now.
async fn wait(time: Duration, node: &NodeLive) {
    // Whichever it was: what follows is a probe.
    let _ = timeout(time, node.nudge.notified()).await;
}

fn chance(dice: &mut u64) -> f64 {
    *dice = mix(*dice);
    (*dice >> 11) as f64 / (1_u64 << 53) as f64
}

async fn look_after_suspects(environment: Arc<Environment>) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            suspects = environment.suspects.take() => {
                for suspect in suspects {
                    match suspect {
                        Suspect::Node(line, node) => tasks.spawn_local(recover(line, node)),
                        Suspect::Line(line) => tasks.spawn_local(hold(line)),
                    };
                }
            }
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// Sees to a node without an active check until it is well: connects to it in
/// the background, so that no request has to find out; or puts it back on trial
/// where only its answers were bad.
async fn recover(line_live: Arc<LineLive>, node_live: Arc<NodeLive>) {
    let mut dice = address(&node_live) as u64;
    while let Some((line, node)) = locate(&line_live, &node_live) {
        if node.check.is_some() {
            break;
        }
        match node.live.facts().down {
            Some(failure) if !failure.is_before_request() => {
                let after = line.trial_after;
                drop((line, node));
                sleep(after).await;
                if let Some((line, node)) = locate(&line_live, &node_live) {
                    line.try_again(&node, Instant::now());
                }
            }
            down => {
                let sign = match connect_once(&line, &node).await {
                    Ok(()) => Sign::Good,
                    Err(failure) => Sign::Bad(failure),
                };
                if down.is_some() || sign != Sign::Good {
                    line.judge(&node, Source::Recovery, sign, Forced::No, Instant::now());
                }
                if node.live.is_up() {
                    break;
                }
                drop((line, node));
                sleep(RECOVERY_INTERVAL.mul_f64(0.9 + 0.2 * chance(&mut dice))).await;
                continue;
            }
        }
        if node_live.is_up() {
            break;
        }
    }
    node_live.is_watched.store(false, Relaxed);
}

/// Connects as a request would, TLS included, and hangs up.
async fn connect_once(line: &Line, node: &Node) -> Result<(), Failure> {
    let dial = Dial {
        port: None,
        proxy: line.plan.proxy_protocol,
        client: None,
        path: None,
        tls: None,
        limit: line.plan.timeout.min(RECOVERY_TIMEOUT),
    };
    match Box::pin(dial.run(line, node)).await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.failure),
    }
}

/// Sees to a line that is not up until its hold-down is over.
async fn hold(line_live: Arc<LineLive>) {
    loop {
        let facts = line_live.facts();
        if facts.state != LineState::Probing {
            break;
        }
        let until = facts.hold_until.unwrap_or_else(Instant::now);
        sleep(until.saturating_duration_since(Instant::now())).await;
        let Some(line) = line_live.current.lock().upgrade() else { break };
        line.settle(None, Instant::now());
    }
    line_live.is_watched.store(false, Relaxed);
    // It may have begun to answer again just before the mark was taken off.
    if line_live.facts().state == LineState::Probing
        && let Some(line) = line_live.current.lock().upgrade()
    {
        line.environment.suspects.line(&line.live);
    }
}
