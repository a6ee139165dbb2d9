//! Where secrets are kept that objects name instead of holding them; and what
//! is said about a plugin as such.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Labels, Object, object_basics, validate_description};
use crate::config::{Id, Kind, Problems};

/// A place secrets are read from, as `$secret://file/<id>/<name>`. Its id is its
/// manager's name, a dot, and its own; the only manager is `file`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// The id: `file.<id>`.
    #[serde(default)]
    pub id: Id,
    /// The folder with one file a secret, an absolute path. Only files right in
    /// it can be named.
    pub dir: PathBuf,
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

impl Object for Secret {
    object_basics!(Kind::Secrets);

    fn validate(&self, problems: &mut Problems) {
        if !self.id.is_empty() {
            match self.id.split_once('.') {
                Some(("file", own)) if !own.is_empty() => {}
                Some(("vault" | "aws" | "gcp", _)) => {
                    problems.add("id", self.id.as_str(), "only the manager \"file\" is offered");
                }
                _ => problems.add("id", self.id.as_str(), "must be file.<id>"),
            }
        }
        if !self.dir.is_absolute() {
            problems.add("dir", self.dir.to_string_lossy().as_ref(), "must be an absolute path");
        }
        validate_description(None, self.desc.as_ref(), &self.labels, problems);
    }
}

/// What is said about a plugin as such, for all its uses. Its id is the plugin's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginMetadata {
    /// The id: the name of the plugin.
    #[serde(default)]
    pub id: Id,
    /// When it was made, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_time: Option<i64>,
    /// When it was last changed, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_time: Option<i64>,
    /// The plugin's own fields.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

impl Object for PluginMetadata {
    object_basics!(Kind::PluginMetadata);

    fn validate(&self, _: &mut Problems) {}
}
