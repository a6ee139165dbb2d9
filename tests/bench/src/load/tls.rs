//! The client's TLS: the same offer to every proxy, and no more work than needed.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::HOST;

/// Connects over TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    plain: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// Offers TLS 1.3 with one cipher suite and one group, so that no proxy
    /// negotiates something else than its peers.
    pub(crate) fn new() -> Result<Self> {
        let provider = CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        };
        let mut plain = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(NoVerification))
            .with_no_client_auth();
        plain.resumption = Resumption::disabled();
        let with = |protocol: &[u8]| {
            let mut config = plain.clone();
            config.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(config)
        };
        Ok(Self {
            http1: with(b"http/1.1"),
            http2: with(b"h2"),
            plain: Arc::new(plain),
            name: ServerName::try_from(HOST)?,
        })
    }

    /// Shakes hands for `protocol`; an empty one offers none.
    pub(crate) async fn connect(&self, stream: TcpStream, protocol: &[u8]) -> Result<TlsStream<TcpStream>> {
        let config = match protocol {
            b"h2" => &self.http2,
            b"http/1.1" => &self.http1,
            _ => &self.plain,
        };
        let stream = TlsConnector::from(config.clone())
            .connect(self.name.clone(), stream)
            .await
            .context("the TLS handshake failed")?;
        let agreed = stream.get_ref().1.alpn_protocol();
        ensure!(protocol != b"h2" || agreed == Some(protocol), "h2 was not agreed on");
        Ok(stream)
    }
}

/// Checking the certificate costs the client, not the proxy.
#[derive(Debug)]
struct NoVerification;

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
