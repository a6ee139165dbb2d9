//! Counters and histograms of guests, by module and name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::observe::{Collect, Exposition, Kind};

/// Names of one module, of counters, histograms and actions each; further ones
/// are counted as `sluice_module_metrics_dropped_total`.
pub(super) const NAMES_MAX: usize = 64;
/// Upper bounds of a histogram's buckets; guests say in what unit.
pub const HISTOGRAM_BOUNDS: [f64; 12] =
    [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 50.0, 100.0, 1000.0];
/// The same as labels show them.
const BOUND_NAMES: [&str; HISTOGRAM_BOUNDS.len()] =
    ["0.001", "0.005", "0.01", "0.05", "0.1", "0.5", "1", "5", "10", "50", "100", "1000"];

/// What the guests of a node count.
#[derive(Debug, Default, Clone)]
pub struct ModuleMetrics(Arc<Mutex<Tables>>);

#[derive(Debug, Default)]
struct Tables {
    modules: BTreeMap<Box<str>, Table>,
}

#[derive(Debug, Default)]
struct Table {
    counters: BTreeMap<Box<str>, u64>,
    histograms: BTreeMap<Box<str>, Histogram>,
    events: BTreeMap<Box<str>, u64>,
    dropped: AtomicU64,
}

#[derive(Debug, Default, Clone)]
struct Histogram {
    /// One for each bound, one for what is above.
    buckets: [u64; HISTOGRAM_BOUNDS.len() + 1],
    sum: f64,
}

impl ModuleMetrics {
    /// Adds to a counter.
    pub fn add(&self, module: &str, name: &str, by: u64) {
        self.with(module, name, |table| &mut table.counters, |count| *count = count.saturating_add(by));
    }

    /// Adds a value to a histogram; what is no number is left out.
    pub fn observe(&self, module: &str, name: &str, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.with(
            module,
            name,
            |table| &mut table.histograms,
            |histogram| {
                histogram.sum += value;
                histogram.buckets[HISTOGRAM_BOUNDS.partition_point(|bound| *bound < value)] += 1;
            },
        );
    }

    /// Counts what a guest noted.
    pub(super) fn event(&self, module: &str, action: &str) {
        self.with(module, action, |table| &mut table.events, |count| *count += 1);
    }

    /// Forgets what a module counted.
    pub fn forget(&self, module: &str) {
        self.0.lock().modules.remove(module);
    }

    fn with<T: Default>(
        &self,
        module: &str,
        name: &str,
        of: impl Fn(&mut Table) -> &mut BTreeMap<Box<str>, T>,
        change: impl FnOnce(&mut T),
    ) {
        let mut tables = self.0.lock();
        if !tables.modules.contains_key(module) {
            tables.modules.insert(module.into(), Table::default());
        }
        let Some(table) = tables.modules.get_mut(module) else { return };
        let list = of(table);
        if let Some(value) = list.get_mut(name) {
            return change(value);
        }
        if list.len() >= NAMES_MAX || !is_name(name) {
            table.dropped.fetch_add(1, Relaxed);
            return;
        }
        change(list.entry(name.into()).or_default());
    }
}

/// `[a-z_][a-z0-9_]*`, and `-` for actions, at most 64 characters.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}

impl Collect for ModuleMetrics {
    fn collect(&self, out: &mut Exposition) {
        let tables = self.0.lock();
        let each = || tables.modules.iter();
        out.family("sluice_module_counter_total", "What modules count, by their own names.", Kind::Counter);
        for (module, table) in each() {
            for (name, count) in &table.counters {
                out.sample(&[("module", module), ("name", name)], *count);
            }
        }
        out.family("sluice_module_events_total", "What modules noted about exchanges.", Kind::Counter);
        for (module, table) in each() {
            for (action, count) in &table.events {
                out.sample(&[("module", module), ("action", action)], *count);
            }
        }
        let help = "Counts of modules past their limit of names, or under a name that is none.";
        out.family("sluice_module_metrics_dropped_total", help, Kind::Counter);
        for (module, table) in each() {
            out.sample(&[("module", module)], table.dropped.load(Relaxed));
        }
        out.family("sluice_module_histogram", "What modules measure, by their own names.", Kind::Histogram);
        for (module, table) in each() {
            for (name, histogram) in &table.histograms {
                let labels = [("module", &**module), ("name", &**name)];
                out.histogram(&labels, &BOUND_NAMES, &histogram.buckets, histogram.sum);
            }
        }
    }
}
