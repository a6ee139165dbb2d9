//! Whether an object can be built, by itself.
//!
//! The store asks before it puts an object in force, and `sluice check` asks
//! without a gateway; so what only building tells (key material, expressions,
//! plugins) is refused where it is written.

use std::sync::Arc;

use crate::config::objects::{self, Plugins};
use crate::config::{Id, Object, Problem, Problems};
use crate::filter::{
    BuildContext, Chain, ChainKind, FoundModule, Groups, ModulePlace, Proof, UpstreamSource,
    built_in_plugins, is_auth_plugin,
};
use crate::frame::{FormatSpec, FrameFormat};
use crate::net::tls::{Entry, Sessions};
use crate::route::{RouteFields, RouteMatch};
use crate::upstream::{Environment, References, Upstream};

use super::bridge::part_plugins;
use super::secrets::has_reference;
use super::stream::TlvSettings;

/// Builds objects to see whether they can be, and throws away what it built.
pub struct Checker {
    environment: Arc<Environment>,
    sessions: Sessions,
    /// Stands for upstreams that plugins name and that are looked up later.
    any_upstream: Option<Arc<Upstream>>,
    /// The objects are those of a directory, which holds no values of modules.
    is_directory: bool,
}

impl Checker {
    /// A checker that builds in `environment`.
    #[must_use]
    pub fn new(environment: Arc<Environment>) -> Self {
        let any = serde_json::json!({"nodes": {"127.0.0.1:1": 1}});
        let any_upstream = Id::new("any")
            .ok()
            .and_then(|id| objects::parse::<objects::Upstream>(&id, &any).ok())
            .and_then(|object| Upstream::build(&object, "any", None, &References::NONE, &environment).ok())
            .map(Arc::new);
        Self { environment, sessions: Sessions::new(), any_upstream, is_directory: false }
    }

    /// The same for objects of a directory: modules can share no values there.
    #[must_use]
    pub fn of_a_directory(self) -> Self {
        Self { is_directory: true, ..self }
    }

    /// Notes what keeps `object` from being built.
    pub fn check(&self, object: &Object, problems: &mut Problems) {
        let found = match object {
            Object::Ssl(ssl) => Entry::build(ssl, &self.sessions).map(|_| ()).map_err(|error| error.problems),
            Object::Upstream(upstream) => self.upstream("", upstream),
            Object::FrameFormat(format) => frame_format(format),
            Object::Service(service) => both(
                self.inline("upstream", service.upstream.as_deref()),
                self.chain(ChainKind::Http, &service.plugins, &[]),
            ),
            Object::PluginConfig(config) => self.chain(ChainKind::Http, &config.plugins, &[]),
            Object::GlobalRule(rule) => self.chain(ChainKind::Global, &rule.plugins, &[]),
            Object::Route(route) => both(
                both(
                    route_match(route, None).map(|_| ()),
                    self.inline("upstream", route.upstream.as_deref()),
                ),
                self.route_chains(route),
            ),
            Object::StreamRoute(route) => {
                both(self.inline("upstream", route.upstream.as_deref()), self.stream(route))
            }
            // A component is looked at by the node that runs it; what stands in
            // a proto is known to the plugins that name it.
            Object::Module(module) => self.shared_values(module),
            Object::Listener(_) | Object::TrustKey(_) | Object::Proto(_) | Object::Secret(_) => Ok(()),
            Object::Consumer(consumer) => self.people(&consumer.plugins),
            Object::Credential(credential) => {
                credential_only(&credential.plugins).and_then(|()| self.people(&credential.plugins))
            }
            Object::ConsumerGroup(group) => self.people(&group.plugins),
            Object::PluginMetadata(metadata) => plugin_metadata(metadata),
        };
        for problem in found.err().into_iter().flatten() {
            problems.add_problem(problem);
        }
    }

    fn shared_values(&self, module: &objects::Module) -> Result<(), Vec<Problem>> {
        match module.grants.store.first() {
            Some(name) if self.is_directory => Err(vec![Problem {
                field: "grants.store".to_owned(),
                message: "needs an etcd store: a directory keeps no values that nodes share".to_owned(),
                value: Some(format!("{name:?}")),
            }]),
            _ => Ok(()),
        }
    }

