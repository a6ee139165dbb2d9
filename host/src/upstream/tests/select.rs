use super::*;

fn names(upstream: &Upstream, count: usize) -> Vec<String> {
    let pick = |_| upstream.select(0, &mut Tried::default()).unwrap().node.name.to_string();
    (0..count).map(pick).collect()
}

fn lines() -> Arc<Upstream> {
    upstream(json!({
        "scheme": "tcp",
        "lines": [
            {"name": "public", "priority": 5, "nodes": {"10.0.0.3:1": 1, "10.0.0.4:1": 1}},
            {"name": "leased", "priority": 10, "nodes": {"10.0.0.1:1": 1, "10.0.0.2:1": 1}},
        ],
    }))
}

fn line_of(upstream: &Upstream, tried: &mut Tried) -> Option<String> {
    upstream.select(0, tried).ok().map(|target| target.line.name.to_string())
}

#[test]
fn weights_share_the_traffic_and_zero_takes_none() {
    let upstream = upstream(json!({"nodes": {"10.0.0.1:80": 3, "10.0.0.2:80": 1, "10.0.0.3:80": 0}}));
    let picks = names(&upstream, 400);
    let count = |name: &str| picks.iter().filter(|own| *own == name).count();
    assert_eq!((count("10.0.0.1:80"), count("10.0.0.2:80"), count("10.0.0.3:80")), (300, 100, 0));
}

#[test]
fn lower_priorities_wait_until_the_higher_are_down() {
    let upstream = upstream(json!({"nodes": [
        {"host": "10.0.0.1", "port": 80, "weight": 1, "priority": 0},
        {"host": "10.0.0.2", "port": 80, "weight": 1, "priority": -1},
    ]}));
    assert!(names(&upstream, 10).iter().all(|name| name == "10.0.0.1:80"));
    fail(&upstream, 0, 0, Failure::Refused);
    assert!(names(&upstream, 10).iter().all(|name| name == "10.0.0.2:80"));
}

#[test]
fn no_node_is_tried_twice_and_then_there_is_none() {
    let upstream = lines();
    let mut tried = Tried::default();
    let mut seen: Vec<String> = std::iter::from_fn(|| upstream.select(0, &mut tried).ok())
        .map(|target| target.node.name.to_string())
        .collect();
    assert!(seen[..2].iter().all(|name| ["10.0.0.1:1", "10.0.0.2:1"].contains(&name.as_str())), "{seen:?}");
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4);
    assert_eq!(upstream.select(0, &mut tried).unwrap_err(), NoLine::AllTried);
    assert_eq!(upstream.retries, 3);
}

#[test]
fn the_first_cut_moves_the_request_to_another_line_at_once() {
    let upstream = lines();
    let mut tried = Tried::default();
    let target = upstream.select(0, &mut tried).unwrap();
    assert_eq!((&*target.line.name, target.forced), ("leased", false));
    let node = target.line.nodes.iter().position(|node| Arc::ptr_eq(node, &target.node)).unwrap();
    fail(&upstream, 0, node, Failure::ConnectTimeout);
    // Not to the line's other node, which would likely cost the same wait.
    assert_eq!(line_of(&upstream, &mut tried).as_deref(), Some("public"));
    // Others still find the other node up, until it shows itself.
    assert_eq!(line_of(&upstream, &mut Tried::default()).as_deref(), Some("leased"));
    fail(&upstream, 0, 1 - node, Failure::ConnectTimeout);
    assert_eq!(line_of(&upstream, &mut Tried::default()).as_deref(), Some("public"));
    assert!(target.is_lost());
}

#[test]
fn a_refusal_is_of_the_node_and_the_line_goes_on() {
    let upstream = lines();
    let mut tried = Tried::default();
    let target = upstream.select(0, &mut tried).unwrap();
    let node = target.line.nodes.iter().position(|node| Arc::ptr_eq(node, &target.node)).unwrap();
    fail(&upstream, 0, node, Failure::Refused);
    assert_eq!(line_of(&upstream, &mut tried).as_deref(), Some("leased"));
    assert!(!target.is_lost());
}

