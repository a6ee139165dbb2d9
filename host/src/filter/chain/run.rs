//! How a request and its response pass the chains it meets.

use std::time::Duration;

use bytes::Bytes;

use super::{Chain, Link, ROUTE, Step};
use crate::filter::exchange::Exchange;
use crate::filter::module::{Seat, Transformed};
use crate::filter::plugins::Filter;
use crate::filter::verdict::{BodyAction, BodyInterest, LocalResponse, Longer, Rewritten, Verdict};
use crate::message::{ResponseHead, UpstreamView};

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

impl Chain {
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

impl Link {
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
