//! The schema of `/v1/status`.
//!
//! Field names carry their unit. The types are read back by `sluice status`,
//! which may be of another version than the gateway it asks: what is missing
//! gets a default, what is unknown is passed over.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::observe::usage;
use crate::plugin::TrialCounts;

/// Everything `/v1/status` says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Who answers.
    pub node: NodeInfo,
    /// `ready`, `starting` or `draining`.
    pub state: String,
    /// Why it is not ready.
    pub reason: Option<String>,
    /// The configuration it runs on.
    pub config: ConfigStatus,
    /// Where it listens.
    pub listeners: Vec<ListenerStatus>,
    /// Upstreams, their lines and nodes.
    pub upstreams: Vec<UpstreamStatus>,
    /// Plugin modules.
    pub modules: Vec<ModuleStatus>,
    /// Downstream connections and requests.
    pub connections: ConnectionStatus,
    /// What the process uses.
    pub process: ProcessStatus,
}

/// Who answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeInfo {
    /// The node's id, from the boot file.
    pub id: String,
    /// Its region.
    pub region: String,
    /// The program's version.
    pub version: String,
    /// The host's name.
    pub hostname: String,
    /// Worker threads.
    pub workers: usize,
}

/// The configuration in use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigStatus {
    /// Rises with every change that was applied; 0 before the first.
    pub revision: u64,
    /// Where it comes from: `directory /etc/sluice/conf`.
    pub source: String,
    /// When it was applied.
    #[serde(flatten)]
    pub applied: Since,
    /// Number of objects by kind.
    pub objects: std::collections::BTreeMap<String, usize>,
    /// Objects that could not be used.
    pub quarantined: Vec<Quarantined>,
    /// Objects whose last change breaks clients written for what was before.
    pub breaking: Vec<BreakingStatus>,
    /// Why the store cannot be read, when it cannot: the state is the last good one.
    pub stale: Option<String>,
    /// Which state of a remote store this is.
    pub store: Option<StoreStatus>,
}

/// A state of a remote store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreStatus {
    /// The id of the cluster, in hexadecimal.
    pub cluster: String,
    /// The revision of the last change of an object.
    pub revision: u64,
    /// The same on every node that has the same objects of the same revisions.
    pub digest: String,
    /// Whether it was read from this node's disk.
    pub is_kept: bool,
    /// The member it is read from now.
    pub endpoint: Option<String>,
}

/// What `/v1/config` says: which version of every object is in force.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InForce {
    /// As in the status.
    pub revision: u64,
    /// Revisions in the store, by `<kind>/<id>`: in a directory a hash of the file.
    pub objects: std::collections::BTreeMap<String, u64>,
}

/// An object that could not be used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quarantined {
    /// Its kind (`routes`).
    pub kind: String,
    /// Its id; empty when it could not be told.
    pub id: String,
    /// The file or key it was read from.
    pub origin: String,
    /// What is wrong, field and value named.
    pub reason: String,
    /// Whether an earlier version of it is still in use.
    pub last_good: bool,
    /// Since when.
    #[serde(flatten)]
    pub since: Since,
}

/// A change of what an object says of a module that breaks clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BreakingStatus {
    /// The object's kind (`routes`).
    pub kind: String,
    /// Its id.
    pub id: String,
    /// The module that says so.
    pub plugin: String,
    /// What clients stumble over, a text each.
    pub changes: Vec<String>,
    /// Since when.
    #[serde(flatten)]
    pub since: Since,
}

/// A listener.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListenerStatus {
    /// Its id.
    pub id: String,
    /// `http`, `tlv` or `tcp`.
    pub protocol: String,
    /// `off`, `terminate` or `passthrough`.
    pub tls: String,
    /// Its addresses.
    pub binds: Vec<BindStatus>,
    /// Open connections.
    pub connections: u64,
}

/// An address of a listener.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BindStatus {
    /// The address; with port 0 the one the system chose.
    pub address: String,
    /// Why it is not bound.
    pub error: Option<String>,
}

/// An upstream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamStatus {
    /// Kind of the object it is written in: `upstreams`, `services`, `routes`, `stream_routes`.
    pub kind: String,
    /// Id of that object.
    pub id: String,
    /// What it speaks.
    pub scheme: String,
    /// Type of its active checks (`http`, `https`, `tcp`, `tlv`); `passive` when
    /// only traffic is watched; none when nothing is.
    pub check: Option<String>,
    /// Its lines, the preferred one first.
    pub lines: Vec<LineStatus>,
}