#[test]
fn with_everything_down_the_best_is_tried_and_it_shows() {
    let upstream = lines();
    for (line, node) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        fail(&upstream, line, node, Failure::Refused);
    }
    let page = status(&upstream);
    assert!(!page.up && page.line_in_use.is_none());
    assert_eq!((page.lines[0].state, page.lines[0].why), ("down", Some("refused")));
    let target = upstream.select(0, &mut Tried::default()).unwrap();
    assert_eq!((&*target.line.name, target.forced), ("leased", true));
    assert_eq!(upstream.environment.forced_selections(), 1);
    // Two good answers there, and it is back without its hold-down.
    target.report(Outcome::Answered, Duration::from_millis(1));
    assert!(!upstream.is_up());
    target.report(Outcome::Answered, Duration::from_millis(1));
    assert!(upstream.is_up());
}

#[test]
fn a_held_line_that_serves_while_nothing_else_does_is_back_at_once() {
    let mut value = two_lines("10.0.0.1:1".parse().unwrap(), "10.0.0.2:1".parse().unwrap());
    value["failover"]["hold_down"] = json!("1h");
    let upstream = upstream(value);
    let probe = |line: usize| {
        let line = &upstream.lines[line];
        line.judge(&line.nodes[0], Source::Recovery, Sign::Good, Forced::No, Instant::now());
    };
    fail(&upstream, 0, 0, Failure::Refused);
    probe(0);
    probe(0);
    // The other line is up, so a try on this one, as the last resort, proves nothing.
    let mut tried = Tried::default();
    assert_eq!(line_of(&upstream, &mut tried).as_deref(), Some("public"));
    let last = upstream.select(0, &mut tried).unwrap();
    last.report(Outcome::Answered, Duration::from_millis(1));
    assert_eq!((last.forced, status(&upstream).lines[0].state), (false, "probing"));
    fail(&upstream, 1, 0, Failure::Refused);
    let target = upstream.select(0, &mut Tried::default()).unwrap();
    assert_eq!((&*target.line.name, target.forced), ("leased", true));
    target.report(Outcome::Answered, Duration::from_millis(1));
    assert_eq!(status(&upstream).lines[0].state, "up");
}

#[test]
fn a_withdrawn_line_takes_nothing_even_if_all_others_are_down() {
    let upstream = lines();
    upstream.lines[0].set_withdrawn(true);
    assert_eq!(line_of(&upstream, &mut Tried::default()).as_deref(), Some("public"));
    fail(&upstream, 1, 0, Failure::Refused);
    fail(&upstream, 1, 1, Failure::Refused);
    assert_eq!(line_of(&upstream, &mut Tried::default()).as_deref(), Some("public"));
    assert_eq!(status(&upstream).lines[0].state, "withdrawn");
    upstream.lines[0].set_withdrawn(false);
    assert_eq!(line_of(&upstream, &mut Tried::default()).as_deref(), Some("leased"));
}

#[test]
fn connecting_hurries_only_while_another_line_is_left() {
    let upstream = lines();
    let mut tried = Tried::default();
    let first = upstream.select(0, &mut tried).unwrap();
    assert_eq!(first.connect_limit(None), Duration::from_millis(300));
    assert_eq!(first.connect_limit(Some(Duration::from_millis(50))), Duration::from_millis(50));
    fail(&upstream, 0, 0, Failure::Unreachable);
    fail(&upstream, 0, 1, Failure::Unreachable);
    let second = upstream.select(0, &mut Tried::default()).unwrap();
    assert_eq!(second.connect_limit(None), upstream.timeouts.connect);
}

