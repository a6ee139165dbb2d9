//! The life of a source: a session after the other, each with the next member.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use etcd_client::{WatchRequestSender, WatchResponse};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::backoff::{Backoff, random};
use super::mirror::Mirror;
use super::pace::Pace;
use super::purpose;
use super::session::{Connection, Entry, Lost};
use super::{KeptState, Link};
use crate::config::source::{Batch, Stamp};
use crate::config::{DocumentChange, DocumentError, Key};

/// How often a member is asked how far it is: an answer shows that it lives.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// A session that lived this long was good: what ends it is no failure to wait for.
const SESSION_GOOD: Duration = Duration::from_secs(10);
/// Reasons that the log tells of until the store is read again.
const REASONS_MAX: usize = 64;
/// Events that wait to be told; then no more are read until they are.
const EVENTS_MAX: usize = 200_000;
/// Bytes of events that wait to be told; then no more are read until they are.
const EVENT_BYTES_MAX: usize = 256 * 1024 * 1024;

pub(super) struct Worker {
    link: Arc<Link>,
    batches: mpsc::Sender<Batch>,
    kept: Option<KeptState>,
    mirror: Mirror,
    problems: Vec<DocumentError>,
    /// The cluster that was read last; 0 before.
    cluster: u64,
    /// The highest revision that was told.
    revision: u64,
    /// Members of another cluster, one after the other.
    foreign: usize,
    /// Whether what was told is the kept state.
    is_kept: bool,
    /// Why the store could not be read since it was read last.
    reasons: HashSet<String>,
}

/// Why a session is over.
enum End {
    /// Nobody takes batches any more.
    Closed,
    /// The member could not be used, or no longer.
    Lost(Lost),
}

/// Events that came and were not told yet.
#[derive(Default)]
struct Gathered {
    events: Vec<Entry>,
    bytes: usize,
    /// The highest revision that was heard of.
    revision: u64,
}

impl Gathered {
    fn is_full(&self) -> bool {
        self.events.len() >= EVENTS_MAX || self.bytes >= EVENT_BYTES_MAX
    }
}

impl Worker {
    pub(super) fn new(link: Arc<Link>, batches: mpsc::Sender<Batch>, kept: Option<KeptState>) -> Self {
        let mirror = Mirror::new(link.options.root(), link.options.sealer.clone());
        let (cluster, revision) = kept.as_ref().map_or((0, 0), |kept| (kept.cluster, kept.revision));
        Self {
            link,
            batches,
            kept,
            mirror,
            problems: Vec::new(),
            cluster,
            revision,
            foreign: 0,
            is_kept: false,
            reasons: HashSet::new(),
        }
    }

    /// Lives until nobody takes batches any more.
    pub(super) async fn run(mut self) {
        let endpoints = self.link.options.endpoints.clone();
        // A fleet does not begin with one member.
        let mut next = random() as usize % endpoints.len();
        let mut failures = 0;
        let mut backoff = Backoff::default();
        loop {
            let begun = Instant::now();
            let end = self.session(&endpoints[next]).await;
            self.link.client.send_replace(None);
            let End::Lost(lost) = end else { return };
            next = (next + 1) % endpoints.len();
            if begun.elapsed() > SESSION_GOOD {
                backoff.reset();
                failures = 0;
            }
            failures += 1;
            self.note_lost(&lost);
            if self.begin_with_kept().await.is_err() {
                return;
            }
            // The others are tried at once; a round that failed is waited for.
            if failures % endpoints.len() == 0 {
                sleep(backoff.next(random())).await;
            }
        }
    }

    /// Reads one member as long as it can be read.
    async fn session(&mut self, endpoint: &str) -> End {
        match self.begin_session(endpoint).await {
            Err(end) => end,
            Ok((connection, listed)) => match self.follow(&connection, listed).await {
                Ok(()) => End::Closed,
                Err(lost) => End::Lost(lost),
            },
        }
    }

    async fn begin_session(&mut self, endpoint: &str) -> Result<(Connection, u64), End> {
        let connection = Connection::open(&self.link.options, endpoint).await.map_err(End::Lost)?;
        let listed = self.list(&connection).await.map_err(End::Lost)?;
        let Some(listed) = listed else { return Err(End::Closed) };
        Ok((connection, listed))
    }

