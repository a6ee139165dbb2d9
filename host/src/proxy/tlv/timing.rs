//! A session's time limits, and the orders it gets from outside.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::relay::Step;
use super::{CloseReason, Down, Ending, Host, Session};
use crate::config::objects::OnChange;
use crate::snapshot::{StreamFlow, StreamRoute};

/// How long before its deadline a drain has closed every session.
const DRAIN_MARGIN: Duration = Duration::from_secs(1);

impl<H: Host, D: Down> Session<H, D> {
    /// What drain, configuration and the state of the line ask for. Cheap: the
    /// task looks every time it runs, and is woken when one of them changes.
    pub(super) fn orders(&mut self) -> Option<Step> {
        if self.drain.is_draining() && !matches!(self.ending, Some((_, Ending::Drain))) {
            let left = self.drain.deadline().map_or(Duration::MAX, |deadline| deadline - self.now);
            let window = self.settings.drain_spread.min(left.saturating_sub(DRAIN_MARGIN));
            self.ending = Some((self.now + window.mul_f64(random_share()), Ending::Drain));
        }
        let revision = self.host.revision();
        if revision != self.revision {
            self.revision = revision;
            let route = self.host.stream_route(&self.route);
            if let Some(step) = self.route_changed(route) {
                return Some(step);
            }
        }
        let lost = self.up.as_ref().is_some_and(|link| link.is_lost());
        (lost && self.recovery.is_some() && self.ending.is_none() && self.inward.end.is_none())
            .then_some(Step::Move)
    }

    fn route_changed(&mut self, route: Option<Arc<StreamRoute>>) -> Option<Step> {
        match route {
            Some(route) if Arc::ptr_eq(&route, &self.route) => return None,
            // Nothing that touches sessions: new filters, limits and nodes are
            // taken over with the next frame.
            Some(route) if route.identity == self.route.identity => {
                self.adopt(route);
                return None;
            }
            Some(route) => {
                let on_change = route.on_change;
                // A session keeps the format its peers speak; where the route
                // goes now counts when it next needs a node.
                if on_change == OnChange::Keep {
                    self.adopt(route);
                }
                return self.order_change(on_change);
            }
            None => {}
        }
        self.order_change(self.route.on_change)
    }

    fn adopt(&mut self, route: Arc<StreamRoute>) {
        let StreamFlow::Tlv(settings) = &route.flow else { return };
        if *settings.format != *self.settings.format {
            return;
        }
        self.settings = Arc::clone(settings);
        // Whether frames are held is decided by the bookkeeping being there:
        // it may come and go only between frames passed in pieces.
        if !settings.is_movable() {
            self.recovery = None;
        }
        let (old, metrics) = (std::mem::replace(&mut self.route, route), self.host.metrics());
        if !Arc::ptr_eq(&old.metrics, &self.route.metrics) {
            old.metrics.closed(metrics);
            self.route.metrics.opened(metrics);
        }
    }

    fn order_change(&mut self, on_change: OnChange) -> Option<Step> {
        match on_change {
            OnChange::Keep => None,
            OnChange::Evict => Some(Step::Close(CloseReason::RouteChanged)),
            OnChange::Drain => {
                let window = self.settings.drain_spread;
                self.ending.get_or_insert((self.now + window.mul_f64(random_share()), Ending::Change));
                None
            }
        }
    }

    /// The time of an ending has come; it waits a little for a quiet moment.
    fn ending_reason(&self, since: Instant, ending: Ending) -> Option<CloseReason> {
        let is_waiting = self.recovery.as_ref().is_some_and(|recovery| recovery.is_waiting());
        let is_quiet = self.inward.is_at_rest() && self.outward.is_at_rest() && !is_waiting;
        let patience = match ending {
            Ending::Drain => DRAIN_MARGIN / 2,
            Ending::Change => self.listener.object.limits.frame_timeout,
        };
        (is_quiet || self.now >= since + patience).then_some(match ending {
            Ending::Drain => CloseReason::Drained,
            Ending::Change => CloseReason::RouteChanged,
        })
    }

