//! Start, drain, end, and a new binary that takes over.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_harness::{
    Curl, HttpEcho, ImServer, Raw, Signal, Sluice, SluiceBuilder, WebSocketEcho, eventually, within,
};
use sluice_tests::load::{Load, Sessions};

/// How long an ending may take where nothing holds it up.
const SOON: Duration = Duration::from_secs(20);

fn builder(origin: &HttpEcho) -> SluiceBuilder {
    Sluice::builder().listener("edge", json!({})).put(
        "routes",
        "all",
        json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}}),
    )
}

/// Sends a request that the origin answers after `delay`, and waits until the
/// origin has it.
fn slow_request(sluice: &Sluice, origin: &HttpEcho, delay: u64) -> Raw {
    origin.forget();
    let mut raw = sluice.connect("edge").read_timeout(Duration::from_secs(40));
    raw.send(format!("GET /slow?delay={delay} HTTP/1.1\r\nHost: h\r\n\r\n"));
    eventually("the request is at the origin", || {
        origin.seen().iter().any(|seen| seen.target.starts_with("/slow")).then_some(())
    });
    raw
}

#[test]
fn sigterm_lets_what_is_under_way_end_and_takes_nothing_new() {
    let origin = HttpEcho::start("origin");
    let mut sluice = builder(&origin).start();
    let mut idle = sluice.connect("edge");
    idle.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(idle.read_answer().0, 200);
    let mut slow = slow_request(&sluice, &origin, 1500);
    sluice.process().signal(Signal::TERM);
    let address = sluice.address("edge");
    eventually("new connections are refused", || Raw::try_connect(address).is_err().then_some(()));
    let ready = Curl::get(format!("http://{}/status/ready", sluice.status_address())).run();
    assert_eq!(ready.status, 503, "{}", ready.text());
    assert_eq!(ready.json()["state"], "draining");
    assert_eq!(idle.read_to_close(), b"", "an idle connection is ended at once");
    let (status, head, _) = slow.read_answer();
    assert_eq!(status, 200);
    assert!(head.to_ascii_lowercase().contains("connection: close"), "{head}");
    assert_eq!(slow.read_to_close(), b"");
    assert!(sluice.process().wait(SOON).success());
    let line = sluice.logged("the slow request", |line| line["uri"] == "/slow?delay=1500");
    assert_eq!(line["status"], 200, "its line was written before the end");
}

#[test]
fn the_deadline_cuts_what_does_not_end() {
    let origin = HttpEcho::start("origin");
    let mut sluice = builder(&origin).boot("shutdown", json!({"deadline": "300ms"})).start();
    let mut slow = slow_request(&sluice, &origin, 60_000);
    sluice.process().signal(Signal::TERM);
    slow.read_to_close();
    assert!(sluice.process().wait(SOON).success());
    sluice.logged("the request that was cut", |line| line["uri"] == "/slow?delay=60000");
}

#[test]
fn a_second_signal_ends_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let origin = HttpEcho::start("origin");
        let mut sluice = builder(&origin).boot("shutdown", json!({"deadline": "600s"})).start();
        let mut slow = slow_request(&sluice, &origin, 60_000);
        sluice.process().signal(Signal::TERM);
        sluice.observe().until_logged("draining");
        sluice.process().signal(signal);
        sluice.process().wait(SOON);
        slow.read_to_close();
    }
}

#[test]
fn a_second_signal_does_not_wait_for_the_notice() {
    let origin = HttpEcho::start("origin");
    let mut sluice = builder(&origin).boot("shutdown", json!({"deadline": "600s", "notice": "600s"})).start();
    sluice.process().signal(Signal::TERM);
    sluice.observe().until_logged("draining");
    assert_eq!(
        Curl::get(format!("{}/", sluice.url("edge"))).run().status,
        200,
        "it serves during the notice"
    );
    sluice.process().signal(Signal::TERM);
    sluice.process().wait(SOON);
}

#[test]
fn sigkill_and_a_new_start_serve_again() {
    let origin = HttpEcho::start("origin");
    let mut sluice = builder(&origin).start();
    let mut open = sluice.connect("edge");
    open.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(open.read_answer().0, 200);
    sluice.process().kill();
    sluice.restart();
    assert_eq!(Curl::get(format!("{}/", sluice.url("edge"))).run().status, 200);
}

