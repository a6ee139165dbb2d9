//! Who may bring modules in: signatures judged before anything of a component
//! is compiled.
//!
//! [`Trust::judge`] compares what was signed with what the module object says,
//! and the signature with the keys of `trust_keys`. What has served is
//! remembered in `cache_dir`, so that an older version does not come back.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::config::Id;
use crate::config::objects::{Module, ModuleSignature, ModuleVersion, TrustKey};
use crate::config::signature::{PublicKey, SignatureBytes};

/// The interfaces this build has for components, as signatures name them.
pub const WORLDS: [&str; 3] = ["sluice:plugin@0.1.0", "wasi:http@0.2", "wasi:http@0.3"];

/// Signatures whose check is remembered; beyond it all are checked again.
const CHECKED_MAX: usize = 4096;

/// Which modules a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrustPolicy {
    /// All; signatures are shown, and none is needed.
    #[default]
    Off,
    /// Those that a trust key signed.
    Required,
}

/// Where a version comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provenance {
    /// Nobody says so.
    Unsigned,
    /// A trust key.
    Signed {
        /// Its id.
        key: Id,
        /// The version's rising number.
        number: u64,
        /// When the signature ends, in seconds since 1970.
        expires: Option<i64>,
    },
    /// It has a signature that does not count here, which this node allows.
    Unproven(TrustFault),
}

/// Why a signature does not count. Each is told with what was signed and what
/// was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustFault {
    /// There is none.
    #[error("is not signed, and this node runs signed modules only")]
    Unsigned,
    /// Its key is not known.
    #[error("is signed by the key {0:?}, which is not among trust_keys")]
    UnknownKey(Id),
    /// Its key was taken back.
    #[error("is signed by the key {0:?}, which is revoked")]
    Revoked(Id),
    /// Its key has ended.
    #[error("is signed by the key {0:?}, which ended at {1}")]
    KeyEnded(Id, String),
    /// Its key is of other modules.
    #[error("is signed by the key {0:?}, which may not sign modules of this name")]
    NotItsModule(Id),
    /// It was signed under another name.
    #[error("is signed as a version of {0:?}")]
    OtherName(Id),
    /// It was signed as another version.
    #[error("is signed as version {0:?}")]
    OtherVersion(String),
    /// Other bytes were signed.
    #[error("has other bytes than were signed: signed {signed}, listed {listed}")]
    OtherBytes {
        /// The digest in the signature.
        signed: String,
        /// The digest in the object.
        listed: String,
    },
    /// It is granted more than was signed.
    #[error("is granted {kind}: {name}, which was not signed")]
    OtherGrant {
        /// `fetch`, `kv` or `store`.
        kind: &'static str,
        /// The host or namespace.
        name: String,
    },
    /// It is made for interfaces this build does not have.
    #[error("is made for {0}; this build has {known}", known = WORLDS.join(", "))]
    OtherWorld(String),
    /// The signature's time is over.
    #[error("has a signature that expired at {0}")]
    Expired(String),
    /// The signature is not the key's, or not of this text.
    #[error("has a signature that is not of the key {0:?}, or not of what it says")]
    NotOfKey(Id),
    /// A later version has served here.
    #[error("has the number {number}, and versions below {floor} do not run any more on this node")]
    Older {
        /// Its number.
        number: u64,
        /// What the version that served asked for.
        floor: u64,
    },
}

impl TrustFault {
    /// Whether it is what the trust keys say now, which stops what runs. Time that
    /// passes does not, nor does what a module's object says later.
    #[must_use]
    pub fn is_of_keys(&self) -> bool {
        matches!(self, Self::UnknownKey(_) | Self::Revoked(_) | Self::NotItsModule(_) | Self::NotOfKey(_))
    }
}

/// The keys that count, and what has served.
#[derive(Debug, Default)]
pub struct Trust {
    policy: TrustPolicy,
    keys: HashMap<Id, Arc<TrustKey>>,
    floors: Floors,
    /// Outcomes of the arithmetic, which a chain that is built again need not repeat.
    checked: Mutex<HashMap<(PublicKey, SignatureBytes), Checked>>,
}

