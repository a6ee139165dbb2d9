//! Names of nodes and their addresses.
//!
//! A name used by any upstream is one [`Host`], resolved in the background and
//! again whenever its time to live is over. Requests read the addresses that
//! are there. When resolving fails the last good addresses stay in use, and
//! status says since when they are stale.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Addresses of one name used at most; further ones are left out.
const ADDRESSES_MAX: usize = 64;

/// How names are resolved.
#[derive(Debug, Clone)]
pub struct DnsOptions {
    /// Servers to ask; empty takes the system's (`/etc/resolv.conf`).
    pub servers: Vec<SocketAddr>,
    /// An answer is kept at least this long, whatever its time to live. Default 1 s.
    pub valid_min: Duration,
    /// An answer is kept at most this long. Default 5 min.
    pub valid_max: Duration,
    /// Time until the first further try after a failure or a name that does not
    /// exist; doubles up to `retry_max`. Default 1 s.
    pub retry_min: Duration,
    /// Longest time between tries. Default 30 s.
    pub retry_max: Duration,
    /// Time for one answer from one server. Default 2 s.
    pub timeout: Duration,
}

impl Default for DnsOptions {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            valid_min: Duration::from_secs(1),
            valid_max: Duration::from_secs(300),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(30),
            timeout: Duration::from_secs(2),
        }
    }
}

/// The addresses of a name, as last resolved.
#[derive(Debug)]
struct Resolved {
    addresses: Box<[IpAddr]>,
    /// A bit for each address that failed last time it was tried.
    bad: AtomicU64,
}

/// Why a name has no current answer.
#[derive(Debug, Clone)]
struct Trouble {
    since: Instant,
    message: Arc<str>,
}

/// A name and its addresses.
#[derive(Debug)]
pub(super) struct Host {
    name: Box<str>,
    resolved: ArcSwapOption<Resolved>,
    generation: AtomicU32,
    rotation: AtomicUsize,
    trouble: Mutex<Option<Trouble>>,
    answered: Notify,
}

impl Host {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            resolved: ArcSwapOption::empty(),
            generation: AtomicU32::new(0),
            rotation: AtomicUsize::new(0),
            trouble: Mutex::new(None),
            answered: Notify::new(),
        }
    }

    /// Grows whenever the set of addresses changes.
    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Relaxed)
    }

    /// Whether it is one of the addresses.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.resolved.load().as_deref().is_some_and(|resolved| resolved.addresses.contains(&address))
    }

    /// The addresses, in the order to try: in turn, those that failed last.
    pub(super) fn in_order(&self) -> smallvec::SmallVec<[IpAddr; 8]> {
        let resolved = self.resolved.load();
        let Some(resolved) = resolved.as_deref() else { return smallvec::SmallVec::new() };
        let count = resolved.addresses.len();
        let start = self.rotation.fetch_add(1, Relaxed);
        let bad = resolved.bad.load(Relaxed);
        let turn = |step: usize| (start + step) % count;
        let good = (0..count).map(turn).filter(|index| bad >> index & 1 == 0);
        let rest = (0..count).map(turn).filter(|index| bad >> index & 1 == 1);
        good.chain(rest).map(|index| resolved.addresses[index]).collect()
    }

    /// Notes whether an address could be reached.
    pub(super) fn mark(&self, address: IpAddr, is_reached: bool) {
        let resolved = self.resolved.load();
        let Some(resolved) = resolved.as_deref() else { return };
        let Some(index) = resolved.addresses.iter().position(|own| *own == address) else { return };
        if is_reached {
            resolved.bad.fetch_and(!(1 << index), Relaxed);
        } else {
            resolved.bad.fetch_or(1 << index, Relaxed);
        }
    }

    /// Waits until there is a first answer, good or bad. Cancel-safe.
    pub(super) async fn first_answer(&self) {
        loop {
            let answered = self.answered.notified();
            if self.resolved.load().is_some() || self.trouble.lock().is_some() {
                return;
            }
            answered.await;
        }
    }

    /// The addresses now, and since when and why they are stale.
    pub(super) fn facts(&self) -> (Vec<IpAddr>, Option<(Instant, Arc<str>)>) {
        let addresses = self.resolved.load().as_deref().map_or(Vec::new(), |own| own.addresses.to_vec());
        let trouble = self.trouble.lock().clone().map(|trouble| (trouble.since, trouble.message));
        (addresses, trouble)
    }

    /// Why there are no addresses.
    pub(super) fn trouble(&self) -> Option<Arc<str>> {
        self.trouble.lock().as_ref().map(|trouble| Arc::clone(&trouble.message))
    }

    pub(super) fn set(&self, mut addresses: Vec<IpAddr>) {
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(ADDRESSES_MAX);
        let is_same = self.resolved.load().as_deref().is_some_and(|own| *own.addresses == *addresses);
        if !is_same {
            self.resolved
                .store(Some(Arc::new(Resolved { addresses: addresses.into(), bad: AtomicU64::new(0) })));
            self.generation.fetch_add(1, Relaxed);
        }
        *self.trouble.lock() = None;
        self.answered.notify_waiters();
    }

    fn fail(&self, message: &str, now: Instant) {
        let mut trouble = self.trouble.lock();
        let since = trouble.as_ref().map_or(now, |trouble| trouble.since);
        *trouble = Some(Trouble { since, message: message.into() });
        drop(trouble);
        self.answered.notify_waiters();
    }
}

