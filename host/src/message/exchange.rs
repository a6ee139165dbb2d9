//! One exchange, as a request and its response pass through the gateway.
//!
//! [`Downstream`] is the side a request came from, [`UpstreamExchange`] the side
//! it goes to. HTTP/1.1 and HTTP/2 implement both, so the flow that joins them
//! knows neither protocol. Heads are queued at once and leave with the first
//! bytes of the body, in one write; bodies move by polling both sides from one
//! task, so nothing is split, locked or copied on the way.

use std::task::{Context, Poll};

use super::body::{BodyRead, BodyWrite};
use super::head::{RequestHead, ResponseHead};
use super::transfer::TransferError;

/// How long a body is, as its head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// No body follows, whatever the fields say: a request without one, or the
    /// answer to HEAD, 204 and 304. A `Content-Length` field of such an answer
    /// is passed on, since it describes the body that was left out.
    None,
    /// Exactly this many bytes.
    Known(u64),
    /// Unknown until it ends.
    Unknown,
}

impl BodyLength {
    /// Whether nothing will follow the head.
    #[must_use]
    pub fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Known(0))
    }
}

/// Bytes moved for one exchange, heads and framing included, for logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// Bytes received from the peer.
    pub received: u64,
    /// Bytes sent to the peer.
    pub sent: u64,
}

/// The client's side of one exchange: its request body is read, its response
/// written.
pub trait Downstream: BodyRead + BodyWrite {
    /// How long the request's body is.
    fn request_length(&self) -> BodyLength;

    /// Whether the request asks in due form to switch protocols.
    fn asks_upgrade(&self) -> bool {
        false
    }

    /// Whether a 2xx answer would open a tunnel (extended CONNECT), so that only
    /// a switch of protocols may be answered with one.
    fn is_tunnel(&self) -> bool {
        false
    }

    /// Whether the client waits for `100 Continue` before it sends its body and
    /// has not been told yet. The first poll of the body tells it.
    fn expects_continue(&self) -> bool;

    /// Queues an interim response (103, 102). A protocol version that has no
    /// interim responses drops it.
    fn send_interim(&mut self, head: &ResponseHead) -> Result<(), TransferError>;

    /// Queues the final head. Framing and hop-by-hop fields of `head` are not
    /// written: the protocol writes its own by `body`. After a head without a
    /// body, [`BodyWrite::poll_finish`] is still due.
    fn send_head(&mut self, head: &ResponseHead, body: BodyLength) -> Result<(), TransferError>;

    /// Whether the final head was queued, so that no other answer is possible.
    fn is_answered(&self) -> bool;

    /// Says that the rest of the request's body will not be read. What waits of
    /// it is dropped; if that was all, the connection can live on.
    fn discard_request(&mut self) {}

    /// Ready as soon as the client is known to have gone. Reads ahead within
    /// the input buffer's bound; what it reads is not lost.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<TransferError>;

    /// Takes no further exchange after this one (HTTP/1.1: `Connection: close`).
    /// No effect on an HTTP/2 stream, whose connection says GOAWAY itself.
    fn close_after(&mut self);

    /// Breaks the exchange off so that the client sees it as broken: a reset,
    /// never a clean end.
    fn abort(&mut self);

    /// Bytes moved for this exchange so far.
    fn moved(&self) -> Moved;
}

/// What the request's head says besides its fields.
#[derive(Debug, Clone, Copy)]
pub struct RequestShape<'a> {
    /// The body that will follow.
    pub body: BodyLength,
    /// The protocols asked for by `Upgrade`, when the route lets the upgrade
    /// pass. HTTP/1.1 only.
    pub upgrade: Option<&'a [u8]>,
    /// Whether the client takes trailers (`TE: trailers`).
    pub trailers: bool,
}

/// The upstream's side of one exchange: the request is written, the response read.
pub trait UpstreamExchange: BodyRead + BodyWrite {
    /// Queues the request's head; it leaves with the first body bytes or the
    /// next flush. The authority of `head` is sent as it is, framing and
    /// hop-by-hop fields among its fields are not.
    fn send_head(&mut self, head: &RequestHead, shape: RequestShape<'_>) -> Result<(), TransferError>;

    /// The next response head. An interim one (below 200, but for 101) means:
    /// ask again.
    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<ResponseHead, TransferError>>;

    /// How long the body of the final response is; meaningful after its head.
    fn response_length(&self) -> BodyLength;

    /// Whether any byte of the response has come, so that the upstream is known
    /// to have seen the request.
    fn is_answering(&self) -> bool;

    /// Bytes moved for this exchange so far.
    fn moved(&self) -> Moved;
}
