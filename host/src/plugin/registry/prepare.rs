//! How a version is made ready on a thread beside the traffic.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde_json::Value;

use super::{Key, Modules};
use crate::config::objects::{Module, ModuleFailure, ModuleInstance, ModuleVersion};
use crate::config::{Blobs, COMPONENT_BYTES_MAX, Digest};
use crate::plugin::component::Component;
use crate::plugin::engine::Engine;
use crate::plugin::ledger::Origin;
use crate::plugin::limits::Limits;
use crate::plugin::module::{Mode, OnFailure, Plugin, Settings};
use crate::plugin::{CallError, LoadError};

/// Compiled components that are in use, by their digest.
pub(super) type Components = Arc<Mutex<HashMap<Digest, Weak<Component>>>>;

/// A preparation that came to its end.
pub(super) struct Done {
    pub(super) key: Key,
    pub(super) origin: Arc<Origin>,
    pub(super) outcome: Result<Arc<Plugin>, Failure>,
}

/// Why there is nothing ready.
pub(super) struct Failure {
    pub(super) why: String,
    /// Asking again may help.
    pub(super) is_passing: bool,
}

impl Modules {
    /// Compiles a version and tries it out; [`Modules::changed`] hears of it.
    pub(super) fn prepare(&self, engine: Engine, key: Key, origin: Arc<Origin>, config: Value) {
        let slots = self.slots;
        let services = Arc::clone(&self.services);
        let (blobs, components) = (Arc::clone(&self.blobs), Arc::clone(&self.components));
        let (jobs, tell) = (Arc::clone(&self.jobs), self.tell.clone());
        tokio::spawn(async move {
            let permit = jobs.acquire_owned().await;
            let made_of = Arc::clone(&origin);
            let work = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                let Origin { object, version } = &*made_of;
                let component = component(&engine, &*blobs, &components, &version.digest)?;
                let settings = settings(object, version, config, slots, component.is_function());
                let source = || blobs.read(&version.digest, COMPONENT_BYTES_MAX);
                Plugin::open(&component, settings, &services, &source).map_err(failure)
            });
            let outcome = work.await.unwrap_or_else(|error| {
                Err(Failure { why: format!("its preparation broke off: {error}"), is_passing: false })
            });
            // Nobody listens once the node ends.
            let _ = tell.send(Done { key, origin, outcome });
        });
    }
}

fn failure(error: LoadError) -> Failure {
    let is_passing = matches!(&error, LoadError::Tried(CallError::Busy));
    Failure { why: error.to_string(), is_passing }
}

/// The compiled component of a digest: one that is in use, or from its bytes.
fn component(
    engine: &Engine,
    blobs: &dyn Blobs,
    known: &Mutex<HashMap<Digest, Weak<Component>>>,
    digest: &Digest,
) -> Result<Arc<Component>, Failure> {
    if let Some(component) = known.lock().get(digest).and_then(Weak::upgrade) {
        return Ok(component);
    }
    let bytes = blobs.read(digest, COMPONENT_BYTES_MAX).map_err(|why| Failure { why, is_passing: true })?;
    let component = Component::compile(engine, &bytes).map_err(failure)?;
    known.lock().insert(*digest, Arc::downgrade(&component));
    Ok(component)
}

/// What an object says, with the defaults of its kind: edge functions have more.
fn settings(
    object: &Module,
    version: &ModuleVersion,
    config: Value,
    slots: usize,
    is_function: bool,
) -> Settings {
    let own = &object.limits;
    let defaults = if is_function { Limits::of_functions() } else { Limits::default() };
    let limits = Limits {
        memory_max: own.memory_max.map_or(defaults.memory_max, |bytes| bytes as usize),
        deadline: own.deadline.unwrap_or(defaults.deadline),
        deadline_per_kib: own.deadline_per_kib.unwrap_or(defaults.deadline_per_kib),
        configure_deadline: own.configure_deadline.unwrap_or(defaults.configure_deadline),
        concurrency: own.concurrency.map_or(defaults.concurrency, |count| count as usize),
        fetch_timeout: own.fetch_timeout.unwrap_or(defaults.fetch_timeout),
    };
    Settings {
        name: object.id.as_str().into(),
        version: version.version.as_str().into(),
        config,
        mode: match object.instance {
            Some(ModuleInstance::Fresh) => Mode::Fresh,
            None if is_function => Mode::Fresh,
            None | Some(ModuleInstance::Reuse) => Mode::Reuse,
        },
        on_failure: match object.on_failure {
            ModuleFailure::Open => OnFailure::Open,
            ModuleFailure::Closed => OnFailure::Closed,
        },
        limits,
        kv: object.grants.kv.clone(),
        store: object.grants.store.clone(),
        fetch: object.grants.fetch.clone(),
        slots,
    }
}
