//! Modules: Wasm components under a name.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::plugins::{self, BUILT_IN_PLUGINS};
use super::{Labels, ModuleSignature, Object, object_basics, time, units, validate_description};
use crate::config::{Digest, Id, Kind, Problems};

/// The most versions a module object lists.
pub const MODULE_VERSIONS_MAX: usize = 64;
/// The longest name of a version, in characters.
pub const MODULE_VERSION_LENGTH_MAX: usize = 64;
/// The most hosts or namespaces of a grant.
pub const MODULE_GRANTS_MAX: usize = 64;

/// A Wasm component that routes name under `plugins` by this object's id.
///
/// In a directory, `modules/<id>.wasm` alone is a module with one version and
/// the defaults; beside it, `modules/<id>.yaml` may leave `versions` out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// The id, which is its name.
    #[serde(default)]
    pub id: Id,
    /// The same as the id; it may be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A description for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desc: Option<String>,
    /// Labels, for people and for filtering lists.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Its versions, 1 to 64.
    pub versions: Vec<ModuleVersion>,
    /// The version that serves; default: the last of `versions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<String>,
    /// A version to be tried on a part of the traffic; default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<ModuleCanary>,
    /// What becomes of an exchange when the module fails; default `closed`.
    #[serde(default)]
    pub on_failure: ModuleFailure,
    /// How instances are used; default `reuse`, for edge functions `fresh`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<ModuleInstance>,
    /// What it may use.
    #[serde(default, skip_serializing_if = "ModuleLimits::is_default")]
    pub limits: ModuleLimits,
    /// What it is given beyond log, metrics and clock.
    #[serde(default, skip_serializing_if = "ModuleGrants::is_empty")]
    pub grants: ModuleGrants,
    /// Its configuration; routes overlay it field by field at the top level.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub config: Map<String, Value>,
    /// When the version that is tried is taken back by itself.
    #[serde(default, skip_serializing_if = "ModuleRollback::is_default")]
    pub rollback: ModuleRollback,
    /// When it was made, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_time: Option<i64>,
    /// When it was last changed, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_time: Option<i64>,
}

/// One version of a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleVersion {
    /// Its name, such as `1.4.0`.
    pub version: String,
    /// The digest of the component's bytes, `sha256:` and 64 digits.
    pub digest: Digest,
    /// Bytes of the component, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Who vouches for it; see [`ModuleSignature`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Box<ModuleSignature>>,
}

/// On what part of the traffic a version is tried: at least one of `percent`,
/// `nodes` and `regions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleCanary {
    /// The version, one of `versions` and not the one that serves.
    pub version: String,
    /// Hundredths of the clients, more than 0 and at most 100; default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    /// Nodes it is tried on, by id; default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<String>>,
    /// Regions it is tried in; default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regions: Option<Vec<String>>,
    /// Whether it only sees copies of requests, and what it says is compared.
    /// Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<bool>,
    /// Written by the node that took it back: nobody gets it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<ModuleRolledBack>,
}

/// That a version was taken back, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleRolledBack {
    /// The node that did it.
    pub node: String,
    /// When.
    #[serde(default, with = "time", skip_serializing_if = "Option::is_none")]
    pub at: Option<i64>,
    /// Which threshold was passed.
    pub why: String,
    /// Exchanges that had met the version on that node.
    pub exchanges: u64,
}

/// The most nodes or regions of a canary.
pub const MODULE_CANARY_PLACES_MAX: usize = 256;

impl ModuleCanary {
    /// Whether it is tried on a node.
    #[must_use]
    pub fn is_at(&self, node: &str, region: &str) -> bool {
        let names = |list: &Option<Vec<String>>, own: &str| {
            list.as_ref().is_none_or(|list| list.iter().any(|name| name == own))
        };
        names(&self.nodes, node) && names(&self.regions, region)
    }

    /// Whether it only sees copies.
    #[must_use]
    pub fn is_shadow(&self) -> bool {
        self.shadow.unwrap_or_default()
    }

