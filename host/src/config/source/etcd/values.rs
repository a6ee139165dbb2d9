//! Values that the modules of a fleet share.
//!
//! They stand below `<prefix>/kv/<module>/<namespace>/`, where no node watches.
//! Each operation is one transaction with the member that the node reads from;
//! none is made while there is no such member. A module has a quota of keys. What
//! ends does so by a lease, which values of about the same time share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{Compare, CompareOp, Error, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::Link;
use super::session::{Connection, told};

/// The folder of shared values below the prefix.
pub(super) const FOLDER: &str = "kv";
/// Keys of one module, over all its namespaces.
pub const SHARED_KEYS_MAX: u64 = 4096;
/// Bytes of a value.
pub const SHARED_VALUE_BYTES_MAX: usize = 4 << 10;
/// Bytes of a key.
pub const SHARED_KEY_BYTES_MAX: usize = 256;
/// The longest one operation may take.
pub const SHARED_TIME_MAX: Duration = Duration::from_secs(1);
/// How often a sum is tried that others add to at the same moment.
const TRIES_MAX: usize = 16;
/// Leases that are kept for the next values.
const LEASES_MAX: usize = 64;

/// Why an operation was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SharedValueError {
    /// The module has as many keys as it may.
    #[error("the module has {SHARED_KEYS_MAX} keys in the store, as many as it may")]
    Full,
    /// The key is too long.
    #[error("the key has {0} bytes, at most {SHARED_KEY_BYTES_MAX} are allowed")]
    KeyTooLong(usize),
    /// The value is too long.
    #[error("the value has {0} bytes, at most {SHARED_VALUE_BYTES_MAX} are allowed in the store")]
    ValueTooLong(usize),
    /// The value to add to is no number.
    #[error("the value is no number")]
    NotANumber,
    /// Others changed it all the while.
    #[error("others changed the value at the same time, {TRIES_MAX} times in a row")]
    Contended,
    /// The store cannot be reached, or refused.
    #[error("the store cannot be reached: {0}")]
    Unavailable(String),
    /// It did not answer: what was to be written may have been.
    #[error("the store did not answer within {0:?}")]
    Late(Duration),
}

/// Where a value stands.
#[derive(Debug, Clone, Copy)]
pub struct SharedKey<'a> {
    /// The module whose it is.
    pub module: &'a str,
    /// The namespace, which holds no slash.
    pub namespace: &'a str,
    /// The key, any text.
    pub key: &'a str,
}

/// The values that the modules of a fleet share; clones are of the same.
#[derive(Debug, Clone)]
pub struct SharedValues {
    link: Arc<Link>,
    leases: Arc<Mutex<Leases>>,
}

/// When a put is made.
enum Guard<'a> {
    Always,
    /// When there is no value.
    Absent,
    /// When this is the value.
    Value(&'a [u8]),
    /// When it was not written since this revision.
    Revision(i64),
}

/// How long a value stays.
#[derive(Clone, Copy)]
enum Stay {
    ForEver,
    /// At least this long.
    For(Duration),
    /// As long as the value before.
    AsBefore,
}

impl Stay {
    fn of(ttl: Duration) -> Self {
        if ttl.is_zero() { Self::ForEver } else { Self::For(ttl) }
    }
}

type Outcome<T> = Result<T, SharedValueError>;

