//! The objects an operator writes, as types.
//!
//! Field names, defaults and rules are APISIX's where APISIX has them; what
//! is ours is said at the field. Unknown fields are errors. A default that
//! others need to know is a constant beside its type. Start at [`parse`].
//!
//! All types compare equal when they mean the same, so that an unchanged
//! object can be told from a changed one.

mod checks;
mod consumer;
mod fields;
mod frame_format;
mod listener;
mod module;
mod module_signature;
mod nodes;
mod parse;
mod plugins;
mod proto;
mod route;
mod route_protocol;
mod rules;
mod schema;
mod secret;
mod service;
mod ssl;
mod stream_route;
mod time;
mod trust_key;
pub mod units;
mod upstream;
mod upstream_rules;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use checks::*;
pub use consumer::{Consumer, ConsumerGroup, Credential};
pub use fields::fields;
pub use frame_format::*;
pub use listener::*;
pub use module::*;
pub use module_signature::ModuleSignature;
pub use nodes::{Node, Nodes};
pub use parse::parse;
pub use plugins::{BUILT_IN_PLUGINS, PLUGINS_MAX, Plugin, PluginMeta, Plugins, WATCHING_PLUGINS};
pub use proto::{PROTO_CONTENT_MAX, Proto, proto_id};
pub use route::*;
pub use route_protocol::*;
pub use rules::{GlobalRule, PluginConfig};
pub use schema::schema;
pub use secret::{PluginMetadata, Secret};
pub use service::Service;
pub use ssl::*;
pub use stream_route::*;
pub use time::shown as moment;
pub use trust_key::{TRUST_KEY_MODULES_MAX, TrustKey};
pub use units::Status;
pub use upstream::*;

use super::{Id, Kind, Problems};

/// Labels of an object: at most 16, each value 1 to 64 characters without spaces.
pub type Labels = BTreeMap<String, String>;

/// The longest name, in characters.
pub const NAME_LENGTH_MAX: usize = 100;
/// The longest description, in characters.
pub const DESCRIPTION_LENGTH_MAX: usize = 256;
/// The most labels of an object.
pub const LABELS_MAX: usize = 16;
/// The longest value of a label, in characters.
pub const LABEL_LENGTH_MAX: usize = 64;

/// A field that names another object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The path of the field.
    pub field: String,
    /// The kind of the object it names.
    pub kind: Kind,
    /// The id of the object it names.
    pub id: Id,
}

/// What every kind of object can do.
pub trait Object:
    DeserializeOwned + Serialize + Clone + PartialEq + fmt::Debug + Send + Sync + 'static
{
    /// The kind of these objects.
    const KIND: Kind;

    /// The id, which is never empty once the object has been parsed.
    fn id(&self) -> &Id;

    /// Gives the object the id of the document it was read from.
    fn set_id(&mut self, id: Id);

    /// Notes everything that is wrong with the values of the fields.
    fn validate(&self, problems: &mut Problems);

    /// The objects this one names.
    fn references(&self) -> Vec<Reference> {
        Vec::new()
    }
}

/// Implements what is the same for all objects.
macro_rules! object_basics {
    ($kind:expr) => {
        const KIND: crate::config::Kind = $kind;

        fn id(&self) -> &crate::config::Id {
            &self.id
        }

        fn set_id(&mut self, id: crate::config::Id) {
            self.id = id;
        }
    };
}
pub(crate) use object_basics;

/// Checks the fields that describe an object to people.
fn validate_description(
    name: Option<&String>,
    desc: Option<&String>,
    labels: &Labels,
    problems: &mut Problems,
) {
    if let Some(name) = name
        && !(1..=NAME_LENGTH_MAX).contains(&name.chars().count())
    {
        problems.add("name", name.as_str(), "must be 1 to 100 characters long");
    }
    if let Some(desc) = desc
        && desc.chars().count() > DESCRIPTION_LENGTH_MAX
    {
        problems.add("desc", desc.as_str(), "must be at most 256 characters long");
    }
    if labels.len() > LABELS_MAX {
        problems.add("labels", labels.len(), "must be at most 16 labels");
    }
    for (label, value) in labels {
        let length = value.chars().count();
        if !(1..=LABEL_LENGTH_MAX).contains(&length) || value.chars().any(char::is_whitespace) {
            let field = format!("labels.{label}");
            problems.add(&field, value.as_str(), "must be 1 to 64 characters without spaces");
        }
    }
}

/// Whether a text is a host as APISIX writes it: a name or an address, with
/// one `*` allowed in front.
fn is_host_pattern(host: &str) -> bool {
    let rest = host.strip_prefix('*').unwrap_or(host);
    !rest.is_empty()
        && rest.len() <= 255
        && rest
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':' | b'[' | b']'))
}

/// Notes an item that stands in a list twice.
fn validate_unique<T: PartialEq + fmt::Display>(field: &str, list: &[T], problems: &mut Problems) {
    for (index, item) in list.iter().enumerate() {
        if list[..index].contains(item) {
            problems.add(&format!("{field}[{index}]"), item.to_string(), "is in the list twice");
        }
    }
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests;
