//! The filters of one object, in the order and for the phases they run.
//!
//! As in APISIX a request first meets all filters of the rewrite phase, by
//! falling priority, then those of the access phase; the global rules' chain
//! runs whole before the route's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::config::Problem;
use crate::config::objects::{BUILT_IN_PLUGINS, Plugins};
use crate::message::{
    Client, FrameFields, ResponseHead, RouteLabels, Stage, Subject, Transcode, UpstreamView,
};
use crate::plugin::Plugin;
use crate::plugin::edge::Function;
use crate::route::Expression;

use super::build::{BuildContext, ChainKind, FieldError, FoundModule, ModuleSource};
use super::exchange::{ConnectionScope, Exchange, FilterNote, Word};
use super::module::{FrameBatch, MissingModule, ModuleFilter, Seat, Transformed};
use super::plugins::{self, Filter, Phase};
use super::verdict::{
    BodyAction, BodyInterest, ConnectionVerdict, FrameVerdict, LocalResponse, Longer, Rewritten, Verdict,
};

/// The most filters of one chain.
const LINKS_MAX: usize = 64;
/// The most of a request's body that is held back for filters, in bytes.
const REQUEST_BODY_MAX: usize = 1 << 20;

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
    /// Builds the chain of merged plugins. What a filter of `previous` counts is
    /// carried over when its configuration is unchanged.
    ///
    /// # Errors
    /// One problem for each plugin that cannot be built, with field and value.
    pub fn build(
        plugins: &Plugins,
        context: &BuildContext<'_>,
        previous: Option<&Self>,
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut links = Vec::new();
        for (name, plugin) in plugins {
            let mut fail = |error: FieldError| {
                let dot = if error.field.is_empty() || error.field.starts_with('[') { "" } else { "." };
                let value = error.value.map(|value| shorten(&value));
                let field = format!("plugins.{name}{dot}{}", error.field);
                problems.push(Problem { field, message: error.message, value });
            };
            if plugin.meta.disable {
                // Its name must still be one.
                if BUILT_IN_PLUGINS.contains(&name.as_str()) && plugins::kind(name, context.kind).is_err() {
                    fail(FieldError::new("", "unknown plugin"));
                }
                continue;
            }
            match build_link(name, plugin, context, previous) {
                Ok(Some(link)) => links.push(link),
                Ok(None) => {}
                Err(error) => fail(error),
            }
        }
        if links.len() > LINKS_MAX {
            problems.push(Problem {
                field: "plugins".to_owned(),
                message: format!("must be at most {LINKS_MAX} plugins"),
                value: Some(links.len().to_string()),
            });
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        links.sort_by(|(a, left), (b, right)| b.cmp(a).then_with(|| left.name.cmp(&right.name)));
        Ok(Self::assemble(links.into_iter().map(|(_, link)| link).collect(), context.kind))
    }

    fn assemble(links: Vec<Link>, kind: ChainKind) -> Self {
        let places = |phase: Phase| {
            let with =
                links.iter().enumerate().filter(move |(_, link)| link.filter.phases().contains(&phase));
            with.map(|(index, _)| index as u8)
        };
        let needs_body = links.iter().any(|link| {
            link.filter.needs_body() || link.condition.as_ref().is_some_and(Expression::needs_body)
        });
        let is_http = matches!(kind, ChainKind::Http | ChainKind::Global | ChainKind::Consumer);
        let only = |is_wanted: bool, phase| if is_wanted { places(phase).collect() } else { Box::default() };
        let is_inspector = |link: &Link| matches!(&link.filter, Filter::Module(own) if own.inspects());
        let texts = links.iter().any(is_inspector).then(|| transcoder_of(&links)).flatten();
        Self {
            texts,
            request: if is_http {
                places(Phase::Rewrite).chain(places(Phase::Access)).collect()
            } else {
                Box::default()
            },
            rewrites: if is_http { places(Phase::Rewrite).count() } else { 0 },
            response: only(is_http, Phase::Response),
            connection: only(!is_http, Phase::Connection),
            sees_batches: kind == ChainKind::Frames
                && links.iter().any(|link| matches!(&link.filter, Filter::Module(own) if own.sees_frames())),
            frame: only(kind == ChainKind::Frames, Phase::Frame),
            body: body_interest(&links, needs_body),
            has_conditions: links.iter().any(|link| link.condition.is_some()),
            needs_consumers: links.iter().any(|link| link.filter.needs_consumers()),
            slot: match kind {
                ChainKind::Global => 0,
                ChainKind::Consumer => CONSUMER,
                _ => ROUTE,
            },
            function: links.iter().position(Link::is_function).map(|place| place as u8),
            links: links.into(),
        }
    }

    /// How much of the request's body its filters want to see.
    #[must_use]
    pub fn body_interest(&self) -> BodyInterest {
        self.body
    }

    /// Whether a filter asks who sends the request; then
    /// [`Exchange::consumers`] must be there.
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

    /// Whether a filter is left out for this exchange by its `_meta.filter`,
    /// which is looked at once, before the first filter runs.
    fn is_skipped(&self, place: u8, exchange: &mut Exchange) -> bool {
        if self.slot == ROUTE && exchange.replaced & (1 << place) != 0 {
            return true;
        }
        if !self.has_conditions {
            return false;
        }
        let bits = match exchange.skipped[self.slot] {
            Some(bits) => bits,
            None => {
                let subject = exchange.subject();
                let out = self.links.iter().enumerate().filter(|(_, link)| {
                    link.condition.as_ref().is_some_and(|condition| !condition.holds(&subject))
                });
                let bits = out.fold(0, |bits, (index, _)| bits | 1 << index);
                exchange.skipped[self.slot] = Some(bits);
                bits
            }
        };
        bits & (1 << place) != 0
    }

    /// Runs the request phase from a place in its order; returns the place to go
    /// on from after a wait.
    fn run(&self, from: usize, exchange: &mut Exchange) -> Progress {
        for (at, place) in self.request.iter().enumerate().skip(from) {
            if at == self.rewrites && self.slot == ROUTE && has_chain(exchange) {
                return Progress::Consumer;
            }
            if self.is_skipped(*place, exchange) {
                continue;
            }
            let link = &self.links[usize::from(*place)];
            let step = match &link.filter {
                Filter::Module(module) if module.waits() => {
                    return Progress::Call { place: *place, next: at + 1 };
                }
                Filter::Module(module) => module.request_now((self.slot, *place), exchange),
                built_in => built_in.request(exchange),
            };
            if let Some(progress) = link.progress(step, at + 1, exchange) {
                return progress;
            }
        }
        if from <= self.rewrites
            && self.rewrites == self.request.len()
            && self.slot == ROUTE
            && has_chain(exchange)
        {
            return Progress::Consumer;
        }
        Progress::Done
    }

    /// Runs the filter at one place.
    async fn run_one(&self, place: u8, exchange: &mut Exchange) -> Progress {
        if self.is_skipped(place, exchange) {
            return Progress::Done;
        }
        let link = &self.links[usize::from(place)];
        let step = match &link.filter {
            Filter::Module(module) => Box::pin(module.request((self.slot, place), exchange)).await,
            built_in => built_in.request(exchange),
        };
        link.progress(step, 0, exchange).unwrap_or(Progress::Done)
    }
}

