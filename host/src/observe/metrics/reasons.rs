//! Counters by reason code.
//!
//! Reason codes are fixed texts in the code; they are counted where a fault is
//! handled, which is rare enough for a lock nobody else contends for.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::exposition::{Exposition, Kind};

/// Codes a worker counts apart in one family; more are counted as `other`.
const REASONS: usize = 128;

/// A family of reason codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReasonFamily {
    /// `sluice_http_errors_total{reason}`: requests that failed or were refused.
    Http,
    /// `sluice_session_closes_total{reason}`: why TCP and TLV sessions and upgraded connections ended.
    Close,
    /// `sluice_upstream_errors_total{reason}`: attempts at a node that failed.
    Upstream,
    /// `sluice_client_address_ignored_total{reason}`: address or path headers not believed.
    Identity,
}

impl ReasonFamily {
    const ALL: [Self; 4] = [Self::Http, Self::Close, Self::Upstream, Self::Identity];

    fn describe(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Http => ("sluice_http_errors_total", "reason", "Requests that failed or were refused."),
            Self::Close => {
                ("sluice_session_closes_total", "reason", "Why TCP, TLV and upgraded sessions ended.")
            }
            Self::Upstream => ("sluice_upstream_errors_total", "reason", "Attempts at a node that failed."),
            Self::Identity => {
                ("sluice_client_address_ignored_total", "reason", "Address or path headers not believed.")
            }
        }
    }
}

/// One worker's counts.
#[derive(Debug, Default)]
pub(super) struct Reasons {
    counts: Mutex<Vec<(ReasonFamily, &'static str, u64)>>,
}

impl Reasons {
    pub(super) fn count(&self, family: ReasonFamily, reason: &'static str) {
        let mut counts = self.counts.lock();
        if let Some(entry) = counts.iter_mut().find(|entry| entry.0 == family && entry.1 == reason) {
            entry.2 += 1;
            return;
        }
        if counts.iter().filter(|entry| entry.0 == family).count() < REASONS {
            counts.push((family, reason, 1));
        } else {
            match counts.iter_mut().find(|entry| entry.0 == family && entry.1 == "other") {
                Some(entry) => entry.2 += 1,
                None => counts.push((family, "other", 1)),
            }
        }
    }
}

/// Writes the families, summed over the workers.
pub(super) fn collect<'a>(out: &mut Exposition, workers: impl Iterator<Item = &'a Reasons>) {
    let mut sums: BTreeMap<(ReasonFamily, &'static str), u64> = BTreeMap::new();
    for worker in workers {
        for (family, reason, count) in worker.counts.lock().iter() {
            *sums.entry((*family, *reason)).or_default() += count;
        }
    }
    for family in ReasonFamily::ALL {
        let (name, label, help) = family.describe();
        out.family(name, help, Kind::Counter);
        for ((_, reason), count) in sums.iter().filter(|((of, _), _)| *of == family) {
            out.sample(&[(label, reason)], *count);
        }
    }
}
