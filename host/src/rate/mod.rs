//! Limits on rates and numbers, each over a table of keys.
//!
//! Pure: instants come in, decisions go out. A table is sharded, its locks are
//! held for a look-up only, and the number of its keys is bounded: the key not
//! seen for the longest time gives way. Start at [`LeakyBucket`],
//! [`WindowCount`] and [`Concurrency`].

mod concurrency;
mod leaky;
mod table;
mod window;

pub use concurrency::{Concurrency, ConcurrencyRule, ConcurrencySlot};
pub use leaky::{LeakyBucket, LeakyRule, Overflow};
pub use table::KEYS_MAX_DEFAULT;
pub use window::{Quota, WindowCount, WindowRule};

/// A request is over its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejected {
    /// Time until one more would pass.
    pub retry_after: std::time::Duration,
}