fn transcoder_of(links: &[Link]) -> Option<Arc<dyn Transcode>> {
    links.iter().find_map(|link| match &link.filter {
        Filter::Module(module) => module.transcoder(),
        _ => None,
    })
}

/// The places of chains in an exchange's tables; the global rules' is 0.
const ROUTE: usize = 1;
const CONSUMER: usize = 2;

fn has_chain(exchange: &Exchange) -> bool {
    exchange.consumer.as_ref().is_some_and(|grant| grant.consumer.chain.is_some())
}

/// Runs a consumer's filters with what is left of its route's: its rewrite
/// phase first, then both access phases as one, by falling priority. A filter of
/// the consumer's takes the place of the route's of the same name.
async fn run_with_consumer(route: &Chain, exchange: &mut Exchange) -> Option<Box<LocalResponse>> {
    let own = exchange.consumer.as_ref()?.consumer.chain.clone()?;
    exchange.replaced = route
        .links
        .iter()
        .enumerate()
        .filter(|(_, link)| own.links.iter().any(|other| other.name == link.name))
        .fold(0, |bits, (index, _)| bits | 1 << index);
    let rewrites = own.request[..own.rewrites].iter().map(|place| (&*own, *place));
    let mut access: Vec<(&Chain, u8)> = own.request[own.rewrites..]
        .iter()
        .map(|place| (&*own, *place))
        .chain(route.request[route.rewrites..].iter().map(|place| (route, *place)))
        .collect();
    access.sort_by_key(|(chain, place)| std::cmp::Reverse(chain.links[usize::from(*place)].priority));
    for (chain, place) in rewrites.chain(access) {
        match chain.run_one(place, exchange).await {
            Progress::Done | Progress::Consumer | Progress::Call { .. } => {}
            Progress::Wait { time, .. } => wait(time, exchange).await,
            Progress::Respond { time, response } => {
                if time >= DELAY_MIN {
                    wait(time, exchange).await;
                }
                return Some(response);
            }
        }
    }
    None
}

