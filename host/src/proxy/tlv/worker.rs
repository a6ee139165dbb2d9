//! A session's host in the running program: its worker.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::{CloseReason, DialOrder, Host, Link, serve};
use crate::message::{FrameFields, FrameRole, Subject};
use crate::net::{Accepted, BufferPool};
use crate::observe::{BlockedRecord, ConnectionRecord, WorkerMetrics};
use crate::proxy::dial::dial;
use crate::proxy::{SharedWorker, Worker, stream_route, tcp};
use crate::snapshot::{StreamFlow, StreamRoute};

/// Serves a connection of a listener for frames: by its stream route, which may
/// also say that it carries plain bytes.
pub async fn serve_connection(worker: SharedWorker, accepted: Accepted) {
    match stream_route(&worker, &accepted) {
        Some(route) if matches!(route.flow, StreamFlow::Tlv(_)) => serve(worker, route, accepted).await,
        _ => Box::pin(tcp::serve(worker, accepted)).await,
    }
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

    fn stream_route(&self, id: &str) -> Option<Arc<StreamRoute>> {
        self.snapshot().stream_routes.get(id).cloned()
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
            dial(self, upstream, &subject, order.tried).await.ok_or(CloseReason::NoUpstream)
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
