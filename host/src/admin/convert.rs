//! The status of other modules in the words of this one's schema.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::{Key, Quarantine};
use crate::upstream;

use super::status::{HealthCounter, LineStatus, NodeStatus, Quarantined, Since, State, UpstreamStatus};

impl UpstreamStatus {
    /// How `upstream` is. `kind` and `id` name the object it is written in,
    /// `check` the type of its active checks, if it has any.
    #[must_use]
    pub fn of(kind: &str, id: &str, check: Option<&str>, upstream: &upstream::Upstream) -> Self {
        Self::from_parts(kind, id, check, upstream::status(upstream))
    }

    fn from_parts(kind: &str, id: &str, check: Option<&str>, found: upstream::UpstreamStatus) -> Self {
        let in_use = found.line_in_use;
        Self {
            kind: kind.into(),
            id: id.into(),
            scheme: found.scheme.into(),
            check: check.map(Into::into),
            lines: found
                .lines
                .into_iter()
                .map(|line| {
                    let active = in_use.as_ref() == Some(&line.name);
                    self::line(line, active)
                })
                .collect(),
        }
    }
}

fn line(found: upstream::LineStatus, active: bool) -> LineStatus {
    let state = match found.state {
        "up" if found.flaps > 0 => State::MostlyHealthy,
        "up" => State::Healthy,
        "probing" => State::Held,
        _ => State::Unhealthy,
    };
    let why = match found.state {
        "withdrawn" => Some("withdrawn by hand".to_owned()),
        "probing" => found.hold_until.map(|until| {
            let left = (until - now()).max(0.0).ceil();
            format!(
                "answers again, taken back in {left:.0} s if it goes on ({})",
                found.why.unwrap_or("down before")
            )
        }),
        _ => found.why.map(Into::into),
    };
    LineStatus {
        name: found.name.to_string(),
        priority: found.priority,
        via: found.via.into_iter().map(Into::into).collect(),
        active,
        state,
        why,
        since: Since::seconds(found.since),
        rtt_ms: found.rtt.rtt_average_ms.or(found.rtt.rtt_ms),
        failures: found.counts.connect_failures,
        in_use: found.counts.in_use.into(),
        nodes: found.nodes.into_iter().map(node).collect(),
    }
}

fn node(found: upstream::NodeStatus) -> NodeStatus {
    let (host, port) = found.name.rsplit_once(':').unwrap_or((&found.name, "0"));
    let [success, http_failure, tcp_failure, timeout_failure] = found.in_a_row;
    let stale = found.stale.map(|stale| format!("its addresses are old: {}", stale.why));
    NodeStatus {
        host: host.trim_start_matches('[').trim_end_matches(']').into(),
        port: port.parse().unwrap_or(0),
        addresses: found.addresses.iter().map(ToString::to_string).collect(),
        weight: found.weight,
        priority: found.priority,
        state: match found.state {
            "up" if stale.is_some() => State::MostlyHealthy,
            "up" => State::Healthy,
            "probing" => State::MostlyUnhealthy,
            _ => State::Unhealthy,
        },
        why: found.why.map(Into::into).or(stale),
        since: Since::seconds(found.since),
        rtt_ms: found.rtt.rtt_average_ms.or(found.rtt.rtt_ms),
        failures: found.counts.failures,
        in_use: found.counts.in_use.into(),
        counter: HealthCounter { success, http_failure, tcp_failure, timeout_failure },
    }
}

impl Quarantined {
    /// An object that could not be used; `last_good` says whether an earlier
    /// version of it is in force.
    #[must_use]
    pub fn of(key: &Key, quarantine: &Quarantine, last_good: bool) -> Self {
        let since = quarantine.since.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            kind: key.0.name().into(),
            id: key.1.as_str().into(),
            origin: quarantine.origin.to_string(),
            reason: quarantine.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            last_good,
            since: Since::seconds(since.as_secs_f64()),
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Counts, Rtt};

    fn rtt() -> Rtt {
        Rtt { rtt_ms: Some(2.0), rtt_average_ms: None }
    }

    fn counts() -> Counts {
        Counts { in_use: 3, requests: 9, failures: 4, connects: 5, connect_failures: 2 }
    }

    fn found(state: &'static str, node_state: &'static str) -> upstream::UpstreamStatus {
        let node = upstream::NodeStatus {
            name: "[::1]:9000".into(),
            weight: 1,
            priority: 0,
            state: node_state,
            since: now() - 60.0,
            why: None,
            in_a_row: [0, 1, 2, 3],
            last_failure: None,
            addresses: Vec::new(),
            stale: None,
            rtt: rtt(),
            latency_ms: None,
            counts: counts(),
        };
        let line = upstream::LineStatus {
            name: "leased".into(),
            priority: 10,
            via: vec!["relay:7443".into()],
            state,
            since: now() - 60.0,
            why: Some("refused"),
            hold_until: Some(now() + 5.0),
            flaps: 0,
            rtt: rtt(),
            counts: counts(),
            nodes: vec![node],
        };
        upstream::UpstreamStatus {
            id: "u".into(),
            scheme: "tlv",
            up: state == "up",
            line_in_use: Some("leased".into()),
            lines: vec![line],
        }
    }

    #[test]
    fn states_are_said_in_the_words_of_apisix() {
        for (line, node, expected) in [
            ("up", "up", (State::Healthy, State::Healthy)),
            ("down", "down", (State::Unhealthy, State::Unhealthy)),
            ("probing", "probing", (State::Held, State::MostlyUnhealthy)),
            ("withdrawn", "up", (State::Unhealthy, State::Healthy)),
        ] {
            let status = UpstreamStatus::from_parts("upstreams", "u", Some("tlv"), found(line, node));
            let shown = &status.lines[0];
            assert_eq!((shown.state, shown.nodes[0].state), expected);
            assert!(shown.active && (59..=62).contains(&shown.since.for_seconds), "{:?}", shown.since);
        }
    }

    #[test]
    fn a_node_keeps_its_name_and_counts() {
        let status = UpstreamStatus::from_parts("routes", "r", None, found("probing", "up"));
        let line = &status.lines[0];
        assert!(line.why.as_ref().unwrap().starts_with("answers again, taken back in "), "{:?}", line.why);
        assert_eq!(line.via, ["relay:7443"]);
        let node = &line.nodes[0];
        assert_eq!((node.name(), node.rtt_ms), ("[::1]:9000".to_owned(), Some(2.0)));
        assert_eq!((node.failures, node.in_use, line.failures), (4, 3, 2));
        let counter = HealthCounter { success: 0, http_failure: 1, tcp_failure: 2, timeout_failure: 3 };
        assert_eq!(node.counter, counter);
    }
}
