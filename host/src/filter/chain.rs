//! The filters of one object, in the order and for the phases they run.
//!
//! As in APISIX a request first meets all filters of the rewrite phase, by
//! falling priority, then those of the access phase; the global rules' chain
//! runs whole before the route's.

mod assemble;
mod run;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::message::{Client, FrameFields, RouteLabels, Subject, Transcode};
use crate::plugin::Plugin;
use crate::plugin::edge::Function;
use crate::route::Expression;

use super::build::ChainKind;
use super::exchange::{ConnectionScope, FilterNote, Word};
use super::module::FrameBatch;
use super::plugins::Filter;
use super::verdict::{BodyInterest, ConnectionVerdict, FrameVerdict, LocalResponse};
pub use run::Filters;

/// The places of chains in an exchange's tables; the global rules' is 0.
const ROUTE: usize = 1;
const CONSUMER: usize = 2;

/// What one filter does with a request.
#[derive(Debug)]
pub(super) enum Step {
    Next,
    Wait(Duration),
    Respond(Box<LocalResponse>),
    WaitAndRespond(Duration, Box<LocalResponse>),
}

/// A filter and what is said about it under `_meta`.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) filter: Filter,
    name: Word,
    priority: i32,
    config: serde_json::Value,
    condition: Option<Expression>,
    error_response: Option<LocalBody>,
}

#[derive(Debug)]
struct LocalBody {
    body: Bytes,
    content_type: &'static str,
}

/// The filters of one object.
#[derive(Debug)]
pub struct Chain {
    links: Box<[Link]>,
    /// Places of the filters that run for a request, in order.
    request: Box<[u8]>,
    /// How many of these belong to the rewrite phase.
    rewrites: usize,
    response: Box<[u8]>,
    connection: Box<[u8]>,
    frame: Box<[u8]>,
    body: BodyInterest,
    has_conditions: bool,
    sees_batches: bool,
    needs_consumers: bool,
    /// Its place among the chains of an exchange.
    slot: usize,
    /// The place of the first edge function.
    function: Option<u8>,
    /// What finds the texts of messages, where modules are shown them.
    texts: Option<Arc<dyn Transcode>>,
}

impl Default for Chain {
    fn default() -> Self {
        Self::assemble(Vec::new(), ChainKind::Http)
    }
}

/// One frame, and whose it is.
#[derive(Clone, Copy)]
pub struct FrameContext<'a> {
    /// The connection.
    pub client: &'a Client,
    /// Names of the stream route.
    pub labels: Option<&'a RouteLabels>,
    /// The frame's header.
    pub frame: &'a dyn FrameFields,
    /// Now.
    pub now: Instant,
}

impl Chain {
    /// How much of the request's body its filters want to see.
    #[must_use]
    pub fn body_interest(&self) -> BodyInterest {
        self.body
    }

    /// Whether a filter asks who sends the request; then
    /// [`Exchange::consumers`](super::Exchange::consumers) must be there.
    #[must_use]
    pub fn needs_consumers(&self) -> bool {
        self.needs_consumers
    }

    /// Whether it looks at frames at all.
    #[must_use]
    pub fn sees_frames(&self) -> bool {
        !self.frame.is_empty() || self.sees_batches
    }

    /// Whether it looks at connections at all.
    #[must_use]
    pub fn sees_connections(&self) -> bool {
        !self.connection.is_empty()
    }

    /// The modules among its plugins.
    pub fn modules(&self) -> impl Iterator<Item = &Arc<Plugin>> {
        self.links.iter().filter_map(|link| match &link.filter {
            Filter::Module(module) => Some(module.plugin()),
            _ => None,
        })
    }

