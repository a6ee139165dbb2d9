//! Asking the control thread about the store, and writing to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use super::fault::Fault;
use super::history::{Change, Changed, Kept};
use super::read::failure;
use crate::config::source::{Area, Expect, RecordName, Transaction, Write, WriteError, Writer};
use crate::config::{Document, Id, Indexes, Kind, Problem, Store};
use crate::snapshot::Builder;

/// What the control thread is asked between two batches. It must be quick.
pub type Question = Box<dyn FnOnce(&Store, &Builder) + Send>;

/// Questions that wait for the control thread; then who asks waits.
pub const QUESTIONS_MAX: usize = 64;

/// How long a write may take until this node has taken it up, before it is
/// answered all the same.
const TAKEN_UP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the store may take to write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The way from the Admin API's threads to the control thread and the store.
/// Its methods wait; they are not for the control thread itself.
pub struct Desk {
    questions: mpsc::Sender<Question>,
    changes: watch::Receiver<u64>,
    writer: Writer,
    runtime: Handle,
    /// The most changes that are kept; the oldest go first.
    pub(super) history_max: usize,
    /// The number of the last change made here.
    last_change: AtomicU64,
    /// What is known of the history; nothing before the first change, and after one
    /// that was not made.
    pub(super) kept: Mutex<Option<Kept>>,
}

/// An object as it is written, and when it was.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) document: Arc<Document>,
    pub(super) indexes: Indexes,
}

/// One object of a change that is to be made.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) kind: Kind,
    pub(super) id: Id,
    /// Its fields; none deletes it.
    pub(super) value: Option<Value>,
    /// What is there now.
    pub(super) before: Option<Held>,
    pub(super) expect: Expect,
}

impl Desk {
    /// A desk in the runtime this is called in. `changes` tells of every batch
    /// that was applied; of its own it keeps the last `history_max`.
    ///
    /// # Panics
    /// Outside a runtime.
    #[must_use]
    pub fn new(
        questions: mpsc::Sender<Question>,
        changes: watch::Receiver<u64>,
        writer: Writer,
        history_max: usize,
    ) -> Self {
        Self {
            questions,
            changes,
            writer,
            runtime: Handle::current(),
            history_max,
            last_change: AtomicU64::new(0),
            kept: Mutex::new(None),
        }
    }

