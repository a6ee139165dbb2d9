//! Upstream connections that the requests of many clients share.
//!
//! A worker has its own, for each node and login. On the wire every request has
//! a sequence number of the connection's; the reply that carries it ends the
//! request. A number whose reply never came is set aside until it comes after
//! all or the quarantine has passed, so that a late reply meets no other
//! request. A connection that breaks fails what was on it and nothing else.
//! Start at [`Mux::pick`] and [`Line::send`]; `line.rs` drives the socket.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::config::objects::RequestsConf;
use crate::frame::Frame;
use crate::message::TranscodeProblem;
use crate::snapshot::TlvSettings;
use crate::upstream::{NodeKey, Target};

use super::translate::encode_frame;

/// Connections of one worker, over all nodes and logins.
const LINES_MAX: usize = 4096;
/// Bytes that wait to be written on one connection before it takes no more.
const OUTBOX_MAX: usize = 1 << 20;

/// The shared connections of one worker.
#[derive(Default)]
pub(super) struct Mux {
    lines: RefCell<Vec<Rc<Line>>>,
    pending: Rc<Cell<usize>>,
}

/// No place for another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Busy;

impl Mux {
    /// The connection for a request to `target` that begins with `login`: one
    /// with room, or a new one that `open` starts.
    pub(super) fn pick(
        &self,
        target: &Target,
        login: &[u8],
        limits: &RequestsConf,
        open: impl FnOnce(Rc<Line>),
    ) -> Result<Rc<Line>, Busy> {
        if self.pending.get() >= limits.pending_max as usize {
            return Err(Busy);
        }
        let node = target.node.key();
        let mut lines = self.lines.borrow_mut();
        let own = lines.iter().filter(|line| line.node == node && *line.login == *login);
        let mut count = 0;
        let mut best: Option<(&Rc<Line>, usize)> = None;
        for line in own {
            count += 1;
            let state = line.state.borrow();
            let used = state.slots.len();
            let has_room = used < limits.outstanding_max as usize && state.waiting_bytes() < OUTBOX_MAX;
            if has_room && best.is_none_or(|(_, least)| used < least) {
                best = Some((line, used));
            }
        }
        match best {
            Some((line, used)) if used == 0 || count >= limits.connections_max as usize => {
                Ok(Rc::clone(line))
            }
            None if count >= limits.connections_max as usize => Err(Busy),
            Some((line, _)) if lines.len() >= LINES_MAX => Ok(Rc::clone(line)),
            None if lines.len() >= LINES_MAX => Err(Busy),
            _ => {
                let used =
                    |number: &u32| lines.iter().any(|line| *line.login == *login && line.number == *number);
                let number = (0..u32::MAX).find(|number| !used(number)).unwrap_or_default();
                let line = Rc::new(Line::new(node, login, number, Rc::clone(&self.pending)));
                lines.push(Rc::clone(&line));
                drop(lines);
                open(Rc::clone(&line));
                Ok(line)
            }
        }
    }

    /// Takes a connection that ended out.
    pub(super) fn forget(&self, line: &Rc<Line>) {
        self.lines.borrow_mut().retain(|own| !Rc::ptr_eq(own, line));
    }

    /// Connections there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lines.borrow().len()
    }
}

