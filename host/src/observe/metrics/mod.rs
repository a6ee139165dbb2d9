//! Metrics: counters that cost a request a few plain additions, and the text
//! Prometheus scrapes.
//!
//! A route's handle is made when the snapshot is built ([`Metrics::route`]); a
//! request adds to it through its worker's [`WorkerMetrics`]. Each worker has a
//! shard of its own in every handle and is the only one who writes it, so no
//! addition locks or shares a cache line; scraping sums the shards. What other
//! modules count in their own structs is read at the scrape through [`Collect`].
//!
//! Series of a route that no snapshot and no session holds any more disappear
//! [`KEPT_UNUSED`] after that is first seen. Every label's values are bounded:
//! past the bound they are counted as `other`.

mod exposition;
mod plugin;
mod process;
mod reasons;
mod route;
mod stream;
mod table;

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use smallvec::SmallVec;

pub use exposition::{Exposition, Kind};
pub use plugin::{PluginMetrics, PluginVerdict};
pub use process::{Usage, host_name, usage};
pub use reasons::ReasonFamily;
pub use route::{RequestSample, RouteLabels, RouteMetrics};
pub use stream::StreamRouteMetrics;

use reasons::Reasons;
use table::{add, read};

/// How long series stay after the last user of their handle has let go.
pub const KEPT_UNUSED: Duration = Duration::from_secs(300);

/// Something that writes metric families when scraped.
pub trait Collect: Send + Sync {
    /// Writes whole families; a family belongs to one collector only.
    fn collect(&self, out: &mut Exposition);
}

/// All metrics of the process.
pub struct Metrics {
    workers: usize,
    node_id: String,
    started: Instant,
    shards: Box<[Shard]>,
    routes: Registry<RouteLabels, RouteMetrics>,
    streams: Registry<String, StreamRouteMetrics>,
    plugins: Registry<String, PluginMetrics>,
    collectors: Mutex<Vec<Arc<dyn Collect>>>,
}

/// What one worker counts regardless of the route. The alignment keeps two
/// workers' counters off one cache line.
#[derive(Default)]
#[repr(align(128))]
struct Shard {
    requests: AtomicU64,
    finished: AtomicU64,
    reasons: Reasons,
}

/// A worker's key to its shards: made once per worker, used by that worker's
/// thread only. Another thread using it would lose counts, nothing worse.
#[derive(Clone)]
pub struct WorkerMetrics {
    metrics: Arc<Metrics>,
    index: usize,
    /// Plugins that have decided something on this worker: a handful, found
    /// without a lock.
    plugins: RefCell<SmallVec<[NamedPlugin; 2]>>,
}

type NamedPlugin = (Box<str>, Arc<PluginMetrics>);

impl Metrics {
    /// Metrics for `workers` worker threads and one more for the control thread,
    /// of the gateway `node_id`.
    #[must_use]
    pub fn new(workers: usize, node_id: &str) -> Arc<Self> {
        let shards = workers + 1;
        Arc::new(Self {
            workers: shards,
            node_id: node_id.to_owned(),
            started: Instant::now(),
            shards: (0..shards).map(|_| Shard::default()).collect(),
            routes: Registry::default(),
            streams: Registry::default(),
            plugins: Registry::default(),
            collectors: Mutex::default(),
        })
    }

    /// The key of worker `index`, from 0. An index past the last is the control thread's.
    #[must_use]
    pub fn worker(self: &Arc<Self>, index: usize) -> WorkerMetrics {
        let index = index.min(self.workers - 1);
        WorkerMetrics { metrics: self.clone(), index, plugins: RefCell::default() }
    }

    /// The key of the control thread.
    #[must_use]
    pub fn control(self: &Arc<Self>) -> WorkerMetrics {
        self.worker(usize::MAX)
    }

    /// The handle for a route's requests. The same labels give the same
    /// counters, so a rebuilt route counts on.
    #[must_use]
    pub fn route(&self, labels: RouteLabels) -> Arc<RouteMetrics> {
        self.routes.get(labels, |labels| RouteMetrics::new(labels.clone(), self.workers))
    }

    /// The handle for a stream route's connections, by the route's id.
    #[must_use]
    pub fn stream_route(&self, id: &str) -> Arc<StreamRouteMetrics> {
        self.streams.get(id.to_owned(), |id| StreamRouteMetrics::new(id, self.workers))
    }

