//! A leased and a public line under steady load, while the leased one breaks in
//! every way a line breaks.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_harness::{HttpEcho, Network, Sluice, SteadyLoad, eventually, within};
use sluice_tests::lines::{get, line_is, two_lines, wait_active};

/// Connections of the load, and requests a second on each.
const CONNECTIONS: usize = 6;
const RATE: u32 = 40;

/// How long a request may take beyond what is configured, on a machine that
/// builds and tests at the same time.
const SLACK: Duration = Duration::from_millis(1500);

fn gateway(upstream: Value) -> Sluice {
    Sluice::builder()
        .listener("edge", json!({"protocol": "http"}))
        .put("upstreams", "app", &upstream)
        .put("routes", "all", json!({"uri": "/*", "upstream_id": "app"}))
        .start()
}

fn origins() -> (HttpEcho, HttpEcho) {
    (HttpEcho::start("leased"), HttpEcho::start("public"))
}

#[test]
fn a_line_that_is_reset_and_refuses_costs_no_safe_request() {
    let (leased, public) = origins();
    let sluice = gateway(two_lines("http", &leased.node(), &public.node(), "tcp"));
    wait_active(&sluice, "app", "leased");
    let load = SteadyLoad::get(sluice.address("edge"), "test", "/", CONNECTIONS, RATE);
    load.until_good(150);
    assert_eq!(load.so_far().servers.get("public"), None, "the better line takes everything");

    leased.line().cut();
    wait_active(&sluice, "app", "public");
    let status = line_is(&sluice, "app", "leased", "unhealthy");
    // The first sign may be the broken exchange, the refused connect or the probe.
    let why = status["why"].as_str().unwrap_or_default().to_owned();
    assert!(["refused", "broken"].contains(&why.as_str()), "{status:#}");
    assert!(status["since"].is_string() && status["for_seconds"].as_u64() < Some(15), "{status:#}");
    assert_eq!(status["nodes"][0]["state"], "unhealthy", "{status:#}");
    let metrics = sluice.metrics();
    let line = |name: &str, line: &str| metrics.value(name, &[("upstream", "app"), ("line", line)]);
    assert_eq!((line("sluice_line_up", "leased"), line("sluice_line_up", "public")), (Some(0.0), Some(1.0)));
    assert_eq!(line("sluice_line_active", "public"), Some(1.0));
    assert!(line("sluice_line_failures_total", "leased") > Some(0.0) || why == "broken");
    load.until_good(150);

    let restored = Instant::now();
    leased.line().restore();
    let before = load.so_far().servers["leased"];
    wait_active(&sluice, "app", "leased");
    assert!(restored.elapsed() > Duration::from_millis(200), "taken back before two good probes");
    load.until_good(100);
    let report = load.stop();
    assert!(report.servers["leased"] > before, "traffic comes back: {:?}", report.servers);
    assert!(report.servers["public"] > 0);
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert!(report.longest < Duration::from_millis(300) + SLACK, "{:?}", report.longest);
}

#[test]
fn a_line_that_goes_silent_costs_no_safe_request_more_than_the_stated_wait() {
    let network = Network::new(2);
    let origin =
        |name: &str, link: u8| HttpEcho::builder(name).within(network.far(), network.address(link)).start();
    let (leased, public) = (origin("leased", 0), origin("public", 1));
    let sluice = Sluice::builder()
        .listener("edge", json!({"protocol": "http"}))
        .put("upstreams", "app", two_lines("http", &leased.node(), &public.node(), "tcp"))
        .put("routes", "all", json!({"uri": "/*", "upstream_id": "app"}))
        .within(network.near())
        .start();
    wait_active(&sluice, "app", "leased");
    let request = "GET / HTTP/1.1\r\nHost: test\r\n\r\n".to_owned();
    let load = SteadyLoad::start(Some(network.near()), sluice.address("edge"), request, CONNECTIONS, RATE);
    load.until_good(150);

    network.black_hole(0);
    wait_active(&sluice, "app", "public");
    let status = line_is(&sluice, "app", "leased", "unhealthy");
    assert!(
        ["connect_timeout", "timeout", "unreachable"].contains(&status["why"].as_str().unwrap_or_default()),
        "{status:#}"
    );
    load.until_good(150);
    network.heal();
    wait_active(&sluice, "app", "leased");
    load.until_good(100);
    let report = load.stop();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert!(report.servers["public"] >= 100, "{:?}", report.servers);
    // An exchange that waits learns of the cut from the next probe: interval
    // (with its 10 %) and time-out; one that connects waits `connect_timeout`.
    let stated = Duration::from_millis(220 + 300 + 300);
    assert!(report.longest < stated + SLACK, "{:?}", report.longest);
}

#[test]
fn a_line_that_flaps_is_held_off_longer_and_costs_no_safe_request() {
    let (leased, public) = origins();
    let sluice = gateway(two_lines("http", &leased.node(), &public.node(), "tcp"));
    wait_active(&sluice, "app", "leased");
    let load = SteadyLoad::get(sluice.address("edge"), "test", "/", CONNECTIONS, RATE);
    load.until_good(50);
    for _ in 0..3 {
        leased.line().cut();
        line_is(&sluice, "app", "leased", "unhealthy");
        leased.line().restore();
        // Good again, it waits for its hold-down and takes nothing meanwhile.
        let held = line_is(&sluice, "app", "leased", "held");
        assert_eq!(held["active"], false, "{held:#}");
        assert!(held["why"].as_str().unwrap_or_default().starts_with("answers again"), "{held:#}");
    }
    load.until_good(50);
    let settled = Instant::now();
    within(Duration::from_secs(40), "the line is taken back", || {
        (sluice.line_status("app", "leased")["active"] == true).then_some(())
    });
    assert!(settled.elapsed() > Duration::from_millis(500), "the hold-down does not hold");
    let report = load.stop();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
}

