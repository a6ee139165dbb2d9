//! What the host gives to guests: the imports of `wit/host.wit`, and WASI with
//! nothing granted.
//!
//! Nothing here waits but `fetch` and values that all nodes share; every answer
//! and every effect has a bound.

mod fetch;
mod files;
mod imports;
mod kv;
mod lines;
mod metrics;
mod shared;
mod wasi;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use wasmtime::component::{HasSelf, Linker};

pub(super) use files::FileAccess;
pub use kv::{KeyValue, KeyValueError, KvLimits};
pub(super) use lines::{Level, Lines};
pub use metrics::{HISTOGRAM_BOUNDS, ModuleMetrics};

use super::limits::Limits;
use super::ticker::Ticking;
use crate::config::source::SharedValues;

mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "host",
        imports: {
            "sluice:plugin/fetch.send": async | trappable,
            default: trappable,
        },
    });
}

pub(super) use bindings::sluice::plugin as wit;

/// The key-value store for guests whose calls may wait.
mod waiting {
    wasmtime::component::bindgen!({
        path: "../wit",
        inline: "package sluice:waiting; world values { import sluice:plugin/key-value@0.1.0; }",
        imports: { default: async | trappable },
    });
}

pub(super) use waiting::sluice::plugin::key_value as waiting_kv;

/// Calls of the host that one call of a guest may make.
pub const HOST_CALLS_MAX: u32 = 10_000;
/// What a guest notes in one call; more is left out.
pub const NOTES_MAX: usize = 64;
/// Characters of a rule, an action or a detail of a note; the rest is cut.
pub const NOTE_LENGTH_MAX: usize = 256;

/// How a node of an upstream is, for guests that ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeHealth {
    /// The upstream's id.
    pub upstream: String,
    /// The line's name.
    pub line: String,
    /// `host:port`.
    pub address: String,
    /// Whether it is up.
    pub healthy: bool,
    /// Smoothed round-trip time in microseconds.
    pub rtt: Option<u32>,
}

/// Tells how the nodes of an upstream are.
pub type HealthSource = Box<dyn Fn(&str) -> Vec<NodeHealth> + Send + Sync>;

/// What all modules of a node share.
pub struct Services {
    /// Values of guests on this node.
    pub kv: KeyValue,
    /// Values of guests on all nodes, where the store has them.
    pub shared: Option<SharedValues>,
    /// Counters and histograms of guests.
    pub metrics: ModuleMetrics,
    /// How nodes are.
    pub health: HealthSource,
    /// What relative paths in configurations start from.
    pub base: PathBuf,
    started: Instant,
    exchanges: AtomicU64,
}

impl Services {
    /// Services of a node; `base` is the folder of its configuration.
    #[must_use]
    pub fn new(base: PathBuf, health: HealthSource, shared: Option<SharedValues>) -> Arc<Self> {
        Arc::new(Self {
            kv: KeyValue::new(KvLimits::default()),
            shared,
            metrics: ModuleMetrics::default(),
            health,
            base,
            started: Instant::now(),
            exchanges: AtomicU64::new(1),
        })
    }

    /// Services that know no upstreams, for trying a module without a gateway.
    #[must_use]
    pub fn alone(base: PathBuf) -> Arc<Self> {
        Self::new(base, Box::new(|_| Vec::new()), None)
    }

    /// A number no exchange of this node had before.
    pub fn next_exchange(&self) -> u64 {
        self.exchanges.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").field("base", &self.base).finish_non_exhaustive()
    }
}

/// What a guest found, for the access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What matched.
    pub rule: Box<str>,
    /// `detect`, `block` or a word of the plugin's own.
    pub action: Box<str>,
    /// A short text.
    pub detail: Box<str>,
}

/// What stands behind the imports of all instances of one module.
pub(super) struct Owner {
    pub(super) module: Arc<str>,
    pub(super) kv: Box<[Box<str>]>,
    pub(super) store: Box<[Box<str>]>,
    pub(super) fetch: Box<[Box<str>]>,
    pub(super) limits: Limits,
    pub(super) services: Arc<Services>,
    pub(super) lines: Lines,
}

