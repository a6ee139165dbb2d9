//! Two streams joined: what one sends, the other gets.
//!
//! Used by upgraded HTTP connections and by TCP stream routes. Bytes are written
//! from the leased buffer they were read into, one buffer a direction and only
//! while bytes wait in it: a session at rest holds none. A slow reader stops
//! the reading of its peer, so nothing grows. One side's end is passed on as a
//! half-close, and the other direction goes on until it ends too.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::net::{BufferPool, LazyTimer, LeasedBuffer};

/// Time limits of a relay. Zero means none.
#[derive(Debug, Clone, Copy)]
pub struct RelayLimits {
    /// The longest time without a byte in either direction.
    pub idle_timeout: Duration,
    /// The longest time without a byte once one side has ended.
    pub half_close_timeout: Duration,
    /// The longest time the first stream may take nothing of what waits for it.
    pub first_send_timeout: Duration,
    /// The same of the second stream.
    pub second_send_timeout: Duration,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(600),
            half_close_timeout: Duration::from_secs(60),
            first_send_timeout: Duration::from_secs(60),
            second_send_timeout: Duration::from_secs(60),
        }
    }
}

/// Bytes moved, readable while the relay runs.
#[derive(Debug, Default)]
pub struct RelayCounters {
    /// From the first stream to the second.
    pub forward: Cell<u64>,
    /// From the second stream to the first.
    pub backward: Cell<u64>,
}

/// A side of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first stream.
    First,
    /// The second stream.
    Second,
}

/// Why a relay ended.
#[derive(Debug)]
pub enum RelayEnd {
    /// Both sides ended their streams; everything was delivered.
    Closed,
    /// Nothing moved for the idle time.
    Idle,
    /// One side had ended and the other brought nothing more in time.
    HalfCloseTimeout,
    /// A side took nothing of what waited for it. The caller resets it: bytes are missing.
    Stalled(Side),
    /// A side's socket failed. The caller resets the other one, so that the cut shows.
    Failed(Side, io::Error),
    /// The caller's stop signal came.
    Stopped,
}

impl RelayEnd {
    /// A fixed code for logs and counters.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Idle => "idle_timeout",
            Self::HalfCloseTimeout => "half_close_timeout",
            Self::Stalled(Side::First) => "client_stalled",
            Self::Stalled(Side::Second) => "upstream_stalled",
            Self::Failed(Side::First, _) => "downstream_failed",
            Self::Failed(Side::Second, _) => "upstream_failed",
            Self::Stopped => "stopped",
        }
    }
}

/// Bytes that were read before the relay began, to be delivered first.
#[derive(Default)]
pub struct Pending {
    /// From the first stream, for the second.
    pub forward: Option<LeasedBuffer>,
    /// From the second stream, for the first.
    pub backward: Option<LeasedBuffer>,
}

/// Joins `first` and `second` until both have ended, one fails, a time limit is
/// reached or `stop` is ready. Closes neither: the caller owns them, and a
/// stream that is to look broken gets its reset there.
pub async fn relay<A, B>(
    first: &mut A,
    second: &mut B,
    pending: Pending,
    pool: &BufferPool,
    limits: RelayLimits,
    counters: &RelayCounters,
    stop: impl Future<Output = ()>,
) -> RelayEnd
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut forward = Direction::new(pending.forward);
    let mut backward = Direction::new(pending.backward);
    let mut timer = LazyTimer::new();
    let mut idle_since = Instant::now();
    let mut stop = pin!(stop);
    poll_fn(|context| {
        if stop.as_mut().poll(context).is_ready() {
            return Poll::Ready(RelayEnd::Stopped);
        }
        let before = counters.forward.get() + counters.backward.get();
        // A relay that is stuck both ways holds one large buffer at most.
        let may_grow = !backward.holds_bulk();
        let to_second = forward.poll(context, first, second, pool, &counters.forward, may_grow);
        let may_grow = !forward.holds_bulk();
        let to_first = backward.poll(context, second, first, pool, &counters.backward, may_grow);
        match (to_second, to_first) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(RelayEnd::Closed),
            (Poll::Ready(Err(fault)), _) => return Poll::Ready(fault.end(Side::First, Side::Second)),
            (_, Poll::Ready(Err(fault))) => return Poll::Ready(fault.end(Side::Second, Side::First)),
            _ => {}
        }
        if counters.forward.get() + counters.backward.get() != before {
            idle_since = Instant::now();
        }
        forward.note_blocking(counters.forward.get());
        backward.note_blocking(counters.backward.get());
        let half_closed = forward.is_done() || backward.is_done();
        let (limit, end) = match half_closed {
            false => (limits.idle_timeout, RelayEnd::Idle),
            true => (limits.half_close_timeout, RelayEnd::HalfCloseTimeout),
        };
        let due = [
            (Some(idle_since), limit, end),
            (forward.blocked_since, limits.second_send_timeout, RelayEnd::Stalled(Side::Second)),
            (backward.blocked_since, limits.first_send_timeout, RelayEnd::Stalled(Side::First)),
        ];
        let limited = due.into_iter().filter(|(since, limit, _)| since.is_some() && !limit.is_zero());
        let nearest =
            limited.filter_map(|(since, limit, end)| Some((since? + limit, end))).min_by_key(|(at, _)| *at);
        let Some((at, end)) = nearest else { return Poll::Pending };
        timer.poll_until(context, at).map(|()| end)
    })
    .await
}

