//! The host in tests: one for each thread, and each test has a thread of its own.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::key_value::Scope;
use crate::log::Level;
use crate::{ExchangeId, fetch, health, key_value};

/// What a plugin noted with [`events::note`](crate::events::note).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The exchange it is about.
    pub exchange: ExchangeId,
    /// What matched.
    pub rule: String,
    /// `detect`, `block` or a word of the plugin's own.
    pub action: String,
    /// A short text.
    pub detail: String,
}

/// The fake host of this thread. It begins with nothing granted, its clock at one
/// day after 1970, and keeps what plugins do.
#[derive(Debug)]
#[non_exhaustive]
pub struct Host;

#[derive(Default)]
struct State {
    lines: Vec<(Level, String)>,
    events: Vec<Event>,
    counters: BTreeMap<String, u64>,
    observations: BTreeMap<String, Vec<f64>>,
    now: Duration,
    random: u64,
    files: BTreeMap<String, Vec<u8>>,
    nodes: Vec<health::Node>,
    answers: BTreeMap<String, Result<fetch::Response, fetch::Error>>,
    fetched: Vec<fetch::Request>,
    namespaces: BTreeSet<String>,
    values: BTreeMap<(Scope, String, String), Value>,
}

struct Value {
    bytes: Vec<u8>,
    /// None keeps it.
    expires: Option<Duration>,
}

const BEGINNING: Duration = Duration::from_secs(24 * 60 * 60);

thread_local! {
    static STATE: RefCell<State> = RefCell::new(State { now: BEGINNING, ..State::default() });
}

fn state<R>(call: impl FnOnce(&mut State) -> R) -> R {
    STATE.with_borrow_mut(call)
}

impl Host {
    /// A new host for this thread, in place of the one before.
    #[must_use]
    pub fn install() -> Self {
        STATE.set(State { now: BEGINNING, ..State::default() });
        Self
    }

    /// Grants a namespace of key-value, in both scopes.
    pub fn grant_key_value(&self, namespace: &str) {
        state(|state| state.namespaces.insert(namespace.to_owned()));
    }

    /// Grants a URL and says what comes of a fetch of it, every time.
    pub fn answer(&self, url: &str, answer: Result<fetch::Response, fetch::Error>) {
        state(|state| state.answers.insert(url.to_owned(), answer));
    }

    /// Grants a URL that answers 200 with this body.
    pub fn answer_ok(&self, url: &str, body: impl Into<Vec<u8>>) {
        self.answer(url, Ok(fetch::Response { status: 200, headers: Vec::new(), body: body.into() }));
    }

    /// Lays a file where the plugin may read it.
    pub fn file(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        state(|state| state.files.insert(path.to_owned(), bytes.into()));
    }

    /// Adds a node of an upstream, in place of the one with its upstream, line and
    /// address.
    pub fn node(&self, node: health::Node) {
        let key = |node: &health::Node| (node.upstream.clone(), node.line.clone(), node.address.clone());
        state(|state| {
            state.nodes.retain(|other| key(other) != key(&node));
            state.nodes.push(node);
        });
    }

    /// Sets both clocks on by this much; values expire by it.
    pub fn advance(&self, by: Duration) {
        state(|state| state.now += by);
    }

    /// The lines written, whatever their level.
    #[must_use]
    pub fn lines(&self) -> Vec<(Level, String)> {
        state(|state| state.lines.clone())
    }

    /// The events noted.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        state(|state| state.events.clone())
    }

    /// A counter; 0 when nothing was added.
    #[must_use]
    pub fn counter(&self, name: &str) -> u64 {
        state(|state| state.counters.get(name).copied().unwrap_or(0))
    }

    /// The values of a histogram.
    #[must_use]
    pub fn observations(&self, name: &str) -> Vec<f64> {
        state(|state| state.observations.get(name).cloned().unwrap_or_default())
    }

    /// The requests plugins sent, those refused too.
    #[must_use]
    pub fn fetched(&self) -> Vec<fetch::Request> {
        state(|state| state.fetched.clone())
    }
}

pub(crate) fn log_enabled(_: Level) -> bool {
    true
}

pub(crate) fn log_write(level: Level, message: &str) {
    state(|state| state.lines.push((level, message.to_owned())));
}

pub(crate) fn event(exchange: ExchangeId, rule: &str, action: &str, detail: &str) {
    let event =
        Event { exchange, rule: rule.to_owned(), action: action.to_owned(), detail: detail.to_owned() };
    state(|state| state.events.push(event));
}

pub(crate) fn metric_add(name: &str, by: u64) {
    assert_name(name);
    state(|state| *state.counters.entry(name.to_owned()).or_default() += by);
}

pub(crate) fn metric_observe(name: &str, value: f64) {
    assert_name(name);
    state(|state| state.observations.entry(name.to_owned()).or_default().push(value));
}

/// In tests a bad name is a fault that should be seen.
fn assert_name(name: &str) {
    let is_good = name.bytes().enumerate().all(|(place, byte)| {
        byte.is_ascii_lowercase() || byte == b'_' || (place > 0 && byte.is_ascii_digit())
    });
    assert!(is_good && !name.is_empty(), "{name:?} is no name of a metric: [a-z_][a-z0-9_]*");
}

pub(crate) fn clock_now() -> u64 {
    state(|state| u64::try_from(state.now.as_millis()).unwrap_or(u64::MAX))
}

pub(crate) fn clock_monotonic() -> u64 {
    state(|state| u64::try_from(state.now.as_nanos()).unwrap_or(u64::MAX))
}

