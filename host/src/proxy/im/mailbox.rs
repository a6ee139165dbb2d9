//! A session's two queues: what its client sent, and what waits for it.
//!
//! What waits is numbered by a cursor and kept until the client acknowledges
//! it, within limits; what passes them is gone, and the client is told which
//! part. Belongs to one worker, so nothing is locked. The session behind it is
//! in `mail`, what clients ask of it in `sessions`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::objects::SessionsConf;

/// Bytes of frames that wait for the upstream before more are refused.
const INBOX_BYTES_MAX: usize = 256 * 1024;
/// Bytes and messages of one answer to a poll, and of one piece of a stream.
const BATCH_BYTES_MAX: usize = 256 * 1024;
const BATCH_MESSAGES_MAX: usize = 256;

/// The queues of one session.
#[derive(Debug)]
pub(super) struct Mailbox {
    /// Proves that who asks is the client.
    pub(super) token: Box<str>,
    conf: SessionsConf,
    inner: RefCell<Inner>,
    /// Something new waits, or the session ended.
    pub(super) arrived: Notify,
}

#[derive(Debug)]
struct Inner {
    inbox: VecDeque<Bytes>,
    inbox_bytes: usize,
    history: VecDeque<Item>,
    history_bytes: usize,
    /// The cursor of the newest message.
    newest: u64,
    /// The newest message that was given up although nobody acknowledged it.
    given_up: u64,
    /// What was handed to a stream that is attached.
    delivered: u64,
    /// The highest number of a message the client numbered.
    number: u64,
    heard: Instant,
    /// Streams that were attached so far; the last one is the one that counts.
    streams: u64,
    is_attached: bool,
    is_closing: bool,
    ended: Option<&'static str>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug, Clone)]
struct Item {
    cursor: u64,
    at: Instant,
    text: Bytes,
}

/// What a client gets of what waits.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    /// Messages after this cursor and up to the second one are lost.
    pub(super) gap: Option<(u64, u64)>,
    /// The messages with their cursors.
    pub(super) messages: Vec<(u64, Bytes)>,
    /// The cursor to go on from.
    pub(super) cursor: u64,
    /// Why the session ended, once nothing more will come.
    pub(super) ended: Option<&'static str>,
}

impl Batch {
    /// Whether there is anything to tell.
    pub(super) fn is_empty(&self) -> bool {
        self.gap.is_none() && self.messages.is_empty() && self.ended.is_none()
    }
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotPut {
    /// Too much waits for the upstream.
    Full,
    /// The session ended.
    Ended,
}

impl Mailbox {
    pub(super) fn new(token: &str, conf: SessionsConf) -> Self {
        Self {
            token: token.into(),
            conf,
            inner: RefCell::new(Inner {
                inbox: VecDeque::new(),
                inbox_bytes: 0,
                history: VecDeque::new(),
                history_bytes: 0,
                newest: 0,
                given_up: 0,
                delivered: 0,
                number: 0,
                heard: Instant::now(),
                streams: 0,
                is_attached: false,
                is_closing: false,
                ended: None,
                reader: None,
                writer: None,
            }),
            arrived: Notify::new(),
        }
    }

    /// The client was heard.
    pub(super) fn hear(&self) {
        self.inner.borrow_mut().heard = Instant::now();
    }

    /// When the client was last heard; one that is attached is heard all the time.
    pub(super) fn heard(&self) -> Instant {
        let inner = self.inner.borrow();
        if inner.is_attached { Instant::now() } else { inner.heard }
    }

    /// How long the session lives without its client.
    pub(super) fn idle_timeout(&self) -> Duration {
        self.conf.idle_timeout
    }

    /// Whether a message with this number of the client's is new.
    pub(super) fn is_new(&self, number: u64) -> bool {
        number > self.inner.borrow().number
    }

    /// Puts a frame among those to be sent, under the client's own number if it
    /// has one.
    pub(super) fn put(&self, frame: Bytes, number: Option<u64>) -> Result<(), NotPut> {
        let mut inner = self.inner.borrow_mut();
        if inner.ended.is_some() || inner.is_closing {
            return Err(NotPut::Ended);
        }
        if inner.inbox_bytes + frame.len() > INBOX_BYTES_MAX && !inner.inbox.is_empty() {
            return Err(NotPut::Full);
        }
        inner.number = number.unwrap_or(0).max(inner.number);
        inner.inbox_bytes += frame.len();
        inner.inbox.push_back(frame);
        if let Some(reader) = inner.reader.take() {
            reader.wake();
        }
        Ok(())
    }