/// As in APISIX, shorter delays are not worth waiting for.
const DELAY_MIN: Duration = Duration::from_millis(1);

enum Progress {
    Done,
    /// The rewrite phase is over, and the consumer has filters of its own.
    Consumer,
    Wait {
        time: Duration,
        next: usize,
    },
    /// A module is to be called that may wait.
    Call {
        place: u8,
        next: usize,
    },
    Respond {
        time: Duration,
        response: Box<LocalResponse>,
    },
}

impl Link {
    fn is_function(&self) -> bool {
        matches!(&self.filter, Filter::Module(module) if module.function().is_some())
    }

    /// What a step means for the chain; `None` when it goes on at once.
    fn progress(&self, step: Step, next: usize, exchange: &mut Exchange) -> Option<Progress> {
        match step {
            Step::Next => None,
            Step::Wait(time) if time < DELAY_MIN => None,
            Step::Wait(time) => {
                exchange.note(&self.name, "delay", "");
                Some(Progress::Wait { time, next })
            }
            Step::Respond(response) => Some(self.respond(Duration::ZERO, response, exchange)),
            Step::WaitAndRespond(time, response) => Some(self.respond(time, response, exchange)),
        }
    }

    fn respond(&self, time: Duration, mut response: Box<LocalResponse>, exchange: &mut Exchange) -> Progress {
        // Modules have said more about it themselves.
        if !matches!(self.filter, Filter::Module(_)) {
            let verdict = if response.head.status >= 400 { "deny" } else { "respond" };
            exchange.note(&self.name, verdict, response.reason);
        }
        if response.head.status >= 400
            && let Some(own) = &self.error_response
        {
            response.body = own.body.clone();
            response.head.fields.set(b"Content-Type", own.content_type.as_bytes());
        }
        Progress::Respond { time, response }
    }
}

fn build_link(
    name: &str,
    plugin: &crate::config::objects::Plugin,
    context: &BuildContext<'_>,
    previous: Option<&Chain>,
) -> Result<Option<(i32, Link)>, FieldError> {
    let (filter, name, priority) = if BUILT_IN_PLUGINS.contains(&name) {
        let kind = plugins::kind(name, context.kind)?;
        (kind.build(&plugin.config, context, previous)?, Word::Fixed(kind.name()), kind.priority())
    } else {
        let Some(filter) = build_module(name, &plugin.config, context)? else { return Ok(None) };
        (filter, Word::Shared(name.into()), plugins::MODULE_PRIORITY)
    };
    let meta = &plugin.meta;
    let stage = match context.kind {
        ChainKind::Http | ChainKind::Global | ChainKind::Consumer => Stage::Request,
        _ if filter.phases().contains(&Phase::Connection) => Stage::Connection,
        _ => Stage::Frame,
    };
    let condition = meta.filter.as_ref().map(|filter| Expression::parse(filter, stage)).transpose();
    let condition =
        condition.map_err(|error| FieldError::new(format!("_meta.filter{}", error.at), error.message))?;
    if condition.is_some() && context.kind == ChainKind::Frames && matches!(filter, Filter::Module(_)) {
        let message = "is not supported for modules on frames: the module names the commands it wants";
        return Err(FieldError::new("_meta.filter", message));
    }
    let error_response = meta.error_response.as_ref().map(|value| match value {
        serde_json::Value::String(text) => {
            LocalBody { body: text.clone().into(), content_type: "text/plain; charset=utf-8" }
        }
        value => LocalBody { body: value.to_string().into(), content_type: "application/json" },
    });
    let priority = meta.priority.unwrap_or(priority);
    let config = plugin.config.clone();
    let link = Link { filter, name, priority, config, condition, error_response };
    Ok(Some((priority, link)))
}

