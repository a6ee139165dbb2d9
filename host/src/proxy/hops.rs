//! The gateways an HTTP request passed: `x-sluice-path`, checked when it comes
//! in and signed with one more hop when it goes on.

use std::net::IpAddr;
use std::time::SystemTime;

use super::journey::Journey;
use super::worker::Worker;
use crate::message::path_signature::{Hop, Path};
use crate::message::{Fields, Name};
use crate::observe::ReasonFamily;
use crate::upstream::Target;

/// Takes the path out of a request's fields. Only one that the fleet signed is
/// returned; any other is counted and gone.
pub(super) fn take(worker: &Worker, fields: &mut Fields) -> Option<Box<Path>> {
    let Some(key) = &worker.shared.node.fleet_key else {
        fields.remove_known(Name::SluicePath);
        return None;
    };
    match key.take(fields, now_ms())? {
        Ok(path) => Some(Box::new(path)),
        Err(error) => {
            worker.metrics.reason(ReasonFamily::Identity, error.as_str());
            None
        }
    }
}

/// Sets the path with this gateway and the line of `target` as its last hop.
pub(super) fn sign(journey: &mut Journey, target: &Target) {
    let node = &journey.worker.shared.node;
    let Some(key) = &node.fleet_key else { return };
    let client: IpAddr = journey.exchange.client_ip;
    let hop = Hop { node: &node.id, region: &node.region, line: &target.line.name, at_ms: now_ms() };
    let mut text = Vec::with_capacity(256);
    match key.extend(journey.path.as_deref(), client, hop, &mut text) {
        Ok(()) => journey.exchange.request.fields.set(Name::SluicePath.as_str().as_bytes(), &text),
        // Longer than any way through the fleet should be: it goes on unsigned.
        Err(error) => journey.worker.metrics.reason(ReasonFamily::Identity, error.as_str()),
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