impl Owner {
    /// Whether what it is granted may have calls wait that would not otherwise.
    pub(super) fn may_wait(&self) -> bool {
        !self.store.is_empty()
    }
}

/// The host's side of one instance.
pub(super) struct State {
    pub(super) owner: Arc<Owner>,
    pub(super) notes: Vec<Note>,
    /// Host calls this call may still make.
    pub(super) host_calls: u32,
    /// What may be read, while the instance is configured.
    pub(super) files: Option<Box<FileAccess>>,
    pub(super) memory: MemoryUse,
    pub(super) clock: super::deadline::CallClock,
    /// Has the guest stopped at its deadline; told of each call.
    pub(super) ticking: Ticking,
    wasi: Option<Box<wasi::Wasi>>,
}

/// Linear memory of an instance, over all its memories.
#[derive(Debug, Default)]
pub(super) struct MemoryUse {
    pub(super) bytes: usize,
    pub(super) max: usize,
    /// It wanted more than `max` in this call.
    pub(super) is_refused: bool,
}

impl State {
    pub(super) fn new(owner: Arc<Owner>, ticking: Ticking) -> Self {
        let memory = MemoryUse { max: owner.limits.memory_max, ..MemoryUse::default() };
        Self {
            owner,
            notes: Vec::new(),
            host_calls: HOST_CALLS_MAX,
            files: None,
            memory,
            clock: super::deadline::CallClock::default(),
            ticking,
            wasi: None,
        }
    }

    /// Counts a call of the host.
    fn enter(&mut self) -> wasmtime::Result<()> {
        match self.host_calls.checked_sub(1) {
            Some(left) => {
                self.host_calls = left;
                Ok(())
            }
            None => wasmtime::bail!("more than {HOST_CALLS_MAX} calls of the host in one call"),
        }
    }
}

impl wasmtime::ResourceLimiter for State {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let wanted = (self.memory.bytes - current.min(self.memory.bytes)).saturating_add(desired);
        if wanted > self.memory.max {
            self.memory.is_refused = true;
            return Ok(false);
        }
        self.memory.bytes = wanted;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= super::engine::TABLE_ENTRIES_MAX)
    }
}

/// What guests link to without WASI, fetch and shared values: nothing in it waits.
pub(super) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    add_quick(&mut linker, |state| state)?;
    wit::key_value::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?;
    Ok(linker)
}

/// What guests link to that may wait.
pub(super) fn waiting_linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    add_all(&mut linker, |state| state)?;
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    Ok(linker)
}

/// All of the host's own interfaces, for guests whose store holds a state
/// among other things.
pub(super) fn add_all<T: Send + 'static>(
    linker: &mut Linker<T>,
    state: fn(&mut T) -> &mut State,
) -> wasmtime::Result<()> {
    add_quick(linker, state)?;
    waiting_kv::add_to_linker::<_, HasSelf<State>>(linker, state)?;
    wit::fetch::add_to_linker::<_, HasSelf<State>>(linker, state)
}

/// Those that never wait.
fn add_quick<T: Send + 'static>(
    linker: &mut Linker<T>,
    state: fn(&mut T) -> &mut State,
) -> wasmtime::Result<()> {
    wit::types::add_to_linker::<_, HasSelf<State>>(linker, state)?;
    wit::log::add_to_linker::<_, HasSelf<State>>(linker, state)?;
    wit::events::add_to_linker::<_, HasSelf<State>>(linker, state)?;
    wit::metrics::add_to_linker::<_, HasSelf<State>>(linker, state)?;
    wit::clock::add_to_linker::<_, HasSelf<State>>(linker, state)?;
    wit::health::add_to_linker::<_, HasSelf<State>>(linker, state)?;
    wit::files::add_to_linker::<_, HasSelf<State>>(linker, state)
}
