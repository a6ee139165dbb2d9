use super::*;
use crate::admin::{BindStatus, ListenerStatus, Quarantined, State};
use crate::net::CloseReason;

struct Fake;

impl Gateway for Fake {
    fn readiness(&self) -> Readiness {
        Readiness::Draining
    }

    fn status(&self) -> Status {
        let node = |host: &str, state| NodeStatus {
            host: host.into(),
            port: 9000,
            state,
            rtt_ms: Some(1.5),
            failures: 3,
            ..NodeStatus::default()
        };
        let line = |name: &str, active| LineStatus {
            name: name.into(),
            active,
            state: State::Held,
            // One node twice: still one series.
            nodes: vec![
                node("::1", State::Healthy),
                node("::1", State::Healthy),
                node("a", State::Unhealthy),
            ],
            ..LineStatus::default()
        };
        let mut status = Status::default();
        status.config.revision = 7;
        status.config.stale = Some("gone".into());
        status.config.objects.insert("routes".into(), 2);
        status.config.quarantined = vec![Quarantined { kind: "routes".into(), ..Quarantined::default() }];
        let bind = |error: Option<&str>| BindStatus {
            address: if error.is_some() { "a:1".into() } else { "a:2".into() },
            error: error.map(Into::into),
        };
        status.listeners = vec![ListenerStatus {
            id: "edge".into(),
            binds: vec![bind(Some("in use")), bind(None)],
            connections: 5,
            ..ListenerStatus::default()
        }];
        status.upstreams = vec![UpstreamStatus {
            kind: "routes".into(),
            id: "r1".into(),
            check: Some("tcp".into()),
            lines: vec![line("leased", false), line("public", true)],
            ..UpstreamStatus::default()
        }];
        status
    }
}

fn scraped(collector: Arc<dyn Collect>) -> String {
    let mut out = Exposition::default();
    collector.collect(&mut out);
    let text = out.finish();
    let mut seen = std::collections::HashSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(seen.insert(line.rsplit_once(' ').unwrap().0.to_owned()), "{line} twice");
    }
    text
}

#[test]
fn lines_nodes_and_listeners_are_shown() {
    let text = scraped(Arc::new(StatusCollector(Arc::new(Fake))));
    for line in [
        "sluice_ready 0",
        "sluice_config_revision 7",
        "sluice_config_stale 1",
        "sluice_config_objects{kind=\"routes\"} 2",
        "sluice_config_quarantined{kind=\"routes\"} 1",
        "sluice_listener_bound{listener=\"edge\",address=\"a:1\"} 0",
        "sluice_listener_bound{listener=\"edge\",address=\"a:2\"} 1",
        "sluice_listener_connections{listener=\"edge\"} 5",
        "sluice_line_up{upstream=\"routes/r1\",line=\"leased\"} 0",
        "sluice_line_active{upstream=\"routes/r1\",line=\"public\"} 1",
        "sluice_node_up{upstream=\"routes/r1\",line=\"leased\",node=\"[::1]:9000\"} 1",
        "sluice_node_up{upstream=\"routes/r1\",line=\"public\",node=\"a:9000\"} 0",
        "sluice_node_rtt_seconds{upstream=\"routes/r1\",line=\"public\",node=\"a:9000\"} 0.0015",
        "sluice_node_failures_total{upstream=\"routes/r1\",line=\"public\",node=\"a:9000\"} 3",
        "apisix_upstream_status{name=\"/apisix/routes/r1\",ip=\"a\",port=\"9000\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing:\n{text}");
    }
}

#[test]
fn connections_are_shown_in_the_words_of_nginx() {
    let counters = Arc::new(Counters::default());
    let metrics = Metrics::new(1, "n");
    metrics.worker(0).request_started();
    for _ in 0..3 {
        assert!(counters.accept());
    }
    counters.close(CloseReason::Served);
    counters.handshake(true);
    metrics.register(Arc::new(NetCollector::new(counters, &metrics)));
    let text = metrics.render();
    for line in [
        "apisix_nginx_http_current_connections{state=\"accepted\"} 3",
        "apisix_nginx_http_current_connections{state=\"active\"} 2",
        "apisix_nginx_http_current_connections{state=\"writing\"} 1",
        "apisix_nginx_http_current_connections{state=\"waiting\"} 1",
        "sluice_tls_handshakes_total{result=\"resumed\"} 1",
        "sluice_connection_closes_total{reason=\"served\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing");
    }
}
