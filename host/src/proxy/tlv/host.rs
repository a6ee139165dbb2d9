//! What a session asks of the process around it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::{CloseReason, Link};
use crate::message::Client;
use crate::net::BufferPool;
use crate::observe::{BlockedRecord, ConnectionRecord, WorkerMetrics};
use crate::snapshot::StreamRoute;
use crate::upstream::Tried;

/// The worker a session runs on. The tests put scripted nodes behind it; the
/// real one is [`Worker`](crate::proxy::Worker).
pub trait Host: 'static {
    /// Buffers to be lent.
    fn buffers(&self) -> &BufferPool;

    /// The worker's shard of the series.
    fn metrics(&self) -> &WorkerMetrics;

    /// Writes a session's line.
    fn log_connection(&self, record: &ConnectionRecord<'_>);

    /// Writes a blocked frame's line.
    fn log_blocked(&self, record: &BlockedRecord<'_>);

    /// Revision of the live snapshot; asked every time a session's task runs.
    fn revision(&self) -> u64;

    /// What has become of a route in the live snapshot; asked when the revision
    /// has changed.
    fn stream_route(&self, route: &StreamRoute) -> Option<Arc<StreamRoute>>;

    /// Connects to a node of the route's upstream, several of them one after
    /// the other if need be, within the upstream's own limits.
    fn dial<'a>(
        &'a self,
        order: DialOrder<'a>,
    ) -> Pin<Box<dyn Future<Output = Result<Link, CloseReason>> + 'a>>;
}

/// What a connection to the upstream is wanted for.
pub struct DialOrder<'a> {
    /// The route; its upstream is the one to reach.
    pub route: &'a StreamRoute,
    /// The client, named in the PROXY header.
    pub client: &'a Client,
    /// The user of the client's first frame, for upstreams that hash.
    pub user: Option<u64>,
    /// Nodes not to try again.
    pub tried: &'a mut Tried,
}
