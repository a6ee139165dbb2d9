//! Lines in the node's log. Long messages are cut, floods are counted and left
//! out, by the host.
//!
//! The macros [`error!`](crate::error), [`warn!`](crate::warn),
//! [`info!`](crate::info), [`debug!`](crate::debug) and [`trace!`](crate::trace)
//! format nothing that would not be written.

use super::backend;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warn,
    /// What an operator wants to know of.
    Info,
    /// What helps to find a fault.
    Debug,
    /// Every step.
    Trace,
}

/// Whether a line of this level would be written.
#[must_use]
pub fn enabled(level: Level) -> bool {
    backend::log_enabled(level)
}

/// Writes a line.
pub fn write(level: Level, message: &str) {
    backend::log_write(level, message);
}
