//! `sluice status --fleet`: the nodes that read the same store.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use super::client::{EXIT_NOT_READY, EXIT_READY, EXIT_UNREACHABLE, Form};

/// The longest the question may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer that is read.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// What `/v1/fleet` says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fleet {
    nodes: Vec<Node>,
    error_msg: Option<String>,
}

/// A node, as it tells of itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Node {
    id: String,
    region: String,
    version: String,
    state: String,
    revision: u64,
    digest: String,
    quarantined: usize,
    modules: Vec<Module>,
    lines: Vec<Line>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Module {
    name: String,
    active: String,
    state: String,
    canary: Option<String>,
    trial: Option<String>,
}

impl Module {
    /// The version that serves, unless it was withdrawn, and the one that is tried.
    fn shown(&self) -> String {
        let (name, active) = (&self.name, &self.active);
        match (self.state.as_str(), &self.canary, &self.trial) {
            ("withdrawn", ..) => format!("{name}={active}:withdrawn"),
            (_, Some(canary), Some(trial)) => format!("{name}={active}+{canary}:{trial}"),
            _ => format!("{name}={active}"),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    upstream: String,
    line: String,
    state: super::State,
}

/// Asks a node for its fleet and shows it. Gives the exit code: 0 when every
/// node is ready and has the same objects, 2 when not, 1 when nobody answers.
#[must_use]
pub fn run(address: SocketAddr, form: Form) -> u8 {
    let text = match fetch(address) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("sluice status: no answer from {address}: {error}");
            return EXIT_UNREACHABLE;
        }
    };
    let fleet: Fleet = match serde_json::from_str(&text) {
        Ok(fleet) => fleet,
        Err(error) => {
            eprintln!("sluice status: {address} gives no fleet: {error}");
            return EXIT_UNREACHABLE;
        }
    };
    if let Some(error) = &fleet.error_msg {
        eprintln!("sluice status: {error}");
        return EXIT_UNREACHABLE;
    }
    let shown = if form == Form::Json { text + "\n" } else { render(&fleet.nodes) };
    // A closed pipe is no failure of the fleet.
    let _ = io::stdout().write_all(shown.as_bytes());
    if is_even(&fleet.nodes) { EXIT_READY } else { EXIT_NOT_READY }
}

fn fetch(address: SocketAddr) -> Result<String, ureq::Error> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .proxy(None)
        .build()
        .into();
    let mut answer = agent.get(format!("http://{address}/v1/fleet")).call()?;
    answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string()
}

/// Whether every node is ready and has the same objects.
fn is_even(nodes: &[Node]) -> bool {
    nodes
        .iter()
        .all(|node| node.state == "ready" && Some(&node.digest) == nodes.first().map(|first| &first.digest))
}

fn render(nodes: &[Node]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header([
        "NODE",
        "REGION",
        "VERSION",
        "STATE",
        "REVISION",
        "OBJECTS",
        "QUARANTINED",
        "MODULES",
        "LINES DOWN",
    ]);
    for node in nodes {
        let modules: Vec<String> = node.modules.iter().map(Module::shown).collect();
        let down: Vec<String> = node
            .lines
            .iter()
            .filter(|line| !line.state.is_up())
            .map(|line| format!("{}/{}", line.upstream, line.line))
            .collect();
        table.add_row([
            node.id.clone(),
            node.region.clone(),
            node.version.clone(),
            node.state.clone(),
            node.revision.to_string(),
            node.digest.chars().take(8).collect(),
            node.quarantined.to_string(),
            modules.join(" "),
            down.join(" "),
        ]);
    }
    let note = if is_even(nodes) { "" } else { "the nodes are not all ready with the same objects\n" };
    format!("{table}\n{} nodes\n{note}", nodes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_is_even_when_all_are_ready_with_the_same_objects() {
        let text = r#"{"nodes": [
            {"id": "a", "region": "hk", "state": "ready", "revision": 7, "digest": "00ff", "lines": [
                {"upstream": "upstreams/im", "line": "leased", "state": "unhealthy"}]},
            {"id": "b", "state": "ready", "revision": 7, "digest": "00ff",
             "modules": [{"name": "waf", "active": "1.2", "canary": "1.3", "trial": "running"},
                         {"name": "guard", "active": "7", "state": "withdrawn"}], "new": 1}]}"#;
        let mut fleet: Fleet = serde_json::from_str(text).unwrap();
        assert!(is_even(&fleet.nodes));
        let shown = render(&fleet.nodes);
        for words in ["upstreams/im/leased", "waf=1.2+1.3:running", "guard=7:withdrawn", "2 nodes"] {
            assert!(shown.contains(words), "{shown}");
        }
        fleet.nodes[1].digest = "01ff".to_owned();
        assert!(!is_even(&fleet.nodes) && render(&fleet.nodes).contains("not all ready"));
    }
}
