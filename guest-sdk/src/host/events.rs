//! What a plugin found, in the access log line of the exchange and in metrics.

use super::backend;
use crate::ExchangeId;

/// Notes what was found: `rule` names what matched, `action` is `detect` or
/// `block` or a word of the plugin's own, `detail` is a short text.
pub fn note(exchange: ExchangeId, rule: &str, action: &str, detail: &str) {
    backend::event(exchange, rule, action, detail);
}
