//! Client certificates: who vouches, how long the chain may be, who may come
//! without one, and what a connection may then ask for.

use std::sync::Arc;

use regex::RegexSet;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::keys::read_chain;
use super::{Certificates, Fingerprint, TlsProfile, fingerprint};
use crate::config::objects::{ListenerClientAuth, SslClient};
use crate::message::TlsClient;

/// A rule for client certificates.
#[derive(Debug)]
pub struct ClientAuth {
    fingerprint: Fingerprint,
    verifier: Arc<Verifier>,
    skip: RegexSet,
    is_optional: bool,
}

/// A fault in a rule: the field under it and what is wrong.
pub(super) type RuleFault = (&'static str, String);

impl ClientAuth {
    /// The rule of an `ssls` object.
    pub(super) fn of_ssl(client: &SslClient, provider: &Arc<CryptoProvider>) -> Result<Self, RuleFault> {
        let patterns = client.skip_mtls_uri_regex.as_deref().unwrap_or_default();
        Self::build(&client.ca, client.depth, patterns, false, provider)
    }

    /// The rule of a listener, for names whose object has none.
    pub(super) fn of_listener(
        client: &ListenerClientAuth,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, RuleFault> {
        Self::build(&client.ca, client.depth, &[], client.optional, provider)
    }

    fn build(
        ca: &str,
        depth: u32,
        patterns: &[String],
        is_optional: bool,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, RuleFault> {
        let authorities = read_chain(ca).map_err(|message| ("ca", message))?;
        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            roots.add(authority.clone()).map_err(|error| ("ca", format!("is not usable: {error}")))?;
        }
        let skip = RegexSet::new(patterns)
            .map_err(|error| ("skip_mtls_uri_regex", format!("is not a regular expression: {error}")))?;
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        if is_optional || !skip.is_empty() {
            builder = builder.allow_unauthenticated();
        }
        let inner = builder.build().map_err(|error| ("ca", format!("is not usable: {error}")))?;
        let optional = [u8::from(is_optional)];
        let depth_bytes = depth.to_be_bytes();
        let parts = [ca.as_bytes(), &depth_bytes, &optional];
        let digest = fingerprint(parts.into_iter().chain(patterns.iter().map(|text| text.as_bytes())));
        let subjects = authorities.iter().filter_map(subject_of).collect();
        let verifier = Arc::new(Verifier { inner, depth: depth as usize, subjects });
        Ok(Self { fingerprint: digest, verifier, skip, is_optional })
    }

    /// Whether a request for `path` needs a certificate.
    #[must_use]
    pub fn is_required_for(&self, path: &str) -> bool {
        !self.is_optional && !self.skip.is_match(path)
    }

    pub(super) fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.verifier) as Arc<dyn ClientCertVerifier>
    }
}

/// Why a request must not be served on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientRefusal {
    /// The name asked for wants another rule than the one the connection was
    /// made under: 421, so that the client comes again on its own connection.
    #[error("the host wants another client certificate than this connection was made with")]
    Misdirected,
    /// The path needs a client certificate and none was shown: 400.
    #[error("a client certificate is required")]
    CertificateRequired,
}

/// Whether a request for `host` and `path` may be served on a TLS connection
/// made under `rule`. Without any rule in `certificates` it costs two tests.
///
/// # Errors
/// When the host's rule is another one, or wants a certificate that is not there.
pub fn check_client(
    certificates: &Certificates,
    profile: &TlsProfile,
    rule: Option<&Arc<ClientAuth>>,
    client: &TlsClient,
    host: &str,
    path: &str,
) -> Result<(), ClientRefusal> {
    if certificates.has_client_rules() || profile.client.is_some() {
        let wanted = certificates.client_rule(host, profile);
        let is_same = match (wanted, rule) {
            (None, _) => true,
            (Some(wanted), Some(rule)) => wanted.fingerprint == rule.fingerprint,
            (Some(_), None) => false,
        };
        if !is_same {
            return Err(ClientRefusal::Misdirected);
        }
    }
    match rule {
        Some(rule) if client.certificate.is_none() && rule.is_required_for(path) => {
            Err(ClientRefusal::CertificateRequired)
        }
        _ => Ok(()),
    }
}

/// webpki's verifier with a limit on the chain's length.
#[derive(Debug)]
struct Verifier {
    inner: Arc<dyn ClientCertVerifier>,
    /// Certificates allowed between the client's and an authority's.
    depth: usize,
    /// The authorities' subjects, DER.
    subjects: Vec<Vec<u8>>,
}

fn subject_of(certificate: &CertificateDer<'static>) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.subject().as_raw().to_vec())
}

impl Verifier {
    /// The fewest certificates that lead from the client's to an authority by
    /// their names. The signatures were verified before.
    fn distance(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Option<usize> {
        let (_, parsed) = x509_parser::parse_x509_certificate(end_entity).ok()?;
        let names: Vec<(Vec<u8>, Vec<u8>)> = intermediates
            .iter()
            .filter_map(|certificate| x509_parser::parse_x509_certificate(certificate).ok())
            .map(|(_, parsed)| (parsed.subject().as_raw().to_vec(), parsed.issuer().as_raw().to_vec()))
            .collect();
        let mut frontier = vec![parsed.issuer().as_raw().to_vec()];
        for steps in 0..=names.len() {
            if frontier.iter().any(|issuer| self.subjects.contains(issuer)) {
                return Some(steps);
            }
            frontier = names
                .iter()
                .filter(|(subject, _)| frontier.contains(subject))
                .map(|(_, issuer)| issuer.clone())
                .collect();
        }
        None
    }
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        match self.distance(end_entity, intermediates) {
            Some(steps) if steps <= self.depth => Ok(verified),
            _ => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