/// The same bytes in every run, other ones in every call: a test can be repeated.
pub(crate) fn random(length: u32) -> Vec<u8> {
    state(|state| {
        let mut next = || {
            // SplitMix64, by Steele, Lea and Flood.
            state.random = state.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state.random;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)).to_le_bytes()[0]
        };
        (0..length).map(|_| next()).collect()
    })
}

pub(crate) fn file_read(path: &str) -> Result<Vec<u8>, String> {
    state(|state| state.files.get(path).cloned()).ok_or_else(|| format!("{path}: no such file in this test"))
}

pub(crate) fn health_nodes(upstream: &str) -> Vec<health::Node> {
    state(|state| state.nodes.iter().filter(|node| node.upstream == upstream).cloned().collect())
}

pub(crate) fn fetch(request: fetch::Request) -> Result<fetch::Response, fetch::Error> {
    state(|state| {
        let denied = || Err(fetch::Error::Denied(request.url.clone()));
        let answer = state.answers.get(&request.url).cloned().unwrap_or_else(denied);
        state.fetched.push(request);
        answer
    })
}

type Key = (Scope, String, String);

/// Calls with the state, the key and the time, if the namespace is granted.
fn values<R>(
    scope: Scope,
    namespace: &str,
    key: &str,
    call: impl FnOnce(&mut BTreeMap<Key, Value>, Key, Duration) -> Result<R, key_value::Error>,
) -> Result<R, key_value::Error> {
    state(|state| {
        if !state.namespaces.contains(namespace) {
            return Err(key_value::Error::Denied);
        }
        let now = state.now;
        state.values.retain(|_, value| value.expires.is_none_or(|expires| expires > now));
        call(&mut state.values, (scope, namespace.to_owned(), key.to_owned()), now)
    })
}

fn kept(bytes: &[u8], ttl: u32, now: Duration) -> Value {
    let expires = (ttl > 0).then(|| now + Duration::from_millis(ttl.into()));
    Value { bytes: bytes.to_vec(), expires }
}

pub(crate) fn key_value_get(
    scope: Scope,
    namespace: &str,
    key: &str,
) -> Result<Option<Vec<u8>>, key_value::Error> {
    values(scope, namespace, key, |values, key, _| Ok(values.get(&key).map(|value| value.bytes.clone())))
}

pub(crate) fn key_value_set(
    scope: Scope,
    namespace: &str,
    key: &str,
    value: &[u8],
    ttl: u32,
) -> Result<(), key_value::Error> {
    values(scope, namespace, key, |values, key, now| {
        values.insert(key, kept(value, ttl, now));
        Ok(())
    })
}

pub(crate) fn key_value_compare_and_set(
    scope: Scope,
    namespace: &str,
    key: &str,
    expected: Option<&[u8]>,
    value: &[u8],
    ttl: u32,
) -> Result<bool, key_value::Error> {
    values(scope, namespace, key, |values, key, now| {
        let is_expected = values.get(&key).map(|value| &*value.bytes) == expected;
        if is_expected {
            values.insert(key, kept(value, ttl, now));
        }
        Ok(is_expected)
    })
}

pub(crate) fn key_value_delete(scope: Scope, namespace: &str, key: &str) -> Result<(), key_value::Error> {
    values(scope, namespace, key, |values, key, _| {
        values.remove(&key);
        Ok(())
    })
}

pub(crate) fn key_value_increment(
    scope: Scope,
    namespace: &str,
    key: &str,
    by: i64,
    ttl: u32,
) -> Result<i64, key_value::Error> {
    values(scope, namespace, key, |values, key, now| {
        let number = match values.get(&key) {
            None => 0,
            Some(value) => {
                std::str::from_utf8(&value.bytes).ok().and_then(|text| text.parse::<i64>().ok()).ok_or_else(
                    || key_value::Error::Other(format!("the value of {:?} is not a number", key.2)),
                )?
            }
        };
        let sum = number.saturating_add(by);
        values.insert(key, kept(sum.to_string().as_bytes(), ttl, now));
        Ok(sum)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_value::{Error, Namespace};

    #[test]
    fn values_need_a_grant_and_expire() {
        let host = Host::install();
        let tokens = Namespace::node("tokens");
        assert_eq!(tokens.get("a"), Err(Error::Denied));
        host.grant_key_value("tokens");
        tokens.set("a", b"1", Duration::from_secs(10)).unwrap();
        host.advance(Duration::from_secs(9));
        assert_eq!(tokens.get("a").unwrap().as_deref(), Some(&b"1"[..]));
        host.advance(Duration::from_secs(1));
        assert_eq!(tokens.get("a").unwrap(), None);
    }

    #[test]
    fn a_value_is_set_once_by_those_who_compare() {
        Host::install().grant_key_value("n");
        let values = Namespace::store("n");
        assert!(values.compare_and_set("k", None, b"1", Duration::ZERO).unwrap());
        assert!(!values.compare_and_set("k", None, b"2", Duration::ZERO).unwrap());
        assert!(values.compare_and_set("k", Some(b"1"), b"2", Duration::ZERO).unwrap());
        assert_eq!(values.increment("k", 5, Duration::ZERO).unwrap(), 7);
    }

    #[test]
    fn random_bytes_differ_from_call_to_call() {
        let _ = Host::install();
        let (first, second) = (crate::clock::random(1500), crate::clock::random(1500));
        assert_eq!((first.len(), second.len()), (1500, 1500));
        assert_ne!(first, second);
    }
}
