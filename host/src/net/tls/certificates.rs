//! Certificates by server name.
//!
//! Two sharded maps, from names and from ids to entries. A change copies the
//! shards it touches and shares the rest with the version before, so swapping
//! one of ten thousand objects costs a hundredth of the table.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::server::ClientHello;
use rustls::version::{TLS12, TLS13};
use smallvec::SmallVec;

use super::keys::Keys;
use super::{ClientAuth, Fingerprint, Sessions, TlsProfile, provider};
use crate::config::objects::{Ssl, SslRole, TlsVersion};
use crate::config::{Id, Kind, ObjectError};

const SHARDS: usize = 128;
/// Server configurations an entry keeps, one for each way listeners use it.
const CONFIGS_MAX: usize = 16;

type Shard<K, V> = Arc<HashMap<K, V>>;

/// All certificates shown to clients, at one moment. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// By name; wildcards by what follows the star.
    exact: Vec<Shard<Box<str>, Group>>,
    wildcard: Vec<Shard<Box<str>, Group>>,
    by_id: Vec<Shard<Id, Arc<Entry>>>,
    /// Wildcards whose star is part of a label (`*api.example`).
    partial_wildcards: usize,
    client_rules: usize,
}

/// The entries that cover one name, by id.
type Group = SmallVec<[Arc<Entry>; 1]>;

/// The certificates of one `ssls` object.
#[derive(Debug)]
pub struct Entry {
    id: Id,
    names: Vec<Box<str>>,
    keys: Arc<Keys>,
    client: Option<Arc<ClientAuth>>,
    versions: Option<Vec<TlsVersion>>,
    warnings: Vec<String>,
    sessions: Sessions,
    configs: Mutex<Vec<(Fingerprint, Arc<ServerConfig>)>>,
}

impl Entry {
    /// Builds what an object says; nothing for one that is switched off or is
    /// meant for upstreams.
    ///
    /// # Errors
    /// When a certificate, key or authority is unusable; the field is named.
    pub fn build(ssl: &Ssl, sessions: &Sessions) -> Result<Option<Self>, ObjectError> {
        if ssl.role != SslRole::Server || !ssl.status.is_enabled() {
            return Ok(None);
        }
        let provider = provider();
        let (keys, warnings) = Keys::build(ssl, &provider)?;
        let client = match &ssl.client {
            None => None,
            Some(client) => {
                let rule = ClientAuth::of_ssl(client, &provider).map_err(|(field, message)| {
                    ObjectError::new(Kind::Ssls, &ssl.id, format!("client.{field}"), message)
                })?;
                Some(Arc::new(rule))
            }
        };
        let mut names: Vec<Box<str>> = ssl.all_snis().map(|name| normal(name).into()).collect();
        names.sort();
        names.dedup();
        Ok(Some(Self {
            id: ssl.id.clone(),
            names,
            keys: Arc::new(keys),
            client,
            versions: ssl.ssl_protocols.clone(),
            warnings,
            sessions: sessions.clone(),
            configs: Mutex::default(),
        }))
    }

    /// The object's id.
    #[must_use]
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// What an operator should be told of it, as that a certificate expired.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The rule for client certificates under `profile`.
    pub(super) fn client_rule<'a>(&'a self, profile: &'a TlsProfile) -> Option<&'a Arc<ClientAuth>> {
        self.client.as_ref().or(profile.client.as_ref())
    }

    fn rule_fingerprint(&self) -> Option<&Fingerprint> {
        self.client.as_ref().map(|client| client.fingerprint())
    }

    /// The server configuration under `profile`; none when no version of TLS
    /// is in both.
    pub(super) fn config(&self, profile: &TlsProfile) -> Option<Arc<ServerConfig>> {
        let mut configs = self.configs.lock();
        if let Some((_, known)) = configs.iter().find(|(print, _)| *print == profile.fingerprint) {
            return Some(Arc::clone(known));
        }
        let config = Arc::new(self.build_config(profile)?);
        if configs.len() >= CONFIGS_MAX {
            configs.remove(0);
        }
        configs.push((profile.fingerprint, Arc::clone(&config)));
        Some(config)
    }

    fn build_config(&self, profile: &TlsProfile) -> Option<ServerConfig> {
        let is_allowed = |version: TlsVersion| {
            profile.versions.contains(&version)
                && self.versions.as_ref().is_none_or(|own| own.contains(&version))
        };
        let mut versions = Vec::with_capacity(2);
        if is_allowed(TlsVersion::Tls13) {
            versions.push(&TLS13);
        }
        if is_allowed(TlsVersion::Tls12) {
            versions.push(&TLS12);
        }
        let builder =
            ServerConfig::builder_with_provider(provider()).with_protocol_versions(&versions).ok()?;
        let rule = self.client_rule(profile);
        let builder = match rule {
            None => builder.with_no_client_auth(),
            Some(rule) => builder.with_client_cert_verifier(rule.verifier()),
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&self.keys) as _);
        config.alpn_protocols.clone_from(&profile.alpn);
        let resumption = match profile.has_tickets {
            true => self.sessions.for_rule(rule.map_or(&[0; 32], |rule| rule.fingerprint())),
            false => Sessions::none(),
        };
        config.session_storage = resumption.storage;
        match resumption.ticketer {
            Some(ticketer) => config.ticketer = ticketer,
            None => config.send_tls13_tickets = 0,
        }
        // One ticket serves the next connection; more cost a write each.
        config.send_tls13_tickets = config.send_tls13_tickets.min(1);
        Some(config)
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self {
            exact: vec![Arc::default(); SHARDS],
            wildcard: vec![Arc::default(); SHARDS],
            by_id: vec![Arc::default(); SHARDS],
            partial_wildcards: 0,
            client_rules: 0,
        }
    }
}

