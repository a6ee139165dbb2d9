//! What all upstreams of a process share: names, trusted authorities, the keys
//! of the fleet, and the list of nodes somebody should look after.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::dns::{DnsOptions, Hosts};
use super::health::{LineLive, NodeLive};
use super::tls::Roots;
use super::via::WayKey;

/// Settings of the process that concern upstreams.
#[derive(Debug, Default)]
pub struct Options {
    /// How names are resolved.
    pub dns: DnsOptions,
    /// The fleet's key for ways through relays; lines with `via` need it.
    pub way_key: Option<WayKey>,
}

/// What all upstreams share. Made once, before the first snapshot.
#[derive(Debug)]
pub struct Environment {
    pub(super) hosts: Arc<Hosts>,
    pub(super) dns: DnsOptions,
    pub(super) roots: Roots,
    pub(super) way_key: Option<WayKey>,
    pub(super) suspects: Suspects,
    /// Selections made although nothing was up.
    pub(super) forced: AtomicU64,
}

impl Environment {
    /// With these settings. Nothing runs yet: the [`Runner`](super::Runner) does.
    #[must_use]
    pub fn new(options: Options) -> Arc<Self> {
        Arc::new(Self {
            hosts: Arc::default(),
            dns: options.dns,
            roots: Roots::default(),
            way_key: options.way_key,
            suspects: Suspects::default(),
            forced: AtomicU64::new(0),
        })
    }

    /// Selections made so far although nothing was up.
    #[must_use]
    pub fn forced_selections(&self) -> u64 {
        self.forced.load(Relaxed)
    }

    /// Whether this process can relay ways and has a key to check them by.
    #[must_use]
    pub fn way_key(&self) -> Option<&WayKey> {
        self.way_key.as_ref()
    }
}

/// A node, or a whole line, to look after.
#[derive(Debug)]
pub(super) enum Suspect {
    /// A node without an active check that is down or in doubt.
    Node(Arc<LineLive>, Arc<NodeLive>),
    /// A line whose hold-down runs.
    Line(Arc<LineLive>),
}

/// Those waiting to be looked after. Each node and line is in it at most once.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    list: Mutex<Vec<Suspect>>,
    wake: Notify,
}

impl Suspects {
    pub(super) fn node(&self, line: &Arc<LineLive>, node: &Arc<NodeLive>) {
        if !node.is_watched.swap(true, Relaxed) {
            self.push(Suspect::Node(Arc::clone(line), Arc::clone(node)));
        }
    }

    pub(super) fn line(&self, line: &Arc<LineLive>) {
        if !line.is_watched.swap(true, Relaxed) {
            self.push(Suspect::Line(Arc::clone(line)));
        }
    }

    fn push(&self, suspect: Suspect) {
        self.list.lock().push(suspect);
        self.wake.notify_one();
    }

    /// Waits for suspects and takes them all. Cancel-safe.
    pub(super) async fn take(&self) -> Vec<Suspect> {
        loop {
            let taken = std::mem::take(&mut *self.list.lock());
            if !taken.is_empty() {
                return taken;
            }
            self.wake.notified().await;
        }
    }
}
