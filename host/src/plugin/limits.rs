//! What a module may use.

use std::time::Duration;

/// Limits of one module; defaults are those of `docs/modules.md`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of linear memory of one instance. Default 16 MiB.
    pub memory_max: usize,
    /// Time of the processor one call may take. Default 5 ms.
    pub deadline: Duration,
    /// Time `configure` and the instance's start may take. Default 10 s.
    pub configure_deadline: Duration,
    /// Instances at one time. Default 64.
    pub concurrency: usize,
    /// Time one fetch may take. Default 5 s.
    pub fetch_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_max: 16 << 20,
            deadline: Duration::from_millis(5),
            configure_deadline: Duration::from_secs(10),
            concurrency: 64,
            fetch_timeout: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// The defaults of edge functions: 64 MiB, and 100 ms of the processor.
    #[must_use]
    pub fn of_functions() -> Self {
        Self { memory_max: 64 << 20, deadline: Duration::from_millis(100), ..Self::default() }
    }
}
