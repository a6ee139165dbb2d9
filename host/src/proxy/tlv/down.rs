//! The client's side of a session, whatever carries its frames.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::CloseReason;
use crate::net::Stream;

/// What a session reads a client's frames from and writes its own to: a socket,
/// a WebSocket connection, a mailbox that clients poll.
///
/// Reading gives the bytes of frames one after the other. Where [`WHOLE`](Self::WHOLE)
/// is set every write begins at a frame and takes none or all of each.
pub trait Down: AsyncRead + AsyncWrite + Unpin + 'static {
    /// Whether it carries frames as messages: whole ones alone are written, and
    /// its end is the client's leaving, never a half-close.
    const WHOLE: bool;

    /// What the access log calls it.
    fn protocol(&self) -> &'static str;

    /// Ends it so that the client sees that something is missing.
    fn cut(&mut self);

    /// Why reading failed, where it is more than a broken connection.
    fn fault(&self) -> Option<CloseReason> {
        None
    }

    /// When the client was last heard, besides by frames.
    fn heard(&self) -> Option<Instant> {
        None
    }

    /// Is told why the session ends, before it is shut down.
    fn ending(&mut self, _reason: CloseReason) {}
}

impl Down for Stream {
    const WHOLE: bool = false;

    fn protocol(&self) -> &'static str {
        "tlv"
    }

    fn cut(&mut self) {
        // A socket that does not take the option is gone already.
        let _ = self.tcp().set_zero_linger();
    }
}
