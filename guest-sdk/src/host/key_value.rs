//! Values shared by all instances, by the module's grants: `kv: [namespace]` for those of
//! a node, `store: [namespace]` for those of all nodes.
//!
//! ```
//! use std::time::Duration;
//!
//! use sluice_sdk::key_value::{Error, Namespace};
//! # sluice_sdk::testing::Host::install().grant_key_value("logins");
//!
//! let logins = Namespace::node("logins");
//! logins.set("token", b"user 7", Duration::from_secs(120))?;
//! assert_eq!(logins.get("token")?.as_deref(), Some(&b"user 7"[..]));
//! # Ok::<(), Error>(())
//! ```

use std::fmt;
use std::time::Duration;

use super::backend;

/// Who shares a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// All instances of all modules with the grant on one node.
    Node,
    /// The instances of this module on all nodes, through etcd. Much slower, and only in
    /// calls that may wait: for requests, timers and functions.
    Store,
}

/// Why a value is not there or not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The namespace is not granted.
    Denied,
    /// The namespace's quota is used up.
    Full,
    /// The key or value is over its limit, or the store cannot be reached.
    Other(String),
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied => formatter.write_str("the namespace is not granted"),
            Self::Full => formatter.write_str("the namespace's quota is used up"),
            Self::Other(reason) => formatter.write_str(reason),
        }
    }
}

impl std::error::Error for Error {}

/// A namespace of keys. Values expire: a time to live of zero keeps one until the
/// quota makes it go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    scope: Scope,
    name: String,
}

impl Namespace {
    /// Values shared on this node.
    pub fn node(name: impl Into<String>) -> Self {
        Self { scope: Scope::Node, name: name.into() }
    }

    /// Values shared by all nodes.
    pub fn store(name: impl Into<String>) -> Self {
        Self { scope: Scope::Store, name: name.into() }
    }

    /// The value of a key; none when there is none or it has expired.
    ///
    /// # Errors
    ///
    /// The namespace is not granted, or the store cannot be reached.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        backend::key_value_get(self.scope, &self.name, key)
    }

    /// Sets a value.
    ///
    /// # Errors
    ///
    /// Not granted, no room, or the store cannot be reached.
    pub fn set(&self, key: &str, value: &[u8], ttl: Duration) -> Result<(), Error> {
        backend::key_value_set(self.scope, &self.name, key, value, milliseconds(ttl))
    }

    /// Sets a value if the key has the value `expected` (none: no value), in one
    /// step; says whether it did.
    ///
    /// # Errors
    ///
    /// As [`Namespace::set`].
    pub fn compare_and_set(
        &self,
        key: &str,
        expected: Option<&[u8]>,
        value: &[u8],
        ttl: Duration,
    ) -> Result<bool, Error> {
        backend::key_value_compare_and_set(self.scope, &self.name, key, expected, value, milliseconds(ttl))
    }

    /// Takes a value away; it is no error when there is none.
    ///
    /// # Errors
    ///
    /// The namespace is not granted, or the store cannot be reached.
    pub fn delete(&self, key: &str) -> Result<(), Error> {
        backend::key_value_delete(self.scope, &self.name, key)
    }

    /// Adds to a number that begins at 0; gives the new one.
    ///
    /// # Errors
    ///
    /// As [`Namespace::set`], and when the value is not a number.
    pub fn increment(&self, key: &str, by: i64, ttl: Duration) -> Result<i64, Error> {
        backend::key_value_increment(self.scope, &self.name, key, by, milliseconds(ttl))
    }
}

/// What is shorter than a millisecond counts as one: zero would mean for ever.
fn milliseconds(ttl: Duration) -> u32 {
    if ttl.is_zero() { 0 } else { u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX).max(1) }
}
