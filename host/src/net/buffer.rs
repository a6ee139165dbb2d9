//! Buffers that are lent to a connection only while bytes wait in them.
//!
//! Each worker has one [`BufferPool`]. A connection leases a [`LeasedBuffer`]
//! when it wants to read, and drops it, which gives it back, as soon as its
//! bytes are written on: an idle connection holds none. There are three sizes:
//! the common one for all reading, one for the rest of a body that has filled a
//! common one, and a large one for heads that do not fit.
//!
//! The memory is zeroed once, when it is allocated, so that sockets may read
//! into it without `unsafe`. It keeps what was read into it before; only
//! [`LeasedBuffer::filled`] is ever shown to a flow.
//!
//! Bytes begin 128 bytes into the memory, not where a page begins.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

/// Unused bytes in front of those that are going to be copied.
///
/// Allocators begin what is larger than a page with a page, and who copies it puts
/// a few bytes of its own in front, as TLS its five of a record. A copy to an
/// address that lies 1 to 31 bytes further within its page than its source does
/// takes AMD's Zen 3 and 4 some thirty times as long as any other (`rep movsb`,
/// which glibc up to 2.38 uses for more than 2 KiB): 6 µs for 16 KiB instead of 0.2.
const FRONT_BYTES: usize = 128;

/// An empty body with room for `bytes`, to be filled and then copied elsewhere:
/// it begins 128 bytes into its memory.
#[must_use]
pub fn body_with_room(bytes: usize) -> BytesMut {
    let mut body = BytesMut::with_capacity(FRONT_BYTES + bytes);
    body.put_bytes(0, FRONT_BYTES);
    body.advance(FRONT_BYTES);
    body
}

/// A copy of `bytes` that is going to be copied again.
#[must_use]
pub fn copied(bytes: &[u8]) -> Bytes {
    let mut body = body_with_room(bytes.len());
    body.extend_from_slice(bytes);
    body.freeze()
}

/// Sizes of a worker's buffers, and how many idle ones it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferLimits {
    /// Bytes of a common buffer. 16 KiB: one TLS record's worth.
    pub common_bytes: usize,
    /// Bytes of a buffer for a body that arrives faster than the common size
    /// is emptied. Fewer than 64 KiB: a client that never reads holds one.
    pub bulk_bytes: usize,
    /// Bytes of a large buffer: the limit of a message's head.
    pub large_bytes: usize,
    /// Idle common buffers a worker keeps; more are freed when given back.
    pub common_kept_max: usize,
    /// Idle bulk buffers a worker keeps.
    pub bulk_kept_max: usize,
    /// Idle large buffers a worker keeps.
    pub large_kept_max: usize,
}

impl Default for BufferLimits {
    /// 16 KiB, 48 KiB and 64 KiB; at most 4 MiB, 768 KiB and 512 KiB kept a worker.
    fn default() -> Self {
        Self {
            common_bytes: 16 << 10,
            bulk_bytes: 48 << 10,
            large_bytes: 64 << 10,
            common_kept_max: 256,
            bulk_kept_max: 16,
            large_kept_max: 8,
        }
    }
}

#[derive(Debug)]
struct Pool {
    limits: BufferLimits,
    common: RefCell<Vec<Box<[u8]>>>,
    bulk: RefCell<Vec<Box<[u8]>>>,
    large: RefCell<Vec<Box<[u8]>>>,
    lent: Cell<usize>,
}

/// A worker's buffers. Cloning gives another handle to the same pool.
#[derive(Debug, Clone)]
pub struct BufferPool(Rc<Pool>);

impl Default for BufferPool {
    fn default() -> Self {
        Self::new(BufferLimits::default())
    }
}

impl BufferPool {
    /// An empty pool: buffers are allocated when first wanted.
    #[must_use]
    pub fn new(limits: BufferLimits) -> Self {
        Self(Rc::new(Pool {
            limits,
            common: RefCell::default(),
            bulk: RefCell::default(),
            large: RefCell::default(),
            lent: Cell::new(0),
        }))
    }

    /// Lends an empty buffer of the common size.
    #[must_use]
    pub fn lease(&self) -> LeasedBuffer {
        let pool = &self.0;
        let memory = pool.common.borrow_mut().pop();
        self.lend(memory, pool.limits.common_bytes)
    }

