//! Listeners are objects: they come, go and change while the gateway runs.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_harness::{Curl, HttpEcho, Port, Raw, Sluice, eventually, tool, within};
use sluice_tests::load::Load;

fn gateway() -> (Sluice, HttpEcho) {
    let origin = HttpEcho::start("origin");
    let sluice = Sluice::builder()
        .listener("edge", json!({}))
        .put("routes", "all", json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}}))
        .start();
    (sluice, origin)
}

fn listener(sluice: &Sluice, id: &str) -> Option<Value> {
    let status = sluice.status();
    status["listeners"].as_array().unwrap().iter().find(|one| one["id"] == id).cloned()
}

fn until_refused(address: std::net::SocketAddr) {
    eventually(&format!("{address} refuses"), || Raw::try_connect(address).is_err().then_some(()));
}

#[test]
fn a_listener_comes_and_goes_while_others_serve() {
    let (mut sluice, _origin) = gateway();
    let load = Load::kept(2, sluice.address("edge"), "/");
    sluice.add_listener("second", json!({}));
    let address = sluice.address("second");
    eventually("the second listener serves", || {
        (Curl::get(format!("http://{address}/")).run().status == 200).then_some(())
    });
    let shown = listener(&sluice, "second").expect("it is in the status");
    assert_eq!(shown["binds"][0]["address"], address.to_string(), "{shown}");
    assert_eq!((&shown["protocol"], &shown["tls"]), (&json!("http"), &json!("off")), "{shown}");
    let metrics = sluice.metrics();
    assert_eq!(metrics.value("sluice_listener_bound", &[("listener", "second")]), Some(1.0));

    // What is open goes on; nothing new is taken.
    let mut kept = Raw::connect(address);
    kept.send("GET /slow?delay=300 HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually("the request is under way", || {
        (sluice.status()["connections"]["requests_active"].as_u64()? > 0).then_some(())
    });
    sluice.remove("listeners", "second");
    until_refused(address);
    assert_eq!(kept.read_answer().0, 200);
    eventually("it has left the status", || listener(&sluice, "second").is_none().then_some(()));
    load.stop();
}

