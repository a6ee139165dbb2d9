//! The boot file, `sluice.yaml`: only what a node must know before it can read
//! its store. Everything else is an object in the store and changes live.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::admin::{AccessKey, Role};
use crate::config::seal::Sealer;
use crate::config::source::{EtcdOptions, Secret, TlsFiles};
use crate::message::trace::TraceConfig;
use crate::observe::{LogConfig, LogTarget};

/// What a node knows at start. Every field has a default, so that an empty
/// file, or none, is a working one on loopback.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Boot {
    /// Who this node is in logs, status and `x-sluice-path`.
    pub node: Node,
    /// Where the objects come from.
    pub store: Store,
    /// The addresses of the control plane.
    pub admin: Admin,
    /// Where the last good state is kept; none: nothing is kept.
    pub cache_dir: Option<PathBuf>,
    /// Which modules run.
    pub modules: ModuleRules,
    /// Worker threads; 0 means one a core.
    pub threads: usize,
    /// What is logged, and where.
    pub log: LogConfig,
    /// Whether requests without a trace context get one.
    pub trace: TraceConfig,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// The unix socket over which a new binary takes the listening sockets
    /// over from this one; none: no takeover.
    pub takeover: Option<PathBuf>,
    /// The key that signs `x-sluice-path` and the hops of `via`, shared by the fleet.
    pub fleet_key: Option<KeySource>,
}

/// Which modules a node runs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModuleRules {
    /// `required`: only modules that one of `trust_keys` signed; `off` (the
    /// default): all.
    pub trust: TrustRule,
}

/// Whether modules must be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrustRule {
    /// They need not be.
    #[default]
    Off,
    /// They must be.
    Required,
}

/// Names of this node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// Unique in the fleet; default: the host's name.
    pub id: String,
    /// A region's name, such as `hk`; default: `default`.
    pub region: String,
}

impl Default for Node {
    fn default() -> Self {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { id: if name.is_empty() { "sluice".to_owned() } else { name }, region: "default".to_owned() }
    }
}

/// Where objects come from.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// A directory store's folder; default: `conf` beside the boot file.
    pub directory: Option<PathBuf>,
    /// An etcd cluster; not together with a directory.
    pub etcd: Option<EtcdStore>,
    /// Keys that seal private keys in etcd and in `cache_dir`: the first one
    /// seals, all open. Default: none, they are written as they are.
    pub encryption: Vec<SealKey>,
}

/// A key that seals private keys: 64 hexadecimal digits, from exactly one of
/// `env` and `file`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealKey {
    /// Its name, which stands before what it has sealed.
    pub id: String,
    /// The environment variable that holds it.
    #[serde(default)]
    pub env: Option<String>,
    /// The file that holds it; a newline at its end is ignored.
    #[serde(default)]
    pub file: Option<PathBuf>,
}

/// An etcd cluster.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EtcdStore {
    /// URLs of members, `http://` or `https://`; `host` as in APISIX is the same.
    #[serde(alias = "host")]
    pub endpoints: Vec<String>,
    /// What all keys begin with; default `/sluice`. An APISIX tree is `/apisix`.
    pub prefix: Option<String>,
    /// A user's name; `password` says where its password is.
    pub user: Option<String>,
    /// Where that user's password is.
    pub password: Option<KeySource>,
    /// TLS, for `https://` endpoints.
    pub tls: Option<EtcdTls>,
    /// How long connecting and each answer may take, and how long a member may
    /// be silent until another one is used; default `3s`.
    #[serde(deserialize_with = "some_duration")]
    pub timeout: Option<Duration>,
}

/// TLS towards etcd: files in PEM, read again for every connection.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdTls {
    /// The certificates that sign the members' own.
    pub ca: PathBuf,
    /// This node's certificate, where members ask for one; with `key`.
    #[serde(default)]
    pub cert: Option<PathBuf>,
    /// The key of that certificate.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// The name that members' certificates are for; default: the endpoint's host.
    #[serde(default)]
    pub server_name: Option<String>,
}

