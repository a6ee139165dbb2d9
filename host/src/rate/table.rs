//! A bounded table of keys with least-recently-used eviction.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use parking_lot::Mutex;

/// The most keys a limit remembers unless its plugin says otherwise
/// (`keys_max`). A key costs about 100 bytes more than its own length.
pub const KEYS_MAX_DEFAULT: usize = 65_536;

const SHARDS_MAX: usize = 16;
const NONE: u32 = u32::MAX;

struct Slot<V> {
    hash: u64,
    key: Box<[u8]>,
    value: V,
    newer: u32,
    older: u32,
}

/// Keys and values of one lock, linked from the newest to the oldest use.
struct Shard<V> {
    index: HashTable<u32>,
    slots: Vec<Slot<V>>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
    capacity: usize,
}

/// The table. Keys are bytes; every value is found, changed and left under its
/// shard's lock.
pub(super) struct Table<V> {
    hasher: foldhash::fast::RandomState,
    shards: Box<[Mutex<Shard<V>>]>,
}

impl<V> std::fmt::Debug for Table<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("shards", &self.shards.len()).finish_non_exhaustive()
    }
}

/// What becomes of a value after it was looked at.
pub(super) enum Keep {
    Yes,
    /// It says nothing that its absence does not.
    No,
}

impl<V> Table<V> {
    /// A table of at most `keys_max` keys, at least one.
    pub(super) fn new(keys_max: usize) -> Self {
        let keys_max = keys_max.max(1);
        // Small tables have one shard, so that their bound is exact.
        let shards = if keys_max < 1024 { 1 } else { SHARDS_MAX };
        let shard = |_| Mutex::new(Shard::new(keys_max.div_ceil(shards)));
        Self { hasher: foldhash::fast::RandomState::default(), shards: (0..shards).map(shard).collect() }
    }

    /// Lets `change` look at the value under `key`, made by `fresh` if there is
    /// none. A full shard first gives up its oldest entry that `is_idle` allows
    /// among the few oldest, else the oldest of all.
    pub(super) fn with<R>(
        &self,
        key: &[u8],
        fresh: impl FnOnce() -> V,
        is_idle: impl Fn(&V) -> bool,
        change: impl FnOnce(&mut V) -> (Keep, R),
    ) -> R {
        let hash = self.hasher.hash_one(key);
        // The upper bits; the table itself uses the lower ones and the top seven.
        let mut shard = self.shards[(hash >> 32) as usize % self.shards.len()].lock();
        let place = match shard.find(hash, key) {
            Some(place) => {
                shard.touch(place);
                place
            }
            None => shard.insert(hash, key, fresh(), is_idle),
        };
        let (keep, result) = change(&mut shard.slots[place as usize].value);
        if matches!(keep, Keep::No) {
            shard.remove(place);
        }
        result
    }

    /// Lets `change` look at the value under `key` if there is one.
    pub(super) fn with_existing(&self, key: &[u8], change: impl FnOnce(&mut V) -> Keep) {
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shards[(hash >> 32) as usize % self.shards.len()].lock();
        if let Some(place) = shard.find(hash, key)
            && matches!(change(&mut shard.slots[place as usize].value), Keep::No)
        {
            shard.remove(place);
        }
    }

    /// Number of keys held.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().index.len()).sum()
    }
}

/// How many of the oldest entries are looked at for an idle one.
const EVICTION_LOOKS: usize = 8;

impl<V> Shard<V> {
    fn new(capacity: usize) -> Self {
        Self {
            index: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
            capacity,
        }
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.index.find(hash, |place| *self.slots[*place as usize].key == *key).copied()
    }

    fn insert(&mut self, hash: u64, key: &[u8], value: V, is_idle: impl Fn(&V) -> bool) -> u32 {
        if self.index.len() >= self.capacity {
            self.evict(is_idle);
        }
        let slot = Slot { hash, key: key.into(), value, newer: NONE, older: NONE };
        let place = match self.free.pop() {
            Some(place) => {
                self.slots[place as usize] = slot;
                place
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        let slots = &self.slots;
        self.index.insert_unique(hash, place, |place| slots[*place as usize].hash);
        self.link(place);
        place
    }

    fn evict(&mut self, is_idle: impl Fn(&V) -> bool) {
        let mut place = self.oldest;
        for _ in 0..EVICTION_LOOKS {
            let Some(slot) = self.slots.get(place as usize) else { break };
            if is_idle(&slot.value) {
                return self.remove(place);
            }
            place = slot.newer;
        }
        if self.oldest != NONE {
            self.remove(self.oldest);
        }
    }

    fn remove(&mut self, place: u32) {
        self.unlink(place);
        let hash = self.slots[place as usize].hash;
        if let Ok(entry) = self.index.find_entry(hash, |other| *other == place) {
            entry.remove();
        }
        self.slots[place as usize].key = Box::default();
        self.free.push(place);
    }

    fn touch(&mut self, place: u32) {
        if self.newest != place {
            self.unlink(place);
            self.link(place);
        }
    }

    fn link(&mut self, place: u32) {
        let previous = std::mem::replace(&mut self.newest, place);
        let slot = &mut self.slots[place as usize];
        (slot.newer, slot.older) = (NONE, previous);
        match self.slots.get_mut(previous as usize) {
            Some(previous) => previous.newer = place,
            None => self.oldest = place,
        }
    }

    fn unlink(&mut self, place: u32) {
        let (newer, older) = (self.slots[place as usize].newer, self.slots[place as usize].older);
        match self.slots.get_mut(newer as usize) {
            Some(slot) => slot.older = older,
            None => self.newest = older,
        }
        match self.slots.get_mut(older as usize) {
            Some(slot) => slot.newer = newer,
            None => self.oldest = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bump(table: &Table<u32>, key: &[u8]) -> u32 {
        table.with(
            key,
            || 0,
            |_| false,
            |value| {
                *value += 1;
                (Keep::Yes, *value)
            },
        )
    }

    #[test]
    fn the_key_unused_for_longest_gives_way() {
        let table = Table::new(3);
        for key in [b"a", b"b", b"c", b"a"] {
            bump(&table, key);
        }
        bump(&table, b"d");
        assert_eq!(table.len(), 3);
        assert_eq!(bump(&table, b"a"), 3, "used lately, so kept");
        assert_eq!(bump(&table, b"b"), 1, "forgotten");
    }

    #[test]
    fn an_idle_key_gives_way_before_an_older_busy_one() {
        let table = Table::new(2);
        let put = |key: &[u8], value| table.with(key, || value, |value| *value == 0, |_| (Keep::Yes, ()));
        put(b"busy", 5);
        put(b"idle", 0);
        put(b"new", 1);
        assert_eq!(bump(&table, b"busy"), 6);
    }

    #[test]
    fn a_million_keys_take_no_more_room_than_the_bound() {
        let table = Table::new(2048);
        for key in 0..1_000_000_u32 {
            bump(&table, &key.to_be_bytes());
        }
        assert!(table.len() <= 2048);
        for shard in &table.shards {
            let shard = shard.lock();
            assert!(shard.slots.len() <= 128 && shard.free.len() <= 128);
        }
    }

    #[test]
    fn what_is_not_kept_is_gone() {
        let table = Table::new(10);
        bump(&table, b"a");
        table.with_existing(b"a", |_| Keep::No);
        table.with_existing(b"never", |_| Keep::No);
        assert_eq!(table.len(), 0);
        assert_eq!(bump(&table, b"a"), 1);
    }
}