/// A line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LineStatus {
    /// Its name.
    pub name: String,
    /// Its priority.
    pub priority: i32,
    /// The relays it goes through.
    pub via: Vec<String>,
    /// Whether new traffic takes it.
    pub active: bool,
    /// Its state.
    pub state: State,
    /// Why it is in that state.
    pub why: Option<String>,
    /// Since when.
    #[serde(flatten)]
    pub since: Since,
    /// Smoothed round trip time.
    pub rtt_ms: Option<f64>,
    /// Failures so far.
    pub failures: u64,
    /// Requests and sessions on it now.
    pub in_use: u64,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
}

/// A node of a line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Host as it is written: a name or an address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The addresses a name stands for now.
    pub addresses: Vec<String>,
    /// Share of the traffic.
    pub weight: u32,
    /// Priority inside the line.
    pub priority: i32,
    /// Its state.
    pub state: State,
    /// Why it is in that state.
    pub why: Option<String>,
    /// Since when.
    #[serde(flatten)]
    pub since: Since,
    /// Smoothed round trip time.
    pub rtt_ms: Option<f64>,
    /// Failures so far.
    pub failures: u64,
    /// Requests and sessions on it now.
    pub in_use: u64,
    /// The checks' counters, as APISIX shows them.
    pub counter: HealthCounter,
}

/// Counters of a node's checks: results in a row of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCounter {
    /// Successes.
    pub success: u32,
    /// Answers with a status that counts as a failure.
    pub http_failure: u32,
    /// Connections that failed.
    pub tcp_failure: u32,
    /// Timeouts.
    pub timeout_failure: u32,
}

/// The state of a line or node. Words are APISIX's where it has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Takes traffic.
    Healthy,
    /// Takes traffic, with failures lately.
    MostlyHealthy,
    /// Takes none, with successes lately.
    MostlyUnhealthy,
    /// Takes none.
    Unhealthy,
    /// Good again, waiting for its hold-down to pass.
    Held,
    /// Nobody watches it, or a later version's word.
    #[default]
    #[serde(other)]
    Unknown,
}

impl State {
    /// As it is written in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::MostlyHealthy => "mostly_healthy",
            Self::MostlyUnhealthy => "mostly_unhealthy",
            Self::Unhealthy => "unhealthy",
            Self::Held => "held",
            Self::Unknown => "unknown",
        }
    }

    /// Whether it takes traffic.
    #[must_use]
    pub fn is_up(self) -> bool {
        matches!(self, Self::Healthy | Self::MostlyHealthy | Self::Unknown)
    }
}

impl NodeStatus {
    /// `host:port`, an IPv6 address in brackets.
    #[must_use]
    pub fn name(&self) -> String {
        if self.host.contains(':') && !self.host.starts_with('[') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// A plugin module on this node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModuleStatus {
    /// Its name.
    pub name: String,
    /// The version that serves.
    pub active: String,
    /// The digest of that version's component.
    pub digest: String,
    /// All versions its object lists.
    pub versions: Vec<String>,
    /// `ready`; `preparing` while a version is compiled or tried out; `failed`
    /// when the version that is asked for cannot be used; `withdrawn` when the one
    /// that ran was stopped, because no trust key vouches for it any more.
    pub state: String,
    /// Why it is in that state.
    pub why: Option<String>,
    /// Who vouches for the version that serves.
    pub provenance: ProvenanceStatus,
    /// The version being tried on part of the traffic.
    pub canary: Option<String>,
    /// What is known of that version here.
    pub trial: Option<TrialStatus>,
    /// Versions that run: after a change also the old one, until its calls have ended.
    pub running: Vec<RunningStatus>,
    /// Since when.
    #[serde(flatten)]
    pub since: Since,
}

/// Who vouches for a version of a module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProvenanceStatus {
    /// `signed` by a trust key; `unsigned`; `unproven` by a signature that does
    /// not count here, where none is needed; `refused`.
    pub state: String,
    /// The trust key.
    pub key: Option<String>,
    /// The version's rising number.
    pub number: Option<u64>,
    /// When the signature ends.
    pub expires: Option<String>,
    /// Why the signature does not count.
    pub why: Option<String>,
}

/// A version of a module that is tried, on this node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrialStatus {
    /// `running`; `waiting` while it is prepared, or cannot be tried; `elsewhere`
    /// on other nodes; `rolled_back` by a threshold, here or on another node.
    pub state: String,
    /// Why it is in that state.
    pub why: Option<String>,
    /// The node that took it back.
    pub by: Option<String>,
    /// Hundredths of the clients it gets here.
    pub percent: f64,
    /// Whether it sees copies only.
    pub shadow: bool,
    /// What was counted of it.
    #[serde(flatten)]
    pub counts: TrialCounts,
    /// Since when.
    #[serde(flatten)]
    pub since: Since,
}

