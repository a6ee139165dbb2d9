//! Modules as filters of a chain: which version an exchange meets, and what is
//! counted of it while one is tried.

mod frames;
mod texts;
mod version;

use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::message::{ResponseHead, Transcode};
use crate::plugin::edge::Function;
use crate::plugin::{Lane, Plugin, Rollout, Shadowing, Trial, Visit};

use super::chain::Step;
use super::exchange::Exchange;
use super::plugins::Phase;
use super::verdict::{BodyAction, LocalResponse, Longer};
use frames::Decided;
pub use frames::FrameBatch;
use version::Version;

/// Where a filter stands: its chain and its place in it.
pub(super) type Seat = (usize, u8);

/// What is added to the chain's number for the version that is tried, so that
/// its visits are not taken for those of the other.
const TRIAL_SEATS: usize = 16;

/// What a body's transformation came to.
#[derive(Debug)]
pub(super) enum Transformed {
    Body(Bytes),
    Deny(Box<LocalResponse>),
}

/// A module in a chain.
#[derive(Debug)]
pub(super) struct ModuleFilter {
    current: Version,
    tried: Option<Box<Tried>>,
    /// Of messages it is shown the texts.
    inspects: bool,
}

/// A version that is tried.
#[derive(Debug)]
struct Tried {
    version: Version,
    trial: Arc<Trial>,
}

impl Tried {
    fn takes(&self, exchange: &Exchange) -> bool {
        match &exchange.consumer {
            Some(grant) => self.trial.takes(grant.consumer.name.as_bytes()),
            None => self.trial.takes(&octets(exchange.client_ip)),
        }
    }

    /// Whether it decides on exchanges, and not on copies of them.
    fn acts(&self) -> bool {
        !self.trial.is_shadow()
    }
}

/// Stands where a module belongs that fails closed and cannot be had: what would
/// have met it is refused.
#[derive(Debug)]
pub(super) struct MissingModule;

impl MissingModule {
    pub(super) fn request(&self, exchange: &Exchange) -> Step {
        let message = "a filter that this request must pass is not available";
        let response = LocalResponse::error(503, "module_missing", message, exchange.request_id.get());
        Step::Respond(Box::new(response))
    }
}

/// An address as what a client is known by: the same for both ways to write one.
fn octets(address: IpAddr) -> SmallVec<[u8; 16]> {
    match address.to_canonical() {
        IpAddr::V4(address) => SmallVec::from_slice(&address.octets()),
        IpAddr::V6(address) => SmallVec::from_slice(&address.octets()),
    }
}

fn trial_seat(seat: Seat) -> Seat {
    (seat.0 + TRIAL_SEATS, seat.1)
}

impl ModuleFilter {
    pub(super) fn new(rollout: Rollout) -> Self {
        let record = |lane| rollout.trial.as_ref().map(|trial| (Arc::clone(&trial.record), lane));
        let tried = rollout.trial.as_ref().map(|trial| {
            let version = Version::new(Arc::clone(&trial.plugin), record(Lane::Trial));
            Box::new(Tried { version, trial: Arc::clone(trial) })
        });
        Self { current: Version::new(rollout.current, record(Lane::Current)), tried, inspects: false }
    }

