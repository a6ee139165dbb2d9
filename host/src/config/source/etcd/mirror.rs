//! What has been told of the keys of a store, and what is different now.
//!
//! Pure: takes listings and events, gives changes of documents. The listing
//! after a gap costs a comparison a key; only what is different is told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::keys::{self, Place};
use super::session::Entry;
use crate::config::document::{self, Format};
use crate::config::seal::{self, Sealer};
use crate::config::{Document, DocumentChange, DocumentError, Key, Origin};

/// The most keys that are no objects and are told of one by one.
const STRANGE_SHOWN_MAX: usize = 1000;
/// How long nothing may be written below a prefix that was emptied and is
/// filled again, until what was not written again goes.
const REFILL_QUIET: Duration = Duration::from_secs(10);

/// What the keys of a store were when they were told last.
pub(super) struct Mirror {
    /// What all keys begin with, with its slash.
    root: String,
    sealer: Option<Arc<Sealer>>,
    told: HashMap<Key, Told>,
    /// Keys that are no objects, and why.
    strange: BTreeMap<String, DocumentError>,
    emptied: Option<Emptied>,
    /// The same for the same keys of the same revisions, in any order.
    digest: u64,
    /// The highest revision of a key.
    revision: u64,
}

struct Told {
    revision: u64,
    content: Content,
}

/// What tells two versions of a value apart.
enum Content {
    /// The hash of its bytes.
    Hash(u64),
    /// The value as it was kept; its bytes are not known.
    Kept(Arc<Document>),
}

/// Objects that went all at once: a deleted prefix, a lost volume, another
/// cluster. They stay in force until the store is filled again.
#[derive(Debug)]
struct Emptied {
    held: BTreeSet<Key>,
    /// When the store was written to last since.
    refilled: Option<Instant>,
}

impl Mirror {
    pub(super) fn new(root: String, sealer: Option<Arc<Sealer>>) -> Self {
        Self {
            root,
            sealer,
            told: HashMap::new(),
            strange: BTreeMap::new(),
            emptied: None,
            digest: 0,
            revision: 0,
        }
    }

    /// The highest revision of an object, and a number that is the same
    /// wherever the same objects of the same revisions are.
    pub(super) fn stamp(&self) -> (u64, u64) {
        (self.revision, self.digest)
    }

