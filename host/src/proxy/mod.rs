//! The flows: one file for each way traffic passes through.
//!
//! `relay` moves bytes both ways between two streams; every flow that ends in
//! two joined sockets uses it.

pub mod relay;
mod worker;

pub use worker::{NodeIdentity, Shared, SharedWorker, Worker};
