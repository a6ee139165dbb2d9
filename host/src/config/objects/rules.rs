//! Plugins that are not written at a route: global rules and plugin configs.

use serde::{Deserialize, Serialize};

use super::{Labels, Object, Plugins, Reference, object_basics, plugins, validate_description};
use crate::config::{Id, Kind, Problems};

/// Plugins that run for every request, before the route's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GlobalRule {
    /// The id.
    #[serde(default)]
    pub id: Id,
    /// The plugins.
    pub plugins: Plugins,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A description for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desc: Option<String>,
    /// Labels, for people and for filtering lists.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// When it was made, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_time: Option<i64>,
    /// When it was last changed, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_time: Option<i64>,
}

impl Object for GlobalRule {
    object_basics!(Kind::GlobalRules);

    fn validate(&self, problems: &mut Problems) {
        validate_description(self.name.as_ref(), self.desc.as_ref(), &self.labels, problems);
        plugins::validate(&self.plugins, problems);
    }

    fn references(&self) -> Vec<Reference> {
        super::proto::proto_references(&self.plugins).collect()
    }
}

/// Plugins that routes take over by `plugin_config_id`; the route's own win.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginConfig {
    /// The id.
    #[serde(default)]
    pub id: Id,
    /// The plugins.
    pub plugins: Plugins,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A description for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desc: Option<String>,
    /// Labels, for people and for filtering lists.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// When it was made, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_time: Option<i64>,
    /// When it was last changed, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_time: Option<i64>,
}

impl Object for PluginConfig {
    object_basics!(Kind::PluginConfigs);

    fn validate(&self, problems: &mut Problems) {
        validate_description(self.name.as_ref(), self.desc.as_ref(), &self.labels, problems);
        plugins::validate(&self.plugins, problems);
    }

    fn references(&self) -> Vec<Reference> {
        super::proto::proto_references(&self.plugins).collect()
    }
}
