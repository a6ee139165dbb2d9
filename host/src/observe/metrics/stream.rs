//! What the connections of one stream route count.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use super::WorkerMetrics;
use super::exposition::{Exposition, Kind};
use super::table::{Table, add, read};

/// Commands a route counts apart; more are counted as `other`.
const COMMANDS: usize = 128;

/// Counters of one stream route.
#[derive(Debug)]
pub struct StreamRouteMetrics {
    route: Box<str>,
    shards: Box<[Shard]>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    opened: AtomicU64,
    closed: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    replayed: AtomicU64,
    /// Frames by command: from the client, to the client.
    frames: OnceLock<Box<Table<COMMANDS, 2>>>,
}

impl StreamRouteMetrics {
    pub(super) fn new(route: &str, shards: usize) -> Self {
        Self { route: route.into(), shards: (0..shards).map(|_| Shard::default()).collect() }
    }

    /// Counts a connection that was accepted.
    pub fn opened(&self, worker: &WorkerMetrics) {
        add(&self.shard(worker).opened, 1);
    }

    /// Counts a connection that ended.
    pub fn closed(&self, worker: &WorkerMetrics) {
        add(&self.shard(worker).closed, 1);
    }

    /// Counts bytes from the client.
    pub fn bytes_in(&self, worker: &WorkerMetrics, bytes: u64) {
        add(&self.shard(worker).bytes_in, bytes);
    }

    /// Counts bytes to the client.
    pub fn bytes_out(&self, worker: &WorkerMetrics, bytes: u64) {
        add(&self.shard(worker).bytes_out, bytes);
    }

    /// Counts a frame from the client.
    pub fn frame_in(&self, worker: &WorkerMetrics, command: u32) {
        add(&self.frames(worker).row(command)[0], 1);
    }

    /// Counts a frame to the client.
    pub fn frame_out(&self, worker: &WorkerMetrics, command: u32) {
        add(&self.frames(worker).row(command)[1], 1);
    }

    /// Counts a session that was moved to another node, its frames replayed.
    pub fn moved(&self, worker: &WorkerMetrics) {
        add(&self.shard(worker).replayed, 1);
    }

    /// Connections accepted so far, and of those the ones still open.
    #[must_use]
    pub fn connections(&self) -> (u64, u64) {
        let opened = self.sum(|shard| &shard.opened);
        (opened, opened.saturating_sub(self.sum(|shard| &shard.closed)))
    }

    fn frames(&self, worker: &WorkerMetrics) -> &Table<COMMANDS, 2> {
        self.shard(worker).frames.get_or_init(Box::default)
    }

    fn shard(&self, worker: &WorkerMetrics) -> &Shard {
        // `WorkerMetrics` and the shards come from the same `Metrics`.
        &self.shards[worker.index().min(self.shards.len() - 1)]
    }

    fn sum(&self, counter: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.shards.iter().map(|shard| read(counter(shard))).sum()
    }

    fn commands(&self) -> Vec<(Option<u32>, [u64; 2])> {
        let mut sums: Vec<(Option<u32>, [u64; 2])> = Vec::new();
        for table in self.shards.iter().filter_map(|shard| shard.frames.get()) {
            table.each(|command, counts| match sums.iter_mut().find(|(known, _)| *known == command) {
                Some((_, sum)) => sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count),
                None => sums.push((command, counts)),
            });
        }
        sums.sort_unstable();
        sums
    }
}

/// Writes the families of all stream routes.
pub(super) fn collect(out: &mut Exposition, routes: &[Arc<StreamRouteMetrics>]) {
    let mut routes: Vec<_> = routes.iter().filter(|route| route.connections().0 > 0).collect();
    routes.sort_by_key(|route| &route.route);

    out.family("apisix_stream_connection_total", "Connections by stream route.", Kind::Counter);
    for route in &routes {
        out.sample(&[("route", &route.route)], route.connections().0);
    }
    out.family("sluice_stream_connections_active", "Open connections by stream route.", Kind::Gauge);
    for route in &routes {
        out.sample(&[("route", &route.route)], route.connections().1);
    }
    out.family("sluice_stream_bytes_total", "Bytes by stream route and direction.", Kind::Counter);
    for route in &routes {
        out.sample(&[("route", &route.route), ("direction", "in")], route.sum(|shard| &shard.bytes_in));
        out.sample(&[("route", &route.route), ("direction", "out")], route.sum(|shard| &shard.bytes_out));
    }
    out.family("sluice_sessions_moved_total", "Sessions moved to another node while open.", Kind::Counter);
    for route in &routes {
        out.sample(&[("route", &route.route)], route.sum(|shard| &shard.replayed));
    }
    out.family("sluice_frames_total", "Frames by stream route, direction and command.", Kind::Counter);
    for route in &routes {
        for (command, counts) in route.commands() {
            let command = command.map_or_else(|| "other".to_owned(), |command| format!("{command:#06x}"));
            for (direction, count) in ["in", "out"].into_iter().zip(counts).filter(|(_, count)| *count > 0) {
                let labels = [("route", &*route.route), ("direction", direction), ("command", &*command)];
                out.sample(&labels, count);
            }
        }
    }
}