    fn validate(&self, module: &Module, problems: &mut Problems) {
        let is_listed = module.versions.iter().any(|version| version.version == self.version);
        if !is_listed {
            problems.add("canary.version", self.version.as_str(), "is not one of versions");
        } else if module.serving().is_some_and(|version| version.version == self.version) {
            let message = "is the version that serves; name that under active";
            problems.add("canary.version", self.version.as_str(), message);
        }
        if self.percent.is_none() && self.nodes.is_none() && self.regions.is_none() {
            problems.add_plain("canary", "must have one of percent, nodes and regions");
        }
        if let Some(percent) = self.percent
            && !(percent > 0.0 && percent <= 100.0)
        {
            problems.add("canary.percent", percent, "must be more than 0 and at most 100");
        }
        for (field, list) in [("canary.nodes", &self.nodes), ("canary.regions", &self.regions)] {
            if let Some(list) = list
                && !(1..=MODULE_CANARY_PLACES_MAX).contains(&list.len())
            {
                problems.add(field, list.len(), "must be 1 to 256 names");
            }
        }
    }
}

/// What a failure of a module does to the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModuleFailure {
    /// It goes on without the module.
    Open,
    /// It is refused: 503.
    #[default]
    Closed,
}

/// How instances of a module are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModuleInstance {
    /// A few serve all exchanges.
    Reuse,
    /// One is made for each exchange.
    Fresh,
}

/// What a module may use; what is left out has a default by the module's kind.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModuleLimits {
    /// Linear memory of one instance, 64 KiB to 256 MiB; default 16 MiB, edge functions 64 MiB.
    #[serde(deserialize_with = "size_option", skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<u64>,
    /// Time one call may take, 1 ms to 60 s; default 5 ms, edge functions 100 ms.
    #[serde(with = "units::duration_option", skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,
    /// What is added to it for each KiB that a filter is given in the call, 0 to
    /// 100 ms; default 0.5 ms. Edge functions take bodies as they come.
    #[serde(with = "units::duration_option", skip_serializing_if = "Option::is_none")]
    pub deadline_per_kib: Option<Duration>,
    /// Time `configure` may take, 10 ms to 5 min; default 10 s.
    #[serde(with = "units::duration_option", skip_serializing_if = "Option::is_none")]
    pub configure_deadline: Option<Duration>,
    /// Instances at one time, 1 to 1024; default 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Time one fetch may take, 1 ms to 60 s; default 5 s.
    #[serde(with = "units::duration_option", skip_serializing_if = "Option::is_none")]
    pub fetch_timeout: Option<Duration>,
}

impl ModuleLimits {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn size_option<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Option<u64>, D::Error> {
    units::bytes::deserialize(input).map(Some)
}

/// What a module is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModuleGrants {
    /// Hosts it may send requests to: `host`, `host:port` or `*.domain`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fetch: Vec<String>,
    /// Namespaces of the node's key-value store it may use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kv: Vec<String>,
    /// Namespaces of the values that it shares with itself on all nodes, in an etcd
    /// store.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub store: Vec<String>,
}

impl ModuleGrants {
    pub(super) fn is_empty(&self) -> bool {
        self.kinds().iter().all(|(_, list)| list.is_empty())
    }

    /// What is granted, by the names of the fields.
    #[must_use]
    pub fn kinds(&self) -> [(&'static str, &[String]); 3] {
        [("fetch", &self.fetch), ("kv", &self.kv), ("store", &self.store)]
    }
}

/// When a version that is tried is taken back, each node for itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModuleRollback {
    /// Traps and other failures in a minute, 1 to 10000, where a larger share of
    /// its exchanges fails than of the current version's; default 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traps: Option<u32>,
    /// Missed deadlines in a minute, likewise; default 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u32>,
    /// How much longer its calls for one exchange may take, on the mean of at
    /// least 100, than the current version's; default: any.
    #[serde(with = "units::duration_option", skip_serializing_if = "Option::is_none")]
    pub latency: Option<Duration>,
    /// How much larger the share of exchanges it refuses may be, of at least 100,
    /// than the current version's, 0 to 1; default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_rate: Option<f64>,
}

/// Traps in a minute that end a trial, where the object does not say.
pub const MODULE_TRAPS: u32 = 5;
/// Missed deadlines in a minute that end a trial, where the object does not say.
pub const MODULE_DEADLINES: u32 = 20;

impl ModuleRollback {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Traps in a minute that end a trial.
    #[must_use]
    pub fn traps_max(&self) -> u32 {
        self.traps.unwrap_or(MODULE_TRAPS)
    }

    /// Missed deadlines in a minute that end a trial.
    #[must_use]
    pub fn deadlines_max(&self) -> u32 {
        self.deadline.unwrap_or(MODULE_DEADLINES)
    }

