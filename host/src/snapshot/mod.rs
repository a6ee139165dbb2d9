//! One immutable generation of the whole configuration.
//!
//! Everything a request needs is resolved here once, so that live code looks
//! nothing up by name. A new snapshot shares what did not change with the one
//! before it: the router is a persistent tree, routes and upstreams are `Arc`s.
//! `control` is the only writer; flows load it ([`Shared::snapshot`] in
//! `proxy`), an HTTP request once, a long session for each frame.

mod bridge;
mod build;
mod check;
mod mentions;
mod stream;
#[cfg(test)]
mod tests;
mod upstreams;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::objects::{self, OnChange};
use crate::config::{Id, Problem};
use crate::filter::Chain;
use crate::message::{RouteLabels, Transcode};
use crate::net::tls::Certificates;
use crate::observe::RouteMetrics;
use crate::route::{Router, StreamRouter};
use crate::upstream::{Timeouts, Upstream};

pub use bridge::{Bridge, BridgedRoutes, CallerRule, LoginText};
pub use build::{Builder, Built, Failure};
pub use check::Checker;
pub use stream::{CommandSet, StreamFlow, StreamRoute, TlvSettings, stream_identity};
pub use upstreams::UpstreamChanges;

/// One generation of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Rises by one with every change that went live.
    pub revision: u64,
    /// The HTTP routes.
    pub router: Router<Arc<Route>>,
    /// The stream routes.
    pub stream_routes: StreamRouter<Arc<StreamRoute>>,
    /// The frame side of HTTP routes whose upstream speaks frames.
    pub bridged: Arc<BridgedRoutes>,
    /// The chain of all global rules.
    pub global: Arc<Chain>,
    /// The listeners that are to be open.
    pub listeners: Arc<BTreeMap<Id, Arc<objects::Listener>>>,
    /// The certificates shown to clients.
    pub certificates: Arc<Certificates>,
}

/// An HTTP route with everything it refers to.
#[derive(Debug)]
pub struct Route {
    /// Its id.
    pub id: Arc<str>,
    /// The names rules and logs know it by.
    pub labels: Arc<RouteLabels>,
    /// Its filters.
    pub chain: Arc<Chain>,
    /// Where requests go, unless a plugin answers or says otherwise.
    pub upstream: Option<Arc<Upstream>>,
    /// Time limits towards the upstream: the route's, else the upstream's.
    pub timeouts: Timeouts,
    /// Whether WebSocket upgrades pass.
    pub enable_websocket: bool,
    /// What turns JSON into frames and back, where its `transcode` plugin names
    /// a module.
    pub transcoder: Option<Arc<dyn Transcode>>,
    /// How frames are made, where the upstream speaks them.
    pub bridge: Option<Arc<Bridge>>,
    /// What a change of this route does to its long sessions.
    pub on_change: OnChange,
    /// Its counters.
    pub metrics: Arc<RouteMetrics>,
}

/// Several problems as one sentence.
fn shown(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}
