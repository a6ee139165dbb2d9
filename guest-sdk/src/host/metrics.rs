//! Counters and histograms, exported with the module's name as a label.
//!
//! Names are `[a-z_][a-z0-9_]*`. A name that is new past the host's limit of
//! names is left out, and counted.

use super::backend;

/// Adds to a counter.
pub fn add(name: &str, by: u64) {
    backend::metric_add(name, by);
}

/// Adds a value to a histogram.
pub fn observe(name: &str, value: f64) {
    backend::metric_observe(name, value);
}
