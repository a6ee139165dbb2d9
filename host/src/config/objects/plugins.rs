//! What an object says under `plugins`.

use std::fmt;

use indexmap::IndexMap;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::Reference;
use crate::config::{Id, Kind, Problems};

/// The most plugins of one object.
pub const PLUGINS_MAX: usize = 64;

/// The plugins that are part of the program; any other name is that of a module.
pub const BUILT_IN_PLUGINS: &[&str] = &[
    "basic-auth",
    "cors",
    "fault-injection",
    "ip-restriction",
    "jwt-auth",
    "key-auth",
    "limit-conn",
    "limit-count",
    "limit-req",
    "mocking",
    "proxy-rewrite",
    "real-ip",
    "redirect",
    "request-id",
    "response-rewrite",
    "traffic-split",
];

/// Plugins of APISIX that are not part of the program and only watch: a request
/// without them is one that was not measured or logged, and no more.
pub const WATCHING_PLUGINS: &[&str] = &[
    "clickhouse-logger",
    "datadog",
    "elasticsearch-logger",
    "error-log-logger",
    "file-logger",
    "google-cloud-logging",
    "http-logger",
    "kafka-logger",
    "log-rotate",
    "loggly",
    "loki-logger",
    "node-status",
    "opentelemetry",
    "prometheus",
    "rocketmq-logger",
    "server-info",
    "skywalking",
    "skywalking-logger",
    "sls-logger",
    "splunk-hec-logging",
    "syslog",
    "tcp-logger",
    "tencent-cloud-cls",
    "udp-logger",
    "zipkin",
];

/// Plugins by name, in the order they were written.
pub type Plugins = IndexMap<String, Plugin>;

/// The configuration of one plugin.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plugin {
    /// What is said under `_meta`.
    pub meta: PluginMeta,
    /// All other fields, always an object. The plugin checks them.
    pub config: Value,
}

/// What can be said about any plugin, under `_meta`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginMeta {
    /// Leaves the plugin out. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disable: bool,
    /// Replaces the plugin's own priority; higher runs earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// An expression as in a route's `vars`; the plugin runs when it is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Value>,
    /// Replaces the body of the answers the plugin gives: an object or a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_response: Option<Value>,
}

impl Serialize for Plugin {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let fields = self.config.as_object();
        let mut map = out.serialize_map(None)?;
        if self.meta != PluginMeta::default() {
            map.serialize_entry("_meta", &self.meta)?;
        }
        for (name, value) in fields.into_iter().flatten() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Plugin {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct PluginVisitor;

        impl<'de> Visitor<'de> for PluginVisitor {
            type Value = Plugin;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object, the configuration of the plugin")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Plugin, A::Error> {
                let mut meta = PluginMeta::default();
                let mut fields = serde_json::Map::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "_meta" {
                        meta = map.next_value()?;
                    } else {
                        fields.insert(name, map.next_value()?);
                    }
                }
                Ok(Plugin { meta, config: Value::Object(fields) })
            }

            // APISIX writes an empty table as `[]` at times.
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Plugin, A::Error> {
                match list.next_element::<Value>()? {
                    None => Ok(Plugin { config: Value::Object(Default::default()), ..Plugin::default() }),
                    Some(_) => Err(de::Error::invalid_type(de::Unexpected::Seq, &self)),
                }
            }
        }

        input.deserialize_any(PluginVisitor)
    }
}

/// The modules among plugins.
pub(super) fn references(plugins: &Plugins) -> impl Iterator<Item = Reference> {
    plugins.keys().filter(|name| !BUILT_IN_PLUGINS.contains(&name.as_str())).filter_map(|name| {
        // A name that is no id is told when the plugin is built.
        let id = Id::new(name).ok()?;
        Some(Reference { field: format!("plugins.{name}"), kind: Kind::Modules, id })
    })
}

/// Whether a name cannot stand among plugins.
pub(super) fn is_reserved(name: &str) -> bool {
    name.starts_with('_')
}

/// Checks what can be said of plugins without knowing them.
pub(super) fn validate(plugins: &Plugins, problems: &mut Problems) {
    if plugins.len() > PLUGINS_MAX {
        problems.add("plugins", plugins.len(), "must be at most 64 plugins");
    }
    for (name, plugin) in plugins {
        let field = format!("plugins.{name}._meta");
        if let Some(filter) = &plugin.meta.filter
            && !filter.is_array()
        {
            problems.add(&format!("{field}.filter"), filter.clone(), "must be a list, as vars of a route");
        }
        if let Some(answer) = &plugin.meta.error_response
            && !(answer.is_string() || answer.is_object())
        {
            problems.add(&format!("{field}.error_response"), answer.clone(), "must be a text or an object");
        }
    }
}