/// The control plane's addresses.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Status and health (`/v1/…`, `/status`), default `127.0.0.1:9090`; `off` for none.
    pub status: Address,
    /// Prometheus metrics, default `127.0.0.1:9091`; `off` for none.
    pub metrics: Address,
    /// The Admin API (`/apisix/admin/…`), default `127.0.0.1:9180`; `off` for none.
    pub api: Address,
    /// Who may use the Admin API. Default: whoever has the key in the
    /// environment variable `SLUICE_ADMIN_KEY`; without that everyone, which
    /// only a loopback address allows.
    pub keys: Vec<AdminKey>,
    /// Changes through the Admin API that are kept, the newest; default 1000,
    /// 1 to 10000. One takes at most 256 KiB.
    #[serde(deserialize_with = "history_length")]
    pub history: u16,
}

/// A key of the Admin API. Exactly one of `env` and `file` says where it is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminKey {
    /// Whose it is, in the log and in the history.
    pub name: String,
    /// What it allows: `admin` (the default) or `viewer`.
    #[serde(default)]
    pub role: AdminRole,
    /// The environment variable that holds it.
    #[serde(default)]
    pub env: Option<String>,
    /// The file that holds it; a newline at its end is ignored.
    #[serde(default)]
    pub file: Option<PathBuf>,
}

/// What a key of the Admin API allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdminRole {
    /// Everything.
    #[default]
    Admin,
    /// Reading.
    Viewer,
}

/// The environment variable with the key of the Admin API where the boot file
/// names none; the command line sends it as well.
pub const ADMIN_KEY_VARIABLE: &str = "SLUICE_ADMIN_KEY";
/// The shortest key of the Admin API, in bytes.
pub const ADMIN_KEY_BYTES_MIN: usize = 8;

impl Default for Admin {
    fn default() -> Self {
        Self {
            status: Address::loopback(9090),
            metrics: Address::loopback(9091),
            api: Address::loopback(9180),
            keys: Vec::new(),
            history: 1000,
        }
    }
}

fn history_length<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    match u16::deserialize(deserializer)? {
        length @ 1..=10_000 => Ok(length),
        other => Err(serde::de::Error::custom(format!("{other} is not between 1 and 10000"))),
    }
}

/// An address to listen on, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address(pub Option<SocketAddr>);

impl Address {
    fn loopback(port: u16) -> Self {
        Self(Some(SocketAddr::from(([127, 0, 0, 1], port))))
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "off" {
            return Ok(Self(None));
        }
        text.parse().map(|address| Self(Some(address))).map_err(|_| {
            serde::de::Error::custom(format!("`{text}` is neither an address such as 127.0.0.1:9090 nor off"))
        })
    }
}

/// How the process ends on SIGTERM.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// How long requests and sessions under way may take to end; default `30s`.
    #[serde(deserialize_with = "duration")]
    pub deadline: Duration,
    /// How long `/status/ready` says no before the listeners close, for a
    /// balancer in front to notice; default `0s`.
    #[serde(deserialize_with = "duration")]
    pub notice: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(30), notice: Duration::ZERO }
    }
}

/// Where a secret comes from; never the secret itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum KeySource {
    /// The name of an environment variable.
    Env(String),
    /// A file, its trailing newline ignored.
    File(PathBuf),
}

/// Why the boot file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The boot file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not valid.
    #[error("{}: {message}", path.display())]
    Invalid {
        /// The boot file.
        path: PathBuf,
        /// Field, value and reason.
        message: String,
    },
    /// A secret that is referred to is not there.
    #[error("fleet_key: {0}")]
    Key(String),
    /// A key of the Admin API cannot be used, or one is needed.
    #[error("admin.{0}")]
    AdminKey(String),
    /// The store that is asked for is not in this build.
    #[error("store: {0}")]
    Store(String),
}

/// The shortest fleet key that is accepted, in bytes: the width of the MAC.
pub const FLEET_KEY_BYTES_MIN: usize = 32;

