//! The flows: one file for each way traffic passes through.
//!
//! `http` is one HTTP exchange and the connection it comes by; `forward`
//! reaches the upstream for it, `transfer` moves its bodies, `upgrade` takes over
//! once it is HTTP no longer. `relay` moves bytes both ways between two streams;
//! every flow that ends in two joined sockets uses it.

pub mod error;
mod forward;
mod hops;
pub mod http;
pub mod http2;
mod journey;
mod outgoing;
pub mod relay;
pub mod tlv;
mod transfer;
mod upgrade;
mod worker;

pub use worker::{NodeIdentity, Shared, SharedWorker, Worker};

#[cfg(test)]
mod tests;
