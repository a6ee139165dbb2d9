//! Which objects are in force.
//!
//! Takes batches of document changes and tells what changed for live state.
//! A bad object never stops the rest: it is quarantined, and its last good
//! version stays in force. An object that names another one which is not
//! there is bad as well, until that one comes. An object that is deleted while
//! something in force still names it is held: it stays in force until nothing
//! does. So nothing in force ever names what is not, with one exception: what
//! names a module that is not there comes into force with the first batch all
//! the same, quarantined, so that what is built of it can refuse what the module
//! was to judge. There is nothing else in force then that could stay.
//!
//! Reads no file and no clock. The cost of a batch is that of what it changes
//! and of what names it. Start at [`Store::apply`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use super::objects::{
    Consumer, ConsumerGroup, Credential, FRAME_FORMAT_BUILT_IN, FrameFormat, GlobalRule, Listener,
    PluginConfig, PluginMetadata, Proto, Reference, Route, Secret, Service, Ssl, StreamRoute, Upstream,
};
use super::{Document, Id, KINDS, Kind, Object, Origin, Problem, Problems};

mod trial;

pub use trial::Trial;

/// The name of an object: its kind and id.
pub type Key = (Kind, Id);

/// What a source says about an object.
#[derive(Debug, Clone, PartialEq)]
pub enum DocumentChange {
    /// It is written so.
    Put(Arc<Document>),
    /// It is there and cannot be read.
    Broken {
        /// Which.
        key: Key,
        /// Where it stands.
        origin: Origin,
        /// Why.
        problems: Vec<Problem>,
    },
    /// It is gone.
    Deleted(Key),
}

impl DocumentChange {
    /// Which object it is about.
    pub fn key(&self) -> Key {
        match self {
            Self::Put(document) => (document.kind, document.id.clone()),
            Self::Broken { key, .. } | Self::Deleted(key) => key.clone(),
        }
    }
}

/// A change of what is in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The kind.
    pub kind: Kind,
    /// The id.
    pub id: Id,
    /// What was in force.
    pub old: Option<Object>,
    /// What is in force.
    pub new: Option<Object>,
}

/// Why an object as written is not in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Quarantine {
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Where it stands.
    pub origin: Origin,
    /// Since when it has been bad.
    pub since: SystemTime,
}

/// Numbers that tell when an object came and when it was written last: the
/// revisions of a store that counts them, the same on every node. For other
/// stores they rise with every write this process sees, across restarts too, as
/// they never fall behind the clock in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Indexes {
    /// Of the write that made it.
    pub created: u64,
    /// Of the last write.
    pub modified: u64,
}

/// Checks an object beyond its own fields (plugins, expressions, key
/// material): what only the modules that build live state know.
pub type Check = Box<dyn Fn(&Object, &mut Problems) + Send>;

/// The objects in force and those that are not.
pub struct Store {
    entries: HashMap<Key, Entry>,
    /// Which objects, as written, name a target.
    written_by: HashMap<Key, BTreeSet<Key>>,
    /// Which objects, as in force, name a target.
    live_by: HashMap<Key, BTreeSet<Key>>,
    /// Keys with a quarantine, in order.
    quarantined: BTreeSet<Key>,
    /// Deleted, and in force because something names them; since when.
    held: BTreeMap<Key, SystemTime>,
    counts: BTreeMap<Kind, usize>,
    check: Check,
    /// The last number given out by [`Store::number`].
    index: u64,
    /// Whether the first batch, the whole listing, is in.
    is_listed: bool,
}

#[derive(Default)]
struct Entry {
    written: Written,
    origin: Option<Origin>,
    document: Option<Arc<Document>>,
    live: Option<Object>,
    /// The document of what is in force.
    good: Option<Arc<Document>>,
    quarantine: Option<Quarantine>,
    indexes: Indexes,
}

/// What the source says, understood.
#[derive(Default)]
enum Written {
    #[default]
    Absent,
    Bad(Vec<Problem>),
    Good(Object),
}

