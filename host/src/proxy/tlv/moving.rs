//! A session's way to a node: the first one, and another when that is lost.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, timeout_at};

use super::inlet::Pace;
use super::recovery::Facts;
use super::scan::facts;
use super::timing::random_share;
use super::{CloseReason, DialOrder, Down, End, Host, Link, Session};
use crate::frame::{FrameDecoder, Piece};
use crate::upstream::Tried;

/// The wait before all nodes are tried again, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The most it grows to.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Why an attempt to take a session over came to nothing.
enum Fault {
    /// The node: another may do.
    Node,
    /// The session: no node will do.
    Session(CloseReason),
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Self {
        Self::Node
    }
}

/// A replayed frame whose answer is waited for.
struct Awaited {
    facts: Facts,
    /// The client never asked for this answer: it has had one.
    swallow: bool,
}

impl<H: Host, D: Down> Session<H, D> {
    /// Connects for the first time.
    pub(super) async fn connect(&mut self) -> Result<(), CloseReason> {
        let mut tried = Tried::default();
        let link = self.dial(&mut tried).await?;
        self.up = Some(link);
        Ok(())
    }

    async fn dial(&mut self, tried: &mut Tried) -> Result<Link, CloseReason> {
        let before = tried.len();
        let order = DialOrder { route: &self.route, client: &self.client, user: self.user, tried };
        let outcome = self.host.dial(order).await;
        self.attempts += u32::try_from(tried.len() - before).unwrap_or(0).max(1);
        outcome
    }

    /// Finds another node for a session whose upstream is lost, and brings it
    /// to where the old one was. The client is not read meanwhile.
    pub(super) async fn move_over(&mut self) -> Result<(), CloseReason> {
        if let Some(link) = self.up.take() {
            // An orderly end says nothing of the node: it may have sent the user away.
            if self.outward.end == Some(End::Broken) {
                link.report_lost();
            }
            link.stream.abort();
        }
        if self.recovery.as_ref().is_none_or(|recovery| !recovery.is_movable()) {
            return Err(CloseReason::ReplayTooLarge);
        }
        self.rewind();
        let deadline = Instant::now() + self.settings.move_timeout;
        let outcome = timeout_at(deadline, self.try_nodes()).await;
        outcome.unwrap_or(Err(CloseReason::MoveFailed))
    }

    /// Back to whole frames: what left only in part, or not at all, will be
    /// sent from its first byte; what came only in part is forgotten.
    fn rewind(&mut self) {
        self.write_failed = false;
        let flow = &mut self.inward;
        flow.inlet.consume(flow.accounted);
        flow.ready -= flow.accounted;
        (flow.written, flow.accounted) = (0, 0);
        flow.blocked_since = None;
        flow.unflushed = false;
    }

