//! The writing half of a connection: a head and a body into few writes.
//!
//! The head waits in a leased buffer for the first bytes of the body. Small
//! pieces are copied in behind it, large ones go out from where they are, in
//! one vectored write with what waits. The buffer is given back when empty.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::message::{BodyLength, Fields, TransferError};
use crate::net::{BufferPool, LeasedBuffer, Stream};

use super::encode::Encoder;

/// Pieces up to this size are copied behind what waits, to leave in one write
/// with what follows; larger ones are written from where they lie.
const COPIED_MAX: usize = 4 << 10;
/// Room a chunk's size line and line end take at most.
const CHUNK_OVERHEAD: usize = 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No body is being written: nothing is owed.
    Idle,
    Known(u64),
    /// Bytes of the current chunk still owed.
    Chunked(u64),
    UntilClose,
}

/// What is written to a connection.
pub(super) struct Output {
    buffer: Option<LeasedBuffer>,
    state: State,
    /// TLS may hold bytes back until it is flushed.
    unflushed: bool,
    /// Bytes written for this exchange.
    pub(super) sent: u64,
}

impl Output {
    pub(super) fn new() -> Self {
        Self { buffer: None, state: State::Idle, unflushed: false, sent: 0 }
    }

    /// Queues a head, made by `encode`.
    pub(super) fn queue(
        &mut self,
        pool: &BufferPool,
        encode: impl Fn(&mut Encoder<'_>),
    ) -> Result<(), TransferError> {
        let buffer = self.buffer.get_or_insert_with(|| pool.lease());
        loop {
            let mut encoder = Encoder::new(buffer.spare());
            encode(&mut encoder);
            if let Some(count) = encoder.finish() {
                buffer.advance(count);
                return Ok(());
            }
            if !buffer.grow() {
                return Err(TransferError::Limit("head_too_large"));
            }
        }
    }

    /// Begins a body. `until_close` says how an unknown length is shown.
    pub(super) fn begin(&mut self, length: BodyLength, until_close: bool) {
        self.state = match length {
            BodyLength::None => State::Idle,
            BodyLength::Known(length) => State::Known(length),
            BodyLength::Unknown if until_close => State::UntilClose,
            BodyLength::Unknown => State::Chunked(0),
        };
    }

    /// Whether the last message was written whole, to the last byte.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Idle && self.buffer.is_none() && !self.unflushed
    }

    /// Writes some of a body.
    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut Stream,
        pool: &BufferPool,
        data: &[u8],
    ) -> Poll<Result<usize, TransferError>> {
        let data = match self.state {
            _ if data.is_empty() => return Poll::Ready(Ok(0)),
            State::Idle | State::Known(0) => {
                return Poll::Ready(Err(TransferError::Malformed("body_over_its_length")));
            }
            State::Known(left) => &data[..data.len().min(usize::try_from(left).unwrap_or(usize::MAX))],
            State::Chunked(left) if left > 0 => {
                &data[..data.len().min(usize::try_from(left).unwrap_or(usize::MAX))]
            }
            State::Chunked(_) | State::UntilClose => data,
        };
        if self.copies(data) {
            return Poll::Ready(Ok(self.copy(pool, data)));
        }
        if self.state == State::Chunked(0) {
            self.open_chunk(pool, data.len());
        }
        let count = ready!(self.poll_write_out(context, stream, data))?;
        self.account(pool, count);
        Poll::Ready(Ok(count))
    }

    /// Whether a piece is small enough, and has room, to be copied.
    fn copies(&self, data: &[u8]) -> bool {
        let room = match &self.buffer {
            Some(buffer) => buffer.capacity() - buffer.len(),
            None => usize::MAX,
        };
        data.len() <= COPIED_MAX && data.len() + CHUNK_OVERHEAD <= room
    }

    fn copy(&mut self, pool: &BufferPool, data: &[u8]) -> usize {
        if self.state == State::Chunked(0) {
            self.open_chunk(pool, data.len());
        }
        self.buffer.get_or_insert_with(|| pool.lease()).append(data);
        self.account(pool, data.len());
        data.len()
    }

    fn open_chunk(&mut self, pool: &BufferPool, size: usize) {
        let mut line = [0_u8; 18];
        let mut at = line.len() - 2;
        line[at..].copy_from_slice(b"\r\n");
        let mut left = size;
        while left > 0 {
            at -= 1;
            line[at] = b"0123456789abcdef"[left & 15];
            left >>= 4;
        }
        self.buffer.get_or_insert_with(|| pool.lease()).append(&line[at..]);
        self.state = State::Chunked(size as u64);
    }

    /// Takes `count` bytes of the body as written; ends the chunk with them.
    fn account(&mut self, pool: &BufferPool, count: usize) {
        match &mut self.state {
            State::Known(left) => *left -= count as u64,
            State::Chunked(left) => {
                *left -= count as u64;
                if *left == 0 {
                    self.buffer.get_or_insert_with(|| pool.lease()).append(b"\r\n");
                }
            }
            State::UntilClose | State::Idle => {}
        }
    }

    /// Writes what waits and `data`, until some of `data` went out.
    fn poll_write_out(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut Stream,
        data: &[u8],
    ) -> Poll<Result<usize, TransferError>> {
        loop {
            let waiting = self.buffer.as_deref().unwrap_or_default();
            let before = waiting.len();
            let count = match before {
                0 => ready!(Pin::new(&mut *stream).poll_write(context, data))?,
                _ => {
                    let slices = [IoSlice::new(waiting), IoSlice::new(data)];
                    ready!(Pin::new(&mut *stream).poll_write_vectored(context, &slices))?
                }
            };
            self.wrote(count)?;
            let of_waiting = count.min(before);
            self.drop_front(of_waiting);
            if count > of_waiting {
                return Poll::Ready(Ok(count - of_waiting));
            }
        }
    }

    fn wrote(&mut self, count: usize) -> Result<(), TransferError> {
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        self.sent += count as u64;
        self.unflushed = true;
        Ok(())
    }

    fn drop_front(&mut self, count: usize) {
        if let Some(buffer) = &mut self.buffer {
            buffer.consume(count);
            if buffer.is_empty() {
                self.buffer = None;
            }
        }
    }

    /// Writes all that waits.
    pub(super) fn poll_flush(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut Stream,
    ) -> Poll<Result<(), TransferError>> {
        while let Some(buffer) = &self.buffer {
            let count = ready!(Pin::new(&mut *stream).poll_write(context, buffer))?;
            self.wrote(count)?;
            self.drop_front(count);
        }
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the body and writes all that waits.
    pub(super) fn poll_finish(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut Stream,
        pool: &BufferPool,
        trailers: Option<&Fields>,
    ) -> Poll<Result<(), TransferError>> {
        match self.state {
            State::Known(left) | State::Chunked(left) if left > 0 => {
                return Poll::Ready(Err(TransferError::Malformed("body_short_of_its_length")));
            }
            State::Chunked(_) => {
                if trailers.is_some() {
                    ready!(self.poll_flush(context, stream))?;
                }
                self.queue(pool, |encoder| encoder.last_chunk(trailers))?;
            }
            State::Known(_) | State::UntilClose | State::Idle => {}
        }
        self.state = State::Idle;
        self.poll_flush(context, stream)
    }
}
