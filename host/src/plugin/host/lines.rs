//! Lines of guests in the node's log, not too many and not too long.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

pub(in crate::plugin) use tracing::Level;

/// Lines of one module in a second; more are counted and left out.
pub(super) const LINES_A_SECOND: u64 = 100;
/// Bytes of a line; the rest is cut.
pub(super) const LINE_BYTES_MAX: usize = 4096;

/// How many lines a module has written in the second that runs.
pub(in crate::plugin) struct Lines {
    started: Instant,
    /// The second in the upper half, the lines in it in the lower.
    window: AtomicU64,
    left_out: AtomicU64,
}

impl Lines {
    pub(in crate::plugin) fn new() -> Self {
        Self { started: Instant::now(), window: AtomicU64::new(0), left_out: AtomicU64::new(0) }
    }

    /// Writes a line, unless there were too many.
    pub(in crate::plugin) fn write(&self, module: &str, level: Level, message: &str) {
        if !is_enabled(level) {
            return;
        }
        if !self.admit(self.started.elapsed().as_secs()) {
            self.left_out.fetch_add(1, Relaxed);
            return;
        }
        let left_out = self.left_out.swap(0, Relaxed);
        if left_out > 0 {
            tracing::warn!(target: "sluice::module", module, left_out, "lines of a module were left out");
        }
        let message = tidy(message);
        // The level of an event is part of its call site.
        match level {
            Level::ERROR => tracing::error!(target: "sluice::module", module, "{message}"),
            Level::WARN => tracing::warn!(target: "sluice::module", module, "{message}"),
            Level::INFO => tracing::info!(target: "sluice::module", module, "{message}"),
            Level::DEBUG => tracing::debug!(target: "sluice::module", module, "{message}"),
            Level::TRACE => tracing::trace!(target: "sluice::module", module, "{message}"),
        }
    }

    fn admit(&self, second: u64) -> bool {
        let updated = self.window.fetch_update(Relaxed, Relaxed, |window| {
            let (of, count) = (window >> 32, window & u64::from(u32::MAX));
            match of == (second & u64::from(u32::MAX)) {
                true if count >= LINES_A_SECOND => None,
                true => Some(window + 1),
                false => Some(second << 32 | 1),
            }
        });
        updated.is_ok()
    }
}

/// Whether lines of this level are written.
pub(in crate::plugin) fn is_enabled(level: Level) -> bool {
    match level {
        Level::ERROR => tracing::enabled!(target: "sluice::module", Level::ERROR),
        Level::WARN => tracing::enabled!(target: "sluice::module", Level::WARN),
        Level::INFO => tracing::enabled!(target: "sluice::module", Level::INFO),
        Level::DEBUG => tracing::enabled!(target: "sluice::module", Level::DEBUG),
        Level::TRACE => tracing::enabled!(target: "sluice::module", Level::TRACE),
    }
}

/// One line: cut, and without characters that would make it two or colour it.
fn tidy(message: &str) -> String {
    let mut end = message.len().min(LINE_BYTES_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_in_each_second() {
        let lines = Lines::new();
        let admitted = |second| (0..10 * LINES_A_SECOND).filter(|_| lines.admit(second)).count() as u64;
        assert_eq!([admitted(0), admitted(1), admitted(1)], [LINES_A_SECOND, LINES_A_SECOND, 0]);
    }

    #[test]
    fn a_line_stays_one_line() {
        assert_eq!(tidy("a\r\nb\u{1b}[31m"), "a  b [31m");
        assert_eq!(tidy(&"ä".repeat(LINE_BYTES_MAX)).len(), LINE_BYTES_MAX);
    }
}
