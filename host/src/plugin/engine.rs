//! The engine of filters: how guests are compiled, where they live, when they
//! are stopped.
//!
//! Calls are made on the worker's own stack, so that one costs a fraction of a
//! microsecond. A guest that does not come back is stopped by the epoch
//! ([`Ticker`]). Instances come from a pool that is as large as [`PoolSize`] says
//! and never waits: who would take the last place is refused instead.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use wasmtime::component::Linker;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig, ProfilingStrategy};

use super::LoadError;
use super::cache::CodeCache;
use super::edge::EdgeEngine;
use super::host::{self, State};
use super::ticker::{Ticker, Ticking};

/// The most memory one linear memory may be given, whatever a module's limits say.
pub const MEMORY_BYTES_MAX: usize = 256 << 20;
/// The most entries of one table.
pub const TABLE_ENTRIES_MAX: usize = 20_000;
/// Core instances, memories and tables of one component; interpreters for
/// JavaScript and Python need 8 and 38 core instances.
const CORE_INSTANCES_MAX: u32 = 48;
pub(super) const MEMORIES_MAX: u32 = 4;
const TABLES_MAX: u32 = 16;
/// Stack of a guest. Workers have two MiB of their own.
const STACK_BYTES: usize = 512 << 10;
/// Stack of a guest that may wait.
const FIBER_BYTES: usize = 1 << 20;
/// Bytes of a used memory that stay resident for its next instance.
const KEPT_RESIDENT: usize = 4 << 20;
/// The same of a table. Giving its pages back to the kernel stops the other threads'
/// cores for a moment, at the end of each instance.
pub(super) const TABLE_KEPT_RESIDENT: usize = 64 << 10;

/// How many instances there may be at one time.
#[derive(Debug, Clone, Copy)]
pub struct PoolSize {
    /// Instances of components, over all modules.
    pub instances: u32,
}

impl Default for PoolSize {
    /// 512: at the default limit of 16 MiB each, 8 GiB at the very worst.
    fn default() -> Self {
        Self { instances: 512 }
    }
}

/// What an engine is made of.
#[derive(Debug, Clone, Default)]
pub struct EngineOptions {
    /// Where compiled code is kept; none: every start compiles.
    pub cache_dir: Option<PathBuf>,
    /// How many instances there may be.
    pub pool: PoolSize,
    /// Whether `perf` is told where the functions of guests are, by a file
    /// `/tmp/perf-<pid>.map`.
    pub perf_map: bool,
}

impl EngineOptions {
    fn profiling(&self) -> ProfilingStrategy {
        if self.perf_map { ProfilingStrategy::PerfMap } else { ProfilingStrategy::None }
    }
}

/// Compiles and runs components with the interfaces of `wit/`. Clones are the
/// same engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    engine: wasmtime::Engine,
    /// For guests whose calls never wait.
    plain: Linker<State>,
    /// For guests that use WASI or fetch.
    waiting: Linker<State>,
    cache: Option<CodeCache>,
    /// For edge functions, once there is one; with a cache of its own.
    edge: OnceLock<(EdgeEngine, Option<CodeCache>)>,
    options: EngineOptions,
    places: Places,
    ticker: Arc<Ticker>,
}

/// Places in the pool.
struct Places {
    free: AtomicUsize,
    size: usize,
}

/// A place in the pool, given back when dropped.
pub(super) struct Place(Engine);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.places.free.fetch_add(1, Relaxed);
    }
}