    /// Lends an empty buffer for the rest of a body that comes fast.
    #[must_use]
    pub fn lease_bulk(&self) -> LeasedBuffer {
        let pool = &self.0;
        let memory = pool.bulk.borrow_mut().pop();
        self.lend(memory, pool.limits.bulk_bytes)
    }

    /// Lends an empty buffer of the large size.
    #[must_use]
    pub fn lease_large(&self) -> LeasedBuffer {
        let pool = &self.0;
        let memory = pool.large.borrow_mut().pop();
        self.lend(memory, pool.limits.large_bytes)
    }

    fn lend(&self, memory: Option<Box<[u8]>>, bytes: usize) -> LeasedBuffer {
        self.0.lent.set(self.0.lent.get() + 1);
        let memory = memory.unwrap_or_else(|| vec![0; FRONT_BYTES + bytes].into_boxed_slice());
        LeasedBuffer { memory, start: FRONT_BYTES, end: FRONT_BYTES, pool: Rc::clone(&self.0) }
    }

    /// Buffers that are lent out now.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.0.lent.get()
    }

    /// Idle buffers kept now, of all sizes.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.0.common.borrow().len() + self.0.bulk.borrow().len() + self.0.large.borrow().len()
    }

    /// [`poll_fill`](Self::poll_fill) for bytes that are passed on as they come.
    /// `is_fast` says that the read before took a common buffer whole; the next
    /// one then gets a bulk buffer, if `may_grow` allows, so that it is short and
    /// none is made in vain to find the socket empty.
    ///
    /// # Errors
    /// As [`poll_fill`](Self::poll_fill).
    pub fn poll_fill_fast<R: AsyncRead + Unpin>(
        &self,
        slot: &mut Option<LeasedBuffer>,
        context: &mut Context<'_>,
        reader: &mut R,
        is_fast: &mut bool,
        may_grow: bool,
    ) -> Poll<io::Result<usize>> {
        if *is_fast && may_grow && slot.is_none() {
            *slot = Some(self.lease_bulk());
        }
        let outcome = self.poll_fill(slot, context, reader);
        if let Poll::Ready(Ok(count)) = outcome {
            *is_fast = count >= self.0.limits.common_bytes;
        }
        outcome
    }

    /// The pool's sizes.
    #[must_use]
    pub fn limits(&self) -> &BufferLimits {
        &self.0.limits
    }

    /// Reads into `slot`'s buffer, leasing one if there is none, and gives it
    /// back at once when nothing came and nothing waits in it. This is how a
    /// connection waits for its next message without holding memory.
    ///
    /// Returns the count of new bytes, 0 at the end of the stream. Cancel-safe.
    ///
    /// # Errors
    /// What the read returned; [`io::ErrorKind::StorageFull`] when the buffer
    /// is full and cannot take a byte.
    pub fn poll_fill<R: AsyncRead + Unpin>(
        &self,
        slot: &mut Option<LeasedBuffer>,
        context: &mut Context<'_>,
        reader: &mut R,
    ) -> Poll<io::Result<usize>> {
        let buffer = slot.get_or_insert_with(|| self.lease());
        let outcome = buffer.poll_fill(context, reader);
        if buffer.is_empty() {
            *slot = None;
        }
        outcome
    }
}

/// A buffer on loan: bytes are read in behind, and consumed in front.
///
/// Dereferences to the bytes that wait. Goes back to its pool when dropped.
#[derive(Debug)]
pub struct LeasedBuffer {
    memory: Box<[u8]>,
    start: usize,
    end: usize,
    pool: Rc<Pool>,
}