    /// The nearest limit: `Some` when one is reached, `None` when a frame that
    /// was held back may go on.
    pub(super) fn poll_time(&mut self, context: &mut Context<'_>) -> Poll<Option<CloseReason>> {
        loop {
            if let Some((since, ending)) = self.ending
                && self.now >= since
                && let Some(reason) = self.ending_reason(since, ending)
            {
                return Poll::Ready(Some(reason));
            }
            let (at, reason) = self.nearest();
            if self.timer.poll_until(context, at).is_pending() {
                return Poll::Pending;
            }
            self.now = Instant::now().max(at);
            if reason.is_some() || self.held_until().is_some_and(|until| until <= self.now) {
                return Poll::Ready(reason);
            }
        }
    }

    /// The next moment something is due, and what it is; nothing for a look at
    /// an ending or a held frame.
    fn nearest(&self) -> (Instant, Option<CloseReason>) {
        let idle = self.settings.idle_timeout.unwrap_or_else(|| self.listener.object.idle_timeout());
        let silence = match self.settings.heartbeat {
            Some(_) => CloseReason::HeartbeatMissed,
            None => CloseReason::IdleTimeout,
        };
        let heard = self.down.heard().map_or(self.heard, |heard| heard.max(self.heard));
        let mut nearest = (heard + idle, Some(silence));
        let mut due = |at: Option<Instant>, reason: Option<CloseReason>| {
            if let Some(at) = at
                && at < nearest.0
            {
                nearest = (at, reason);
            }
        };
        let limits = &self.listener.object.limits;
        let own = self.route.timeouts.as_ref();
        due(
            own.and_then(|own| own.total).map(|total| self.started + total),
            Some(CloseReason::SessionTimeout),
        );
        if !self.begun {
            due(Some(self.started + self.settings.first_frame_timeout), Some(CloseReason::FirstFrameTimeout));
        }
        // While a frame is held back, or the upstream takes nothing, the client is not to blame.
        let is_read = self.held.is_none() && self.inward.blocked_since.is_none() && self.inward.end.is_none();
        let partial = self.inward.partial_since.filter(|_| is_read);
        due(partial.map(|since| since + limits.frame_timeout), Some(CloseReason::FrameTimeout));
        let stalled = |since: Instant| since + limits.send_timeout;
        due(self.outward.blocked_since.map(stalled), Some(CloseReason::ClientStalled));
        // Where the route has times of its own for the node, they hold.
        let within = |limit: Option<Duration>| {
            let limit = limit.filter(|limit| !limit.is_zero()).unwrap_or(limits.send_timeout);
            move |since: Instant| since + limit
        };
        // A client that takes nothing stops the reading of its node, which may then
        // take nothing either, since the very same poll: not the node's fault.
        let upward = self.inward.blocked_since.filter(|_| self.outward.blocked_since.is_none());
        let upward = upward.map(within(own.map(|own| own.send)));
        due(upward, Some(CloseReason::UpstreamStalled));
        let outward = self.outward.partial_since.filter(|_| self.outward.blocked_since.is_none());
        due(outward.map(within(own.map(|own| own.read))), Some(CloseReason::UpstreamStalled));
        let half = self.half_closed.map(|since| since + self.settings.half_close_timeout);
        due(half, Some(CloseReason::HalfCloseTimeout));
        due(self.held_until(), None);
        // After its time an ending looks again and again until all is quiet.
        let look = |at: Instant| at.max(self.now + Duration::from_millis(20));
        let ending = self.ending.map(|(at, _)| if at > self.now { at } else { look(at) });
        due(ending, None);
        nearest
    }
}

/// A share of one, different for every session.
pub(crate) fn random_share() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness sessions end at once instead of spread out.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