    /// The next frame for the upstream; `None` once the client closed.
    pub(super) fn poll_take(&self, context: &Context<'_>) -> Poll<Option<Bytes>> {
        let mut inner = self.inner.borrow_mut();
        if let Some(frame) = inner.inbox.pop_front() {
            inner.inbox_bytes -= frame.len();
            return Poll::Ready(Some(frame));
        }
        if inner.is_closing {
            return Poll::Ready(None);
        }
        inner.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// Whether a message may be added now: a client that is attached and does
    /// not take what waits is waited for, one that is away is not.
    pub(super) fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        let mut inner = self.inner.borrow_mut();
        let behind: usize = match inner.is_attached {
            false => return Poll::Ready(()),
            true => {
                let delivered = inner.delivered;
                let late = inner.history.iter().rev().take_while(|item| item.cursor > delivered);
                late.map(|item| item.text.len()).sum()
            }
        };
        if behind <= self.conf.history_bytes as usize / 2 {
            return Poll::Ready(());
        }
        inner.writer = Some(context.waker().clone());
        Poll::Pending
    }

    /// Adds a message for the client; the oldest go where the limits ask for it.
    pub(super) fn add(&self, text: Bytes) {
        let now = Instant::now();
        let mut inner = self.inner.borrow_mut();
        inner.newest += 1;
        inner.history_bytes += text.len();
        let item = Item { cursor: inner.newest, at: now, text };
        inner.history.push_back(item);
        inner.trim(&self.conf, now);
        drop(inner);
        self.arrived.notify_waiters();
    }

    /// What comes after `cursor`, which acknowledges everything up to it.
    pub(super) fn after(&self, cursor: u64) -> Batch {
        self.inner.borrow_mut().acknowledge(cursor);
        self.unsent(cursor)
    }

    /// What comes after `cursor`, which acknowledges nothing.
    pub(super) fn unsent(&self, cursor: u64) -> Batch {
        let mut inner = self.inner.borrow_mut();
        inner.trim(&self.conf, Instant::now());
        let gap = (inner.given_up > cursor).then_some((cursor, inner.given_up));
        let mut batch = Batch { gap, cursor: cursor.max(inner.given_up), ..Batch::default() };
        let mut bytes = 0;
        for item in inner.history.iter().filter(|item| item.cursor > cursor) {
            let is_full =
                bytes + item.text.len() > BATCH_BYTES_MAX || batch.messages.len() >= BATCH_MESSAGES_MAX;
            if is_full && !batch.messages.is_empty() {
                break;
            }
            bytes += item.text.len();
            batch.messages.push((item.cursor, item.text.clone()));
            batch.cursor = item.cursor;
        }
        if batch.cursor >= inner.newest {
            batch.ended = inner.ended;
        }
        batch
    }

    /// Whether the cursor is one that was handed out.
    pub(super) fn is_known(&self, cursor: u64) -> bool {
        cursor <= self.inner.borrow().newest
    }

    /// The client has everything up to this cursor.
    pub(super) fn acknowledge(&self, cursor: u64) {
        self.inner.borrow_mut().acknowledge(cursor);
    }

    /// Attaches a stream in place of any before; what it got is told by
    /// [`delivered`](Self::delivered). Returns its number.
    pub(super) fn attach(&self, cursor: u64) -> u64 {
        let mut inner = self.inner.borrow_mut();
        inner.streams += 1;
        inner.is_attached = true;
        inner.delivered = cursor;
        let number = inner.streams;
        drop(inner);
        // The stream before, if there is one, sees that it no longer counts.
        self.arrived.notify_waiters();
        number
    }

    /// Whether this stream is the one that counts.
    pub(super) fn is_attached(&self, stream: u64) -> bool {
        let inner = self.inner.borrow();
        inner.is_attached && inner.streams == stream
    }

    /// The attached stream took everything up to this cursor.
    pub(super) fn delivered(&self, stream: u64, cursor: u64) {
        let mut inner = self.inner.borrow_mut();
        if inner.streams == stream {
            inner.delivered = cursor;
            inner.heard = Instant::now();
            if let Some(writer) = inner.writer.take() {
                writer.wake();
            }
        }
    }

    /// The stream is gone; the session lives on for a while.
    pub(super) fn detach(&self, stream: u64) {
        let mut inner = self.inner.borrow_mut();
        if inner.streams == stream && inner.is_attached {
            inner.is_attached = false;
            inner.heard = Instant::now();
            let wakers = [inner.writer.take(), inner.reader.take()];
            drop(inner);
            wakers.into_iter().flatten().for_each(Waker::wake);
        }
    }

    /// The client closes the session.
    pub(super) fn close(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.is_closing = true;
        if let Some(reader) = inner.reader.take() {
            reader.wake();
        }
    }

