//! `/v1/healthcheck` in the form of APISIX's control API.

use serde::Serialize;

use super::exchange::Response;
use super::status::{HealthCounter, LineStatus, State, Status, UpstreamStatus};

/// One checked upstream.
#[derive(Debug, Serialize)]
struct Checked<'a> {
    name: String,
    #[serde(rename = "type")]
    check: &'a str,
    nodes: Vec<CheckedNode<'a>>,
}

#[derive(Debug, Serialize)]
struct CheckedNode<'a> {
    hostname: &'a str,
    ip: &'a str,
    port: u16,
    status: State,
    counter: HealthCounter,
    /// Ours: the line the node belongs to.
    line: &'a str,
}

/// All upstreams that are checked.
pub(super) fn list(status: &Status) -> Response {
    let list: Vec<_> = status.upstreams.iter().filter_map(checked).collect();
    Response::json(200, &list)
}

/// The upstream of one object.
pub(super) fn one(status: &Status, kind: &str, id: &str) -> Response {
    if !["upstreams", "services", "routes", "stream_routes"].contains(&kind) {
        return Response::error(400, &format!("invalid src type {kind}"));
    }
    let found = status.upstreams.iter().find(|upstream| upstream.kind == kind && upstream.id == id);
    match found.and_then(checked) {
        Some(found) => Response::json(200, &found),
        None => Response::error(404, &format!("no checker for {kind}[{id}]")),
    }
}

fn checked(upstream: &UpstreamStatus) -> Option<Checked<'_>> {
    Some(Checked {
        name: format!("/apisix/{}/{}", upstream.kind, upstream.id),
        check: upstream.check.as_deref()?,
        nodes: upstream.lines.iter().flat_map(checked_nodes).collect(),
    })
}

fn checked_nodes(line: &LineStatus) -> impl Iterator<Item = CheckedNode<'_>> {
    line.nodes.iter().map(|node| CheckedNode {
        hostname: &node.host,
        ip: node.addresses.first().unwrap_or(&node.host),
        port: node.port,
        // Nobody has spoken against it: APISIX calls that healthy.
        status: if node.state == State::Unknown { State::Healthy } else { node.state },
        counter: node.counter,
        line: &line.name,
    })
}
