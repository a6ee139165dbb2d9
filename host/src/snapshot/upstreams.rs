//! The upstreams that are live: objects of their own, and those written inside
//! routes, services and plugins.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::config::objects;
use crate::config::{Id, Key, Kind, Object, Problem, Store};
use crate::frame::FrameFormat;
use crate::upstream::{Environment, References, Upstream};

/// Live upstreams by where they are written.
pub(super) struct Upstreams {
    environment: Arc<Environment>,
    by_id: BTreeMap<Id, Arc<Upstream>>,
    /// Those written inside other objects, by the name made for them.
    inline: BTreeMap<String, Inline>,
    /// The names an object brought.
    brought_by: HashMap<Key, BTreeSet<String>>,
    changes: Pending,
}

/// Upstreams that came and went with a batch.
#[derive(Debug, Clone, Default)]
pub struct UpstreamChanges {
    /// Those that are in force from now on.
    pub new: Vec<Arc<Upstream>>,
    /// Those that are no longer; another version may be among the new ones.
    pub gone: Vec<Arc<Upstream>>,
}

impl UpstreamChanges {
    /// Takes in the changes of a round before, which nobody was told of.
    pub(super) fn follow(&mut self, before: Self) {
        let mut new = before.new;
        // What came then and has gone since was never there for anybody.
        self.gone.retain(|gone| {
            let place = new.iter().position(|upstream| Arc::ptr_eq(upstream, gone));
            place.map(|place| new.swap_remove(place)).is_none()
        });
        new.append(&mut self.new);
        self.new = new;
        self.gone.extend(before.gone);
    }
}

/// The same while a batch is built, by identity: what comes and goes within
/// one batch has never been.
#[derive(Default)]
struct Pending {
    new: HashMap<usize, Arc<Upstream>>,
    gone: Vec<Arc<Upstream>>,
}

impl Pending {
    fn came(&mut self, upstream: &Arc<Upstream>) {
        self.new.insert(Arc::as_ptr(upstream) as usize, Arc::clone(upstream));
    }

    fn went(&mut self, upstream: Arc<Upstream>) {
        if self.new.remove(&(Arc::as_ptr(&upstream) as usize)).is_none() {
            self.gone.push(upstream);
        }
    }
}

struct Inline {
    /// What it was built from; none once something it refers to has changed.
    object: Option<objects::Upstream>,
    upstream: Arc<Upstream>,
}

/// What upstreams may refer to.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) store: &'a Store,
    pub(super) formats: &'a HashMap<Id, Arc<FrameFormat>>,
}

impl Upstreams {
    pub(super) fn new(environment: Arc<Environment>) -> Self {
        Self {
            environment,
            by_id: BTreeMap::new(),
            inline: BTreeMap::new(),
            brought_by: HashMap::new(),
            changes: Pending::default(),
        }
    }

    pub(super) fn get(&self, id: &Id) -> Option<&Arc<Upstream>> {
        self.by_id.get(id)
    }

    /// What came and went since this was asked last.
    pub(super) fn take_changes(&mut self) -> UpstreamChanges {
        let Pending { new, gone } = std::mem::take(&mut self.changes);
        UpstreamChanges { new: new.into_values().collect(), gone }
    }

    /// Builds an object of its own.
    pub(super) fn put(&mut self, object: &objects::Upstream, around: Around<'_>) -> Result<(), Vec<Problem>> {
        let id = object.id.clone();
        let previous = self.by_id.get(&id).map(|upstream| &**upstream);
        let upstream = self.build(object, id.as_str(), previous, around)?;
        self.changes.came(&upstream);
        if let Some(old) = self.by_id.insert(id, upstream) {
            self.changes.went(old);
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, id: &Id) {
        if let Some(old) = self.by_id.remove(id) {
            self.changes.went(old);
        }
    }

    /// The upstream written at `name` inside `owner`, built only if it changed.
    pub(super) fn inline(
        &mut self,
        owner: &Key,
        name: &str,
        object: &objects::Upstream,
        around: Around<'_>,
    ) -> Result<Arc<Upstream>, Vec<Problem>> {
        let known = self.inline.get(name);
        let upstream = match known.filter(|known| known.object.as_ref() == Some(object)) {
            Some(known) => Arc::clone(&known.upstream),
            None => {
                let built = self.build(object, name, known.map(|known| &*known.upstream), around)?;
                self.changes.came(&built);
                built
            }
        };
        let inline = Inline { object: Some(object.clone()), upstream: Arc::clone(&upstream) };
        if let Some(old) = self.inline.insert(name.to_owned(), inline)
            && !Arc::ptr_eq(&old.upstream, &upstream)
        {
            self.changes.went(old.upstream);
        }
        self.brought_by.entry(owner.clone()).or_default().insert(name.to_owned());
        Ok(upstream)
    }

    /// Begins to build `owner` anew; what it brought so far is returned for
    /// [`finish`](Self::finish).
    pub(super) fn begin(&mut self, owner: &Key) -> BTreeSet<String> {
        self.brought_by.remove(owner).unwrap_or_default()
    }

    /// Ends what [`begin`](Self::begin) began: the upstreams `owner` no longer
    /// brings go, unless it could not be built and its last version stays live.
    pub(super) fn finish(&mut self, owner: &Key, before: BTreeSet<String>, is_built: bool) {
        if !is_built {
            self.brought_by.entry(owner.clone()).or_default().extend(before);
            return;
        }
        let now = self.brought_by.get(owner);
        for name in before.iter().filter(|name| now.is_none_or(|now| !now.contains(*name))) {
            if let Some(old) = self.inline.remove(name) {
                self.changes.went(old.upstream);
            }
        }
    }

    /// Forgets what `owner` brought.
    pub(super) fn forget(&mut self, owner: &Key) {
        let before = self.begin(owner);
        self.finish(owner, before, true);
    }

    /// Has the upstreams `owner` brought built anew the next time they are asked for.
    pub(super) fn touch(&mut self, owner: &Key) {
        for name in self.brought_by.get(owner).into_iter().flatten() {
            if let Some(inline) = self.inline.get_mut(name) {
                inline.object = None;
            }
        }
    }

    fn build(
        &self,
        object: &objects::Upstream,
        name: &str,
        previous: Option<&Upstream>,
        around: Around<'_>,
    ) -> Result<Arc<Upstream>, Vec<Problem>> {
        let certificate = |id: &Id| match around.store.live(Kind::Ssls, id)? {
            Object::Ssl(ssl) => Some((ssl.cert.clone()?, ssl.key.clone()?)),
            _ => None,
        };
        let frame_format = |name: &str| around.formats.get(&Id::new(name).ok()?).cloned();
        let references = References { certificate: &certificate, frame_format: &frame_format };
        let built = Upstream::build(object, name, previous, &references, &self.environment);
        built.map(Arc::new).map_err(|problem| vec![problem])
    }
}