impl Boot {
    /// Reads `path`. Paths inside the file are relative to it.
    ///
    /// # Errors
    /// Names the file, the field and the value.
    pub fn read(path: &Path) -> Result<Self, BootError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| BootError::Read { path: path.to_owned(), source })?;
        let mut boot =
            Self::parse(&text).map_err(|message| BootError::Invalid { path: path.to_owned(), message })?;
        let base = path.parent().unwrap_or(Path::new("."));
        let absolute = |p: &mut PathBuf| *p = base.join(&*p);
        boot.store.directory.get_or_insert_with(|| "conf".into());
        boot.store.encryption.iter_mut().filter_map(|key| key.file.as_mut()).for_each(absolute);
        if let Some(etcd) = &mut boot.store.etcd {
            if let Some(KeySource::File(file)) = &mut etcd.password {
                absolute(file);
            }
            if let Some(tls) = &mut etcd.tls {
                absolute(&mut tls.ca);
                tls.cert.as_mut().map(absolute);
                tls.key.as_mut().map(absolute);
            }
        }
        boot.store.directory.as_mut().map(absolute);
        boot.cache_dir.as_mut().map(absolute);
        boot.takeover.as_mut().map(absolute);
        if let Some(KeySource::File(file)) = &mut boot.fleet_key {
            absolute(file);
        }
        boot.admin.keys.iter_mut().filter_map(|key| key.file.as_mut()).for_each(absolute);
        if let LogTarget::File(file) = &mut boot.log.access {
            absolute(file);
        }
        Ok(boot)
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(Self::default());
        }
        let boot: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        for (field, value) in [("node.id", &boot.node.id), ("node.region", &boot.node.region)] {
            let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if value.is_empty() || value.len() > 64 || !value.chars().all(fine) {
                return Err(format!("{field}: `{value}` is not 1 to 64 letters, digits, `-`, `_` or `.`"));
            }
        }
        if boot.store.etcd.is_none() && !boot.store.encryption.is_empty() {
            return Err(
                "store.encryption: is of an etcd store; a directory's files are as they are".to_owned()
            );
        }
        if boot.store.etcd.is_some() && boot.store.directory.is_some() {
            return Err("store: only one of directory and etcd can be read".to_owned());
        }
        boot.log.validate()?;
        boot.trace.origin()?;
        if boot.threads > 1024 {
            return Err(format!("threads: {} is over the limit of 1024", boot.threads));
        }
        Ok(boot)
    }

    /// How the etcd cluster is reached, if there is one.
    ///
    /// # Errors
    /// Names the field that is wrong or the secret that is not there.
    pub fn etcd(&self) -> Result<Option<EtcdOptions>, BootError> {
        let Some(etcd) = &self.store.etcd else { return Ok(None) };
        let fault = |message: String| BootError::Store(message);
        let defaults = EtcdOptions::default();
        let user = match (&etcd.user, &etcd.password) {
            (None, None) => None,
            (Some(name), Some(source)) => {
                let (bytes, origin) =
                    source.read().map_err(|error| fault(format!("etcd.password: {error}")))?;
                let password = String::from_utf8(bytes)
                    .map_err(|_| fault(format!("etcd.password: {origin} is not UTF-8 text")))?;
                Some(Secret { name: name.clone(), password })
            }
            _ => return Err(fault("etcd: user and password go together".to_owned())),
        };
        let tls = match &etcd.tls {
            None => None,
            Some(tls) => {
                let identity = match (&tls.cert, &tls.key) {
                    (None, None) => None,
                    (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
                    _ => return Err(fault("etcd.tls: cert and key go together".to_owned())),
                };
                Some(TlsFiles { ca: tls.ca.clone(), identity, server_name: tls.server_name.clone() })
            }
        };
        let options = EtcdOptions {
            endpoints: etcd.endpoints.clone(),
            prefix: etcd.prefix.clone().unwrap_or(defaults.prefix),
            user,
            tls,
            timeout: etcd.timeout.unwrap_or(defaults.timeout),
            sealer: self.sealer()?.map(Arc::new),
        };
        options.check().map_err(|error| fault(format!("etcd.{error}")))?;
        Ok(Some(options))
    }

    /// What seals private keys, if there are keys for it.
    fn sealer(&self) -> Result<Option<Sealer>, BootError> {
        let mut keys = Vec::new();
        for (index, key) in self.store.encryption.iter().enumerate() {
            let fault = |message: String| BootError::Store(format!("encryption[{index}]: {message}"));
            let source = match (&key.env, &key.file) {
                (Some(name), None) => KeySource::Env(name.clone()),
                (None, Some(file)) => KeySource::File(file.clone()),
                _ => return Err(fault("needs one of env and file".to_owned())),
            };
            keys.push((key.id.clone(), source.read().map_err(fault)?.0));
        }
        if keys.is_empty() {
            return Ok(None);
        }
        let sealer = Sealer::new(&keys).map_err(|error| BootError::Store(format!("encryption: {error}")))?;
        Ok(Some(sealer))
    }

    /// Worker threads to start.
    #[must_use]
    pub fn workers(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            n => n,
        }
    }

    /// The keys of the Admin API; none when everyone may use it.
    ///
    /// # Errors
    /// When a variable or file is not there, a key is too short, a name is used
    /// twice, or everyone may use an address that others can reach.
    pub fn admin_keys(&self) -> Result<Vec<AccessKey>, BootError> {
        let fault = |message: String| BootError::AdminKey(message);
        let mut keys: Vec<AccessKey> = Vec::new();
        for (index, key) in self.admin.keys.iter().enumerate() {
            let field = format!("keys[{index}]");
            let source = match (&key.env, &key.file) {
                (Some(name), None) => KeySource::Env(name.clone()),
                (None, Some(file)) => KeySource::File(file.clone()),
                _ => return Err(fault(format!("{field}: needs one of env and file"))),
            };
            let is_taken = self.admin.keys[..index].iter().any(|other| other.name == key.name);
            if key.name.is_empty() || key.name.len() > 64 || is_taken {
                return Err(fault(format!("{field}.name: {:?} is empty, too long or taken", key.name)));
            }
            let (bytes, origin) = source.read().map_err(|message| fault(format!("{field}: {message}")))?;
            keys.push(admin_key(&key.name, key.role, &bytes, &format!("{field}: {origin}")).map_err(fault)?);
        }
        if let (true, Some(value)) = (keys.is_empty(), std::env::var_os(ADMIN_KEY_VARIABLE)) {
            let origin = format!("keys: environment variable {ADMIN_KEY_VARIABLE}");
            let bytes = value.into_encoded_bytes();
            keys.push(admin_key("default", AdminRole::Admin, &bytes, &origin).map_err(fault)?);
        }
        if let (true, Some(address)) = (keys.is_empty(), self.admin.api.0.filter(|at| !at.ip().is_loopback()))
        {
            let message =
                format!("keys: the Admin API at {address} can be reached by others and needs a key");
            return Err(fault(message));
        }
        Ok(keys)
    }

    /// The fleet key's bytes, if one is configured.
    ///
    /// # Errors
    /// When the variable or file is not there, or the key is too short.
    pub fn fleet_key(&self) -> Result<Option<Vec<u8>>, BootError> {
        let Some(source) = &self.fleet_key else { return Ok(None) };
        let (key, origin) = source.read().map_err(BootError::Key)?;
        if key.len() < FLEET_KEY_BYTES_MIN {
            let message =
                format!("{origin} holds {} bytes, at least {FLEET_KEY_BYTES_MIN} are needed", key.len());
            return Err(BootError::Key(message));
        }
        Ok(Some(key))
    }
}