#[test]
fn a_request_that_may_have_been_carried_out_is_not_repeated() {
    let (leased, public) = origins();
    let sluice = gateway(two_lines("http", &leased.node(), &public.node(), "tcp"));
    wait_active(&sluice, "app", "leased");
    let mut raw = sluice.connect("edge");
    raw.send("POST /pay?delay=20000 HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi");
    eventually("the origin has the request", || (leased.requests() == 1).then_some(()));
    leased.line().cut();
    let (status, _, body) = raw.read_answer();
    assert_eq!(status, 502, "{}", String::from_utf8_lossy(&body));
    assert_eq!(public.requests(), 0);

    // A connect that fails has told nobody anything: the next line gets it.
    raw.send("POST /pay HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(raw.read_answer().0, 200);
    assert_eq!(public.seen()[0].body, "hi");
}

#[test]
fn the_first_refused_connect_moves_the_traffic_without_any_check() {
    let (leased, public) = origins();
    let mut upstream = two_lines("http", &leased.node(), &public.node(), "tcp");
    for line in upstream["lines"].as_array_mut().into_iter().flatten() {
        line.as_object_mut().map(|line| line.remove("checks"));
    }
    let sluice = gateway(upstream);
    leased.line().cut();
    assert_eq!(get(&sluice, "edge", "/").0, 200);
    let status = line_is(&sluice, "app", "leased", "unhealthy");
    assert_eq!(status["why"], "refused", "{status:#}");
    // Nobody probes it by configuration: two good connects in the background do.
    leased.line().restore();
    wait_active(&sluice, "app", "leased");
    assert_eq!(get(&sluice, "edge", "/").0, 200);
    assert_eq!(leased.seen().len(), 1);
}

#[test]
fn when_every_line_is_down_the_best_is_tried_and_it_shows() {
    let (leased, public) = origins();
    let sluice = gateway(two_lines("http", &leased.node(), &public.node(), "tcp"));
    leased.line().cut();
    public.line().cut();
    line_is(&sluice, "app", "leased", "unhealthy");
    line_is(&sluice, "app", "public", "unhealthy");
    let started = Instant::now();
    let (status, body) = get(&sluice, "edge", "/");
    assert!([502, 503].contains(&status), "{status}: {body}");
    assert!(body.contains("error_msg"), "{body}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let forced = sluice.metrics().count("sluice_forced_selections_total", &[]);
    assert!(forced >= 1.0, "selections though nothing is up are counted");
    // The first that serves again serves, hold-down or not.
    public.line().restore();
    eventually("a request is served", || (get(&sluice, "edge", "/").0 == 200).then_some(()));
    assert!(!public.seen().is_empty());
}

#[test]
fn the_faster_line_is_preferred_where_latency_decides() {
    let network = Network::new(2);
    let origin =
        |name: &str, link: u8| HttpEcho::builder(name).within(network.far(), network.address(link)).start();
    let (slow, fast) = (origin("slow", 0), origin("fast", 1));
    // The first packet of every connect is lost and sent again a second later.
    let mut command = network.far().command("iptables");
    command.args(["-w", "-I", "INPUT", "-i", "link0", "-p", "tcp", "--syn"]);
    command.args(["-m", "statistic", "--mode", "nth", "--every", "2", "--packet", "0", "-j", "DROP"]);
    assert!(command.status().is_ok_and(|status| status.success()), "iptables can lose a packet");
    let active = json!({"type": "tcp", "interval": 0.2, "timeout": 5});
    let upstream = json!({
        "lines": [
            {"name": "slow", "nodes": {slow.node(): 1}, "checks": {"active": active}},
            {"name": "fast", "nodes": {fast.node(): 1}, "checks": {"active": active}},
        ],
        "failover": {"prefer": "latency", "hold_down": "1s"},
    });
    let sluice = Sluice::builder()
        .listener("edge", json!({"protocol": "http"}))
        .put("upstreams", "app", &upstream)
        .put("routes", "all", json!({"uri": "/*", "upstream_id": "app"}))
        .within(network.near())
        .start();
    wait_active(&sluice, "app", "fast");
    eventually("the slow line is measured", || {
        (sluice.line_status("app", "slow")["rtt_ms"].as_f64()? > 40.0).then_some(())
    });
    assert_eq!(network.near().run(|| get(&sluice, "edge", "/").0), 200);
    assert_eq!((slow.seen().len(), fast.seen().len()), (0, 1));
}

#[test]
fn an_exchange_that_is_already_waiting_moves_when_its_line_goes_silent() {
    let (leased, public) = origins();
    let sluice = gateway(two_lines("http", &leased.node(), &public.node(), "http"));
    wait_active(&sluice, "app", "leased");
    leased.line().hang();
    let (status, body) = get(&sluice, "edge", "/");
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("public"), "{body}");
}
