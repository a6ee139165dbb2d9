//! Edge functions that misbehave, through the whole program, and one by
//! `wasi:http` of WASI 0.3. The guests are in `tests/guests`.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_harness::guest::write_whole;
use sluice_harness::{Curl, HttpEcho, Reply, Sluice, SteadyLoad, eventually, within};

/// Compiling takes long where the compiler itself is not optimised.
const COMPILING: Duration = Duration::from_secs(240);

fn component(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../target/guests/{name}.wasm"));
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask plugins` builds it", path.display()))
}

/// A gateway with a guest as function on `/f/*`, ready to be called, and an
/// origin on `/free`.
fn gateway(origin: &HttpEcho, guest: &str, object: Value) -> Sluice {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("edge");
    let sluice = Sluice::builder()
        .boot("cache_dir", json!(cache))
        .listener("edge", json!({}))
        .put("routes", "free", json!({"uri": "/free", "upstream": {"nodes": {origin.node(): 1}}}))
        .start();
    write_whole(&sluice.conf().join("modules/guest.wasm"), &component(guest));
    sluice.put("modules", "guest", object);
    sluice.put("routes", "function", json!({"uri": "/f/*", "plugins": {"guest": {}}}));
    within(COMPILING, "the function to answer", || (get(&sluice, "/f/hello").status == 200).then_some(()));
    sluice
}

fn get(sluice: &Sluice, path: &str) -> Reply {
    Curl::get(format!("{}{path}", sluice.url("edge"))).run()
}

fn failures(sluice: &Sluice, kind: &str) -> u64 {
    let status = sluice.status_path("/v1/modules");
    status[0]["running"][0]["failures"][kind].as_u64().unwrap_or_default()
}

#[test]
fn a_function_that_fails_costs_its_own_request_alone() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(&origin, "edge", json!({}));
    let load = SteadyLoad::get(sluice.address("edge"), "localhost", "/free", 2, 100);
    load.until_good(20);
    for (path, status, reason) in [
        ("/f/loop", 504, "module_deadline"),
        ("/f/trap", 500, "module_trap"),
        ("/f/allocate", 500, "module_trap"),
        ("/f/recurse", 500, "module_trap"),
        ("/f/silent", 500, "module_trap"),
    ] {
        let reply = get(&sluice, path);
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        let line = sluice.logged(path, |line| line["uri"] == path);
        assert_eq!(line["reason"], reason, "{line}");
        let next = get(&sluice, "/f/hello");
        assert_eq!((next.status, next.text().as_str()), (200, "hello"), "after {path}");
    }
    assert_eq!((failures(&sluice, "deadline"), failures(&sluice, "trap")), (1, 4));
    // An answer that breaks off is cut, never ended as if it were whole.
    let half = get(&sluice, "/f/half");
    assert!(half.exit != 0, "exit {}, status {}, {} bytes", half.exit, half.status, half.body.len());
    let report = load.stop();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    eventually("every instance is gone", || {
        (sluice.status_path("/v1/modules")[0]["running"][0]["instances"] == 0).then_some(())
    });
}

#[test]
fn a_function_that_keeps_failing_is_left_alone_for_a_while() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(&origin, "edge", json!({}));
    eventually("the breaker opens", || {
        get(&sluice, "/f/trap");
        (sluice.status_path("/v1/modules")[0]["running"][0]["breaker_open"] == true).then_some(())
    });
    assert_eq!(get(&sluice, "/f/hello").status, 503);
    sluice.logged("the breaker", |line| line["reason"] == "module_breaker");
    assert_eq!(sluice.metrics().count("sluice_module_breaker_open", &[("module", "guest")]), 1.0);
    // After a while one call is let through, and it is a good one.
    eventually("it is called again", || (get(&sluice, "/f/hello").status == 200).then_some(()));
    assert_eq!(sluice.status_path("/v1/modules")[0]["running"][0]["breaker_open"], false);
}

#[test]
fn a_function_sees_nothing_of_the_machine_and_reaches_only_what_is_granted() {
    let (origin, other) = (HttpEcho::start("origin"), HttpEcho::start("other"));
    // It prints ten thousand lines, which takes a while where nothing is optimised.
    let object = json!({"grants": {"fetch": [other.node()]}, "limits": {"deadline": "10s"}});
    let sluice = gateway(&origin, "edge", object);
    assert_eq!(get(&sluice, "/f/see").text(), "0 0", "variables, folders");
    assert_eq!(get(&sluice, &format!("/f/reach?{}", other.node())).text(), "status 200");
    for address in [origin.node(), sluice.status_address().to_string(), "localhost:1".to_owned()] {
        let said = get(&sluice, &format!("/f/reach?{address}")).text();
        assert!(said.contains("Denied") || said.contains("Prohibited"), "{address}: {said}");
    }
    assert!(origin.seen().is_empty());
    // Lines it prints are bounded, and stay lines.
    assert_eq!(get(&sluice, "/f/print").status, 200);
    let log = std::fs::read_to_string(sluice.folder().join("sluice.log")).expect("there is a log");
    assert!(log.lines().filter(|line| line.contains("breaks")).count() < 2000);
}

#[test]
fn an_instance_serves_one_request_or_many_as_its_object_says() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(&origin, "edge", json!({}));
    for _ in 0..5 {
        assert_eq!(get(&sluice, "/f/count").text(), "1", "each has an instance of its own");
    }
    sluice.put("modules", "guest", json!({"instance": "reuse"}));
    eventually("an instance is used again", || (get(&sluice, "/f/count").text() != "1").then_some(()));
}

#[test]
fn a_client_that_leaves_ends_the_call() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(&origin, "edge", json!({}));
    let running = || sluice.status_path("/v1/modules")[0]["running"][0]["instances"].as_u64();
    let mut raw = sluice.connect("edge");
    raw.send("GET /f/wait HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the function waits", || (running() == Some(1)).then_some(()));
    drop(raw);
    eventually("its instance is given up", || (running() == Some(0)).then_some(()));
}

#[test]
fn a_function_of_wasi_0_3_answers() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(&origin, "edge3", json!({}));
    let reply = get(&sluice, "/f/any");
    assert_eq!((reply.status, reply.text().as_str()), (200, "third /f/any"));
    assert_eq!(get(&sluice, "/f/refuse").status, 500);
    assert_eq!(get(&sluice, "/f/any").status, 200);
}
