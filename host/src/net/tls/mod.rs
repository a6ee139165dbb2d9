//! TLS towards clients: certificates by server name, swapped live.
//!
//! [`Certificates`] is built from `ssls` objects and swapped whole; changing
//! one object costs the shards it touches. A handshake ([`accept`]) reads the
//! hello first, then looks the name up, so a swap holds from the next hello on
//! and touches no connection that is there. [`TlsProfile`] is what the
//! listener adds: versions, ALPN, the rule for names without a certificate.
//! [`hello`] reads a server name without ending TLS.
//!
//! Client certificates: which authority vouches is decided by the server
//! name. Sessions are resumed only under the same name and the same rule for
//! client certificates ([`Sessions`]); a request for another name on the same
//! connection is the flow's to check, with [`check_client`].

mod certificates;
mod client_auth;
mod handshake;
pub mod hello;
mod keys;
mod profile;
mod roots;
mod sessions;

#[cfg(test)]
mod tests;

pub use certificates::{Certificates, Entry};
pub use client_auth::{ClientAuth, ClientRefusal, check_client};
pub use handshake::{HELLO_BYTES_MAX, HandshakeError, Secured, accept};
pub use profile::TlsProfile;
pub use roots::public_roots;
pub use sessions::Sessions;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// What tells two rules apart: a digest of all that decides them.
pub(super) type Fingerprint = [u8; 32];

/// The digest of `parts`, each with its length, so that no two lists agree by chance.
fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Fingerprint {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// The one provider of cryptography.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