/// Which end of a direction failed.
enum Fault {
    Read(io::Error),
    Write(io::Error),
}

impl Fault {
    fn end(self, from: Side, to: Side) -> RelayEnd {
        match self {
            Self::Read(error) => RelayEnd::Failed(from, error),
            Self::Write(error) => RelayEnd::Failed(to, error),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Bytes may still come.
    Open,
    /// The source ended; the sink's write half is to be closed.
    Ending,
    /// The end was passed on.
    Done,
}

struct Direction {
    buffer: Option<LeasedBuffer>,
    phase: Phase,
    unflushed: bool,
    /// The last read took a common buffer whole.
    is_fast: bool,
    /// Since when the sink takes nothing, and how much it had taken by then.
    blocked_since: Option<Instant>,
    taken: u64,
}

impl Direction {
    fn new(pending: Option<LeasedBuffer>) -> Self {
        Self {
            buffer: pending.filter(|buffer| !buffer.is_empty()),
            phase: Phase::Open,
            unflushed: false,
            is_fast: false,
            blocked_since: None,
            taken: 0,
        }
    }

    fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    fn holds_bulk(&self) -> bool {
        self.buffer.as_ref().is_some_and(LeasedBuffer::is_bulk)
    }

    /// Takes note, after a poll, whether bytes wait for the sink.
    fn note_blocking(&mut self, moved: u64) {
        if self.buffer.is_none() {
            self.blocked_since = None;
        } else if self.blocked_since.is_none() || moved != self.taken {
            self.blocked_since = Some(Instant::now());
        }
        self.taken = moved;
    }

    /// Moves what it can; ready when the source's end was passed on.
    fn poll<R, W>(
        &mut self,
        context: &mut Context<'_>,
        source: &mut R,
        sink: &mut W,
        pool: &BufferPool,
        moved: &Cell<u64>,
        may_grow: bool,
    ) -> Poll<Result<(), Fault>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            if self.buffer.is_some() {
                ready!(self.poll_drain(context, sink, moved)).map_err(Fault::Write)?;
            }
            match self.phase {
                Phase::Done => return Poll::Ready(Ok(())),
                Phase::Ending => {
                    ready!(Pin::new(&mut *sink).poll_shutdown(context)).map_err(Fault::Write)?;
                    self.phase = Phase::Done;
                }
                Phase::Open => {
                    match pool.poll_fill_fast(&mut self.buffer, context, source, &mut self.is_fast, may_grow)
                    {
                        Poll::Ready(Ok(0)) => self.phase = Phase::Ending,
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(Fault::Read(error))),
                        Poll::Pending => {
                            if self.unflushed {
                                ready!(Pin::new(&mut *sink).poll_flush(context)).map_err(Fault::Write)?;
                                self.unflushed = false;
                            }
                            return Poll::Pending;
                        }
                    }
                }
            }
        }
    }

    /// Writes what waits and gives the buffer back.
    fn poll_drain<W: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        sink: &mut W,
        moved: &Cell<u64>,
    ) -> Poll<io::Result<()>> {
        let Some(buffer) = &mut self.buffer else { return Poll::Ready(Ok(())) };
        while !buffer.is_empty() {
            let count = ready!(Pin::new(&mut *sink).poll_write(context, buffer))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            buffer.consume(count);
            moved.set(moved.get() + count as u64);
            self.unflushed = true;
        }
        self.buffer = None;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// Two peers and the relay's ends towards them.
    fn joined() -> (DuplexStream, DuplexStream, DuplexStream, DuplexStream) {
        let (left, near) = duplex(1 << 10);
        let (right, far) = duplex(1 << 10);
        (left, near, right, far)
    }

    #[tokio::test]
    async fn bytes_and_ends_pass_both_ways_and_no_buffer_is_kept() {
        let (mut left, mut near, mut right, mut far) = joined();
        let pool = BufferPool::default();
        let counters = RelayCounters::default();
        let mut early = pool.lease();
        early.append(b"early ");
        let pending_bytes = Pending { forward: Some(early), backward: None };
        let limits = RelayLimits::default();
        let run = relay(&mut near, &mut far, pending_bytes, &pool, limits, &counters, pending());
        let peers = async {
            left.write_all(b"hello").await.unwrap();
            let mut got = [0; 11];
            right.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"early hello");
            let mut back = Vec::new();
            let send = async {
                right.write_all(&vec![7; 100_000]).await.unwrap();
                right.shutdown().await.unwrap();
            };
            let mut limited = (&mut left).take(100_000);
            let ((), read) = tokio::join!(send, limited.read_to_end(&mut back));
            read.unwrap();
            assert_eq!(pool.lent(), 0, "an idle relay holds no buffer");
            // One side ended; the other direction still works.
            left.write_all(b"!").await.unwrap();
            left.shutdown().await.unwrap();
            let mut rest = Vec::new();
            right.read_to_end(&mut rest).await.unwrap();
            assert_eq!((back.len(), &rest[..]), (100_000, &b"!"[..]));
        };
        let (end, ()) = tokio::join!(run, peers);
        assert!(matches!(end, RelayEnd::Closed), "{end:?}");
        assert_eq!((counters.forward.get(), counters.backward.get()), (12, 100_000));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_a_dead_half_are_ended() {
        for (half_closed, expected) in [(false, "idle_timeout"), (true, "half_close_timeout")] {
            let (mut left, mut near, _right, mut far) = joined();
            if half_closed {
                left.shutdown().await.unwrap();
            }
            let pool = BufferPool::default();
            let counters = RelayCounters::default();
            let limits = RelayLimits::default();
            let end =
                relay(&mut near, &mut far, Pending::default(), &pool, limits, &counters, pending()).await;
            assert_eq!(end.reason(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_takes_nothing_is_ended_though_it_sends() {
        let (mut left, mut near, mut right, mut far) = joined();
        let pool = BufferPool::default();
        let counters = RelayCounters::default();
        let limits = RelayLimits { first_send_timeout: Duration::from_secs(5), ..RelayLimits::default() };
        let run = relay(&mut near, &mut far, Pending::default(), &pool, limits, &counters, pending());
        let peers = async {
            let flood = async {
                let _ = right.write_all(&[7; 100_000]).await;
            };
            let chatter = async {
                loop {
                    let _ = left.write_all(b"still here").await;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            tokio::join!(flood, chatter)
        };
        let end = tokio::select! { end = run => end, _ = peers => unreachable!("they never end") };
        assert_eq!(end.reason(), "client_stalled");
    }

    #[tokio::test]
    async fn a_stop_signal_ends_it() {
        let (_left, mut near, _right, mut far) = joined();
        let pool = BufferPool::default();
        let counters = RelayCounters::default();
        let limits = RelayLimits::default();
        let stop = std::future::ready(());
        let end = relay(&mut near, &mut far, Pending::default(), &pool, limits, &counters, stop).await;
        assert!(matches!(end, RelayEnd::Stopped));
    }
}