impl Certificates {
    /// No certificate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes an entry in, in place of the one with its id. Returns what an
    /// operator should be told: names that another object covers with another
    /// rule for client certificates. Of such a name, only the objects that
    /// agree with the first one that wants client certificates are used:
    /// otherwise a client could pick the rule by the keys it says it knows.
    pub fn insert(&mut self, entry: Arc<Entry>) -> Vec<String> {
        self.remove(&entry.id);
        let mut conflicts = Vec::new();
        for name in &entry.names {
            let group = self.group_mut(name);
            group.push(Arc::clone(&entry));
            group.sort_by(|one, other| one.id.as_str().cmp(other.id.as_str()));
            if let Some(other) =
                group.iter().find(|other| other.rule_fingerprint() != entry.rule_fingerprint())
            {
                conflicts.push(format!(
                    "sni {name} is also covered by ssls/{}, with another rule for client certificates",
                    other.id
                ));
            }
        }
        self.partial_wildcards += entry.partial_wildcards();
        self.client_rules += usize::from(entry.client.is_some());
        let shard = shard_of(&entry.id);
        Arc::make_mut(&mut self.by_id[shard]).insert(entry.id.clone(), entry);
        conflicts
    }

    /// Takes the entry of an object out, if there is one.
    pub fn remove(&mut self, id: &Id) {
        let shard = shard_of(id);
        if !self.by_id[shard].contains_key(id) {
            return;
        }
        let Some(entry) = Arc::make_mut(&mut self.by_id[shard]).remove(id) else { return };
        self.partial_wildcards -= entry.partial_wildcards();
        self.client_rules -= usize::from(entry.client.is_some());
        for name in &entry.names {
            let group = self.group_mut(name);
            group.retain(|other| other.id != *id);
            if group.is_empty() {
                let (maps, key) = self.place(name);
                Arc::make_mut(&mut maps[shard_of(key)]).remove(key);
            }
        }
    }

    /// The entry of an object.
    #[must_use]
    pub fn entry(&self, id: &Id) -> Option<&Arc<Entry>> {
        self.by_id[shard_of(id)].get(id)
    }

    /// Objects in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.iter().map(|shard| shard.len()).sum()
    }

    /// Whether there is no certificate.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.iter().all(|shard| shard.is_empty())
    }

    pub(super) fn has_client_rules(&self) -> bool {
        self.client_rules > 0
    }

    /// The rule for client certificates of a host, under `profile`.
    pub(super) fn client_rule<'a>(
        &'a self,
        host: &str,
        profile: &'a TlsProfile,
    ) -> Option<&'a Arc<ClientAuth>> {
        let group = self.group(host).or_else(|| self.group(profile.fallback_name.as_deref()?));
        match group.and_then(|group| leading(group)) {
            Some(entry) => entry.client_rule(profile),
            None => None,
        }
    }

    /// The entry for a hello: by its name, else by `fallback`.
    pub(super) fn choose(&self, hello: &ClientHello<'_>, fallback: Option<&str>) -> Option<&Arc<Entry>> {
        let named = hello.server_name().and_then(|name| self.group(name));
        let group = named.or_else(|| self.group(fallback?))?;
        let leading = leading(group)?;
        let rule = leading.rule_fingerprint();
        group
            .iter()
            .filter(|entry| entry.rule_fingerprint() == rule)
            .find(|entry| entry.keys.choose(hello).is_some())
            .or(Some(leading))
    }

    /// Exact first, then `*.rest`, then a star within the label, the longest first.
    fn group(&self, name: &str) -> Option<&Group> {
        let name = normal(name);
        let exact = self.exact[shard_of(&name)].get(&*name);
        if exact.is_some() {
            return exact;
        }
        let dot = name.find('.')?;
        let wildcard = |from: usize| {
            let rest = name.get(from..)?;
            self.wildcard[shard_of(rest)].get(rest)
        };
        if dot > 0 && self.partial_wildcards > 0 {
            // Each start within the label but the first: a star stands for something.
            (1..=dot).find_map(wildcard)
        } else if dot > 0 {
            wildcard(dot)
        } else {
            None
        }
    }

    fn place<'a>(&mut self, name: &'a str) -> (&mut Vec<Shard<Box<str>, Group>>, &'a str) {
        match name.strip_prefix('*') {
            Some(rest) => (&mut self.wildcard, rest),
            None => (&mut self.exact, name),
        }
    }

    fn group_mut(&mut self, name: &str) -> &mut Group {
        let (maps, key) = self.place(name);
        Arc::make_mut(&mut maps[shard_of(key)]).entry(key.into()).or_default()
    }
}

impl Entry {
    fn partial_wildcards(&self) -> usize {
        let names = self.names.iter();
        names.filter(|name| name.starts_with('*') && !name.starts_with("*.")).count()
    }
}

/// The entry whose rule for client certificates holds for a group.
fn leading(group: &Group) -> Option<&Arc<Entry>> {
    group.iter().find(|entry| entry.client.is_some()).or_else(|| group.first())
}

/// Lower case, without the root's dot.
fn normal(name: &str) -> std::borrow::Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => name.to_ascii_lowercase().into(),
        false => name.into(),
    }
}

/// Which shard; the keys are the operator's, so the hash needs no secret.
fn shard_of(key: &str) -> usize {
    let hash = FixedState::default().hash_one(key);
    usize::try_from(hash % SHARDS as u64).unwrap_or_default()
}
