//! Bodies, as the two halves of one exchange see them.
//!
//! The two traits are the narrow interface between the flows in `proxy` and the
//! codecs in `net` and `upstream`: HTTP/1.1 and HTTP/2 implement both on both
//! sides. A body's bytes are lent, never handed over: the flow writes from the
//! memory they were read into.

use std::task::{Context, Poll};

use super::fields::Fields;
use super::transfer::TransferError;

/// A step of reading a body.
#[derive(Debug)]
pub enum BodyPart<'a> {
    /// The next bytes, at least one. They stay until [`BodyRead::consume`].
    Data(&'a [u8]),
    /// The body ended whole; trailers if there were any. Asking again gives `End(None)`.
    End(Option<Fields>),
}

/// A side a body is read from.
pub trait BodyRead {
    /// The next part of the body. Without [`consume`](Self::consume) the same
    /// bytes, or more, come again. Cancel-safe: holds no state of its caller.
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Result<BodyPart<'_>, TransferError>>;

    /// Marks `count` bytes of the part last returned as done.
    fn consume(&mut self, count: usize);

    /// Bytes that are still to come, when the head said so.
    fn remaining(&self) -> Option<u64>;

    /// Whether the body has ended, so that nothing needs polling.
    fn is_end(&self) -> bool;
}

/// A side a body is written to.
pub trait BodyWrite {
    /// Writes some of `data` and says how many bytes were taken. What was taken
    /// may still be in a bounded buffer; [`poll_finish`](Self::poll_finish) and
    /// [`poll_flush`](Self::poll_flush) push it out.
    fn poll_write(&mut self, context: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, TransferError>>;

    /// Pushes out what is buffered, so that a reader that waits sees it.
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), TransferError>>;

    /// Ends the body, with trailers where the protocol has them, and flushes.
    fn poll_finish(
        &mut self,
        context: &mut Context<'_>,
        trailers: Option<&Fields>,
    ) -> Poll<Result<(), TransferError>>;
}
