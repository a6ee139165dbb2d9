//! Services: an upstream and plugins that several routes have in common.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::route::{validate_hosts, validate_unsupported};
use super::{Labels, Object, Plugins, Reference, Upstream, object_basics, plugins, validate_description};
use crate::config::{Id, Kind, Problems};

/// What several routes have in common. A route's own fields win.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The id.
    #[serde(default)]
    pub id: Id,
    /// Plugins; a route's own of the same name win.
    #[serde(default, skip_serializing_if = "Plugins::is_empty")]
    pub plugins: Plugins,
    /// The upstream, written here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Box<Upstream>>,
    /// The upstream by id; wins over `upstream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_id: Option<Id>,
    /// Hosts for routes that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
    /// Whether upgrades to WebSocket pass, for routes that do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_websocket: Option<bool>,
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
    /// Lua in APISIX; refused here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<Value>,
}

impl Object for Service {
    object_basics!(Kind::Services);

    fn validate(&self, problems: &mut Problems) {
        validate_description(self.name.as_ref(), self.desc.as_ref(), &self.labels, problems);
        validate_unsupported("script", self.script.as_ref(), problems);
        plugins::validate(&self.plugins, problems);
        if let Some(hosts) = &self.hosts {
            validate_hosts("hosts", hosts, problems);
        }
        if let Some(upstream) = &self.upstream {
            problems.within("upstream", |problems| upstream.validate(problems));
        }
    }

    fn references(&self) -> Vec<Reference> {
        let mut all = Vec::new();
        if let Some(id) = &self.upstream_id {
            all.push(Reference { field: "upstream_id".into(), kind: Kind::Upstreams, id: id.clone() });
        }
        if let Some(upstream) = &self.upstream {
            all.extend(upstream.references_under("upstream"));
        }
        all.extend(super::proto::proto_references(&self.plugins));
        all
    }
}
