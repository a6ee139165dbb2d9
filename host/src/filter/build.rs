//! From what objects say under `plugins` to filters: merging, order, errors.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::objects::Plugins;
use crate::message::Stage;
use crate::plugin::Rollout;
use crate::rate::WindowCount;
use crate::upstream::Upstream;

/// What a chain is for; it decides which plugins and variables fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Requests, by a route of their own.
    Http,
    /// Requests, by the global rules.
    Global,
    /// The frames of a stream route.
    Frames,
    /// Raw connections of a stream route.
    Stream,
    /// Requests of a consumer, beside their route's own.
    Consumer,
}

/// An upstream a plugin names.
#[derive(Debug, Clone, Copy)]
pub enum UpstreamSource<'a> {
    /// By its id.
    Id(&'a str),
    /// Written in the plugin's configuration.
    Inline {
        /// Where it stands, to make an id of: `traffic-split.rules[0].weighted_upstreams[1]`.
        place: &'a str,
        /// The object.
        object: &'a Value,
    },
}

/// A module a chain names.
#[derive(Debug, Clone, Copy)]
pub struct ModuleSource<'a> {
    /// Its name.
    pub name: &'a str,
    /// What the chain says, over the module's own configuration.
    pub config: &'a Value,
}

/// What stands in a chain where a module is named.
#[derive(Debug, Clone)]
pub enum FoundModule {
    /// The module, ready to be called.
    Ready(Rollout),
    /// Nothing: the chain is only checked, or the module may fail open.
    LeftOut,
    /// A refusal of every exchange: the module fails closed and cannot be had.
    Missing,
}

/// Finds a module, or says why the chain cannot be built.
pub type FindModule<'a> = dyn Fn(ModuleSource<'_>) -> Result<FoundModule, String> + 'a;

/// What building a chain takes from around it.
#[derive(Clone, Copy)]
pub struct BuildContext<'a> {
    /// What the chain is for.
    pub kind: ChainKind,
    /// Finds or builds an upstream; the error is a sentence without the id.
    pub upstream: &'a dyn Fn(UpstreamSource<'_>) -> Result<Arc<Upstream>, String>,
    /// Finds a module with what a chain says about it.
    pub module: &'a FindModule<'a>,
    /// Counters that routes share.
    pub groups: &'a Groups,
    /// Port that `redirect` sends clients to for HTTPS; 443 is left out of URLs.
    pub https_port: u16,
    /// Names of the header fields of the stream route's frame format, for
    /// [`ChainKind::Frames`].
    pub frame_fields: &'a [&'a str],
    /// What modules of the chain may be.
    pub modules: ModulePlace<'a>,
}

/// What modules of a chain may be, besides what their interfaces say.
#[derive(Debug, Clone, Copy, Default)]
pub struct ModulePlace<'a> {
    /// The same plugins make another chain as well: a module that does nothing
    /// in this one is left out.
    pub is_shared: bool,
    /// Those that are shown the texts of messages, for [`ChainKind::Frames`].
    pub inspect: &'a [String],
}

impl fmt::Debug for BuildContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuildContext").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl BuildContext<'_> {
    /// The stage at which filters that decide on single requests or frames run.
    pub(super) fn stage(&self) -> Stage {
        match self.kind {
            ChainKind::Http | ChainKind::Global | ChainKind::Consumer => Stage::Request,
            ChainKind::Frames => Stage::Frame,
            ChainKind::Stream => Stage::Connection,
        }
    }
}

/// Counters shared by the routes whose `limit-count` names the same `group`.
/// One for the whole process; a group lives as long as a chain that uses it.
#[derive(Debug, Default)]
pub struct Groups {
    known: Mutex<HashMap<String, (Value, Weak<WindowCount>)>>,
}

impl Groups {
    /// The counters of a group, made by the first who asks. `None` when the
    /// group is in use with another configuration.
    pub(super) fn join(&self, name: &str, config: &Value, keys_max: usize) -> Option<Arc<WindowCount>> {
        let mut known = self.known.lock();
        known.retain(|_, (_, counters)| counters.strong_count() > 0);
        if let Some((own, counters)) = known.get(name)
            && let Some(counters) = counters.upgrade()
        {
            return (own == config).then_some(counters);
        }
        let counters = Arc::new(WindowCount::new(keys_max));
        known.insert(name.to_owned(), (config.clone(), Arc::downgrade(&counters)));
        Some(counters)
    }
}

/// Puts plugins together as APISIX does: a route's replace those of the same
/// name from its plugin config, and these those of its service. Plugins are
/// taken whole, never field by field.
#[must_use]
pub fn merge(service: Option<&Plugins>, plugin_config: Option<&Plugins>, route: Option<&Plugins>) -> Plugins {
    let mut merged = Plugins::new();
    for layer in [service, plugin_config, route].into_iter().flatten() {
        for (name, plugin) in layer {
            merged.insert(name.clone(), plugin.clone());
        }
    }
    merged
}

/// What is wrong with a plugin's configuration.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FieldError {
    /// The field below the plugin, as in `headers.set`; empty for the whole.
    pub(super) field: String,
    /// The value at fault, where showing it helps.
    pub(super) value: Option<Value>,
    /// What is wrong.
    pub(super) message: String,
}

impl FieldError {
    pub(super) fn new(field: impl Into<String>, message: impl ToString) -> Self {
        Self { field: field.into(), value: None, message: message.to_string() }
    }

    pub(super) fn with(field: impl Into<String>, value: impl Into<Value>, message: impl ToString) -> Self {
        Self { field: field.into(), value: Some(value.into()), message: message.to_string() }
    }
}

pub(super) type Built<T> = Result<T, FieldError>;

/// Reads a plugin's fields, strictly.
pub(super) fn fields<T: DeserializeOwned>(config: &Value) -> Built<T> {
    serde_path_to_error::deserialize(config).map_err(|error| {
        let path = error.path().to_string();
        FieldError::new(if path == "." { "" } else { &path }, error.inner())
    })
}

/// Says no unless a number is in its bounds.
pub(super) fn within<N>(field: &str, value: N, least: N, most: N) -> Built<()>
where
    N: PartialOrd + Into<Value> + Copy + fmt::Display,
{
    if value >= least && value <= most {
        return Ok(());
    }
    Err(FieldError::with(field, value, format_args!("must be from {least} to {most}")))
}
