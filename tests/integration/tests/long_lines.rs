//! Failover again and again: leaks and slow decay show only after many rounds.
#![cfg(feature = "long")]

use serde_json::json;
use sluice_harness::{HttpEcho, Sluice, SteadyLoad};
use sluice_tests::lines::{line_is, two_lines, wait_active};

#[test]
fn fifty_cuts_lose_no_safe_request_and_no_memory() {
    let (leased, public) = (HttpEcho::start("leased"), HttpEcho::start("public"));
    let mut upstream = two_lines("http", &leased.node(), &public.node(), "tcp");
    upstream["failover"]["hold_down"] = json!("100ms");
    let sluice = Sluice::builder()
        .listener("edge", json!({"protocol": "http"}))
        .put("upstreams", "app", &upstream)
        .put("routes", "all", json!({"uri": "/*", "upstream_id": "app"}))
        .start();
    wait_active(&sluice, "app", "leased");
    let load = SteadyLoad::get(sluice.address("edge"), "test", "/", 8, 50);
    load.until_good(400);
    let (memory, descriptors) = (sluice.observe().resident_bytes(), sluice.observe().descriptors());
    for _ in 0..50 {
        leased.line().cut();
        line_is(&sluice, "app", "leased", "unhealthy");
        load.until_good(20);
        leased.line().restore();
        line_is(&sluice, "app", "leased", "held|healthy|mostly_healthy");
    }
    let report = load.stop();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert!(sluice.observe().resident_bytes() < memory + 16 * 1024 * 1024);
    assert!(sluice.observe().descriptors() < descriptors + 64);
}
