//! Stream routes.

use std::sync::Arc;

use crate::config::objects;
use crate::config::{Key, Problem, Store};
use crate::filter::{ChainKind, ModulePlace, merge};
use crate::frame::FrameFormat;
use crate::upstream::{Timeouts, Upstream};

use super::super::bridge::check_inspection;
use super::super::stream::{StreamFlow, StreamRoute, TlvSettings, stream_identity};
use super::modules::with_protos;
use super::{Builder, labels};

impl Builder {
    pub(super) fn stream_route(&mut self, store: &Store, key: Key) {
        let Some(object) = store.stream_route(&key.1).filter(|object| object.status.is_enabled()) else {
            self.current.stream_routes.remove(key.1.as_str());
            self.upstreams.forget(&key);
            self.mentions.forget(&key);
            self.failed.remove(&key);
            self.modules.forget(&key);
            return;
        };
        let before = self.upstreams.begin(&key);
        let built = self.build_stream_route(store, &key, object);
        self.upstreams.finish(&key, before, built.is_ok());
        if let Some(route) = self.note(&key, built) {
            let before = self.current.stream_routes.get(key.1.as_str()).map(|route| Arc::clone(&route.chain));
            self.compare(&key, before.as_deref(), &route.chain);
            self.current.stream_routes.insert(object, Arc::new(route));
        }
    }

    fn build_stream_route(
        &mut self,
        store: &Store,
        key: &Key,
        object: &objects::StreamRoute,
    ) -> Result<StreamRoute, Vec<Problem>> {
        let previous = self.current.stream_routes.get(key.1.as_str()).cloned();
        let service = object.service_id.as_ref().and_then(|id| store.service(id)).cloned();
        let upstream = self.resolve_upstream(
            store,
            key,
            object.upstream_id.as_ref(),
            object.upstream.as_deref(),
            service.as_deref(),
        )?;
        let listener = object.listener.as_ref().and_then(|id| store.listener(id)).cloned();
        let flow = self.stream_flow(object, listener.as_deref(), upstream.as_deref())?;
        let mut plugins =
            merge(service.as_ref().map(|service| &service.plugins), None, Some(&object.plugins));
        with_protos(store, &mut plugins);
        let (kind, fields) = match &flow {
            StreamFlow::Tcp => (ChainKind::Stream, Vec::new()),
            StreamFlow::Tlv(settings) => (ChainKind::Frames, settings.format.field_names().collect()),
        };
        let chain = previous.as_ref().map(|route| &*route.chain);
        let inspect = object.protocol.as_ref().map_or(&[][..], |protocol| &protocol.conf.inspect);
        let place = ModulePlace { is_shared: false, inspect };
        let chain = self.chain(store, key, kind, &plugins, (&fields, place), chain)?;
        check_inspection(inspect, &chain)?;
        let name = object.name.as_deref();
        let labels = labels(key, name, object.service_id.as_ref(), service.as_deref());
        Ok(StreamRoute {
            id: key.1.as_str().into(),
            labels: Some(Arc::new(labels)),
            chain: Arc::new(chain),
            flow,
            upstream,
            timeouts: object.timeout.as_ref().map(Timeouts::of),
            on_change: object.on_change,
            identity: stream_identity(object),
            is_bridged: false,
            metrics: self.metrics.stream_route(key.1.as_str()),
        })
    }

    /// What a stream route speaks: as it says, else as its listener does, else
    /// as its upstream does.
    fn stream_flow(
        &self,
        object: &objects::StreamRoute,
        listener: Option<&objects::Listener>,
        upstream: Option<&Upstream>,
    ) -> Result<StreamFlow, Vec<Problem>> {
        let said = object.protocol.as_ref().map(|protocol| protocol.name);
        let is_tlv = match (said, listener.map(|listener| listener.protocol)) {
            (Some(name), _) => name == objects::StreamProtocolName::Tlv,
            (None, Some(protocol)) => protocol == objects::Protocol::Tlv,
            (None, None) => upstream.is_some_and(|upstream| upstream.scheme.is_tlv()),
        };
        if !is_tlv {
            return Ok(StreamFlow::Tcp);
        }
        let conf = object.protocol.as_ref().map(|protocol| protocol.conf.clone()).unwrap_or_default();
        self.tlv_settings(&conf, listener).map(StreamFlow::Tlv)
    }

    pub(super) fn tlv_settings(
        &self,
        conf: &objects::TlvConf,
        listener: Option<&objects::Listener>,
    ) -> Result<Arc<TlvSettings>, Vec<Problem>> {
        let id = conf
            .frame_format
            .clone()
            .or_else(|| listener.and_then(|listener| listener.frame_format.clone()))
            .unwrap_or_else(|| objects::FrameFormat::built_in().id);
        let format = match self.formats.get(&id) {
            Some(format) => Arc::clone(format),
            None if id == objects::FrameFormat::built_in().id => Arc::new(FrameFormat::im20()),
            None => {
                let message = format!("frame_formats/{id} could not be built");
                return Err(vec![Problem {
                    field: "protocol.conf.frame_format".to_owned(),
                    message,
                    value: None,
                }]);
            }
        };
        TlvSettings::new(conf, format)
            .map(Arc::new)
            .map_err(|message| vec![Problem { field: "protocol.conf".to_owned(), message, value: None }])
    }
}
