//! The flows: one file for each way traffic passes through.
//!
//! `http` is one HTTP exchange and the connection it comes by; `forward`
//! reaches the upstream for it, `transfer` moves its bodies, `upgrade` takes over
//! once it is HTTP no longer. `relay` moves bytes both ways between two streams;
//! every flow that ends in two joined sockets uses it.

mod dial;
pub mod error;
mod forward;
mod hops;
pub mod http;
pub mod http2;
pub mod im;
mod journey;
mod outgoing;
pub mod relay;
pub mod tcp;
#[cfg(test)]
mod tests;
pub mod tlv;
mod transfer;
mod upgrade;
mod worker;

use std::sync::Arc;

pub use worker::{NodeIdentity, Shared, SharedWorker, Worker};

use crate::net::Accepted;
use crate::route::StreamQuery;
use crate::snapshot::StreamRoute;

/// The stream route of a connection, in the configuration of this moment.
fn stream_route(worker: &Worker, accepted: &Accepted) -> Option<Arc<StreamRoute>> {
    let query = StreamQuery {
        listener: accepted.listener.id.as_str(),
        client: accepted.client.ip(),
        server: accepted.client.local,
        sni: accepted.sni.as_deref(),
    };
    worker.snapshot().stream_routes.find(&query).cloned()
}