impl SharedValues {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link, leases: Arc::default() }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// See [`SharedValueError`].
    pub async fn get(&self, key: SharedKey<'_>) -> Outcome<Option<Vec<u8>>> {
        check(key, &[])?;
        let work = async {
            let connection = self.connection()?;
            let found = self.read(&connection, key).await?;
            Ok(found.map(|(value, _)| value))
        };
        within(work).await
    }

    /// Sets a value; it goes soon after `ttl`, which is none for one that stays.
    ///
    /// # Errors
    /// See [`SharedValueError`].
    pub async fn set(&self, key: SharedKey<'_>, value: Vec<u8>, ttl: Duration) -> Outcome<()> {
        check(key, &value)?;
        within(self.put(key, Guard::Always, value, Stay::of(ttl))).await.map(|_| ())
    }

    /// Sets a value if the key has the value `expected`; says whether it did.
    ///
    /// # Errors
    /// See [`SharedValueError`].
    pub async fn compare_and_set(
        &self,
        key: SharedKey<'_>,
        expected: Option<&[u8]>,
        value: Vec<u8>,
        ttl: Duration,
    ) -> Outcome<bool> {
        check(key, &value)?;
        let guard = expected.map_or(Guard::Absent, Guard::Value);
        within(self.put(key, guard, value, Stay::of(ttl))).await
    }

    /// Takes a value away.
    ///
    /// # Errors
    /// See [`SharedValueError`].
    pub async fn delete(&self, key: SharedKey<'_>) -> Outcome<()> {
        check(key, &[])?;
        let work = async {
            let mut kv = self.connection()?.kv();
            kv.delete(self.path(key), None).await.map(|_| ()).map_err(|error| unavailable(&error))
        };
        within(work).await
    }

    /// Adds to a number, kept as decimal text, that begins at 0; gives the new one.
    /// A number that is there keeps its end.
    ///
    /// # Errors
    /// See [`SharedValueError`].
    pub async fn increment(&self, key: SharedKey<'_>, by: i64, ttl: Duration) -> Outcome<i64> {
        check(key, &[])?;
        let work = async {
            for _ in 0..TRIES_MAX {
                let connection = self.connection()?;
                let (old, guard, stay) = match self.read(&connection, key).await? {
                    None => (0, Guard::Absent, Stay::of(ttl)),
                    Some((value, revision)) => (number(&value)?, Guard::Revision(revision), Stay::AsBefore),
                };
                let new = old.saturating_add(by);
                if self.put(key, guard, new.to_string().into_bytes(), stay).await? {
                    return Ok(new);
                }
            }
            Err(SharedValueError::Contended)
        };
        // It holds several answers of the store: too much for its caller's own future.
        within(Box::pin(work)).await
    }

    /// A value and the revision it was written at.
    async fn read(&self, connection: &Connection, key: SharedKey<'_>) -> Outcome<Option<(Vec<u8>, i64)>> {
        let mut kv = connection.kv();
        let mut answer = kv.get(self.path(key), None).await.map_err(|error| unavailable(&error))?;
        Ok(answer.take_kvs().pop().map(|pair| {
            let revision = pair.mod_revision();
            (pair.into_key_value().1, revision)
        }))
    }

    /// Writes a value if the guard allows; says whether it did.
    async fn put(&self, key: SharedKey<'_>, guard: Guard<'_>, value: Vec<u8>, stay: Stay) -> Outcome<bool> {
        let connection = self.connection()?;
        let options = match stay {
            Stay::ForEver => PutOptions::new(),
            Stay::AsBefore => PutOptions::new().with_ignore_lease(),
            Stay::For(ttl) => PutOptions::new().with_lease(self.lease(&connection, ttl).await?),
        };
        let path = self.path(key);
        let put = || TxnOp::put(path.as_str(), value.as_slice(), Some(options.clone()));
        let count = || {
            let options = GetOptions::new().with_prefix().with_count_only();
            TxnOp::get(format!("{}{}/", self.root(), key.module), Some(options))
        };
        let txn = match guard {
            Guard::Always => Txn::new().when([absent(&path)]).and_then([put(), count()]).or_else([put()]),
            Guard::Absent => Txn::new().when([absent(&path)]).and_then([put(), count()]),
            Guard::Value(expected) => {
                Txn::new().when([Compare::value(path.as_str(), CompareOp::Equal, expected)]).and_then([put()])
            }
            Guard::Revision(revision) => {
                let same = Compare::mod_revision(path.as_str(), CompareOp::Equal, revision);
                Txn::new().when([same]).and_then([put()])
            }
        };
        let mut kv = connection.kv();
        let answer = kv.txn(txn).await.map_err(|error| {
            if told(&error).contains("requested lease not found") {
                // The store was restored, or the lease was taken away.
                self.leases.lock().forget();
            }
            unavailable(&error)
        })?;
        let is_made = answer.succeeded() || matches!(guard, Guard::Always);
        let keys = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(counted) => Some(counted.count().unsigned_abs()),
            _ => None,
        });
        if keys.is_some_and(|keys| keys > SHARED_KEYS_MAX) {
            let revision = answer.header().map_or(0, |header| header.revision());
            let own = Compare::mod_revision(path.as_str(), CompareOp::Equal, revision);
            let undo = Txn::new().when([own]).and_then([TxnOp::delete(path.as_str(), None)]);
            kv.txn(undo).await.map_err(|error| unavailable(&error))?;
            return Err(SharedValueError::Full);
        }
        Ok(is_made)
    }

    /// A lease that lasts for `ttl` at least, and not much longer.
    async fn lease(&self, connection: &Connection, ttl: Duration) -> Outcome<i64> {
        let seconds = rounded(ttl);
        let now = Instant::now();
        if let Some(lease) = self.leases.lock().find(seconds, now + ttl) {
            return Ok(lease);
        }
        let asked = seconds + seconds / 8 + 1;
        let granted =
            connection.lease().grant(asked as i64, None).await.map_err(|error| unavailable(&error))?;
        let ends = now + Duration::from_secs(granted.ttl().unsigned_abs());
        self.leases.lock().keep(seconds, granted.id(), ends, now);
        Ok(granted.id())
    }

    /// The connection there is now: nobody waits for one that may come.
    fn connection(&self) -> Outcome<Connection> {
        let connection = self.link.client.borrow().clone();
        connection.ok_or_else(|| {
            let reason = self.link.state.lock().stale.clone().map(|(_, reason)| reason);
            SharedValueError::Unavailable(reason.unwrap_or_else(|| "no connection".to_owned()))
        })
    }

    fn root(&self) -> String {
        format!("{}{FOLDER}/", self.link.options.root())
    }

    fn path(&self, key: SharedKey<'_>) -> String {
        format!("{}{}/{}/{}", self.root(), key.module, key.namespace, key.key)
    }
}

