//! Routes: which HTTP requests go where.

use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Labels, Object, Plugins, Reference, RouteProtocol, Status, Timeout, Upstream, is_host_pattern,
    object_basics, plugins, units, validate_description, validate_unique,
};
use crate::config::{Id, Kind, Problems};

/// The longest `uri`, in bytes.
pub const ROUTE_URI_LENGTH_MAX: usize = 4096;
/// The most entries of `uris`, `hosts`, `methods` and `remote_addrs`.
pub const ROUTE_LIST_MAX: usize = 1024;

/// The methods a route can name.
pub const METHODS: [&str; 10] =
    ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE"];

/// Which requests go where, and what happens to them on the way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The id.
    #[serde(default)]
    pub id: Id,
    /// The path, exact, a prefix (`/a/*`) or with parameters (`/a/:b`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Several paths; instead of `uri`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uris: Option<Vec<String>>,
    /// The host, exact or with a leading `*`. Any host when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Several hosts; instead of `host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
    /// The client's address or block. Any when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "units::net_option")]
    pub remote_addr: Option<IpNet>,
    /// Several addresses or blocks; instead of `remote_addr`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "units::nets_option")]
    pub remote_addrs: Option<Vec<IpNet>>,
    /// The methods. Any when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
    /// An expression over variables; the route module parses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vars: Option<Value>,
    /// Among routes that match the same path the highest wins. Default 0.
    #[serde(default)]
    pub priority: i32,
    /// 0 takes the route out. Default 1.
    #[serde(default)]
    pub status: Status,
    /// Times for the upstream; replaces the upstream's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,
    /// Whether upgrades to WebSocket pass. The service's when not said, else false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_websocket: Option<bool>,
    /// Ours: how frames are made, where the upstream speaks `tlv` or `tlvs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Box<RouteProtocol>>,
    /// The plugins.
    #[serde(default, skip_serializing_if = "Plugins::is_empty")]
    pub plugins: Plugins,
    /// Plugins taken over from a plugin config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin_config_id: Option<Id>,
    /// The upstream, written here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Box<Upstream>>,
    /// The upstream by id; wins over `upstream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_id: Option<Id>,
    /// The service this route belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_id: Option<Id>,
    /// Ours: what a change of this route does to its long sessions. Default `keep`.
    #[serde(default)]
    pub on_change: OnChange,
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
    pub filter_func: Option<Value>,
    /// Lua in APISIX; refused here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<Value>,
    /// Lua in APISIX; refused here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script_id: Option<Value>,
}

/// What a change of a route does to the long sessions it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnChange {
    /// They go on as they began.
    #[default]
    Keep,
    /// They are asked to end, and ended after the drain time.
    Drain,
    /// They are ended at once.
    Evict,
}

impl Route {
    /// The paths, of `uri` or `uris`.
    pub fn all_uris(&self) -> impl Iterator<Item = &str> {
        self.uri.iter().chain(self.uris.iter().flatten()).map(String::as_str)
    }

    /// The route's own hosts, of `host` or `hosts`.
    pub fn all_hosts(&self) -> impl Iterator<Item = &str> {
        self.host.iter().chain(self.hosts.iter().flatten()).map(String::as_str)
    }

    /// The client blocks, of `remote_addr` or `remote_addrs`.
    pub fn all_remote_addrs(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.remote_addr.iter().chain(self.remote_addrs.iter().flatten()).copied()
    }
}

impl Object for Route {
    object_basics!(Kind::Routes);

    fn validate(&self, problems: &mut Problems) {
        validate_description(self.name.as_ref(), self.desc.as_ref(), &self.labels, problems);
        validate_unsupported("filter_func", self.filter_func.as_ref(), problems);
        validate_unsupported("script", self.script.as_ref(), problems);
        validate_unsupported("script_id", self.script_id.as_ref(), problems);
        self.validate_paths(problems);
        match (&self.host, &self.hosts) {
            (Some(_), Some(_)) => problems.add_plain("hosts", "cannot stand beside host; use one of them"),
            (Some(host), None) => validate_host("host", host, problems),
            (None, Some(hosts)) => validate_hosts("hosts", hosts, problems),
            (None, None) => {}
        }
        match (&self.remote_addr, &self.remote_addrs) {
            (Some(_), Some(_)) => {
                problems.add_plain("remote_addrs", "cannot stand beside remote_addr; use one of them");
            }
            (None, Some(list)) => validate_list("remote_addrs", list, problems),
            _ => {}
        }
        self.validate_methods(problems);
        if let Some(vars) = &self.vars
            && !vars.is_array()
        {
            problems.add("vars", vars.clone(), "must be a list of expressions");
        }
        if let Some(timeout) = &self.timeout {
            problems.within("timeout", |problems| timeout.validate(problems));
        }
        if let Some(protocol) = &self.protocol {
            problems.within("protocol", |problems| protocol.validate(problems));
        }
        plugins::validate(&self.plugins, problems);
        if let Some(upstream) = &self.upstream {
            problems.within("upstream", |problems| upstream.validate(problems));
        }
        let leads_somewhere = !self.plugins.is_empty()
            || self.plugin_config_id.is_some()
            || self.upstream.is_some()
            || self.upstream_id.is_some()
            || self.service_id.is_some();
        if !leads_somewhere {
            problems.add_plain("", "needs at least one of plugins, upstream, upstream_id, service_id");
        }
    }

