//! What runs, by what was signed of it: when the trust keys change, it is judged
//! again.

use std::sync::{Arc, Weak};

use super::module::Plugin;
use super::trust::{Trust, TrustFault};
use crate::config::objects::{Module, ModuleVersion};

/// A version of a module as its object was when it was brought in.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) object: Module,
    pub(super) version: ModuleVersion,
}

impl Origin {
    /// What the trust keys say against it.
    fn fault(&self, trust: &Trust) -> Option<TrustFault> {
        trust.judge(&self.object, &self.version).err().filter(TrustFault::is_of_keys)
    }
}

/// All that was brought in and is still held by somebody.
#[derive(Debug, Default)]
pub(super) struct Ledger(Vec<(Weak<Plugin>, Arc<Origin>)>);

impl Ledger {
    /// Notes what was brought in; it may have lost its key on the way.
    pub(super) fn note(&mut self, plugin: &Arc<Plugin>, origin: Arc<Origin>, trust: &Trust) {
        plugin.set_withdrawn(origin.fault(trust).is_some());
        self.0.push((Arc::downgrade(plugin), origin));
    }

    /// Withdraws what the trust keys do not let run any more, and takes back into
    /// service what they let run again; gives what was withdrawn now, with why.
    pub(super) fn judge(&mut self, trust: &Trust) -> Vec<(Arc<Plugin>, TrustFault)> {
        self.0.retain(|(plugin, _)| plugin.strong_count() > 0);
        let mut withdrawn = Vec::new();
        for (plugin, origin) in &self.0 {
            let Some(plugin) = plugin.upgrade() else { continue };
            let fault = origin.fault(trust);
            let was_withdrawn = plugin.is_withdrawn();
            plugin.set_withdrawn(fault.is_some());
            withdrawn.extend(fault.filter(|_| !was_withdrawn).map(|fault| (plugin, fault)));
        }
        withdrawn
    }
}