    /// The session is over; what waits can still be fetched.
    pub(super) fn end(&self, reason: &'static str) {
        let mut inner = self.inner.borrow_mut();
        inner.ended.get_or_insert(reason);
        inner.inbox.clear();
        inner.heard = Instant::now();
        drop(inner);
        self.arrived.notify_waiters();
    }

    /// Whether nobody will come for what is left: it ended and its time is over.
    pub(super) fn is_over(&self) -> bool {
        let inner = self.inner.borrow();
        inner.ended.is_some() && (inner.is_closing || inner.heard.elapsed() >= self.conf.idle_timeout)
    }
}

impl Inner {
    fn acknowledge(&mut self, cursor: u64) {
        while self.history.front().is_some_and(|item| item.cursor <= cursor)
            && let Some(item) = self.history.pop_front()
        {
            self.history_bytes -= item.text.len();
        }
    }

    fn trim(&mut self, conf: &SessionsConf, now: Instant) {
        while let Some(oldest) = self.history.front() {
            let is_over = self.history.len() > conf.history_messages as usize
                || (self.history_bytes > conf.history_bytes as usize && self.history.len() > 1)
                || oldest.at + conf.history_time <= now;
            if !is_over {
                break;
            }
            self.given_up = self.given_up.max(oldest.cursor);
            self.history_bytes -= oldest.text.len();
            self.history.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox(messages: u32, bytes: u32) -> Mailbox {
        let conf =
            SessionsConf { history_messages: messages, history_bytes: bytes, ..SessionsConf::default() };
        Mailbox::new("token", conf)
    }

    fn cursors(batch: &Batch) -> Vec<u64> {
        batch.messages.iter().map(|(cursor, _)| *cursor).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_acknowledged_comes_again_and_what_is_does_not() {
        let own = mailbox(10, 1000);
        (0..4).for_each(|_| own.add("x".into()));
        assert_eq!(cursors(&own.after(0)), [1, 2, 3, 4]);
        assert_eq!(cursors(&own.after(0)), [1, 2, 3, 4], "a lost answer is asked for again");
        assert_eq!(cursors(&own.after(3)), [4]);
        let batch = own.after(4);
        assert!(batch.is_empty() && batch.cursor == 4);
        assert!(own.is_known(4) && !own.is_known(5));
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_a_limit_is_told_as_a_gap() {
        let own = mailbox(3, 1000);
        (0..5).for_each(|_| own.add("x".into()));
        let batch = own.after(1);
        assert_eq!((batch.gap, cursors(&batch)), (Some((1, 2)), vec![3, 4, 5]));
        assert_eq!(own.after(2).gap, None, "a client that has seen what went misses nothing");

        let own = mailbox(100, 10);
        (0..5).for_each(|_| own.add("12345".into()));
        let batch = own.after(0);
        assert_eq!((batch.gap, cursors(&batch)), (Some((0, 3)), vec![4, 5]));

        let own = mailbox(100, 1000);
        own.add("old".into());
        tokio::time::advance(Duration::from_secs(601)).await;
        own.add("new".into());
        let batch = own.after(0);
        assert_eq!((batch.gap, cursors(&batch)), (Some((0, 1)), vec![2]));
    }

    #[tokio::test(start_paused = true)]
    async fn the_upstream_waits_for_a_client_that_is_there_and_not_for_one_that_is_away() {
        let own = mailbox(100, 100);
        let room = |own: &Mailbox| own.poll_room(&Context::from_waker(Waker::noop())).is_ready();
        let stream = own.attach(0);
        (0..6).for_each(|_| own.add("1234567890".into()));
        assert!(!room(&own));
        own.delivered(stream, 6);
        assert!(room(&own));
        (0..6).for_each(|_| own.add("1234567890".into()));
        assert!(!room(&own));
        own.detach(stream);
        assert!(room(&own));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_sent_twice_under_one_number_counts_once() {
        let own = mailbox(10, 1000);
        assert!(own.is_new(1));
        own.put("a".into(), Some(1)).unwrap();
        assert!(!own.is_new(1) && own.is_new(2));
        own.end("drained");
        assert_eq!(own.put("b".into(), None), Err(NotPut::Ended));
        assert_eq!(own.after(0).ended, Some("drained"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_the_upstream_is_bounded() {
        let own = mailbox(10, 1000);
        let frame = Bytes::from(vec![0; 100_000]);
        assert_eq!((0..3).filter(|_| own.put(frame.clone(), None).is_ok()).count(), 2);
        assert_eq!(own.put(frame, None), Err(NotPut::Full));
    }
}
