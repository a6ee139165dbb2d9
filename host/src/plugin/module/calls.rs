//! Calls of a module: on which instance, and what becomes of that afterwards.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{Mode, Plugin};
use crate::plugin::abi::{ChunkVerdict, Frame, FrameRuling, Head, HeadVerdict};
use crate::plugin::host::Note;
use crate::plugin::instance::{Live, Side};
use crate::plugin::slots::{Slot, calls_of_a_life};
use crate::plugin::{CallError, LoadError};

/// A verdict, and what the guest noted on the way.
pub type Told<T> = (Result<T, CallError>, Vec<Note>);

/// What the calls of one exchange share.
#[derive(Default)]
pub struct Visit {
    exchange: u64,
    slot: Option<Arc<Slot>>,
    alone: Option<Box<Alone>>,
}

/// An instance that serves one exchange.
struct Alone {
    live: Live,
    count: Arc<AtomicUsize>,
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Relaxed);
    }
}

impl Visit {
    /// The number that names the exchange for the module; 0 before the first call.
    #[must_use]
    pub fn exchange(&self) -> u64 {
        self.exchange
    }
}

impl fmt::Debug for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visit").field("exchange", &self.exchange).finish_non_exhaustive()
    }
}

impl Plugin {
    /// Shows it a request's head. `end` says that no body follows.
    pub async fn request_head(&self, visit: &mut Visit, head: Head<'_>, end: bool) -> Told<HeadVerdict> {
        let (given, deadline) = self.given(head.bytes.len());
        let act = async |live: &mut Live, id| live.on_head(Side::Request, id, head, end, deadline).await;
        self.call(visit, given, act).await
    }

    /// Shows it a piece of a request's body.
    pub async fn request_body(&self, visit: &mut Visit, chunk: &[u8], end: bool) -> Told<ChunkVerdict> {
        let (given, deadline) = self.given(chunk.len());
        let act = async |live: &mut Live, id| live.on_body(Side::Request, id, chunk, end, deadline).await;
        self.call(visit, given, act).await
    }

    /// Shows it a response's head.
    pub async fn response_head(&self, visit: &mut Visit, head: Head<'_>, end: bool) -> Told<HeadVerdict> {
        let (given, deadline) = self.given(head.bytes.len());
        let act = async |live: &mut Live, id| live.on_head(Side::Response, id, head, end, deadline).await;
        self.call(visit, given, act).await
    }

    /// Shows it a piece of a response's body.
    pub async fn response_body(&self, visit: &mut Visit, chunk: &[u8], end: bool) -> Told<ChunkVerdict> {
        let (given, deadline) = self.given(chunk.len());
        let act = async |live: &mut Live, id| live.on_body(Side::Response, id, chunk, end, deadline).await;
        self.call(visit, given, act).await
    }

    /// Shows it the frames of one read; gives a ruling for each.
    pub async fn frames(
        &self,
        visit: &mut Visit,
        connection: u64,
        peer: &str,
        buffer: &[u8],
        frames: &[Frame],
    ) -> Told<Vec<FrameRuling>> {
        let (given, deadline) = self.given(buffer.len());
        self.call(visit, given, async |live, _| {
            let rulings = live.on_frames(connection, peer, buffer, frames, deadline).await?;
            if rulings.len() != frames.len() {
                let (given, wanted) = (rulings.len(), frames.len());
                return Err(CallError::Garbage(format!("{given} verdicts for {wanted} frames")));
            }
            Ok(rulings)
        })
        .await
    }

    /// Runs its timer once.
    pub async fn tick(&self, visit: &mut Visit) -> Told<Result<(), String>> {
        // Nobody waits for it.
        let deadline = self.owner.limits.deadline.max(Duration::from_secs(1));
        self.call(visit, 0, async |live, _| live.tick(deadline).await).await
    }

    /// Calls one of its other exports on any instance, with so many bytes.
    pub(in crate::plugin) async fn with<T>(
        &self,
        bytes: usize,
        act: impl AsyncFnOnce(&mut Live, Duration) -> Result<T, CallError>,
    ) -> Told<T> {
        let (given, deadline) = self.given(bytes);
        self.call(&mut Visit::default(), given, async |live, _| act(live, deadline).await).await
    }

    /// Bytes a call is given, and the time it has for them.
    fn given(&self, bytes: usize) -> (usize, Duration) {
        (bytes, self.owner.limits.deadline_for(bytes))
    }

    /// Counts a verdict that was refused after the call: the instance is kept,
    /// since it kept the rules of its interface.
    pub fn note_garbage(&self) {
        self.health.failed(&CallError::Garbage("a verdict that is not allowed".to_owned()), 0);
    }

