//! Bytes that came in on one side and have not gone out on the other.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncRead;

use crate::net::{BufferPool, LeasedBuffer};

/// What waits of one direction of a session.
///
/// Bytes lie in a leased buffer, which is given back as soon as it is empty. A
/// frame that must be held whole and is larger than such a buffer is gathered
/// in memory of its own, which grows with what has come, never with what a
/// length claims.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Inlet {
    buffer: Option<LeasedBuffer>,
    /// The frame in front, once it has outgrown the buffer.
    // Boxed: rare, and an idle session is as large as this is inline.
    #[allow(clippy::box_collection, reason = "two words less in every idle session")]
    gathered: Option<Box<Vec<u8>>>,
}

/// How large a buffer a read is given.
pub(in crate::proxy) struct Pace<'a> {
    /// Whether the read before took a common buffer whole.
    pub(in crate::proxy) is_fast: &'a mut bool,
    /// Whether this one may have a larger buffer.
    pub(in crate::proxy) may_grow: bool,
}

impl Inlet {
    /// With bytes that were read already.
    pub(in crate::proxy) fn new(first: Option<LeasedBuffer>) -> Self {
        Self { buffer: first.filter(|buffer| !buffer.is_empty()), gathered: None }
    }

    /// The bytes that wait, the oldest first. Behind a gathered frame there may
    /// be more, which show once it is consumed.
    pub(in crate::proxy) fn front(&self) -> &[u8] {
        match (&self.gathered, &self.buffer) {
            (Some(gathered), _) => gathered,
            (None, Some(buffer)) => buffer.filled(),
            (None, None) => &[],
        }
    }

    /// Whether what waits lies in more than a common buffer.
    pub(in crate::proxy) fn is_bulk(&self) -> bool {
        self.buffer.as_ref().is_some_and(LeasedBuffer::is_bulk)
    }

    /// Whether nothing waits.
    pub(in crate::proxy) fn is_empty(&self) -> bool {
        self.gathered.is_none() && self.buffer.is_none()
    }

    /// Forgets the first `count` bytes. A gathered frame goes at once and whole,
    /// or stays: part of one is never consumed by those who hold frames.
    pub(in crate::proxy) fn consume(&mut self, count: usize) {
        if let Some(gathered) = &mut self.gathered {
            if count >= gathered.len() {
                self.gathered = None;
            } else {
                gathered.drain(..count);
            }
            return;
        }
        if let Some(buffer) = &mut self.buffer {
            buffer.consume(count);
            if buffer.is_empty() {
                self.buffer = None;
            }
        }
    }

    /// Forgets all.
    pub(in crate::proxy) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Reads once. `need` is how many bytes the frame in front needs in all, as
    /// the decoder said; 0 when it does not matter. Returns the count of bytes,
    /// 0 at the end of the stream. Cancel-safe.
    pub(in crate::proxy) fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        pool: &BufferPool,
        reader: &mut R,
        need: usize,
        pace: Pace<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.gathered.is_none()
            && let Some(buffer) = &mut self.buffer
            && need > buffer.capacity()
        {
            buffer.compact();
            if buffer.is_full() {
                let mut gathered = Vec::with_capacity(need.min(2 * buffer.capacity()));
                gathered.extend_from_slice(buffer.filled());
                self.gathered = Some(Box::new(gathered));
                self.buffer = None;
            }
        }
        let Pace { is_fast, may_grow } = pace;
        let count = ready!(pool.poll_fill_fast(&mut self.buffer, context, reader, is_fast, may_grow))?;
        if let (Some(gathered), Some(buffer)) = (&mut self.gathered, &mut self.buffer) {
            let wanted = need.saturating_sub(gathered.len()).min(buffer.len());
            gathered.extend_from_slice(&buffer.filled()[..wanted]);
            buffer.consume(wanted);
            if buffer.is_empty() {
                self.buffer = None;
            }
        }
        Poll::Ready(Ok(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test]
    async fn a_frame_larger_than_the_buffer_is_gathered_and_what_follows_kept() {
        let pool = BufferPool::default();
        let bytes: Vec<u8> = (0..40_000_u32).map(|n| n as u8).collect();
        let mut reader = &bytes[..];
        let mut inlet = Inlet::default();
        while inlet.front().len() < 30_000 {
            poll_fn(|context| {
                let pace = Pace { is_fast: &mut false, may_grow: true };
                inlet.poll_fill(context, &pool, &mut reader, 30_000, pace)
            })
            .await
            .unwrap();
        }
        assert_eq!(inlet.front(), &bytes[..30_000]);
        inlet.consume(30_000);
        let mut seen = 30_000 + inlet.front().len();
        assert_eq!(inlet.front(), &bytes[30_000..seen]);
        while seen < bytes.len() {
            inlet.consume(inlet.front().len());
            let mut is_fast = true;
            seen += poll_fn(|context| {
                let pace = Pace { is_fast: &mut is_fast, may_grow: true };
                inlet.poll_fill(context, &pool, &mut reader, 0, pace)
            })
            .await
            .unwrap();
        }
        inlet.consume(inlet.front().len());
        assert!(inlet.is_empty());
        assert_eq!(pool.lent(), 0);
    }
}
