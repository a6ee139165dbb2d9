//! Reaching a node for a stream: TCP and TLV alike.
//!
//! Nothing of the client's bytes has left when a connect fails, so the next
//! node is tried, within the upstream's number of attempts. The signed path of
//! Sluice hops goes along in the PROXY header.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::worker::Worker;
use crate::message::path_signature::{Hop, Path};
use crate::message::{Client, Subject};
use crate::net::Stream;
use crate::observe::{ReasonFamily, UpstreamRecord};
use crate::upstream::{Alpn, ConnectRequest, Failure, Outcome, Target, Tried, Upstream, connect};

/// A connection to a node.
#[derive(Debug)]
pub struct Link {
    /// Its bytes; a PROXY header has gone out already.
    pub stream: Stream,
    /// Name of the line.
    pub line: Arc<str>,
    /// The node's address.
    pub address: Option<SocketAddr>,
    /// How long connecting took.
    pub connect_time: Duration,
    /// The node, in use as long as this lives. None only in tests.
    pub target: Option<Box<Target>>,
}

impl Link {
    /// Whether its line is known to be down, so that bytes sent there would be
    /// lost although the connection still stands.
    #[inline]
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.target.as_ref().is_some_and(|target| target.is_lost())
    }

    /// Tells the node's state that the connection broke.
    pub fn report_lost(&self) {
        if let Some(target) = &self.target {
            target.report(Outcome::Failed(Failure::Broken), Duration::ZERO);
        }
    }

    /// What the access log says of it.
    pub(super) fn record(&self) -> UpstreamRecord<'_> {
        UpstreamRecord { line: &self.line, node: self.address, ..UpstreamRecord::default() }
    }
}

/// Connects to a node of `upstream`, for a client that `subject` describes.
/// `None` when none of those not yet `tried` could be reached. `limit` is for
/// one connect; the upstream's own when there is none.
pub(super) async fn dial(
    worker: &Worker,
    upstream: &Upstream,
    subject: &Subject<'_>,
    tried: &mut Tried,
    limit: Option<Duration>,
) -> Option<Link> {
    let client = subject.client;
    let hash = upstream.hash_key(subject);
    let began = Instant::now();
    for _ in 0..=upstream.retries {
        if !tried.is_empty() && upstream.retry_timeout.is_some_and(|limit| began.elapsed() >= limit) {
            return None;
        }
        let target = upstream.select(hash, tried).ok()?;
        let path = hop_path(worker, client, &target.line.name);
        let request = ConnectRequest {
            tls_name: target.tls_name(subject.sni),
            client: Some(client),
            path: path.as_deref(),
            alpn: Alpn::None,
            timeout: limit,
        };
        let dialled = Instant::now();
        match connect(&target, &request).await {
            Ok(stream) => {
                return Some(Link {
                    line: Arc::clone(&target.line.name),
                    address: stream.peer_address().ok(),
                    stream,
                    connect_time: dialled.elapsed(),
                    target: Some(Box::new(target)),
                });
            }
            Err(error) => worker.metrics.reason(ReasonFamily::Upstream, error.failure.code()),
        }
    }
    None
}

/// The path of Sluice hops with this one added, where the fleet has a key. A
/// path that does not bear the fleet's signature is counted and left behind.
fn hop_path(worker: &Worker, client: &Client, line: &str) -> Option<String> {
    let node = &worker.shared.node;
    let key = node.fleet_key.as_ref()?;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let at_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let before: Option<Path> = client.path.as_deref().and_then(|path| {
        let checked = key.verify(path.as_bytes(), at_ms);
        checked.map_err(|error| worker.metrics.reason(ReasonFamily::Identity, error.as_str())).ok()
    });
    let hop = Hop { node: &node.id, region: &node.region, line, at_ms };
    let mut out = Vec::new();
    key.extend(before.as_ref(), client.ip(), hop, &mut out).ok()?;
    String::from_utf8(out).ok()
}
