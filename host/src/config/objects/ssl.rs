//! Certificates by server name, and client certificates for upstreams.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use super::{Labels, Object, Status, object_basics, validate_description, validate_unique};
use crate::config::{Id, Kind, Problems};

/// How deep a client's chain may be, unless said.
pub const SSL_CLIENT_DEPTH: u32 = 1;
/// The longest certificate chain or key, in bytes of PEM.
pub const SSL_PEM_LENGTH_MAX: usize = 64 * 1024;
/// The most certificates (`certs`) of one object beside `cert`.
pub const SSL_CERTS_MAX: usize = 8;

/// A certificate, or several of different key types, for some server names.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ssl {
    /// The id.
    #[serde(default)]
    pub id: Id,
    /// `server` (default): shown to clients. `client`: shown to upstreams that
    /// name it in `tls.client_cert_id`.
    #[serde(rename = "type", default)]
    pub role: SslRole,
    /// The chain, PEM, leaf first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<String>,
    /// The private key, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// More chains, for other key types.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certs: Vec<String>,
    /// The keys of `certs`, in the same order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// The server name, exact or `*.example.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Several server names; instead of `sni`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snis: Option<Vec<String>>,
    /// Clients must show a certificate of this authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<SslClient>,
    /// Versions of TLS for these names. The listener's when not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssl_protocols: Option<Vec<TlsVersion>>,
    /// 0 takes the certificate out. Default 1.
    #[serde(default)]
    pub status: Status,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A description for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desc: Option<String>,
    /// Labels, for people and for filtering lists.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Written by APISIX's tools; kept, without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exptime: Option<i64>,
    /// Written by APISIX's tools; kept, without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validity_start: Option<i64>,
    /// Written by APISIX's tools; kept, without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validity_end: Option<i64>,
    /// When it was made, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_time: Option<i64>,
    /// When it was last changed, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_time: Option<i64>,
}

impl std::fmt::Debug for Ssl {
    // Keys never reach a log, not even by accident.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ssl")
            .field("id", &self.id)
            .field("role", &self.role)
            .field("sni", &self.sni)
            .field("snis", &self.snis)
            .field("certs", &(usize::from(self.cert.is_some()) + self.certs.len()))
            .field("client", &self.client.is_some())
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// To whom a certificate is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SslRole {
    /// To clients.
    #[default]
    Server,
    /// To upstreams.
    Client,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[serde(rename = "TLSv1.2")]
    Tls12,
    /// TLS 1.3.
    #[serde(rename = "TLSv1.3")]
    Tls13,
}

impl std::fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "TLSv1.2",
            Self::Tls13 => "TLSv1.3",
        })
    }
}

/// Which client certificates are accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SslClient {
    /// The authorities' certificates, PEM.
    pub ca: String,
    /// How many certificates may stand between the client's and the
    /// authority's. Default [`SSL_CLIENT_DEPTH`].
    #[serde(default = "client_depth")]
    pub depth: u32,
    /// Paths (regular expressions) that are served without a certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_mtls_uri_regex: Option<Vec<String>>,
}

fn client_depth() -> u32 {
    SSL_CLIENT_DEPTH
}

impl Ssl {
    /// The server names, of `sni` or `snis`.
    pub fn all_snis(&self) -> impl Iterator<Item = &str> {
        self.sni.iter().chain(self.snis.iter().flatten()).map(String::as_str)
    }

    /// Every chain with its key, PEM.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let certs = self.cert.iter().chain(&self.certs).map(String::as_str);
        certs.zip(self.key.iter().chain(&self.keys).map(String::as_str))
    }
}

impl Object for Ssl {
    object_basics!(Kind::Ssls);

