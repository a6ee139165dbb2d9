//! The host as it is: calls of the imported functions.

use std::time::Duration;

use super::imports::sluice::plugin as wit;
use crate::key_value::Scope;
use crate::log::Level;
use crate::{ExchangeId, fetch, health, key_value};

pub(crate) fn log_enabled(level: Level) -> bool {
    wit::log::enabled(level_of(level))
}

pub(crate) fn log_write(level: Level, message: &str) {
    wit::log::write(level_of(level), message);
}

fn level_of(level: Level) -> wit::log::Level {
    match level {
        Level::Error => wit::log::Level::Error,
        Level::Warn => wit::log::Level::Warn,
        Level::Info => wit::log::Level::Info,
        Level::Debug => wit::log::Level::Debug,
        Level::Trace => wit::log::Level::Trace,
    }
}

pub(crate) fn event(exchange: ExchangeId, rule: &str, action: &str, detail: &str) {
    wit::events::note(exchange.0, rule, action, detail);
}

pub(crate) fn metric_add(name: &str, by: u64) {
    wit::metrics::add(name, by);
}

pub(crate) fn metric_observe(name: &str, value: f64) {
    wit::metrics::observe(name, value);
}

pub(crate) fn clock_now() -> u64 {
    wit::clock::now()
}

pub(crate) fn clock_monotonic() -> u64 {
    wit::clock::monotonic()
}

pub(crate) fn random(length: u32) -> Vec<u8> {
    wit::clock::random(length)
}

pub(crate) fn file_read(path: &str) -> Result<Vec<u8>, String> {
    wit::files::read(path)
}

pub(crate) fn health_nodes(upstream: &str) -> Vec<health::Node> {
    let node = |node: wit::health::Node| health::Node {
        upstream: node.upstream,
        line: node.line,
        address: node.address,
        healthy: node.healthy,
        rtt: node.rtt.map(|rtt| Duration::from_micros(rtt.into())),
    };
    wit::health::nodes(upstream).into_iter().map(node).collect()
}

pub(crate) fn fetch(request: fetch::Request) -> Result<fetch::Response, fetch::Error> {
    let request = wit::fetch::Request {
        method: request.method,
        url: request.url,
        headers: request.headers.into_iter().map(Into::into).collect(),
        body: request.body,
        timeout: u32::try_from(request.timeout.as_millis()).unwrap_or(u32::MAX),
    };
    let response = wit::fetch::send(&request).map_err(|error| match error {
        wit::fetch::Error::Denied(reason) => fetch::Error::Denied(reason),
        wit::fetch::Error::Timeout => fetch::Error::Timeout,
        wit::fetch::Error::Failed(reason) => fetch::Error::Failed(reason),
    })?;
    Ok(fetch::Response {
        status: response.status,
        headers: response.headers.into_iter().map(Into::into).collect(),
        body: response.body,
    })
}

fn scope_of(scope: Scope) -> wit::key_value::Scope {
    match scope {
        Scope::Node => wit::key_value::Scope::Node,
        Scope::Store => wit::key_value::Scope::Store,
    }
}

fn error_of(error: wit::key_value::Error) -> key_value::Error {
    match error {
        wit::key_value::Error::Denied => key_value::Error::Denied,
        wit::key_value::Error::Full => key_value::Error::Full,
        wit::key_value::Error::Other(reason) => key_value::Error::Other(reason),
    }
}

pub(crate) fn key_value_get(
    scope: Scope,
    namespace: &str,
    key: &str,
) -> Result<Option<Vec<u8>>, key_value::Error> {
    wit::key_value::get(scope_of(scope), namespace, key).map_err(error_of)
}

pub(crate) fn key_value_set(
    scope: Scope,
    namespace: &str,
    key: &str,
    value: &[u8],
    ttl: u32,
) -> Result<(), key_value::Error> {
    wit::key_value::set(scope_of(scope), namespace, key, value, ttl).map_err(error_of)
}

pub(crate) fn key_value_compare_and_set(
    scope: Scope,
    namespace: &str,
    key: &str,
    expected: Option<&[u8]>,
    value: &[u8],
    ttl: u32,
) -> Result<bool, key_value::Error> {
    wit::key_value::compare_and_set(scope_of(scope), namespace, key, expected, value, ttl).map_err(error_of)
}

pub(crate) fn key_value_delete(scope: Scope, namespace: &str, key: &str) -> Result<(), key_value::Error> {
    wit::key_value::delete(scope_of(scope), namespace, key).map_err(error_of)
}

pub(crate) fn key_value_increment(
    scope: Scope,
    namespace: &str,
    key: &str,
    by: i64,
    ttl: u32,
) -> Result<i64, key_value::Error> {
    wit::key_value::increment(scope_of(scope), namespace, key, by, ttl).map_err(error_of)
}
