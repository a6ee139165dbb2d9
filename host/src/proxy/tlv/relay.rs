//! Moving the bytes: both directions of a session, from one task.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::inlet::Pace;
use super::scan::Scanned;
use super::{CloseReason, Down, End, Flow, Host, Session};

/// Why the moving of bytes stops for a while, or for good.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Bytes are ready for an upstream there is none of yet.
    Connect,
    /// The upstream is lost and another is to take its place.
    Move,
    /// The session ends.
    Close(CloseReason),
}

impl<H: Host, D: Down> Session<H, D> {
    /// Moves what can be moved. Cancel-safe: all state is the session's.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        self.now = Instant::now();
        if let Some(step) = self.orders() {
            return Poll::Ready(step);
        }
        loop {
            if let Poll::Ready(step) = self.poll_inward(context) {
                return Poll::Ready(step);
            }
            let was_full = self.notices_full();
            if let Poll::Ready(step) = self.poll_outward(context) {
                return Poll::Ready(step);
            }
            // The client's frames wait while the notices are full: once they
            // are not, nobody else would look at them again.
            if !was_full || self.notices_full() {
                break;
            }
        }
        match self.poll_time(context) {
            // What was held back for a time may go on now.
            Poll::Ready(None) => self.poll(context),
            Poll::Ready(Some(reason)) => Poll::Ready(Step::Close(reason)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// From the client to the upstream.
    fn poll_inward(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        loop {
            if self.inward.ready > 0 {
                if self.up.is_none() {
                    return Poll::Ready(Step::Connect);
                }
                match ready!(self.poll_write_up(context)) {
                    Ok(()) => continue,
                    Err(_) => {
                        // What it has sent before it broke is still to be read.
                        self.write_failed = true;
                        return Poll::Pending;
                    }
                }
            }
            match self.scan_inward() {
                Scanned::Progress => continue,
                Scanned::Close(reason) => return Poll::Ready(Step::Close(reason)),
                Scanned::Blocked => return self.poll_flush_up(context),
                Scanned::Wait => {}
            }
            if self.inward.is_ended().is_some() {
                return self.poll_inward_end(context);
            }
            // A session that is stuck both ways holds one large buffer at most.
            let may_grow = !self.outward.inlet.is_bulk();
            let (need, flow) = (self.inward.need, &mut self.inward);
            let pace = Pace { is_fast: &mut flow.is_fast, may_grow };
            match flow.inlet.poll_fill(context, self.host.buffers(), &mut self.down, need, pace) {
                Poll::Pending => return self.poll_flush_up(context),
                Poll::Ready(Ok(0)) => flow.end = Some(End::Closed),
                Poll::Ready(Ok(count)) => {
                    flow.bytes += count as u64;
                    self.heard = self.now;
                    self.route.metrics.bytes_in(self.host.metrics(), count as u64);
                }
                Poll::Ready(Err(error)) if is_end(&error) => flow.end = Some(End::Closed),
                Poll::Ready(Err(_)) => {
                    let reason = self.down.fault().unwrap_or(CloseReason::ClientReset);
                    return Poll::Ready(Step::Close(reason));
                }
            }
        }
    }

    /// The client has ended: nothing but a whole frame may be the last.
    fn poll_inward_end(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        if !self.inward.is_at_rest() {
            return Poll::Ready(Step::Close(CloseReason::ClientFrame(crate::frame::FrameError::Truncated)));
        }
        let Some(link) = self.up.as_mut().filter(|_| !D::WHOLE) else {
            return Poll::Ready(Step::Close(CloseReason::ClientClosed));
        };
        if !self.inward.shut {
            self.half_closed.get_or_insert(self.now);
            if ready!(Pin::new(&mut link.stream).poll_shutdown(context)).is_err() {
                return Poll::Ready(Step::Close(CloseReason::ClientClosed));
            }
            self.inward.shut = true;
        }
        Poll::Pending
    }

    /// From the upstream to the client.
    fn poll_outward(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        loop {
            match ready!(self.poll_write_down(context)) {
                Ok(()) => {}
                Err(_) => return Poll::Ready(Step::Close(CloseReason::ClientReset)),
            }
            match self.scan_outward() {
                Scanned::Progress | Scanned::Blocked => continue,
                Scanned::Close(reason) => return Poll::Ready(Step::Close(reason)),
                Scanned::Wait => {}
            }
            if let Some(end) = self.outward.is_ended() {
                return Poll::Ready(self.upstream_ended(end));
            }
            let may_grow = !self.inward.inlet.is_bulk();
            let (need, flow) = (self.outward.need, &mut self.outward);
            let Some(link) = &mut self.up else { return self.poll_flush_down(context) };
            let pace = Pace { is_fast: &mut flow.is_fast, may_grow };
            match flow.inlet.poll_fill(context, self.host.buffers(), &mut link.stream, need, pace) {
                Poll::Pending if self.write_failed => flow.end = Some(End::Broken),
                Poll::Pending => return self.poll_flush_down(context),
                Poll::Ready(Ok(0)) => flow.end = Some(End::Closed),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) if is_end(&error) => flow.end = Some(End::Closed),
                Poll::Ready(Err(_)) => flow.end = Some(End::Broken),
            }
        }
    }

    /// All that the upstream has sent is written; what comes of its end.
    fn upstream_ended(&mut self, end: End) -> Step {
        if self.inward.is_ended().is_some() {
            return Step::Close(CloseReason::ClientClosed);
        }
        if self.recovery.is_some() && !self.farewell && self.ending.is_none() {
            return Step::Move;
        }
        Step::Close(match end {
            End::Broken => CloseReason::UpstreamReset,
            End::Closed if !self.outward.is_at_rest() => {
                CloseReason::UpstreamFrame(crate::frame::FrameError::Truncated)
            }
            End::Closed => CloseReason::UpstreamClosed,
        })
    }

    /// Writes what is ready for the upstream. Ready when all of it is written;
    /// consumed only then, so that a new node can be given whole frames.
    fn poll_write_up(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(link) = &mut self.up else { return Poll::Ready(Ok(())) };
        let outcome = self.inward.poll_write(context, &mut link.stream, self.now);
        if self.recovery.is_some() {
            self.account();
        }
        ready!(outcome)?;
        self.inward.consume_ready();
        Poll::Ready(Ok(()))
    }

    /// Writes what is ready for the client, own frames between those of the
    /// upstream. Ready when nothing waits.
    pub(super) fn poll_write_down(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let flow = &mut self.outward;
            if let Some(notices) = &mut self.notices
                && (notices.is_begun() || (flow.ready == 0 && flow.decoder.is_between_frames()))
            {
                while !notices.rest().is_empty() {
                    let poll = Pin::new(&mut self.down).poll_write(context, notices.rest());
                    let count = ready!(flow.blocking(poll, self.now))?;
                    notices.wrote(count);
                    flow.bytes += count as u64;
                    self.route.metrics.bytes_out(self.host.metrics(), count as u64);
                }
                self.notices = None;
                flow.unflushed = true;
            }
            if flow.ready == 0 {
                return Poll::Ready(Ok(()));
            }
            let count = flow.ready as u64;
            ready!(flow.poll_write(context, &mut self.down, self.now))?;
            flow.bytes += count;
            flow.consume_ready();
            self.route.metrics.bytes_out(self.host.metrics(), count);
        }
    }

