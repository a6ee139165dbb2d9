use super::*;
use std::collections::{HashMap, HashSet};

/// A strict reader of the text format: families once, in one piece, with help
/// and type; names and labels well-formed; histograms cumulative and complete.
fn parse(text: &str) -> HashMap<String, f64> {
    assert!(text.ends_with('\n'));
    let mut samples = HashMap::new();
    let mut families = HashSet::new();
    let (mut family, mut kind) = (String::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(families.insert(name.to_owned()), "family {name} twice");
            assert!(is_name(name) && !help.is_empty(), "{line}");
            name.clone_into(&mut family);
            kind.clear();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, of) = rest.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert!(["counter", "gauge", "histogram"].contains(&of), "{line}");
            of.clone_into(&mut kind);
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.iter().any(|suffix| name == format!("{family}{suffix}")), "{line} in {family}");
            check_labels(&series[name.len()..]);
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(kind == "gauge" || value >= 0.0, "{line}");
            assert!(samples.insert(series.to_owned(), value).is_none(), "series twice: {series}");
        }
    }
    check_histograms(&samples);
    samples
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn check_labels(text: &str) {
    if text.is_empty() {
        return;
    }
    let mut rest = text.strip_prefix('{').unwrap().strip_suffix('}').unwrap();
    let mut names = HashSet::new();
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").unwrap();
        assert!(is_name(name) && names.insert(name), "{text}");
        let mut escaped = false;
        let end = after
            .find(|c| match (escaped, c) {
                (true, c) => {
                    assert!("\\\"n".contains(c), "{text}");
                    escaped = false;
                    false
                }
                (false, '\\') => {
                    escaped = true;
                    false
                }
                (false, c) => c == '"',
            })
            .unwrap();
        rest = &after[end + 1..];
        if !rest.is_empty() {
            rest = rest.strip_prefix(',').unwrap();
            assert!(!rest.is_empty());
        }
    }
}

fn check_histograms(samples: &HashMap<String, f64>) {
    for (series, count) in samples.iter().filter(|(series, _)| series.contains("_count")) {
        let bucket = series.replacen("_count", "_bucket", 1);
        let prefix = bucket.trim_end_matches('}');
        let mut buckets: Vec<(f64, f64)> = samples
            .iter()
            .filter_map(|(series, value)| {
                let bound = series.strip_prefix(prefix)?.strip_prefix(",le=\"")?.strip_suffix("\"}")?;
                Some((bound.parse().unwrap(), *value))
            })
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{series}");
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count)), "{series}");
    }
}

fn labels(route: &str, uri: &str) -> RouteLabels {
    RouteLabels {
        route: route.into(),
        matched_uri: uri.into(),
        matched_host: "a.example".into(),
        service: "s".into(),
    }
}

fn sample(status: u16, micros: u64) -> RequestSample {
    RequestSample {
        status,
        node: Some("10.0.0.5".parse().unwrap()),
        total: Duration::from_micros(micros),
        upstream: Some(Duration::from_micros(micros - micros / 10)),
        bytes_in: 10,
        bytes_out: 100,
    }
}

#[test]
fn requests_are_summed_over_the_workers_under_apisix_names() {
    let metrics = Metrics::new(2, "n");
    let route = metrics.route(labels("1", "/a/*"));
    for worker in [metrics.worker(0), metrics.worker(1), metrics.control()] {
        worker.request_started();
        route.request(&worker, &sample(200, 700));
        worker.request_finished();
    }
    metrics.worker(1).request_started();
    route.request(&metrics.worker(1), &RequestSample { status: 0, ..sample(0, 70_000_000) });

    let samples = parse(&metrics.render());
    let status = |code: &str| {
        format!(
            "apisix_http_status{{code=\"{code}\",route=\"1\",matched_uri=\"/a/*\",matched_host=\"a.example\",\
             service=\"s\",consumer=\"\",node=\"10.0.0.5\"}}"
        )
    };
    assert_eq!(samples[&status("200")], 3.0);
    assert_eq!(samples[&status("499")], 1.0);
    let of = |name: &str, kind: &str, more: &str| {
        samples[&format!(
            "{name}{{type=\"{kind}\",route=\"1\",service=\"s\",consumer=\"\",node=\"10.0.0.5\"{more}}}"
        )]
    };
    assert_eq!(of("apisix_bandwidth", "egress", ""), 400.0);
    assert_eq!(of("apisix_bandwidth", "ingress", ""), 40.0);
    assert_eq!(of("apisix_http_latency_bucket", "request", ",le=\"0.5\""), 0.0);
    assert_eq!(of("apisix_http_latency_bucket", "request", ",le=\"1\""), 3.0);
    assert_eq!(of("apisix_http_latency_count", "request", ""), 4.0);
    assert_eq!(of("apisix_http_latency_sum", "request", ""), 70_002.1);
    assert_eq!(of("apisix_http_latency_bucket", "apisix", ",le=\"0.1\""), 3.0);
    assert_eq!(samples["apisix_http_requests_total"], 4.0);
    assert_eq!(samples["sluice_http_requests_active"], 1.0);
}

