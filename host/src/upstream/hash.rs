//! What `chash` hashes of a request.

use crate::config::objects::{self, HashOn};
use crate::message::{Captures, Stage, Subject, Template, Variable};

use super::balance::hash_bytes;

/// What is hashed, parsed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HashKey {
    Variable(Variable),
    Template(Template),
}

impl HashKey {
    /// From the fields `hash_on` and `key`.
    pub(super) fn new(object: &objects::Upstream) -> Result<Self, String> {
        // Frames choose a node by who sends the first of them.
        let is_tlv = matches!(object.scheme, objects::UpstreamScheme::Tlv | objects::UpstreamScheme::Tlvs);
        let stage = if is_tlv { Stage::Frame } else { Stage::Request };
        let key = object.key.as_deref().unwrap_or_default();
        let variable =
            |name: &str| Variable::parse(name, stage).map(Self::Variable).map_err(|error| error.to_string());
        match object.hash_on {
            HashOn::Vars => variable(key),
            HashOn::Header => variable(&format!("http_{}", key.replace('-', "_"))),
            HashOn::Cookie => variable(&format!("cookie_{key}")),
            HashOn::Consumer => variable("consumer_name"),
            HashOn::VarsCombinations => Template::parse(key, stage, Captures::None)
                .map(Self::Template)
                .map_err(|error| error.to_string()),
        }
    }

    /// The hash for a subject: of the client's address where it has no value.
    pub(super) fn hash(&self, subject: &Subject<'_>) -> u64 {
        let value = match self {
            Self::Variable(variable) => {
                variable.read(subject).filter(|value| !value.is_empty()).map(|value| hash_bytes(&value))
            }
            Self::Template(template) => {
                let mut text = smallvec::SmallVec::<[u8; 128]>::new();
                (template.fill(subject, &mut text) > 0).then(|| hash_bytes(&text))
            }
        };
        value.unwrap_or_else(|| match subject.client_ip.to_canonical() {
            std::net::IpAddr::V4(ip) => hash_bytes(&ip.octets()),
            std::net::IpAddr::V6(ip) => hash_bytes(&ip.octets()),
        })
    }
}
