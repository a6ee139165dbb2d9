//! Which route a request belongs to.
//!
//! [`Router`] is a persistent tree: a clone is cheap, and changing one route
//! of a clone copies only the nodes on its way, so a new snapshot costs the
//! change and not the table. Hosts come first (exact, then the longest
//! wildcard, then routes without a host), then the path (exact, then the
//! longest prefix), then priority; `docs/routing.md` has the whole order.
//! Reads no socket and no clock.

mod matcher;
mod pattern;
mod radix;
mod router;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
pub mod vars;

pub use matcher::{MatchError, MethodSet, RouteFields, RouteMatch};
pub use router::{Found, Router};
pub use stream::{StreamQuery, StreamRouter};
pub use vars::{Expression, ExpressionError};