/// What a batch does, while it is applied.
struct Work {
    now: SystemTime,
    /// Nothing was written before it.
    is_first: bool,
    /// Keys to look at again.
    dirty: BTreeSet<Key>,
    /// What was in force before the batch, for the keys touched.
    before: HashMap<Key, Option<Object>>,
    /// Keys that are in force as written for the first time.
    proven: BTreeSet<Key>,
}

impl Store {
    /// An empty store; the frame format `im20` is in force from the start.
    pub fn new(check: Check) -> Self {
        let mut store = Self {
            entries: HashMap::new(),
            written_by: HashMap::new(),
            live_by: HashMap::new(),
            quarantined: BTreeSet::new(),
            held: BTreeMap::new(),
            counts: BTreeMap::new(),
            check,
            index: 0,
            is_listed: false,
        };
        let built_in = FrameFormat::built_in();
        let key = (Kind::FrameFormats, built_in.id.clone());
        store.entries.entry(key).or_default().live = Some(Object::FrameFormat(Arc::new(built_in)));
        store.counts.insert(Kind::FrameFormats, 1);
        store
    }

    /// Takes in what a source says, and tells what changed: what is named
    /// comes before what names it.
    pub fn apply(&mut self, changes: Vec<DocumentChange>, now: SystemTime) -> Vec<Change> {
        let is_first = self.is_empty();
        let (dirty, proven) = (BTreeSet::new(), BTreeSet::new());
        let mut work = Work { now, is_first, dirty, before: HashMap::new(), proven };
        for change in changes {
            self.write(change, &mut work);
        }
        self.is_listed = true;
        while let Some(key) = work.dirty.pop_first() {
            self.settle(key, &mut work);
        }
        let proven = work.proven;
        let mut told: Vec<Change> = work
            .before
            .into_iter()
            .filter_map(|(key, old)| {
                let new = self.live(key.0, &key.1).cloned();
                let is_told = old != new || proven.contains(&key);
                is_told.then_some(Change { kind: key.0, id: key.1, old, new })
            })
            .collect();
        told.sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
        told
    }

    /// Notes what is written, and that the object and those that name it are
    /// to be looked at again.
    fn write(&mut self, change: DocumentChange, work: &mut Work) {
        let key = change.key();
        let (written, origin, document) = match change {
            DocumentChange::Put(document) => {
                let written = self.understand(&document);
                (written, Some(document.origin.clone()), Some(document))
            }
            DocumentChange::Broken { origin, problems, .. } => (Written::Bad(problems), Some(origin), None),
            DocumentChange::Deleted(_) => (Written::Absent, None, None),
        };
        let references = written.references();
        let indexes = match written {
            Written::Absent => Indexes::default(),
            _ => self.number(&key, document.as_deref(), work.now),
        };
        let entry = self.entries.entry(key.clone()).or_default();
        entry.indexes = indexes;
        let old_references = entry.written.references();
        entry.written = written;
        entry.origin = origin;
        entry.document = document;
        // Another reason, another time since when it has been so.
        relink(&mut self.written_by, &key, &old_references, &references);
        self.touch_referrers(&key, work);
        work.dirty.insert(key);
    }

    /// The indexes of an object with this write.
    fn number(&mut self, key: &Key, document: Option<&Document>, now: SystemTime) -> Indexes {
        let entry = self.entries.get(key);
        let known = entry.map(|entry| entry.indexes).unwrap_or_default();
        let before = entry.and_then(|entry| entry.document.as_deref());
        if let (Some(before), Some(document)) = (before, document)
            && before.revision == document.revision
            && before.value == document.value
        {
            return known;
        }
        if let Some(document) = document.filter(|document| document.created != 0) {
            return Indexes { created: document.created, modified: document.revision };
        }
        let clock = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        self.index = clock.max(self.index + 1);
        // What was there before this process is as old as it says.
        let said = document.and_then(|document| document.value.get("create_time")?.as_u64());
        let made = said.map(|seconds| seconds.saturating_mul(1000)).filter(|_| !self.is_listed);
        let created = match known.created {
            0 => made.unwrap_or(self.index).min(self.index),
            created => created,
        };
        Indexes { created, modified: self.index }
    }

