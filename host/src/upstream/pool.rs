//! Connections kept for the next request, per worker.
//!
//! A worker keeps its own: a stack of idle HTTP/1.1 connections for each node,
//! last in first out, and slots of HTTP/2 connections many requests share.
//! Nothing here is locked or awaited, and nothing keeps a node alive: once the
//! configuration drops one, its connections go with the next sweep.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::model::{Generation, PoolKey};
use super::select::Target;

/// A connection that can be kept.
pub trait Reusable {
    /// Whether it may carry another request: still open and nothing unread, as
    /// far as can be told without a system call.
    fn is_usable(&mut self) -> bool;
}

/// A connection in use, with what the pool must know to take it back.
#[derive(Debug)]
pub struct Pooled<C> {
    /// The connection. Boxed, since it moves from hand to hand with each request.
    pub connection: Box<C>,
    key: Weak<PoolKey>,
    tls_name: Option<Box<str>>,
    address: SocketAddr,
    generation: Generation,
    requests: u32,
    idle_since: Instant,
}

impl<C> Pooled<C> {
    /// A connection just made to `target`, reached at `address`. `tls_name` is
    /// what [`Target::tls_name`] gave: connections are shared only between
    /// requests that would have asked for the same certificate.
    #[must_use]
    pub fn new(target: &Target, tls_name: Option<&str>, address: SocketAddr, connection: C) -> Self {
        Self {
            connection: Box::new(connection),
            key: Arc::downgrade(&target.node.pool),
            tls_name: tls_name.map(Box::from),
            address,
            generation: target.node.generation(),
            requests: 0,
            idle_since: Instant::now(),
        }
    }

    /// The address it is connected to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests it had carried when it was taken: 0 for a new one. A failure on
    /// a used one before any answer may be its idle end, not the node's fault.
    #[must_use]
    pub fn requests(&self) -> u32 {
        self.requests
    }
}

struct Stack<C> {
    key: Weak<PoolKey>,
    idle: Vec<Pooled<C>>,
}

/// Idle HTTP/1.1 connections, a stack for each node.
pub struct IdlePool<C> {
    stacks: RefCell<HashMap<usize, Stack<C>, foldhash::fast::FixedState>>,
    kept: Cell<usize>,
    kept_max: usize,
    workers: u32,
    /// When it was swept last: exact enough for times of many seconds, without
    /// asking the clock twice a request.
    swept: Cell<Instant>,
}

/// Idle times from this on are told by the last sweep.
const COARSE_MIN: Duration = Duration::from_secs(5);

impl<C: Reusable> IdlePool<C> {
    /// A pool of at most `kept_max` idle connections over all nodes, on one of
    /// `workers` workers: each keeps its part of a node's `keepalive_pool.size`.
    #[must_use]
    pub fn new(kept_max: usize, workers: u32) -> Self {
        Self {
            stacks: RefCell::default(),
            kept: Cell::new(0),
            kept_max,
            workers: workers.max(1),
            swept: Cell::new(Instant::now()),
        }
    }

    /// The connection to this node that came back last and can be used.
    #[must_use]
    pub fn take(&self, target: &Target, tls_name: Option<&str>) -> Option<Pooled<C>> {
        let mut stacks = self.stacks.borrow_mut();
        let stack = stacks.get_mut(&address_of(&target.node.pool))?;
        let idle_max = target.node.pool.limits.idle_timeout;
        let mut found = None;
        // From the top: past those for another certificate, dropping the dead.
        let mut at = stack.idle.len();
        while at > 0 {
            at -= 1;
            if stack.idle[at].tls_name.as_deref() != tls_name {
                continue;
            }
            let mut pooled = stack.idle.remove(at);
            self.kept.set(self.kept.get() - 1);
            let is_fresh = self.now(idle_max).saturating_duration_since(pooled.idle_since) < idle_max;
            if is_fresh
                && target.node.is_current(pooled.address, &mut pooled.generation)
                && pooled.connection.is_usable()
            {
                found = Some(pooled);
                break;
            }
        }
        found
    }