/// A version of a module that runs with one configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunningStatus {
    /// The version.
    pub version: String,
    /// The digest of its component.
    pub digest: String,
    /// Instances there are.
    pub instances: usize,
    /// Calls so far.
    pub calls: u64,
    /// Calls that gave no verdict, by kind: `trap`, `deadline`, `memory` and others.
    pub failures: std::collections::BTreeMap<String, u64>,
    /// Whether it is not called for a while, because it failed too often.
    pub breaker_open: bool,
    /// Milliseconds it took to try it out.
    pub prepared_in_ms: u64,
    /// Whether new instances, one for each exchange, begin configured.
    pub image: bool,
    /// Why they do not.
    pub no_image: Option<String>,
    /// Since when it is ready.
    #[serde(flatten)]
    pub since: Since,
}

/// Downstream connections and requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionStatus {
    /// Open now.
    pub active: u64,
    /// Accepted so far.
    pub accepted: u64,
    /// Requests in progress.
    pub requests_active: u64,
    /// Requests so far.
    pub requests: u64,
}

/// What the process uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessStatus {
    /// Process id.
    pub pid: u32,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Most descriptors it may open.
    pub descriptors_max: u64,
    /// CPU time used.
    pub cpu_ms: u64,
}

impl ProcessStatus {
    /// What this process uses now; it has run for `uptime`.
    #[must_use]
    pub fn now(uptime: Duration) -> Self {
        let usage = usage();
        Self {
            pid: std::process::id(),
            uptime_seconds: uptime.as_secs(),
            resident_bytes: usage.resident,
            descriptors: usage.descriptors,
            descriptors_max: usage.descriptors_max,
            cpu_ms: usage.cpu_ms,
        }
    }
}

/// A moment in the past: when, and how long ago.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Since {
    /// UTC, RFC 3339, to the second; empty when it never happened.
    pub since: String,
    /// Seconds that passed since, by the gateway's clock.
    pub for_seconds: u64,
}

impl Since {
    /// What happened at `instant`.
    #[must_use]
    pub fn instant(instant: Instant) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::seconds((now.as_secs_f64() - instant.elapsed().as_secs_f64()).max(0.0))
    }

    /// What happened at this time, in seconds since 1970.
    #[must_use]
    pub fn seconds(at: f64) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let since = jiff::Timestamp::from_second(at as i64).unwrap_or_default();
        Self {
            since: since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            // To the nearest: two readings of the clock may be a hair apart.
            for_seconds: (now - at).max(0.0).round() as u64,
        }
    }
}

/// Whether the gateway serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// The first snapshot is live.
    Ready,
    /// Not yet, and why.
    Starting(String),
    /// It serves what is open and takes nothing new.
    Draining,
}

impl Readiness {
    /// `ready`, `starting` or `draining`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Starting(_) => "starting",
            Self::Draining => "draining",
        }
    }

    /// Why it is not ready.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Ready => None,
            Self::Starting(reason) => Some(reason.clone()),
            Self::Draining => Some("the gateway is shutting down".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_version_says_can_be_read() {
        let older: Status = serde_json::from_str(r#"{"node": {"id": "n"}, "state": "ready"}"#).unwrap();
        assert_eq!((older.node.id.as_str(), older.upstreams.len()), ("n", 0));
        let newer = r#"{"upstreams": [{"id": "u", "new": 1, "lines": [{"name": "l", "state": "resting"}]}]}"#;
        let newer: Status = serde_json::from_str(newer).unwrap();
        assert_eq!(newer.upstreams[0].lines[0].state, State::Unknown);
    }

    #[test]
    fn a_status_survives_the_way_there_and_back() {
        let line = LineStatus {
            name: "leased".into(),
            state: State::MostlyUnhealthy,
            since: Since::instant(Instant::now()),
            rtt_ms: Some(0.25),
            nodes: vec![NodeStatus { host: "::1".into(), port: 9, ..NodeStatus::default() }],
            ..LineStatus::default()
        };
        let status = Status {
            upstreams: vec![UpstreamStatus { lines: vec![line], ..UpstreamStatus::default() }],
            process: ProcessStatus::now(Duration::from_secs(5)),
            ..Status::default()
        };
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
        assert!(
            text.contains(r#""state":"mostly_unhealthy""#) && text.contains(r#""for_seconds":0"#),
            "{text}"
        );
    }
}
