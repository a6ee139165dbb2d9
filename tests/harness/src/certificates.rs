//! Certificates made for one test.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, RsaKeySize,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::{Value, json};

/// Kind of a certificate's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on P-256.
    Ecdsa,
    /// RSA with 2,048 bits.
    Rsa,
}

impl KeyKind {
    fn generate(self) -> KeyPair {
        match self {
            KeyKind::Ecdsa => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            KeyKind::Rsa => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
        }
        .expect("a key can be made")
    }
}

/// A certificate authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    /// A new root with that name.
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer =
            CertifiedIssuer::self_signed(params, KeyKind::Ecdsa.generate()).expect("a root can be signed");
        let folder = tempfile::tempdir().expect("a folder can be made");
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("the root can be written");
        Authority { issuer, folder }
    }

    /// The root in PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A file with the root in PEM; it goes with the authority.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A server certificate for names (wildcards too) and addresses, with an
    /// ECDSA key.
    pub fn leaf(&self, names: &[&str]) -> Identity {
        self.leaf_with(names, KeyKind::Ecdsa)
    }

    /// A server certificate with a key of that kind.
    pub fn leaf_with(&self, names: &[&str], kind: KeyKind) -> Identity {
        self.sign(params(names, ExtendedKeyUsagePurpose::ServerAuth), kind)
    }

    /// A server certificate that was valid until 2020.
    pub fn expired(&self, names: &[&str]) -> Identity {
        let mut params = params(names, ExtendedKeyUsagePurpose::ServerAuth);
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        self.sign(params, KeyKind::Ecdsa)
    }

    /// A client certificate with that common name.
    pub fn client(&self, name: &str) -> Identity {
        self.sign(params(&[name], ExtendedKeyUsagePurpose::ClientAuth), KeyKind::Ecdsa)
    }

    fn sign(&self, params: CertificateParams, kind: KeyKind) -> Identity {
        let key = kind.generate();
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate can be signed");
        Identity::keep(certificate.pem(), key.serialize_pem())
    }

    /// A client that trusts this authority and offers `protocols` by ALPN.
    pub fn client_config(&self, protocols: &[&str]) -> Arc<ClientConfig> {
        self.config(protocols, None)
    }

    /// The same with a client certificate.
    pub fn client_config_as(&self, protocols: &[&str], identity: &Identity) -> Arc<ClientConfig> {
        self.config(protocols, Some(identity))
    }

    fn config(&self, protocols: &[&str], identity: Option<&Identity>) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder().with_root_certificates(self.roots());
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder
                .with_client_auth_cert(identity.chain(), identity.private_key())
                .expect("the client certificate fits its key"),
        };
        config.alpn_protocols = alpn(protocols);
        Arc::new(config)
    }

    /// A root store with this authority alone.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("an own root is well-formed");
        roots
    }
}

fn params(names: &[&str], usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let common = names.first().cloned().unwrap_or_default();
    let mut params = CertificateParams::new(names).expect("the names can stand in a certificate");
    params.distinguished_name.push(DnType::CommonName, common);
    params.extended_key_usages = vec![usage];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

fn alpn(protocols: &[&str]) -> Vec<Vec<u8>> {
    protocols.iter().map(|name| name.as_bytes().to_vec()).collect()
}

/// A certificate and its key, in memory and in files that go with it.
#[derive(Debug)]
pub struct Identity {
    /// The certificate in PEM.
    pub cert: String,
    /// The private key in PEM.
    pub key: String,
    folder: tempfile::TempDir,
}

impl Identity {
    fn keep(cert: String, key: String) -> Identity {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("a certificate can be written");
        };
        write("cert.pem", &cert);
        write("key.pem", &key);
        // haproxy wants both in one file.
        write("both.pem", &format!("{cert}{key}"));
        Identity { cert, key, folder }
    }

    /// The certificate's file.
    pub fn cert_path(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    /// The key's file.
    pub fn key_path(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// A file with the certificate and then the key.
    pub fn both_path(&self) -> PathBuf {
        self.folder.path().join("both.pem")
    }

    /// An object of kind `ssls` for these names.
    pub fn ssl(&self, snis: &[&str]) -> Value {
        json!({"snis": snis, "cert": self.cert, "key": self.key})
    }

    /// A server that presents this certificate and offers `protocols` by ALPN.
    pub fn server_config(&self, protocols: &[&str]) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder().with_no_client_auth();
        self.finish(builder, protocols)
    }

    /// The same, and a client certificate of `authority` is required.
    pub fn server_config_verifying(&self, protocols: &[&str], authority: &Authority) -> Arc<ServerConfig> {
        let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(authority.roots()))
            .build()
            .expect("the root can verify");
        self.finish(ServerConfig::builder().with_client_cert_verifier(verifier), protocols)
    }

    fn finish(
        &self,
        builder: rustls::ConfigBuilder<ServerConfig, rustls::server::WantsServerCert>,
        protocols: &[&str],
    ) -> Arc<ServerConfig> {
        let mut config =
            builder.with_single_cert(self.chain(), self.private_key()).expect("the certificate fits its key");
        config.alpn_protocols = alpn(protocols);
        Arc::new(config)
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_slice(self.cert.as_bytes()).expect("an own certificate is PEM")]
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("an own key is PEM")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curl::Curl;
    use crate::openssl::openssl_client;
    use crate::services::HttpEcho;

    #[test]
    fn every_kind_of_key_is_trusted_by_other_clients() {
        let authority = Authority::new("Test root");
        for (kind, name) in [(KeyKind::Ecdsa, "ECDSA"), (KeyKind::Rsa, "RSA")] {
            let identity = authority.leaf_with(&["one.test", "*.wild.test"], kind);
            let origin = HttpEcho::builder("tls").tls(identity.server_config(&["h2", "http/1.1"])).start();
            let call = Curl::get("https://x.wild.test/").to(origin.address()).ca(authority.path()).http2();
            let reply = call.run();
            assert_eq!((reply.status, reply.version.as_str()), (200, "2"), "{name}: {}", reply.error);
            let ca = authority.path();
            let arguments =
                ["-servername", "one.test", "-CAfile", &ca.to_string_lossy(), "-verify_return_error"];
            let client = openssl_client(origin.address(), &arguments, b"");
            assert!(client.success && client.text.contains("Verify return code: 0"), "{}", client.text);
            assert!(client.text.contains(name), "{}", client.text);
        }
    }

    #[test]
    fn an_expired_certificate_and_a_missing_client_certificate_are_refused() {
        let authority = Authority::new("Test root");
        let expired = authority.expired(&["one.test"]);
        let origin = HttpEcho::builder("old").tls(expired.server_config(&[])).start();
        let reply = Curl::get("https://one.test/").to(origin.address()).ca(authority.path()).run();
        assert_eq!(reply.exit, 60, "{}", reply.error);

        let leaf = authority.leaf(&["one.test"]);
        let origin = HttpEcho::builder("strict").tls(leaf.server_config_verifying(&[], &authority)).start();
        let call = || Curl::get("https://one.test/").to(origin.address()).ca(authority.path());
        assert_eq!(call().run().status, 0);
        let client = authority.client("alice");
        let reply = call().arg("--cert").arg(client.cert_path()).arg("--key").arg(client.key_path()).run();
        // curl sends the root it was given along with its own.
        assert_ne!(reply.seen().tls.unwrap().client_certificates, 0);
    }
}