impl Trust {
    /// A policy; the numbers that have served are kept in `file`, or forgotten
    /// with the process.
    #[must_use]
    pub fn new(policy: TrustPolicy, file: Option<PathBuf>) -> Self {
        Self { policy, floors: Floors::load(file), ..Self::default() }
    }

    /// Whether only signed modules run.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.policy == TrustPolicy::Required
    }

    /// Takes up a key, or lets it go.
    pub fn put_key(&mut self, id: &Id, key: Option<Arc<TrustKey>>) {
        match key {
            Some(key) => drop(self.keys.insert(id.clone(), key)),
            None => drop(self.keys.remove(id)),
        }
    }

    /// Where a version of a module comes from.
    ///
    /// # Errors
    /// Why this node does not run it.
    pub fn judge(&self, module: &Module, version: &ModuleVersion) -> Result<Provenance, TrustFault> {
        let found = self.examine(module, version, now());
        match (found, self.policy) {
            (Err(TrustFault::Unsigned), TrustPolicy::Off) => Ok(Provenance::Unsigned),
            (Err(fault), TrustPolicy::Off) => Ok(Provenance::Unproven(fault)),
            (found, _) => found,
        }
    }

    fn examine(&self, module: &Module, version: &ModuleVersion, now: i64) -> Result<Provenance, TrustFault> {
        let signature = version.signature.as_deref().ok_or(TrustFault::Unsigned)?;
        let key = self.key_of(signature, &module.id, now)?;
        compare(signature, module, version)?;
        if let Some(expires) = signature.expires.filter(|expires| *expires <= now) {
            return Err(TrustFault::Expired(crate::config::objects::moment(expires)));
        }
        if !self.verifies(&key.key, signature) {
            return Err(TrustFault::NotOfKey(signature.key.clone()));
        }
        let (number, floor) = (signature.number, self.floors.of(&module.id));
        if number < floor {
            return Err(TrustFault::Older { number, floor });
        }
        Ok(Provenance::Signed { key: signature.key.clone(), number, expires: signature.expires })
    }

    fn key_of(&self, signature: &ModuleSignature, module: &Id, now: i64) -> Result<&TrustKey, TrustFault> {
        let id = &signature.key;
        let key = self.keys.get(id).ok_or_else(|| TrustFault::UnknownKey(id.clone()))?;
        if key.revoked {
            return Err(TrustFault::Revoked(id.clone()));
        }
        if let Some(end) = key.not_after.filter(|end| *end <= now) {
            return Err(TrustFault::KeyEnded(id.clone(), crate::config::objects::moment(end)));
        }
        if !key.modules.is_empty() && !key.modules.contains(module) {
            return Err(TrustFault::NotItsModule(id.clone()));
        }
        Ok(key)
    }

    fn verifies(&self, key: &PublicKey, signature: &ModuleSignature) -> bool {
        let manifest = signature.manifest();
        let place = (*key, signature.value);
        if let Some((text, outcome)) = self.checked.lock().get(&place)
            && **text == *manifest
        {
            return *outcome;
        }
        let outcome = key.verifies(manifest.as_bytes(), &signature.value);
        let mut checked = self.checked.lock();
        if checked.len() >= CHECKED_MAX {
            checked.clear();
        }
        checked.insert(place, (manifest.into(), outcome));
        outcome
    }

    /// Notes that a version serves: those that its signature rules out do not
    /// come back.
    pub fn serves(&mut self, module: &Id, version: &ModuleVersion, provenance: &Provenance) {
        if let (Provenance::Signed { .. }, Some(signature)) = (provenance, &version.signature) {
            self.floors.raise(module, signature.floor());
        }
    }
}

/// A text, and whether it is what was signed.
type Checked = (Box<str>, bool);

