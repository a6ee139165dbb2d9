//! Chains of plugins, with the modules and upstreams they name.

use std::cell::RefCell;

use crate::config::objects::{self, Plugins, WATCHING_PLUGINS};
use crate::config::{Id, Key, Kind, Object, Problem, Store};
use crate::filter::{BuildContext, Chain, ChainKind, FoundModule, ModulePlace, ModuleSource, UpstreamSource};
use crate::plugin::Gap;

use super::super::secrets::{has_reference, resolve};
use super::super::shown;
use super::super::upstreams::Around;
use super::Builder;
use super::modules::PREPARING;

/// What a chain without frames knows of them.
pub(super) const NO_FRAMES: (&[&str], ModulePlace<'_>) =
    (&[], ModulePlace { is_shared: false, inspect: &[] });

/// What becomes of a chain whose module cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gaps {
    /// It is not built.
    AreFaults,
    /// It is built without it, and refuses what would have met it unless the
    /// module's object says that it may fail open.
    AreClosed,
}

impl Builder {
    /// Builds something that is to be there even if its modules are not.
    pub(super) fn without_modules<T>(&mut self, build: impl FnOnce(&mut Self) -> T) -> T {
        self.gaps = Gaps::AreClosed;
        let built = build(self);
        self.gaps = Gaps::AreFaults;
        built
    }

    /// Builds a chain and notes which upstreams its plugins name.
    pub(super) fn chain(
        &mut self,
        store: &Store,
        owner: &Key,
        kind: ChainKind,
        plugins: &Plugins,
        (frame_fields, modules): (&[&str], ModulePlace<'_>),
        previous: Option<&Chain>,
    ) -> Result<Chain, Vec<Problem>> {
        // The frame side of a route comes second, and its filters name no upstream.
        if !(kind == ChainKind::Frames && owner.0 == Kind::Routes) {
            self.mentions.forget(owner);
        }
        let https_port = self.https_port();
        let around = Around { store, formats: &self.formats };
        let (place, gaps, is_starting) = (modules, self.gaps, self.is_starting);
        let is_barred = |name: &str| {
            gaps == Gaps::AreClosed && owner.0 == Kind::GlobalRules && self.barred.contains(name)
        };
        let modules = RefCell::new(&mut self.modules);
        let module = |source: ModuleSource<'_>| {
            let id = Id::new(source.name).map_err(|_| "unknown plugin".to_owned())?;
            // What was not in force before, good or closed, does not come into force bad.
            let is_new = || !is_starting && !previous.is_some_and(|chain| chain.has(source.name));
            let Some(Object::Module(object)) = store.live(Kind::Modules, &id) else {
                return match gaps {
                    _ if WATCHING_PLUGINS.contains(&source.name) => Ok(FoundModule::LeftOut),
                    Gaps::AreFaults => Err(format!("modules/{id} does not exist")),
                    Gaps::AreClosed if is_new() && !is_barred(source.name) => Ok(FoundModule::LeftOut),
                    Gaps::AreClosed => Ok(FoundModule::Missing),
                };
            };
            if is_barred(source.name) {
                return Ok(match object.on_failure {
                    objects::ModuleFailure::Open => FoundModule::LeftOut,
                    objects::ModuleFailure::Closed => FoundModule::Missing,
                });
            }
            match (modules.borrow_mut().find(object, source.config), gaps) {
                (Ok(rollout), _) => Ok(FoundModule::Ready(rollout)),
                (Err(_), Gaps::AreClosed)
                    if object.on_failure == objects::ModuleFailure::Open || is_new() =>
                {
                    Ok(FoundModule::LeftOut)
                }
                (Err(_), Gaps::AreClosed) => Ok(FoundModule::Missing),
                (Err(Gap::Preparing), Gaps::AreFaults) => Err(format!("modules/{id} {PREPARING}")),
                (Err(Gap::Refused(why)), Gaps::AreFaults) => Err(format!("modules/{id} {why}")),
            }
        };
        let found = RefCell::new((&mut self.upstreams, &mut self.mentions));
        let upstream = |source: UpstreamSource<'_>| {
            let (upstreams, mentions) = &mut *found.borrow_mut();
            match source {
                UpstreamSource::Id(text) => {
                    let id = Id::new(text).map_err(|error| error.to_string())?;
                    mentions.add(owner, &id);
                    upstreams.get(&id).cloned().ok_or_else(|| "does not exist".to_owned())
                }
                UpstreamSource::Inline { place, object } => {
                    let object: objects::Upstream =
                        objects::parse(&owner.1, object).map_err(|error| shown(&error.problems))?;
                    let name = format!("{}/{}#{place}", owner.0, owner.1);
                    upstreams.inline(owner, &name, &object, around).map_err(|problems| shown(&problems))
                }
            }
        };
        let groups = &self.groups;
        let context = BuildContext {
            kind,
            upstream: &upstream,
            module: &module,
            groups,
            https_port,
            frame_fields,
            modules: place,
        };
        if !plugins.values().any(|plugin| has_reference(&plugin.config)) {
            return Chain::build(plugins, &context, previous);
        }
        let mut resolved = plugins.clone();
        for (name, plugin) in &mut resolved {
            plugin.config = resolve(store, &format!("plugins.{name}"), &plugin.config)?;
        }
        Chain::build(&resolved, &context, previous)
    }

    /// The port clients reach HTTPS at: that of the first TLS listener for HTTP.
    fn https_port(&self) -> u16 {
        self.current
            .listeners
            .values()
            .filter(|listener| {
                matches!(listener.tls, objects::ListenerTls::Terminate(_))
                    && listener.protocol == objects::Protocol::Http
            })
            .find_map(|listener| listener.bind.first())
            .map_or(443, std::net::SocketAddr::port)
    }
}