    /// One call on an instance: the exchange's own, or any.
    async fn call<T>(
        &self,
        visit: &mut Visit,
        given: usize,
        act: impl AsyncFnOnce(&mut Live, u64) -> Result<T, CallError>,
    ) -> Told<T> {
        if let Err(error) = self.health.begin() {
            return (Err(error), Vec::new());
        }
        if visit.exchange == 0 {
            visit.exchange = self.owner.services.next_exchange();
        }
        let (outcome, notes) = match self.mode {
            Mode::Reuse => self.call_shared(visit, act).await,
            Mode::Fresh => self.call_alone(visit, act).await,
        };
        match &outcome {
            Ok(_) => self.health.succeeded(),
            Err(error) => self.health.failed(error, given),
        }
        (outcome, notes)
    }

    async fn call_shared<T>(
        &self,
        visit: &mut Visit,
        act: impl AsyncFnOnce(&mut Live, u64) -> Result<T, CallError>,
    ) -> Told<T> {
        let (slot, mut live) = match self.take(visit).await {
            Ok(taken) => taken,
            Err(error) => return (Err(error), Vec::new()),
        };
        let outcome = act(&mut live, visit.exchange).await;
        let notes = live.take_notes();
        if outcome.is_ok() {
            let is_spent = live.calls_left == 0 || live.memory() >= self.owner.limits.memory_max / 4 * 3;
            if is_spent && self.is_quick {
                // The next call makes a new one; exchanges under way begin anew.
                drop(live);
            } else {
                if is_spent {
                    self.want(slot.place());
                }
                slot.put(live);
            }
        } else {
            drop(live);
            self.want(slot.place());
        }
        visit.slot = Some(slot);
        (outcome, notes)
    }

    /// An instance: that of the exchange, else one that is free, else a new one
    /// where that is quick.
    async fn take(&self, visit: &Visit) -> Result<(Arc<Slot>, Box<Live>), CallError> {
        if let Some(own) = &visit.slot
            && let Some(live) = own.take()
        {
            return Ok((Arc::clone(own), live));
        }
        if let Some(taken) = self.slots.take() {
            return Ok(taken);
        }
        let Some(place) = self.slots.empty() else { return Err(CallError::Busy) };
        if !self.is_quick {
            self.want(place);
            return Err(CallError::Busy);
        }
        let live = self.start().await.map_err(call_error)?;
        Ok((self.slots.renew(place), Box::new(live)))
    }

    async fn call_alone<T>(
        &self,
        visit: &mut Visit,
        act: impl AsyncFnOnce(&mut Live, u64) -> Result<T, CallError>,
    ) -> Told<T> {
        let mut alone = match visit.alone.take() {
            Some(alone) => alone,
            None => match self.start_alone().await {
                Ok(alone) => alone,
                Err(error) => return (Err(error), Vec::new()),
            },
        };
        let outcome = act(&mut alone.live, visit.exchange).await;
        let notes = alone.live.take_notes();
        if outcome.is_ok() {
            visit.alone = Some(alone);
        }
        (outcome, notes)
    }

    async fn start_alone(&self) -> Result<Box<Alone>, CallError> {
        if self.alone.fetch_add(1, Relaxed) >= self.owner.limits.concurrency {
            self.alone.fetch_sub(1, Relaxed);
            return Err(CallError::Busy);
        }
        let count = Arc::clone(&self.alone);
        match self.start().await {
            Ok(live) => Ok(Box::new(Alone { live, count })),
            Err(error) => {
                self.alone.fetch_sub(1, Relaxed);
                Err(call_error(error))
            }
        }
    }

    /// An instance, ready to be called.
    pub(super) async fn start(&self) -> Result<Live, LoadError> {
        let mut live = match &self.image {
            Some(Ok(image)) => Live::instantiate(image, &self.owner).await?,
            _ => Live::start(&self.component, &self.owner, &self.config).await?.0,
        };
        if self.mode == Mode::Reuse {
            live.calls_left = calls_of_a_life();
        }
        Ok(live)
    }

    /// Has a place filled beside the traffic.
    fn want(&self, place: usize) {
        if !self.is_quick {
            self.slots.want(place);
            self.wanted.notify_one();
        }
    }
}

fn call_error(error: LoadError) -> CallError {
    match error {
        LoadError::Tried(error) => error,
        other => CallError::Trap(other.to_string()),
    }
}

/// Runs a call where nobody can wait: ready at once, or not at all.
pub fn at_once<T>(future: impl Future<Output = Told<T>>) -> Told<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(told) => told,
        Poll::Pending => (Err(CallError::Waits), Vec::new()),
    }
}
