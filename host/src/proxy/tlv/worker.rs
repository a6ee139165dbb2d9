//! A session's host in the running program: its worker.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::{CloseReason, DialOrder, Host, Link};
use crate::message::{FrameFields, FrameRole, Subject};
use crate::net::BufferPool;
use crate::observe::{BlockedRecord, ConnectionRecord, WorkerMetrics};
use crate::proxy::dial::dial;
use crate::proxy::tcp::connect_limit;
use crate::proxy::{SharedWorker, Worker};
use crate::route::StreamRouter;
use crate::snapshot::{BridgedRoutes, StreamRoute};

/// How soon sessions at rest learn of a line that went down or a changed route.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// Wakes the sessions of a worker when their orders may have changed: a stream
/// route did, or a line went down. Sessions that move look by themselves. One
/// such task a worker costs less than a timer or a waiting list in every
/// session; it ends with its worker.
pub async fn watch(worker: SharedWorker) {
    let seen = || {
        let snapshot = worker.snapshot();
        (snapshot.stream_routes.clone(), Arc::clone(&snapshot.bridged))
    };
    let mut known = seen();
    let mut losses = losses_of(&known.0, &known.1);
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        let routes = seen();
        let now = losses_of(&routes.0, &routes.1);
        let is_same = routes.0.is_same(&known.0) && Arc::ptr_eq(&routes.1, &known.1);
        if now != losses || !is_same {
            (known, losses) = (routes, now);
            worker.tasks.wake_all();
        }
    }
}

/// A number that changes when a line of any route goes down.
fn losses_of(routes: &StreamRouter<Arc<StreamRoute>>, bridged: &BridgedRoutes) -> u32 {
    let upstreams = routes.iter().chain(bridged.values()).filter_map(|route| route.upstream.as_ref());
    let lines = upstreams.flat_map(|upstream| upstream.lines.iter());
    lines.fold(0, |sum: u32, line| sum.wrapping_add(line.losses()))
}

impl Host for Worker {
    fn buffers(&self) -> &BufferPool {
        &self.buffers
    }

    fn metrics(&self) -> &WorkerMetrics {
        &self.metrics
    }

    fn log_connection(&self, record: &ConnectionRecord<'_>) {
        self.log.connection(record);
    }

    fn log_blocked(&self, record: &BlockedRecord<'_>) {
        self.log.blocked(record);
    }

    fn revision(&self) -> u64 {
        self.snapshot().revision
    }

    fn stream_route(&self, route: &StreamRoute) -> Option<Arc<StreamRoute>> {
        let snapshot = self.snapshot();
        match route.is_bridged {
            true => snapshot.bridged.get(&route.id).cloned(),
            false => snapshot.stream_routes.get(&route.id).cloned(),
        }
    }

    fn dial<'a>(
        &'a self,
        order: DialOrder<'a>,
    ) -> Pin<Box<dyn Future<Output = Result<Link, CloseReason>> + 'a>> {
        Box::pin(async move {
            let upstream = order.route.upstream.as_deref().ok_or(CloseReason::NoUpstream)?;
            let user = UserOnly(order.user);
            let labels = order.route.labels.as_deref();
            let sni = order.client.tls.as_ref().and_then(|tls| tls.sni.as_deref());
            let subject = Subject { sni, ..Subject::of_frame(order.client, labels, &user) };
            let limit = connect_limit(order.route);
            dial(self, upstream, &subject, order.tried, limit).await.ok_or(CloseReason::NoUpstream)
        })
    }
}

/// What is left of a session's first frame when a node is chosen.
struct UserOnly(Option<u64>);

impl FrameFields for UserOnly {
    fn role(&self, role: FrameRole) -> Option<u64> {
        self.0.filter(|_| role == FrameRole::User)
    }

    fn field(&self, _: &str) -> Option<u64> {
        None
    }
}
