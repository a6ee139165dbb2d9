//! The only writer of the snapshot.
//!
//! [`Control`] takes batches from the source, lets the store decide what is in
//! force, has the builder resolve what changed, and swaps the snapshot. It runs
//! on the control thread; workers learn of a new snapshot by loading it, and by
//! [`Changes`] where they must act at once (listeners, long sessions).

mod view;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};

use crate::admin::{self, Question};
use crate::config::cache::{GoodDocument, Keeper};
use crate::config::objects::ModuleRolledBack;
use crate::config::source::{Batch, Expect, Source, Stamp, Transaction, Write, WriteError, Writer};
use crate::config::{DocumentChange, Key, Kind, Store};
use crate::plugin::Ended;
use crate::proxy::Shared;
use crate::snapshot::{Builder, Built, Checker};

pub use view::{Listeners, NodeView, Phase, Remote, View};

/// Tells that a new snapshot is live; the value is its revision.
pub type Changes = watch::Receiver<u64>;

/// The control loop's state.
pub struct Control {
    source: Source,
    store: Store,
    builder: Builder,
    shared: Arc<Shared>,
    view: Arc<NodeView>,
    changed: watch::Sender<u64>,
    problems: Vec<String>,
    questions: Option<mpsc::Receiver<Question>>,
    keeper: Option<Keeper>,
    /// Objects that changed since the last snapshot went live.
    touched: BTreeSet<Key>,
    /// The state of a remote store that was read last.
    stamp: Option<Stamp>,
    /// Writes what this node decides, under its name.
    writer: Option<(Writer, String)>,
}

impl Control {
    /// A control loop that has not read anything yet. Subscribers of `changed`
    /// are told of every snapshot.
    #[must_use]
    pub fn new(
        source: Source,
        builder: Builder,
        shared: Arc<Shared>,
        view: Arc<NodeView>,
        changed: watch::Sender<u64>,
        checker: Checker,
    ) -> Self {
        let store = Store::new(Box::new(move |object, problems| checker.check(object, problems)));
        Self {
            source,
            store,
            builder,
            shared,
            view,
            changed,
            problems: Vec::new(),
            keeper: None,
            touched: BTreeSet::new(),
            stamp: None,
            questions: None,
            writer: None,
        }
    }

    /// Writes to the store what this node decides: that a version is taken back.
    #[must_use]
    pub fn writing(mut self, writer: Writer, node: &str) -> Self {
        self.writer = Some((writer, node.to_owned()));
        self
    }

    /// Has the state in force kept on disk with every change.
    #[must_use]
    pub fn keeping(mut self, keeper: Option<Keeper>) -> Self {
        self.keeper = keeper;
        self
    }

    /// Answers questions about the configuration, between batches.
    #[must_use]
    pub fn answering(mut self, questions: mpsc::Receiver<Question>) -> Self {
        self.questions = Some(questions);
        self
    }

    /// Applies batches until the source ends; `on_built` is told of each, on
    /// this thread, after the swap. Cancel-safe between batches.
    pub async fn run(mut self, mut on_built: impl FnMut(&Built)) {
        let mut is_first = true;
        let mut held: Option<Built> = None;
        loop {
            let question = async {
                match &mut self.questions {
                    Some(questions) => questions.recv().await,
                    None => std::future::pending().await,
                }
            };
            let mut built = tokio::select! {
                // Batches first: who has written asks about what was written.
                biased;
                batch = self.source.next() => match batch {
                    Some(batch) => self.apply(batch),
                    None => return,
                },
                id = self.builder.modules().changed() => self.builder.module_changed(&self.store, &id),
                question = question => {
                    match question {
                        Some(question) => question(&self.store, &self.builder),
                        None => self.questions = None,
                    }
                    continue;
                }
            };
            for ended in self.builder.modules().take_ended() {
                self.take_back(ended);
            }
            // Routes without their modules are not there, and global rules
            // without theirs let pass what they should not: the first snapshot
            // waits for all that can be had.
            if let Some(held) = held.take() {
                built.follow(held);
            }
            if is_first && self.builder.modules().is_preparing() {
                held = Some(built);
                continue;
            }
            is_first = false;
            self.publish(&built);
            on_built(&built);
        }
    }