    /// Asks the control thread.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Store, &Builder) -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let gone = || Fault::new(503, "the node is ending");
        let (reply, answer) = oneshot::channel();
        let question: Question = Box::new(move |store, builder| {
            // Who asked may have given up.
            let _ = reply.send(question(store, builder));
        });
        self.questions.blocking_send(question).map_err(|_| gone())?;
        answer.blocking_recv().map_err(|_| gone())
    }

    /// An object as it is written.
    pub(super) fn held(&self, kind: Kind, id: &Id) -> Result<Option<Held>, Fault> {
        let id = id.clone();
        self.ask(move |store, _| held(store, kind, &id))
    }

    /// Writes objects together with the record of the change, all or nothing, and
    /// waits until this node has taken them up. Gives the number of the change and
    /// the objects as they are then.
    pub(super) fn write_all(
        &self,
        by: &str,
        action: &str,
        planned: Vec<Planned>,
    ) -> Result<(u64, Vec<Option<Held>>), Fault> {
        let changed = planned.iter().map(|one| {
            let before = one.before.as_ref().map(|held| &held.document.value);
            Changed::new(one.kind, &one.id, before, one.value.as_ref())
        });
        let change = Change::now(by, action, changed.collect(), self.last_change.load(Ordering::Relaxed));
        let number = change.id;
        self.last_change.fetch_max(number, Ordering::Relaxed);
        let (name, bytes) = change.record()?;
        let mut records = vec![(name, Some(bytes))];
        records.extend(self.forgotten(number)?.into_iter().map(|name| (name, None)));
        let writes = planned.iter().map(|one| Write {
            kind: one.kind,
            id: one.id.clone(),
            value: one.value.clone(),
            expect: one.expect,
        });
        let transaction = Transaction { writes: writes.collect(), records };
        let written = self.wait(self.writer.transact(transaction));
        let revisions = written.inspect_err(|_| *self.kept.lock() = None)?;
        let until = tokio::time::Instant::now() + TAKEN_UP_TIMEOUT;
        let mut held = Vec::new();
        for (one, revision) in planned.iter().zip(revisions) {
            tracing::info!(by, action, object = %format_args!("{}/{}", one.kind, one.id), "changed by the Admin API");
            let before = one.before.as_ref().map(|held| held.document.revision);
            let written = one.value.is_some().then_some(revision);
            held.push(self.taken_up(one, before, written, until)?);
        }
        Ok((number, held))
    }

    /// Waits until it is known what a write means, within [`TAKEN_UP_TIMEOUT`]; then
    /// why the object is not live, and what a change of it since `began` breaks for
    /// clients.
    pub(super) fn outcome(
        &self,
        kind: Kind,
        id: &Id,
        began: SystemTime,
    ) -> Result<(Option<Vec<Problem>>, Vec<String>), Fault> {
        let until = tokio::time::Instant::now() + TAKEN_UP_TIMEOUT;
        let mut changes = self.changes.clone();
        loop {
            changes.borrow_and_update();
            let key = (kind, id.clone());
            let (is_comparing, why, breaking) = self.ask(move |store, builder| {
                let why = failure(builder, kind, &key.1);
                (builder.is_comparing(store, &key), why, builder.breaking_since(store, &key, began))
            })?;
            let changed = async { tokio::time::timeout_at(until, changes.changed()).await };
            if !is_comparing || !matches!(self.runtime.block_on(changed), Ok(Ok(()))) {
                return Ok((why, breaking));
            }
        }
    }

    /// A record's bytes.
    pub(super) fn record(&self, name: RecordName) -> Result<Option<Vec<u8>>, Fault> {
        self.wait(self.writer.record(name))
    }

    /// The names of an area's records.
    pub(super) fn records(&self, area: Area) -> Result<Vec<RecordName>, Fault> {
        self.wait(self.writer.records(area, ""))
    }

    /// What writes to the store, and reads what it does not tell of.
    pub(super) fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Waits for the store, for a time.
    pub(super) fn wait<T>(&self, asked: impl Future<Output = Result<T, WriteError>>) -> Result<T, Fault> {
        let late = || Fault::new(503, "the store did not answer in time; a write may still be made");
        let bounded = async { tokio::time::timeout(WRITE_TIMEOUT, asked).await };
        Ok(self.runtime.block_on(bounded).map_err(|_| late())??)
    }

    /// Waits until what this node holds is no older than a write.
    fn taken_up(
        &self,
        one: &Planned,
        before: Option<u64>,
        written: Option<u64>,
        until: tokio::time::Instant,
    ) -> Result<Option<Held>, Fault> {
        let (kind, id) = (one.kind, &one.id);
        let mut changes = self.changes.clone();
        loop {
            changes.borrow_and_update();
            let held = self.held(kind, id)?;
            let now = held.as_ref().map(|held| held.document.revision);
            if now == written || now != before {
                return Ok(held);
            }
            let changed =
                self.runtime.block_on(async { tokio::time::timeout_at(until, changes.changed()).await });
            if !matches!(changed, Ok(Ok(()))) {
                tracing::warn!(object = %format_args!("{kind}/{id}"), "a write was made and is not taken up yet");
                return Ok(held);
            }
        }
    }
}

/// An object as it is written.
pub(super) fn held(store: &Store, kind: Kind, id: &Id) -> Option<Held> {
    let document = Arc::clone(store.document(kind, id)?);
    Some(Held { document, indexes: store.indexes(kind, id) })
}
