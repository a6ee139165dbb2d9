//! The two halves of one HTTP/2 stream, in the shape the flows move bodies by.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};

use super::convert;
use crate::message::{BodyLength, BodyPart, Fields, TransferError};
use crate::net::{copied, http_types};

/// The most bytes handed to `h2` in one DATA frame: the frame size every peer
/// takes, RFC 9113 §4.2.
const DATA_BYTES_MAX: usize = 16 * 1024;

/// The half that is received.
#[derive(Debug)]
pub(super) struct Incoming {
    stream: RecvStream,
    chunk: Bytes,
    ended: bool,
    remaining: Option<u64>,
    pub(super) received: u64,
}

impl Incoming {
    pub(super) fn new(stream: RecvStream, length: BodyLength) -> Self {
        let remaining = match length {
            BodyLength::None => Some(0),
            BodyLength::Known(bytes) => Some(bytes),
            BodyLength::Unknown => None,
        };
        Self { ended: stream.is_end_stream(), stream, chunk: Bytes::new(), remaining, received: 0 }
    }

    pub(super) fn poll_body(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<BodyPart<'_>, TransferError>> {
        while self.chunk.is_empty() {
            if self.ended {
                return Poll::Ready(Ok(BodyPart::End(None)));
            }
            match ready!(self.stream.poll_data(context)) {
                Some(Ok(chunk)) => {
                    self.received += chunk.len() as u64;
                    if let Some(remaining) = &mut self.remaining {
                        *remaining = remaining.saturating_sub(chunk.len() as u64);
                    }
                    self.chunk = chunk;
                }
                Some(Err(error)) => return Poll::Ready(Err(transfer_error(error))),
                None => {
                    let trailers = ready!(self.stream.poll_trailers(context)).map_err(transfer_error)?;
                    self.ended = true;
                    return Poll::Ready(Ok(BodyPart::End(trailers.as_ref().map(http_types::fields_of))));
                }
            }
        }
        Poll::Ready(Ok(BodyPart::Data(&self.chunk)))
    }

    pub(super) fn consume(&mut self, count: usize) {
        let count = count.min(self.chunk.len());
        let _ = self.chunk.split_to(count);
        // The peer's window opens by what has gone on, so that what waits here
        // is bounded by the window. It fails only on a stream already closed.
        let _ = self.stream.flow_control().release_capacity(count);
    }

    pub(super) fn remaining(&self) -> Option<u64> {
        self.remaining.map(|remaining| remaining + self.chunk.len() as u64)
    }

    pub(super) fn is_end(&self) -> bool {
        self.chunk.is_empty() && (self.ended || self.stream.is_end_stream())
    }
}

/// The half that is sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    stream: SendStream<Bytes>,
    /// Bytes still to come, so that the last of them carries END_STREAM.
    remaining: Option<u64>,
    finished: bool,
    pub(super) sent: u64,
}

impl Outgoing {
    /// A half whose head has been sent, with END_STREAM if `finished`.
    pub(super) fn new(stream: SendStream<Bytes>, length: BodyLength, finished: bool) -> Self {
        let remaining = match length {
            BodyLength::Known(bytes) => Some(bytes),
            BodyLength::None | BodyLength::Unknown => None,
        };
        Self { stream, remaining, finished, sent: 0 }
    }

    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, TransferError>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.finished || self.remaining.is_some_and(|remaining| remaining < data.len() as u64) {
            return Poll::Ready(Err(TransferError::Malformed("body_past_its_length")));
        }
        let wanted = data.len().min(DATA_BYTES_MAX);
        self.stream.reserve_capacity(wanted);
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(context)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(transfer_error(error))),
                None => return Poll::Ready(Err(TransferError::Closed)),
            }
        }
        let count = wanted.min(self.stream.capacity());
        let last = self.remaining == Some(count as u64);
        self.stream.send_data(copied(&data[..count]), last).map_err(transfer_error)?;
        self.remaining = self.remaining.map(|remaining| remaining - count as u64);
        self.finished = last;
        self.sent += count as u64;
        Poll::Ready(Ok(count))
    }

    pub(super) fn poll_finish(&mut self, trailers: Option<&Fields>) -> Poll<Result<(), TransferError>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        if self.remaining.is_some_and(|remaining| remaining > 0) {
            return Poll::Ready(Err(TransferError::Malformed("body_short_of_its_length")));
        }
        self.finished = true;
        let result = match trailers.filter(|trailers| !trailers.is_empty()) {
            Some(trailers) => self.stream.send_trailers(convert::map_of(trailers)),
            None => self.stream.send_data(Bytes::new(), true),
        };
        Poll::Ready(result.map_err(transfer_error))
    }

    /// Ready when the peer has reset the stream or the connection is gone.
    pub(super) fn poll_reset(&mut self, context: &mut Context<'_>) -> Poll<TransferError> {
        self.stream.poll_reset(context).map(reset_error)
    }

    pub(super) fn abort(&mut self) {
        self.stream.send_reset(Reason::INTERNAL_ERROR);
        self.finished = true;
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }
}

pub(super) fn reset_error(reset: Result<Reason, h2::Error>) -> TransferError {
    match reset {
        Ok(reason) => TransferError::Reset(reason.into()),
        Err(error) => transfer_error(error),
    }
}

/// Our word for a failure of `h2`.
pub(super) fn transfer_error(error: h2::Error) -> TransferError {
    if error.is_reset() {
        let reason = error.reason().unwrap_or(Reason::INTERNAL_ERROR);
        // A reset of our own making: the peer broke the protocol on this stream.
        return if error.is_remote() {
            TransferError::Reset(reason.into())
        } else {
            TransferError::Malformed("h2_stream_error")
        };
    }
    if error.is_go_away() && error.is_remote() {
        return TransferError::Closed;
    }
    match error.into_io() {
        Some(error) => TransferError::Io(error),
        None => TransferError::Malformed("h2_protocol_error"),
    }
}
