//! An object of any kind.

use std::sync::Arc;

use serde_json::Value;

use super::objects::{
    self, Consumer, ConsumerGroup, Credential, FrameFormat, GlobalRule, Listener, Module, Object as _,
    PluginConfig, PluginMetadata, Plugins, Proto, Reference, Route, Secret, Service, Ssl, StreamRoute,
    TrustKey, Upstream,
};
use super::{Id, Kind, ObjectError};

/// A typed object of any kind, shared.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// Of `listeners`.
    Listener(Arc<Listener>),
    /// Of `frame_formats`.
    FrameFormat(Arc<FrameFormat>),
    /// Of `ssls`.
    Ssl(Arc<Ssl>),
    /// Of `trust_keys`.
    TrustKey(Arc<TrustKey>),
    /// Of `modules`.
    Module(Arc<Module>),
    /// Of `protos`.
    Proto(Arc<Proto>),
    /// Of `upstreams`.
    Upstream(Arc<Upstream>),
    /// Of `services`.
    Service(Arc<Service>),
    /// Of `plugin_configs`.
    PluginConfig(Arc<PluginConfig>),
    /// Of `global_rules`.
    GlobalRule(Arc<GlobalRule>),
    /// Of `routes`.
    Route(Arc<Route>),
    /// Of `stream_routes`.
    StreamRoute(Arc<StreamRoute>),
    /// Of `secrets`.
    Secret(Arc<Secret>),
    /// Of `consumer_groups`.
    ConsumerGroup(Arc<ConsumerGroup>),
    /// Of `consumers`.
    Consumer(Arc<Consumer>),
    /// Of `credentials`.
    Credential(Arc<Credential>),
    /// Of `plugin_metadata`.
    PluginMetadata(Arc<PluginMetadata>),
}

/// Runs an expression with the typed object, whatever its kind.
macro_rules! with_object {
    ($self:expr, $object:ident => $result:expr) => {
        match $self {
            Object::Listener($object) => $result,
            Object::FrameFormat($object) => $result,
            Object::Ssl($object) => $result,
            Object::TrustKey($object) => $result,
            Object::Module($object) => $result,
            Object::Proto($object) => $result,
            Object::Upstream($object) => $result,
            Object::Service($object) => $result,
            Object::PluginConfig($object) => $result,
            Object::GlobalRule($object) => $result,
            Object::Route($object) => $result,
            Object::StreamRoute($object) => $result,
            Object::Secret($object) => $result,
            Object::ConsumerGroup($object) => $result,
            Object::Consumer($object) => $result,
            Object::Credential($object) => $result,
            Object::PluginMetadata($object) => $result,
        }
    };
}

/// What a function of `objects` says of the type of a kind.
macro_rules! of_kind {
    ($kind:expr, $function:ident) => {
        match $kind {
            Kind::Listeners => objects::$function::<Listener>(),
            Kind::FrameFormats => objects::$function::<FrameFormat>(),
            Kind::Ssls => objects::$function::<Ssl>(),
            Kind::TrustKeys => objects::$function::<TrustKey>(),
            Kind::Modules => objects::$function::<Module>(),
            Kind::Protos => objects::$function::<Proto>(),
            Kind::Upstreams => objects::$function::<Upstream>(),
            Kind::Services => objects::$function::<Service>(),
            Kind::PluginConfigs => objects::$function::<PluginConfig>(),
            Kind::GlobalRules => objects::$function::<GlobalRule>(),
            Kind::Routes => objects::$function::<Route>(),
            Kind::StreamRoutes => objects::$function::<StreamRoute>(),
            Kind::Secrets => objects::$function::<Secret>(),
            Kind::ConsumerGroups => objects::$function::<ConsumerGroup>(),
            Kind::Consumers => objects::$function::<Consumer>(),
            Kind::Credentials => objects::$function::<Credential>(),
            Kind::PluginMetadata => objects::$function::<PluginMetadata>(),
        }
    };
}

