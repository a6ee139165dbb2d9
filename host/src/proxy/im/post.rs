//! Sessions of all workers: who has which, and what is asked of whom.
//!
//! A session lives on the worker that made it, whose number is in its id. A
//! request may arrive on any worker: what it asks goes to the owner through a
//! bounded channel, also when that is the same one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::proxy::SharedWorker;

use super::mailbox::{Batch, Mailbox, NotPut};
use super::translate::SharedTranslator;

/// Orders that wait for one worker; more are refused.
const ORDERS_MAX: usize = 1024;
/// Batches on their way to a stream's connection.
pub(super) const STREAM_BATCHES: usize = 4;
/// How often sessions nobody comes back to are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Where the workers' sessions are reached. One for the whole process.
#[derive(Debug, Default)]
pub struct PostOffice {
    workers: Mutex<Vec<Option<mpsc::Sender<Order>>>>,
}

impl PostOffice {
    /// Opens a worker's box.
    fn open(&self, index: usize) -> mpsc::Receiver<Order> {
        let (sender, receiver) = mpsc::channel(ORDERS_MAX);
        let mut workers = self.workers.lock();
        if workers.len() <= index {
            workers.resize(index + 1, None);
        }
        workers[index] = Some(sender);
        receiver
    }

    /// Sends an order to the worker an id names.
    pub(super) fn send(&self, id: &str, order: Order) -> Result<(), Refused> {
        let worker = worker_of(id).ok_or(Refused::Unknown)?;
        let sender = self.workers.lock().get(worker).cloned().flatten().ok_or(Refused::Unknown)?;
        sender.try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refused::Busy,
            mpsc::error::TrySendError::Closed(_) => Refused::Unknown,
        })
    }
}

/// The worker an id names: `<number>-<random>`.
fn worker_of(id: &str) -> Option<usize> {
    id.split_once('-')?.0.parse().ok()
}

/// Why nothing came of an order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// There is no such session, or the token is another's: which of the two is
    /// not told.
    Unknown,
    /// Too much waits.
    Busy,
    /// The session is over.
    Ended,
    /// The cursor was never handed out.
    Cursor,
    /// What was sent is no message; the text says why.
    Message(Vec<u8>),
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    pub(super) id: String,
    pub(super) token: String,
}

/// What is asked of a session.
#[derive(Debug)]
pub(super) enum What {
    /// To send a text message, under the client's own number if it has one.
    /// The answer says whether it was a new one.
    Send { text: Bytes, number: Option<u64>, reply: oneshot::Sender<Result<bool, Refused>> },
    /// What waits after a cursor; if there is nothing, as soon as there is.
    Receive { cursor: u64, wait: Duration, reply: oneshot::Sender<Result<Batch, Refused>> },
    /// Everything after a cursor, as it comes.
    Attach { cursor: u64, batches: mpsc::Sender<Batch>, reply: oneshot::Sender<Result<(), Refused>> },
    /// To note what the client has.
    Acknowledge { cursor: u64 },
    /// To end.
    Close { reply: oneshot::Sender<Result<(), Refused>> },
}

/// An order for a worker.
#[derive(Debug)]
pub struct Order {
    pub(super) holder: Holder,
    pub(super) what: What,
}

/// A session of this worker.
pub(super) struct Member {
    pub(super) mailbox: Rc<Mailbox>,
    pub(super) translator: SharedTranslator,
}

/// The sessions of one worker.
#[derive(Default)]
pub(super) struct Members {
    by_id: RefCell<HashMap<String, Rc<Member>>>,
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.by_id.borrow().len()
    }

    pub(super) fn insert(&self, id: String, member: Member) {
        self.by_id.borrow_mut().insert(id, Rc::new(member));
    }

    fn find(&self, holder: &Holder) -> Result<Rc<Member>, Refused> {
        let members = self.by_id.borrow();
        let member = members.get(&holder.id).ok_or(Refused::Unknown)?;
        let (own, given) = (member.mailbox.token.as_bytes(), holder.token.as_bytes());
        match aws_lc_rs::constant_time::verify_slices_are_equal(own, given) {
            Ok(()) => Ok(Rc::clone(member)),
            Err(_) => Err(Refused::Unknown),
        }
    }

    fn sweep(&self) {
        self.by_id.borrow_mut().retain(|_, member| !member.mailbox.is_over());
    }
}

/// Does what is asked of a worker's sessions, until the worker ends.
pub async fn serve(worker: SharedWorker) {
    let mut orders = worker.shared.im.open(worker.index);
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(order) => obey(&worker, order),
                None => return,
            },
            _ = sweep.tick() => worker.im.members.sweep(),
        }
    }
}

