//! Logins under way, by token, in the host's shared values.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_sdk::key_value::Namespace;

pub(crate) use sluice_sdk::key_value::Error;

/// A login under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Login {
    /// A hash of the browser's secret: who reads the store cannot be the browser.
    pub(crate) browser: String,
    pub(crate) state: State,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    Waiting,
    /// By the phone of this user.
    Confirmed(String),
    /// The session was given.
    Taken,
}

/// A login as it was found, to be replaced only if it is still that.
pub(crate) struct Found {
    pub(crate) login: Login,
    bytes: Vec<u8>,
}

pub(crate) struct Store {
    namespace: Namespace,
}

/// The longest token that is looked up, in bytes; ours have 43.
const TOKEN_MAX: usize = 64;

impl Store {
    pub(crate) fn new(namespace: &str, is_shared: bool) -> Self {
        let namespace = if is_shared { Namespace::store(namespace) } else { Namespace::node(namespace) };
        Self { namespace }
    }

    pub(crate) fn begin(&self, token: &str, login: &Login, ttl: Duration) -> Result<(), Error> {
        self.namespace.set(token, &bytes(login)?, ttl)
    }

    pub(crate) fn find(&self, token: &str) -> Result<Option<Found>, Error> {
        if token.is_empty() || token.len() > TOKEN_MAX {
            return Ok(None);
        }
        let Some(bytes) = self.namespace.get(token)? else { return Ok(None) };
        let login = serde_json::from_slice(&bytes).map_err(|error| Error::Other(error.to_string()))?;
        Ok(Some(Found { login, bytes }))
    }

    /// Says whether it did: not when the login has changed since it was found.
    pub(crate) fn replace(
        &self,
        token: &str,
        found: &Found,
        by: &Login,
        ttl: Duration,
    ) -> Result<bool, Error> {
        self.namespace.compare_and_set(token, Some(&found.bytes), &bytes(by)?, ttl)
    }
}

fn bytes(login: &Login) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(login).map_err(|error| Error::Other(error.to_string()))
}