    fn upstream(&self, field: &str, object: &objects::Upstream) -> Result<(), Vec<Problem>> {
        // Certificates and formats it names are looked up when it is built for
        // good; their absence is a dangling reference, which the store tells.
        let certificate = |_: &Id| None;
        let frame_format = |_: &str| Some(Arc::new(FrameFormat::im20()));
        let references = References { certificate: &certificate, frame_format: &frame_format };
        let mut object = object.clone();
        object.tls.client_cert_id = None;
        Upstream::build(&object, "check", None, &references, &self.environment).map(|_| ()).map_err(
            |problem| {
                let dot = if field.is_empty() { "" } else { "." };
                vec![Problem { field: format!("{field}{dot}{}", problem.field), ..problem }]
            },
        )
    }

    /// The plugins of a route: where it speaks of frames, some look at those.
    fn route_chains(&self, route: &objects::Route) -> Result<(), Vec<Problem>> {
        let Some(protocol) = &route.protocol else {
            return self.chain(ChainKind::Http, &route.plugins, &[]);
        };
        let (requests, frames) = part_plugins(&route.plugins);
        let checked = self.chain(ChainKind::Http, &requests, &[]);
        let format = protocol.conf.frame_format.as_ref();
        // What depends on a format of the operator's shows when it is built for good.
        if format.is_some_and(|id| id.as_str() != objects::FRAME_FORMAT_BUILT_IN) {
            return checked;
        }
        let im20 = Arc::new(FrameFormat::im20());
        let fields: Vec<&str> = im20.field_names().collect();
        let settings = TlvSettings::new(&protocol.conf, Arc::clone(&im20)).map(|_| ());
        let settings = settings
            .map_err(|message| vec![Problem { field: "protocol.conf".to_owned(), message, value: None }]);
        both(both(checked, self.chain(ChainKind::Frames, &frames, &fields)), settings)
    }

    fn inline(&self, field: &str, object: Option<&objects::Upstream>) -> Result<(), Vec<Problem>> {
        object.map_or(Ok(()), |object| self.upstream(field, object))
    }

    fn stream(&self, route: &objects::StreamRoute) -> Result<(), Vec<Problem>> {
        let conf = route.protocol.as_ref().map(|protocol| &protocol.conf);
        let is_built_in = conf
            .and_then(|conf| conf.frame_format.as_ref())
            .is_none_or(|id| id.as_str() == objects::FRAME_FORMAT_BUILT_IN);
        // What depends on a format of the operator's, or on the listener, shows
        // when the route is built for good.
        if let (Some(conf), true) = (conf, is_built_in)
            && let Err(message) = TlvSettings::new(conf, Arc::new(FrameFormat::im20()))
        {
            return Err(vec![Problem { field: "protocol.conf".to_owned(), message, value: None }]);
        }
        let said = route.protocol.as_ref().map(|protocol| protocol.name);
        match said {
            Some(objects::StreamProtocolName::Tlv) if is_built_in => {
                let format = FrameFormat::im20();
                let fields: Vec<&str> = format.field_names().collect();
                self.chain(ChainKind::Frames, &route.plugins, &fields)
            }
            Some(objects::StreamProtocolName::Tcp) => self.chain(ChainKind::Stream, &route.plugins, &[]),
            _ => Ok(()),
        }
    }