    /// The module as one that is shown the texts of messages. A version that
    /// cannot be is not tried here.
    ///
    /// # Errors
    /// Says why it cannot be.
    pub(super) fn inspecting(mut self) -> Result<Self, &'static str> {
        self.current.can_inspect()?;
        if let Some(tried) = self.acting()
            && let Err(why) = tried.version.can_inspect()
        {
            tried.trial.cannot(why);
            self.tried = None;
        }
        Ok(Self { inspects: true, ..self })
    }

    /// The version that serves.
    pub(super) fn plugin(&self) -> &Arc<Plugin> {
        &self.current.plugin
    }

    /// Whether it is shown the texts of messages.
    pub(super) fn inspects(&self) -> bool {
        self.inspects
    }

    /// The version that is tried, where it decides on exchanges.
    fn acting(&self) -> Option<&Tried> {
        self.tried.as_deref().filter(|tried| tried.acts())
    }

    /// All versions that decide on exchanges.
    fn versions(&self) -> impl Iterator<Item = &Version> {
        std::iter::once(&self.current).chain(self.acting().map(|tried| &tried.version))
    }

    /// The edge function it is, if it is one.
    pub(super) fn function(&self) -> Option<&Function> {
        self.current.function()
    }

    pub(super) fn phases(&self) -> &'static [Phase] {
        let any = |wants: fn(&version::Wants) -> bool| self.versions().any(|version| wants(&version.wants));
        let requests = any(|wants| wants.request_head || wants.request_body);
        match (requests, any(|wants| wants.response_head || wants.response_body)) {
            (true, true) => &[Phase::Access, Phase::Response],
            (true, false) => &[Phase::Access],
            (false, true) => &[Phase::Response],
            (false, false) => &[],
        }
    }

    /// The module as a transcoder, if it is one.
    pub(super) fn transcoder(&self) -> Option<Arc<dyn Transcode>> {
        self.current.transcoder()
    }

    /// Whether it looks at frames.
    pub(super) fn sees_frames(&self) -> bool {
        self.inspects || self.versions().any(|version| version.wants.frames)
    }

    /// The most of a request's body it sees, and what becomes of a longer one.
    pub(super) fn request_body(&self) -> Option<(usize, Longer)> {
        let all = self.versions().filter_map(Version::request_body);
        all.reduce(Longer::together)
    }

    /// Whether its calls may take longer than one poll.
    pub(super) fn waits(&self) -> bool {
        self.versions().any(Version::waits)
    }

    /// [`request`](Self::request) of a module that does not wait.
    pub(super) fn request_now(&self, seat: Seat, exchange: &mut Exchange) -> Step {
        let polled = pin!(self.request(seat, exchange)).poll(&mut Context::from_waker(Waker::noop()));
        match polled {
            Poll::Ready(step) => step,
            Poll::Pending => Step::Next,
        }
    }

    /// Shows it the request.
    pub(super) async fn request(&self, seat: Seat, exchange: &mut Exchange) -> Step {
        let Some(tried) = self.tried.as_deref() else { return self.current.request(seat, exchange).await };
        let is_taken = tried.takes(exchange);
        if tried.acts() {
            let (version, seat) =
                if is_taken { (&tried.version, trial_seat(seat)) } else { (&self.current, seat) };
            let step = version.timed(version.request(seat, exchange)).await;
            // The rest of the exchange is for this version, too.
            if !exchange.has_visit(seat) {
                exchange.visits.push((seat, Visit::default()));
            }
            return step;
        }
        let copy = is_taken.then(|| tried.version.copy(exchange));
        let step = self.current.timed(self.current.request(seat, exchange)).await;
        if let Some(mut copy) = copy {
            copy.answered = match &step {
                Step::Respond(response) | Step::WaitAndRespond(_, response) => Some(response.head.status),
                Step::Next | Step::Wait(_) => None,
            };
            let shadowing = Shadowing::new(&tried.trial, Some(copy));
            // Dropped it is shown at once.
            if self.current.sees_responses() && tried.version.sees_responses() {
                exchange.shadows.push((seat, shadowing));
            }
        }
        step
    }

    /// What is shown to a version in the shadow of an exchange whose response comes,
    /// and that version.
    fn shadowing(&self, seat: Seat, exchange: &mut Exchange) -> Option<(Shadowing, &Version)> {
        let tried = self.tried.as_deref().filter(|tried| !tried.acts())?;
        let at = exchange.shadows.iter().position(|(own, _)| *own == seat);
        let shadowing = match at {
            Some(at) => exchange.shadows.swap_remove(at).1,
            // Requests it was not asked about; else it was decided then.
            None if self.current.sees_requests() => return None,
            None if tried.version.sees_responses() && tried.takes(exchange) => {
                Shadowing::new(&tried.trial, None)
            }
            None => return None,
        };
        Some((shadowing, &tried.version))
    }

    /// The version that has seen an exchange's request, or would have.
    fn of_exchange(&self, seat: Seat, exchange: &Exchange) -> (&Version, Seat) {
        if let Some(tried) = self.acting() {
            let own = trial_seat(seat);
            if exchange.has_visit(own) || (!exchange.has_visit(seat) && tried.takes(exchange)) {
                return (&tried.version, own);
            }
        }
        (&self.current, seat)
    }

    /// Shows it the head of the response, and says whether it wants the body.
    pub(super) fn response(
        &self,
        seat: Seat,
        exchange: &mut Exchange,
        head: &mut ResponseHead,
    ) -> BodyAction {
        let (version, seat) = self.of_exchange(seat, exchange);
        // Of those that look at requests the exchange was counted then.
        let began = if exchange.has_visit(seat) { version.clock() } else { version.begin() };
        let mut shadow = self.shadowing(seat, exchange);
        if let Some((shadowing, tried)) = &mut shadow {
            *shadowing.response() = Some(tried.copy_of_response(head));
        }
        let action = version.response(seat, exchange, head);
        version.end(began);
        if let Some((mut shadowing, _)) = shadow {
            match (&action, shadowing.response()) {
                (BodyAction::Refuse(_), Some(copy)) => copy.answered = Some(head.status),
                // Its body is still to come.
                (BodyAction::Transform { .. }, _) => exchange.shadows.push((seat, shadowing)),
                _ => {}
            }
        }
        action
    }

    /// Shows it the body of the response, or the beginning of it.
    pub(super) fn transform(
        &self,
        seat: Seat,
        exchange: &mut Exchange,
        body: Bytes,
        is_whole: bool,
    ) -> Transformed {
        let shadow = self.shadowing_of_body(seat, exchange, &body);
        let (version, seat) = self.of_exchange(seat, exchange);
        let began = version.clock();
        let transformed = version.transform(seat, exchange, body, is_whole);
        version.end(began);
        if let (Some(mut shadowing), Transformed::Deny(response)) = (shadow, &transformed)
            && let Some(copy) = shadowing.response()
        {
            copy.answered = Some(response.head.status);
        }
        transformed
    }

    /// What is shown to a version in the shadow, with the body of the response.
    fn shadowing_of_body(&self, seat: Seat, exchange: &mut Exchange, body: &Bytes) -> Option<Shadowing> {
        let tried = self.tried.as_deref()?;
        let at = exchange.shadows.iter().position(|(own, _)| *own == seat)?;
        let mut shadowing = exchange.shadows.swap_remove(at).1;
        if let Some(copy) = shadowing.response() {
            copy.body = tried.version.part_of_response(body);
        }
        Some(shadowing)
    }

    /// The version that frames of a client are for.
    fn of_client(&self, client: IpAddr) -> &Version {
        match self.acting() {
            Some(tried) if tried.trial.takes(&octets(client)) => &tried.version,
            _ => &self.current,
        }
    }

    /// Shows it the frames that have not met another fate yet.
    pub(super) fn frames(&self, batch: &mut FrameBatch<'_>, verdicts: &mut [Decided]) {
        self.of_client(batch.client.ip()).frames(batch, verdicts);
    }

    /// Shows it the texts of the frames that have not met another fate yet.
    pub(super) fn texts(&self, transcoder: &dyn Transcode, batch: &FrameBatch<'_>, verdicts: &mut [Decided]) {
        self.of_client(batch.client.ip()).texts(transcoder, batch, verdicts);
    }
}