    /// Delivers what the client was being sent, then forgets the rest of the
    /// old stream: frames that came whole have been scanned and are ready.
    async fn settle_outward(&mut self) -> Result<(), Fault> {
        let limit = Instant::now() + self.listener.object.limits.send_timeout;
        match timeout_at(limit, poll_fn(|context| self.poll_write_down(context))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Fault::Session(CloseReason::ClientReset)),
            Err(_) => return Err(Fault::Session(CloseReason::ClientStalled)),
        }
        let flow = &mut self.outward;
        flow.inlet.clear();
        flow.decoder = FrameDecoder::default();
        (flow.need, flow.end, flow.partial_since, flow.blocked_since) = (0, None, None, None);
        Ok(())
    }

    async fn try_nodes(&mut self) -> Result<(), CloseReason> {
        let mut tried = Tried::default();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.dial(&mut tried).await {
                Ok(link) => match self.take_over(link).await {
                    Ok(()) => {
                        self.route.metrics.moved(self.host.metrics());
                        self.heard = Instant::now();
                        return Ok(());
                    }
                    Err(Fault::Session(reason)) => return Err(reason),
                    Err(Fault::Node) => {}
                },
                Err(_) => {
                    // Every node has been tried: all may have come back since.
                    // The wait is spread, since many sessions wait together.
                    tried.clear();
                    sleep(pause.mul_f64(0.5 + random_share())).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Replays to a new node what it must know and settles what the old one owed.
    async fn take_over(&mut self, link: Link) -> Result<(), Fault> {
        self.settle_outward().await?;
        let mut link = link;
        let deadline = Instant::now() + self.settings.replay_timeout;
        let outcome = match timeout_at(deadline, self.replay(&mut link)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Fault::Node),
        };
        if let Err(fault) = outcome {
            link.report_lost();
            link.stream.abort();
            return Err(fault);
        }
        self.up = Some(link);
        self.route.metrics.moved(self.host.metrics());
        self.tell_lost()
    }

    async fn replay(&mut self, link: &mut Link) -> Result<(), Fault> {
        let Some(recovery) = &self.recovery else { return Ok(()) };
        let settings = &self.settings;
        let mut awaited: SmallVec<[Awaited; 2]> = SmallVec::new();
        for (facts, bytes, is_open) in recovery.replay() {
            link.stream.write_all(bytes).await?;
            if !settings.one_way.contains(facts.command) {
                awaited.push(Awaited { facts, swallow: !is_open });
            }
        }
        link.stream.flush().await?;
        while !awaited.is_empty() {
            self.next_answer(link, &mut awaited).await?;
        }
        let Some(recovery) = &self.recovery else { return Ok(()) };
        // What was in flight and may be repeated goes before what is new.
        for bytes in recovery.again() {
            link.stream.write_all(bytes).await?;
        }
        Ok(link.stream.flush().await?)
    }

    /// Takes one frame of the new node: the answer to a replayed frame ends
    /// here unless the client waits for it; everything else goes to the client.
    async fn next_answer(
        &mut self,
        link: &mut Link,
        awaited: &mut SmallVec<[Awaited; 2]>,
    ) -> Result<(), Fault> {
        let settings = &*self.settings;
        let flow = &mut self.outward;
        let (total, found) = loop {
            let mut decoder = FrameDecoder::default();
            match decoder.next(&settings.format, flow.inlet.front(), usize::MAX) {
                Ok(Piece::Frame(frame)) => {
                    break (frame.bytes().len(), facts(&settings.format, frame.head()));
                }
                Ok(Piece::More { need }) => {
                    let pool = self.host.buffers();
                    let fill = poll_fn(|context| {
                        let pace = Pace { is_fast: &mut flow.is_fast, may_grow: false };
                        flow.inlet.poll_fill(context, pool, &mut link.stream, need, pace)
                    });
                    if fill.await? == 0 {
                        return Err(Fault::Node);
                    }
                }
                Ok(Piece::Part { .. }) | Err(_) => return Err(Fault::Node),
            }
        };
        let place = awaited.iter().position(|awaited| {
            awaited.facts.sequence == found.sequence
                && settings.is_reply(awaited.facts.command, found.command)
        });
        if let Some(place) = place {
            let is_refused = settings.error.is_some_and(|(error, _)| error == found.command);
            let answered = awaited.remove(place);
            if answered.swallow && is_refused {
                return Err(Fault::Node);
            }
            if answered.swallow {
                flow.inlet.consume(total);
                return Ok(());
            }
        }
        if let Some(recovery) = &mut self.recovery {
            recovery.received(settings, found);
        }
        self.route.metrics.frame_out(self.host.metrics(), found.command);
        flow.frames += 1;
        flow.ready = total;
        match poll_fn(|context| self.poll_write_down(context)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(Fault::Session(CloseReason::ClientReset)),
        }
    }

    /// Tells the client which of its requests went down with the old node.
    fn tell_lost(&mut self) -> Result<(), Fault> {
        let Some(recovery) = &mut self.recovery else { return Ok(()) };
        for facts in recovery.take_lost(&self.settings) {
            if !self.notice_error(
                CloseReason::RequestLost.number(),
                CloseReason::RequestLost.code(),
                Some(facts),
            ) {
                return Err(Fault::Session(CloseReason::RequestLost));
            }
        }
        Ok(())
    }
}
