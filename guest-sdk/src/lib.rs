//! Write plugins for the Sluice gateway.
//!
//! A plugin is a type that implements [`Plugin`], one or more of the traits
//! [`RequestFilter`], [`ResponseFilter`], [`FrameFilter`], [`Transcoder`],
//! [`Timer`] and [`Comparison`] (and, with the feature `http`, `Function`), and is named once in
//! [`export!`]. `sluice plugin build` makes a component of the crate;
//! `cargo test` runs its tests natively, against the fake host of [`testing`].
//!
//! ```
//! use sluice_sdk::prelude::*;
//!
//! #[derive(Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     /// What the header says.
//!     greeting: String,
//! }
//!
//! struct Hello {
//!     config: Config,
//! }
//!
//! impl Plugin for Hello {
//!     type Config = Config;
//!
//!     fn new(config: Config) -> Result<Self, ConfigError> {
//!         Ok(Self { config })
//!     }
//!
//!     fn interest(&self) -> Interest {
//!         Interest::new().request_head()
//!     }
//! }
//!
//! impl RequestFilter for Hello {
//!     fn on_head(&mut self, _: ExchangeId, _: RequestHead<'_>, _: bool) -> HeadVerdict {
//!         Edits::new().set_field("x-hello", &self.config.greeting).into()
//!     }
//! }
//!
//! sluice_sdk::export!(Hello: RequestFilter);
//! # fn main() {}
//! ```
//!
//! # What a plugin may do
//!
//! It has no files, no sockets and no environment; what the host lends is in
//! [`log`], [`events`], [`metrics`], [`clock`], [`key_value`], [`health`],
//! [`fetch`] and [`files`]. Every call has a deadline and every instance a limit
//! of memory: a plugin that misses them harms the call under way and nothing else.
//! A panic ends the instance; its message is in the node's log.
//!
//! # State
//!
//! One instance serves many exchanges, whose calls interleave. What belongs to
//! one exchange is kept under its [`ExchangeId`], in an [`Exchanges`]; what all
//! instances share is kept in [`key_value`].

mod comparison;
mod config;
mod exchanges;
mod filters;
mod frames;
#[cfg(feature = "http")]
mod function;
mod head;
mod host;
mod interest;
mod macros;
mod plugin;
mod timer;
mod transcoder;
mod verdict;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod glue;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use comparison::Comparison;
pub use config::ConfigError;
pub use exchanges::{ExchangeId, Exchanges};
pub use filters::{RequestFilter, ResponseFilter};
pub use frames::{ConnectionId, Frame, FrameFilter, FrameVerdict, Frames};
#[cfg(feature = "http")]
pub use function::{Function, Request, Response};
pub use head::{Fields, RequestHead, ResponseHead};
pub use host::{clock, events, fetch, files, health, key_value, log, metrics};
pub use interest::{Interest, OverLimit, Phase};
pub use plugin::Plugin;
pub use timer::Timer;
pub use transcoder::{Message, Outgoing, Problem, Transcoder};
pub use verdict::{ChunkVerdict, Denial, Edit, Edits, Field, HeadVerdict};

/// What most plugins use, to be imported in one line.
pub mod prelude {
    pub use serde::Deserialize;

    #[cfg(feature = "http")]
    pub use crate::{Function, Request, Response};

    pub use crate::{
        ChunkVerdict, Comparison, ConfigError, ConnectionId, Denial, Edits, ExchangeId, Exchanges, Frame,
        FrameFilter, FrameVerdict, Frames, HeadVerdict, Interest, Message, Outgoing, OverLimit, Plugin,
        Problem, RequestFilter, RequestHead, ResponseFilter, ResponseHead, Timer, Transcoder,
    };
}
