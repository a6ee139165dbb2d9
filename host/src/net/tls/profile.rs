//! What a listener decides of its handshakes.

use std::sync::Arc;

use super::{ClientAuth, Fingerprint, fingerprint, provider};
use crate::config::objects::{Listener, Protocol, TlsSettings, TlsVersion};
use crate::config::{Kind, ObjectError};

/// A listener's TLS settings, ready for use.
#[derive(Debug)]
pub struct TlsProfile {
    pub(super) versions: Vec<TlsVersion>,
    pub(super) alpn: Vec<Vec<u8>>,
    pub(super) client: Option<Arc<ClientAuth>>,
    pub(super) fallback_name: Option<Box<str>>,
    pub(super) has_tickets: bool,
    /// Of all that goes into a server configuration, so that listeners with
    /// the same settings share them.
    pub(super) fingerprint: Fingerprint,
}

impl TlsProfile {
    /// The settings of a listener that ends TLS; none of one that does not.
    ///
    /// # Errors
    /// When the client authority is unusable.
    pub fn build(listener: &Listener) -> Result<Option<Self>, ObjectError> {
        let Some(settings) = listener.tls_settings() else { return Ok(None) };
        let client = match &settings.client {
            None => None,
            Some(client) => {
                let rule = ClientAuth::of_listener(client, &provider()).map_err(|(field, message)| {
                    ObjectError::new(Kind::Listeners, &listener.id, format!("tls.client.{field}"), message)
                })?;
                Some(Arc::new(rule))
            }
        };
        let alpn = alpn(settings, listener.protocol);
        let versions = settings.versions.clone();
        let has_tickets = settings.session_tickets;
        let fallback_name = settings.fallback_sni.as_deref().map(|name| name.to_ascii_lowercase().into());
        let has_13 = versions.contains(&TlsVersion::Tls13);
        let has_12 = versions.contains(&TlsVersion::Tls12);
        let flags = [u8::from(has_12), u8::from(has_13), u8::from(has_tickets)];
        let rule = client.as_ref().map_or([0; 32], |client: &Arc<ClientAuth>| *client.fingerprint());
        let parts = [&flags[..], &rule[..]];
        let digest = fingerprint(parts.into_iter().chain(alpn.iter().map(Vec::as_slice)));
        Ok(Some(Self { versions, alpn, client, fallback_name, has_tickets, fingerprint: digest }))
    }
}

fn alpn(settings: &TlsSettings, protocol: Protocol) -> Vec<Vec<u8>> {
    match (&settings.alpn, protocol) {
        (Some(names), _) => names.iter().map(|name| name.clone().into_bytes()).collect(),
        (None, Protocol::Http) => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        (None, Protocol::Tlv | Protocol::Tcp | Protocol::Relay) => Vec::new(),
    }
}