/// All names in use. Upstreams share the entry of a name; it goes with the last.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    by_name: Mutex<HashMap<Box<str>, Weak<Host>>>,
    added: Mutex<Vec<Weak<Host>>>,
    wake: Notify,
}

impl Hosts {
    /// The entry of a name, made and queued for resolving when it is new.
    pub(super) fn get(&self, name: &str) -> Arc<Host> {
        let key = name.trim_end_matches('.').to_ascii_lowercase();
        let mut by_name = self.by_name.lock();
        if let Some(host) = by_name.get(key.as_str()).and_then(Weak::upgrade) {
            return host;
        }
        by_name.retain(|_, host| host.strong_count() > 0);
        let host = Arc::new(Host::new(&key));
        by_name.insert(key.into(), Arc::downgrade(&host));
        self.added.lock().push(Arc::downgrade(&host));
        self.wake.notify_one();
        host
    }

    /// Resolves names as they come into use, each in a task of its own that ends
    /// with the name. Runs until dropped, on a local runtime.
    pub(super) async fn run(self: Arc<Self>, options: DnsOptions) {
        let resolver = resolver(&options).or_else(|error| {
            tracing::error!(%error, "cannot read the system's name servers, only /etc/hosts is left");
            let none = ResolverConfig::default();
            TokioResolver::builder_with_config(none, TokioRuntimeProvider::default()).build()
        });
        let resolver = match resolver {
            Ok(resolver) => resolver,
            Err(error) => {
                tracing::error!(%error, "cannot resolve names");
                return;
            }
        };
        let resolver = Arc::new(resolver);
        let options = Arc::new(options);
        let mut tasks = tokio::task::JoinSet::new();
        loop {
            let added = std::mem::take(&mut *self.added.lock());
            for host in added {
                tasks.spawn_local(keep_resolved(host, Arc::clone(&resolver), Arc::clone(&options)));
            }
            tokio::select! {
                () = self.wake.notified() => {}
                Some(_) = tasks.join_next() => {}
            }
        }
    }
}

fn resolver(options: &DnsOptions) -> Result<TokioResolver, hickory_resolver::net::NetError> {
    let mut builder = if options.servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = options.servers.iter().map(|server| {
            let mut udp = ConnectionConfig::udp();
            udp.port = server.port();
            let mut tcp = ConnectionConfig::tcp();
            tcp.port = server.port();
            NameServerConfig::new(server.ip(), true, vec![udp, tcp])
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let own: &mut ResolverOpts = builder.options_mut();
    own.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    own.timeout = options.timeout;
    own.attempts = 2;
    // Each name is asked for again exactly when its time is over.
    own.cache_size = 0;
    builder.build()
}

async fn keep_resolved(host: Weak<Host>, resolver: Arc<TokioResolver>, options: Arc<DnsOptions>) {
    let mut retry = options.retry_min;
    loop {
        let Some(name) = host.upgrade().map(|host| host.name.clone()) else { return };
        let answer = resolver.lookup_ip(&*name).await;
        let Some(own) = host.upgrade() else { return };
        let wait = match answer {
            Ok(answer) if answer.iter().next().is_some() => {
                retry = options.retry_min;
                let valid = answer.valid_until().saturating_duration_since(Instant::now());
                own.set(answer.iter().collect());
                // Rounded up: an answer is whole seconds long.
                (valid + Duration::from_millis(10)).clamp(options.valid_min, options.valid_max)
            }
            other => {
                let message =
                    other.err().map_or_else(|| "name has no address".to_owned(), |error| error.to_string());
                own.fail(&message, Instant::now());
                let wait = retry;
                retry = (retry * 2).min(options.retry_max);
                tracing::warn!(
                    name = &*name,
                    error = message,
                    retry_s = wait.as_secs_f64(),
                    "cannot resolve a node's name"
                );
                wait
            }
        };
        drop(own);
        // Names go with their upstreams; a wait in steps notices that.
        let until = tokio::time::Instant::now() + wait;
        while tokio::time::Instant::now() < until {
            let step = (until - tokio::time::Instant::now()).min(Duration::from_secs(10));
            tokio::time::sleep(step).await;
            if host.strong_count() == 0 {
                return;
            }
        }
    }
}
