//! What the host lends.
//!
//! Each module here is what plugins see; [`backend`] is the host itself in a
//! component, and the fake host in a native build.

pub mod clock;
pub mod events;
pub mod fetch;
pub mod files;
pub mod health;
pub mod key_value;
pub mod log;
pub mod metrics;

#[cfg(target_arch = "wasm32")]
use crate::glue::host as backend;
#[cfg(not(target_arch = "wasm32"))]
use crate::testing::fake as backend;