    /// Keeps a connection whose exchange ended whole. Closes it instead when it
    /// has carried its share, the stack is full or the node is gone.
    pub fn put(&self, mut pooled: Pooled<C>) {
        let Some(key) = pooled.key.upgrade() else { return };
        pooled.requests = pooled.requests.saturating_add(1);
        let is_kept = key.is_kept && !key.limits.idle_timeout.is_zero();
        // Whether it is still open is looked at when it is taken.
        if !is_kept || pooled.requests >= key.limits.requests {
            return;
        }
        let size = key.limits.size.div_ceil(self.workers) as usize;
        let mut stacks = self.stacks.borrow_mut();
        let stack = stacks
            .entry(address_of(&key))
            .or_insert_with(|| Stack { key: Weak::clone(&pooled.key), idle: Vec::new() });
        let is_full = stack.idle.len() >= size || self.kept.get() >= self.kept_max;
        if is_full {
            // The oldest makes room: it is the likeliest to be stale.
            if stack.idle.is_empty() {
                return;
            }
            stack.idle.remove(0);
            self.kept.set(self.kept.get() - 1);
        }
        pooled.idle_since = self.now(key.limits.idle_timeout);
        stack.idle.push(pooled);
        self.kept.set(self.kept.get() + 1);
    }

    fn now(&self, limit: Duration) -> Instant {
        if limit < COARSE_MIN { Instant::now() } else { self.swept.get() }
    }

    /// Closes what is idle too long, closed by the node, or of a node that is
    /// gone. To be called about once a second. Returns how many were closed.
    pub fn sweep(&self, now: Instant) -> usize {
        self.swept.set(now);
        let mut stacks = self.stacks.borrow_mut();
        let before = self.kept.get();
        stacks.retain(|_, stack| {
            let Some(key) = stack.key.upgrade() else { return false };
            let idle_max = key.limits.idle_timeout;
            stack.idle.retain_mut(|pooled| {
                let idle = now.saturating_duration_since(pooled.idle_since);
                idle < idle_max && pooled.connection.is_usable()
            });
            !stack.idle.is_empty()
        });
        self.kept.set(stacks.values().map(|stack| stack.idle.len()).sum());
        before - self.kept.get()
    }

    /// Idle connections kept now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.get()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.get() == 0
    }

    /// Closes all, for a worker that drains.
    pub fn clear(&self) {
        self.stacks.borrow_mut().clear();
        self.kept.set(0);
    }
}

/// A connection many requests share: a handle that clones.
pub trait Shared: Clone {
    /// Whether it still takes new requests at all.
    fn is_usable(&self) -> bool;
    /// Whether it takes one more right now.
    fn has_room(&self) -> bool;
}

/// The HTTP/2 connections of one node (and certificate name) on one worker.
pub struct H2Slot<C> {
    connections: RefCell<Vec<C>>,
    generation: Cell<Generation>,
    dialing: tokio::sync::Semaphore,
    key: Weak<PoolKey>,
}

impl<C: Shared> H2Slot<C> {
    /// A connection that takes a request now; forgets those that are over.
    #[must_use]
    pub fn ready(&self) -> Option<C> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(Shared::is_usable);
        connections.iter().find(|connection| connection.has_room()).cloned()
    }

    /// Waits for the right to dial: one dials, the others find its connection
    /// with [`ready`](Self::ready) afterwards. Cancel-safe.
    pub async fn dial_permit(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.dialing.acquire().await.ok()
    }

    /// Adds a connection just made.
    pub fn add(&self, connection: C) {
        self.connections.borrow_mut().push(connection);
    }

    /// Connections that still take requests.
    #[must_use]
    pub fn len(&self) -> usize {
        self.connections.borrow().iter().filter(|connection| connection.is_usable()).count()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the node's limit (`keepalive_pool.size`) allows one more.
    #[must_use]
    pub fn may_grow(&self) -> bool {
        self.key.upgrade().is_some_and(|key| self.len() < (key.limits.size as usize).max(1))
    }
}

