//! Reading a connection through a lent buffer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::{BufferPool, LeasedBuffer};

use super::socket::Wire;

/// A connection whose bytes are read in one go, however small the pieces are in
/// which they are asked for. The WebSocket library asks for what is missing of a
/// header, then for what is missing of a message, each of which would be a system
/// call. Nothing is held while nothing waits.
pub(super) struct Lent<W> {
    wire: W,
    pool: BufferPool,
    /// Bytes that came and were not asked for yet; never empty.
    waiting: Option<LeasedBuffer>,
}

impl<W: Wire> Lent<W> {
    /// A connection of which `ahead` was read already.
    pub(super) fn new(wire: W, pool: BufferPool, ahead: Option<LeasedBuffer>) -> Self {
        Self { wire, pool, waiting: ahead.filter(|buffer| !buffer.is_empty()) }
    }
}

impl<W: Wire> AsyncRead for Lent<W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.waiting.is_none() {
            ready!(this.pool.poll_fill(&mut this.waiting, context, &mut this.wire))?;
        }
        if let Some(waiting) = &mut this.waiting {
            let count = waiting.len().min(target.remaining());
            target.put_slice(&waiting.filled()[..count]);
            waiting.consume(count);
            if waiting.is_empty() {
                this.waiting = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<W: Wire> AsyncWrite for Lent<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(context)
    }
}

impl<W: Wire> Wire for Lent<W> {
    fn cut(&mut self) {
        self.wire.cut();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::net::BufferLimits;

    impl Wire for DuplexStream {
        fn cut(&mut self) {}
    }

    #[tokio::test]
    async fn what_was_read_ahead_comes_first_and_nothing_is_held_at_rest() {
        let pool = BufferPool::new(BufferLimits::default());
        let mut ahead = pool.lease();
        assert_eq!(ahead.append(b"ab"), 2);
        let (near, mut far) = tokio::io::duplex(64);
        let mut lent = Lent::new(near, pool.clone(), Some(ahead));
        far.write_all(b"cdef").await.unwrap();
        let mut found = [0; 3];
        // Piece by piece, each smaller than what came.
        lent.read_exact(&mut found).await.unwrap();
        assert_eq!((&found, pool.lent()), (b"abc", 1));
        lent.read_exact(&mut found).await.unwrap();
        assert_eq!((&found, pool.lent()), (b"def", 0));
        drop(far);
        assert_eq!(lent.read(&mut found).await.unwrap(), 0);
        assert_eq!(pool.lent(), 0);
    }
}
