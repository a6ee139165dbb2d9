//! Values that the guests of a node share, by namespace and key.
//!
//! A namespace has a quota. What has a time to live stays until then; what has
//! none makes room, the oldest first, when the quota is used up.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What may be kept.
#[derive(Debug, Clone, Copy)]
pub struct KvLimits {
    /// Bytes of keys and values of one namespace, 128 a pair included.
    pub namespace_bytes_max: usize,
    /// Bytes of a key.
    pub key_bytes_max: usize,
    /// Bytes of a value.
    pub value_bytes_max: usize,
}

/// What a pair costs besides its bytes.
pub(super) const ENTRY_COST: usize = 128;

impl Default for KvLimits {
    /// 16 MiB a namespace, keys of 256 bytes, values of 64 KiB.
    fn default() -> Self {
        Self { namespace_bytes_max: 16 << 20, key_bytes_max: 256, value_bytes_max: 64 << 10 }
    }
}

/// Why a value was not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyValueError {
    /// The quota is used up by values that have a time to live.
    #[error("the quota of the namespace is used up")]
    Full,
    /// The key is too long.
    #[error("the key has {0} bytes, at most {1} are allowed")]
    KeyTooLong(usize, usize),
    /// The value is too long.
    #[error("the value has {0} bytes, at most {1} are allowed")]
    ValueTooLong(usize, usize),
    /// The value to add to is no number.
    #[error("the value is no number")]
    NotANumber,
}

/// The values of a node.
#[derive(Debug)]
pub struct KeyValue {
    limits: KvLimits,
    spaces: Mutex<HashMap<Box<str>, Namespace>>,
}

#[derive(Debug, Default)]
struct Namespace {
    entries: HashMap<Box<str>, Entry>,
    /// Those that end, by when.
    ending: BTreeMap<(Instant, u64), Box<str>>,
    /// Those that do not, in the order they were set.
    lasting: BTreeMap<u64, Box<str>>,
    bytes: usize,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    value: Vec<u8>,
    ends: Option<Instant>,
    number: u64,
}

impl KeyValue {
    /// Nothing, within these limits.
    #[must_use]
    pub fn new(limits: KvLimits) -> Self {
        Self { limits, spaces: Mutex::default() }
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, namespace: &str, key: &str) -> Option<Vec<u8>> {
        self.with(namespace, Instant::now(), |space| space.entries.get(key).map(|entry| entry.value.clone()))
    }

    /// Sets a value; `ttl` in milliseconds, 0 for no end.
    ///
    /// # Errors
    /// See [`KeyValueError`]; the old value stays.
    pub fn set(&self, namespace: &str, key: &str, value: Vec<u8>, ttl: u32) -> Result<(), KeyValueError> {
        self.check(key, &value)?;
        let now = Instant::now();
        self.with(namespace, now, |space| space.set(key, value, ends(now, ttl), &self.limits))
    }

    /// Sets a value if the key has the value `expected`; says whether it did.
    ///
    /// # Errors
    /// See [`KeyValueError`]; the old value stays.
    pub fn compare_and_set(
        &self,
        namespace: &str,
        key: &str,
        expected: Option<&[u8]>,
        value: Vec<u8>,
        ttl: u32,
    ) -> Result<bool, KeyValueError> {
        self.check(key, &value)?;
        let now = Instant::now();
        self.with(namespace, now, |space| {
            if space.entries.get(key).map(|entry| &*entry.value) != expected {
                return Ok(false);
            }
            space.set(key, value, ends(now, ttl), &self.limits).map(|()| true)
        })
    }

    /// Takes a value away.
    pub fn delete(&self, namespace: &str, key: &str) {
        self.with(namespace, Instant::now(), |space| space.remove(key));
    }

    /// Adds to a number, kept as decimal text, that begins at 0; gives the new
    /// one. A number that is there keeps its end.
    ///
    /// # Errors
    /// See [`KeyValueError`]; the old value stays.
    pub fn increment(&self, namespace: &str, key: &str, by: i64, ttl: u32) -> Result<i64, KeyValueError> {
        let now = Instant::now();
        self.check(key, &[])?;
        self.with(namespace, now, |space| {
            let (old, until) = match space.entries.get(key) {
                Some(entry) => {
                    let text = std::str::from_utf8(&entry.value).ok();
                    let number = text.and_then(|text| text.parse::<i64>().ok());
                    (number.ok_or(KeyValueError::NotANumber)?, entry.ends)
                }
                None => (0, ends(now, ttl)),
            };
            let new = old.saturating_add(by);
            space.set(key, new.to_string().into_bytes(), until, &self.limits).map(|()| new)
        })
    }

