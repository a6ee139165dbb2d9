//! The key-value store for guests whose calls may wait: values of the node, and
//! those that all nodes share.

use std::sync::Arc;
use std::time::Duration;

use super::waiting_kv::{Error, Host, Scope};
use super::wit::key_value as node;
use super::{Owner, State};
use crate::config::source::{SharedKey, SharedValueError, SharedValues};

type Kv<T> = wasmtime::Result<Result<T, Error>>;

impl From<node::Error> for Error {
    fn from(error: node::Error) -> Self {
        match error {
            node::Error::Denied => Self::Denied,
            node::Error::Full => Self::Full,
            node::Error::Other(why) => Self::Other(why),
        }
    }
}

impl From<SharedValueError> for Error {
    fn from(error: SharedValueError) -> Self {
        match error {
            SharedValueError::Full => Self::Full,
            other => Self::Other(other.to_string()),
        }
    }
}

impl Owner {
    /// A place among the values that all nodes share, where its namespace is granted.
    fn place<'a>(
        &'a self,
        namespace: &'a str,
        key: &'a str,
    ) -> Result<(&'a SharedValues, SharedKey<'a>), Error> {
        if !self.store.iter().any(|granted| **granted == *namespace) {
            return Err(Error::Denied);
        }
        let none = || Error::Other("this node has no store that nodes share".to_owned());
        let shared = self.services.shared.as_ref().ok_or_else(none)?;
        Ok((shared, SharedKey { module: &self.module, namespace, key }))
    }
}

/// Of a node's value: what guests are told that do not wait.
fn told<T>(answer: wasmtime::Result<Result<T, node::Error>>) -> Kv<T> {
    Ok(answer?.map_err(Into::into))
}

fn time(milliseconds: u32) -> Duration {
    Duration::from_millis(milliseconds.into())
}

impl State {
    /// Works on one of the values that all nodes share.
    async fn shared<T>(
        &mut self,
        namespace: &str,
        key: &str,
        work: impl AsyncFnOnce(&SharedValues, SharedKey<'_>) -> Result<T, SharedValueError>,
    ) -> Kv<T> {
        self.enter()?;
        let owner = Arc::clone(&self.owner);
        Ok(match owner.place(namespace, key) {
            Ok((shared, place)) => work(shared, place).await.map_err(Into::into),
            Err(error) => Err(error),
        })
    }
}

impl Host for State {
    async fn get(&mut self, scope: Scope, namespace: String, key: String) -> Kv<Option<Vec<u8>>> {
        match scope {
            Scope::Node => told(node::Host::get(self, node::Scope::Node, namespace, key)),
            Scope::Store => self.shared(&namespace, &key, async |shared, at| shared.get(at).await).await,
        }
    }

    async fn set(
        &mut self,
        scope: Scope,
        namespace: String,
        key: String,
        value: Vec<u8>,
        ttl: u32,
    ) -> Kv<()> {
        match scope {
            Scope::Node => told(node::Host::set(self, node::Scope::Node, namespace, key, value, ttl)),
            Scope::Store => {
                self.shared(&namespace, &key, async |shared, at| shared.set(at, value, time(ttl)).await).await
            }
        }
    }

    async fn compare_and_set(
        &mut self,
        scope: Scope,
        namespace: String,
        key: String,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
        ttl: u32,
    ) -> Kv<bool> {
        let node = node::Scope::Node;
        match scope {
            Scope::Node => {
                told(node::Host::compare_and_set(self, node, namespace, key, expected, value, ttl))
            }
            Scope::Store => {
                let work = async |shared: &SharedValues, at: SharedKey<'_>| {
                    shared.compare_and_set(at, expected.as_deref(), value, time(ttl)).await
                };
                self.shared(&namespace, &key, work).await
            }
        }
    }

    async fn delete(&mut self, scope: Scope, namespace: String, key: String) -> Kv<()> {
        match scope {
            Scope::Node => told(node::Host::delete(self, node::Scope::Node, namespace, key)),
            Scope::Store => self.shared(&namespace, &key, async |shared, at| shared.delete(at).await).await,
        }
    }

    async fn increment(
        &mut self,
        scope: Scope,
        namespace: String,
        key: String,
        by: i64,
        ttl: u32,
    ) -> Kv<i64> {
        match scope {
            Scope::Node => told(node::Host::increment(self, node::Scope::Node, namespace, key, by, ttl)),
            Scope::Store => {
                let work = async |shared: &SharedValues, at: SharedKey<'_>| {
                    shared.increment(at, by, time(ttl)).await
                };
                self.shared(&namespace, &key, work).await
            }
        }
    }
}
