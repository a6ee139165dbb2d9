//! Consumers: who sends requests, what they show to prove it, and what holds
//! for them; and what several of them have in common.

use serde::{Deserialize, Serialize};

use super::{Labels, Object, Plugins, Reference, object_basics, plugins, validate_description};
use crate::config::{Id, Kind, Problems};

/// Someone who sends requests. Its id is its `username`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consumer {
    /// The id; the same as `username`.
    #[serde(default)]
    pub id: Id,
    /// The name: letters, digits, `-` and `_`.
    pub username: String,
    /// The consumer group it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_id: Option<Id>,
    /// What it shows (`key-auth`, `jwt-auth`, `basic-auth`), and plugins that run
    /// for its requests: these replace a route's of the same name.
    #[serde(default, skip_serializing_if = "Plugins::is_empty")]
    pub plugins: Plugins,
    /// A description for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desc: Option<String>,
    /// Labels; `custom_id` is sent upstream as `X-Consumer-Custom-ID`.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// When it was made, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_time: Option<i64>,
    /// When it was last changed, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_time: Option<i64>,
}

impl Object for Consumer {
    object_basics!(Kind::Consumers);

    fn validate(&self, problems: &mut Problems) {
        if !is_username(&self.username) {
            problems.add("username", self.username.as_str(), "must be letters, digits, '-' and '_'");
        } else if !self.id.is_empty() && self.username != self.id.as_str() {
            let message = format!("does not match the id {:?} it is stored under", self.id);
            problems.add("username", self.username.as_str(), message);
        }
        validate_description(None, self.desc.as_ref(), &self.labels, problems);
        plugins::validate(&self.plugins, problems);
    }

    fn references(&self) -> Vec<Reference> {
        let group = self.group_id.iter();
        group
            .map(|id| Reference { field: "group_id".into(), kind: Kind::ConsumerGroups, id: id.clone() })
            .chain(plugins::references(&self.plugins))
            .collect()
    }
}

/// Plugins that several consumers have in common; a consumer's own win.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsumerGroup {
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

impl Object for ConsumerGroup {
    object_basics!(Kind::ConsumerGroups);

    fn validate(&self, problems: &mut Problems) {
        validate_description(self.name.as_ref(), self.desc.as_ref(), &self.labels, problems);
        plugins::validate(&self.plugins, problems);
    }

    fn references(&self) -> Vec<Reference> {
        plugins::references(&self.plugins).collect()
    }
}

/// One more thing a consumer can show. Its id is the consumer's, a dot, and its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// The id: `<consumer>.<credential>`.
    #[serde(default)]
    pub id: Id,
    /// What it shows: `key-auth`, `jwt-auth`, `basic-auth`.
    #[serde(default, skip_serializing_if = "Plugins::is_empty")]
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

impl Credential {
    /// The consumer's id and the credential's own.
    pub fn names(&self) -> Option<(&str, &str)> {
        self.id.split_once('.')
    }
}

impl Object for Credential {
    object_basics!(Kind::Credentials);

    fn validate(&self, problems: &mut Problems) {
        let is_whole = |(consumer, own): (&str, &str)| is_username(consumer) && !own.is_empty();
        if !self.id.is_empty() && !self.names().is_some_and(is_whole) {
            problems.add("id", self.id.as_str(), "must be <consumer>.<credential>");
        }
        validate_description(self.name.as_ref(), self.desc.as_ref(), &self.labels, problems);
        plugins::validate(&self.plugins, problems);
    }

    fn references(&self) -> Vec<Reference> {
        let consumer = self.names().and_then(|(consumer, _)| Id::new(consumer).ok());
        consumer.into_iter().map(|id| Reference { field: "id".into(), kind: Kind::Consumers, id }).collect()
    }
}

fn is_username(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}
