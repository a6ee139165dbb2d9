//! A host for tests, natively: `cargo test` needs no component and no gateway.
//!
//! [`Host::install`] gives the test's thread a fake host; [`Tester`] runs a plugin
//! as the gateway would, by its interest.
//!
//! ```
//! use sluice_sdk::prelude::*;
//! use sluice_sdk::testing::{Host, Outcome, Request, Tester};
//!
//! struct NoRobots;
//!
//! impl Plugin for NoRobots {
//!     type Config = ();
//!     fn new(_: ()) -> Result<Self, ConfigError> {
//!         Ok(Self)
//!     }
//!     fn interest(&self) -> Interest {
//!         Interest::new().request_head().request_fields(["user-agent"])
//!     }
//! }
//!
//! impl RequestFilter for NoRobots {
//!     fn on_head(&mut self, exchange: ExchangeId, head: RequestHead<'_>, _: bool) -> HeadVerdict {
//!         if head.field("user-agent").is_none_or(|agent| !agent.ends_with(b"bot")) {
//!             return HeadVerdict::Done;
//!         }
//!         sluice_sdk::events::note(exchange, "robots", "block", "a robot");
//!         Denial::new(403, "robots").into()
//!     }
//! }
//!
//! let host = Host::install();
//! let mut plugin = Tester::<NoRobots>::new("{}").unwrap();
//! let robot = Request::new("GET", "/").field("user-agent", "somebot");
//! assert!(matches!(plugin.request(&robot), Outcome::Denied(denial) if denial.status == 403));
//! assert_eq!(host.events()[0].rule, "robots");
//! ```

pub(crate) mod fake;
mod message;
mod tester;

pub use fake::{Event, Host};
pub use message::{Request, Response};
pub use tester::{Outcome, Tester};
