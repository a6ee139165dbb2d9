//! What one instance of an edge function holds on the host's side: what every
//! guest has, and HTTP.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use wasmtime::{Result, Store, StoreContextMut, UpdateDeadline};
use wasmtime_wasi::{WasiCtxView, WasiView};
use wasmtime_wasi_config::WasiConfigVariables;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::engine::EdgeEngine;
use super::function::{Counted, Fate, Spec};
use super::outgoing::Outgoing;
use crate::plugin::CallError;
use crate::plugin::host::{HOST_CALLS_MAX, State};
use crate::plugin::ticker::TICK;

/// Bytes of one set of header fields a guest builds, as kept in memory.
const FIELD_BYTES_MAX: usize = 128 * 1024;

/// The data of a store.
pub(in crate::plugin) struct EdgeState {
    pub(super) host: State,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    pub(super) variables: Arc<WasiConfigVariables>,
    /// Told how the call under way goes.
    fate: Arc<Fate>,
    /// Ticks computed since the last call began.
    ticks: u32,
    ticks_max: u32,
    pub(super) counted: Option<Counted>,
    /// Its place in the pool, given back when the store is dropped.
    _place: OwnedSemaphorePermit,
}

/// A guest that computed for too long; what its trap carries.
#[derive(Debug, thiserror::Error)]
#[error("passed its deadline of {0:?}")]
pub(super) struct DeadlinePassed(Duration);

fn ticks(time: Duration) -> u32 {
    (time.as_millis() / TICK.as_millis()).try_into().unwrap_or(u32::MAX)
}

impl EdgeState {
    /// A store for one instance, with the limits of its module. Until the first
    /// call begins it has the time of `configure`.
    pub(super) fn store(engine: &EdgeEngine, spec: &Spec) -> Result<Store<Self>, CallError> {
        let place = engine.place()?;
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(FIELD_BYTES_MAX);
        let state = Self {
            host: State::new(Arc::clone(&spec.owner), engine.tick()),
            http,
            outgoing: Outgoing::new(Arc::clone(&spec.owner)),
            variables: Arc::clone(&spec.variables),
            fate: Arc::default(),
            ticks: 0,
            ticks_max: ticks(spec.owner.limits.configure_deadline),
            counted: None,
            _place: place,
        };
        let mut store = Store::new(engine.inner(), state);
        store.limiter(|state| &mut state.host);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(tick);
        Ok(store)
    }

    /// Gives the next call the whole deadline.
    pub(super) fn begin(mut store: StoreContextMut<'_, Self>, deadline: Duration, fate: Arc<Fate>) {
        let state = store.data_mut();
        state.host.host_calls = HOST_CALLS_MAX;
        state.host.notes.clear();
        state.ticks = 0;
        state.ticks_max = ticks(deadline);
        state.fate = fate;
        state.host.ticking.call();
    }

    /// Tells the call under way that its instance failed.
    pub(super) fn broke(&self) {
        self.fate.broke.store(true, Ordering::Release);
    }
}

/// Called when a guest has computed for a tick: it yields, until it has had its share.
fn tick(mut store: StoreContextMut<'_, EdgeState>) -> Result<UpdateDeadline> {
    let state = store.data_mut();
    state.host.ticking.call();
    state.ticks += 1;
    if state.ticks > state.ticks_max {
        state.fate.passed.store(true, Ordering::Release);
        return Err(wasmtime::Error::new(DeadlinePassed(TICK * state.ticks_max)));
    }
    Ok(UpdateDeadline::Yield(1))
}

impl WasiView for EdgeState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.host.ctx()
    }
}

impl WasiHttpView for EdgeState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let table = self.host.ctx().table;
        WasiHttpCtxView { hooks: &mut self.outgoing, table, ctx: &mut self.http }
    }
}