#[test]
fn the_same_user_stays_on_the_same_node_until_it_is_down() {
    let upstream = upstream(json!({
        "type": "chash", "key": "remote_addr",
        "nodes": {"10.0.0.1:80": 1, "10.0.0.2:80": 1, "10.0.0.3:80": 1},
    }));
    let pick = |hash| upstream.select(hash, &mut Tried::default()).unwrap().node.name.to_string();
    let owners: Vec<_> = (0..300).map(pick).collect();
    assert_eq!(owners, (0..300).map(pick).collect::<Vec<_>>());
    fail(&upstream, 0, 1, Failure::Refused);
    for (hash, owner) in owners.iter().enumerate() {
        let now = pick(hash as u64);
        assert!(now == *owner || owner == "10.0.0.2:80", "{owner} moved to {now}");
    }
}

#[test]
fn least_conn_goes_where_least_is_in_use_by_weight() {
    let upstream = upstream(json!({"type": "least_conn", "nodes": {"10.0.0.1:80": 2, "10.0.0.2:80": 1}}));
    let held: Vec<_> = (0..30).map(|_| upstream.select(0, &mut Tried::default()).unwrap()).collect();
    assert_eq!((upstream.lines[0].nodes[0].in_use(), upstream.lines[0].nodes[1].in_use()), (20, 10));
    drop(held);
    assert_eq!(upstream.lines[0].nodes[0].in_use(), 0);
    assert_eq!(status(&upstream).lines[0].counts.requests, 30);
}

#[test]
fn ewma_leaves_a_slow_node() {
    let upstream = upstream(json!({"type": "ewma", "nodes": {"10.0.0.1:80": 1, "10.0.0.2:80": 1}}));
    for _ in 0..50 {
        let target = upstream.select(0, &mut Tried::default()).unwrap();
        let took = if &*target.node.name == "10.0.0.1:80" { 500 } else { 5 };
        target.report(Outcome::Status(200), Duration::from_millis(took));
    }
    assert!(names(&upstream, 50).iter().all(|name| name == "10.0.0.2:80"));
}

#[test]
fn passive_checks_count_statuses_alone() {
    let upstream = upstream(json!({
        "nodes": {"10.0.0.1:80": 1, "10.0.0.2:80": 1},
        "checks": {"passive": {"unhealthy": {"http_statuses": [500], "http_failures": 3}}},
    }));
    let mut picks = 0;
    while upstream.lines[0].nodes[0].is_up() {
        picks += 1;
        assert!(picks < 100);
        let target = upstream.select(0, &mut Tried::default()).unwrap();
        let status = if &*target.node.name == "10.0.0.1:80" { 500 } else { 404 };
        target.report(Outcome::Status(status), Duration::from_millis(1));
    }
    assert_eq!(status(&upstream).lines[0].nodes[0].why, Some("status"));
    assert!(upstream.lines[0].nodes[1].is_up());
    assert!(names(&upstream, 10).iter().all(|name| name == "10.0.0.2:80"));
}

#[test]
fn latency_prefers_another_line_only_for_a_clear_gain() {
    let environment = environment();
    let upstream = upstream_in(
        &environment,
        json!({
            "scheme": "tcp",
            "lines": [{"name": "a", "nodes": {"10.0.0.1:1": 1}}, {"name": "b", "nodes": {"10.0.0.2:1": 1}}],
            "failover": {"prefer": "latency", "latency_margin": 25},
        }),
        None,
    );
    let measure = |line: usize, millis: u64| {
        for _ in 0..100 {
            upstream.lines[line].live.rtt.record(Duration::from_millis(millis), Instant::now());
        }
        upstream.compare_lines();
    };
    measure(0, 20);
    measure(1, 18);
    assert_eq!(line_of(&upstream, &mut Tried::default()).as_deref(), Some("a"));
    measure(1, 10);
    assert_eq!(line_of(&upstream, &mut Tried::default()).as_deref(), Some("b"));
    measure(0, 9);
    assert_eq!(line_of(&upstream, &mut Tried::default()).as_deref(), Some("b"));
    fail(&upstream, 1, 0, Failure::ConnectTimeout);
    assert_eq!(line_of(&upstream, &mut Tried::default()).as_deref(), Some("a"));
}