#[test]
fn a_new_process_takes_the_sockets_over_without_a_refused_connection() {
    let origin = HttpEcho::start("origin");
    let mut sluice = builder(&origin)
        .boot("takeover", json!("takeover.sock"))
        .boot("shutdown", json!({"deadline": "15s"}))
        .start();
    let load = Load::short(4, sluice.address("edge"), "/");
    load.wait_more(50);
    for turn in 0..3 {
        // The slow one is answered by the process it was sent to.
        let mut slow = slow_request(&sluice, &origin, 1000);
        let mut old = sluice.take_over();
        assert_eq!(slow.read_answer().0, 200, "turn {turn}");
        assert!(old.wait(SOON).success(), "turn {turn}");
        sluice.wait_ready();
        load.wait_more(50);
    }
    sluice.process().expect_running();
    load.stop();
    assert_eq!(sluice.status()["process"]["pid"], sluice.observe().pid());
}

#[test]
fn a_takeover_that_fails_leaves_the_old_process_as_it_was() {
    let origin = HttpEcho::start("origin");
    let mut sluice = builder(&origin).boot("takeover", json!("takeover.sock")).start();
    let boot = sluice.folder().join("sluice.yaml");
    let bad = sluice.folder().join("bad.yaml");
    let text = std::fs::read_to_string(&boot).unwrap();
    let mut changed: Value = serde_json::from_str(&text).unwrap();
    // Where metrics are, there is a folder already: the new process cannot start.
    changed["log"]["access"] = json!("missing/folder/access.log");
    std::fs::write(&bad, changed.to_string()).unwrap();
    let load = Load::short(2, sluice.address("edge"), "/");
    load.wait_more(20);
    let output = Sluice::command(&[
        "run",
        "-c",
        bad.to_str().unwrap(),
        "--conf",
        sluice.conf().to_str().unwrap(),
        "--takeover",
    ])
    .output()
    .unwrap();
    assert!(!output.status.success());
    load.wait_more(50);
    sluice.process().expect_running();
    // The next one that is good takes over.
    let mut old = sluice.take_over();
    assert!(old.wait(SOON).success());
    sluice.wait_ready();
    load.wait_more(50);
    load.stop();
}

#[test]
fn a_taker_that_dies_before_it_serves_does_not_take_the_offer_with_it() {
    let origin = HttpEcho::start("origin");
    let mut sluice = builder(&origin).boot("takeover", json!("takeover.sock")).start();
    // A process that waits for a store that is not there has nothing to serve yet.
    let boot = sluice.folder().join("sluice.yaml");
    let nowhere = sluice.folder().join("not-there-yet");
    let mut command = Sluice::command(&[
        "run",
        "-c",
        boot.to_str().unwrap(),
        "--conf",
        nowhere.to_str().unwrap(),
        "--takeover",
    ]);
    let log = sluice.folder().join("second.log");
    let mut second =
        sluice_harness::Process::spawn("second", std::mem::replace(&mut command, Sluice::command(&[])), &log);
    second.until_logged("took the listening sockets over");
    second.kill();
    let load = Load::short(2, sluice.address("edge"), "/");
    load.wait_more(50);
    let mut old = sluice.take_over();
    assert!(within(SOON * 2, "the old process ends", || old.exit_status()).success());
    sluice.wait_ready();
    load.wait_more(50);
    load.stop();
}

#[test]
fn sessions_live_on_in_the_old_process_until_it_is_drained() {
    let (sockets, im, origin) =
        (WebSocketEcho::start(), ImServer::start(&["main"]), HttpEcho::start("origin"));
    let mut sluice = builder(&origin)
        .boot("takeover", json!("takeover.sock"))
        .boot("shutdown", json!({"deadline": "4s"}))
        .listener("im", json!({"protocol": "tlv"}))
        .put(
            "routes",
            "ws",
            json!({"uri": "/ws", "enable_websocket": true, "upstream": {"nodes": {sockets.node(): 1}}}),
        )
        .put(
            "stream_routes",
            "im",
            json!({"listener": "im", "upstream": {"scheme": "tlv", "nodes": {im.line("main").node(): 1}}}),
        )
        .start();
    let sessions = Sessions::open(sluice.address("edge"), 10, sluice.address("im"), 10);
    sessions.wait_rounds(1);
    let started = Instant::now();
    let mut old = sluice.take_over();
    old.until_logged("sockets are taken over");
    sluice.wait_ready();
    // Both processes serve: the old one its sessions, the new one new ones.
    let newer = Sessions::open(sluice.address("edge"), 5, sluice.address("im"), 5);
    if started.elapsed() < Duration::from_secs(2) {
        sessions.wait_rounds(1);
        // Those of TLV are closed over the time there is, WebSockets are left alone.
        assert!(sessions.count() >= 10, "{} sessions of the old process live on", sessions.count());
    }
    assert!(old.wait(SOON).success(), "the deadline ends it");
    sessions.wait_cut();
    newer.wait_rounds(1);
    newer.close();
}

