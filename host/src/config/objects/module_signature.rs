//! Signatures of module versions: what is signed, word for word.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{ModuleGrants, time};
use crate::config::signature::SignatureBytes;
use crate::config::{Digest, Id, Problems};

/// A detached Ed25519 signature of one version of a module, with all it says:
/// which bytes may run under which name and version, with which grants, until
/// when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleSignature {
    /// The trust key that made it, by id.
    pub key: Id,
    /// The module's name.
    pub name: Id,
    /// The version's name.
    pub version: String,
    /// The digest of the component.
    pub digest: Digest,
    /// The interfaces it is made for: `sluice:plugin@0.1.0`, `wasi:http@0.2`, `wasi:http@0.3`.
    pub world: String,
    /// A number that rises with each version of the module.
    pub number: u64,
    /// Versions with a lower number do not run any more once this one has served;
    /// at most, and by default, `number`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<u64>,
    /// The moment after which it is not loaded any more; default: never.
    #[serde(default, with = "time", skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// The grants it may have at most.
    #[serde(default, skip_serializing_if = "ModuleGrants::is_empty")]
    pub grants: ModuleGrants,
    /// The signature of [`manifest`](Self::manifest): 64 bytes in base64.
    pub value: SignatureBytes,
}

/// The longest name of a world, in bytes.
const WORLD_LENGTH_MAX: usize = 64;

impl ModuleSignature {
    /// Versions below this number do not run any more once this one has served.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor.unwrap_or(self.number)
    }

    /// The text that is signed: one fact a line, in this order, grants sorted.
    /// No value holds a space or a line's end, so that it can be read one way only.
    #[must_use]
    pub fn manifest(&self) -> String {
        let expires = self.expires.map_or_else(|| "never".to_owned(), |seconds| seconds.to_string());
        let mut text = format!(
            "sluice module manifest 1\nname {}\nversion {}\ndigest {}\nworld {}\nnumber {}\nfloor {}\nexpires {expires}\n",
            self.name,
            self.version,
            self.digest,
            self.world,
            self.number,
            self.floor(),
        );
        for (kind, list) in self.grants.kinds() {
            let mut list = list.to_vec();
            list.sort_unstable();
            list.dedup();
            for name in list {
                let _ = writeln!(text, "grant {kind} {name}");
            }
        }
        let _ = writeln!(text, "key {}", self.key);
        text
    }

    pub(super) fn validate(&self, field: &str, problems: &mut Problems) {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b":@./-_".contains(&b);
        if self.world.is_empty() || self.world.len() > WORLD_LENGTH_MAX || !self.world.bytes().all(fits) {
            let message = "must be interfaces with their version, such as sluice:plugin@0.1.0";
            problems.add(&format!("{field}.world"), self.world.as_str(), message);
        }
        if self.floor() > self.number {
            let message = format!("must be at most number, {}", self.number);
            problems.add(&format!("{field}.floor"), self.floor(), message);
        }
        super::module::validate_version_name(&format!("{field}.version"), &self.version, problems);
        super::module::validate_grants(&format!("{field}.grants"), &self.grants, problems);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::signature::SigningKey;

    #[test]
    fn the_signed_text_has_one_form() {
        let mut signature = ModuleSignature {
            key: Id::new("ops").unwrap(),
            name: Id::new("waf").unwrap(),
            version: "1.4.0".to_owned(),
            digest: Digest::of(b""),
            world: "sluice:plugin@0.1.0".to_owned(),
            number: 42,
            floor: Some(40),
            expires: None,
            grants: ModuleGrants {
                fetch: Vec::new(),
                kv: vec!["b".into(), "a".into(), "b".into()],
                ..ModuleGrants::default()
            },
            value: SigningKey::generate().unwrap().sign(b""),
        };
        let text = "sluice module manifest 1\nname waf\nversion 1.4.0\n\
            digest sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n\
            world sluice:plugin@0.1.0\nnumber 42\nfloor 40\nexpires never\ngrant kv a\ngrant kv b\nkey ops\n";
        assert_eq!(signature.manifest(), text);
        signature.expires = Some(1_893_456_000);
        assert!(signature.manifest().contains("\nexpires 1893456000\n"));
    }
}
