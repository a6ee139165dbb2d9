//! Images: a component that begins where an instance stands once it is configured,
//! so that each new instance of it needs neither its start nor `configure`.
//!
//! [`bake`] runs both in one instance and writes what its memories and globals hold
//! then into the component, in place of what they held at first. Tables are not
//! read, nor is what the host keeps for an instance: a component that changes its
//! tables or is given handles has no image, and its instances are configured one by
//! one. The tool that reads and writes is `wasmtime-wizer`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use wasmtime::component::{Lift, WasmList};
use wasmtime_wizer::{ComponentInstanceState, Wizer};

use super::component::Component;
use super::engine::MEMORIES_MAX;
use super::host::Owner;
use super::instance::{Config, Live, shorten};
use super::module::wait;
use super::{CallError, LoadError};

/// Bytes by which the memories of one instance grow while they are read: each of
/// them by a page of 64 KiB, twice.
const READING_BYTES: usize = MEMORIES_MAX as usize * 2 * (64 << 10);

/// Makes the image of a component with a configuration. Compiles twice: the component
/// with functions that read it, which the cache keeps, and the image, which holds what
/// the configuration says, secrets too, and is made anew at each start.
///
/// # Errors
/// Says why there can be none.
pub(super) fn bake(
    component: &Component,
    bytes: &[u8],
    owner: &Arc<Owner>,
    config: &Arc<Config>,
) -> Result<Arc<Component>, LoadError> {
    if let Some(import) = component.outline().imports.iter().find(|import| import.starts_with("wasi:")) {
        return Err(LoadError::NoImage(format!("it imports {import}, whose handles belong to one instance")));
    }
    let wizer = Wizer::new();
    let (parts, readable) = guarded(|| wizer.instrument_component(bytes))?;
    let readable = Component::compile(&component.engine, &readable)?;
    let (mut live, _) = wait(Live::start(&readable, owner, config))?;
    live.allow_memory(READING_BYTES);
    let mut reader = Reader { live: &mut live, failed: None };
    let image = guarded(|| wait(wizer.snapshot_component(&parts, &mut reader)));
    if let Some(error) = reader.failed {
        return Err(LoadError::NoImage(format!("its memory cannot be read: {error}")));
    }
    drop(live);
    Component::compile_unkept(&component.engine, &image?)
}

/// The tool panics where it meets what it does not know.
fn guarded<T>(work: impl FnOnce() -> wasmtime::Result<T>) -> Result<T, LoadError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| LoadError::NoImage(shorten(&format!("{error:#}")))),
        Err(_) => Err(LoadError::NoImage("it is made in a way that cannot be read".to_owned())),
    }
}

/// Reads an instance by the functions that were added to its component.
struct Reader<'a> {
    live: &'a mut Live,
    /// The first failure; what was read since is worth nothing.
    failed: Option<CallError>,
}

impl Reader<'_> {
    async fn number<T: Lift + Default + Send + Sync + 'static>(&mut self, interface: &str, name: &str) -> T {
        let read = self.live.read(interface, name, |_, number: T| number).await;
        read.unwrap_or_else(|error| {
            self.failed.get_or_insert(error);
            T::default()
        })
    }
}

impl ComponentInstanceState for Reader<'_> {
    async fn call_func_ret_list_u8(
        &mut self,
        interface: &str,
        name: &str,
        contents: impl FnOnce(&[u8]) + Send,
    ) {
        let read = self.live.read(interface, name, |store, list: WasmList<u8>| {
            contents(list.as_le_slice(store));
        });
        if let Err(error) = read.await {
            self.failed.get_or_insert(error);
        }
    }

    async fn call_func_ret_s32(&mut self, interface: &str, name: &str) -> i32 {
        self.number(interface, name).await
    }

    async fn call_func_ret_s64(&mut self, interface: &str, name: &str) -> i64 {
        self.number(interface, name).await
    }

    async fn call_func_ret_f32(&mut self, interface: &str, name: &str) -> u32 {
        self.number::<f32>(interface, name).await.to_bits()
    }

    async fn call_func_ret_f64(&mut self, interface: &str, name: &str) -> u64 {
        self.number::<f64>(interface, name).await.to_bits()
    }
}