    fn note(&mut self, key: Key, told: Told) {
        self.revision = self.revision.max(told.revision);
        self.digest ^= share(&key, told.revision);
        if let Some(before) = self.told.insert(key.clone(), told) {
            self.digest ^= share(&key, before.revision);
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(before) = self.told.remove(key) {
            self.digest ^= share(key, before.revision);
        }
    }

    /// Begins with a kept state, and tells it.
    pub(super) fn begin_with(&mut self, documents: Vec<Document>) -> Vec<DocumentChange> {
        let documents: Vec<Arc<Document>> = documents.into_iter().map(Arc::new).collect();
        for document in &documents {
            let told = Told { revision: document.revision, content: Content::Kept(document.clone()) };
            self.note((document.kind, document.id.clone()), told);
        }
        documents.into_iter().map(DocumentChange::Put).collect()
    }

    /// Takes in everything there is, and tells what is different.
    pub(super) fn list(&mut self, entries: Vec<Entry>, now: Instant) -> Vec<DocumentChange> {
        self.strange.clear();
        // In a restored store revisions may be lower than before.
        self.revision = 0;
        let mut changes = Vec::new();
        let mut there = BTreeSet::new();
        for entry in entries {
            if let Some(key) = self.put(&entry, &mut changes) {
                there.insert(key);
            }
        }
        let gone: Vec<Key> = self.told.keys().filter(|key| !there.contains(*key)).cloned().collect();
        if there.is_empty() && !gone.is_empty() {
            self.hold(gone);
        } else if let Some(emptied) = &mut self.emptied {
            emptied.held = gone.into_iter().collect();
            emptied.refilled.get_or_insert(now);
            self.settle_emptied();
        } else {
            for key in gone {
                self.forget(&key);
                changes.push(DocumentChange::Deleted(key));
            }
        }
        changes
    }

    /// Takes in events, and tells what is different. Of several events of one
    /// key only the last counts.
    pub(super) fn take(&mut self, events: Vec<Entry>, now: Instant) -> Vec<DocumentChange> {
        let mut by_revision: BTreeMap<u64, Vec<Entry>> = BTreeMap::new();
        for event in events {
            by_revision.entry(event.revision).or_default().push(event);
        }
        let mut last: BTreeMap<Key, DocumentChange> = BTreeMap::new();
        for (_, events) in by_revision {
            let mut changes = Vec::new();
            self.take_revision(&events, now, &mut changes);
            last.extend(changes.into_iter().map(|change| (change.key(), change)));
        }
        last.into_values().collect()
    }

    /// Takes in the events of one revision.
    fn take_revision(&mut self, events: &[Entry], now: Instant, changes: &mut Vec<DocumentChange>) {
        let mut gone = Vec::new();
        let mut has_put = false;
        self.revision = events.iter().map(|event| event.revision).fold(self.revision, u64::max);
        for event in events {
            if event.value.is_some() {
                has_put |= self.put(event, changes).is_some();
            } else if let Place::Object(kind, id) = self.place(&event.key) {
                gone.push((kind, id));
            } else {
                self.strange.remove(&*String::from_utf8_lossy(&event.key));
            }
        }
        let held = self.emptied.as_ref().map_or(0, |emptied| emptied.held.len());
        gone.retain(|key| self.told.contains_key(key));
        if gone.len() > 1 && gone.len() + held == self.told.len() && !has_put {
            return self.hold(gone);
        }
        for key in gone {
            if self.emptied.as_ref().is_none_or(|emptied| !emptied.held.contains(&key)) {
                self.forget(&key);
                changes.push(DocumentChange::Deleted(key));
            }
        }
        if let (true, Some(emptied)) = (has_put, &mut self.emptied) {
            emptied.refilled = Some(now);
            self.settle_emptied();
        }
    }

    /// The objects that went all at once while nothing was written since, and the
    /// highest revision of them.
    pub(super) fn emptied(&self) -> Option<(u64, &BTreeSet<Key>)> {
        let emptied = self.emptied.as_ref().filter(|emptied| emptied.refilled.is_none())?;
        let revisions = emptied.held.iter().filter_map(|key| Some(self.told.get(key)?.revision));
        Some((revisions.max()?, &emptied.held))
    }

    /// When [`Mirror::release`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        Some(self.emptied.as_ref()?.refilled? + REFILL_QUIET)
    }

    /// Lets go what was not written again after the prefix was emptied.
    pub(super) fn release(&mut self, now: Instant) -> Vec<DocumentChange> {
        if self.due().is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.let_go()
    }

    /// Lets everything go that is held.
    pub(super) fn let_go(&mut self) -> Vec<DocumentChange> {
        let held = self.emptied.take().map(|emptied| emptied.held).unwrap_or_default();
        held.into_iter()
            .map(|key| {
                self.forget(&key);
                DocumentChange::Deleted(key)
            })
            .collect()
    }

    /// Everything that is wrong now and is not of one object.
    pub(super) fn problems(&self) -> Vec<DocumentError> {
        let fault = |message: String| DocumentError::file(Origin::file(Path::new(&self.root)), message);
        let mut problems: Vec<DocumentError> = Vec::new();
        if let Some(emptied) = &self.emptied {
            let count = emptied.held.len();
            problems.push(fault(match emptied.refilled {
                None => format!(
                    "all objects went at once: {count} stay in force until something is written here again"
                ),
                Some(_) => format!(
                    "all objects went at once and some came back: {count} others stay in force until nothing \
                     was written for {REFILL_QUIET:?}"
                ),
            }));
        }
        problems.extend(self.strange.values().take(STRANGE_SHOWN_MAX).cloned());
        if self.strange.len() > STRANGE_SHOWN_MAX {
            let more = self.strange.len() - STRANGE_SHOWN_MAX;
            problems.push(fault(format!("{more} more keys are no objects")));
        }
        problems
    }

