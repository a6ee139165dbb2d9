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

mod balance;
mod build;
mod check;
mod connect;
mod dns;
mod environment;
mod hash;
mod health;
mod model;
mod outcome;
mod pool;
mod runner;
mod select;
mod spec;
mod status;
mod tls;
pub mod via;

#[cfg(test)]
mod tests;

pub use build::References;
pub use connect::{Alpn, ConnectError, ConnectRequest, connect, relay};
pub use dns::DnsOptions;
pub use environment::{Environment, Options};
pub use model::{Line, Node, NodeKey, Upstream};
pub use outcome::{Failure, Outcome};
pub use pool::{H2Slot, IdlePool, Pooled, Pools, Reusable, Shared, SharedPool};
pub use runner::Runner;
pub use select::{NoLine, Target, Tried};
pub use spec::{KeepalivePool, PassHost, Prefer, ProxyProtocol, Scheme, Timeouts};
pub use status::{Counts, LastFailure, LineStatus, NodeStatus, Rtt, Stale, UpstreamStatus, status};
