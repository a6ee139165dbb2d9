//! What a plugin decided.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::exposition::{Exposition, Kind};

/// What a filter decided, other than to let pass (which is not counted: it is
/// what is left of the requests).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
#[repr(usize)]
pub enum PluginVerdict {
    Deny,
    Respond,
    Delay,
    Rewrite,
    Drop,
    Reply,
    Close,
    Error,
}

impl PluginVerdict {
    const ALL: [Self; 8] = [
        Self::Deny,
        Self::Respond,
        Self::Delay,
        Self::Rewrite,
        Self::Drop,
        Self::Reply,
        Self::Close,
        Self::Error,
    ];

    /// The verdict of that name; an error if there is none.
    pub(super) fn of(name: &str) -> Self {
        Self::ALL.into_iter().find(|verdict| verdict.as_str() == name).unwrap_or(Self::Error)
    }

    /// As logs and labels write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Respond => "respond",
            Self::Delay => "delay",
            Self::Rewrite => "rewrite",
            Self::Drop => "drop",
            Self::Reply => "reply",
            Self::Close => "close",
            Self::Error => "error",
        }
    }
}

/// Verdicts of one plugin, whichever routes it stands in.
#[derive(Debug)]
pub struct PluginMetrics {
    name: Box<str>,
    counts: [AtomicU64; PluginVerdict::ALL.len()],
}

impl PluginMetrics {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), counts: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Counts a verdict. Any thread may.
    pub fn count(&self, verdict: PluginVerdict) {
        self.counts[verdict as usize].fetch_add(1, Relaxed);
    }
}

/// Writes the family of all plugins.
pub(super) fn collect(out: &mut Exposition, plugins: &[Arc<PluginMetrics>]) {
    let mut plugins: Vec<_> = plugins.iter().collect();
    plugins.sort_by_key(|plugin| &plugin.name);
    let help = "What plugins decided, other than to let pass.";
    out.family("sluice_filter_verdicts_total", help, Kind::Counter);
    for plugin in plugins {
        for verdict in PluginVerdict::ALL {
            let count = plugin.counts[verdict as usize].load(Relaxed);
            if count > 0 {
                out.sample(&[("plugin", &plugin.name), ("verdict", verdict.as_str())], count);
            }
        }
    }
}