    /// Notes a key that is there; gives which object it is.
    fn put(&mut self, entry: &Entry, changes: &mut Vec<DocumentChange>) -> Option<Key> {
        let value = entry.value.as_deref()?;
        let name = String::from_utf8_lossy(&entry.key).into_owned();
        let (kind, id) = match self.place(&entry.key) {
            Place::Object(kind, id) => (kind, id),
            Place::Folder => return None,
            Place::Strange(message) => {
                let error = DocumentError::file(Origin::file(Path::new(&name)), message);
                self.strange.insert(name, error);
                return None;
            }
        };
        let key = (kind, id);
        if let Some(emptied) = &mut self.emptied {
            emptied.held.remove(&key);
        }
        let hash = document::revision_of(value);
        let known = self.told.get(&key).filter(|told| told.revision == entry.revision);
        if known.is_some_and(|told| matches!(told.content, Content::Hash(known) if known == hash)) {
            self.revision = self.revision.max(entry.revision);
            return Some(key);
        }
        let (change, is_kept) = self.read(&key, value, entry, &name);
        self.note(key.clone(), Told { revision: entry.revision, content: Content::Hash(hash) });
        if !is_kept {
            changes.push(change);
        }
        Some(key)
    }

    /// Reads a value; says whether it is what was kept.
    fn read(&self, key: &Key, value: &[u8], entry: &Entry, name: &str) -> (DocumentChange, bool) {
        match document::parse_object(key.0, &key.1, value, Format::Json, Path::new(name)) {
            Ok(mut document) => {
                (document.revision, document.created) = (entry.revision, entry.created);
                keys::with_whole_id(key.0, &key.1, &mut document.value);
                if let Err(problems) = seal::open(self.sealer.as_deref(), key.0, &key.1, &mut document.value)
                {
                    let origin = document.origin;
                    return (DocumentChange::Broken { key: key.clone(), origin, problems }, false);
                }
                let is_kept = match self.told.get(key) {
                    Some(Told { content: Content::Kept(kept), .. }) => {
                        kept.revision == entry.revision && kept.value == document.value
                    }
                    _ => false,
                };
                (DocumentChange::Put(Arc::new(document)), is_kept)
            }
            Err(error) => {
                let (origin, problems) = (error.origin, vec![*error.problem]);
                (DocumentChange::Broken { key: key.clone(), origin, problems }, false)
            }
        }
    }

    fn place(&self, key: &[u8]) -> Place {
        let text = match std::str::from_utf8(key) {
            Ok(text) => text,
            Err(_) => return Place::Strange("the key is not UTF-8 text".to_owned()),
        };
        text.strip_prefix(&self.root).map_or_else(|| keys::place_of(""), keys::place_of)
    }

    fn hold(&mut self, gone: Vec<Key>) {
        let emptied = self.emptied.get_or_insert(Emptied { held: BTreeSet::new(), refilled: None });
        emptied.held.extend(gone);
        emptied.refilled = None;
    }

    /// Nothing is held any more: the store is as it was.
    fn settle_emptied(&mut self) {
        if self.emptied.as_ref().is_some_and(|emptied| emptied.held.is_empty()) {
            self.emptied = None;
        }
    }
}

