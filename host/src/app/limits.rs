//! Limits the system sets to this process.

use rustix::process::{Resource, getrlimit, setrlimit};

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