    fn poll_flush_up(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        if let Some(link) = &mut self.up
            && self.inward.poll_flush(context, &mut link.stream).is_err()
        {
            self.write_failed = true;
        }
        Poll::Pending
    }

    fn poll_flush_down(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        match self.outward.poll_flush(context, &mut self.down) {
            Ok(()) => Poll::Pending,
            Err(_) => Poll::Ready(Step::Close(CloseReason::ClientReset)),
        }
    }
}

impl Flow {
    /// Writes what is ready; ready when all of it is taken.
    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        sink: &mut (impl AsyncWrite + Unpin),
        now: Instant,
    ) -> Poll<io::Result<()>> {
        while self.written < self.ready {
            let bytes = &self.inlet.front()[self.written..self.ready];
            let poll = Pin::new(&mut *sink).poll_write(context, bytes);
            self.written += ready!(self.blocking(poll, now))?;
            self.unflushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Keeps track of since when the sink takes nothing.
    fn blocking(&mut self, poll: Poll<io::Result<usize>>, now: Instant) -> Poll<io::Result<usize>> {
        match poll {
            Poll::Pending => {
                self.blocked_since.get_or_insert(now);
                Poll::Pending
            }
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(outcome) => {
                // The source was not read meanwhile: its frame's time starts anew.
                if self.blocked_since.take().is_some() && self.partial_since.is_some() {
                    self.partial_since = Some(now);
                }
                Poll::Ready(outcome)
            }
        }
    }

    fn consume_ready(&mut self) {
        self.inlet.consume(self.ready);
        (self.ready, self.written, self.accounted) = (0, 0, 0);
    }

    /// Pushes out what the sink holds; what does not go out now is pushed again
    /// when the task is woken for it.
    fn poll_flush(
        &mut self,
        context: &mut Context<'_>,
        sink: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        if self.unflushed
            && let Poll::Ready(outcome) = Pin::new(sink).poll_flush(context)
        {
            self.unflushed = false;
            return outcome;
        }
        Ok(())
    }
}

/// TLS peers often close without saying so; the frames tell whether something is missing.
fn is_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}