    /// Lists everything and tells what is different; gives the revision of the
    /// listing, `None` when nobody takes batches any more.
    async fn list(&mut self, connection: &Connection) -> Result<Option<u64>, Lost> {
        let listing = connection.list(&self.link.options.root()).await?;
        let is_foreign = self.cluster != 0 && listing.cluster != self.cluster;
        if is_foreign && self.foreign < self.link.options.endpoints.len() {
            self.foreign += 1;
            let (other, known) = (listing.cluster, self.cluster);
            return Err(Lost(format!(
                "{} is of cluster {other:x}, not of {known:x} as before",
                connection.endpoint
            )));
        }
        if is_foreign {
            tracing::warn!(endpoint = %connection.endpoint, cluster = %format_args!("{:x}", listing.cluster),
                "every member is of another cluster than before: it is read from now on");
        } else if listing.revision < self.revision {
            tracing::warn!(endpoint = %connection.endpoint, revision = listing.revision, before = self.revision,
                "the revision went back: the store was restored; what it holds now is taken");
        }
        (self.cluster, self.revision, self.foreign) = (listing.cluster, listing.revision, 0);
        let is_first = self.is_kept || *self.link.told.borrow() == 0;
        self.is_kept = false;
        let mut changes: BTreeMap<Key, DocumentChange> = BTreeMap::new();
        if let Some(kept) = self.kept.take() {
            // Also what was emptied while this node was away stays in force.
            changes.extend(by_key(self.mirror.begin_with(kept.documents)));
        }
        changes.extend(by_key(self.mirror.list(listing.entries, Instant::now())));
        changes.extend(by_key(self.deleted_on_purpose(connection).await));
        let changes: Vec<DocumentChange> = changes.into_values().collect();
        tracing::info!(endpoint = %connection.endpoint, revision = listing.revision, changes = changes.len(),
            "the etcd store was listed");
        if self.tell(changes, if is_first { Telling::Whole } else { Telling::Difference }).await.is_err() {
            return Ok(None);
        }
        {
            let mut state = self.link.state.lock();
            state.endpoint = Some(connection.endpoint.clone());
            state.cluster = listing.cluster;
            (state.stale, state.cached) = (None, None);
        }
        self.reasons.clear();
        self.link.client.send_replace(Some(connection.clone()));
        Ok(Some(listing.revision))
    }