/// A reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) command: u32,
    pub(super) body: Vec<u8>,
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lost {
    /// Nothing of the request was sent: it may go elsewhere whatever it is.
    Unsent(&'static str),
    /// It was sent, or part of it: it may have been carried out.
    Sent,
    /// The upstream does not take the login the connection begins with.
    Login(TranscodeProblem),
}

/// A request with its number.
struct Slot {
    command: u32,
    reply: Option<u32>,
    /// Where its frame begins among all bytes of the connection.
    start: u64,
    sent: Instant,
    /// Who waits; nobody once the request was given up.
    waiter: Option<oneshot::Sender<Result<Answer, Lost>>>,
}

/// One shared connection, as those who use it see it.
pub(super) struct Line {
    node: NodeKey,
    login: Box<[u8]>,
    /// The lowest that no other connection of this worker with this login has.
    pub(super) number: u32,
    pub(super) state: RefCell<State>,
    pub(super) address: Cell<Option<SocketAddr>>,
    pending: Rc<Cell<usize>>,
}

#[derive(Default)]
pub(super) struct State {
    outbox: Vec<u8>,
    /// Bytes of the outbox that are written.
    taken: usize,
    /// Bytes written since the beginning.
    written: u64,
    slots: HashMap<u64, Slot, foldhash::fast::RandomState>,
    /// Numbers without a reply, and until when they are set aside.
    quarantine: VecDeque<(u64, Instant)>,
    /// Requests that await no reply, with the place at which they end.
    one_way: VecDeque<(u64, oneshot::Sender<Result<Answer, Lost>>)>,
    last: u64,
    waiting: usize,
    waker: Option<Waker>,
    is_ended: bool,
}

/// What a frame from the upstream was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// A reply, and when its request was sent.
    Reply(Instant),
    /// A reply to a request that was given up.
    Late,
    /// Something nobody asked for.
    Push,
}

impl State {
    fn waiting_bytes(&self) -> usize {
        self.outbox.len() - self.taken
    }

    /// What is to be written.
    pub(super) fn rest(&self) -> &[u8] {
        &self.outbox[self.taken..]
    }

    /// Notes that so many bytes were taken.
    pub(super) fn wrote(&mut self, count: usize) {
        self.taken += count;
        self.written += count as u64;
        if self.taken == self.outbox.len() {
            self.outbox.clear();
            self.taken = 0;
        } else if self.taken > OUTBOX_MAX / 2 {
            self.outbox.drain(..self.taken);
            self.taken = 0;
        }
        while self.one_way.front().is_some_and(|(end, _)| *end <= self.written)
            && let Some((_, waiter)) = self.one_way.pop_front()
        {
            self.waiting -= 1;
            let _ = waiter.send(Ok(Answer { command: 0, body: Vec::new() }));
        }
    }

    /// Whether somebody waits for something.
    pub(super) fn is_busy(&self) -> bool {
        self.waiting > 0
    }

    /// Remembers whom to wake when there is something to write.
    pub(super) fn register(&mut self, context: &Context<'_>) {
        if self.waker.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
            self.waker = Some(context.waker().clone());
        }
    }

    /// Gives numbers free whose quarantine has passed.
    pub(super) fn release(&mut self, now: Instant) {
        while self.quarantine.front().is_some_and(|(_, until)| *until <= now) {
            let Some((sequence, _)) = self.quarantine.pop_front() else { break };
            if self.slots.get(&sequence).is_some_and(|slot| slot.waiter.is_none()) {
                self.slots.remove(&sequence);
            }
        }
    }

    /// A frame has come.
    pub(super) fn received(&mut self, settings: &TlvSettings, frame: &Frame<'_>) -> Received {
        let read =
            |field: Option<crate::frame::FrameField>| field.map_or(0, |field| field.read(frame.head()));
        let command = u32::try_from(read(settings.format.command())).unwrap_or(u32::MAX);
        let sequence = read(settings.format.sequence());
        let is_reply = self
            .slots
            .get(&sequence)
            .is_some_and(|slot| slot.reply == Some(command) || settings.is_reply(slot.command, command));
        let Some(slot) = is_reply.then(|| self.slots.remove(&sequence)).flatten() else {
            return Received::Push;
        };
        let Some(waiter) = slot.waiter else {
            self.quarantine.retain(|(own, _)| *own != sequence);
            return Received::Late;
        };
        self.waiting -= 1;
        let _ = waiter.send(Ok(Answer { command, body: frame.body().to_vec() }));
        Received::Reply(slot.sent)
    }

    /// The connection is over: whoever waits is told.
    pub(super) fn end(&mut self, why: &Lost) {
        self.is_ended = true;
        let written = self.written;
        let told = |start: u64| match why {
            Lost::Unsent(_) | Lost::Sent if start < written => Lost::Sent,
            Lost::Sent => Lost::Unsent("upstream_closed"),
            other => other.clone(),
        };
        for (_, slot) in self.slots.drain() {
            if let Some(waiter) = slot.waiter {
                let _ = waiter.send(Err(told(slot.start)));
            }
        }
        for (end, waiter) in self.one_way.drain(..) {
            // Its end was not written; whether its beginning was is not kept.
            let _ = waiter.send(Err(if written == 0 { told(end) } else { Lost::Sent }));
        }
        self.waiting = 0;
        self.quarantine.clear();
        self.outbox = Vec::new();
        self.taken = 0;
    }
}

