//! How a cluster is reached.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use crate::config::seal::Sealer;

/// The prefix of the keys where nothing else is said.
pub(super) const PREFIX_DEFAULT: &str = "/sluice";
/// How long a member may take for one answer, and may be silent, where nothing else is said.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(3);
/// The most endpoints.
const ENDPOINTS_MAX: usize = 64;

/// How a cluster is reached.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// `http://` or `https://` URLs of members, tried one after the other.
    pub endpoints: Vec<String>,
    /// What all keys begin with, without a slash at the end; default `/sluice`.
    pub prefix: String,
    /// A user's name and password.
    pub user: Option<Secret>,
    /// TLS, for `https://` endpoints.
    pub tls: Option<TlsFiles>,
    /// How long connecting and each answer may take, and how long a member may
    /// be silent before another one is used; default 3 s.
    pub timeout: Duration,
    /// Seals private keys where they leave this node, and opens them.
    pub sealer: Option<Arc<Sealer>>,
}

/// A user's name and password; the password is never shown.
#[derive(Clone)]
pub struct Secret {
    /// The name.
    pub name: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} with a password", self.name)
    }
}

/// Files for TLS, in PEM. They are read again for every connection, so that a
/// renewed certificate needs no restart.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// The certificates that sign the members' own.
    pub ca: PathBuf,
    /// This client's certificate and key, where members ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that members' certificates are for, where it is not the
    /// endpoint's host.
    pub server_name: Option<String>,
}

/// Why a cluster cannot be reached as is said.
#[derive(Debug, thiserror::Error)]
pub enum EtcdOptionsError {
    /// An endpoint is not one.
    #[error("endpoints: {0:?} is not a URL such as http://127.0.0.1:2379")]
    Endpoint(String),
    /// No endpoint, or too many.
    #[error("endpoints: 1 to {ENDPOINTS_MAX} are needed, not {0}")]
    Endpoints(usize),
    /// TLS where an endpoint is without, or the other way round.
    #[error("{0}")]
    Tls(String),
    /// The prefix cannot be one.
    #[error("prefix: {0:?} does not begin with a slash and a letter, or ends with a slash")]
    Prefix(String),
    /// A file cannot be read.
    #[error("{}: {cause}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// The thread cannot be started.
    #[error("cannot start the thread of the etcd store: {0}")]
    Thread(#[source] std::io::Error),
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            prefix: PREFIX_DEFAULT.to_owned(),
            user: None,
            tls: None,
            timeout: TIMEOUT_DEFAULT,
            sealer: None,
        }
    }
}

impl EtcdOptions {
    /// Checks what can be checked without a cluster.
    ///
    /// # Errors
    /// Names the field and the value.
    pub fn check(&self) -> Result<(), EtcdOptionsError> {
        if !(1..=ENDPOINTS_MAX).contains(&self.endpoints.len()) {
            return Err(EtcdOptionsError::Endpoints(self.endpoints.len()));
        }
        for endpoint in &self.endpoints {
            if address_of(endpoint).is_none() {
                return Err(EtcdOptionsError::Endpoint(endpoint.clone()));
            }
            let is_tls = endpoint.starts_with("https://");
            if is_tls != self.tls.is_some() {
                let needed = if is_tls {
                    "needs tls.ca, the file of the certificates that sign its own"
                } else {
                    "is not https:// although tls is configured"
                };
                return Err(EtcdOptionsError::Tls(format!("endpoints: {endpoint:?} {needed}")));
            }
        }
        let rest = self.prefix.strip_prefix('/').unwrap_or_default();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        if !rest.starts_with(|c: char| c.is_ascii_alphanumeric())
            || rest.ends_with('/')
            || rest.len() > 128
            || !rest.bytes().all(allowed)
        {
            return Err(EtcdOptionsError::Prefix(self.prefix.clone()));
        }
        self.tls()?;
        Ok(())
    }

    /// The prefix with its slash.
    pub(super) fn root(&self) -> String {
        format!("{}/", self.prefix)
    }

    /// What the client library is told.
    pub(super) fn connect_options(&self) -> Result<ConnectOptions, EtcdOptionsError> {
        // Without a leader a member would go on as if nothing were new.
        let mut options = ConnectOptions::new()
            .with_connect_timeout(self.timeout)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(user) = &self.user {
            options = options.with_user(&user.name, &user.password);
        }
        if let Some(tls) = self.tls()? {
            options = options.with_tls(tls);
        }
        Ok(options)
    }

    fn tls(&self) -> Result<Option<TlsOptions>, EtcdOptionsError> {
        let Some(files) = &self.tls else { return Ok(None) };
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|cause| EtcdOptionsError::File { path: path.clone(), cause })
        };
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&files.ca)?));
        if let Some((certificate, key)) = &files.identity {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        if let Some(name) = &files.server_name {
            tls = tls.domain_name(name);
        }
        Ok(Some(tls))
    }
}

/// `host:port` of an endpoint, for a first look whether anyone listens.
pub(super) fn address_of(endpoint: &str) -> Option<String> {
    let rest = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"))?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let is_plain = rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte));
    if rest.is_empty() || !is_plain {
        return None;
    }
    let port = rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
    match port {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Some(rest.to_owned()),
        Some(_) => None,
        None => Some(format!("{rest}:2379")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_options_name_field_and_value() {
        let with = |endpoint: &str, prefix: &str| EtcdOptions {
            endpoints: vec![endpoint.to_owned()],
            prefix: prefix.to_owned(),
            ..EtcdOptions::default()
        };
        assert!(with("http://127.0.0.1:2379", "/sluice").check().is_ok());
        assert!(with("http://[::1]:2379/", "/a/b").check().is_ok());
        for (endpoint, prefix, words) in [
            ("127.0.0.1:2379", "/s", "\"127.0.0.1:2379\" is not a URL"),
            ("http://", "/s", "\"http://\" is not a URL"),
            ("http://a:b:99999", "/s", "is not a URL"),
            ("http://user:secret@host", "/s", "is not a URL"),
            ("https://a:1", "/s", "\"https://a:1\" needs tls.ca"),
            ("http://a:1", "s", "prefix: \"s\""),
            ("http://a:1", "/", "prefix: \"/\""),
            ("http://a:1", "/s/", "prefix: \"/s/\""),
        ] {
            let error = with(endpoint, prefix).check().unwrap_err().to_string();
            assert!(error.contains(words), "{endpoint} {prefix}: {error}");
        }
        let secret = Secret { name: "u".into(), password: "hidden".into() };
        assert!(!format!("{secret:?}").contains("hidden"));
    }
}
