//! The flows: one file for each way traffic passes through.

mod worker;

pub use worker::{NodeIdentity, Shared, SharedWorker, Worker};