#[test]
fn handles_of_one_route_share_the_series_without_patterns() {
    let metrics = Metrics::new(1, "n");
    let worker = metrics.worker(0);
    for uri in ["/a", "/b"] {
        metrics.route(labels("1", uri)).request(&worker, &sample(200, 700));
    }
    let text = metrics.render();
    parse(&text);
    assert_eq!(text.matches("apisix_http_status{").count(), 2);
    assert!(text.contains(
        r#"apisix_bandwidth{type="ingress",route="1",service="s",consumer="",node="10.0.0.5"} 20"#
    ));
}

#[test]
fn a_rebuilt_route_counts_on_and_a_removed_one_disappears_later() {
    let metrics = Metrics::new(1, "n");
    let worker = metrics.worker(0);
    let first = metrics.route(labels("1", "/"));
    first.request(&worker, &sample(200, 700));
    drop(first);
    let again = metrics.route(labels("1", "/"));
    again.request(&worker, &sample(200, 700));
    assert!(metrics.render().contains(r#"node="10.0.0.5"} 2"#));

    let now = Instant::now();
    assert_eq!(metrics.routes.list(now + KEPT_UNUSED * 2).len(), 1, "still held");
    drop(again);
    assert_eq!(metrics.routes.list(now).len(), 1, "seen unused for the first time");
    assert_eq!(metrics.routes.list(now + KEPT_UNUSED - Duration::from_millis(1)).len(), 1);
    assert_eq!(metrics.routes.list(now + KEPT_UNUSED).len(), 0);
}

#[test]
fn label_values_are_bounded() {
    let metrics = Metrics::new(1, "n");
    let worker = metrics.worker(0);
    let route = metrics.route(labels("1", "/"));
    for node in 0..1000u32 {
        let node = Some(std::net::Ipv4Addr::from_bits(node).into());
        route.request(&worker, &RequestSample { node, ..sample(200, 700) });
    }
    for status in 100..1000 {
        route.request(&worker, &RequestSample { node: None, ..sample(status, 700) });
    }
    let stream = metrics.stream_route("im");
    stream.opened(&worker);
    for command in 0..1000 {
        stream.frame_in(&worker, command);
    }
    let text = metrics.render();
    let samples = parse(&text);
    let total = |name: &str| -> f64 {
        samples.iter().filter(|(series, _)| series.starts_with(name)).map(|(_, value)| value).sum()
    };
    assert_eq!(total("apisix_http_status{"), 1900.0, "bounded, yet nothing is lost");
    assert!(text.matches("apisix_http_status{").count() < 200);
    assert_eq!(total("sluice_frames_total{"), 1000.0);
    assert_eq!(text.matches("sluice_frames_total{").count(), 129);
}

#[test]
fn labels_are_escaped() {
    let metrics = Metrics::new(1, "n");
    metrics.route(labels("a\"b\\c\nd", "/{}=,\"")).request(&metrics.worker(0), &sample(200, 1));
    parse(&metrics.render());
}

#[test]
fn reasons_verdicts_and_streams_are_counted() {
    let metrics = Metrics::new(2, "n");
    for worker in [metrics.worker(0), metrics.worker(1)] {
        worker.reason(ReasonFamily::Http, "no_route");
        worker.reason(ReasonFamily::Close, "idle");
    }
    metrics.plugin("limit-req").count(PluginVerdict::Drop);
    let stream = metrics.stream_route("im");
    let worker = metrics.worker(0);
    stream.opened(&worker);
    stream.opened(&worker);
    stream.closed(&metrics.worker(1));
    stream.bytes_in(&worker, 7);
    stream.frame_in(&worker, 0x0101);
    stream.frame_out(&worker, 0x0101);
    stream.moved(&worker);
    let samples = parse(&metrics.render());
    for (series, value) in [
        (r#"sluice_http_errors_total{reason="no_route"}"#, 2.0),
        (r#"sluice_session_closes_total{reason="idle"}"#, 2.0),
        (r#"sluice_filter_verdicts_total{plugin="limit-req",verdict="drop"}"#, 1.0),
        (r#"apisix_stream_connection_total{route="im"}"#, 2.0),
        (r#"sluice_stream_connections_active{route="im"}"#, 1.0),
        (r#"sluice_stream_bytes_total{route="im",direction="in"}"#, 7.0),
        (r#"sluice_frames_total{route="im",direction="out",command="0x0101"}"#, 1.0),
        (r#"sluice_sessions_moved_total{route="im"}"#, 1.0),
        (r#"sluice_build_info{version="0.1.0",node="n"}"#, 1.0),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series}");
    }
    assert!(samples["process_resident_memory_bytes"] > 1e6);
    assert!(samples["process_open_fds"] >= 3.0);
    assert!(samples["process_max_fds"] >= samples["process_open_fds"]);
}

#[test]
fn threads_count_side_by_side_and_nothing_is_lost() {
    let metrics = Metrics::new(4, "n");
    let route = metrics.route(labels("1", "/"));
    std::thread::scope(|scope| {
        for index in 0..4 {
            let (metrics, route) = (&metrics, &route);
            scope.spawn(move || {
                let worker = metrics.worker(index);
                for _ in 0..10_000 {
                    worker.request_started();
                    route.request(&worker, &sample(200, 700));
                    worker.request_finished();
                }
            });
        }
    });
    assert_eq!(metrics.requests(), (40_000, 0));
    assert!(metrics.render().contains(r#"node="10.0.0.5"} 40000"#));
}