impl KeySource {
    /// The secret, and where it was.
    fn read(&self) -> Result<(Vec<u8>, String), String> {
        match self {
            Self::Env(name) => {
                let value =
                    std::env::var(name).map_err(|_| format!("environment variable {name} is not set"))?;
                Ok((value.into_bytes(), format!("environment variable {name}")))
            }
            Self::File(path) => {
                let mut bytes =
                    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
                while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                    bytes.pop();
                }
                Ok((bytes, path.display().to_string()))
            }
        }
    }
}

fn admin_key(name: &str, role: AdminRole, bytes: &[u8], origin: &str) -> Result<AccessKey, String> {
    if bytes.len() < ADMIN_KEY_BYTES_MIN || !bytes.iter().all(u8::is_ascii_graphic) {
        return Err(format!(
            "{origin} holds {} bytes; a key has at least {ADMIN_KEY_BYTES_MIN} visible ASCII characters",
            bytes.len()
        ));
    }
    let role = match role {
        AdminRole::Admin => Role::Admin,
        AdminRole::Viewer => Role::Viewer,
    };
    Ok(AccessKey::new(name, role, bytes))
}

fn some_duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let time = duration(deserializer)?;
    if time.is_zero() {
        return Err(serde::de::Error::custom("a time of 0 leaves no time for an answer"));
    }
    Ok(Some(time))
}

