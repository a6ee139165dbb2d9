//! The least that must work: a route to an origin, and a status that says so.

use serde_json::json;
use sluice_harness::{Curl, HttpEcho, Sluice};

#[test]
fn a_request_reaches_its_upstream_and_is_seen() {
    let origin = HttpEcho::start("a");
    let route = json!({"uri": "/hello/*", "upstream": {"nodes": {origin.node(): 1}}});
    let sluice = Sluice::builder().listener("edge", json!({})).put("routes", "hello", route).start();

    let reply = Curl::get(format!("{}/hello/world?x=1", sluice.url("edge"))).run();
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.seen().target, "/hello/world?x=1");
    assert_eq!(Curl::get(format!("{}/elsewhere", sluice.url("edge"))).run().status, 404);
    assert_eq!(origin.requests(), 1);

    let line = sluice.logged("the request", |line| line["status"] == 200);
    assert_eq!((&line["route"], &line["client_ip"]), (&json!("hello"), &json!("127.0.0.1")));
    assert_eq!(sluice.status()["state"], "ready");
    assert!(sluice.metrics().text().contains("apisix_"), "{}", sluice.metrics().text());
}

#[test]
fn a_route_that_is_added_while_it_runs_is_live() {
    let origin = HttpEcho::start("a");
    let sluice = Sluice::builder().listener("edge", json!({})).start();
    let status = || Curl::get(format!("{}/new", sluice.url("edge"))).run().status;
    assert_eq!(status(), 404);
    sluice.apply("routes", "new", json!({"uri": "/new", "upstream": {"nodes": {origin.node(): 1}}}));
    assert_eq!(status(), 200);
    sluice.apply_removal("routes", "new");
    assert_eq!(status(), 404);
}

#[test]
fn a_listener_that_is_put_while_it_runs_is_open_and_a_bad_one_is_quarantined() {
    let sluice = Sluice::builder().start();
    let port = sluice_harness::Port::free();
    let bind = port.loopback().to_string();
    for _ in 0..2 {
        // The same object again, good after bad: neither state is taken for the other.
        sluice.apply("listeners", "late", json!({"bind": "nowhere"}));
        let reason = sluice.quarantined("listeners", "late").expect("the address is none");
        assert!(reason.contains("nowhere"), "{reason}");
        sluice.apply("listeners", "late", json!({"bind": bind, "limits": {}}));
        assert_eq!(sluice.quarantined("listeners", "late"), None);
        assert_eq!(Curl::get(format!("http://{bind}/")).run().status, 404);
    }
}