fn obey(worker: &SharedWorker, order: Order) {
    let found = worker.im.members.find(&order.holder);
    // Who asked may be gone by now; nobody else needs the answer.
    match order.what {
        What::Send { text, number, reply } => {
            let _ = reply.send(found.and_then(|member| send(&member, &text, number)));
        }
        What::Receive { cursor, wait, reply } => match found {
            Ok(member) => worker.tasks.spawn(receive(member, cursor, wait, reply)),
            Err(refused) => _ = reply.send(Err(refused)),
        },
        What::Attach { cursor, batches, reply } => {
            let member = found.and_then(|member| known(member, cursor));
            match member {
                Ok(member) => {
                    let stream = member.mailbox.attach(cursor);
                    let _ = reply.send(Ok(()));
                    worker.tasks.spawn(pump(member, stream, cursor, batches));
                }
                Err(refused) => _ = reply.send(Err(refused)),
            }
        }
        What::Acknowledge { cursor } => {
            if let Ok(member) = found.and_then(|member| known(member, cursor)) {
                member.mailbox.acknowledge(cursor);
            }
        }
        What::Close { reply } => {
            let _ = reply.send(found.map(|member| member.mailbox.close()));
        }
    }
}

fn known(member: Rc<Member>, cursor: u64) -> Result<Rc<Member>, Refused> {
    if member.mailbox.is_known(cursor) { Ok(member) } else { Err(Refused::Cursor) }
}

fn send(member: &Member, text: &[u8], number: Option<u64>) -> Result<bool, Refused> {
    member.mailbox.hear();
    if number.is_some_and(|number| !member.mailbox.is_new(number)) {
        return Ok(false);
    }
    let frame = member.translator.borrow_mut().encode(text).map_err(Refused::Message)?;
    match member.mailbox.put(frame.into(), number) {
        Ok(()) => Ok(true),
        Err(NotPut::Full) => Err(Refused::Busy),
        Err(NotPut::Ended) => Err(Refused::Ended),
    }
}

/// Answers a poll as soon as there is something, or when its time is over.
async fn receive(
    member: Rc<Member>,
    cursor: u64,
    wait: Duration,
    mut reply: oneshot::Sender<Result<Batch, Refused>>,
) {
    let mailbox = &member.mailbox;
    mailbox.hear();
    if !mailbox.is_known(cursor) {
        let _ = reply.send(Err(Refused::Cursor));
        return;
    }
    let limit = tokio::time::sleep(wait);
    tokio::pin!(limit);
    loop {
        let mut arrived = std::pin::pin!(mailbox.arrived.notified());
        arrived.as_mut().enable();
        let batch = mailbox.after(cursor);
        if !batch.is_empty() || limit.is_elapsed() {
            let _ = reply.send(Ok(batch));
            break;
        }
        tokio::select! {
            () = arrived => {}
            () = &mut limit => {}
            () = reply.closed() => break,
        }
    }
    mailbox.hear();
}

/// Hands everything to an attached stream, until it goes, another takes its
/// place or the session ends.
async fn pump(member: Rc<Member>, stream: u64, cursor: u64, batches: mpsc::Sender<Batch>) {
    let mailbox = &member.mailbox;
    let mut sent = cursor;
    loop {
        let mut arrived = std::pin::pin!(mailbox.arrived.notified());
        arrived.as_mut().enable();
        if !mailbox.is_attached(stream) {
            break;
        }
        let batch = mailbox.unsent(sent);
        if batch.is_empty() {
            tokio::select! {
                () = arrived => continue,
                () = batches.closed() => break,
            }
        }
        sent = batch.cursor;
        let is_last = batch.ended.is_some();
        if batches.send(batch).await.is_err() {
            break;
        }
        mailbox.delivered(stream, sent);
        if is_last {
            break;
        }
    }
    mailbox.detach(stream);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_its_worker() {
        assert_eq!(worker_of("3-abc"), Some(3));
        for id in ["", "abc", "-1", "x-abc", "99999999999999999999-a"] {
            assert_eq!(worker_of(id), None, "{id:?}");
        }
        let office = PostOffice::default();
        let order = || Order {
            holder: Holder { id: "7-a".into(), token: String::new() },
            what: What::Acknowledge { cursor: 1 },
        };
        assert_eq!(office.send("7-a", order()), Err(Refused::Unknown));
        let _receiver = office.open(7);
        for _ in 0..ORDERS_MAX {
            office.send("7-a", order()).unwrap();
        }
        assert_eq!(office.send("7-a", order()), Err(Refused::Busy));
    }
}
