//! Routes, with the frame side of those whose upstream speaks frames.

use std::sync::Arc;

use crate::config::objects::{self, Plugins};
use crate::config::{Id, Key, Kind, Problem, Store};
use crate::filter::{ChainKind, ModulePlace, merge};
use crate::message::RouteLabels;
use crate::observe;
use crate::route::RouteMatch;
use crate::upstream::{Timeouts, Upstream};

use super::super::Route;
use super::super::bridge::{Bridge, bridge_identity, check_inspection, idle_modules, part_plugins};
use super::super::check::route_match;
use super::super::stream::{StreamFlow, StreamRoute};
use super::super::upstreams::{Around, Upstreams};
use super::modules::with_protos;
use super::{Builder, labels};

impl Builder {
    pub(super) fn route(&mut self, store: &Store, key: Key) {
        let Some(object) = store.route(&key.1).filter(|object| object.status.is_enabled()) else {
            self.current.router.remove(key.1.as_str());
            self.bridge_is(key.1.as_str(), None);
            self.upstreams.forget(&key);
            self.mentions.forget(&key);
            self.failed.remove(&key);
            self.closed.remove(&key);
            self.modules.forget(&key);
            return;
        };
        let built = self.try_route(store, &key, object);
        if built.is_err() && self.has_withdrawn(&key) {
            self.closed.insert(key.clone());
        }
        if let Some(route) = self.note(&key, built) {
            self.closed.remove(&key);
            self.put_route(&key, route);
        } else if (self.is_starting && !self.is_live(&key)) || self.closed.contains(&key) {
            // There is no version to go on with. Were it not there, a wider route
            // would take its requests, unseen by the module.
            if let Ok(route) = self.without_modules(|own| own.try_route(store, &key, object)) {
                self.closed.insert(key.clone());
                self.put_route(&key, route);
            }
        }
    }

    fn try_route(
        &mut self,
        store: &Store,
        key: &Key,
        object: &objects::Route,
    ) -> Result<(RouteMatch, Route), Vec<Problem>> {
        let before = self.upstreams.begin(key);
        let built = self.build_route(store, key, object);
        self.upstreams.finish(key, before, built.is_ok());
        built
    }

    fn put_route(&mut self, key: &Key, (rule, route): (RouteMatch, Route)) {
        let before = self.current.router.get(key.1.as_str()).map(|route| Arc::clone(&route.chain));
        self.compare(key, before.as_deref(), &route.chain);
        self.bridge_is(&route.id, route.bridge.as_ref().map(|bridge| Arc::clone(&bridge.frames)));
        self.current.router.insert(key.1.as_str(), rule, Arc::new(route));
    }

    /// Takes note of the frame side of a route, or that it has none.
    fn bridge_is(&mut self, id: &str, frames: Option<Arc<StreamRoute>>) {
        match frames {
            Some(frames) => _ = Arc::make_mut(&mut self.current.bridged).insert(id.into(), frames),
            None if self.current.bridged.contains_key(id) => {
                Arc::make_mut(&mut self.current.bridged).remove(id);
            }
            None => {}
        }
    }

    /// The frame side of a route whose upstream speaks frames.
    fn build_bridge(
        &mut self,
        store: &Store,
        key: &Key,
        object: &objects::Route,
        plugins: &Plugins,
        upstream: &Arc<Upstream>,
        labels: &Arc<RouteLabels>,
    ) -> Result<Arc<Bridge>, Vec<Problem>> {
        let protocol = object.protocol.as_deref().cloned().unwrap_or_default();
        let tlv = self.tlv_settings(&protocol.conf, None)?;
        let fields: Vec<&str> = tlv.format.field_names().collect();
        let previous = self.current.bridged.get(key.1.as_str()).cloned();
        let chain = previous.as_ref().map(|frames| &*frames.chain);
        let inspect = &protocol.conf.inspect;
        let place = ModulePlace { is_shared: true, inspect };
        let chain = self.chain(store, key, ChainKind::Frames, plugins, (&fields, place), chain)?;
        check_inspection(inspect, &chain)?;
        let frames = StreamRoute {
            id: key.1.as_str().into(),
            labels: Some(Arc::clone(labels)),
            chain: Arc::new(chain),
            flow: StreamFlow::Tlv(Arc::clone(&tlv)),
            upstream: Some(Arc::clone(upstream)),
            // The route's times are those of its requests; sessions last.
            timeouts: None,
            on_change: object.on_change,
            identity: bridge_identity(object, &upstream.id),
            is_bridged: true,
            metrics: self.metrics.stream_route(key.1.as_str()),
        };
        Bridge::new(&protocol, frames, tlv).map(Arc::new)
    }

