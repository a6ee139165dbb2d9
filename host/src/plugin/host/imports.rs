//! The imports of `wit/host.wit`.

use std::time::{SystemTime, UNIX_EPOCH};

use super::kv::KeyValueError;
use super::{Level, NOTE_LENGTH_MAX, NOTES_MAX, Note, State, wit};

/// Bytes of randomness in one call.
const RANDOM_BYTES_MAX: u32 = 1024;

impl wit::types::Host for State {}

impl From<wit::log::Level> for Level {
    fn from(level: wit::log::Level) -> Self {
        match level {
            wit::log::Level::Error => Self::ERROR,
            wit::log::Level::Warn => Self::WARN,
            wit::log::Level::Info => Self::INFO,
            wit::log::Level::Debug => Self::DEBUG,
            wit::log::Level::Trace => Self::TRACE,
        }
    }
}

impl wit::log::Host for State {
    fn enabled(&mut self, level: wit::log::Level) -> wasmtime::Result<bool> {
        self.enter()?;
        Ok(super::lines::is_enabled(level.into()))
    }

    fn write(&mut self, level: wit::log::Level, message: String) -> wasmtime::Result<()> {
        self.enter()?;
        self.owner.lines.write(&self.owner.module, level.into(), &message);
        Ok(())
    }
}

impl wit::events::Host for State {
    fn note(&mut self, _: u64, rule: String, action: String, detail: String) -> wasmtime::Result<()> {
        self.enter()?;
        if self.notes.len() < NOTES_MAX {
            let note = Note { rule: cut(rule), action: cut(action), detail: cut(detail) };
            self.owner.services.metrics.event(&self.owner.module, &note.action);
            self.notes.push(note);
        }
        Ok(())
    }
}

/// A text for a log line: without control characters and not too long.
fn cut(text: String) -> Box<str> {
    text.chars().filter(|c| !c.is_control()).take(NOTE_LENGTH_MAX).collect::<String>().into()
}

impl wit::metrics::Host for State {
    fn add(&mut self, name: String, by: u64) -> wasmtime::Result<()> {
        self.enter()?;
        self.owner.services.metrics.add(&self.owner.module, &name, by);
        Ok(())
    }

    fn observe(&mut self, name: String, value: f64) -> wasmtime::Result<()> {
        self.enter()?;
        self.owner.services.metrics.observe(&self.owner.module, &name, value);
        Ok(())
    }
}

impl wit::clock::Host for State {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.enter()?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(since.as_millis() as u64)
    }

    fn monotonic(&mut self) -> wasmtime::Result<u64> {
        self.enter()?;
        Ok(self.owner.services.started.elapsed().as_nanos() as u64)
    }

    fn random(&mut self, length: u32) -> wasmtime::Result<Vec<u8>> {
        self.enter()?;
        let mut bytes = vec![0; length.min(RANDOM_BYTES_MAX) as usize];
        getrandom::fill(&mut bytes).map_err(|error| wasmtime::Error::msg(error.to_string()))?;
        Ok(bytes)
    }
}

impl State {
    /// Whether a namespace may be used, in a call that does not wait.
    fn namespace(&self, scope: wit::key_value::Scope, name: &str) -> Result<(), wit::key_value::Error> {
        match scope {
            wit::key_value::Scope::Node if self.owner.kv.iter().any(|granted| **granted == *name) => Ok(()),
            wit::key_value::Scope::Node => Err(wit::key_value::Error::Denied),
            // Who is granted it has calls that may wait.
            wit::key_value::Scope::Store => Err(wit::key_value::Error::Denied),
        }
    }
}

impl From<KeyValueError> for wit::key_value::Error {
    fn from(error: KeyValueError) -> Self {
        match error {
            KeyValueError::Full => Self::Full,
            other => Self::Other(other.to_string()),
        }
    }
}

type Kv<T> = wasmtime::Result<Result<T, wit::key_value::Error>>;

impl wit::key_value::Host for State {
    fn get(&mut self, scope: wit::key_value::Scope, namespace: String, key: String) -> Kv<Option<Vec<u8>>> {
        self.enter()?;
        Ok(self.namespace(scope, &namespace).map(|()| self.owner.services.kv.get(&namespace, &key)))
    }

    fn set(
        &mut self,
        scope: wit::key_value::Scope,
        namespace: String,
        key: String,
        value: Vec<u8>,
        ttl: u32,
    ) -> Kv<()> {
        self.enter()?;
        Ok(self
            .namespace(scope, &namespace)
            .and_then(|()| self.owner.services.kv.set(&namespace, &key, value, ttl).map_err(Into::into)))
    }

    fn compare_and_set(
        &mut self,
        scope: wit::key_value::Scope,
        namespace: String,
        key: String,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
        ttl: u32,
    ) -> Kv<bool> {
        self.enter()?;
        Ok(self.namespace(scope, &namespace).and_then(|()| {
            let kv = &self.owner.services.kv;
            kv.compare_and_set(&namespace, &key, expected.as_deref(), value, ttl).map_err(Into::into)
        }))
    }

    fn delete(&mut self, scope: wit::key_value::Scope, namespace: String, key: String) -> Kv<()> {
        self.enter()?;
        Ok(self.namespace(scope, &namespace).map(|()| self.owner.services.kv.delete(&namespace, &key)))
    }

    fn increment(
        &mut self,
        scope: wit::key_value::Scope,
        namespace: String,
        key: String,
        by: i64,
        ttl: u32,
    ) -> Kv<i64> {
        self.enter()?;
        Ok(self
            .namespace(scope, &namespace)
            .and_then(|()| self.owner.services.kv.increment(&namespace, &key, by, ttl).map_err(Into::into)))
    }
}

impl wit::health::Host for State {
    fn nodes(&mut self, upstream: String) -> wasmtime::Result<Vec<wit::health::Node>> {
        self.enter()?;
        let nodes = (self.owner.services.health)(&upstream);
        Ok(nodes
            .into_iter()
            .map(|node| wit::health::Node {
                upstream: node.upstream,
                line: node.line,
                address: node.address,
                healthy: node.healthy,
                rtt: node.rtt,
            })
            .collect())
    }
}

impl wit::files::Host for State {
    fn read(&mut self, path: String) -> wasmtime::Result<Result<Vec<u8>, String>> {
        self.enter()?;
        Ok(match &mut self.files {
            Some(files) => files.read(&self.owner.services.base, &path),
            None => Err("files can be read during configure alone".to_owned()),
        })
    }
}

impl wit::fetch::Host for State {
    async fn send(
        &mut self,
        request: wit::fetch::Request,
    ) -> wasmtime::Result<Result<wit::fetch::Response, wit::fetch::Error>> {
        self.enter()?;
        Ok(super::fetch::send(&self.owner, request).await)
    }
}