/// A duration as `10s`, `300ms`, `2m`, `1h` or a number of seconds.
fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Seconds(f64),
        Text(String),
    }
    let (text, unit) = match Form::deserialize(deserializer)? {
        Form::Seconds(seconds) => (seconds.to_string(), 1.0),
        Form::Text(text) => {
            let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len();
            let unit = match &text[digits..] {
                "ms" => 0.001,
                "s" | "" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => f64::NAN,
            };
            (text[..digits].to_owned(), unit)
        }
    };
    let seconds = text.parse::<f64>().unwrap_or(f64::NAN) * unit;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|duration| *duration <= Duration::from_secs(24 * 3600))
        .ok_or_else(|| {
            serde::de::Error::custom(format!("`{text}` is not a duration such as 10s, of a day at most"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_a_working_node_on_loopback() {
        let boot = Boot::parse("# nothing\n").unwrap();
        assert_eq!(boot.admin.status, Address::loopback(9090));
        assert_eq!(boot.shutdown.deadline, Duration::from_secs(30));
    }

    #[test]
    fn every_field_is_read() {
        let boot = Boot::parse(
            "node: {id: edge-1, region: hk}\nstore: {directory: d}\nadmin: {status: 'off', metrics: '127.0.0.1:1'}\n\
             threads: 2\nlog: {access: 'off', level: debug, format: json}\nshutdown: {deadline: 500ms, notice: 2}\n\
             takeover: t.sock\nfleet_key: {env: K}\ncache_dir: c\n",
        )
        .unwrap();
        assert_eq!(boot.node.id, "edge-1");
        assert_eq!(boot.admin.status, Address(None));
        assert_eq!(boot.shutdown.deadline, Duration::from_millis(500));
        assert_eq!(boot.shutdown.notice, Duration::from_secs(2));
    }

    #[test]
    fn keys_of_the_admin_api_come_from_files_and_are_needed_where_others_reach_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a-long-enough-key\n").unwrap();
        let path = file.path().display();
        let keys = |text: &str| Boot::parse(text).unwrap().admin_keys().map_err(|error| error.to_string());
        let text =
            format!("admin: {{api: '0.0.0.0:1', keys: [{{name: ops, role: viewer, file: '{path}'}}]}}\n");
        assert_eq!(keys(&text).unwrap().len(), 1);
        for (text, words) in [
            ("admin: {api: '0.0.0.0:1'}\n".to_owned(), "admin.keys: the Admin API at 0.0.0.0:1"),
            ("admin: {keys: [{name: a}]}\n".to_owned(), "admin.keys[0]: needs one of env and file"),
            ("admin: {keys: [{name: a, env: SLUICE_NOT_SET}]}\n".to_owned(), "SLUICE_NOT_SET is not set"),
            (
                format!("admin: {{keys: [{{name: a, file: '{path}'}}, {{name: a, file: '{path}'}}]}}\n"),
                "admin.keys[1].name: \"a\"",
            ),
        ] {
            let error = keys(&text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        std::fs::write(file.path(), "short\n").unwrap();
        let error = keys(&text).unwrap_err();
        assert!(error.contains("holds 5 bytes") && !error.contains("short\""), "{error}");
    }

    #[test]
    fn a_bad_file_names_field_and_value() {
        for (text, words) in [
            ("nod: {}\n", ["nod", "unknown"]),
            ("admin: {status: here}\n", ["here", "off"]),
            ("shutdown: {deadline: 3 parsecs}\n", ["3", "duration"]),
            ("node: {id: 'a b'}\n", ["node.id", "a b"]),
            ("threads: 4096\n", ["threads", "4096"]),
            ("threads: -1\n", ["threads", "line 1"]),
            ("store: {directory: d, etcd: {endpoints: ['http://a:1']}}\n", ["store", "only one"]),
            ("store: {etcd: {timeout: 0}}\n", ["time of 0", "no time"]),
            ("store: {etcd: {tls: {}}}\n", ["ca", "missing"]),
            ("log: {headers: [cookie]}\n", ["log.headers", "cookie"]),
        ] {
            let error = Boot::parse(text).unwrap_err();
            for word in words {
                assert!(error.contains(word), "{text}: {error} lacks {word}");
            }
        }
    }
}