/// Leases for the next values, by the seconds that were asked for.
#[derive(Debug, Default)]
struct Leases(BTreeMap<u64, (i64, Instant)>);

impl Leases {
    /// One that lasts until then.
    fn find(&self, seconds: u64, until: Instant) -> Option<i64> {
        self.0.get(&seconds).filter(|(_, ends)| *ends >= until).map(|(lease, _)| *lease)
    }

    fn keep(&mut self, seconds: u64, lease: i64, ends: Instant, now: Instant) {
        self.0.retain(|_, (_, ends)| *ends > now);
        if self.0.len() >= LEASES_MAX {
            self.0.pop_first();
        }
        self.0.insert(seconds, (lease, ends));
    }

    fn forget(&mut self) {
        self.0.clear();
    }
}

/// Whole seconds, two digits of them: values of about the same time share a lease.
fn rounded(ttl: Duration) -> u64 {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    let mut step = 1;
    while seconds / step >= 100 {
        step *= 10;
    }
    seconds.div_ceil(step).max(1) * step
}

fn number(value: &[u8]) -> Outcome<i64> {
    let text = std::str::from_utf8(value).ok();
    text.and_then(|text| text.parse().ok()).ok_or(SharedValueError::NotANumber)
}

fn absent(path: &str) -> Compare {
    Compare::version(path, CompareOp::Equal, 0)
}

fn check(key: SharedKey<'_>, value: &[u8]) -> Outcome<()> {
    if key.key.len() > SHARED_KEY_BYTES_MAX {
        return Err(SharedValueError::KeyTooLong(key.key.len()));
    }
    if value.len() > SHARED_VALUE_BYTES_MAX {
        return Err(SharedValueError::ValueTooLong(value.len()));
    }
    Ok(())
}

async fn within<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    timeout(SHARED_TIME_MAX, work).await.unwrap_or(Err(SharedValueError::Late(SHARED_TIME_MAX)))
}

fn unavailable(error: &Error) -> SharedValueError {
    SharedValueError::Unavailable(told(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up_to_few_different_ones() {
        for (millis, seconds) in [
            (1, 1),
            (1000, 1),
            (1001, 2),
            (99_000, 99),
            (100_500, 110),
            (60 * 60 * 1000, 3600),
            (u32::MAX, 4_300_000),
        ] {
            assert_eq!(rounded(Duration::from_millis(millis.into())), seconds, "{millis}");
        }
    }

    #[test]
    fn a_lease_is_used_again_while_it_lasts_long_enough() {
        let mut leases = Leases::default();
        let now = Instant::now();
        let seconds = Duration::from_secs;
        leases.keep(10, 7, now + seconds(12), now);
        assert_eq!(leases.find(10, now + seconds(11)), Some(7));
        assert_eq!(leases.find(10, now + seconds(13)), None);
        assert_eq!(leases.find(20, now), None);
        for number in 0..2 * LEASES_MAX as u64 {
            leases.keep(100 + number, 1, now + seconds(200), now);
        }
        assert!(leases.0.len() <= LEASES_MAX);
        leases.keep(1, 9, now + seconds(500), now + seconds(300));
        assert_eq!(leases.0.len(), 1, "what has ended is not kept");
    }
}