/// What a key of a revision adds to the digest.
fn share(key: &Key, revision: u64) -> u64 {
    document::revision_of(format!("{}/{}@{revision}", key.0, key.1).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Id, Kind};

    fn entry(key: &str, value: Option<&str>, revision: u64) -> Entry {
        let value = value.map(|value| value.as_bytes().to_vec());
        let key = format!("/sluice/{key}").into_bytes();
        Entry { key, value, revision, created: revision }
    }

    fn put(key: &str, revision: u64) -> Entry {
        entry(key, Some("{\"uri\": \"/\"}"), revision)
    }

    /// What changed, in one line each.
    fn told(changes: &[DocumentChange]) -> Vec<String> {
        changes
            .iter()
            .map(|change| {
                let (kind, id) = change.key();
                match change {
                    DocumentChange::Put(document) => format!("{kind}/{id} at {}", document.revision),
                    DocumentChange::Broken { problems, .. } => format!("{kind}/{id} bad: {}", problems[0]),
                    DocumentChange::Deleted(_) => format!("{kind}/{id} gone"),
                }
            })
            .collect()
    }

    fn mirror(entries: Vec<Entry>) -> Mirror {
        let mut mirror = Mirror::new("/sluice/".to_owned(), None);
        mirror.list(entries, Instant::now());
        mirror
    }

    #[test]
    fn a_listing_tells_only_what_is_different() {
        let now = Instant::now();
        let mut mirror = Mirror::new("/sluice/".to_owned(), None);
        let first = mirror.list(vec![put("routes/a", 2), put("routes/b", 3), put("routes/c", 4)], now);
        assert_eq!(told(&first), ["routes/a at 2", "routes/b at 3", "routes/c at 4"]);
        assert!(
            mirror.list(vec![put("routes/a", 2), put("routes/b", 3), put("routes/c", 4)], now).is_empty()
        );
        // Another value under the same revision: another cluster.
        let other = entry("routes/b", Some("{\"uri\": \"/other\"}"), 3);
        let second = mirror.list(vec![put("routes/a", 1), other], now);
        assert_eq!(told(&second), ["routes/a at 1", "routes/b at 3", "routes/c gone"]);
    }

    #[test]
    fn the_last_event_of_a_key_counts_whatever_their_order() {
        let mut mirror = mirror(vec![put("routes/a", 2), put("routes/b", 3)]);
        let events = vec![
            entry("routes/c", None, 7),
            put("routes/a", 6),
            put("routes/a", 5),
            put("routes/c", 4),
            entry("routes/b", None, 8),
        ];
        let changes = mirror.take(events, Instant::now());
        assert_eq!(told(&changes), ["routes/a at 6", "routes/b gone", "routes/c gone"]);
    }

    #[test]
    fn a_bad_value_is_told_alone_and_heals() {
        let now = Instant::now();
        let large = format!("{{\"desc\": \"{}\"", "x".repeat(1_400_000));
        let mut mirror = mirror(vec![put("routes/a", 2)]);
        let events = vec![
            entry("routes/a", Some("{\"uri\""), 3),
            entry("routes/b", Some(""), 4),
            entry("routes/c", Some("[]"), 5),
            entry("routes/d", Some(&large), 6),
            put("routes/e", 7),
        ];
        let changes = told(&mirror.take(events, now));
        assert_eq!(changes.len(), 5);
        assert!(changes[..4].iter().all(|change| change.contains(" bad: ")), "{changes:?}");
        assert_eq!(changes[4], "routes/e at 7");
        assert_eq!(told(&mirror.take(vec![put("routes/a", 8)], now)), ["routes/a at 8"]);
    }

    #[test]
    fn what_is_no_object_is_told_key_by_key() {
        let mut mirror = mirror(vec![
            entry("routes/", Some("init_dir"), 1),
            put("xrpc_protocols/jack", 2),
            put("cookies/x", 3),
            put("routes/a/b", 4),
            put("plugins", 5),
        ]);
        let problems: Vec<String> = mirror.problems().iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(problems[0].starts_with("/sluice/cookies/x: there is no kind \"cookies\""), "{problems:?}");
        assert!(problems[1].starts_with("/sluice/plugins: is not an object"), "{problems:?}");
        assert!(
            problems[2].starts_with("/sluice/routes/a/b: the end of the key is not an id"),
            "{problems:?}"
        );
        assert!(problems[3].contains("\"xrpc_protocols\" are not supported"), "{problems:?}");
        mirror.take(vec![entry("cookies/x", None, 6)], Instant::now());
        assert_eq!(mirror.problems().len(), 3);
    }

    #[test]
    fn a_deleted_prefix_leaves_everything_in_force_until_it_is_filled_again() {
        let now = Instant::now();
        let mut mirror = mirror(vec![put("routes/a", 2), put("routes/b", 3), put("upstreams/u", 3)]);
        let all =
            |revision| ["routes/a", "routes/b", "upstreams/u"].map(|key| entry(key, None, revision)).to_vec();
        assert!(mirror.take(all(4), now).is_empty());
        assert!(mirror.list(Vec::new(), now).is_empty(), "also when it is listed again");
        assert!(mirror.problems()[0].to_string().contains("3 stay in force"), "{:?}", mirror.problems());
        assert_eq!(mirror.due(), None);
        assert_eq!(told(&mirror.take(vec![put("routes/a", 5)], now)), ["routes/a at 5"]);
        assert!(mirror.release(now).is_empty());
        let later = now + REFILL_QUIET;
        assert_eq!(told(&mirror.take(vec![put("routes/n", 6)], later)), ["routes/n at 6"]);
        assert_eq!(mirror.due(), Some(later + REFILL_QUIET), "a write puts it off");
        let gone = mirror.release(later + REFILL_QUIET);
        assert_eq!(told(&gone), ["upstreams/u gone", "routes/b gone"]);
        assert!(mirror.problems().is_empty());
    }

    #[test]
    fn what_somebody_meant_to_delete_goes() {
        let now = Instant::now();
        let mut mirror = mirror(vec![put("routes/a", 2), put("routes/b", 3)]);
        assert!(mirror.emptied().is_none());
        assert!(mirror.list(Vec::new(), now).is_empty());
        let (revision, held) = mirror.emptied().unwrap();
        assert_eq!((revision, held.len()), (3, 2));
        assert_eq!(told(&mirror.let_go()), ["routes/a gone", "routes/b gone"]);
        assert!(mirror.problems().is_empty() && mirror.emptied().is_none());
        assert_eq!(told(&mirror.take(vec![put("routes/n", 6)], now)), ["routes/n at 6"]);
    }

    #[test]
    fn a_prefix_that_is_written_again_as_it_was_is_as_it_was() {
        let now = Instant::now();
        let mut mirror = mirror(vec![put("routes/a", 2), put("routes/b", 3)]);
        assert!(mirror.take(vec![entry("routes/a", None, 4), entry("routes/b", None, 4)], now).is_empty());
        mirror.take(vec![put("routes/a", 5), put("routes/b", 6)], now);
        assert!(mirror.problems().is_empty());
        assert_eq!(mirror.due(), None);
    }

    #[test]
    fn objects_that_go_one_by_one_go() {
        let mut mirror = mirror(vec![put("routes/a", 2), put("routes/b", 3)]);
        let now = Instant::now();
        assert_eq!(told(&mirror.take(vec![entry("routes/a", None, 4)], now)), ["routes/a gone"]);
        assert_eq!(told(&mirror.take(vec![entry("routes/b", None, 5)], now)), ["routes/b gone"]);
    }

    #[test]
    fn the_digest_is_of_what_is_there_however_it_came() {
        let now = Instant::now();
        let mut one = mirror(vec![put("routes/a", 2), put("routes/b", 3), put("routes/c", 4)]);
        one.take(vec![put("routes/a", 7), entry("routes/c", None, 8)], now);
        let other = mirror(vec![put("routes/b", 3), put("routes/a", 7)]);
        assert_eq!(one.stamp().1, other.stamp().1);
        assert_ne!(one.stamp().1, mirror(vec![put("routes/b", 3), put("routes/a", 6)]).stamp().1);
        assert_eq!(one.stamp().0, 8);
    }

    #[test]
    fn a_kept_state_is_compared_by_value() {
        let now = Instant::now();
        let document = |id: &str, revision| Document {
            kind: Kind::Routes,
            id: Id::new(id).unwrap(),
            value: serde_json::json!({"uri": "/"}),
            origin: Origin::file(Path::new("/sluice/routes/a")),
            revision,
            created: revision,
        };
        let mut mirror = Mirror::new("/sluice/".to_owned(), None);
        let kept = mirror.begin_with(vec![document("a", 2), document("b", 3), document("c", 4)]);
        assert_eq!(kept.len(), 3);
        let changes = mirror.list(vec![put("routes/a", 2), put("routes/b", 9)], now);
        assert_eq!(told(&changes), ["routes/b at 9", "routes/c gone"]);
        assert!(mirror.list(vec![put("routes/a", 2), put("routes/b", 9)], now).is_empty());
    }
}
