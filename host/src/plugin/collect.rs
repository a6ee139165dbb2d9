//! What modules do, as metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::module::Plugin;
use super::registry::Running;
use super::stats::FAILURES;
use crate::observe::{Collect, Exposition, Kind};

/// Writes the families of modules.
#[derive(Debug)]
pub struct ModuleCollector {
    running: Arc<Running>,
}

#[derive(Default)]
struct Sum {
    calls: u64,
    failures: [u64; FAILURES.len()],
    instances: u64,
    open: u64,
}

impl ModuleCollector {
    /// Of these modules.
    #[must_use]
    pub fn new(running: Arc<Running>) -> Self {
        Self { running }
    }
}

impl Collect for ModuleCollector {
    fn collect(&self, out: &mut Exposition) {
        let mut sums: BTreeMap<(Arc<str>, Arc<str>), Sum> = BTreeMap::new();
        for plugin in self.running.all() {
            let plugin: &Plugin = &plugin;
            let key = (Arc::clone(plugin.name()), Arc::clone(plugin.version()));
            let sum = sums.entry(key).or_default();
            sum.calls += plugin.stats().calls();
            for (own, more) in sum.failures.iter_mut().zip(plugin.stats().failures()) {
                *own += more;
            }
            sum.instances += plugin.instances() as u64;
            sum.open += u64::from(plugin.is_broken());
        }
        let mut family = |name, help, kind, value: fn(&Sum) -> u64| {
            out.family(name, help, kind);
            for ((module, version), sum) in &sums {
                out.sample(&[("module", module), ("version", version)], value(sum));
            }
        };
        family("sluice_module_calls_total", "Calls of modules.", Kind::Counter, |sum| sum.calls);
        let help = "Instances of modules that are there.";
        family("sluice_module_instances", help, Kind::Gauge, |sum| sum.instances);
        let help = "Configurations of a module that are not called for a while.";
        family("sluice_module_breaker_open", help, Kind::Gauge, |sum| sum.open);
        let help = "Calls of modules that gave no verdict.";
        out.family("sluice_module_failures_total", help, Kind::Counter);
        for ((module, version), sum) in &sums {
            for (kind, count) in FAILURES.iter().zip(sum.failures) {
                out.sample(&[("module", module), ("version", version), ("kind", kind)], count);
            }
        }
        let help = "Modules whose version was stopped because no trust key vouches for it any more.";
        out.family("sluice_module_withdrawn", help, Kind::Gauge);
        for module in self.running.withdrawn() {
            out.sample(&[("module", &module)], 1);
        }
        let Some(engine) = self.running.engine() else { return };
        let (taken, size) = engine.instances();
        let help = "Places of the pool of instances that are taken.";
        out.family("sluice_module_pool_used", help, Kind::Gauge);
        out.sample(&[], taken as u64);
        out.family("sluice_module_pool_size", "Places of the pool of instances.", Kind::Gauge);
        out.sample(&[], size as u64);
    }
}