/// A node's slots, by certificate name.
type Named<C> = Vec<(Option<Box<str>>, Rc<H2Slot<C>>)>;

/// All slots, by the node's identity.
type Slots<C> = HashMap<usize, (Weak<PoolKey>, Named<C>), foldhash::fast::FixedState>;

/// HTTP/2 connections in use by many requests at once.
pub struct SharedPool<C> {
    slots: RefCell<Slots<C>>,
}

/// Certificate names a node may have connections for at once, per worker. Past
/// it the oldest name's connections are given up; their requests go on.
const NAMES_MAX: usize = 64;

impl<C: Shared> SharedPool<C> {
    /// An empty pool.
    #[must_use]
    pub fn new() -> Self {
        Self { slots: RefCell::default() }
    }

    /// The slot of this node and certificate name.
    #[must_use]
    pub fn slot(&self, target: &Target, tls_name: Option<&str>) -> Rc<H2Slot<C>> {
        let key = &target.node.pool;
        let mut slots = self.slots.borrow_mut();
        let (_, named) = slots.entry(address_of(key)).or_insert_with(|| (Arc::downgrade(key), Vec::new()));
        let generation = target.node.generation();
        if let Some((_, slot)) = named.iter().find(|(name, _)| name.as_deref() == tls_name) {
            // Made before the node went down or moved: left to its requests.
            if slot.generation.replace(generation) != generation {
                slot.connections.borrow_mut().clear();
            }
            return Rc::clone(slot);
        }
        if named.len() >= NAMES_MAX {
            named.remove(0);
        }
        let slot = Rc::new(H2Slot {
            connections: RefCell::default(),
            generation: Cell::new(generation),
            dialing: tokio::sync::Semaphore::new(1),
            key: Arc::downgrade(key),
        });
        named.push((tls_name.map(Box::from), Rc::clone(&slot)));
        slot
    }

    /// Lets go of connections that are over and of nodes that are gone; requests
    /// under way keep theirs. To be called about once a second.
    pub fn sweep(&self) {
        self.slots.borrow_mut().retain(|_, (key, named)| {
            named.retain(|(_, slot)| {
                slot.connections.borrow_mut().retain(Shared::is_usable);
                Rc::strong_count(slot) > 1 || !slot.connections.borrow().is_empty()
            });
            key.strong_count() > 0 && !named.is_empty()
        });
    }

    /// Lets go of all, for a worker that drains.
    pub fn clear(&self) {
        self.slots.borrow_mut().clear();
    }
}

impl<C: Shared> Default for SharedPool<C> {
    fn default() -> Self {
        Self::new()
    }
}

/// The pools of one worker: `H1` is a client connection of HTTP/1.1, `H2` the
/// handle of a shared HTTP/2 connection.
pub struct Pools<H1, H2> {
    /// Idle HTTP/1.1 connections.
    pub http1: IdlePool<H1>,
    /// Shared HTTP/2 connections.
    pub http2: SharedPool<H2>,
}

impl<H1: Reusable, H2: Shared> Pools<H1, H2> {
    /// Pools of one of `workers` workers, that keep at most `idle_max` idle
    /// HTTP/1.1 connections.
    #[must_use]
    pub fn new(idle_max: usize, workers: u32) -> Self {
        Self { http1: IdlePool::new(idle_max, workers), http2: SharedPool::new() }
    }

    /// Both sweeps.
    pub fn sweep(&self, now: Instant) -> usize {
        self.http2.sweep();
        self.http1.sweep(now)
    }
}

/// A key's identity. A `Weak` beside it keeps the address from being used again.
fn address_of(key: &Arc<PoolKey>) -> usize {
    Arc::as_ptr(key) as usize
}
