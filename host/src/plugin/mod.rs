//! Modules: Wasm components that look at requests, responses and frames, and
//! what keeps them from hurting the host.
//!
//! [`Engine`] compiles and limits, [`Component`] is a compiled and linked
//! component, [`Plugin`] is one with a configuration and its instances, ready to
//! be called. That is all `sluice plugin test` needs:
//!
//! ```no_run
//! use sluice::plugin::{Component, Engine, EngineOptions, Head, Plugin, Services, Settings, Visit, wait};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::new(&EngineOptions::default())?;
//! let bytes = std::fs::read("hello.wasm")?;
//! let component = Component::compile(&engine, &bytes)?;
//! let settings = Settings::new("hello", serde_json::json!({"greeting": "hello"}));
//! let plugin = Plugin::open(&component, settings, &Services::alone(".".into()), &|| Ok(bytes.clone()))?;
//! let mut visit = Visit::default();
//! let head = Head { bytes: b"GEThttplocalhost/127.0.0.1", spans: &[0, 3, 3, 4, 7, 9, 16, 1, 17, 9] };
//! let (verdict, notes) = wait(plugin.request_head(&mut visit, head, true));
//! println!("{verdict:?} {notes:?}");
//! # Ok(())
//! # }
//! ```
//!
//! Nothing outside this module names the Wasm engine. `docs/modules.md` is the
//! operator's page.

mod abi;
mod breaker;
mod cache;
mod collect;
mod comparison;
mod component;
mod deadline;
pub mod edge;
mod engine;
mod error;
mod head;
mod host;
mod image;
mod instance;
mod ledger;
mod limits;
mod module;
mod registry;
mod slots;
mod stats;
mod ticker;
mod timers;
mod transcode;
mod trial;
mod trust;

pub use abi::{
    ChunkVerdict, Denial, Edit, Field, Frame, FrameRuling, Head, HeadVerdict, Interest, Outgoing, OverLimit,
    Phases, TextMessage, TranscodeProblem,
};
pub use breaker::{FAILURES_MIN, OPEN_TIME, WINDOW};
pub use collect::ModuleCollector;
pub use comparison::Breaking;
pub use component::{Component, Interface, Outline};
pub use deadline::thread_time;
pub use engine::{Engine, EngineOptions, MEMORY_BYTES_MAX, PoolSize, TABLE_ENTRIES_MAX, code_folder};
pub use error::{CallError, LoadError};
pub use head::HeadBuffer;
pub use host::{
    HISTOGRAM_BOUNDS, HOST_CALLS_MAX, HealthSource, KeyValue, KeyValueError, KvLimits, ModuleMetrics,
    NOTE_LENGTH_MAX, NOTES_MAX, NodeHealth, Note, Services,
};
pub use limits::Limits;
pub use module::{BODY_BYTES_MAX, Mode, OnFailure, Plugin, Settings, Source, Told, Visit, at_once, wait};
pub use registry::{Ended, Gap, Modules, Rollout, Running};
pub use stats::{BREAKER_INPUT_MAX, FAILURES, Stats};
pub use ticker::TICK;
pub use transcode::Transcoder;
pub use trial::{
    COMPARED_MAX, COMPARED_MIN, Lane, SHADOW_BYTES_MAX, SHADOWS_MAX, ShadowMessage, Shadowing, TRIAL_WINDOW,
    Trial, TrialCounts, TrialEnd, TrialRecord, TrialShown,
};
pub use trust::{Provenance, Trust, TrustFault, TrustPolicy, WORLDS};