fn build_module(
    name: &str,
    config: &serde_json::Value,
    context: &BuildContext<'_>,
) -> Result<Option<Filter>, FieldError> {
    if context.kind == ChainKind::Stream {
        return Err(FieldError::new("", "has no effect on stream routes without frames"));
    }
    let found = (context.module)(ModuleSource { name, config });
    let mut module = match found.map_err(|message| FieldError::new("", message))? {
        FoundModule::Ready(rollout) => ModuleFilter::new(rollout),
        FoundModule::LeftOut => return Ok(None),
        FoundModule::Missing => return Ok(Some(Filter::Missing(MissingModule))),
    };
    let inspect = context.modules.inspect;
    if context.kind == ChainKind::Frames && inspect.iter().any(|own| own == name) {
        module = module.inspecting().map_err(|why| FieldError::new("", why))?;
    }
    let (has_effect, at) = match context.kind {
        // What finds the texts that others inspect is needed as well.
        ChainKind::Frames => {
            let finds_texts = !inspect.is_empty() && module.transcoder().is_some();
            (module.sees_frames() || finds_texts, "frames")
        }
        _ => {
            let answers = module.function().is_some() && context.kind == ChainKind::Http;
            let has_effect = !module.phases().is_empty() || module.transcoder().is_some() || answers;
            (has_effect, "requests or responses")
        }
    };
    if !has_effect && context.modules.is_shared {
        return Ok(None);
    }
    if !has_effect {
        return Err(FieldError::new(
            "",
            format_args!("has no effect here: the module does not look at {at}"),
        ));
    }
    Ok(Some(Filter::Module(Box::new(module))))
}

/// How much of a request's body a chain's filters want, together.
fn body_interest(links: &[Link], built_ins_need_it: bool) -> BodyInterest {
    let modules = links.iter().filter_map(|link| match &link.filter {
        // One that may be left out refuses what is too long when it is not.
        Filter::Module(module) if link.condition.is_some() => {
            module.request_body().map(|(max, _)| (max, Longer::Begin))
        }
        Filter::Module(module) => module.request_body(),
        _ => None,
    });
    let own = built_ins_need_it.then_some((REQUEST_BODY_MAX, Longer::Refuse));
    let most = own.into_iter().chain(modules).reduce(Longer::together);
    most.map_or(BodyInterest::None, |(max, longer)| BodyInterest::Buffered { max, longer })
}

fn shorten(value: &serde_json::Value) -> String {
    let mut text = value.to_string();
    if let Some((cut, _)) = text.char_indices().nth(80) {
        text.truncate(cut);
        text.push('…');
    }
    text
}

/// The two chains a request meets: the global rules', then its route's.
#[derive(Debug, Clone, Copy)]
pub struct Filters<'a> {
    /// The global rules' chain. Runs for requests without a route too.
    pub global: &'a Chain,
    /// The route's chain.
    pub route: Option<&'a Chain>,
}

