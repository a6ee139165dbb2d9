//! Whether nodes and lines are well: pure state machines, and the atomics that
//! let a request read their verdict without a lock.

mod line;
mod live;
mod node;

pub(super) use line::{LineRules, LineState};
pub(super) use live::{Counters, Latency, LineLive, NodeLive};
pub(super) use node::{Change, Limits, NodeRules, Sign, Source};
