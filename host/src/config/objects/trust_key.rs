//! Keys whose signatures on modules count.

use serde::{Deserialize, Serialize};

use super::{Labels, Object, object_basics, time, validate_description};
use crate::config::signature::PublicKey;
use crate::config::{Id, Kind, Problems};

/// The most modules a key names.
pub const TRUST_KEY_MODULES_MAX: usize = 256;

/// A public key of who may sign modules. Routes do not name it: a node with
/// `modules.trust: required` in its boot file runs only what one of them signed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustKey {
    /// The id, which signatures name.
    #[serde(default)]
    pub id: Id,
    /// The Ed25519 public key: `ed25519:` and its 32 bytes in base64.
    pub key: PublicKey,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A description for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desc: Option<String>,
    /// Labels, for people and for filtering lists.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The modules it may sign, by name; none named means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<Id>,
    /// The moment after which its signatures count no longer; default: never.
    #[serde(default, with = "time", skip_serializing_if = "Option::is_none")]
    pub not_after: Option<i64>,
    /// Whether it is taken back: none of its signatures counts. Default false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub revoked: bool,
    /// When it was made, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_time: Option<i64>,
    /// When it was last changed, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_time: Option<i64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Object for TrustKey {
    object_basics!(Kind::TrustKeys);

    fn validate(&self, problems: &mut Problems) {
        validate_description(self.name.as_ref(), self.desc.as_ref(), &self.labels, problems);
        if self.modules.len() > TRUST_KEY_MODULES_MAX {
            problems.add("modules", self.modules.len(), "must be at most 256 names");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::objects::parse;
    use crate::config::signature::SigningKey;

    #[test]
    fn a_key_is_one_and_faults_name_field_and_value() {
        let key = SigningKey::generate().unwrap().public().to_string();
        let id = Id::new("ops").unwrap();
        let value = json!({"key": key, "modules": ["waf"], "not_after": "2030-01-01T00:00:00Z"});
        let object: TrustKey = parse(&id, &value).unwrap();
        assert_eq!(object.not_after, Some(1_893_456_000));
        assert!(!object.revoked);
        assert_eq!(serde_json::to_value(&object).unwrap()["not_after"], "2030-01-01T00:00:00Z");
        for (value, told) in [
            (json!({}), "key: is required"),
            (json!({"key": "ed25519:AAAA"}), "key: must be `ed25519:` and 32 bytes in base64"),
            (json!({"key": key, "not_after": "soon"}), "not_after: "),
            (json!({"key": key, "revoke": true}), "revoke: is not a field"),
            (json!({"key": key, "modules": ["a b"]}), "modules[0]: must be 1 to 64"),
        ] {
            let error = parse::<TrustKey>(&id, &value).unwrap_err().to_string();
            assert!(error.contains(told), "{value}: {error}");
        }
    }
}