    fn validate(&self, problems: &mut Problems) {
        for (field, count) in [("rollback.traps", self.traps), ("rollback.deadline", self.deadline)] {
            if let Some(count) = count
                && !(1..=10_000).contains(&count)
            {
                problems.add(field, count, "must be from 1 to 10000");
            }
        }
        if let Some(rate) = self.block_rate
            && !(0.0..=1.0).contains(&rate)
        {
            problems.add("rollback.block_rate", rate, "must be from 0 to 1");
        }
    }
}

impl Module {
    /// The version that serves.
    #[must_use]
    pub fn serving(&self) -> Option<&ModuleVersion> {
        match &self.active {
            Some(active) => self.versions.iter().find(|version| version.version == *active),
            None => self.versions.last(),
        }
    }

    fn validate_versions(&self, problems: &mut Problems) {
        if self.versions.is_empty() || self.versions.len() > MODULE_VERSIONS_MAX {
            problems.add("versions", self.versions.len(), "must be 1 to 64 versions");
        }
        for (index, version) in self.versions.iter().enumerate() {
            let field = format!("versions[{index}]");
            let name = version.version.as_str();
            validate_version_name(&format!("{field}.version"), name, problems);
            if self.versions[..index].iter().any(|other| other.version == version.version) {
                problems.add(&format!("{field}.version"), name, "is in the list twice");
            }
            if let Some(signature) = &version.signature {
                signature.validate(&format!("{field}.signature"), problems);
            }
        }
        if let Some(active) = &self.active
            && self.serving().is_none()
        {
            problems.add("active", active.as_str(), "is not one of versions");
        }
    }

    fn validate_limits(&self, problems: &mut Problems) {
        let limits = &self.limits;
        if let Some(memory) = limits.memory_max
            && !(64 << 10..=256 << 20).contains(&memory)
        {
            problems.add("limits.memory_max", memory, "must be from 64KiB to 256MiB");
        }
        let (ms, second) = (Duration::from_millis(1), Duration::from_secs(1));
        for (field, value, least, most, message) in [
            ("limits.deadline", limits.deadline, ms, 60 * second, "must be from 1ms to 60s"),
            (
                "limits.deadline_per_kib",
                limits.deadline_per_kib,
                Duration::ZERO,
                100 * ms,
                "must be from 0 to 100ms",
            ),
            (
                "limits.configure_deadline",
                limits.configure_deadline,
                10 * ms,
                300 * second,
                "must be from 10ms to 5m",
            ),
            ("limits.fetch_timeout", limits.fetch_timeout, ms, 60 * second, "must be from 1ms to 60s"),
        ] {
            if let Some(value) = value
                && !(least..=most).contains(&value)
            {
                problems.add(field, value.as_secs_f64(), message);
            }
        }
        if let Some(count) = limits.concurrency
            && !(1..=1024).contains(&count)
        {
            problems.add("limits.concurrency", count, "must be from 1 to 1024");
        }
    }
}

/// Checks the name of a version.
pub(super) fn validate_version_name(field: &str, name: &str, problems: &mut Problems) {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+');
    if name.is_empty() || name.len() > MODULE_VERSION_LENGTH_MAX || !name.bytes().all(fits) {
        problems.add(field, name, "must be 1 to 64 letters, digits, `.`, `-`, `_` or `+`");
    }
}

/// Checks hosts and namespaces.
pub(super) fn validate_grants(field: &str, grants: &ModuleGrants, problems: &mut Problems) {
    for (kind, list) in grants.kinds() {
        let field = format!("{field}.{kind}");
        if list.len() > MODULE_GRANTS_MAX {
            problems.add(&field, list.len(), "must be at most 64 names");
        }
        for (index, name) in list.iter().enumerate() {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._:*[]".contains(&b);
            if name.is_empty() || name.len() > 255 || !name.bytes().all(fits) {
                let message = "must be 1 to 255 letters, digits or `-._:*[]`";
                problems.add(&format!("{field}[{index}]"), name.as_str(), message);
            }
        }
    }
}

impl Object for Module {
    object_basics!(Kind::Modules);