    /// Watches from after a listing on; ends when that cannot go on, or well
    /// when nobody takes batches any more.
    async fn follow(&mut self, connection: &Connection, listed: u64) -> Result<(), Lost> {
        let root = self.link.options.root();
        let (mut sender, mut stream) = connection.watch(&root, listed + 1).await?;
        let mut gathered = Gathered { revision: listed, ..Gathered::default() };
        let mut pace = Pace::new(Instant::now());
        let mut ticks = interval(PROGRESS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            let due = [pace.due(), self.mirror.due()].into_iter().flatten().min();
            tokio::select! {
                message = stream.message(), if !gathered.is_full() => {
                    heard = Instant::now();
                    let message = message.map_err(|error| Lost::of("watching", &error))?;
                    let message = message.ok_or_else(|| Lost("the watch has ended".to_owned()))?;
                    if take_message(&message, &mut gathered)? {
                        pace.heard(heard);
                    } else if pace.due().is_none() {
                        self.note_revision(gathered.revision);
                    }
                }
                _ = ticks.tick() => {
                    let silent = heard.elapsed();
                    if silent > self.link.options.timeout && !gathered.is_full() {
                        return Err(Lost(format!("{} has been silent for {silent:?}", connection.endpoint)));
                    }
                    ask_progress(&mut sender).await?;
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && self.batches.capacity() > 0 => {
                    let events = std::mem::take(&mut gathered.events);
                    gathered.bytes = 0;
                    let now = Instant::now();
                    pace.told(now);
                    let mut changes = self.mirror.take(events, now);
                    changes.extend(self.deleted_on_purpose(connection).await);
                    changes.extend(self.mirror.release(now));
                    self.revision = self.revision.max(gathered.revision);
                    if self.tell(changes, Telling::Difference).await.is_err() {
                        return Ok(());
                    }
                    // The control thread may have taken its time.
                    heard = Instant::now();
                }
                () = sleep(Duration::from_millis(2)), if due.is_some() && self.batches.capacity() == 0 => {
                    // The control thread is at the batch before: more gathers.
                }
                () = self.batches.closed() => return Ok(()),
                () = self.link.reread.notified() => return Err(Lost("everything is to be read again".to_owned())),
            }
        }
    }

    /// Lets the objects go that went all at once, where changes tell of it. Where
    /// that cannot be found out they stay, and the next listing asks again.
    async fn deleted_on_purpose(&mut self, connection: &Connection) -> Vec<DocumentChange> {
        let Some((since, gone)) = self.mirror.emptied() else { return Vec::new() };
        match purpose::is_told(connection, &self.link.options.root(), since, gone).await {
            Ok(true) => self.mirror.let_go(),
            Ok(false) => Vec::new(),
            Err(lost) => {
                tracing::warn!(reason = %lost, "all objects went at once, and the history cannot be read");
                Vec::new()
            }
        }
    }

    /// Sends what is different, if anything is.
    async fn tell(&mut self, changes: Vec<DocumentChange>, telling: Telling) -> Result<(), ()> {
        let problems = self.mirror.problems();
        if telling == Telling::Whole || !changes.is_empty() || problems != self.problems {
            self.problems.clone_from(&problems);
            let (revision, digest) = self.mirror.stamp();
            let stamp = Stamp { cluster: self.cluster, revision, digest, is_kept: self.is_kept };
            let batch = Batch { changes, problems, stamp: Some(stamp) };
            self.batches.send(batch).await.map_err(|_| ())?;
        }
        self.note_revision(self.revision);
        Ok(())
    }

    fn note_revision(&mut self, revision: u64) {
        self.revision = revision;
        self.link.state.lock().revision = revision;
        self.link.told.send_replace(revision);
    }

    /// Notes that the store is not read any more; the log says so once for
    /// each reason.
    fn note_lost(&mut self, lost: &Lost) {
        if self.reasons.len() < REASONS_MAX && self.reasons.insert(lost.0.clone()) {
            tracing::warn!(reason = %lost, "the etcd store cannot be read; everything stays as it is");
        } else {
            tracing::debug!(reason = %lost, "the etcd store cannot be read");
        }
        let mut state = self.link.state.lock();
        let since = state.stale.take().map_or_else(SystemTime::now, |(since, _)| since);
        state.endpoint = None;
        state.stale = Some((since, lost.0.clone()));
    }

    /// Tells the kept state, when nothing was told yet.
    async fn begin_with_kept(&mut self) -> Result<(), ()> {
        let Some(kept) = self.kept.take() else { return Ok(()) };
        tracing::warn!(
            objects = kept.documents.len(),
            revision = kept.revision,
            "the etcd store cannot be read: beginning with the state that was kept"
        );
        self.is_kept = true;
        self.link.state.lock().cached = kept.at;
        let changes = self.mirror.begin_with(kept.documents);
        self.tell(changes, Telling::Whole).await
    }
}

fn by_key(changes: Vec<DocumentChange>) -> impl Iterator<Item = (Key, DocumentChange)> {
    changes.into_iter().map(|change| (change.key(), change))
}

/// Which batches are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Telling {
    /// Also one that says nothing: the first.
    Whole,
    /// One that says something.
    Difference,
}

/// Gathers what a message says; says whether it has events.
fn take_message(message: &WatchResponse, gathered: &mut Gathered) -> Result<bool, Lost> {
    if message.canceled() {
        let reason = match message.compact_revision() {
            0 => message.cancel_reason().to_owned(),
            compacted => format!("what came before revision {compacted} was compacted"),
        };
        return Err(Lost(format!("the watch was cancelled: {reason}")));
    }
    for pair in message.events().iter().filter_map(etcd_client::Event::kv) {
        let revision = pair.mod_revision().unsigned_abs();
        // Only a deletion has no version.
        let value = (pair.version() != 0).then(|| pair.value().to_vec());
        gathered.bytes += pair.key().len() + pair.value().len();
        gathered.revision = gathered.revision.max(revision);
        let created = pair.create_revision().unsigned_abs();
        gathered.events.push(Entry { key: pair.key().to_vec(), value, revision, created });
    }
    // A message without events that is no answer to the creation of a watch
    // tells how far the member is.
    if message.events().is_empty() && !message.created() {
        let revision = message.header().map_or(0, |header| header.revision().unsigned_abs());
        gathered.revision = gathered.revision.max(revision);
    }
    Ok(!message.events().is_empty())
}

async fn ask_progress(sender: &mut WatchRequestSender) -> Result<(), Lost> {
    let asked = tokio::time::timeout(PROGRESS_INTERVAL, sender.request_progress()).await;
    match asked {
        // The member reads nothing: its silence is noticed at one of the next ticks.
        Err(_) => Ok(()),
        Ok(result) => result.map_err(|error| Lost::of("watching", &error)),
    }
}
