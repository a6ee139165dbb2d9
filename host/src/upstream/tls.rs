//! TLS towards the nodes: what is trusted, what is shown, which name is asked for.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::connect::Alpn;
use crate::net::tls::public_roots;

/// Sessions kept for resumption, for each upstream and protocol offered.
const SESSIONS_MAX: usize = 256;

/// The name asked for where the configuration leaves it to the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ServerNameFrom {
    /// This one.
    Fixed(Box<str>),
    /// The Host of the request, else the node's name.
    Request,
    /// The node's name.
    Node,
}

/// What a certificate is checked against, and what is shown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TlsSettings<'a> {
    pub(super) skip_verify: bool,
    pub(super) ca: Option<&'a str>,
    /// Certificate chain and key, PEM.
    pub(super) identity: Option<(&'a str, &'a str)>,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct TlsSettingError {
    pub(super) field: &'static str,
    pub(super) message: String,
}

/// TLS as client, ready for each protocol offer.
#[derive(Debug)]
pub(super) struct TlsPlan {
    configs: [Arc<ClientConfig>; 3],
    pub(super) name: ServerNameFrom,
    /// Of all settings: the same digest, the same plan.
    pub(super) digest: String,
}

impl TlsPlan {
    pub(super) fn new(
        settings: TlsSettings<'_>,
        name: ServerNameFrom,
        digest: String,
        roots: &Roots,
    ) -> Result<Self, TlsSettingError> {
        let config = client_config(settings, roots)?;
        let offering = |protocols: &[&[u8]]| {
            let mut own = config.clone();
            own.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            own.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
            Arc::new(own)
        };
        Ok(Self { configs: [offering(&[]), offering(&[b"http/1.1"]), offering(&[b"h2"])], name, digest })
    }

    pub(super) fn config(&self, alpn: Alpn) -> &Arc<ClientConfig> {
        match alpn {
            Alpn::None => &self.configs[0],
            Alpn::Http1 => &self.configs[1],
            Alpn::Http2 => &self.configs[2],
        }
    }
}

/// The public authorities, read once, when first needed.
#[derive(Debug, Default)]
pub(super) struct Roots(OnceLock<Arc<RootCertStore>>);

impl Roots {
    fn get(&self) -> Arc<RootCertStore> {
        Arc::clone(self.0.get_or_init(|| Arc::new(public_roots())))
    }
}

fn client_config(settings: TlsSettings<'_>, roots: &Roots) -> Result<ClientConfig, TlsSettingError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let error = |field, message: String| TlsSettingError { field, message };
    let verifier: Arc<dyn ServerCertVerifier> = if settings.skip_verify {
        Arc::new(AcceptsAny(Arc::clone(&provider)))
    } else {
        let roots = match settings.ca {
            Some(pem) => Arc::new(own_roots(pem)?),
            None => roots.get(),
        };
        WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|cause| error("ca", format!("cannot be used: {cause}")))?
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|cause| error("", cause.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some((certificate, key)) = settings.identity else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates("client_cert", certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|cause| error("client_key", format!("holds no private key: {cause}")))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|cause| error("client_key", format!("cannot be used with client_cert: {cause}")))
}

fn own_roots(pem: &str) -> Result<RootCertStore, TlsSettingError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates("ca", pem)? {
        store.add(certificate).map_err(|cause| TlsSettingError {
            field: "ca",
            message: format!("cannot be trusted: {cause}"),
        })?;
    }
    Ok(store)
}

fn certificates(field: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsSettingError> {
    let error = |message: String| TlsSettingError { field, message };
    let list = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|cause| error(format!("is no PEM: {cause}")))?;
    if list.is_empty() { Err(error("holds no certificate".to_owned())) } else { Ok(list) }
}

/// The name as TLS wants it; brackets of an IPv6 literal are left out.
pub(super) fn server_name(name: &str) -> Option<ServerName<'static>> {
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    ServerName::try_from(bare.to_owned()).ok()
}

/// For `verify: false`: any certificate, but its key must have signed the handshake.
#[derive(Debug)]
struct AcceptsAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptsAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
