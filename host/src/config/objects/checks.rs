//! Health checks of an upstream, with APISIX's fields and defaults.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::route::validate_positive;
use super::{is_host_pattern, units, validate_unique};
use crate::config::{Id, Problems};

/// How long a probe may take.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// How many probes of one upstream may run at once.
pub const CHECK_CONCURRENCY: u32 = 10;
/// The path of an HTTP probe.
pub const CHECK_HTTP_PATH: &str = "/";
/// How often a node is probed.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time between two probes.
pub const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Statuses that make an active probe good.
pub const ACTIVE_HEALTHY_STATUSES: [u16; 2] = [200, 302];
/// Statuses that make an active probe bad.
pub const ACTIVE_UNHEALTHY_STATUSES: [u16; 8] = [429, 404, 500, 501, 502, 503, 504, 505];
/// Good probes after which a node is healthy.
pub const ACTIVE_SUCCESSES: u32 = 2;
/// Bad statuses after which a probed node is unhealthy.
pub const ACTIVE_HTTP_FAILURES: u32 = 5;
/// Failed connections after which a probed node is unhealthy.
pub const ACTIVE_TCP_FAILURES: u32 = 2;
/// Probes without an answer after which a node is unhealthy.
pub const ACTIVE_TIMEOUTS: u32 = 3;
/// Statuses of real traffic that count as good.
pub const PASSIVE_HEALTHY_STATUSES: [u16; 19] =
    [200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 306, 307, 308];
/// Statuses of real traffic that count as bad.
pub const PASSIVE_UNHEALTHY_STATUSES: [u16; 3] = [429, 500, 503];
/// Good answers after which a node is healthy.
pub const PASSIVE_SUCCESSES: u32 = 5;
/// Bad statuses in traffic after which a node is unhealthy.
pub const PASSIVE_HTTP_FAILURES: u32 = 5;
/// Failed connections in traffic after which a node is unhealthy.
pub const PASSIVE_TCP_FAILURES: u32 = 2;
/// Missing answers in traffic after which a node is unhealthy.
pub const PASSIVE_TIMEOUTS: u32 = 7;
/// The command of a TLV probe: a heartbeat.
pub const CHECK_TLV_COMMAND: u32 = 0x0001;
/// The most a count of successes or failures can be.
pub const CHECK_COUNT_MAX: u32 = 254;

/// How the health of nodes is found out. Each half works without the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checks {
    /// By probes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<ActiveCheck>,
    /// By what happens to traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive: Option<PassiveCheck>,
}

/// The protocol of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckType {
    /// A GET and its status.
    #[default]
    Http,
    /// A GET over TLS and its status.
    Https,
    /// A connection.
    Tcp,
    /// Ours: a heartbeat frame and its answer.
    Tlv,
}

/// Probes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActiveCheck {
    /// The protocol. Default `http`.
    #[serde(rename = "type", default)]
    pub check_type: CheckType,
    /// How long a probe may take. Default [`CHECK_TIMEOUT`].
    #[serde(default = "timeout", with = "units::duration")]
    pub timeout: Duration,
    /// How many probes may run at once. Default [`CHECK_CONCURRENCY`].
    #[serde(default = "concurrency")]
    pub concurrency: u32,
    /// The `Host` of the probe; the node's host when not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The port to probe; the node's when not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The path. Default [`CHECK_HTTP_PATH`].
    #[serde(default = "http_path")]
    pub http_path: String,
    /// Whether the certificate of an `https` probe is verified. Default true.
    #[serde(default = "super::yes")]
    pub https_verify_certificate: bool,
    /// More header lines, each `Name: value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub req_headers: Vec<String>,
    /// Ours: short for both intervals.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "units::duration_option")]
    pub interval: Option<Duration>,
    /// Ours: short for `healthy.successes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rise: Option<u32>,
    /// Ours: short for the three counts of `unhealthy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fall: Option<u32>,
    /// Ours, for `tlv`: the frame format. The upstream's traffic's own (`im20`) when not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame_format: Option<Id>,
    /// Ours, for `tlv`: the command sent; any answer is good. Default [`CHECK_TLV_COMMAND`].
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "units::code::option")]
    pub command: Option<u32>,
    /// When a node is healthy.
    #[serde(default)]
    pub healthy: ActiveHealthy,
    /// When a node is unhealthy.
    #[serde(default)]
    pub unhealthy: ActiveUnhealthy,
}

impl ActiveCheck {
    /// Time between probes of a healthy node.
    pub fn healthy_interval(&self) -> Duration {
        self.healthy.interval.or(self.interval).unwrap_or(CHECK_INTERVAL)
    }