/// What is sent as one request.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) command: u32,
    /// None: no reply is awaited.
    pub(super) reply: Option<u32>,
    pub(super) user: Option<u64>,
    pub(super) body: &'a [u8],
}

/// Why a request was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// The connection ended, or has no number left.
    Line,
    /// It does not fit a frame.
    Request(TranscodeProblem),
}

impl Line {
    fn new(node: NodeKey, login: &[u8], number: u32, pending: Rc<Cell<usize>>) -> Self {
        let (state, address) = (RefCell::default(), Cell::new(None));
        Self { node, login: login.into(), number, state, address, pending }
    }

    /// Puts a request among those to be sent.
    pub(super) fn send(
        self: &Rc<Self>,
        settings: &TlvSettings,
        asked: Asked<'_>,
        quarantine: std::time::Duration,
    ) -> Result<Ticket, NotTaken> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let now = Instant::now();
        state.release(now);
        if state.is_ended {
            return Err(NotTaken::Line);
        }
        let largest = settings.format.sequence().map_or(0, |field| field.largest());
        let sequence = state.free_number(largest).ok_or(NotTaken::Line)?;
        let start = state.written + state.waiting_bytes() as u64;
        encode_frame(settings, &mut state.outbox, asked.command, sequence, asked.user, asked.body)
            .map_err(NotTaken::Request)?;
        state.last = sequence;
        state.waiting += 1;
        let (waiter, answer) = oneshot::channel();
        if asked.reply.is_none() {
            let end = state.written + state.waiting_bytes() as u64;
            state.one_way.push_back((end, waiter));
        } else {
            let slot =
                Slot { command: asked.command, reply: asked.reply, start, sent: now, waiter: Some(waiter) };
            state.slots.insert(sequence, slot);
        }
        if let Some(waker) = &state.waker {
            waker.wake_by_ref();
        }
        self.pending.set(self.pending.get() + 1);
        Ok(Ticket { line: Rc::clone(self), sequence, quarantine, answer })
    }
}

impl State {
    /// The next number that nobody uses; 0 is left to what no request awaits.
    fn free_number(&self, largest: u64) -> Option<u64> {
        if self.slots.len() as u64 >= largest {
            return None;
        }
        let mut number = self.last;
        loop {
            number = if number >= largest { 1 } else { number + 1 };
            if !self.slots.contains_key(&number) {
                return Some(number);
            }
        }
    }
}

/// A request under way. Dropped without an answer, its number is set aside.
pub(super) struct Ticket {
    line: Rc<Line>,
    sequence: u64,
    quarantine: std::time::Duration,
    answer: oneshot::Receiver<Result<Answer, Lost>>,
}

impl Ticket {
    /// Ready with the reply, or with why there is none. Cancel-safe.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Answer, Lost>> {
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or(Err(Lost::Sent)))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Told apart by this from another's request that has the number by now.
        self.answer.close();
        self.line.pending.set(self.line.pending.get() - 1);
        let mut state = self.line.state.borrow_mut();
        let state = &mut *state;
        if let Some(slot) = state.slots.get_mut(&self.sequence)
            && slot.waiter.as_ref().is_some_and(oneshot::Sender::is_closed)
        {
            slot.waiter = None;
            state.waiting -= 1;
            state.quarantine.push_back((self.sequence, Instant::now() + self.quarantine));
        }
    }
}