impl LeasedBuffer {
    /// The bytes that wait.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    /// The bytes that wait, to be changed in place (unmasking).
    #[must_use]
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.end]
    }

    /// Room behind the bytes that wait. What is written there counts after
    /// [`advance`](Self::advance). Its former content is of no meaning.
    #[must_use]
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.memory[self.end..]
    }

    /// Takes the first `count` bytes of the spare room as filled.
    ///
    /// # Panics
    /// If there is less room than `count`: an error of the caller.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.memory.len() - self.end, "advanced past the buffer's end");
        self.end += count;
    }

    /// Marks the first `count` waiting bytes as done.
    ///
    /// # Panics
    /// If fewer wait: an error of the caller.
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.end - self.start, "consumed more than was filled");
        self.start += count;
        if self.start == self.end {
            self.clear();
        }
    }

    /// Forgets all waiting bytes.
    pub fn clear(&mut self) {
        self.start = FRONT_BYTES;
        self.end = FRONT_BYTES;
    }

    /// Moves the waiting bytes to the front, so that all free room is behind.
    pub fn compact(&mut self) {
        if self.start > FRONT_BYTES {
            self.memory.copy_within(self.start..self.end, FRONT_BYTES);
            self.end -= self.start - FRONT_BYTES;
            self.start = FRONT_BYTES;
        }
    }

    /// Bytes it holds in all.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.len() - FRONT_BYTES
    }

    /// Whether no byte can be added, even after compacting.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.start == FRONT_BYTES && self.is_at_end()
    }

    /// Whether the last byte of its memory is taken: more may wait in the socket.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.end == self.memory.len()
    }

    /// Whether it is larger than the common size.
    #[must_use]
    pub fn is_bulk(&self) -> bool {
        self.capacity() > self.pool.limits.common_bytes
    }

    /// Whether this is of the large size already, so that [`grow`](Self::grow) gains nothing.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.capacity() >= self.pool.limits.large_bytes
    }

    /// Moves what waits into a large buffer. Returns false, and does nothing,
    /// when it is large already.
    pub fn grow(&mut self) -> bool {
        if self.is_large() {
            return false;
        }
        let mut large = BufferPool(Rc::clone(&self.pool)).lease_large();
        large.append(self.filled());
        *self = large;
        true
    }

    /// Copies as much of `bytes` in as there is room for; returns how many.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        if self.memory.len() - self.end < bytes.len() {
            self.compact();
        }
        let count = bytes.len().min(self.memory.len() - self.end);
        self.memory[self.end..self.end + count].copy_from_slice(&bytes[..count]);
        self.end += count;
        count
    }

    /// Reads once into the spare room, straight from the socket.
    ///
    /// Returns the count of new bytes, 0 at the end of the stream. Cancel-safe.
    ///
    /// # Errors
    /// What the read returned; [`io::ErrorKind::StorageFull`] when the buffer
    /// is full: the caller consumes or grows first, so a full one is its limit.
    pub fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
    ) -> Poll<io::Result<usize>> {
        // Compacting when the tail is short costs a copy of what waits, but
        // saves a system call for each sliver of room.
        if self.memory.len() - self.end < self.capacity() / 4 {
            self.compact();
        }
        if self.end == self.memory.len() {
            return Poll::Ready(Err(io::ErrorKind::StorageFull.into()));
        }
        let mut spare = ReadBuf::new(&mut self.memory[self.end..]);
        match Pin::new(reader).poll_read(context, &mut spare) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {
                let count = spare.filled().len();
                self.end += count;
                Poll::Ready(Ok(count))
            }
        }
    }
}

impl Deref for LeasedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.filled()
    }
}