    /// The handle for a plugin's verdicts, by its name.
    #[must_use]
    pub fn plugin(&self, name: &str) -> Arc<PluginMetrics> {
        self.plugins.get(name.to_owned(), |name| PluginMetrics::new(name))
    }

    /// Adds a collector; it is asked at every scrape from now on.
    pub fn register(&self, collector: Arc<dyn Collect>) {
        self.collectors.lock().push(collector);
    }

    /// How long the process has been counting.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Requests that began, and of those the ones still in progress.
    #[must_use]
    pub fn requests(&self) -> (u64, u64) {
        let started: u64 = self.shards.iter().map(|shard| read(&shard.requests)).sum();
        let finished: u64 = self.shards.iter().map(|shard| read(&shard.finished)).sum();
        (started, started.saturating_sub(finished))
    }

    /// The text of a scrape, Prometheus format 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = Exposition::default();
        self.render_own(&mut out);
        process::collect(&mut out, &self.node_id, self.started);
        let collectors = self.collectors.lock().clone();
        for collector in collectors {
            collector.collect(&mut out);
        }
        out.finish()
    }

    fn render_own(&self, out: &mut Exposition) {
        let (requests, active) = self.requests();
        out.family("apisix_http_requests_total", "Requests received since the start.", Kind::Gauge);
        out.sample(&[], requests);
        out.family("sluice_http_requests_active", "Requests in progress.", Kind::Gauge);
        out.sample(&[], active);
        let now = Instant::now();
        route::collect(out, &self.routes.list(now));
        stream::collect(out, &self.streams.list(now));
        plugin::collect(out, &self.plugins.list(now));
        reasons::collect(out, self.shards.iter().map(|shard| &shard.reasons));
    }
}

impl WorkerMetrics {
    /// This worker's number, below [`Metrics::new`]'s `workers`; the control thread's is one more.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Counts a request that began.
    pub fn request_started(&self) {
        add(&self.shard().requests, 1);
    }

    /// Counts a request that ended, however it did.
    pub fn request_finished(&self) {
        add(&self.shard().finished, 1);
    }

    /// Counts a reason code of one of the fixed families.
    pub fn reason(&self, family: ReasonFamily, reason: &'static str) {
        self.shard().reasons.count(family, reason);
    }

    /// Counts what a built-in plugin decided, as [`PluginVerdict::as_str`] has it.
    /// A verdict of another name counts as an error.
    pub fn verdict(&self, plugin: &str, verdict: &str) {
        let verdict = PluginVerdict::of(verdict);
        let mut known = self.plugins.borrow_mut();
        if let Some((_, own)) = known.iter().find(|(name, _)| **name == *plugin) {
            return own.count(verdict);
        }
        let own = self.metrics.plugin(plugin);
        own.count(verdict);
        known.push((plugin.into(), own));
    }

    fn shard(&self) -> &Shard {
        &self.metrics.shards[self.index]
    }
}

/// Handles by key, kept for a while after their last user.
struct Registry<K, V> {
    entries: Mutex<HashMap<K, Entry<V>>>,
}

struct Entry<V> {
    handle: Arc<V>,
    /// Since when nobody but this registry is seen to hold it.
    unused: Option<Instant>,
}

impl<K, V> Default for Registry<K, V> {
    fn default() -> Self {
        Self { entries: Mutex::default() }
    }
}

impl<K: Eq + Hash, V> Registry<K, V> {
    fn get(&self, key: K, make: impl FnOnce(&K) -> V) -> Arc<V> {
        let mut entries = self.entries.lock();
        let entry = match entries.entry(key) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let handle = Arc::new(make(entry.key()));
                entry.insert(Entry { handle, unused: None })
            }
        };
        entry.unused = None;
        entry.handle.clone()
    }

    /// The handles alive at `now`, after those unused for too long were let go.
    fn list(&self, now: Instant) -> Vec<Arc<V>> {
        let mut entries = self.entries.lock();
        entries.retain(|_, entry| {
            if Arc::strong_count(&entry.handle) > 1 {
                entry.unused = None;
                return true;
            }
            now.saturating_duration_since(*entry.unused.get_or_insert(now)) < KEPT_UNUSED
        });
        entries.values().map(|entry| entry.handle.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
