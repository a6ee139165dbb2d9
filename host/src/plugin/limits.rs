//! What a module may use.

use std::time::Duration;

/// The longest deadline of a call, however much it is given.
const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// Limits of one module; defaults are those of `docs/modules.md`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of linear memory of one instance. Default 16 MiB.
    pub memory_max: usize,
    /// Time of the processor one call may take. Default 5 ms.
    pub deadline: Duration,
    /// What is added to it for each KiB that a filter is given in the call.
    /// Default 0.5 ms.
    pub deadline_per_kib: Duration,
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
            deadline_per_kib: Duration::from_micros(500),
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

    /// Time of the processor that a call may take which is given these bytes. Who
    /// may send much must not be refused for it, and who sends little has no use
    /// for the time of much.
    pub(super) fn deadline_for(&self, bytes: usize) -> Duration {
        let more = self.deadline_per_kib.saturating_mul((bytes >> 10) as u32);
        self.deadline.saturating_add(more).min(DEADLINE_MAX.max(self.deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_grows_with_what_a_call_is_given() {
        let limits = Limits::default();
        let ms = Duration::from_millis;
        assert_eq!(limits.deadline_for(1000), ms(5));
        assert_eq!(limits.deadline_for(16 << 10), ms(13));
        assert_eq!(
            Limits { deadline_per_kib: Duration::ZERO, ..limits.clone() }.deadline_for(1 << 20),
            ms(5)
        );
        assert_eq!(Limits { deadline_per_kib: ms(100), ..limits }.deadline_for(16 << 20), DEADLINE_MAX);
    }
}
