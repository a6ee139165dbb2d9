//! The authorities that certificates of servers are checked against.

use rustls::RootCertStore;

/// The public authorities: the system's, or those of Mozilla where it has none.
/// Reads files, so what it gives is kept.
#[must_use]
pub fn public_roots() -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() {
        store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    store
}
