//! Metric families made of what other modules count.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::net::{CloseReason, Counters, HandshakeFailure, ProxyHeaderFailure};
use crate::observe::{Collect, Exposition, Kind, LogWriter, Metrics};

use super::status::{LineStatus, NodeStatus, Status, UpstreamStatus};
use super::{Gateway, Readiness};

/// Connections, handshakes and PROXY headers, from `net`'s counters.
pub struct NetCollector {
    counters: Arc<Counters>,
    metrics: std::sync::Weak<Metrics>,
}

impl NetCollector {
    /// Shows `counters`; `metrics` knows how many requests are in progress.
    #[must_use]
    pub fn new(counters: Arc<Counters>, metrics: &Arc<Metrics>) -> Self {
        // Weak: the collector itself lies in those metrics.
        Self { counters, metrics: Arc::downgrade(metrics) }
    }
}

impl Collect for NetCollector {
    fn collect(&self, out: &mut Exposition) {
        let counters = &self.counters;
        let closed = |reason: &CloseReason| counters.closed(*reason);
        let accepted = counters.accepted();
        let active = accepted.saturating_sub(CloseReason::ALL.iter().map(closed).sum());
        let serving = self.metrics.upgrade().map_or(0, |metrics| metrics.requests().1);
        let help = "Connections by state, in nginx's words; reading is always 0.";
        out.family("apisix_nginx_http_current_connections", help, Kind::Gauge);
        for (state, count) in [
            ("accepted", accepted),
            ("handled", accepted),
            ("active", active),
            ("reading", 0),
            ("writing", serving),
            ("waiting", active.saturating_sub(serving)),
        ] {
            out.sample(&[("state", state)], count);
        }
        out.family("sluice_accept_errors_total", "Connections that could not be accepted.", Kind::Counter);
        out.sample(&[], counters.accept_errors());
        let help = "Connections moved to a worker with fewer.";
        out.family("sluice_connections_handed_over_total", help, Kind::Counter);
        out.sample(&[], counters.handed_over());
        let help = "Downstream connections that ended, by reason.";
        out.family("sluice_connection_closes_total", help, Kind::Counter);
        for reason in CloseReason::ALL {
            out.sample(&[("reason", reason.as_str())], closed(reason));
        }
        out.family("sluice_tls_handshakes_total", "Downstream TLS handshakes by result.", Kind::Counter);
        let resumed = counters.handshakes_resumed();
        out.sample(&[("result", "full")], counters.handshakes().saturating_sub(resumed));
        out.sample(&[("result", "resumed")], resumed);
        for reason in HandshakeFailure::ALL {
            out.sample(&[("result", reason.as_str())], counters.handshake_failures(*reason));
        }
        let help = "PROXY headers refused, by reason.";
        out.family("sluice_proxy_header_failures_total", help, Kind::Counter);
        for reason in ProxyHeaderFailure::ALL {
            out.sample(&[("reason", reason.as_str())], counters.proxy_header_failures(*reason));
        }
    }
}

/// What all upstreams have in common.
pub struct UpstreamCollector(pub Arc<crate::upstream::Environment>);

impl Collect for UpstreamCollector {
    fn collect(&self, out: &mut Exposition) {
        let help = "Nodes chosen although nothing of their upstream was up.";
        out.family("sluice_forced_selections_total", help, Kind::Counter);
        out.sample(&[], self.0.forced_selections());
    }
}

/// Lines of the access log, from its writer.
pub struct LogCollector(pub Arc<LogWriter>);

impl Collect for LogCollector {
    fn collect(&self, out: &mut Exposition) {
        let counters = self.0.counters();
        out.family("sluice_log_lines_total", "Access log lines by what became of them.", Kind::Counter);
        for (outcome, count) in [
            ("written", &counters.written),
            ("dropped_full", &counters.dropped_full),
            ("dropped_failed", &counters.dropped_failed),
        ] {
            out.sample(&[("outcome", outcome)], count.load(Relaxed));
        }
        let help = "Times the access log could not be opened again.";
        out.family("sluice_log_reopen_failures_total", help, Kind::Counter);
        out.sample(&[], counters.reopen_failed.load(Relaxed));
    }
}

/// Configuration, listeners, lines and nodes, from the gateway's status.
pub struct StatusCollector(pub Arc<dyn Gateway>);

impl Collect for StatusCollector {
    fn collect(&self, out: &mut Exposition) {
        let status = self.0.status();
        out.family("sluice_ready", "Whether the gateway is ready.", Kind::Gauge);
        out.sample(&[], self.0.readiness() == Readiness::Ready);
        out.family("sluice_config_revision", "Revision of the configuration in use.", Kind::Gauge);
        out.sample(&[], status.config.revision);
        let help = "Whether the store cannot be read and the configuration may be old.";
        out.family("sluice_config_stale", help, Kind::Gauge);
        out.sample(&[], status.config.stale.is_some());
        out.family("sluice_config_objects", "Objects in use by kind.", Kind::Gauge);
        for (kind, count) in &status.config.objects {
            out.sample(&[("kind", kind)], *count as u64);
        }
        quarantined(out, &status);
        listeners(out, &status);
        lines(out, &status);
        nodes(out, &status);
    }
}

