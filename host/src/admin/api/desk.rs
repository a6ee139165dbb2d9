//! Asking the control thread about the store, and writing to it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use super::fault::Fault;
use crate::config::source::{Expect, Writer};
use crate::config::{Document, Id, Indexes, Kind, Store};
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
}

/// An object as it is written, and when it was.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) document: Arc<Document>,
    pub(super) indexes: Indexes,
}

impl Desk {
    /// A desk in the runtime this is called in. `changes` tells of every batch
    /// that was applied.
    ///
    /// # Panics
    /// Outside a runtime.
    #[must_use]
    pub fn new(questions: mpsc::Sender<Question>, changes: watch::Receiver<u64>, writer: Writer) -> Self {
        Self { questions, changes, writer, runtime: Handle::current() }
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

    /// Writes an object, or deletes it where there is no value, and waits until
    /// this node has taken that up.
    pub(super) fn write(
        &self,
        kind: Kind,
        id: &Id,
        value: Option<Value>,
        expect: Expect,
    ) -> Result<Option<Held>, Fault> {
        let before = self.held(kind, id)?.map(|held| held.document.revision);
        let writing = async {
            match value {
                Some(value) => self.writer.put(kind, id.clone(), value, expect).await.map(Some),
                None => self.writer.delete(kind, id.clone(), expect).await.map(|()| None),
            }
        };
        let late = || Fault::new(503, "the store did not answer in time; the write may still be made");
        let bounded = async { tokio::time::timeout(WRITE_TIMEOUT, writing).await };
        let written = self.runtime.block_on(bounded).map_err(|_| late())??;
        self.taken_up(kind, id, before, written)
    }

    /// Waits until what this node holds is no older than a write.
    fn taken_up(
        &self,
        kind: Kind,
        id: &Id,
        before: Option<u64>,
        written: Option<u64>,
    ) -> Result<Option<Held>, Fault> {
        let mut changes = self.changes.clone();
        let until = tokio::time::Instant::now() + TAKEN_UP_TIMEOUT;
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
