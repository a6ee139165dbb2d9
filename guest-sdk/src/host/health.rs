//! How lines and nodes are.

use std::time::Duration;

use super::backend;

/// One node of an upstream, by one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The upstream's id.
    pub upstream: String,
    /// The line's name.
    pub line: String,
    /// Host and port.
    pub address: String,
    /// Whether it takes traffic.
    pub healthy: bool,
    /// Smoothed round-trip time, in whole microseconds; none before the first
    /// measure.
    pub rtt: Option<Duration>,
}

/// The nodes of an upstream, by its id; empty when there is none.
#[must_use]
pub fn nodes(upstream: &str) -> Vec<Node> {
    backend::health_nodes(upstream)
}