    fn references(&self) -> Vec<Reference> {
        let named = [
            ("upstream_id", Kind::Upstreams, &self.upstream_id),
            ("service_id", Kind::Services, &self.service_id),
            ("plugin_config_id", Kind::PluginConfigs, &self.plugin_config_id),
        ];
        let mut all: Vec<Reference> = named
            .into_iter()
            .filter_map(|(field, kind, id)| {
                id.as_ref().map(|id| Reference { field: field.into(), kind, id: id.clone() })
            })
            .collect();
        if let Some(upstream) = &self.upstream {
            all.extend(upstream.references_under("upstream"));
        }
        let format = self.protocol.as_ref().and_then(|protocol| protocol.conf.frame_format.as_ref());
        all.extend(format.map(|id| Reference {
            field: "protocol.conf.frame_format".into(),
            kind: Kind::FrameFormats,
            id: id.clone(),
        }));
        all.extend(super::proto::proto_references(&self.plugins));
        all
    }
}

impl Route {
    fn validate_paths(&self, problems: &mut Problems) {
        match (&self.uri, &self.uris) {
            (Some(_), Some(_)) => problems.add_plain("uris", "cannot stand beside uri; use one of them"),
            (None, None) => problems.add_plain("uri", "is required, or uris"),
            (Some(uri), None) => validate_uri("uri", uri, problems),
            (None, Some(uris)) => {
                validate_list("uris", uris, problems);
                for (index, uri) in uris.iter().enumerate() {
                    validate_uri(&format!("uris[{index}]"), uri, problems);
                }
            }
        }
    }

    fn validate_methods(&self, problems: &mut Problems) {
        let Some(methods) = &self.methods else { return };
        validate_unique("methods", methods, problems);
        for (index, method) in methods.iter().enumerate() {
            if !METHODS.contains(&method.as_str()) {
                let message = format!("expected one of {}", METHODS.join(", "));
                problems.add(&format!("methods[{index}]"), method.as_str(), message);
            }
        }
    }
}

fn validate_uri(field: &str, uri: &str, problems: &mut Problems) {
    if uri.is_empty() || uri.len() > ROUTE_URI_LENGTH_MAX {
        problems.add(field, uri, "must be 1 to 4096 bytes long");
    } else if !uri.starts_with('/') && uri != "*" {
        problems.add(field, uri, "must begin with '/'");
    } else if uri.bytes().any(|b| b <= b' ' || b == 0x7f) {
        problems.add(field, uri, "must not hold spaces or control characters");
    } else if uri.contains(['?', '#']) {
        problems.add(field, uri, "is matched against the path alone; use vars for the query");
    }
}

fn validate_host(field: &str, host: &str, problems: &mut Problems) {
    if !is_host_pattern(host) {
        problems.add(field, host, "must be a host name or address, with at most one '*' in front");
    }
}

pub(super) fn validate_hosts(field: &str, hosts: &[String], problems: &mut Problems) {
    validate_list(field, hosts, problems);
    for (index, host) in hosts.iter().enumerate() {
        validate_host(&format!("{field}[{index}]"), host, problems);
    }
}

fn validate_list<T: PartialEq + std::fmt::Display>(field: &str, list: &[T], problems: &mut Problems) {
    if list.is_empty() || list.len() > ROUTE_LIST_MAX {
        problems.add(field, list.len(), "must hold 1 to 1024 values");
        return;
    }
    validate_unique(field, list, problems);
}

/// Refuses fields that carry Lua in APISIX.
pub(super) fn validate_unsupported(field: &str, value: Option<&Value>, problems: &mut Problems) {
    if value.is_some() {
        problems.add_plain(field, "is not supported: Lua does not run here; use vars or a plugin");
    }
}

/// Notes a time of zero where time must pass.
pub(super) fn validate_positive(field: &str, time: Duration, problems: &mut Problems) {
    if time.is_zero() {
        problems.add(field, 0, "must be more than 0");
    }
}