impl<'a> Filters<'a> {
    fn chains(self) -> impl DoubleEndedIterator<Item = &'a Chain> {
        std::iter::once(self.global).chain(self.route)
    }

    /// Whether there is no filter at all, so that no phase does anything.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.chains().all(|chain| chain.links.is_empty())
    }

    /// How much of the request's body must be in [`Exchange::body`] when
    /// [`on_request`](Self::on_request) is called.
    #[must_use]
    pub fn body_interest(self) -> BodyInterest {
        self.chains().map(Chain::body_interest).fold(BodyInterest::None, BodyInterest::and)
    }

    /// Whether any filter runs before the request is proxied.
    #[must_use]
    pub fn sees_requests(self) -> bool {
        self.chains().any(|chain| !chain.request.is_empty())
    }

    /// Runs the request phases. Waits where a filter delays, at most as long as
    /// its configuration allows. Cancel-safe: what is dropped in a wait has
    /// been counted, and gives its slots back with the exchange.
    pub async fn on_request(self, exchange: &mut Exchange) -> Verdict {
        for chain in self.chains() {
            let mut from = 0;
            loop {
                match chain.run(from, exchange) {
                    Progress::Done => break,
                    // Boxed: most requests have no use for the room it takes.
                    Progress::Consumer => match Box::pin(run_with_consumer(chain, exchange)).await {
                        Some(response) => return Verdict::Respond(response),
                        None => break,
                    },
                    Progress::Wait { time, next } => {
                        wait(time, exchange).await;
                        from = next;
                    }
                    Progress::Call { place, next } => {
                        let link = &chain.links[usize::from(place)];
                        let Filter::Module(module) = &link.filter else { break };
                        // Boxed, as the delays are: few requests come here.
                        let step = Box::pin(module.request((chain.slot, place), exchange)).await;
                        match link.progress(step, next, exchange) {
                            None | Some(Progress::Done) => from = next,
                            Some(Progress::Respond { response, .. }) => return Verdict::Respond(response),
                            Some(Progress::Wait { next, .. } | Progress::Call { next, .. }) => from = next,
                            Some(Progress::Consumer) => break,
                        }
                    }
                    Progress::Respond { time, response } => {
                        if time >= DELAY_MIN {
                            wait(time, exchange).await;
                        }
                        return Verdict::Respond(response);
                    }
                }
            }
        }
        Verdict::Continue
    }

    /// Runs the response phase on the head of any final response, the gateway's
    /// own answers included, and says what becomes of the body.
    pub fn on_response(
        self,
        exchange: &mut Exchange,
        head: &mut ResponseHead,
        upstream: Option<UpstreamView<'_>>,
    ) -> BodyAction {
        if let Some(fields) = exchange.response_fields.take() {
            for (name, value) in fields.iter() {
                head.fields.set(name, value);
            }
        }
        let mut action = BodyAction::Pass;
        let consumer = exchange.consumer.as_ref().and_then(|grant| grant.consumer.chain.clone());
        for chain in self.chains().chain(consumer.as_deref()) {
            for place in &chain.response {
                if chain.is_skipped(*place, exchange) {
                    continue;
                }
                let filter = &chain.links[usize::from(*place)].filter;
                let own = match filter {
                    Filter::Module(module) => module.response((chain.slot, *place), exchange, head),
                    built_in => built_in.response(exchange, head, upstream),
                };
                match own {
                    BodyAction::Pass => {}
                    BodyAction::Replace(body) => {
                        exchange.rewriting = [0; 3];
                        action = BodyAction::Replace(body);
                    }
                    refused @ BodyAction::Refuse(_) => {
                        exchange.rewriting = [0; 3];
                        return refused;
                    }
                    BodyAction::Transform { max, longer, encoded } => {
                        exchange.rewriting[chain.slot] |= 1 << place;
                        action = match action {
                            BodyAction::Transform { max: own, longer: other, encoded: also } => {
                                let (max, longer) = Longer::together((own, other), (max, longer));
                                BodyAction::Transform { max, longer, encoded: encoded || also }
                            }
                            BodyAction::Replace(body) => {
                                match transform(filter, (chain.slot, *place), exchange, body, true) {
                                    Rewritten::Body(body) => {
                                        exchange.rewriting[chain.slot] &= !(1 << place);
                                        BodyAction::Replace(body)
                                    }
                                    Rewritten::Refused(response) => {
                                        exchange.rewriting = [0; 3];
                                        *head = response.head;
                                        return BodyAction::Refuse(response.body);
                                    }
                                }
                            }
                            BodyAction::Pass | BodyAction::Refuse(_) => {
                                BodyAction::Transform { max, longer, encoded }
                            }
                        };
                    }
                }
            }
        }
        exchange.is_encoded = head.fields.value(crate::message::Name::ContentEncoding).is_some();
        action
    }

    /// Rewrites a body that [`BodyAction::Transform`] asked for; of one that is
    /// longer than filters want to see, its beginning. Each filter does with one
    /// that is over its own limit what it does with such bodies.
    #[must_use]
    pub fn transform_body(self, exchange: &mut Exchange, body: Bytes, is_whole: bool) -> Rewritten {
        let mut body = body;
        let consumer = exchange.consumer.as_ref().and_then(|grant| grant.consumer.chain.clone());
        for chain in self.chains().chain(consumer.as_deref()) {
            for (index, link) in chain.links.iter().enumerate() {
                if exchange.rewriting[chain.slot] & (1 << index) == 0 {
                    continue;
                }
                // What is encoded, or not whole, means something to modules alone.
                if (exchange.is_encoded || !is_whole) && !matches!(link.filter, Filter::Module(_)) {
                    continue;
                }
                match transform(&link.filter, (chain.slot, index as u8), exchange, body, is_whole) {
                    Rewritten::Body(new) => body = new,
                    refused @ Rewritten::Refused(_) => return refused,
                }
            }
        }
        Rewritten::Body(body)
    }
}

fn transform(filter: &Filter, seat: Seat, exchange: &mut Exchange, body: Bytes, is_whole: bool) -> Rewritten {
    match filter {
        Filter::Module(module) => match module.transform(seat, exchange, body, is_whole) {
            Transformed::Body(body) => Rewritten::Body(body),
            Transformed::Deny(response) => Rewritten::Refused(response),
        },
        built_in => Rewritten::Body(built_in.transform(exchange, body)),
    }
}

/// Waits in a box: a timer in the flow's own future would cost every request
/// its size.
async fn wait(time: Duration, exchange: &mut Exchange) {
    exchange.delayed += time;
    Box::pin(tokio::time::sleep(time)).await;
}

#[cfg(test)]
mod tests;