    fn validate(&self, problems: &mut Problems) {
        validate_description(self.name.as_ref(), self.desc.as_ref(), &self.labels, problems);
        self.validate_pairs(problems);
        match (&self.sni, &self.snis) {
            (Some(_), Some(_)) => problems.add_plain("snis", "cannot stand beside sni; use one of them"),
            (None, None) if self.role == SslRole::Server => problems.add_plain("sni", "is required, or snis"),
            (None, None) => {}
            (Some(sni), None) => validate_sni("sni", sni, problems),
            (None, Some(snis)) => {
                if snis.is_empty() {
                    problems.add("snis", 0, "must hold at least one name");
                }
                validate_unique("snis", snis, problems);
                for (index, sni) in snis.iter().enumerate() {
                    validate_sni(&format!("snis[{index}]"), sni, problems);
                }
            }
        }
        if let Some(client) = &self.client {
            problems.within("client", |problems| client.validate(problems));
        }
        if let Some(versions) = &self.ssl_protocols {
            if versions.is_empty() {
                problems.add("ssl_protocols", 0, "must hold at least one version");
            }
            validate_unique("ssl_protocols", versions, problems);
        }
    }
}

impl Ssl {
    fn validate_pairs(&self, problems: &mut Problems) {
        match &self.cert {
            Some(cert) => validate_certificates("cert", cert, problems),
            None => problems.add_plain("cert", "is required"),
        }
        match &self.key {
            Some(key) => validate_key("key", key, problems),
            None => problems.add_plain("key", "is required"),
        }
        if self.certs.len() > SSL_CERTS_MAX {
            problems.add("certs", self.certs.len(), "must be at most 8 certificates");
        }
        if self.certs.len() != self.keys.len() {
            let message = format!("must be as many as certs, which are {}", self.certs.len());
            problems.add("keys", self.keys.len(), message);
        }
        for (index, cert) in self.certs.iter().enumerate() {
            validate_certificates(&format!("certs[{index}]"), cert, problems);
        }
        for (index, key) in self.keys.iter().enumerate() {
            validate_key(&format!("keys[{index}]"), key, problems);
        }
    }
}

impl SslClient {
    fn validate(&self, problems: &mut Problems) {
        validate_certificates("ca", &self.ca, problems);
        for (index, pattern) in self.skip_mtls_uri_regex.iter().flatten().enumerate() {
            if let Err(error) = regex::Regex::new(pattern) {
                let field = format!("skip_mtls_uri_regex[{index}]");
                let reason = error.to_string();
                let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
                problems.add(&field, pattern.as_str(), format!("is not a regular expression: {reason}"));
            }
        }
    }
}

fn validate_sni(field: &str, sni: &str, problems: &mut Problems) {
    let rest = sni.strip_prefix('*').unwrap_or(sni);
    let fits = !rest.is_empty()
        && sni.len() <= 255
        && rest.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if !fits {
        problems.add(field, sni, "must be a server name, with at most one '*' in front");
    }
}

/// Notes a text that is not a chain of certificates in PEM.
pub(super) fn validate_certificates(field: &str, pem: &str, problems: &mut Problems) {
    if let Some(message) = pem_trouble(pem) {
        problems.add_plain(field, message);
        return;
    }
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match certificates {
        Ok(list) if list.is_empty() => problems.add_plain(field, "holds no certificate in PEM form"),
        Ok(_) => {}
        Err(error) => problems.add_plain(field, format!("is not PEM: {error}")),
    }
}

/// Notes a text that is not a private key in PEM. The text is never shown.
pub(super) fn validate_key(field: &str, pem: &str, problems: &mut Problems) {
    if let Some(message) = pem_trouble(pem) {
        problems.add_plain(field, message);
        return;
    }
    if PrivateKeyDer::from_pem_slice(pem.as_bytes()).is_err() {
        problems.add_plain(field, "holds no private key in PEM form (PKCS#8, PKCS#1 or SEC1, not encrypted)");
    }
}

fn pem_trouble(pem: &str) -> Option<&'static str> {
    if pem.starts_with("$secret://") || pem.starts_with("$env://") {
        return Some("is a reference to a secret, which this build does not support yet; write the PEM here");
    }
    (pem.len() > SSL_PEM_LENGTH_MAX).then_some("must be at most 65536 bytes long")
}
