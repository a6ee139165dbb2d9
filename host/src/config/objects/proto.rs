//! Protobuf definitions that transcoding plugins name by `proto_id`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Labels, Object, Plugins, Reference, object_basics, validate_description};
use crate::config::{Id, Kind, Problems};

/// The longest `content`, in bytes: APISIX's 1 MiB.
pub const PROTO_CONTENT_MAX: usize = 1024 * 1024;

/// A protobuf definition: `.proto` text, or a descriptor set in base64. Only
/// the plugin that names it knows what stands in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proto {
    /// The id.
    #[serde(default)]
    pub id: Id,
    /// The definition, 1 byte to [`PROTO_CONTENT_MAX`].
    pub content: String,
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

impl Object for Proto {
    object_basics!(Kind::Protos);

    fn validate(&self, problems: &mut Problems) {
        validate_description(self.name.as_ref(), self.desc.as_ref(), &self.labels, problems);
        if self.content.is_empty() || self.content.len() > PROTO_CONTENT_MAX {
            problems.add("content", self.content.len(), "must be 1 byte to 1MiB long");
        }
    }
}

/// The proto a plugin's configuration names. Ids that are numbers count as
/// their digits, as everywhere.
#[must_use]
pub fn proto_id(config: &Value) -> Option<Id> {
    match config.get("proto_id")? {
        Value::String(text) => Id::new(text).ok(),
        Value::Number(number) => Id::new(&number.to_string()).ok(),
        _ => None,
    }
}

/// The protos that plugins name, as references of the object they stand in.
pub(super) fn proto_references(plugins: &Plugins) -> impl Iterator<Item = Reference> + '_ {
    plugins.iter().filter(|(_, plugin)| !plugin.meta.disable).filter_map(|(name, plugin)| {
        let id = proto_id(&plugin.config)?;
        Some(Reference { field: format!("plugins.{name}.proto_id"), kind: Kind::Protos, id })
    })
}
