//! The reading half of a connection: a body's bytes out of a leased buffer.

use std::task::{Context, Poll, ready};

use crate::message::{BodyLength, Fields, TransferError};
use crate::net::{BufferPool, LeasedBuffer, Stream};

use super::chunked::{Decoder, Step};

/// How much of a body is still to be read.
#[derive(Debug)]
enum State {
    Known(u64),
    Chunked(Decoder),
    UntilClose,
    End,
}

/// What comes next in a body, as a count of bytes at the input's front.
pub(super) enum Next {
    Data(usize),
    End(Option<Fields>),
}

/// A body being read, and the bytes that wait.
pub(super) struct Input {
    /// What was read and not used yet. Empty means none is held.
    pub(super) buffer: Option<LeasedBuffer>,
    state: State,
    /// Whether the last read took all the room it had, so that the next one
    /// of a body is given more: a large body then costs fewer calls.
    is_fast: bool,
    /// Bytes read for this exchange.
    pub(super) received: u64,
}

impl Input {
    pub(super) fn new(first: Option<LeasedBuffer>) -> Self {
        let buffer = first.filter(|buffer| !buffer.is_empty());
        let received = buffer.as_ref().map_or(0, |buffer| buffer.len() as u64);
        Self { buffer, state: State::End, is_fast: false, received }
    }

    pub(super) fn waiting(&self) -> &[u8] {
        self.buffer.as_deref().unwrap_or_default()
    }

    /// Drops `count` waiting bytes, and the buffer with the last of them.
    pub(super) fn skip(&mut self, count: usize) {
        if let Some(buffer) = &mut self.buffer {
            buffer.consume(count);
            if buffer.is_empty() {
                self.buffer = None;
            }
        }
    }

    /// Begins a body.
    pub(super) fn begin(&mut self, length: BodyLength, until_close: bool) {
        self.state = match length {
            BodyLength::None | BodyLength::Known(0) => State::End,
            BodyLength::Known(length) => State::Known(length),
            BodyLength::Unknown if until_close => State::UntilClose,
            BodyLength::Unknown => State::Chunked(Decoder::default()),
        };
    }

    pub(super) fn is_end(&self) -> bool {
        matches!(self.state, State::End)
    }

    pub(super) fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Known(left) => Some(left),
            State::End => Some(0),
            State::Chunked(_) | State::UntilClose => None,
        }
    }

    /// Reads more bytes; 0 at the end of the stream.
    pub(super) fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut Stream,
        pool: &BufferPool,
    ) -> Poll<Result<usize, TransferError>> {
        if self.is_fast && self.buffer.is_none() && !self.is_end() {
            self.buffer = Some(pool.lease_bulk());
        }
        let count = ready!(pool.poll_fill(&mut self.buffer, context, stream))?;
        self.is_fast = self.buffer.as_ref().is_some_and(LeasedBuffer::is_at_end);
        self.received += count as u64;
        Poll::Ready(Ok(count))
    }

    /// What comes next, framing before it dropped.
    pub(super) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut Stream,
        pool: &BufferPool,
    ) -> Poll<Result<Next, TransferError>> {
        loop {
            if let Some(next) = self.take_next()? {
                return Poll::Ready(Ok(next));
            }
            if ready!(self.poll_fill(context, stream, pool))? == 0 {
                if !matches!(self.state, State::UntilClose) {
                    return Poll::Ready(Err(TransferError::Closed));
                }
                self.state = State::End;
            }
        }
    }

    /// What the waiting bytes hold; `None` when more must be read.
    fn take_next(&mut self) -> Result<Option<Next>, TransferError> {
        let waiting = self.buffer.as_deref().unwrap_or_default();
        let (skip, next) = match &mut self.state {
            State::End => (0, Next::End(None)),
            State::Known(_) | State::UntilClose | State::Chunked(_) if waiting.is_empty() => return Ok(None),
            State::Known(left) => {
                (0, Next::Data(usize::try_from(*left).unwrap_or(usize::MAX).min(waiting.len())))
            }
            State::UntilClose => (0, Next::Data(waiting.len())),
            State::Chunked(decoder) => match decoder.step(waiting).map_err(TransferError::Malformed)? {
                Step::More(skip) => {
                    self.skip(skip);
                    return Ok(None);
                }
                Step::Data { skip, data } => (skip, Next::Data(data)),
                Step::End(skip, trailers) => {
                    self.state = State::End;
                    (skip, Next::End(trailers))
                }
            },
        };
        self.skip(skip);
        Ok(Some(next))
    }

    /// Marks bytes of the body as used.
    pub(super) fn consume(&mut self, count: usize) {
        self.skip(count);
        match &mut self.state {
            State::Known(left) => {
                *left = left.saturating_sub(count as u64);
                if *left == 0 {
                    self.state = State::End;
                }
            }
            State::Chunked(decoder) => decoder.consumed(count),
            State::UntilClose | State::End => {}
        }
    }

    /// Drops what waits of a body nobody wants.
    pub(super) fn discard_waiting(&mut self) {
        while !self.is_end() {
            match self.take_next() {
                Ok(Some(Next::Data(count))) => self.consume(count),
                Ok(Some(Next::End(_))) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }
}