    /// Writes into a module's object that its trial has ended, so that the other
    /// nodes end it as well, and a restart does not begin it again.
    fn take_back(&self, ended: Ended) {
        let Some((writer, node)) = self.writer.clone() else { return };
        let Some(document) = self.store.document(Kind::Modules, &ended.id) else { return };
        let mut value = document.value.clone();
        let at = ended.end.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let at = i64::try_from(at).ok();
        let (why, exchanges) = (ended.end.why, ended.end.exchanges);
        let back = ModuleRolledBack { node: node.clone(), at, why, exchanges };
        let Ok(back) = serde_json::to_value(&back) else { return };
        // Another version may be tried by now.
        let canary = value.get_mut("canary").filter(|canary| canary["version"] == *ended.version);
        let Some(serde_json::Value::Object(canary)) = canary else { return };
        canary.insert("rolled_back".to_owned(), back);
        if value.get("update_time").is_some() {
            value["update_time"] = serde_json::json!(at);
        }
        let key = (Kind::Modules, &ended.id);
        let record = admin::own_change(&node, "rollback", key, &document.value, &value);
        let records = record.into_iter().map(|(name, bytes)| (name, Some(bytes))).collect();
        let expect = match document.revision {
            0 => Expect::Any,
            revision => Expect::Revision(revision),
        };
        let write = Write { kind: Kind::Modules, id: ended.id.clone(), value: Some(value), expect };
        tokio::spawn(async move {
            let (module, version) = (&ended.id, &ended.version);
            match insist(&writer, Transaction { writes: vec![write], records }).await {
                Ok(()) => tracing::info!(%module, version, "the object says that the version is taken back"),
                Err(error) => tracing::warn!(%module, version, %error,
                    "the object cannot be changed; the version is taken back on this node alone"),
            }
        });
    }

    fn apply(&mut self, batch: Batch) -> Built {
        let started = Instant::now();
        let problems: Vec<String> = batch.problems.iter().map(ToString::to_string).collect();
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            tracing::warn!(%problem, "the store has something that is no object");
        }
        self.problems = problems;
        let now = SystemTime::now();
        let known: HashMap<Key, SystemTime> =
            self.store.quarantined().map(|(key, quarantine, _)| (key.clone(), quarantine.since)).collect();
        self.touched.extend(batch.changes.iter().map(DocumentChange::key));
        self.stamp = batch.stamp;
        let changes = self.store.apply(batch.changes, now);
        self.touched.extend(changes.iter().map(|change| (change.kind, change.id.clone())));
        for (key, quarantine, live) in self.store.quarantined() {
            if known.get(key) == Some(&quarantine.since) {
                continue;
            }
            for problem in &quarantine.problems {
                tracing::warn!(
                    object = %format_args!("{}/{}", key.0, key.1),
                    origin = %quarantine.origin,
                    last_good = live.is_some(),
                    %problem,
                    "object is quarantined"
                );
            }
        }
        let built = self.builder.apply(&self.store, &changes);
        tracing::info!(
            changes = changes.len(),
            micros = started.elapsed().as_micros() as u64,
            "configuration read"
        );
        built
    }

    /// Makes a snapshot the live one, and shows it.
    fn publish(&mut self, built: &Built) {
        for (key, warning) in &built.warnings {
            tracing::warn!(object = %format_args!("{}/{}", key.0, key.1), "{warning}");
        }
        let revision = built.snapshot.revision;
        self.shared.snapshot.store(Arc::clone(&built.snapshot));
        let now = SystemTime::now();
        let view = View::of(&self.store, &self.builder, &self.problems, revision, now).stamped(self.stamp);
        let touched = std::mem::take(&mut self.touched);
        self.note_good(touched, self.stamp);
        self.view.publish(view, &built.upstreams);
        self.changed.send_replace(revision);
        tracing::info!(
            revision,
            rebuilt = built.rebuilt,
            quarantined = self.store.quarantined().count() + self.builder.failed().len(),
            "configuration applied"
        );
    }

    /// Shows and keeps which versions of these objects are in force.
    fn note_good(&self, touched: BTreeSet<Key>, stamp: Option<Stamp>) {
        let good: Vec<GoodDocument> = touched
            .into_iter()
            .map(|key| {
                let document = self.store.good_document(key.0, &key.1).cloned();
                (key, document)
            })
            .collect();
        self.view.note_in_force(&good);
        if let (Some(keeper), Some(stamp)) = (&self.keeper, stamp) {
            keeper.keep(stamp, good);
        }
    }
}

/// How often a write is tried while the store is away, and the longest pause
/// between two tries: for an hour, about.
const TRIES_MAX: u32 = 64;
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Writes once the store is there. Whoever changed the object meanwhile has
/// decided otherwise, or the same, and it is left at that.
async fn insist(writer: &Writer, transaction: Transaction) -> Result<(), WriteError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match writer.transact(transaction.clone()).await {
            Ok(_) => return Ok(()),
            Err(WriteError::Unavailable(_) | WriteError::Unknown(_) | WriteError::Busy)
                if tries < TRIES_MAX =>
            {
                tokio::time::sleep(PAUSE_MAX.min(Duration::from_secs(tries.into()))).await;
            }
            Err(error) => return Err(error),
        }
    }
}
