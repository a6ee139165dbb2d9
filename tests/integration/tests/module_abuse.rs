//! What modules try with what the host lends them: its log, its patience, other
//! services, and what the exchange before them left.

use serde_json::{Value, json};
use sluice_harness::guest::{Guest, phases, verdict, write_whole};
use sluice_harness::{Curl, HttpEcho, Reply, Sluice, SluiceBuilder, SteadyLoad, eventually};
use sluice_tests::im::component;

/// A gateway with the module `guest` on the route `/guarded*`, and none on others.
fn gateway(origin: &HttpEcho, guest: &Guest, object: Value) -> SluiceBuilder {
    let guarded = json!({"uri": "/guarded*", "upstream_id": "origin", "plugins": {"guest": {}}});
    Sluice::builder()
        .listener("edge", json!({}))
        .put("upstreams", "origin", json!({"nodes": {origin.node(): 1}}))
        .put("routes", "free", json!({"uri": "/*", "upstream_id": "origin"}))
        .put("routes", "guarded", guarded)
        .bytes("modules/guest.wasm", &guest.build())
        .put("modules", "guest", object)
}

fn get(sluice: &Sluice, path: &str) -> Reply {
    Curl::get(format!("{}{path}", sluice.url("edge"))).run()
}

fn module_status(sluice: &Sluice) -> Value {
    sluice.status_path("/v1/modules")[0].clone()
}

#[test]
fn a_loop_before_the_first_call_is_stopped_and_the_old_version_stays() {
    let origin = HttpEcho::start("origin");
    let limits = json!({"limits": {"configure_deadline": "200ms"}});
    let sluice = gateway(&origin, &Guest::new("one"), limits).start();
    let load = SteadyLoad::get(sluice.address("edge"), "localhost", "/guarded", 2, 100);
    load.until_good(20);
    let looping = "(loop $ever (br $ever))";
    for (what, guest) in [
        ("in its start", Guest::new("two").on_start(looping)),
        ("in configure", Guest::new("three").on_configure(looping)),
    ] {
        let before = module_status(&sluice)["active"].clone();
        guest.write(sluice.conf().join("modules/guest.wasm"));
        eventually(&format!("a loop {what} is judged"), || {
            let status = module_status(&sluice);
            (status["active"] != before && status["state"] == "failed").then_some(())
        });
        let told = sluice.quarantined("modules", "guest").unwrap_or_default();
        assert!(told.contains("deadline"), "{what}: {told}");
        assert!(
            get(&sluice, "/guarded")
                .seen()
                .headers
                .iter()
                .any(|(name, value)| { name.eq_ignore_ascii_case("x-guest") && value == "one" })
        );
    }
    let report = load.stop();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
}

/// Writes one line of 8 MiB, one that would be two, and then lines without end.
const FLOOD: &str = r#"
    (drop (memory.grow (i32.const 130)))
    (memory.fill (i32.const 131072) (i32.const 65) (i32.const 8388608))
    (call $log (i32.const 1) (i32.const 131072) (i32.const 8388608))
    (call $log (i32.const 1) (i32.const 12000) (i32.const 22))
    (loop $more (call $log (i32.const 1) (i32.const 12100) (i32.const 4)) (br $more))"#;