    /// Whether it refuses what it meets: a module of it cannot be had.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.links.iter().any(|link| matches!(link.filter, Filter::Missing(_)))
    }

    /// Whether a module of it was withdrawn: it is called no more.
    #[must_use]
    pub fn has_withdrawn(&self) -> bool {
        self.modules().any(|module| module.is_withdrawn())
    }

    /// Whether a plugin of this name is in it.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.links.iter().any(|link| *link.name == *name)
    }

    /// The names of its plugins, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.links.iter().map(|link| &*link.name)
    }

    /// The filter of this name, if it has one with the same configuration.
    pub(super) fn same(&self, name: &str, config: &serde_json::Value) -> Option<&Filter> {
        let link = self.links.iter().find(|link| *link.name == *name && link.config == *config)?;
        Some(&link.filter)
    }

    /// Runs the connection phase. What `scope` holds afterwards must live as
    /// long as the connection.
    pub fn on_connection(
        &self,
        client: &Client,
        labels: Option<&RouteLabels>,
        scope: &mut ConnectionScope,
    ) -> ConnectionVerdict {
        let mut wait = Duration::ZERO;
        let subject = Subject { labels, ..Subject::of_client(client) };
        for link in self.connection.iter().map(|place| &self.links[usize::from(*place)]) {
            if link.condition.as_ref().is_some_and(|condition| !condition.holds(&subject)) {
                continue;
            }
            match link.filter.connection(&subject, scope) {
                ConnectionVerdict::Continue => {}
                ConnectionVerdict::Delay(more) => {
                    wait += more;
                    scope.note(FilterNote::of(&link.name, "delay", ""));
                }
                ConnectionVerdict::Close(reason) => {
                    scope.note(FilterNote::of(&link.name, "close", reason));
                    return ConnectionVerdict::Close(reason);
                }
            }
        }
        if wait.is_zero() { ConnectionVerdict::Continue } else { ConnectionVerdict::Delay(wait) }
    }

    /// Runs the frame phase: the first filter that does not let the frame pass
    /// decides; of several delays the longest counts.
    #[must_use]
    pub fn on_frame(&self, context: &FrameContext<'_>) -> FrameVerdict {
        self.judge_frame(context).0
    }

    /// The same, and the name of the plugin that decided; empty where all let it pass.
    #[must_use]
    pub fn judge_frame(&self, context: &FrameContext<'_>) -> (FrameVerdict, &'static str) {
        let mut wait = Duration::ZERO;
        let mut by = "";
        let subject = Subject::of_frame(context.client, context.labels, context.frame);
        for link in self.frame.iter().map(|place| &self.links[usize::from(*place)]) {
            if link.condition.as_ref().is_some_and(|condition| !condition.holds(&subject)) {
                continue;
            }
            match link.filter.frame(&subject, context.now) {
                FrameVerdict::Pass => {}
                FrameVerdict::Delay(more) if more > wait => (wait, by) = (more, link.name.fixed()),
                FrameVerdict::Delay(_) => {}
                verdict => return (verdict, link.name.fixed()),
            }
        }
        (if wait.is_zero() { FrameVerdict::Pass } else { FrameVerdict::Delay(wait) }, by)
    }

    /// The edge function that answers what its filters let through.
    #[must_use]
    pub fn function(&self) -> Option<&Function> {
        let plugin = self.function.map(|place| &self.links[usize::from(place)].filter);
        match plugin {
            Some(Filter::Module(module)) => module.function(),
            _ => None,
        }
    }

    /// The module among its plugins that turns JSON into frames and back.
    #[must_use]
    pub fn transcoder(&self) -> Option<Arc<dyn Transcode>> {
        transcoder_of(&self.links)
    }

    /// Whether modules of it look at frames, many at a time.
    #[must_use]
    pub fn sees_batches(&self) -> bool {
        self.sees_batches
    }

    /// Has its modules look at the frames of one read; one verdict each, with a
    /// note where that is not to pass. [`on_frame`](Self::on_frame) is still due
    /// for those that pass.
    #[must_use]
    pub fn on_batch(&self, batch: &mut FrameBatch<'_>) -> Vec<(FrameVerdict, Option<Box<FilterNote>>)> {
        let mut verdicts: Vec<_> = batch.frames.iter().map(|_| (FrameVerdict::Pass, None)).collect();
        for link in &self.links {
            if let Filter::Module(module) = &link.filter {
                module.frames(batch, &mut verdicts);
                if let Some(texts) = self.texts.as_deref().filter(|_| module.inspects()) {
                    module.texts(texts, batch, &mut verdicts);
                }
            }
        }
        verdicts
    }
}

impl Link {
    fn is_function(&self) -> bool {
        matches!(&self.filter, Filter::Module(module) if module.function().is_some())
    }
}

fn transcoder_of(links: &[Link]) -> Option<Arc<dyn Transcode>> {
    links.iter().find_map(|link| match &link.filter {
        Filter::Module(module) => module.transcoder(),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