#[test]
fn a_changed_listener_keeps_its_address_and_its_connections() {
    let (sluice, _origin) = gateway();
    let address = sluice.address("edge");
    let mut kept = sluice.connect("edge");
    kept.send("GET /1 HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(kept.read_answer().0, 200);
    let load = Load::short(2, address, "/");
    for turn in 0..5 {
        let limits = json!({"header_bytes": 8192 + turn * 1024});
        sluice.apply("listeners", "edge", json!({"bind": address, "limits": limits}));
    }
    sluice.apply("listeners", "edge", json!({"bind": address, "limits": {"header_count": 8}}));
    let request = |count: usize| {
        let fields: String = (0..count).map(|n| format!("X-{n}: 1\r\n")).collect();
        format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
    };
    eventually("the limit is in force", || {
        let mut raw = sluice.connect("edge");
        raw.send(request(20));
        (raw.read_answer().0 == 431).then_some(())
    });
    kept.send("GET /2 HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(kept.read_answer().0, 200, "a connection from before goes on");
    load.stop();
}

#[test]
fn a_listener_moves_to_another_address() {
    let (sluice, _origin) = gateway();
    let (before, after) = (sluice.address("edge"), Port::free());
    sluice.put("listeners", "edge", json!({"bind": [after.loopback()]}));
    eventually("the new address serves", || {
        (Curl::get(format!("http://{}/", after.loopback())).run().status == 200).then_some(())
    });
    until_refused(before);
    // And to several, one of them of the other family where there is one.
    sluice.put("listeners", "edge", json!({"bind": [after.loopback(), before]}));
    for address in [before, after.loopback()] {
        eventually("both serve", || {
            (Curl::get(format!("http://{address}/")).run().status == 200).then_some(())
        });
    }
    // Status 0 closes it.
    sluice.put("listeners", "edge", json!({"bind": before, "status": 0}));
    until_refused(before);
    until_refused(after.loopback());
}

#[test]
fn an_address_that_is_taken_is_shown_and_tried_again() {
    let (mut sluice, _origin) = gateway();
    let port = Port::free();
    let taken = TcpListener::bind(port.loopback()).unwrap();
    sluice.put("listeners", "late", json!({"bind": port.loopback()}));
    let shown = eventually("the conflict is shown", || {
        let binds = listener(&sluice, "late")?["binds"].clone();
        let failed = binds.as_array()?.iter().find(|bind| bind["error"].is_string())?.clone();
        Some(failed)
    });
    assert!(shown.to_string().contains(&port.number().to_string()), "{shown}");
    assert_eq!(Curl::get(format!("{}/", sluice.url("edge"))).run().status, 200, "others serve");
    drop(taken);
    within(Duration::from_secs(60), "the address is taken once it is free", || {
        (Curl::get(format!("http://{}/", port.loopback())).run().status == 200).then_some(())
    });
    eventually("the error has left the status", || {
        let binds = listener(&sluice, "late")?["binds"].clone();
        binds.as_array()?.iter().all(|bind| bind["error"].is_null()).then_some(())
    });
    sluice.process().expect_running();
}

#[test]
fn connections_over_the_limit_are_refused_and_counted() {
    let origin = HttpEcho::start("origin");
    let sluice = Sluice::builder()
        .listener("edge", json!({"limits": {"connections": 4}}))
        .listener("other", json!({}))
        .put("routes", "all", json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}}))
        .start();
    let ask = |raw: &mut Raw| {
        raw.try_send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").is_ok() && sluice_tests::load::answer(raw).is_ok()
    };
    let mut kept: Vec<Raw> = (0..4).map(|_| sluice.connect("edge")).collect();
    for raw in &mut kept {
        assert!(ask(raw));
    }
    let mut fifth = sluice.connect("edge");
    assert!(!ask(&mut fifth), "a fifth connection was served");
    assert!(ask(&mut kept[0]), "those within the limit go on");
    assert!(ask(&mut sluice.connect("other")), "another listener has its own limit");
    eventually("the refusal is counted", || {
        let reason = [("reason", "too_many_connections")];
        (sluice.metrics().count("sluice_connection_closes_total", &reason) > 0.0).then_some(())
    });
    sluice.logged("the refusal", |line| line["reason"] == "too_many_connections");
    drop(kept.pop());
    eventually("a place that is free is given away", || ask(&mut sluice.connect("edge")).then_some(()));
}

#[test]
fn a_process_out_of_descriptors_lives_and_recovers() {
    let (mut sluice, origin) = gateway();
    // What it opens for itself is open once a request has passed.
    assert_eq!(Curl::get(format!("{}/", sluice.url("edge"))).run().status, 200);
    let pid = sluice.observe().pid().to_string();
    let limited = tool("prlimit").args(["--pid", &pid, "--nofile=256:256"]).status().unwrap();
    assert!(limited.success());
    let open: Vec<Raw> = (0..400).filter_map(|_| Raw::try_connect(sluice.address("edge")).ok()).collect();
    assert!(open.len() > 256, "the kernel holds what is not accepted");
    within(Duration::from_secs(30), "all descriptors are in use", || {
        (sluice.observe().descriptors() >= 250).then_some(())
    });
    sluice.process().expect_running();
    // It does not spin meanwhile.
    let before = sluice.observe().cpu();
    let watch = std::time::Instant::now();
    within(Duration::from_secs(5), "a second passes", || {
        (watch.elapsed() > Duration::from_secs(1)).then_some(())
    });
    let used = sluice.observe().cpu() - before;
    assert!(used < Duration::from_millis(500), "{used:?} of CPU in a second without descriptors");
    drop(open);
    within(Duration::from_secs(30), "it serves again", || {
        (Curl::get(format!("{}/", sluice.url("edge"))).run().status == 200).then_some(())
    });
    eventually("its descriptors are back", || (sluice.observe().descriptors() < 100).then_some(()));
    let shown = sluice.metrics().count("sluice_accept_errors_total", &[]);
    assert!(shown > 0.0, "failed accepts are counted");
    drop(origin);
}