    /// Time between probes of an unhealthy node.
    pub fn unhealthy_interval(&self) -> Duration {
        self.unhealthy.interval.or(self.interval).unwrap_or(CHECK_INTERVAL)
    }

    /// Good probes after which a node is healthy.
    pub fn successes(&self) -> u32 {
        self.healthy.successes.or(self.rise).unwrap_or(ACTIVE_SUCCESSES)
    }

    /// Bad statuses after which a node is unhealthy.
    pub fn http_failures(&self) -> u32 {
        self.unhealthy.http_failures.or(self.fall).unwrap_or(ACTIVE_HTTP_FAILURES)
    }

    /// Failed connections after which a node is unhealthy.
    pub fn tcp_failures(&self) -> u32 {
        self.unhealthy.tcp_failures.or(self.fall).unwrap_or(ACTIVE_TCP_FAILURES)
    }

    /// Probes without an answer after which a node is unhealthy.
    pub fn timeouts(&self) -> u32 {
        self.unhealthy.timeouts.or(self.fall).unwrap_or(ACTIVE_TIMEOUTS)
    }
}

/// What makes a probed node healthy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ActiveHealthy {
    /// Time between probes of a healthy node. Default [`CHECK_INTERVAL`].
    #[serde(skip_serializing_if = "Option::is_none", with = "units::duration_option")]
    pub interval: Option<Duration>,
    /// Statuses that are good. Default [`ACTIVE_HEALTHY_STATUSES`].
    pub http_statuses: Vec<u16>,
    /// How many good probes it takes. Default [`ACTIVE_SUCCESSES`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub successes: Option<u32>,
}

impl Default for ActiveHealthy {
    fn default() -> Self {
        Self { interval: None, http_statuses: ACTIVE_HEALTHY_STATUSES.to_vec(), successes: None }
    }
}

/// What makes a probed node unhealthy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ActiveUnhealthy {
    /// Time between probes of an unhealthy node. Default [`CHECK_INTERVAL`].
    #[serde(skip_serializing_if = "Option::is_none", with = "units::duration_option")]
    pub interval: Option<Duration>,
    /// Statuses that are bad. Default [`ACTIVE_UNHEALTHY_STATUSES`].
    pub http_statuses: Vec<u16>,
    /// How many bad statuses it takes. Default [`ACTIVE_HTTP_FAILURES`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_failures: Option<u32>,
    /// How many failed connections it takes. Default [`ACTIVE_TCP_FAILURES`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_failures: Option<u32>,
    /// How many missing answers it takes. Default [`ACTIVE_TIMEOUTS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<u32>,
}

impl Default for ActiveUnhealthy {
    fn default() -> Self {
        Self {
            interval: None,
            http_statuses: ACTIVE_UNHEALTHY_STATUSES.to_vec(),
            http_failures: None,
            tcp_failures: None,
            timeouts: None,
        }
    }
}

/// What is learned from traffic.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassiveCheck {
    /// The protocol; statuses count for `http` and `https` only. Default `http`.
    #[serde(rename = "type", default)]
    pub check_type: CheckType,
    /// When a node is healthy.
    #[serde(default)]
    pub healthy: PassiveHealthy,
    /// When a node is unhealthy.
    #[serde(default)]
    pub unhealthy: PassiveUnhealthy,
}

/// What in traffic makes a node healthy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PassiveHealthy {
    /// Statuses that are good. Default [`PASSIVE_HEALTHY_STATUSES`].
    pub http_statuses: Vec<u16>,
    /// How many it takes; 0 means never. Default [`PASSIVE_SUCCESSES`].
    pub successes: u32,
}

impl Default for PassiveHealthy {
    fn default() -> Self {
        Self { http_statuses: PASSIVE_HEALTHY_STATUSES.to_vec(), successes: PASSIVE_SUCCESSES }
    }
}

/// What in traffic makes a node unhealthy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PassiveUnhealthy {
    /// Statuses that are bad. Default [`PASSIVE_UNHEALTHY_STATUSES`].
    pub http_statuses: Vec<u16>,
    /// How many bad statuses it takes; 0 means never. Default [`PASSIVE_HTTP_FAILURES`].
    pub http_failures: u32,
    /// How many failed connections it takes; 0 means never. Default [`PASSIVE_TCP_FAILURES`].
    pub tcp_failures: u32,
    /// How many missing answers it takes; 0 means never. Default [`PASSIVE_TIMEOUTS`].
    pub timeouts: u32,
}