impl Object {
    /// Reads and checks an object of a kind.
    ///
    /// # Errors
    /// As [`objects::parse`].
    pub fn parse(kind: Kind, id: &Id, value: &Value) -> Result<Self, ObjectError> {
        Ok(match kind {
            Kind::Listeners => Self::Listener(Arc::new(objects::parse(id, value)?)),
            Kind::FrameFormats => Self::FrameFormat(Arc::new(objects::parse(id, value)?)),
            Kind::Ssls => Self::Ssl(Arc::new(objects::parse(id, value)?)),
            Kind::TrustKeys => Self::TrustKey(Arc::new(objects::parse(id, value)?)),
            Kind::Modules => Self::Module(Arc::new(objects::parse(id, value)?)),
            Kind::Protos => Self::Proto(Arc::new(objects::parse(id, value)?)),
            Kind::Upstreams => Self::Upstream(Arc::new(objects::parse(id, value)?)),
            Kind::Services => Self::Service(Arc::new(objects::parse(id, value)?)),
            Kind::PluginConfigs => Self::PluginConfig(Arc::new(objects::parse(id, value)?)),
            Kind::GlobalRules => Self::GlobalRule(Arc::new(objects::parse(id, value)?)),
            Kind::Routes => Self::Route(Arc::new(objects::parse(id, value)?)),
            Kind::StreamRoutes => Self::StreamRoute(Arc::new(objects::parse(id, value)?)),
            Kind::Secrets => Self::Secret(Arc::new(objects::parse(id, value)?)),
            Kind::ConsumerGroups => Self::ConsumerGroup(Arc::new(objects::parse(id, value)?)),
            Kind::Consumers => Self::Consumer(Arc::new(objects::parse(id, value)?)),
            Kind::Credentials => Self::Credential(Arc::new(objects::parse(id, value)?)),
            Kind::PluginMetadata => Self::PluginMetadata(Arc::new(objects::parse(id, value)?)),
        })
    }

    /// The names of the fields that objects of a kind can have.
    pub fn fields(kind: Kind) -> &'static [&'static str] {
        of_kind!(kind, fields)
    }

    /// The JSON Schema of objects of a kind.
    pub fn schema(kind: Kind) -> Value {
        of_kind!(kind, schema)
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Listener(_) => Kind::Listeners,
            Self::FrameFormat(_) => Kind::FrameFormats,
            Self::Ssl(_) => Kind::Ssls,
            Self::TrustKey(_) => Kind::TrustKeys,
            Self::Module(_) => Kind::Modules,
            Self::Proto(_) => Kind::Protos,
            Self::Upstream(_) => Kind::Upstreams,
            Self::Service(_) => Kind::Services,
            Self::PluginConfig(_) => Kind::PluginConfigs,
            Self::GlobalRule(_) => Kind::GlobalRules,
            Self::Route(_) => Kind::Routes,
            Self::StreamRoute(_) => Kind::StreamRoutes,
            Self::Secret(_) => Kind::Secrets,
            Self::ConsumerGroup(_) => Kind::ConsumerGroups,
            Self::Consumer(_) => Kind::Consumers,
            Self::Credential(_) => Kind::Credentials,
            Self::PluginMetadata(_) => Kind::PluginMetadata,
        }
    }

    /// The id.
    pub fn id(&self) -> &Id {
        with_object!(self, object => object.id())
    }

    /// The objects this one names.
    pub fn references(&self) -> Vec<Reference> {
        with_object!(self, object => object.references())
    }

    /// What it says under `plugins`, for kinds that have plugins.
    pub fn plugins(&self) -> Option<&Plugins> {
        match self {
            Self::Service(object) => Some(&object.plugins),
            Self::PluginConfig(object) => Some(&object.plugins),
            Self::GlobalRule(object) => Some(&object.plugins),
            Self::Route(object) => Some(&object.plugins),
            Self::StreamRoute(object) => Some(&object.plugins),
            Self::ConsumerGroup(object) => Some(&object.plugins),
            Self::Consumer(object) => Some(&object.plugins),
            Self::Credential(object) => Some(&object.plugins),
            Self::Listener(_)
            | Self::FrameFormat(_)
            | Self::Ssl(_)
            | Self::TrustKey(_)
            | Self::Module(_)
            | Self::Proto(_)
            | Self::Upstream(_)
            | Self::Secret(_)
            | Self::PluginMetadata(_) => None,
        }
    }
}
