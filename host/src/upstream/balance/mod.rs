//! Which of several equal nodes is next: the four balancers, as pure choices.
//!
//! Each is built once from the nodes' weights and picks an index without
//! locking or allocating; the caller says which nodes can be used. Nodes that
//! cannot are passed over so that the others keep their shares.

mod choice;
mod ring;
mod schedule;

pub(super) use choice::{Choice, mix};
pub(super) use ring::{Ring, hash_bytes};
pub(super) use schedule::Schedule;

/// The kind of balancer, as `type` of an upstream names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// By a hash of the request, moving little when nodes come and go.
    Chash,
    /// The better of two by latency and load.
    Ewma,
    /// The one with the fewest requests in use.
    LeastConn,
}

/// A balancer over the nodes of one tier, by index.
#[derive(Debug)]
pub(super) enum Balance {
    RoundRobin(Schedule),
    Chash(Ring),
    Ewma(Choice),
    LeastConn(Choice),
}

impl Balance {
    /// A balancer over nodes of these names and weights (all above zero).
    pub(super) fn new(kind: Kind, nodes: &[(&str, u32)]) -> Self {
        match kind {
            Kind::RoundRobin => Self::RoundRobin(Schedule::new(nodes.iter().map(|(_, weight)| *weight))),
            Kind::Chash => Self::Chash(Ring::new(nodes)),
            Kind::Ewma => Self::Ewma(Choice::new(nodes.len())),
            Kind::LeastConn => Self::LeastConn(Choice::new(nodes.len())),
        }
    }

    /// The index of the next node among those `usable` says yes to. `cost` is
    /// the price of a node for the balancers that compare, lower is better:
    /// its latency and load, or its load alone.
    pub(super) fn pick(
        &self,
        hash: u64,
        usable: impl Fn(usize) -> bool,
        cost: impl Fn(usize) -> f64,
    ) -> Option<usize> {
        match self {
            Self::RoundRobin(schedule) => schedule.next(usable),
            Self::Chash(ring) => ring.find(hash, usable),
            Self::Ewma(choice) => choice.better_of_two(usable, cost),
            Self::LeastConn(choice) => choice.least(usable, cost),
        }
    }
}