impl Default for PassiveUnhealthy {
    fn default() -> Self {
        Self {
            http_statuses: PASSIVE_UNHEALTHY_STATUSES.to_vec(),
            http_failures: PASSIVE_HTTP_FAILURES,
            tcp_failures: PASSIVE_TCP_FAILURES,
            timeouts: PASSIVE_TIMEOUTS,
        }
    }
}

fn timeout() -> Duration {
    CHECK_TIMEOUT
}

fn concurrency() -> u32 {
    CHECK_CONCURRENCY
}

fn http_path() -> String {
    CHECK_HTTP_PATH.to_owned()
}

impl Checks {
    pub(super) fn validate(&self, problems: &mut Problems) {
        if self.active.is_none() && self.passive.is_none() {
            problems.add_plain("", "needs active, passive, or both");
        }
        if let Some(active) = &self.active {
            problems.within("active", |problems| active.validate(problems));
        }
        if let Some(passive) = &self.passive {
            problems.within("passive", |problems| passive.validate(problems));
        }
    }
}

impl ActiveCheck {
    fn validate(&self, problems: &mut Problems) {
        validate_positive("timeout", self.timeout, problems);
        if self.concurrency == 0 {
            problems.add("concurrency", 0, "must be at least 1");
        }
        if let Some(host) = &self.host
            && !is_host_pattern(host)
        {
            problems.add("host", host.as_str(), "must be a host name or address");
        }
        if self.port == Some(0) {
            problems.add("port", 0, "must be 1 to 65535");
        }
        if !self.http_path.starts_with('/') || self.http_path.bytes().any(|b| b <= b' ' || b == 0x7f) {
            problems.add("http_path", self.http_path.as_str(), "must begin with '/' and hold no spaces");
        }
        for (index, line) in self.req_headers.iter().enumerate() {
            if !is_header_line(line) {
                let field = format!("req_headers[{index}]");
                problems.add(&field, line.as_str(), "must be a header line such as \"User-Agent: probe\"");
            }
        }
        let tlv = self.check_type == CheckType::Tlv;
        if !tlv && let Some(format) = &self.frame_format {
            problems.add("frame_format", format.as_str(), "is for checks of type tlv only");
        }
        if !tlv && let Some(command) = self.command {
            problems.add("command", command, "is for checks of type tlv only");
        }
        let intervals = [
            ("interval", self.interval),
            ("healthy.interval", self.healthy.interval),
            ("unhealthy.interval", self.unhealthy.interval),
        ];
        for (field, interval) in intervals {
            if let Some(interval) = interval
                && interval < CHECK_INTERVAL_MIN
            {
                problems.add(field, interval.as_secs_f64(), "must be at least 10ms");
            }
        }
        let counts = [
            ("rise", self.rise),
            ("fall", self.fall),
            ("healthy.successes", self.healthy.successes),
            ("unhealthy.http_failures", self.unhealthy.http_failures),
            ("unhealthy.tcp_failures", self.unhealthy.tcp_failures),
            ("unhealthy.timeouts", self.unhealthy.timeouts),
        ];
        for (field, count) in counts {
            if let Some(count) = count
                && !(1..=CHECK_COUNT_MAX).contains(&count)
            {
                problems.add(field, count, "must be 1 to 254");
            }
        }
        validate_statuses("healthy.http_statuses", &self.healthy.http_statuses, problems);
        validate_statuses("unhealthy.http_statuses", &self.unhealthy.http_statuses, problems);
    }
}

impl PassiveCheck {
    fn validate(&self, problems: &mut Problems) {
        let counts = [
            ("healthy.successes", self.healthy.successes),
            ("unhealthy.http_failures", self.unhealthy.http_failures),
            ("unhealthy.tcp_failures", self.unhealthy.tcp_failures),
            ("unhealthy.timeouts", self.unhealthy.timeouts),
        ];
        for (field, count) in counts {
            if count > CHECK_COUNT_MAX {
                problems.add(field, count, "must be 0 to 254");
            }
        }
        validate_statuses("healthy.http_statuses", &self.healthy.http_statuses, problems);
        validate_statuses("unhealthy.http_statuses", &self.unhealthy.http_statuses, problems);
    }
}

fn validate_statuses(field: &str, statuses: &[u16], problems: &mut Problems) {
    if statuses.is_empty() {
        problems.add(field, 0, "must hold at least one status");
    }
    validate_unique(field, statuses, problems);
    for (index, status) in statuses.iter().enumerate() {
        if !(200..=599).contains(status) {
            problems.add(&format!("{field}[{index}]"), *status, "must be 200 to 599");
        }
    }
}

fn is_header_line(line: &str) -> bool {
    let Some((name, value)) = line.split_once(':') else { return false };
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(token) && !value.bytes().any(|b| b < b' ' && b != b'\t' || b == 0x7f)
}