    fn build_route(
        &mut self,
        store: &Store,
        key: &Key,
        object: &objects::Route,
    ) -> Result<(RouteMatch, Route), Vec<Problem>> {
        let previous = self.current.router.get(key.1.as_str()).cloned();
        let service = object.service_id.as_ref().and_then(|id| store.service(id)).cloned();
        let plugin_config = object.plugin_config_id.as_ref().and_then(|id| store.plugin_config(id)).cloned();
        let (rule, patterns) = route_match(object, service.as_deref())?;
        let mut plugins = merge(
            service.as_ref().map(|service| &service.plugins),
            plugin_config.as_ref().map(|config| &config.plugins),
            Some(&object.plugins),
        );
        with_protos(store, &mut plugins);
        let upstream = self.resolve_upstream(
            store,
            key,
            object.upstream_id.as_ref(),
            object.upstream.as_deref(),
            service.as_deref(),
        )?;
        let speaks_frames = upstream.as_ref().is_some_and(|upstream| upstream.scheme.is_tlv());
        if object.protocol.is_some() && !speaks_frames {
            return Err(vec![Problem {
                field: "protocol".to_owned(),
                message: "needs an upstream of scheme tlv or tlvs".to_owned(),
                value: None,
            }]);
        }
        let (plugins, frame_plugins) =
            if speaks_frames { part_plugins(&plugins) } else { (plugins, Plugins::new()) };
        let chain = previous.as_ref().map(|route| &*route.chain);
        let place = ModulePlace { is_shared: speaks_frames, inspect: &[] };
        let chain = self.chain(store, key, ChainKind::Http, &plugins, (&[], place), chain)?;
        let timeouts = timeouts(object.timeout.as_ref(), upstream.as_deref());
        let name = object.name.as_deref();
        let labels = Arc::new(labels(key, name, object.service_id.as_ref(), service.as_deref()));
        let metrics = self.metrics.route(observe::RouteLabels {
            route: key.1.as_str().into(),
            matched_uri: patterns.uris.join(",").into(),
            matched_host: patterns.hosts.join(",").into(),
            service: labels.service_id.clone(),
        });
        let enable_websocket = object
            .enable_websocket
            .or_else(|| service.as_ref().and_then(|service| service.enable_websocket))
            .unwrap_or(false);
        let transcoder = chain.transcoder();
        let bridge = match upstream.as_ref().filter(|_| speaks_frames) {
            None => None,
            // Without its modules there may be nothing that makes frames.
            Some(_) if chain.is_closed() => None,
            Some(_) if transcoder.is_none() && !enable_websocket => {
                return Err(vec![Problem {
                    field: "plugins".to_owned(),
                    message: "the upstream speaks frames: the plugin transcode makes them of requests, \
                              enable_websocket lets clients send their own"
                        .to_owned(),
                    value: None,
                }]);
            }
            Some(upstream) => {
                let bridge = self.build_bridge(store, key, object, &frame_plugins, upstream, &labels)?;
                let idle = idle_modules(&plugins, [&chain, &bridge.frames.chain]);
                if !idle.is_empty() {
                    return Err(idle);
                }
                Some(bridge)
            }
        };
        let route = Route {
            id: key.1.as_str().into(),
            labels,
            chain: Arc::new(chain),
            upstream,
            timeouts,
            enable_websocket,
            transcoder,
            bridge,
            on_change: object.on_change,
            metrics,
        };
        Ok((rule, route))
    }

    /// The upstream of a route: its own by id, its own written inside, then the
    /// service's in the same order.
    pub(super) fn resolve_upstream(
        &mut self,
        store: &Store,
        key: &Key,
        id: Option<&Id>,
        inline: Option<&objects::Upstream>,
        service: Option<&objects::Service>,
    ) -> Result<Option<Arc<Upstream>>, Vec<Problem>> {
        let around = Around { store, formats: &self.formats };
        let by_id = |upstreams: &Upstreams, field: &str, id: &Id| {
            upstreams.get(id).cloned().map(Some).ok_or_else(|| {
                let message = format!("upstreams/{id} could not be built");
                vec![Problem { field: field.to_owned(), message, value: Some(format!("{:?}", id.as_str())) }]
            })
        };
        match (id, inline, service) {
            (Some(id), _, _) => by_id(&self.upstreams, "upstream_id", id),
            (None, Some(object), _) => {
                let name = format!("{}/{}", key.0, key.1);
                self.upstreams.inline(key, &name, object, around).map(Some)
            }
            (None, None, Some(service)) => match (&service.upstream_id, service.upstream.as_deref()) {
                (Some(id), _) => by_id(&self.upstreams, "service_id", id),
                (None, Some(object)) => {
                    // One for all routes of the service: they share its health and pools.
                    let owner = (Kind::Services, service.id.clone());
                    let name = format!("{}/{}", owner.0, owner.1);
                    self.upstreams.inline(&owner, &name, object, around).map(Some)
                }
                (None, None) => Ok(None),
            },
            (None, None, None) => Ok(None),
        }
    }
}

/// The route's own times where it has them, else the upstream's.
fn timeouts(own: Option<&objects::Timeout>, upstream: Option<&Upstream>) -> Timeouts {
    match (own, upstream) {
        (Some(own), _) => Timeouts::of(own),
        (None, Some(upstream)) => upstream.timeouts,
        (None, None) => Timeouts::of(&objects::Timeout::default()),
    }
}