#[test]
fn configuration_changes_under_load_and_long_sessions_lose_nothing() {
    sluice_tests::changes::run(&sluice_tests::changes::Plan {
        changes: 200,
        websockets: 50,
        users: 50,
        load: 2,
    });
}

#[test]
fn keygen_makes_a_key_the_boot_file_takes() {
    let make = || {
        let output = Sluice::command(&["keygen"]).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let (one, two) = (make(), make());
    assert_ne!(one, two);
    assert!(one.len() == 64 && one.chars().all(|c| c.is_ascii_hexdigit()), "{one}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.key");
    std::fs::write(&file, format!("{one}\n")).unwrap();
    let origin = HttpEcho::start("origin");
    let sluice = builder(&origin).boot("fleet_key", json!({"file": file})).start();
    let reply = Curl::get(format!("{}/", sluice.url("edge"))).run();
    assert!(reply.seen().header("x-sluice-path").is_some());
}

#[test]
fn what_cannot_start_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let occupied = format!("admin: {{status: \"{taken}\"}}\n");
    for (text, arguments, words) in [
        ("nod: {}\n", vec![], vec!["nod", "sluice.yaml"]),
        ("threads: 5000\n", vec![], vec!["threads", "5000"]),
        ("fleet_key: {env: NO_SUCH_VARIABLE}\n", vec![], vec!["NO_SUCH_VARIABLE"]),
        ("fleet_key: {file: none.key}\n", vec![], vec!["none.key"]),
        ("log: {access: none/such/file.log}\n", vec![], vec!["access log"]),
        (&occupied, vec![], vec!["admin.status", &taken]),
        ("threads: 1\n", vec!["--takeover"], vec!["takeover"]),
        ("threads: 1\n", vec!["--etcd", "ftp://127.0.0.1:2379"], vec!["etcd", "ftp://127.0.0.1:2379"]),
    ] {
        let file = folder.path().join("sluice.yaml");
        std::fs::write(&file, text).unwrap();
        let mut all = vec!["run", "-c", file.to_str().unwrap()];
        all.extend(arguments);
        let output = sluice_harness::tool("timeout")
            .arg("20")
            .arg(sluice_harness::program("sluice"))
            .args(&all)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}: {error}");
        for word in words {
            assert!(error.contains(word), "{text}: {error} lacks {word}");
        }
    }
}

/// Sections and keys of a unit file.
fn unit(text: &str) -> Vec<(String, String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else {
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("no key: {line}"));
            found.push((section.clone(), key.to_owned(), value.to_owned()));
        }
    }
    found
}

#[test]
fn the_unit_file_says_what_the_program_needs() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../host/systemd/sluice@.service");
    let entries = unit(&std::fs::read_to_string(path).unwrap());
    let value = |section: &str, key: &str| {
        let found = entries.iter().find(|(s, k, _)| s == section && k == key);
        found.unwrap_or_else(|| panic!("[{section}] lacks {key}")).2.as_str()
    };
    assert_eq!(value("Service", "Type"), "notify");
    assert_eq!(value("Service", "KillSignal"), "SIGTERM");
    assert!(value("Service", "ExecReload").contains("-HUP"));
    assert!(value("Service", "LimitNOFILE").parse::<u64>().unwrap() >= 100_000);
    assert_eq!(value("Service", "AmbientCapabilities"), "CAP_NET_BIND_SERVICE");
    // The drain's default deadline, 30 s, fits within it.
    assert!(value("Service", "TimeoutStopSec").parse::<u64>().unwrap() > 30);
    // Unix sockets for takeover and the service manager, both families of IP.
    for family in ["AF_INET", "AF_INET6", "AF_UNIX"] {
        assert!(value("Service", "RestrictAddressFamilies").contains(family));
    }
    // Its command line is one the program takes.
    let command: Vec<&str> = value("Service", "ExecStart").split(' ').collect();
    let output = Sluice::command(&[&command[1..], &["--help"]].concat()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