/// What was signed against what the object says.
fn compare(signature: &ModuleSignature, module: &Module, version: &ModuleVersion) -> Result<(), TrustFault> {
    if signature.name != module.id {
        return Err(TrustFault::OtherName(signature.name.clone()));
    }
    if signature.version != version.version {
        return Err(TrustFault::OtherVersion(signature.version.clone()));
    }
    if signature.digest != version.digest {
        return Err(TrustFault::OtherBytes {
            signed: signature.digest.to_string(),
            listed: version.digest.to_string(),
        });
    }
    if !WORLDS.contains(&signature.world.as_str()) {
        return Err(TrustFault::OtherWorld(signature.world.clone()));
    }
    for ((kind, given), (_, signed)) in module.grants.kinds().into_iter().zip(signature.grants.kinds()) {
        if let Some(name) = given.iter().find(|name| !signed.contains(name)) {
            return Err(TrustFault::OtherGrant { kind, name: name.clone() });
        }
    }
    Ok(())
}

/// The least number that still runs, by module.
#[derive(Debug, Default)]
struct Floors {
    file: Option<PathBuf>,
    least: BTreeMap<Id, u64>,
}

impl Floors {
    fn load(file: Option<PathBuf>) -> Self {
        let least = match file.as_ref().map(std::fs::read) {
            Some(Ok(bytes)) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::error!(file = ?file, %error, "which versions of modules have served cannot be read; older ones may run");
                BTreeMap::new()
            }),
            _ => BTreeMap::new(),
        };
        Self { file, least }
    }

    fn of(&self, module: &Id) -> u64 {
        self.least.get(module).copied().unwrap_or_default()
    }

    fn raise(&mut self, module: &Id, floor: u64) {
        if floor <= self.of(module) {
            return;
        }
        self.least.insert(module.clone(), floor);
        if let Err(error) = self.save() {
            tracing::error!(file = ?self.file, %error, "which versions of modules have served cannot be kept");
        }
    }

    fn save(&self) -> std::io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let new = file.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(&self.least)?)?;
        std::fs::rename(&new, file)
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Digest;
    use crate::config::objects::parse;
    use crate::config::signature::SigningKey;

    struct Rig {
        key: SigningKey,
        trust: Trust,
    }

    impl Rig {
        fn new() -> Self {
            let key = SigningKey::generate().unwrap();
            let mut rig = Self { key, trust: Trust::new(TrustPolicy::Required, None) };
            rig.trust_key(json!({}));
            rig
        }

        fn trust_key(&mut self, more: Value) {
            let mut value = more;
            value["key"] = json!(self.key.public().to_string());
            let id = Id::new("ops").unwrap();
            let key: TrustKey = parse(&id, &value).unwrap();
            self.trust.put_key(&id, Some(Arc::new(key)));
        }

        /// A module whose version is signed with these fields over the usual ones.
        fn module(&self, signed: Value, object: Value) -> Module {
            let digest = Digest::of(b"component").to_string();
            let mut signature = json!({
                "key": "ops", "name": "waf", "version": "2", "digest": digest,
                "world": "sluice:plugin@0.1.0", "number": 2, "grants": {"kv": ["waf"]},
                "value": SigningKey::generate().unwrap().sign(b"").to_string(),
            });
            let parsed = |signature: &Value| serde_json::from_value::<ModuleSignature>(signature.clone());
            signature.as_object_mut().unwrap().extend(signed.as_object().unwrap().clone());
            let value = self.key.sign(parsed(&signature).unwrap().manifest().as_bytes());
            signature["value"] = json!(value.to_string());
            let mut whole = json!({"versions": [{"version": "2", "digest": digest, "signature": signature}], "grants": {"kv": ["waf"]}});
            whole.as_object_mut().unwrap().extend(object.as_object().unwrap().clone());
            parse(&Id::new("waf").unwrap(), &whole).unwrap()
        }

        fn judge(&self, module: &Module) -> Result<Provenance, String> {
            self.trust.judge(module, module.serving().unwrap()).map_err(|fault| fault.to_string())
        }
    }

    #[test]
    fn only_what_was_signed_runs() {
        let rig = Rig::new();
        let good = rig.module(json!({}), json!({}));
        assert!(matches!(rig.judge(&good), Ok(Provenance::Signed { number: 2, .. })));
        let fewer = rig.module(json!({}), json!({"grants": {}}));
        assert!(rig.judge(&fewer).is_ok(), "fewer grants than were signed");
        for (signed, object, told) in [
            (json!({"name": "other"}), json!({}), "signed as a version of \"other\""),
            (json!({"version": "3"}), json!({}), "signed as version \"3\""),
            (json!({"digest": Digest::of(b"x").to_string()}), json!({}), "other bytes than were signed"),
            (json!({"world": "sluice:plugin@9.0.0"}), json!({}), "made for sluice:plugin@9.0.0"),
            (json!({"expires": 1}), json!({}), "expired at 1970-01-01T00:00:01Z"),
            (json!({"key": "else"}), json!({}), "not among trust_keys"),
            (json!({}), json!({"grants": {"kv": ["waf", "all"]}}), "granted kv: all"),
            (json!({}), json!({"grants": {"fetch": ["a.example"]}}), "granted fetch: a.example"),
        ] {
            let error = rig.judge(&rig.module(signed.clone(), object)).unwrap_err();
            assert!(error.contains(told), "{signed}: {error}");
        }
        let mut tampered = good.clone();
        let version = &mut tampered.versions[0];
        version.signature.as_mut().unwrap().number = 3;
        assert!(rig.judge(&tampered).unwrap_err().contains("not of what it says"));
        let mut bare = good;
        bare.versions[0].signature = None;
        assert!(rig.judge(&bare).unwrap_err().contains("is not signed"));
    }

    #[test]
    fn keys_end_are_revoked_and_have_their_modules() {
        let mut rig = Rig::new();
        let module = rig.module(json!({}), json!({}));
        for (key, told) in [
            (json!({"revoked": true}), "is revoked"),
            (json!({"not_after": 1}), "ended at 1970"),
            (json!({"modules": ["other"]}), "may not sign modules of this name"),
        ] {
            rig.trust_key(key);
            assert!(rig.judge(&module).unwrap_err().contains(told));
        }
        rig.trust_key(json!({"modules": ["other", "waf"], "not_after": 99_999_999_999_i64}));
        assert!(rig.judge(&module).is_ok());
        rig.trust.put_key(&Id::new("ops").unwrap(), None);
        assert!(rig.judge(&module).unwrap_err().contains("not among trust_keys"));
    }

    #[test]
    fn an_older_version_does_not_come_back_after_a_restart_either() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trust/floors.json");
        let mut rig = Rig::new();
        rig.trust = Trust::new(TrustPolicy::Required, Some(file.clone()));
        rig.trust_key(json!({}));
        let new = rig.module(json!({"number": 7, "floor": 5}), json!({}));
        let provenance = rig.judge(&new).unwrap();
        rig.trust.serves(&new.id, &new.versions[0], &provenance);
        for (number, is_good) in [(4, false), (5, true), (6, true)] {
            let older = rig.module(json!({"number": number}), json!({}));
            assert_eq!(rig.judge(&older).is_ok(), is_good, "{number}");
        }
        rig.trust = Trust::new(TrustPolicy::Required, Some(file));
        rig.trust_key(json!({}));
        let error = rig.judge(&rig.module(json!({"number": 4}), json!({}))).unwrap_err();
        assert_eq!(error, "has the number 4, and versions below 5 do not run any more on this node");
    }

    #[test]
    fn without_a_policy_all_run_and_it_is_said_what_they_are() {
        let mut rig = Rig::new();
        rig.trust = Trust::new(TrustPolicy::Off, None);
        let module = rig.module(json!({}), json!({}));
        let unknown = TrustFault::UnknownKey(Id::new("ops").unwrap());
        assert_eq!(rig.judge(&module), Ok(Provenance::Unproven(unknown)));
        let mut bare = module;
        bare.versions[0].signature = None;
        assert_eq!(rig.judge(&bare), Ok(Provenance::Unsigned));
    }
}