#[test]
fn a_flood_of_lines_is_cut_and_none_of_them_becomes_two() {
    let origin = HttpEcho::start("origin");
    let guest = Guest::new("one").on_evil(FLOOD).import(
        "sluice:plugin/log@0.1.0",
        r#"(import "sluice:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))
           (data (i32.const 12000) "two\0d\0a{\22made\22:\22forged\22}")
           (data (i32.const 12100) "spam")"#,
    );
    let sluice = gateway(&origin, &guest, json!({"limits": {"deadline": "5s"}})).start();
    let refused = get(&sluice, "/guarded?q=evil");
    assert_eq!(refused.status, 503, "{}", refused.text());
    sluice.logged("what was done", |line| line["reason"] == "module_trap");
    let log = eventually("the reason is in the log", || {
        let log = std::fs::read_to_string(sluice.folder().join("sluice.log")).ok()?;
        log.contains("calls of the host in one call").then_some(log)
    });
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    // A hundred a second, in the two or three seconds this may have taken.
    assert!((1..=1000).contains(&lines("spam")), "{} lines of it", lines("spam"));
    assert_eq!((lines("AAAA"), lines("forged")), (1, 1));
    assert!(!log.lines().any(|line| line.starts_with("{\"made")), "a line of the guest's own making");
    let longest = log.lines().map(str::len).max().unwrap_or_default();
    assert!(longest < 8 << 10, "a line of {longest} bytes");
    assert_eq!(get(&sluice, "/guarded").status, 200);
}

#[test]
fn a_field_with_a_line_break_fails_the_call_and_reaches_nobody() {
    let origin = HttpEcho::start("origin");
    let guest = Guest::new("one\r\nx-forged: 1").phases(phases::REQUEST_HEAD | phases::RESPONSE_HEAD);
    let sluice = gateway(&origin, &guest, json!({})).start();
    let refused = get(&sluice, "/guarded");
    assert_eq!((refused.status, refused.header("x-forged")), (503, None));
    assert!(origin.seen().is_empty());
    sluice.logged("the reason", |line| line["reason"] == "module_garbage");
    // The same in the head of a response.
    let accepting = guest.on_head(&format!("(i32.const {})", verdict::GO_ON));
    accepting.write(sluice.conf().join("modules/guest.wasm"));
    let refused = eventually("the response is met", || {
        let refused = get(&sluice, "/guarded");
        (!origin.seen().is_empty()).then_some(refused)
    });
    assert_eq!((refused.status, refused.header("x-forged")), (503, None));
}

/// Instructions that ask `url` for something and wait for it.
fn asking(url: &str) -> String {
    let length = url.len();
    format!(
        "(call $send (i32.const 12000) (i32.const 3) (i32.const 12016) (i32.const {length})
           (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16000))"
    )
}