impl Engine {
    /// Makes an engine and starts its ticker.
    ///
    /// # Errors
    /// When the machine cannot run it: the address space is too small even for
    /// a small pool, or there is no thread.
    pub fn new(options: &EngineOptions) -> Result<Self, LoadError> {
        let mut wanted = options.pool.instances.max(8);
        // A dirty page that is swapped out does not show in the scan and would
        // keep one instance's bytes for the next.
        let mut scan = if has_swap() { Enabled::No } else { Enabled::Yes };
        let engine = loop {
            match wasmtime::Engine::new(&config(wanted, scan, options.profiling())) {
                Ok(engine) => break engine,
                // The kernel may be too old for it.
                Err(_) if scan == Enabled::Yes => scan = Enabled::No,
                // A limit on address space may not allow for so many.
                Err(error) if wanted > 8 => {
                    tracing::warn!(%error, instances = wanted, "no room for the pool of instances; trying half");
                    wanted /= 2;
                }
                Err(error) => return Err(LoadError::Engine(format!("{error:#}"))),
            }
        };
        let failed = |error: wasmtime::Error| LoadError::Engine(format!("{error:#}"));
        let plain = host::linker(&engine).map_err(failed)?;
        let waiting = host::waiting_linker(&engine).map_err(failed)?;
        let cache = options.cache_dir.as_deref().map(|folder| CodeCache::new(folder, &engine));
        let ticker = Ticker::start(engine.clone(), "sluice-epoch");
        let ticker = ticker.map_err(|error| LoadError::Engine(error.to_string()))?;
        // Below the pool's size, so that an instance that is being given back
        // is never in the way of a new one.
        let size = (wanted - wanted / 8) as usize;
        let places = Places { free: AtomicUsize::new(size), size };
        Ok(Self(Arc::new(Inner {
            engine,
            plain,
            waiting,
            cache,
            edge: OnceLock::new(),
            options: options.clone(),
            places,
            ticker,
        })))
    }

    pub(super) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.0.engine
    }

    pub(super) fn linker(&self, waits: bool) -> &Linker<State> {
        if waits { &self.0.waiting } else { &self.0.plain }
    }

    pub(super) fn cache(&self) -> Option<&CodeCache> {
        self.0.cache.as_ref()
    }

    /// The engine of edge functions, made for the first of them, and the cache
    /// of what it compiles.
    pub(super) fn edge(&self) -> Result<(&EdgeEngine, Option<&CodeCache>), LoadError> {
        let made = match self.0.edge.get() {
            Some(made) => made,
            None => {
                let options = &self.0.options;
                let engine = EdgeEngine::new(!has_swap(), options.profiling())
                    .map_err(|error| LoadError::Engine(format!("{error:#}")))?;
                let cache = options.cache_dir.as_deref().map(|folder| CodeCache::new(folder, engine.inner()));
                self.0.edge.get_or_init(|| (engine, cache))
            }
        };
        Ok((&made.0, made.1.as_ref()))
    }

    /// A place in the pool, unless all are taken.
    pub(super) fn take_place(&self) -> Option<Place> {
        let taken = self.0.places.free.fetch_update(Relaxed, Relaxed, |free| free.checked_sub(1));
        taken.is_ok().then(|| Place(self.clone()))
    }

    /// Instances there are, and how many there may be.
    #[must_use]
    pub fn instances(&self) -> (usize, usize) {
        let places = &self.0.places;
        (places.size - places.free.load(Relaxed).min(places.size), places.size)
    }

    /// Keeps the ticker going while it is held.
    pub(super) fn tick(&self) -> Ticking {
        self.0.ticker.hold()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("instances", &self.instances()).finish_non_exhaustive()
    }
}

fn config(instances: u32, scan: Enabled, profiling: ProfilingStrategy) -> Config {
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(STACK_BYTES)
        .async_stack_size(FIBER_BYTES)
        .wasm_memory64(false)
        .wasm_relaxed_simd(true)
        .relaxed_simd_deterministic(true)
        .profiler(profiling)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool(instances, scan)));
    config
}

fn pool(instances: u32, scan: Enabled) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances * 6)
        .total_memories(instances * 2)
        .total_tables(instances * 4)
        .total_stacks(instances)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .max_tables_per_module(TABLES_MAX)
        .max_memories_per_module(MEMORIES_MAX)
        .max_core_instance_size(4 << 20)
        .max_component_instance_size(4 << 20)
        .table_elements(TABLE_ENTRIES_MAX)
        .max_memory_size(MEMORY_BYTES_MAX);
    if scan == Enabled::Yes {
        pool.pagemap_scan(scan)
            .linear_memory_keep_resident(KEPT_RESIDENT)
            .table_keep_resident(TABLE_KEPT_RESIDENT);
    } else {
        pool.decommit_batch_size(64);
    }
    pool
}

/// Whether pages may be swapped out. Unknown counts as yes.
fn has_swap() -> bool {
    std::fs::read_to_string("/proc/swaps").map_or(true, |text| text.lines().count() > 1)
}

/// The folder of compiled code under a node's cache folder.
#[must_use]
pub fn code_folder(cache_dir: &Path) -> PathBuf {
    cache_dir.join("code")
}