    fn check(&self, key: &str, value: &[u8]) -> Result<(), KeyValueError> {
        let limits = &self.limits;
        if key.len() > limits.key_bytes_max {
            return Err(KeyValueError::KeyTooLong(key.len(), limits.key_bytes_max));
        }
        if value.len() > limits.value_bytes_max {
            return Err(KeyValueError::ValueTooLong(value.len(), limits.value_bytes_max));
        }
        Ok(())
    }

    fn with<T>(&self, namespace: &str, now: Instant, act: impl FnOnce(&mut Namespace) -> T) -> T {
        let mut spaces = self.spaces.lock();
        // Namespaces are those that grants name, so there are few.
        if !spaces.contains_key(namespace) {
            spaces.insert(namespace.into(), Namespace::default());
        }
        let space = spaces.entry(namespace.into()).or_default();
        space.expire(now);
        act(space)
    }
}

fn ends(now: Instant, ttl: u32) -> Option<Instant> {
    (ttl > 0).then(|| now + Duration::from_millis(ttl.into()))
}

impl Namespace {
    fn expire(&mut self, now: Instant) {
        while let Some((&at, _)) = self.ending.first_key_value()
            && at.0 <= now
        {
            let Some(key) = self.ending.remove(&at) else { return };
            if let Some(entry) = self.entries.remove(&key) {
                self.bytes -= cost(&key, &entry.value);
            }
        }
    }

    fn set(
        &mut self,
        key: &str,
        value: Vec<u8>,
        ends: Option<Instant>,
        limits: &KvLimits,
    ) -> Result<(), KeyValueError> {
        let own = self.entries.get(key).map_or(0, |entry| cost(key, &entry.value));
        let needed = cost(key, &value);
        while self.bytes - own + needed > limits.namespace_bytes_max {
            // The key itself may be the oldest; it is set anew all the same.
            let oldest = self.lasting.values().find(|other| ***other != *key).cloned();
            let Some(oldest) = oldest else { return Err(KeyValueError::Full) };
            self.remove(&oldest);
        }
        self.remove(key);
        let number = self.next;
        self.next += 1;
        match ends {
            Some(at) => self.ending.insert((at, number), key.into()),
            None => self.lasting.insert(number, key.into()),
        };
        self.bytes += needed;
        self.entries.insert(key.into(), Entry { value, ends, number });
        Ok(())
    }

    fn remove(&mut self, key: &str) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.bytes -= cost(key, &entry.value);
        match entry.ends {
            Some(at) => self.ending.remove(&(at, entry.number)),
            None => self.lasting.remove(&entry.number),
        };
    }
}

fn cost(key: &str, value: &[u8]) -> usize {
    // The key is kept twice.
    2 * key.len() + value.len() + ENTRY_COST
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> KeyValue {
        KeyValue::new(KvLimits { namespace_bytes_max: 1000, ..KvLimits::default() })
    }

    #[test]
    fn what_has_no_end_makes_room_for_what_is_new() {
        let kv = small();
        for number in 0..100 {
            kv.set("a", &format!("k{number}"), vec![0; 100], 0).unwrap();
        }
        assert_eq!(kv.get("a", "k0"), None);
        assert!(kv.get("a", "k99").is_some());
        assert!(kv.spaces.lock()["a"].bytes <= 1000);
    }

    #[test]
    fn what_has_an_end_keeps_its_place() {
        let kv = small();
        let set =
            (0..100).take_while(|n| kv.set("a", &format!("k{n}"), vec![0; 100], 60_000).is_ok()).count();
        assert_eq!(set, 4);
        assert_eq!(kv.set("a", "new", vec![0; 100], 0), Err(KeyValueError::Full));
        assert_eq!(kv.set("b", "new", vec![0; 100], 0), Ok(()), "another namespace has its own quota");
    }

    #[test]
    fn an_end_comes() {
        let kv = small();
        kv.set("a", "k", vec![1], 1).unwrap();
        let later = Instant::now() + Duration::from_millis(2);
        kv.spaces.lock().get_mut("a").unwrap().expire(later);
        assert_eq!(kv.get("a", "k"), None);
        assert_eq!(kv.spaces.lock()["a"].bytes, 0);
    }

    #[test]
    fn comparing_and_counting_are_one_step() {
        let kv = small();
        assert_eq!(kv.compare_and_set("a", "k", None, vec![1], 0), Ok(true));
        assert_eq!(kv.compare_and_set("a", "k", None, vec![2], 0), Ok(false));
        assert_eq!(kv.compare_and_set("a", "k", Some(&[1]), vec![2], 0), Ok(true));
        assert_eq!(kv.increment("a", "n", 5, 0), Ok(5));
        assert_eq!(kv.increment("a", "n", i64::MAX, 0), Ok(i64::MAX));
        assert_eq!(kv.increment("a", "k", 1, 0), Err(KeyValueError::NotANumber));
    }
}
