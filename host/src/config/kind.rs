//! The kinds of object a store holds.

use std::fmt;

/// A kind of object; its name is the folder, the Admin API path segment and
/// the key of the standalone form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// Where connections are accepted.
    Listeners,
    /// How a framed protocol looks on the wire.
    FrameFormats,
    /// Certificates by server name.
    Ssls,
    /// Keys whose signatures on modules count.
    TrustKeys,
    /// Wasm components by name.
    Modules,
    /// Protobuf definitions.
    Protos,
    /// Where requests and connections go.
    Upstreams,
    /// What several routes have in common.
    Services,
    /// Plugins that several routes have in common.
    PluginConfigs,
    /// Plugins that run for every request.
    GlobalRules,
    /// Which HTTP requests go where.
    Routes,
    /// Which connections go where.
    StreamRoutes,
    /// Where secrets are read from.
    Secrets,
    /// Plugins that several consumers have in common.
    ConsumerGroups,
    /// Who sends requests.
    Consumers,
    /// What else a consumer shows.
    Credentials,
    /// What is said about a plugin as such.
    PluginMetadata,
}

/// Every kind, what is referred to before what refers to it.
pub const KINDS: [Kind; 17] = [
    Kind::Listeners,
    Kind::FrameFormats,
    Kind::Ssls,
    Kind::TrustKeys,
    Kind::Modules,
    Kind::Protos,
    Kind::Upstreams,
    Kind::Services,
    Kind::PluginConfigs,
    Kind::GlobalRules,
    Kind::Routes,
    Kind::StreamRoutes,
    Kind::Secrets,
    Kind::ConsumerGroups,
    Kind::Consumers,
    Kind::Credentials,
    Kind::PluginMetadata,
];

/// Kinds that exist in APISIX or in our design and that this build refuses by name.
const NOT_YET: [&str; 2] = ["plugins", "xrpc_protocols"];

/// Why a name is not a kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KindError {
    /// The kind is known, but objects of it cannot be used yet.
    #[error("objects of kind {0:?} are not supported by this build yet")]
    NotSupported(String),
    /// There is no such kind.
    #[error("there is no kind {0:?}; kinds are {kinds}", kinds = kind_names())]
    Unknown(String),
}

fn kind_names() -> String {
    KINDS.map(Kind::name).join(", ")
}

impl Kind {
    /// The plural name used in paths, for example `routes`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Listeners => "listeners",
            Self::FrameFormats => "frame_formats",
            Self::Ssls => "ssls",
            Self::TrustKeys => "trust_keys",
            Self::Modules => "modules",
            Self::Protos => "protos",
            Self::Upstreams => "upstreams",
            Self::Services => "services",
            Self::PluginConfigs => "plugin_configs",
            Self::GlobalRules => "global_rules",
            Self::Routes => "routes",
            Self::StreamRoutes => "stream_routes",
            Self::Secrets => "secrets",
            Self::ConsumerGroups => "consumer_groups",
            Self::Consumers => "consumers",
            Self::Credentials => "credentials",
            Self::PluginMetadata => "plugin_metadata",
        }
    }

    /// The kind with this plural name.
    pub fn from_name(name: &str) -> Result<Self, KindError> {
        if let Some(kind) = KINDS.into_iter().find(|kind| kind.name() == name) {
            return Ok(kind);
        }
        let shown: String = name.chars().take(64).collect();
        Err(if NOT_YET.contains(&name) { KindError::NotSupported(shown) } else { KindError::Unknown(shown) })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