/// A guest that may do so.
fn fetching(url: &str) -> Guest {
    let functions = format!(
        r#"(import "sluice:plugin/fetch@0.1.0" "send"
             (func $send (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
           (data (i32.const 12000) "GET")
           (data (i32.const 12016) "{url}")"#
    );
    Guest::new("one").import("sluice:plugin/fetch@0.1.0", &functions)
}

#[test]
fn a_guest_that_waits_for_a_service_that_is_silent_holds_up_its_own_exchange_alone() {
    let (origin, silent) = (HttpEcho::start("origin"), HttpEcho::start("silent"));
    silent.line().hang();
    let url = format!("http://{}/", silent.node());
    let guest = fetching(&url).on_evil(&asking(&url));
    let object = json!({"grants": {"fetch": [silent.node()]}, "limits": {"fetch_timeout": "1s"}});
    let sluice = gateway(&origin, &guest, object).start();
    let clean = SteadyLoad::get(sluice.address("edge"), "localhost", "/guarded", 2, 100);
    clean.until_good(20);
    let before = clean.so_far().good;
    std::thread::scope(|scope| {
        let waiting: Vec<_> =
            (0..8).map(|_| scope.spawn(|| get(&sluice, "/guarded?q=evil").status)).collect();
        eventually("the silent service is asked", || (silent.line().open_connections() > 0).then_some(()));
        for waiting in waiting {
            // It is told of the time-out and lets pass.
            assert_eq!(waiting.join().expect("the request is made"), 200);
        }
    });
    assert!(clean.so_far().good > before, "others are served meanwhile");
    let report = clean.stop();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
}

#[test]
fn a_guest_that_waits_where_it_must_answer_at_once_is_given_up() {
    let (origin, silent) = (HttpEcho::start("origin"), HttpEcho::start("silent"));
    silent.line().hang();
    let url = format!("http://{}/", silent.node());
    let guest = fetching(&url).phases(phases::RESPONSE_HEAD).on_response_head(&format!(
        "{} (i32.const {})",
        asking(&url),
        verdict::GO_ON
    ));
    let object = json!({"grants": {"fetch": [silent.node()]}, "limits": {"fetch_timeout": "1s"}});
    let sluice = gateway(&origin, &guest, object).start();
    assert_eq!(get(&sluice, "/guarded").status, 503);
    sluice.logged("the reason", |line| line["reason"] == "module_waits");
    assert_eq!(get(&sluice, "/free").status, 200);
}

/// Denies when it finds what an exchange before it left, in its first page or
/// far up in memory it grew.
fn remembering() -> Guest {
    let deny = verdict::DENY;
    Guest::new("one").on_head(&format!(
        "(if (i32.lt_u (memory.size) (i32.const 100)) (then (drop (memory.grow (i32.const 98)))))
         (if (i32.or (i32.load (i32.const 20000)) (i32.load (i32.const 6000000)))
           (then (return (i32.const {deny}))))
         (i32.store (i32.const 20000) (i32.const 0x73656372))
         (i32.store (i32.const 6000000) (i32.const 0x73656372))
         (i32.const {})",
        verdict::MARK
    ))
}

#[test]
fn nothing_of_one_exchange_is_left_for_another_where_instances_are_fresh() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(&origin, &remembering(), json!({"instance": "fresh"})).start();
    // Over kept connections, so that places of the pool are used again and again.
    let load = SteadyLoad::get(sluice.address("edge"), "localhost", "/guarded", 4, 500);
    load.until_good(300);
    let report = load.stop();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert_eq!(report.servers.get("origin").copied().unwrap_or_default(), report.good, "none was denied");
    // The guest does find what is left where instances are used again.
    sluice.put("modules", "guest", json!({"instance": "reuse"}));
    eventually("what was left is found", || (get(&sluice, "/guarded").status == 403).then_some(()));
}

/// Counts how often it is configured, and denies where that has left no trace or
/// another exchange has.
fn counting(more: &str) -> Guest {
    let (deny, mark) = (verdict::DENY, verdict::MARK);
    let functions = format!(
        r#"(import "sluice:plugin/metrics@0.1.0" "add" (func $count (param i32 i32 i64)))
           (global $configured (mut i32) (i32.const 0))
           (data (i32.const 12000) "configured") {more}"#
    );
    Guest::new("one")
        .import("sluice:plugin/metrics@0.1.0", &functions)
        .on_configure(
            "(call $count (i32.const 12000) (i32.const 10) (i64.const 1))
             (global.set $configured (i32.const 7))
             (i32.store (i32.const 20000) (i32.const 7))",
        )
        .on_head(&format!(
            "(if (i32.ne (global.get $configured) (i32.const 7)) (then (return (i32.const {deny}))))
             (if (i32.ne (i32.load (i32.const 20000)) (i32.const 7)) (then (return (i32.const {deny}))))
             (global.set $configured (i32.const 8))
             (i32.store (i32.const 20000) (i32.const 8))
             (i32.const {mark})"
        ))
}

/// How often the guest was configured by 20 requests that it let pass.
fn configured_by_requests(sluice: &Sluice) -> f64 {
    let labels = [("module", "guest"), ("name", "configured")];
    let count = || sluice.metrics().count("sluice_module_counter_total", &labels);
    let before = count();
    assert!(before > 0.0, "it counts");
    for _ in 0..20 {
        assert_eq!(get(sluice, "/guarded").status, 200);
    }
    count() - before
}

#[test]
fn fresh_instances_begin_configured() {
    let origin = HttpEcho::start("origin");
    // As much memory as it begins with.
    let object = json!({"instance": "fresh", "limits": {"memory_max": "128KiB"}});
    let sluice = gateway(&origin, &counting(""), object).start();
    let running = &module_status(&sluice)["running"][0];
    assert_eq!((&running["image"], &running["no_image"]), (&json!(true), &Value::Null), "{running}");
    assert_eq!(configured_by_requests(&sluice), 0.0);
}

#[test]
fn what_has_no_image_is_configured_for_each_exchange_and_says_why() {
    let origin = HttpEcho::start("origin");
    let table = "(table $own 1 funcref) (elem declare func $start)
        (func $swap (table.set $own (i32.const 0) (ref.func $start)))";
    let sluice = gateway(&origin, &counting(table), json!({"instance": "fresh"})).start();
    let running = &module_status(&sluice)["running"][0];
    let why = running["no_image"].as_str().unwrap_or_default();
    assert!(running["image"] == json!(false) && why.contains("table.set"), "{running}");
    assert_eq!(configured_by_requests(&sluice), 20.0);
}

#[test]
fn a_plugin_made_with_the_sdk_begins_configured() {
    let origin = HttpEcho::start("origin");
    let sluice = Sluice::builder()
        .listener("edge", json!({}))
        .put("upstreams", "origin", json!({"nodes": {origin.node(): 1}}))
        .put("routes", "one", json!({"uri": "/one", "upstream_id": "origin", "plugins": {"hello": {}}}))
        .put(
            "routes",
            "two",
            json!({"uri": "/two", "upstream_id": "origin", "plugins": {"hello": {"greeting": "two"}}}),
        )
        .bytes("modules/hello.wasm", &component("hello-rust"))
        .put("modules", "hello", json!({"instance": "fresh", "config": {"greeting": "one"}}))
        .start();
    let running = module_status(&sluice)["running"].clone();
    let with_image = running.as_array().into_iter().flatten().filter(|one| one["image"] == json!(true));
    assert_eq!(with_image.count(), 2, "{running}");
    for greeting in ["one", "two", "one", "two"] {
        let seen = get(&sluice, &format!("/{greeting}")).seen();
        let hello = seen.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-hello"));
        assert_eq!(hello.map(|(_, value)| value.as_str()), Some(greeting));
    }
}

#[test]
fn a_module_that_waits_begins_configured_too() {
    let (origin, service) = (HttpEcho::start("origin"), HttpEcho::start("service"));
    let url = format!("http://{}/", service.node());
    let guest = fetching(&url).on_evil(&asking(&url));
    let object = json!({"instance": "fresh", "grants": {"fetch": [service.node()]}});
    let sluice = gateway(&origin, &guest, object).start();
    let running = &module_status(&sluice)["running"][0];
    assert_eq!(running["image"], json!(true), "{running}");
    assert_eq!(get(&sluice, "/guarded?q=evil").status, 200);
    assert_eq!(service.seen().len(), 1, "it asked the service");
}

#[test]
fn broken_and_hostile_bytes_are_judged_and_hurt_nobody() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(&origin, &Guest::new("one"), json!({})).start();
    let load = SteadyLoad::get(sluice.address("edge"), "localhost", "/other", 2, 100);
    let whole = Guest::new("two").build();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize % below
    };
    for round in 0..40 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random(8) {
            let at = 8 + random(bytes.len() - 8);
            bytes[at] ^= 1 + random(255) as u8;
        }
        let before = module_status(&sluice)["active"].clone();
        write_whole(&sluice.conf().join("modules/guest.wasm"), &bytes);
        eventually(&format!("variant {round} is judged"), || {
            let status = module_status(&sluice);
            (status["active"] != before && status["state"] != "preparing").then_some(())
        });
        assert!(get(&sluice, "/guarded").status > 0);
    }
    let report = load.stop();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    Guest::new("three").write(sluice.conf().join("modules/guest.wasm"));
    eventually("a good one follows", || (get(&sluice, "/guarded?q=evil").status == 403).then_some(()));
}
