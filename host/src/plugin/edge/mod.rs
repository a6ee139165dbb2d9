//! Edge functions: components that answer HTTP requests themselves.
//!
//! A function exports `wasi:http` as published, `incoming-handler` of 0.2 or
//! `handler` of 0.3, so components nobody here wrote run unchanged. It stands
//! where an upstream would: [`EdgeCall`] is the upstream's side of an exchange,
//! and the flow does not know the difference. What it computes is bounded by a
//! deadline, what it holds by its module's limits; when its client leaves, its
//! instance is given up. Start at [`Function::call`].

mod call;
mod engine;
mod function;
mod outgoing;
mod state;

pub use call::EdgeCall;
pub use engine::{EdgeEngine, INSTANCES_MAX, MEMORY_BYTES_MAX};
pub use function::{Function, REUSES_MAX};
pub(super) use function::{Prepared, Spec};
pub(super) use outgoing::send;