    fn validate(&self, problems: &mut Problems) {
        validate_description(None, self.desc.as_ref(), &self.labels, problems);
        if let Some(name) = &self.name
            && !self.id.is_empty()
            && *name != *self.id
        {
            problems.add("name", name.as_str(), format!("must be the id, {:?}", self.id.as_str()));
        }
        if BUILT_IN_PLUGINS.contains(&self.id.as_str()) {
            problems.add("id", self.id.as_str(), "is the name of a built-in plugin");
        }
        if plugins::is_reserved(&self.id) {
            problems.add("id", self.id.as_str(), "begins with `_`, which names of plugins do not");
        }
        self.validate_versions(problems);
        self.validate_limits(problems);
        validate_grants("grants", &self.grants, problems);
        if let Some(canary) = &self.canary {
            canary.validate(self, problems);
        }
        self.rollback.validate(problems);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::objects::parse;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn problems(value: &Value) -> Vec<String> {
        match parse::<Module>(&Id::new("waf").unwrap(), value) {
            Ok(_) => Vec::new(),
            Err(error) => error.problems.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn the_last_version_serves_unless_another_is_active() {
        let value = json!({
            "name": "waf",
            "versions": [{"version": "1", "digest": DIGEST}, {"version": "2", "digest": DIGEST, "size": 10}],
            "on_failure": "open", "instance": "fresh",
            "limits": {"memory_max": "32MiB", "deadline": "20ms", "concurrency": 8},
            "grants": {"kv": ["waf"], "fetch": ["*.example.com"]},
            "config": {"mode": "detect"},
        });
        let module: Module = parse(&Id::new("waf").unwrap(), &value).unwrap();
        assert_eq!(module.serving().unwrap().version, "2");
        assert_eq!(module.limits.memory_max, Some(32 << 20));
        let mut value = value;
        value["active"] = json!("1");
        let module: Module = parse(&Id::new("waf").unwrap(), &value).unwrap();
        assert_eq!(module.serving().unwrap().version, "1");
    }

    #[test]
    fn faults_name_field_and_value() {
        let one = json!([{"version": "1", "digest": DIGEST}]);
        let two = json!([{"version": "1", "digest": DIGEST}, {"version": "2", "digest": DIGEST}]);
        for (value, told) in [
            (json!({}), "versions: is required"),
            (json!({"versions": []}), "versions: must be 1 to 64"),
            (json!({"versions": [{"version": "1", "digest": "md5:1"}]}), "versions[0].digest"),
            (json!({"versions": one, "active": "2"}), "active: is not one of versions (\"2\")"),
            (json!({"versions": one, "name": "other"}), "name: must be the id"),
            (json!({"versions": one, "limits": {"memory_max": 1}}), "limits.memory_max: must be from 64KiB"),
            (json!({"versions": one, "limits": {"deadline": "2m"}}), "limits.deadline: must be from 1ms"),
            (json!({"versions": one, "limits": {"cpu": 1}}), "limits.cpu: is not a field"),
            (json!({"versions": one, "on_failure": "ajar"}), "on_failure"),
            (
                json!({"versions": one, "canary": {"version": "2", "percent": 1}}),
                "canary.version: is not one of",
            ),
            (
                json!({"versions": one, "canary": {"version": "1", "percent": 1}}),
                "canary.version: is the version",
            ),
            (json!({"versions": two, "canary": {"version": "1"}}), "canary: must have one of percent"),
            (
                json!({"versions": two, "canary": {"version": "1", "percent": 0}}),
                "canary.percent: must be more",
            ),
            (
                json!({"versions": two, "canary": {"version": "1", "nodes": []}}),
                "canary.nodes: must be 1 to 256",
            ),
            (json!({"versions": one, "rollback": {"traps": 0}}), "rollback.traps: must be from 1"),
            (
                json!({"versions": one, "rollback": {"block_rate": 2}}),
                "rollback.block_rate: must be from 0 to 1",
            ),
            (json!({"versions": one, "grants": {"kv": ["a b"]}}), "grants.kv[0]: must be 1 to 255"),
        ] {
            let found = problems(&value);
            assert!(found.iter().any(|problem| problem.contains(told)), "{value}: {found:?} lacks {told}");
        }
    }

    #[test]
    fn a_built_in_plugin_keeps_its_name() {
        let value = json!({"versions": [{"version": "1", "digest": DIGEST}]});
        let error = parse::<Module>(&Id::new("cors").unwrap(), &value).unwrap_err();
        assert!(error.to_string().contains("built-in"), "{error}");
    }
}