fn quarantined(out: &mut Exposition, status: &Status) {
    out.family("sluice_config_quarantined", "Objects that could not be used, by kind.", Kind::Gauge);
    let mut counts = std::collections::BTreeMap::<&str, u64>::new();
    for object in &status.config.quarantined {
        *counts.entry(&object.kind).or_default() += 1;
    }
    for (kind, count) in counts {
        out.sample(&[("kind", kind)], count);
    }
}

fn listeners(out: &mut Exposition, status: &Status) {
    out.family("sluice_listener_bound", "Whether a listener's address is bound.", Kind::Gauge);
    for listener in &status.listeners {
        for bind in &listener.binds {
            let labels = [("listener", &*listener.id), ("address", &*bind.address)];
            out.sample(&labels, bind.error.is_none());
        }
    }
    out.family("sluice_listener_connections", "Open connections by listener.", Kind::Gauge);
    for listener in &status.listeners {
        out.sample(&[("listener", &listener.id)], listener.connections);
    }
}

fn name(upstream: &UpstreamStatus) -> String {
    match upstream.kind.as_str() {
        "upstreams" | "" => upstream.id.clone(),
        kind => format!("{kind}/{}", upstream.id),
    }
}

fn lines(out: &mut Exposition, status: &Status) {
    let upstreams: Vec<_> = status.upstreams.iter().map(|upstream| (name(upstream), upstream)).collect();
    let mut family = |family, help, kind, value: &dyn Fn(&LineStatus) -> Option<f64>| {
        out.family(family, help, kind);
        for (name, upstream) in &upstreams {
            for line in &upstream.lines {
                if let Some(value) = value(line) {
                    out.sample(&[("upstream", name), ("line", &line.name)], value);
                }
            }
        }
    };
    let flag = |value: bool| Some(f64::from(u8::from(value)));
    family("sluice_line_up", "Whether a line can take traffic.", Kind::Gauge, &|line| {
        flag(line.state.is_up())
    });
    family("sluice_line_active", "Whether new traffic takes a line.", Kind::Gauge, &|line| flag(line.active));
    family("sluice_line_rtt_seconds", "Smoothed round trip time of a line.", Kind::Gauge, &|line| {
        line.rtt_ms.map(|rtt| rtt / 1000.0)
    });
    family("sluice_line_failures_total", "Failures of a line.", Kind::Counter, &|line| {
        Some(line.failures as f64)
    });
    family("sluice_line_in_use", "Requests and sessions on a line.", Kind::Gauge, &|line| {
        Some(line.in_use as f64)
    });
}

fn nodes(out: &mut Exposition, status: &Status) {
    let mut nodes: Vec<(String, &LineStatus, &NodeStatus, String)> = Vec::new();
    for upstream in &status.upstreams {
        for line in &upstream.lines {
            let first = nodes.len();
            for node in &line.nodes {
                let address = node.name();
                // A series that stands twice would spoil the whole scrape.
                if nodes[first..].iter().all(|known| known.3 != address) {
                    nodes.push((name(upstream), line, node, address));
                }
            }
        }
    }
    out.family("apisix_upstream_status", "Whether a checked node is healthy.", Kind::Gauge);
    let mut seen = std::collections::HashSet::new();
    for upstream in status.upstreams.iter().filter(|upstream| upstream.check.is_some()) {
        let name = format!("/apisix/{}/{}", upstream.kind, upstream.id);
        for node in upstream.lines.iter().flat_map(|line| &line.nodes) {
            let ip = node.addresses.first().unwrap_or(&node.host);
            // The same node may stand on two lines; APISIX has no label for that.
            if seen.insert((name.clone(), ip.clone(), node.port)) {
                let labels = [("name", &*name), ("ip", ip), ("port", &node.port.to_string())];
                out.sample(&labels, node.state.is_up());
            }
        }
    }
    let mut family = |family, help, kind, value: &dyn Fn(&NodeStatus) -> Option<f64>| {
        out.family(family, help, kind);
        for (upstream, line, node, address) in &nodes {
            if let Some(value) = value(node) {
                out.sample(&[("upstream", upstream), ("line", &line.name), ("node", address)], value);
            }
        }
    };
    family("sluice_node_up", "Whether a node takes traffic.", Kind::Gauge, &|node| {
        Some(f64::from(u8::from(node.state.is_up())))
    });
    family("sluice_node_rtt_seconds", "Smoothed round trip time of a node.", Kind::Gauge, &|node| {
        node.rtt_ms.map(|rtt| rtt / 1000.0)
    });
    family("sluice_node_failures_total", "Failures of a node.", Kind::Counter, &|node| {
        Some(node.failures as f64)
    });
    family("sluice_node_in_use", "Requests and sessions on a node.", Kind::Gauge, &|node| {
        Some(node.in_use as f64)
    });
}

#[cfg(test)]
mod tests;
