//! The engine edge functions run on.
//!
//! It differs from that of filters: calls may wait, several may be under way
//! in one store, and a function that computes yields to its thread at every
//! tick of the epoch, so that its neighbours are served. Memory, stacks and
//! instances come from a pool; a counter below its size turns away what does
//! not fit, since the pool's own end would be an error in the middle of a call.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, ProfilingStrategy,
};

use crate::plugin::CallError;
use crate::plugin::engine::TABLE_KEPT_RESIDENT;
use crate::plugin::ticker::{Ticker, Ticking};

/// Instances of edge functions that one node holds at a time, over all modules.
pub const INSTANCES_MAX: u32 = 256;
/// The most linear memory of one instance, in bytes, whatever its module says.
pub const MEMORY_BYTES_MAX: usize = 64 << 20;
/// Core instances of one component: a Python component has 14.
const CORE_INSTANCES_MAX: u32 = 24;
/// Elements of one table: an interpreter's function table has over ten thousand.
const TABLE_ELEMENTS_MAX: usize = 64 * 1024;
/// Stack a guest may use, in bytes. Interpreters recurse deeply.
const WASM_STACK_BYTES: usize = 1 << 20;
/// Stack of a call: the guest's and the host's below it, in bytes.
const STACK_BYTES: usize = 2 << 20;
/// Linear memory kept resident for the next instance, in bytes, where pages
/// that were written can be told from those that were not.
const RESIDENT_BYTES: usize = 4 << 20;

/// Compiles and runs edge functions; clones are the same engine.
#[derive(Clone)]
pub struct EdgeEngine {
    engine: Engine,
    places: Arc<Semaphore>,
    ticker: Arc<Ticker>,
}

impl EdgeEngine {
    /// An engine with its pool reserved. `swap_is_off`
    /// decides how memory is cleaned between instances: where a page can be
    /// swapped out, only dropping it is safe.
    ///
    /// # Errors
    /// When the address space for the pool cannot be had.
    pub fn new(swap_is_off: bool, profiling: ProfilingStrategy) -> wasmtime::Result<Self> {
        let engine = Engine::new(&config(swap_is_off, profiling))?;
        let ticker = Ticker::start(engine.clone(), "edge-epoch").map_err(wasmtime::Error::new)?;
        Ok(Self { engine, places: Arc::new(Semaphore::new(INSTANCES_MAX as usize)), ticker })
    }

    /// The engine below.
    pub(in crate::plugin) fn inner(&self) -> &Engine {
        &self.engine
    }

    /// Has guests yield and be stopped while it is held.
    pub(super) fn tick(&self) -> Ticking {
        self.ticker.hold()
    }

    /// Room for one instance, for as long as the permit lives.
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit, CallError> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| CallError::Busy)
    }
}

fn config(swap_is_off: bool, profiling: ProfilingStrategy) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    // A few more than are handed out: an instance that ends gives its place
    // back a moment before its memory.
    let instances = INSTANCES_MAX + 8;
    pool.total_component_instances(instances)
        .total_core_instances(instances * CORE_INSTANCES_MAX)
        .total_memories(instances * 2)
        .total_tables(instances * 4)
        .total_stacks(instances * 2)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(2)
        .max_tables_per_component(4)
        .max_component_instance_size(4 << 20)
        .max_core_instance_size(4 << 20)
        .max_memory_size(MEMORY_BYTES_MAX)
        .table_elements(TABLE_ELEMENTS_MAX);
    if swap_is_off {
        pool.pagemap_scan(Enabled::Auto)
            .linear_memory_keep_resident(RESIDENT_BYTES)
            .table_keep_resident(TABLE_KEPT_RESIDENT);
    } else {
        pool.pagemap_scan(Enabled::No).decommit_batch_size(64);
    }
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        .wasm_component_model_async(true)
        .wasm_memory64(false)
        .relaxed_simd_deterministic(true)
        .profiler(profiling)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(STACK_BYTES);
    config
}