    fn understand(&self, document: &Document) -> Written {
        match Object::parse(document.kind, &document.id, &document.value) {
            Err(error) => Written::Bad(error.problems),
            Ok(object) => {
                let mut problems = Problems::default();
                (self.check)(&object, &mut problems);
                let problems = problems.into_vec();
                if problems.is_empty() { Written::Good(object) } else { Written::Bad(problems) }
            }
        }
    }

    /// Decides what is in force for one key.
    fn settle(&mut self, key: Key, work: &mut Work) {
        let Some(entry) = self.entries.get(&key) else { return };
        let (live, problems) = match &entry.written {
            Written::Good(object) => {
                let references = object.references();
                let dangling = self.dangling(&references);
                if dangling.is_empty() {
                    (Some(object.clone()), None)
                } else if work.is_first && entry.live.is_none() && self.lacks_modules_alone(&references) {
                    (Some(object.clone()), Some(dangling))
                } else {
                    (entry.live.clone(), Some(dangling))
                }
            }
            Written::Bad(problems) => (entry.live.clone(), Some(problems.clone())),
            Written::Absent if is_built_in(&key) => {
                (Some(Object::FrameFormat(Arc::new(FrameFormat::built_in()))), None)
            }
            Written::Absent if self.live_by.contains_key(&key) => (entry.live.clone(), None),
            Written::Absent => (None, None),
        };
        if problems.is_none() {
            self.note_good(&key, work);
        }
        self.set_quarantine(&key, problems, work.now);
        self.set_live(&key, live, work);
        self.clean(&key);
    }