    /// Plugins of consumers: what they show, and what runs for them.
    fn people(&self, plugins: &Plugins) -> Result<(), Vec<Problem>> {
        let (shown, run): (Plugins, Plugins) =
            plugins.clone().into_iter().partition(|(name, _)| is_auth_plugin(name));
        let mut problems = self.chain(ChainKind::Consumer, &run, &[]).err().unwrap_or_default();
        for (name, plugin) in &shown {
            // What a reference names is known when it is built for good.
            if !has_reference(&plugin.config) {
                problems.extend(Proof::parse(name, &plugin.config).err());
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn chain(&self, kind: ChainKind, plugins: &Plugins, frame_fields: &[&str]) -> Result<(), Vec<Problem>> {
        let upstream = |source: UpstreamSource<'_>| {
            if let UpstreamSource::Inline { object, .. } = source {
                let id = Id::new("check").map_err(|error| error.to_string())?;
                let object: objects::Upstream =
                    objects::parse(&id, object).map_err(|error| super::shown(&error.problems))?;
                self.upstream("", &object).map_err(|problems| super::shown(&problems))?;
            }
            self.any_upstream.clone().ok_or_else(|| "cannot be checked".to_owned())
        };
        let groups = Groups::default();
        let context = BuildContext {
            kind,
            upstream: &upstream,
            module: &|_| Ok(FoundModule::LeftOut),
            groups: &groups,
            https_port: 443,
            frame_fields,
            modules: ModulePlace::default(),
        };
        let mut plugins = plugins.clone();
        // What a reference names is known when it is built for good.
        let is_known = |name: &str| built_in_plugins().any(|(known, _)| known == name);
        plugins.retain(|name, plugin| !(is_known(name) && has_reference(&plugin.config)));
        Chain::build(&plugins, &context, None).map(|_| ())
    }
}

/// A credential holds what a consumer shows and nothing else.
fn credential_only(plugins: &Plugins) -> Result<(), Vec<Problem>> {
    let other = plugins.keys().filter(|name| !is_auth_plugin(name));
    let problems: Vec<Problem> = other
        .map(|name| Problem {
            field: format!("plugins.{name}"),
            message: "only supports auth type plugins in consumer credential".to_owned(),
            value: None,
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// The built-in plugins take nothing from their metadata.
fn plugin_metadata(metadata: &objects::PluginMetadata) -> Result<(), Vec<Problem>> {
    let problem = |field: &str, message: &str| {
        Err(vec![Problem { field: field.to_owned(), message: message.to_owned(), value: None }])
    };
    if !built_in_plugins().any(|(name, _)| name == metadata.id.as_str()) {
        return problem("id", "invalid plugin name");
    }
    match metadata.fields.keys().next() {
        Some(field) => problem(field, "is not a field of this plugin's metadata; it has none"),
        None => Ok(()),
    }
}

/// The matching part of a route; its service may give it hosts.
pub(super) fn route_match(
    object: &objects::Route,
    service: Option<&objects::Service>,
) -> Result<(RouteMatch, Patterns), Vec<Problem>> {
    let own: Vec<String> = object.all_hosts().map(str::to_owned).collect();
    let hosts = match service.and_then(|service| service.hosts.as_ref()) {
        Some(hosts) if own.is_empty() => hosts.clone(),
        _ => own,
    };
    let uris: Vec<String> = object.all_uris().map(str::to_owned).collect();
    let remote_addrs: Vec<String> = object.all_remote_addrs().map(|net| net.to_string()).collect();
    let rule = RouteMatch::parse(&RouteFields {
        hosts: &hosts,
        uris: &uris,
        methods: object.methods.as_deref().unwrap_or_default(),
        remote_addrs: &remote_addrs,
        vars: object.vars.as_ref(),
        priority: i64::from(object.priority),
    })
    .map_err(|error| vec![Problem { field: error.field, message: error.message, value: None }])?;
    Ok((rule, Patterns { hosts, uris }))
}

/// What a route's series are labelled with.
pub(super) struct Patterns {
    pub(super) hosts: Vec<String>,
    pub(super) uris: Vec<String>,
}

pub(super) fn frame_format(object: &objects::FrameFormat) -> Result<(), Vec<Problem>> {
    build_format(object).map(|_| ())
}

/// Compiles a frame format.
pub(super) fn build_format(object: &objects::FrameFormat) -> Result<Arc<FrameFormat>, Vec<Problem>> {
    FrameFormat::new(&FormatSpec::from(object))
        .map(Arc::new)
        .map_err(|error| vec![Problem { field: String::new(), message: error.to_string(), value: None }])
}

fn both(one: Result<(), Vec<Problem>>, other: Result<(), Vec<Problem>>) -> Result<(), Vec<Problem>> {
    match (one, other) {
        (Ok(()), result) | (result, Ok(())) => result,
        (Err(mut problems), Err(more)) => {
            problems.extend(more);
            Err(problems)
        }
    }
}
