//! Certificates with their keys, from PEM.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, Error, InconsistentKeys, SignatureAlgorithm};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::objects::Ssl;
use crate::config::{Kind, ObjectError};

/// The chains of one object, one for each type of key, the cheapest to sign with first.
#[derive(Debug)]
pub(super) struct Keys(Vec<Arc<CertifiedKey>>);

impl Keys {
    /// Reads every pair of `ssl`, and what an operator should be told of them.
    pub(super) fn build(ssl: &Ssl, provider: &CryptoProvider) -> Result<(Self, Vec<String>), ObjectError> {
        let mut keys = Vec::new();
        let mut warnings = Vec::new();
        for (index, (cert, key)) in ssl.pairs().enumerate() {
            let (cert_field, key_field) = match index {
                0 => ("cert".to_owned(), "key".to_owned()),
                _ => (format!("certs[{}]", index - 1), format!("keys[{}]", index - 1)),
            };
            let pair = read_pair(cert, key, provider).map_err(|fault| {
                let field = if fault.is_key { &key_field } else { &cert_field };
                ObjectError::new(Kind::Ssls, &ssl.id, field, fault.message)
            })?;
            warnings.extend(validity_warning(&pair).map(|text| format!("{cert_field}: {text}")));
            keys.push(Arc::new(pair));
        }
        if keys.is_empty() {
            return Err(ObjectError::new(Kind::Ssls, &ssl.id, "cert", "is required"));
        }
        keys.sort_by_key(|pair| rank(pair));
        Ok((Self(keys), warnings))
    }

    /// The chain to show to a client with this hello.
    pub(super) fn choose(&self, hello: &ClientHello<'_>) -> Option<&Arc<CertifiedKey>> {
        self.0.iter().find(|pair| fits(pair, hello))
    }
}

impl ResolvesServerCert for Keys {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Some old clients sign with what they do not list: the first chain
        // is as good a guess as any, rustls has the last word.
        self.choose(&hello).or_else(|| self.0.first()).map(Arc::clone)
    }
}

fn fits(pair: &CertifiedKey, hello: &ClientHello<'_>) -> bool {
    if pair.key.choose_scheme(hello.signature_schemes()).is_none() {
        return false;
    }
    // Up to TLS 1.2 the cipher suite names the type of key as well.
    let mut has_suite = false;
    for suite in hello.cipher_suites() {
        match suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS13_AES_256_GCM_SHA384
            | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => return true,
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => {
                has_suite |= pair.key.algorithm() == SignatureAlgorithm::RSA;
            }
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => {
                has_suite |= pair.key.algorithm() != SignatureAlgorithm::RSA;
            }
            _ => {}
        }
    }
    has_suite
}

fn rank(pair: &CertifiedKey) -> u8 {
    match pair.key.algorithm() {
        SignatureAlgorithm::ECDSA => 0,
        SignatureAlgorithm::ED25519 | SignatureAlgorithm::ED448 => 1,
        _ => 2,
    }
}

struct PairFault {
    is_key: bool,
    message: String,
}

fn read_pair(cert: &str, key: &str, provider: &CryptoProvider) -> Result<CertifiedKey, PairFault> {
    let cert_fault = |message: String| PairFault { is_key: false, message };
    let key_fault = |message: String| PairFault { is_key: true, message };
    let chain = read_chain(cert).map_err(cert_fault)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| key_fault("holds no private key in PEM form".to_owned()))?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|_| key_fault("is of a type or size that is not supported".to_owned()))?;
    let pair = CertifiedKey::new(chain, key);
    match pair.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(pair),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(key_fault("does not belong to the first certificate beside it".to_owned()))
        }
        Err(error) => Err(cert_fault(format!("is not a usable certificate: {error}"))),
    }
}

/// Every certificate of a PEM text, at least one, each parsed once so that a
/// broken one is told now and not at a handshake.
pub(super) fn read_chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("is not PEM: {error}"))?;
    if chain.is_empty() {
        return Err("holds no certificate in PEM form".to_owned());
    }
    for (index, certificate) in chain.iter().enumerate() {
        x509_parser::parse_x509_certificate(certificate)
            .map_err(|error| format!("certificate {} of the chain is not X.509: {error}", index + 1))?;
    }
    Ok(chain)
}

fn validity_warning(pair: &CertifiedKey) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(pair.cert.first()?).ok()?;
    let validity = certificate.validity();
    let now = x509_parser::time::ASN1Time::now();
    if now < validity.not_before {
        return Some(format!("certificate is not valid before {}", validity.not_before));
    }
    (now > validity.not_after).then(|| format!("certificate expired at {}", validity.not_after))
}