    /// Notes that an object is in force as it is written. Where it was in force
    /// without its modules, that is told as a change.
    fn note_good(&mut self, key: &Key, work: &mut Work) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if let Written::Good(_) = entry.written {
            if entry.good.is_none() && entry.live.is_some() {
                work.before.entry(key.clone()).or_insert_with(|| entry.live.clone());
                work.proven.insert(key.clone());
            }
            entry.good.clone_from(&entry.document);
        }
    }

    /// References to what is not there.
    fn dangling(&self, references: &[Reference]) -> Vec<Problem> {
        let missing = references.iter().filter(|reference| !self.is_available(reference));
        missing
            .map(|reference| {
                let (kind, id) = (reference.kind, &reference.id);
                let state = match self.entries.get(&(kind, id.clone())).map(|entry| &entry.written) {
                    Some(Written::Bad(_)) => "is bad and has no good version yet",
                    Some(Written::Good(_)) => "is not in force yet",
                    Some(Written::Absent) | None => "does not exist",
                };
                Problem {
                    field: reference.field.clone(),
                    message: match kind {
                        // Most likely a slip in the name of a built-in one.
                        Kind::Modules => format!("unknown plugin: {kind}/{id} {state}"),
                        _ => format!("{kind}/{id} {state}"),
                    },
                    value: Some(format!("{:?}", id.as_str())),
                }
            })
            .collect()
    }

    /// Whether all that is named and not there is modules.
    fn lacks_modules_alone(&self, references: &[Reference]) -> bool {
        references.iter().all(|reference| reference.kind == Kind::Modules || self.is_available(reference))
    }

    /// Whether an object can be named: it is written, and a version of it is in force.
    fn is_available(&self, reference: &Reference) -> bool {
        let key = (reference.kind, reference.id.clone());
        is_built_in(&key)
            || self
                .entries
                .get(&key)
                .is_some_and(|entry| entry.live.is_some() && !matches!(entry.written, Written::Absent))
    }

    fn set_quarantine(&mut self, key: &Key, problems: Option<Vec<Problem>>, now: SystemTime) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        match problems {
            None => {
                entry.quarantine = None;
                self.quarantined.remove(key);
            }
            Some(problems) => {
                let same = entry.quarantine.take().filter(|old| old.problems == problems);
                let since = same.map_or(now, |old| old.since);
                let origin = entry.origin.clone().unwrap_or_else(|| Origin::file(std::path::Path::new("")));
                entry.quarantine = Some(Quarantine { problems, origin, since });
                self.quarantined.insert(key.clone());
            }
        }
    }

    fn set_live(&mut self, key: &Key, live: Option<Object>, work: &mut Work) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let absent = matches!(entry.written, Written::Absent);
        if absent && live.is_some() && !is_built_in(key) {
            self.held.entry(key.clone()).or_insert(work.now);
        } else {
            self.held.remove(key);
        }
        if entry.live == live {
            return;
        }
        let old = std::mem::replace(&mut entry.live, live);
        let presence_changed = old.is_some() != entry.live.is_some();
        let count = self.counts.entry(key.0).or_default();
        match (&old, &entry.live) {
            (None, Some(_)) => *count += 1,
            (Some(_), None) => *count -= 1,
            _ => {}
        }
        let old_references = old.as_ref().map(Object::references).unwrap_or_default();
        let references = entry.live.as_ref().map(Object::references).unwrap_or_default();
        work.before.entry(key.clone()).or_insert(old);
        relink(&mut self.live_by, key, &old_references, &references);
        // A target that was held for this object alone can go now.
        for reference in old_references {
            let target = (reference.kind, reference.id);
            if self.held.contains_key(&target) {
                work.dirty.insert(target);
            }
        }
        if presence_changed {
            self.touch_referrers(key, work);
        }
    }

    fn touch_referrers(&self, key: &Key, work: &mut Work) {
        work.dirty.extend(self.written_by.get(key).into_iter().flatten().cloned());
    }

    /// Forgets an entry that says nothing any more.
    fn clean(&mut self, key: &Key) {
        let gone = |entry: &Entry| matches!(entry.written, Written::Absent) && entry.live.is_none();
        if self.entries.get(key).is_some_and(gone) {
            self.entries.remove(key);
        }
    }

    /// The version of an object in force.
    pub fn live(&self, kind: Kind, id: &Id) -> Option<&Object> {
        self.entries.get(&(kind, id.clone()))?.live.as_ref()
    }

    /// All objects of a kind in force, in no order.
    pub fn live_of(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        self.entries.iter().filter(move |(key, _)| key.0 == kind).filter_map(|(_, entry)| entry.live.as_ref())
    }

    /// Whether nothing is written.
    pub fn is_empty(&self) -> bool {
        self.written_keys().next().is_none()
    }

    /// How many objects of a kind are in force.
    pub fn count(&self, kind: Kind) -> usize {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    /// The document of an object as it is written now, good or not.
    pub fn document(&self, kind: Kind, id: &Id) -> Option<&Arc<Document>> {
        self.entries.get(&(kind, id.clone()))?.document.as_ref()
    }

    /// When an object came and was written last; zeros for what is not written.
    pub fn indexes(&self, kind: Kind, id: &Id) -> Indexes {
        self.entries.get(&(kind, id.clone())).map(|entry| entry.indexes).unwrap_or_default()
    }

    /// The document of an object as it is in force.
    pub fn good_document(&self, kind: Kind, id: &Id) -> Option<&Arc<Document>> {
        let entry = self.entries.get(&(kind, id.clone()))?;
        entry.live.as_ref().and(entry.good.as_ref())
    }

    /// All documents of a kind as written now, by id.
    pub fn documents(&self, kind: Kind) -> Vec<&Arc<Document>> {
        let mut all: Vec<_> = self
            .entries
            .iter()
            .filter(|(key, _)| key.0 == kind)
            .filter_map(|(_, entry)| entry.document.as_ref())
            .collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// Objects that are not in force as they are written, and why; with
    /// whether a last good version is.
    pub fn quarantined(&self) -> impl Iterator<Item = (&Key, &Quarantine, Option<&Object>)> {
        self.quarantined.iter().filter_map(|key| {
            let entry = self.entries.get(key)?;
            // What came into force without its modules was never good.
            let good = entry.live.as_ref().filter(|_| entry.good.is_some() || is_built_in(key));
            Some((key, entry.quarantine.as_ref()?, good))
        })
    }

    /// Why an object is not in force as it is written.
    pub fn quarantine_of(&self, kind: Kind, id: &Id) -> Option<&Quarantine> {
        self.entries.get(&(kind, id.clone()))?.quarantine.as_ref()
    }

    /// Objects that are deleted and stay in force because something names them.
    /// With since when.
    pub fn held(&self) -> impl Iterator<Item = (&Key, SystemTime)> {
        self.held.iter().map(|(key, since)| (key, *since))
    }

    /// Objects that name this one, as written or as in force.
    pub fn referrers(&self, kind: Kind, id: &Id) -> BTreeSet<Key> {
        let key = (kind, id.clone());
        let written = self.written_by.get(&key).into_iter().flatten();
        written.chain(self.live_by.get(&key).into_iter().flatten()).cloned().collect()
    }

    /// A document's own faults, without what it names.
    pub fn faults_of(&self, document: &Document) -> Vec<Problem> {
        match self.understand(document) {
            Written::Bad(problems) => problems,
            Written::Good(_) | Written::Absent => Vec::new(),
        }
    }

    /// What would be wrong with a document if it were written now: its own
    /// faults, or what it names and is not there.
    pub fn try_document(&self, document: &Document) -> Vec<Problem> {
        match self.understand(document) {
            Written::Good(object) => self.dangling(&object.references()),
            Written::Bad(problems) => problems,
            Written::Absent => Vec::new(),
        }
    }

    /// All keys the source has written, for a comparison with a new listing.
    pub fn written_keys(&self) -> impl Iterator<Item = &Key> {
        self.entries.iter().filter(|(_, entry)| !matches!(entry.written, Written::Absent)).map(|(key, _)| key)
    }
}

/// Typed access to what is in force.
macro_rules! typed {
    ($(#[$doc:meta] $name:ident, $kind:ident, $variant:ident, $type:ty;)*) => {
        impl Store {
            $(#[$doc] pub fn $name(&self, id: &Id) -> Option<&Arc<$type>> {
                match self.live(Kind::$kind, id)? {
                    Object::$variant(object) => Some(object),
                    _ => None,
                }
            })*
        }
    };
}

typed! {
    /// The listener in force.
    listener, Listeners, Listener, Listener;
    /// The frame format in force.
    frame_format, FrameFormats, FrameFormat, FrameFormat;
    /// The certificate in force.
    ssl, Ssls, Ssl, Ssl;
    /// The proto in force.
    proto, Protos, Proto, Proto;
    /// The upstream in force.
    upstream, Upstreams, Upstream, Upstream;
    /// The service in force.
    service, Services, Service, Service;
    /// The plugin config in force.
    plugin_config, PluginConfigs, PluginConfig, PluginConfig;
    /// The global rule in force.
    global_rule, GlobalRules, GlobalRule, GlobalRule;
    /// The route in force.
    route, Routes, Route, Route;
    /// The stream route in force.
    stream_route, StreamRoutes, StreamRoute, StreamRoute;
    /// The place of secrets in force.
    secret, Secrets, Secret, Secret;
    /// The consumer group in force.
    consumer_group, ConsumerGroups, ConsumerGroup, ConsumerGroup;
    /// The consumer in force.
    consumer, Consumers, Consumer, Consumer;
    /// The credential in force.
    credential, Credentials, Credential, Credential;
    /// The plugin metadata in force.
    plugin_metadata, PluginMetadata, PluginMetadata, PluginMetadata;
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Store");
        for kind in KINDS {
            shown.field(kind.name(), &self.count(kind));
        }
        shown.field("quarantined", &self.quarantined).field("held", &self.held).finish_non_exhaustive()
    }
}

impl Written {
    fn references(&self) -> Vec<Reference> {
        match self {
            Self::Good(object) => object.references(),
            Self::Absent | Self::Bad(_) => Vec::new(),
        }
    }
}

fn is_built_in(key: &Key) -> bool {
    key.0 == Kind::FrameFormats && key.1.as_str() == FRAME_FORMAT_BUILT_IN
}

fn relink(index: &mut HashMap<Key, BTreeSet<Key>>, key: &Key, old: &[Reference], new: &[Reference]) {
    for reference in old {
        let target = (reference.kind, reference.id.clone());
        if let Some(referrers) = index.get_mut(&target) {
            referrers.remove(key);
            if referrers.is_empty() {
                index.remove(&target);
            }
        }
    }
    for reference in new {
        index.entry((reference.kind, reference.id.clone())).or_default().insert(key.clone());
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
