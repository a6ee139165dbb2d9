//! A stream that left HTTP, as bytes in both directions (RFC 8441, RFC 9113 §8.5).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::{Incoming, Outgoing};
use crate::message::{BodyPart, TransferError};

/// A tunnel on one stream: DATA frames are its bytes, END_STREAM its end.
#[derive(Debug)]
pub struct Tunnel {
    incoming: Incoming,
    outgoing: Outgoing,
}

impl Tunnel {
    pub(super) fn new(incoming: Incoming, outgoing: Outgoing) -> Self {
        Self { incoming, outgoing }
    }

    /// Ends both directions so that the peer sees a cut.
    pub fn abort(&mut self) {
        self.outgoing.abort();
    }
}

fn broken(error: TransferError) -> io::Error {
    match error {
        TransferError::Io(error) => error,
        TransferError::Reset(_) => io::ErrorKind::ConnectionReset.into(),
        other => io::Error::new(io::ErrorKind::ConnectionAborted, other),
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = match ready!(self.incoming.poll_body(context)).map_err(broken)? {
            BodyPart::Data(data) => {
                let count = data.len().min(buffer.remaining());
                buffer.put_slice(&data[..count]);
                count
            }
            BodyPart::End(_) => 0,
        };
        self.incoming.consume(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.outgoing.poll_write(context, bytes).map_err(broken)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's own task writes what was queued.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.poll_finish(None).map_err(broken)
    }
}