impl Drop for LeasedBuffer {
    fn drop(&mut self) {
        let pool = &self.pool;
        pool.lent.set(pool.lent.get().saturating_sub(1));
        let capacity = self.capacity();
        let memory = std::mem::take(&mut self.memory);
        let (shelf, kept_max) = match capacity {
            bytes if bytes == pool.limits.common_bytes => (&pool.common, pool.limits.common_kept_max),
            bytes if bytes == pool.limits.bulk_bytes => (&pool.bulk, pool.limits.bulk_kept_max),
            _ => (&pool.large, pool.limits.large_kept_max),
        };
        let mut shelf = shelf.borrow_mut();
        if shelf.len() < kept_max {
            shelf.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncWriteExt;

    fn small() -> BufferPool {
        BufferPool::new(BufferLimits {
            common_bytes: 8,
            bulk_bytes: 24,
            large_bytes: 32,
            common_kept_max: 2,
            bulk_kept_max: 1,
            large_kept_max: 1,
        })
    }

    #[test]
    fn a_buffer_goes_back_and_is_lent_again() {
        let pool = small();
        let first = pool.lease();
        let address = first.memory.as_ptr();
        assert_eq!(pool.lent(), 1);
        drop(first);
        assert_eq!((pool.lent(), pool.kept()), (0, 1));
        let again = pool.lease();
        assert_eq!(again.memory.as_ptr(), address);
        assert!(again.is_empty());
    }

    #[test]
    fn bytes_begin_behind_the_front_of_their_memory() {
        let pool = small();
        let offset = |buffer: &LeasedBuffer| buffer.filled().as_ptr().addr() - buffer.memory.as_ptr().addr();
        let mut buffer = pool.lease();
        buffer.append(b"abcdefgh");
        assert_eq!((offset(&buffer), buffer.capacity()), (FRONT_BYTES, 8));
        buffer.consume(3);
        buffer.compact();
        assert_eq!((offset(&buffer), &*buffer), (FRONT_BYTES, &b"defgh"[..]));
        buffer.consume(5);
        buffer.append(b"i");
        assert_eq!(offset(&buffer), FRONT_BYTES);
    }

    #[test]
    fn a_body_keeps_its_bytes_and_its_room() {
        let mut body = body_with_room(4);
        assert!(body.is_empty() && body.capacity() >= 4);
        body.extend_from_slice(b"more than it has room for");
        assert_eq!(body.freeze(), copied(b"more than it has room for"));
    }

    #[test]
    fn no_more_than_the_limit_is_kept() {
        let pool = small();
        let lent: Vec<_> = (0..5).map(|_| pool.lease()).collect();
        let large: Vec<_> = (0..3).map(|_| pool.lease_large()).collect();
        drop((lent, large));
        assert_eq!(pool.kept(), 3);
    }

    #[test]
    fn growing_keeps_what_waits_and_returns_the_small_one() {
        let pool = small();
        let mut buffer = pool.lease();
        assert_eq!(buffer.append(b"01234567890"), 8);
        assert!(buffer.is_full());
        buffer.consume(3);
        assert!(!buffer.is_full());
        assert!(buffer.grow());
        assert_eq!(buffer.filled(), b"34567");
        assert!(!buffer.grow());
        assert_eq!((pool.lent(), pool.kept()), (1, 1));
    }

    #[test]
    fn consuming_all_frees_all_room() {
        let pool = small();
        let mut buffer = pool.lease();
        buffer.append(b"abcdef");
        buffer.consume(2);
        assert_eq!(buffer.append(b"ghij"), 4);
        assert_eq!(&*buffer, b"cdefghij");
        buffer.consume(8);
        assert_eq!(buffer.spare().len(), 8);
    }

    #[tokio::test]
    async fn an_idle_connection_holds_no_buffer() {
        let pool = small();
        let (mut near, mut far) = tokio::io::duplex(64);
        let mut slot = None;
        let idle = poll_fn(|context| Poll::Ready(pool.poll_fill(&mut slot, context, &mut near))).await;
        assert!(idle.is_pending());
        assert!(slot.is_none());
        assert_eq!(pool.lent(), 0);

        far.write_all(b"hello").await.unwrap();
        let count = poll_fn(|context| pool.poll_fill(&mut slot, context, &mut near)).await.unwrap();
        assert_eq!(count, 5);
        assert_eq!(slot.as_deref(), Some(&b"hello"[..]));
    }

    #[tokio::test]
    async fn a_read_that_took_a_buffer_whole_is_followed_by_a_larger_one() {
        let pool = small();
        let (mut near, mut far) = tokio::io::duplex(64);
        let (mut slot, mut is_fast) = (None, false);
        for (sent, read, capacity) in [(8, 8, 8), (10, 10, 24), (3, 3, 24), (3, 3, 8)] {
            far.write_all(&vec![1; sent]).await.unwrap();
            let fill =
                poll_fn(|context| pool.poll_fill_fast(&mut slot, context, &mut near, &mut is_fast, true));
            assert_eq!(fill.await.unwrap(), read);
            assert_eq!(slot.take().unwrap().capacity(), capacity);
        }
        is_fast = true;
        far.write_all(b"01234567").await.unwrap();
        poll_fn(|context| pool.poll_fill_fast(&mut slot, context, &mut near, &mut is_fast, false))
            .await
            .unwrap();
        assert_eq!(slot.take().unwrap().capacity(), 8);
        assert_eq!(pool.lent(), 0);
    }

    #[tokio::test]
    async fn a_full_buffer_is_an_error_not_an_end() {
        let pool = small();
        let (mut near, mut far) = tokio::io::duplex(64);
        far.write_all(b"0123456789").await.unwrap();
        let mut buffer = pool.lease();
        assert_eq!(poll_fn(|context| buffer.poll_fill(context, &mut near)).await.unwrap(), 8);
        let error = poll_fn(|context| buffer.poll_fill(context, &mut near)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        drop(far);
    }
}
