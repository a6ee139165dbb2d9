//! One immutable generation of the whole configuration.
//!
//! Everything a request needs is resolved here once, so that live code looks
//! nothing up by name. A new snapshot shares what did not change with the one
//! before it: the router is a persistent tree, routes and upstreams are `Arc`s.
//! `control` is the only writer; flows load it ([`Shared::snapshot`] in
//! `proxy`), an HTTP request once, a long session for each frame.

mod stream;

use std::sync::Arc;
use std::time::Duration;

use crate::config::objects::OnChange;
use crate::observe::RouteMetrics;
use crate::route::Router;
use crate::upstream::{Timeouts, Upstream};

pub use stream::{CommandSet, StreamFlow, StreamRoute, TlvSettings, stream_identity};

/// One generation of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Rises by one with every change that went live.
    pub revision: u64,
    /// The HTTP routes.
    pub router: Router<Arc<Route>>,
}

/// An HTTP route with everything it refers to.
#[derive(Debug)]
pub struct Route {
    /// Its id.
    pub id: Arc<str>,
    /// Its name, for people.
    pub name: Option<Arc<str>>,
    /// The id of its service.
    pub service_id: Option<Arc<str>>,
    /// Where requests go, unless a plugin answers or says otherwise.
    pub upstream: Option<Arc<Upstream>>,
    /// Time limits towards the upstream: the route's, else the upstream's.
    pub timeouts: Timeouts,
    /// The longest a whole request may take; `None`: no limit of its own.
    pub request_timeout: Option<Duration>,
    /// Whether WebSocket upgrades pass.
    pub enable_websocket: bool,
    /// What a change of this route does to its long sessions.
    pub on_change: OnChange,
    /// Its counters.
    pub metrics: Arc<RouteMetrics>,
}
