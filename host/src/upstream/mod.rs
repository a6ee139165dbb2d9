//! The way to the services: upstreams, their lines and nodes, which of them is
//! tried, how it is reached and whether it is well.
//!
//! An [`Upstream`] has [`Line`]s (ways to reach the service), a line has
//! [`Node`]s (addresses). [`Upstream::select`] picks a [`Target`] from what is
//! up right now, without waiting or allocating; [`connect`] reaches it;
//! [`Target::report`] tells what became of it, which feeds the passive checks,
//! the latency averages and the state of the line. Probes, name resolution and
//! recovery run on the control runtime ([`Runner`]), never on a request's path.
//!
//! Start at [`Upstream`]; the decisions are pure state machines in `health` and
//! `balance`, which read no clock.

mod connect;
mod model;
mod outcome;
mod pool;
mod select;
mod spec;

pub use connect::{Alpn, ConnectError, ConnectRequest};
pub use model::{Line, Node, Upstream};
pub use outcome::{Failure, Outcome};
pub use pool::{H2Slot, IdlePool, Pooled, Pools, Reusable, Shared, SharedPool};
pub use select::{NoLine, Target, Tried};
pub use spec::{KeepalivePool, PassHost, Prefer, ProxyProtocol, Scheme, Timeouts};
