//! Limits the system sets to this process, and what follows from them.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors kept for all that is no client's: the store, logs, listening
/// sockets, probes, status. A process with few keeps a quarter of them.
const RESERVED_MAX: u64 = 512;

/// Raises the number of open descriptors to the most this process may have: a
/// gateway needs two a connection.
pub(super) fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the number of open descriptors");
    }
}

/// Client connections this process can serve at once, over all listeners: each
/// may need a second descriptor towards its upstream.
pub(super) fn connections_max() -> u64 {
    getrlimit(Resource::Nofile).current.map_or(u64::MAX, connections_with)
}

fn connections_with(descriptors: u64) -> u64 {
    (descriptors - RESERVED_MAX.min(descriptors / 4)) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_descriptors_a_connection_and_some_for_the_rest() {
        for (descriptors, connections) in [(256, 96), (1024, 384), (20_000, 9_744), (1 << 20, 524_032)] {
            assert_eq!(connections_with(descriptors), connections);
        }
    }
}
