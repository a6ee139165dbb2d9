//! The nodes of a line: a map of `"host:port"` to weight, or a list.

use std::fmt;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::{NODES_MAX, UpstreamScheme, WEIGHT_MAX, is_host_pattern};
use crate::config::Problems;

/// The nodes of a line, written as a map (`"host:port": weight`) or a list.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(transparent)]
pub struct Nodes(pub Vec<Node>);

/// An address of the service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// A name, an IPv4 address, or an IPv6 address (in brackets or not).
    pub host: String,
    /// The port; the scheme's usual one when not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The share of traffic; 0 means none.
    pub weight: u32,
    /// Nodes of a lower priority are used when none of a higher is left. Default 0.
    #[serde(default)]
    pub priority: i32,
    /// For people and plugins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
}

impl<'a> IntoIterator for &'a Nodes {
    type Item = &'a Node;
    type IntoIter = std::slice::Iter<'a, Node>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl Nodes {
    /// The nodes in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Node> {
        self.0.iter()
    }

    pub(super) fn validate(&self, field: &str, scheme: UpstreamScheme, problems: &mut Problems) {
        if self.0.len() > NODES_MAX {
            problems.add(field, self.0.len(), "must be at most 4096 nodes");
            return;
        }
        let mut seen = std::collections::HashSet::new();
        for (index, node) in self.0.iter().enumerate() {
            problems.within(&format!("{field}[{index}]"), |problems| {
                node.validate(scheme, problems);
                if !seen.insert((node.host.as_str(), node.port)) {
                    problems.add("host", node.host.as_str(), "is in the list twice with the same port");
                }
            });
        }
    }
}

impl Node {
    fn validate(&self, scheme: UpstreamScheme, problems: &mut Problems) {
        if !is_host_pattern(&self.host) || self.host.starts_with('*') {
            problems.add("host", self.host.as_str(), "must be a host name or address");
        }
        match self.port {
            Some(0) => problems.add("port", 0, "must be 1 to 65535"),
            None if scheme.default_port().is_none() => {
                problems.add_plain("port", format!("is required with scheme: {}", scheme.name()));
            }
            _ => {}
        }
        if self.weight > WEIGHT_MAX {
            problems.add("weight", self.weight, "must be at most 65535");
        }
    }
}

/// Splits `host:port`, `host`, `[v6]:port` or `v6`. `None` when it is neither.
pub(super) fn split_host_port(text: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        return match port.strip_prefix(':') {
            Some(port) => Some((host, Some(parse_port(port)?))),
            None if port.is_empty() => Some((host, None)),
            None => None,
        };
    }
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Some((text, None));
    }
    match text.split_once(':') {
        Some((host, port)) if is_host_pattern(host) => Some((host, Some(parse_port(port)?))),
        None if is_host_pattern(text) => Some((text, None)),
        _ => None,
    }
}

fn parse_port(text: &str) -> Option<u16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten().filter(|port| *port != 0)
}

impl<'de> Deserialize<'de> for Nodes {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct NodesVisitor;

        impl<'de> Visitor<'de> for NodesVisitor {
            type Value = Nodes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of \"host:port\" to weight, or a list of nodes")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Nodes, A::Error> {
                let mut nodes = Vec::new();
                while let Some(address) = map.next_key::<String>()? {
                    let weight = map.next_value()?;
                    let (host, port) = split_host_port(&address).ok_or_else(|| {
                        de::Error::custom(format_args!("node {address:?} must be host:port or host"))
                    })?;
                    nodes.push(Node { host: host.to_owned(), port, weight, priority: 0, metadata: None });
                }
                Ok(Nodes(nodes))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Nodes, A::Error> {
                let mut nodes = Vec::new();
                while let Some(mut node) = list.next_element::<Node>()? {
                    let bare = node.host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
                    if let Some(bare) = bare {
                        node.host = bare.to_owned();
                    }
                    nodes.push(node);
                }
                Ok(Nodes(nodes))
            }
        }

        input.deserialize_any(NodesVisitor)
    }
}
