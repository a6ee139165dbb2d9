//! Modules: what they do to requests, how they are swapped, and that none of
//! them can hurt the host.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_harness::guest::{Guest, phases, verdict, write_whole};
use sluice_harness::{Curl, HttpEcho, Reply, Sluice, SluiceBuilder, SteadyLoad, eventually};
use sluice_tests::lines::{Server, closes_for, frame, im_route, read_error, read_frame};

/// A gateway with the module `guest` on the route `/guarded*`, and none on others.
fn gateway(origin: &HttpEcho, guest: &[u8], object: Option<Value>) -> SluiceBuilder {
    let builder = Sluice::builder()
        .listener("edge", json!({}))
        .put("upstreams", "origin", json!({"nodes": {origin.node(): 1}}))
        .put("routes", "free", json!({"uri": "/*", "upstream_id": "origin"}))
        .put(
            "routes",
            "guarded",
            json!({"uri": "/guarded*", "upstream_id": "origin", "plugins": {"guest": {}}}),
        );
    let builder = builder.bytes("modules/guest.wasm", guest);
    match object {
        Some(object) => builder.put("modules", "guest", object),
        None => builder,
    }
}

fn get(sluice: &Sluice, path: &str) -> Reply {
    Curl::get(format!("{}{path}", sluice.url("edge"))).run()
}

fn place(sluice: &Sluice) -> PathBuf {
    sluice.conf().join("modules/guest.wasm")
}

/// What the origin saw of the module's mark.
fn mark(reply: &Reply) -> Option<String> {
    let seen = reply.seen();
    seen.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-guest")).map(|(_, value)| value.clone())
}

fn module_status(sluice: &Sluice) -> Value {
    sluice.status_path("/v1/modules")[0].clone()
}

#[test]
fn a_module_changes_and_refuses_requests_and_says_so() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(&origin, &Guest::new("one").build(), None).start();
    let marked = get(&sluice, "/guarded");
    assert_eq!((marked.status, mark(&marked).as_deref()), (200, Some("one")));
    assert_eq!(mark(&get(&sluice, "/other")), None);
    let denied = get(&sluice, "/guarded?q=evil");
    assert_eq!((denied.status, denied.text().as_str()), (403, "no"));
    let line = sluice.logged("the denial", |line| line["status"] == 403);
    let noted = &line["verdicts"][0];
    assert_eq!(noted["plugin"], "guest", "{line}");
    assert_eq!(noted["verdict"], "deny", "{line}");
    assert_eq!(noted["rules"], json!(["evil"]), "{line}");
    let status = module_status(&sluice);
    assert_eq!(noted["version"], status["active"], "{line} {status}");
    assert_eq!(status["state"], "ready");
    assert_eq!(status["running"][0]["calls"], 2, "{status}");
    assert!(status["digest"].as_str().unwrap().starts_with("sha256:"));
    let metrics = sluice.metrics();
    assert_eq!(
        metrics.count("sluice_filter_verdicts_total", &[("plugin", "guest"), ("verdict", "deny")]),
        1.0
    );
    assert_eq!(metrics.count("sluice_module_calls_total", &[("module", "guest")]), 2.0);
}

#[test]
fn a_module_sees_bodies_and_may_replace_them() {
    let origin = HttpEcho::start("origin");
    let both = phases::REQUEST_HEAD | phases::REQUEST_BODY;
    let guest = Guest::new("one").phases(both);
    let sluice = gateway(&origin, &guest.build(), None).start();
    let url = format!("{}/guarded", sluice.url("edge"));
    assert_eq!(Curl::post(&url, "something evil").run().status, 403);
    let passed = Curl::post(&url, "good").run();
    assert_eq!((passed.status, passed.seen().body.as_str()), (200, "good"));
    // Longer than the interest: refused, as the interest says.
    assert_eq!(Curl::post(&url, vec![b'x'; 70 << 10]).run().status, 413);
    let replacing = guest.on_body(&format!("(i32.const {})", verdict::REPLACE));
    replacing.write(place(&sluice));
    eventually("the body is replaced", || {
        (Curl::post(&url, "good").run().seen().body == "changed").then_some(())
    });
}

#[test]
fn a_longer_body_is_cut_where_the_interest_says_so() {
    let origin = HttpEcho::start("origin");
    let guest = Guest::new("one").phases(phases::REQUEST_BODY).body_max(1024, true);
    let sluice = gateway(&origin, &guest.build(), None).start();
    let url = format!("{}/guarded", sluice.url("edge"));
    let mut body = vec![b'x'; 200 << 10];
    let whole = Curl::post(&url, body.clone()).run();
    assert_eq!((whole.status, whole.seen().body_bytes), (200, body.len() as u64));
    // What the module does not see does not bother it; what it sees does.
    body[150 << 10..][..4].copy_from_slice(b"evil");
    assert_eq!(Curl::post(&url, body.clone()).run().status, 200);
    body[100..][..4].copy_from_slice(b"evil");
    assert_eq!(Curl::post(&url, body).run().status, 403);
}

/// The word `evil` at a place of a body of this length.
fn body_with_evil(length: usize, at: usize) -> Vec<u8> {
    let mut body = vec![b'x'; length];
    body[at..][..4].copy_from_slice(b"evil");
    body
}

#[test]
fn each_module_has_its_own_limit_for_bodies_of_requests() {
    let origin = HttpEcho::start("origin");
    let body = |max, truncates| Guest::new("one").phases(phases::REQUEST_BODY).body_max(max, truncates);
    let route =
        |path: &str, plugins: Value| json!({"uri": path, "upstream_id": "origin", "plugins": plugins});
    let skipped = json!({"_meta": {"filter": [["arg_skip", "~=", "1"]]}});
    let sluice = gateway(&origin, &body(256 << 10, false).build(), None)
        .bytes("modules/strict.wasm", &body(1024, false).build())
        .bytes("modules/brief.wasm", &body(2048, true).build())
        .put("routes", "strict", route("/strict", json!({"guest": {}, "strict": {}})))
        .put("routes", "brief", route("/brief", json!({"guest": {}, "brief": {}})))
        .put("routes", "both", route("/both", json!({"strict": {}, "brief": {}})))
        .put("routes", "maybe", route("/maybe", json!({"guest": {}, "strict": skipped})))
        .start();
    let post = |path: &str, body: Vec<u8>| {
        let reply = Curl::post(format!("{}{path}", sluice.url("edge")), body.clone()).run();
        if reply.status == 200 {
            assert_eq!(reply.seen().body_bytes, body.len() as u64, "{path}: all of it arrives");
        }
        reply.status
    };
    let plain = |length| vec![b'x'; length];
    for (path, sent, expected, why) in [
        ("/strict", plain(1024), 200, "as long as it may be"),
        ("/strict", plain(1025), 413, "one of the two refuses it"),
        ("/brief", plain(100 << 10), 200, "neither refuses it"),
        ("/brief", body_with_evil(100 << 10, 50 << 10), 403, "one sees it all, the other its beginning"),
        ("/brief", plain(257 << 10), 413, "one refuses it, the other does not"),
        ("/both", plain(2000), 413, "the smaller limit is the one that refuses"),
        ("/both", body_with_evil(1000, 900), 403, "within both"),
        ("/maybe", plain(2000), 413, "it is asked"),
        ("/maybe?skip=1", plain(2000), 200, "it is left out"),
        ("/maybe?skip=1", body_with_evil(200 << 10, 150 << 10), 403, "the other is not"),
        ("/maybe?skip=1", plain(257 << 10), 413, "nor is its limit"),
    ] {
        assert_eq!(post(path, sent), expected, "{path}: {why}");
    }
    let line = sluice.logged("the module that refused", |line| line["verdicts"][0]["plugin"] == "strict");
    assert_eq!(
        (&line["status"], &line["reason"], &line["verdicts"][0]["reason"]),
        (&json!(413), &json!("body_too_large"), &json!("body_too_large"))
    );
}

#[test]
fn a_module_in_a_global_rule_has_its_own_limit_beside_that_of_the_route() {
    let origin = HttpEcho::start("origin");
    let body = |max, truncates| Guest::new("one").phases(phases::REQUEST_BODY).body_max(max, truncates);
    let sluice = gateway(&origin, &body(64 << 10, true).build(), None)
        .bytes("modules/strict.wasm", &body(1024, false).build())
        .put("global_rules", "strict", json!({"plugins": {"strict": {}}}))
        .start();
    let url = format!("{}/guarded", sluice.url("edge"));
    assert_eq!(Curl::post(&url, vec![b'x'; 1000]).run().status, 200);
    assert_eq!(Curl::post(&url, vec![b'x'; 2000]).run().status, 413);
    assert_eq!(Curl::post(&url, vec![b'x'; 100 << 10]).run().status, 413, "longer than either wants to see");
}

#[test]
fn each_module_has_its_own_limit_for_bodies_of_responses() {
    let origin = HttpEcho::start("origin");
    let both = phases::REQUEST_HEAD | phases::RESPONSE_BODY;
    let body = |max, truncates| Guest::new("one").phases(both).body_max(max, truncates);
    let route =
        |path: &str, plugins: Value| json!({"uri": path, "upstream_id": "origin", "plugins": plugins});
    let mock =
        json!({"response_status": 200, "content_type": "text/plain", "response_example": "y".repeat(3000)});
    let sluice = gateway(&origin, &body(1 << 20, false).build(), None)
        .bytes("modules/strict.wasm", &body(2048, false).build())
        .bytes("modules/brief.wasm", &body(2048, true).build())
        .put("routes", "strict", route("/strict", json!({"guest": {}, "strict": {}})))
        .put("routes", "brief", route("/brief", json!({"guest": {}, "brief": {}})))
        .put("routes", "mocked", route("/mocked", json!({"strict": {}, "mocking": mock})))
        .start();
    // The echo's answer grows with what it is sent.
    let ask = |path: &str, length: usize| {
        Curl::post(format!("{}{path}", sluice.url("edge")), vec![b'x'; length]).run().status
    };
    assert_eq!((ask("/strict", 10), ask("/strict", 8 << 10)), (200, 502));
    assert_eq!((ask("/brief", 10), ask("/brief", 8 << 10)), (200, 200));
    let line = sluice.logged("the module that refused", |line| line["status"] == 502);
    assert_eq!(line["uri"], "/strict", "{line}");
    assert_eq!(get(&sluice, "/mocked").status, 502, "the gateway's own answers are no exception");
}

#[test]
fn a_module_changes_responses() {
    let origin = HttpEcho::start("origin");
    let all = phases::RESPONSE_HEAD | phases::RESPONSE_BODY;
    let guest = Guest::new("one").phases(all).body_max(1 << 20, false);
    let guest = guest.on_body(&format!("(i32.const {})", verdict::REPLACE));
    let sluice = gateway(&origin, &guest.build(), None).start();
    let reply = get(&sluice, "/guarded");
    assert_eq!((reply.status, reply.header("x-guest"), reply.text().as_str()), (200, Some("one"), "changed"));
}

#[test]
fn an_object_gives_a_module_its_configuration_and_a_route_overlays_it() {
    let origin = HttpEcho::start("origin");
    // Refuses a configuration of more than two bytes: anything but `{}`.
    let refuse = verdict::REFUSE;
    let guest = Guest::new("one").on_configure(&format!(
        "(if (i32.gt_u (local.get $length) (i32.const 2)) (then (return (i32.const {refuse}))))"
    ));
    let sluice = gateway(&origin, &guest.build(), None).start();
    assert_eq!(get(&sluice, "/guarded").status, 200);
    let refusing = json!({"uri": "/guarded*", "upstream_id": "origin", "plugins": {"guest": {"a": 1}}});
    sluice.put("routes", "guarded", refusing);
    let reason = eventually("the route is quarantined", || {
        sluice.quarantined("routes", "guarded").filter(|reason| !reason.contains("being prepared"))
    });
    assert!(reason.contains("plugins.guest") && reason.contains("a: is not wanted"), "{reason}");
    assert_eq!(mark(&get(&sluice, "/guarded")).as_deref(), Some("one"), "the last good one stays");
}

/// How a guest misbehaves when it meets `evil`, and what that is called.
const MISDEEDS: &[(&str, &str, &str)] = &[
    ("traps", "unreachable", "module_trap"),
    ("loops for ever", "(loop $ever (br $ever))", "module_deadline"),
    (
        "allocates without end",
        "(loop $more (if (i32.eq (memory.grow (i32.const 64)) (i32.const -1)) (then unreachable)) (br $more))",
        "module_memory",
    ),
    ("recurses", "(call $deep)", "module_trap"),
    ("reads out of bounds", "(drop (i32.load (i32.const -8)))", "module_trap"),
    (
        "fills its memory over and over",
        "(drop (memory.grow (i32.const 200)))
         (loop $ever (memory.fill (i32.const 65536) (i32.const 0) (i32.const 13000000)) (br $ever))",
        "module_deadline",
    ),
    (
        "grows a table without end",
        "(loop $grow
           (br_if $grow (i32.ne (table.grow $more (ref.null func) (i32.const 1000)) (i32.const -1))))
         unreachable",
        "module_trap",
    ),
    ("logs a line of 1 GiB", "(call $log (i32.const 1) (i32.const 0) (i32.const 0x40000000))", "module_trap"),
    ("returns garbage", "(return (i32.const -4))", "module_trap"),
    (
        "returns an unknown verdict",
        "(i32.store8 (i32.const 5000) (i32.const 77)) (return (i32.const 5000))",
        "module_trap",
    ),
];

/// What the misdeeds call.
const LOG_AND_MORE: &str = r#"
    (import "sluice:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))
    (func $deep (call $deep))
    (table $more 0 funcref)"#;

#[test]
fn a_guest_that_misbehaves_hurts_its_own_call_alone() {
    let origin = HttpEcho::start("origin");
    for (what, misdeed, code) in MISDEEDS {
        let guest = Guest::new("one").on_evil(misdeed).import("sluice:plugin/log@0.1.0", LOG_AND_MORE);
        let sluice = gateway(&origin, &guest.build(), None).start();
        let free = SteadyLoad::get(sluice.address("edge"), "localhost", "/free", 2, 100);
        let guarded = SteadyLoad::get(sluice.address("edge"), "localhost", "/guarded", 2, 100);
        free.until_good(20);
        guarded.until_good(20);
        let before = sluice.observe().resident_bytes();
        for _ in 0..15 {
            let reply = get(&sluice, "/guarded?q=evil");
            assert_eq!(reply.status, 503, "{what}: {}", reply.text());
        }
        let line = sluice.logged(code, |line| line["reason"] == *code);
        assert_eq!(line["verdicts"][0]["plugin"], "guest", "{what}: {line}");
        free.until_good(20);
        guarded.until_good(20);
        for (load, name) in [(free, "free"), (guarded, "guarded")] {
            let report = load.stop();
            assert_eq!(report.failed, 0, "{what}, {name}: {:?}", report.failures);
        }
        let status = module_status(&sluice);
        let failures = status["running"][0]["failures"].as_object().unwrap();
        assert_eq!(failures.values().filter_map(Value::as_u64).sum::<u64>(), 15, "{what}: {status}");
        let after = sluice.observe().resident_bytes();
        assert!(after < before + (64 << 20), "{what}: {before} to {after} bytes");
    }
}

#[test]
fn a_module_that_may_fail_open_lets_pass_what_it_cannot_judge() {
    let origin = HttpEcho::start("origin");
    let guest = Guest::new("one").on_evil("unreachable");
    let sluice = gateway(&origin, &guest.build(), Some(json!({"on_failure": "open"}))).start();
    assert_eq!(get(&sluice, "/guarded?q=evil").status, 200);
    let line = sluice.logged("the failure", |line| line["verdicts"][0]["verdict"] == "error");
    assert_eq!(line["verdicts"][0]["reason"], "module_trap", "{line}");
}

#[test]
fn one_that_always_fails_is_left_alone_for_a_while() {
    let origin = HttpEcho::start("origin");
    let guest = Guest::new("one").on_evil("unreachable");
    let sluice = gateway(&origin, &guest.build(), None).start();
    eventually("the breaker opens", || {
        get(&sluice, "/guarded?q=evil");
        (module_status(&sluice)["running"][0]["breaker_open"] == true).then_some(())
    });
    let refused = get(&sluice, "/guarded");
    assert_eq!(refused.status, 503);
    sluice.logged("the breaker", |line| line["reason"] == "module_breaker");
    assert_eq!(sluice.metrics().count("sluice_module_breaker_open", &[("module", "guest")]), 1.0);
    // After a while one call is let through, and it is a good one.
    eventually("it is called again", || (get(&sluice, "/guarded").status == 200).then_some(()));
}

#[test]
fn the_deadline_of_a_call_grows_with_the_body_it_is_given() {
    let origin = HttpEcho::start("origin");
    // A thousand turns for each byte: 65 million for 64 KiB, which take more than 5 ms anywhere.
    let slow = format!(
        "(local.set $end (i32.mul (local.get $length) (i32.const 1000)))
         (loop $turn (br_if $turn (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (local.get $end))))
         (i32.const {})",
        verdict::GO_ON
    );
    let guest = Guest::new("one").phases(phases::REQUEST_BODY).on_body(&slow).build();
    let limits = |per_kib: &str| Some(json!({"limits": {"deadline": "5ms", "deadline_per_kib": per_kib}}));
    for (per_kib, status) in [("0s", 503), ("20ms", 200)] {
        let sluice = gateway(&origin, &guest, limits(per_kib)).start();
        let reply = Curl::post(format!("{}/guarded", sluice.url("edge")), vec![b'x'; 64 << 10]).run();
        assert_eq!(reply.status, status, "{per_kib}: {}", reply.text());
        let line = sluice.logged("the request", |line| line["uri"] == "/guarded");
        assert_eq!(line["reason"] == "module_deadline", status == 503, "{line}");
    }
}

#[test]
fn long_bodies_that_take_too_long_are_refused_and_take_the_module_from_nobody() {
    let origin = HttpEcho::start("origin");
    let endless = format!(
        "(if (i32.gt_u (local.get $length) (i32.const 4096)) (then (loop $ever (br $ever)))) (i32.const {})",
        verdict::GO_ON
    );
    let guest = Guest::new("one").phases(phases::REQUEST_BODY).on_body(&endless);
    let limits = json!({"limits": {"deadline": "1ms", "deadline_per_kib": 0}});
    let sluice = gateway(&origin, &guest.build(), Some(limits)).start();
    let url = format!("{}/guarded", sluice.url("edge"));
    for _ in 0..50 {
        assert_eq!(Curl::post(&url, vec![b'x'; 5000]).run().status, 503);
    }
    assert!(origin.seen().is_empty());
    let running = module_status(&sluice)["running"][0].clone();
    assert_eq!((&running["failures"]["deadline"], &running["breaker_open"]), (&json!(50), &json!(false)));
    assert_eq!(sluice.metrics().count("sluice_module_failures_total", &[("kind", "deadline")]), 50.0);
    assert_eq!(Curl::post(&url, "short").run().status, 200, "others go on");
}

#[test]
fn what_cannot_be_used_is_refused_and_the_old_one_stays() {
    let origin = HttpEcho::start("origin");
    let good = Guest::new("one");
    let sluice = gateway(&origin, &good.build(), None).start();
    let whole = good.build();
    let forbidden = Guest::new("bad").import(
        "other:secrets/keys@1.0.0",
        r#"(import "other:secrets/keys@1.0.0" "read" (func $read (result i32)))"#,
    );
    let granted = Guest::new("bad").import(
        "sluice:plugin/key-value@0.1.0",
        r#"(import "sluice:plugin/key-value@0.1.0" "delete" (func $delete (param i32 i32 i32 i32 i32 i32)))"#,
    );
    let looping = "(loop $ever (br $ever))";
    let bad: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a truncated file", whole[..whole.len() / 2].to_vec(), "is not a usable component"),
        ("no component at all", b"MZ\x90\0 this is no component".to_vec(), "is not a usable component"),
        ("an empty file", Vec::new(), "is not a usable component"),
        ("a forbidden import", forbidden.build(), "imports other:secrets/keys@1.0.0"),
        ("an import without its grant", granted.build(), "needs the grant kv"),
        ("a trap when it starts", Guest::new("bad").on_start("unreachable").build(), "trap"),
        ("a trap in configure", Guest::new("bad").on_configure("unreachable").build(), "trap"),
        (
            "a loop on the first head",
            Guest::new("bad").on_head(&format!("{looping} (i32.const 0)")).build(),
            "deadline",
        ),
        (
            "a body larger than allowed",
            Guest::new("bad").body_max(u32::MAX, false).build(),
            "request-body-max",
        ),
    ];
    for (what, bytes, reason) in bad {
        let before = module_status(&sluice)["active"].clone();
        write_whole(&place(&sluice), &bytes);
        eventually(&format!("{what} is judged"), || {
            let status = module_status(&sluice);
            (status["active"] != before && status["state"] == "failed").then_some(())
        });
        let told =
            eventually(what, || sluice.quarantined("modules", "guest").filter(|told| told.contains(reason)));
        assert!(told.contains(reason), "{what}: {told}");
        let reply = get(&sluice, "/guarded");
        assert_eq!(mark(&reply).as_deref(), Some("one"), "{what}");
    }
    Guest::new("two").write(place(&sluice));
    eventually("a good one clears it", || {
        (mark(&get(&sluice, "/guarded")).as_deref() == Some("two")).then_some(())
    });
    assert_eq!(sluice.quarantined("modules", "guest"), None);
    assert_eq!(sluice.quarantined("routes", "guarded"), None);
}

#[test]
fn swaps_under_load_lose_nothing_and_leave_nothing() {
    let origin = HttpEcho::start("origin");
    let guests: Vec<Vec<u8>> = (0..4).map(|version| Guest::new(&format!("v{version}")).build()).collect();
    let sluice = gateway(&origin, &guests[0], None).start();
    let clean = SteadyLoad::get(sluice.address("edge"), "localhost", "/guarded", 4, 200);
    clean.until_good(50);
    let before = sluice.observe().resident_bytes();
    for swap in 1..=40 {
        let version = swap % guests.len();
        write_whole(&place(&sluice), &guests[version]);
        eventually(&format!("swap {swap}"), || {
            let reply = get(&sluice, "/guarded?q=evil");
            assert_eq!(reply.status, 403, "no hostile request passes");
            (mark(&get(&sluice, "/guarded"))? == format!("v{version}")).then_some(())
        });
    }
    let report = clean.stop();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    eventually("old versions are gone", || {
        (module_status(&sluice)["running"].as_array()?.len() == 1).then_some(())
    });
    eventually("their memory is given back", || {
        (sluice.observe().resident_bytes() < before + (64 << 20)).then_some(())
    });
}

#[test]
fn a_global_rule_runs_a_module_for_every_request() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(&origin, &Guest::new("one").build(), None)
        .put("global_rules", "waf", json!({"plugins": {"guest": {}}}))
        .start();
    assert_eq!(get(&sluice, "/other?q=evil").status, 403, "from the first request on");
    let late =
        eventually("it is logged", || sluice.access_log().into_iter().find(|line| line["status"] == 403));
    assert_eq!(late["route"], "free");
}

#[test]
fn a_global_rule_whose_module_cannot_be_had_at_the_start_lets_nothing_pass() {
    let origin = HttpEcho::start("origin");
    let broken = &Guest::new("one").build()[..200];
    let sluice = gateway(&origin, broken, None)
        .put(
            "global_rules",
            "waf",
            json!({"plugins": {"guest": {}, "response-rewrite": {"headers": {"x-rule": "1"}}}}),
        )
        .start();
    let refused = get(&sluice, "/other");
    assert_eq!((refused.status, refused.header("x-rule")), (503, Some("1")), "the other rules are in force");
    assert!(origin.seen().is_empty());
    let line = sluice.logged("the refusal", |line| line["reason"] == "module_missing");
    assert_eq!(line["verdicts"][0]["plugin"], "guest", "{line}");
    let told = sluice.quarantined("global_rules", "waf").expect("the rule is in quarantine");
    assert!(told.contains("plugins.guest") && told.contains("is not a usable component"), "{told}");
    // One that is good comes into force like any other.
    Guest::new("two").write(place(&sluice));
    eventually("requests pass", || (get(&sluice, "/other").status == 200).then_some(()));
    assert_eq!(get(&sluice, "/other?q=evil").status, 403);
    assert_eq!(sluice.quarantined("global_rules", "waf"), None);
}

#[test]
fn a_global_rule_whose_module_has_no_object_at_the_start_lets_nothing_pass() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(&origin, &Guest::new("one").build(), None)
        .put("global_rules", "waf", json!({"plugins": {"late": {}}}))
        .put("global_rules", "marks", json!({"plugins": {"response-rewrite": {"headers": {"x-rule": "1"}}}}))
        .start();
    let refused = get(&sluice, "/other");
    assert_eq!((refused.status, refused.header("x-rule")), (503, Some("1")), "the other rules are in force");
    assert_eq!(get(&sluice, "/guarded").status, 503);
    assert!(origin.seen().is_empty());
    let line = sluice.logged("the refusal", |line| line["reason"] == "module_missing");
    assert_eq!(line["verdicts"][0]["plugin"], "late", "{line}");
    let told = sluice.quarantined("global_rules", "waf").expect("the rule is in quarantine");
    assert!(told.contains("plugins.late") && told.contains("modules/late does not exist"), "{told}");
    Guest::new("late").write(sluice.conf().join("modules/late.wasm"));
    eventually("requests pass", || (get(&sluice, "/other").status == 200).then_some(()));
    assert_eq!(get(&sluice, "/other?q=evil").status, 403);
    assert_eq!(sluice.quarantined("global_rules", "waf"), None);
}

#[test]
fn a_global_rule_that_is_no_good_at_the_start_lets_nothing_pass_its_module_unseen() {
    let origin = HttpEcho::start("origin");
    let bad = json!({"plugins": {"guest": {}, "limit-count": {"count": -1, "time_window": 1}}});
    let good = json!({"plugins": {"guest": {}, "limit-count": {"count": 1000, "time_window": 1}}});
    let marks = json!({"plugins": {"response-rewrite": {"headers": {"x-rule": "1"}}}});
    let builder = || {
        gateway(&origin, &Guest::new("one").build(), None).put("global_rules", "waf", &bad).put(
            "global_rules",
            "marks",
            &marks,
        )
    };
    let mut sluice = builder().start();
    let refused = get(&sluice, "/other");
    assert_eq!((refused.status, refused.header("x-rule")), (503, Some("1")), "the other rules are in force");
    assert!(origin.seen().is_empty());
    let line = sluice.logged("the refusal", |line| line["reason"] == "module_missing");
    assert_eq!(line["verdicts"][0]["plugin"], "guest", "{line}");
    let told = sluice.quarantined("global_rules", "waf").expect("the rule is in quarantine");
    assert!(told.contains("plugins.limit-count"), "{told}");
    sluice.put("global_rules", "waf", &good);
    eventually("requests pass", || (get(&sluice, "/other").status == 200).then_some(()));
    assert_eq!(get(&sluice, "/other?q=evil").status, 403);
    // What goes bad later leaves the last good one in force, and taking it away ends it.
    sluice.apply("global_rules", "waf", &bad);
    assert_eq!((get(&sluice, "/other").status, get(&sluice, "/other?q=evil").status), (200, 403));
    sluice.process().kill();
    sluice.restart();
    assert_eq!(get(&sluice, "/other").status, 503);
    sluice.remove("global_rules", "waf");
    eventually("requests pass", || (get(&sluice, "/other").status == 200).then_some(()));
    // One that may fail open is left out.
    let sluice = builder().put("modules", "guest", json!({"on_failure": "open"})).start();
    assert_eq!(get(&sluice, "/other?q=evil").status, 200);
}

#[test]
fn a_global_rule_without_its_module_is_ended_by_taking_it_away() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(&origin, &Guest::new("one").build(), None)
        .put("global_rules", "waf", json!({"plugins": {"late": {}}}))
        .start();
    assert_eq!(get(&sluice, "/other").status, 503);
    sluice.remove("global_rules", "waf");
    eventually("requests pass", || (get(&sluice, "/other").status == 200).then_some(()));
}

#[test]
fn a_route_without_its_module_at_the_start_leaves_its_requests_to_no_other() {
    let origin = HttpEcho::start("origin");
    let route = |uri: &str, more: Value| {
        let mut route = json!({"uri": uri, "upstream_id": "origin"});
        route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        route
    };
    let late = json!({"late": {}});
    let sluice = gateway(&origin, &Guest::new("one").build()[..200], None)
        .put("services", "s", json!({"plugins": late}))
        .put("plugin_configs", "p", json!({"plugins": late}))
        .put("routes", "named", route("/named", json!({"plugins": late})))
        .put("routes", "served", route("/served", json!({"service_id": "s"})))
        .put("routes", "shared", route("/shared", json!({"plugin_config_id": "p"})))
        .put("routes", "off", route("/off", json!({"plugins": {"late": {"_meta": {"disable": true}}}})))
        .start();
    for path in ["/guarded", "/named", "/served", "/shared"] {
        assert_eq!(get(&sluice, path).status, 503, "{path}");
        let line = sluice.logged(path, |line| line["uri"] == path);
        assert_eq!(line["reason"], "module_missing", "{line}");
    }
    assert!(origin.seen().is_empty());
    assert_eq!((get(&sluice, "/other").status, get(&sluice, "/off").status), (200, 200));
    let shown = sluice.status()["config"]["quarantined"].clone();
    let names: Vec<String> = shown
        .as_array()
        .unwrap()
        .iter()
        .map(|one| format!("{}/{} {}", one["kind"], one["id"], one["last_good"]).replace('"', ""))
        .collect();
    for name in ["routes/guarded", "routes/named", "routes/served", "routes/shared"] {
        let found: Vec<&String> = names.iter().filter(|own| own.starts_with(name)).collect();
        assert_eq!(found, [&format!("{name} false")], "{shown}");
    }
    let until_marked = |path: &str, by: &str| {
        eventually(path, || {
            let reply = get(&sluice, path);
            (reply.status == 200 && mark(&reply).as_deref() == Some(by)).then_some(())
        });
    };
    Guest::new("late").write(sluice.conf().join("modules/late.wasm"));
    for path in ["/named", "/served", "/shared"] {
        until_marked(path, "late");
    }
    Guest::new("good").write(place(&sluice));
    until_marked("/guarded", "good");
    eventually("nothing is in quarantine", || {
        sluice.status()["config"]["quarantined"].as_array()?.is_empty().then_some(())
    });
}

#[test]
fn a_consumer_has_the_modules_among_its_plugins_once_they_are_ready() {
    let origin = HttpEcho::start("origin");
    let consumer = json!({"username": "jack", "plugins": {"key-auth": {"key": "k"}, "late": {}}});
    let sluice = gateway(&origin, &Guest::new("one").build(), None)
        .put("routes", "own", json!({"uri": "/own", "upstream_id": "origin", "plugins": {"key-auth": {}}}))
        .put("consumers", "jack", consumer)
        .start();
    let own = || Curl::get(format!("{}/own", sluice.url("edge"))).header("apikey: k").run();
    assert_eq!(own().status, 401, "without its filter a consumer is nobody");
    Guest::new("late").write(sluice.conf().join("modules/late.wasm"));
    eventually("the consumer is known", || {
        let reply = own();
        (reply.status == 200 && mark(&reply).as_deref() == Some("late")).then_some(())
    });
}

#[test]
fn a_global_rule_that_comes_later_with_a_bad_module_changes_nothing() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(&origin, &Guest::new("one").build()[..200], None).start();
    for module in ["guest", "absent"] {
        sluice.put("global_rules", "waf", json!({"plugins": {module: {}}}));
        eventually("the rule is in quarantine", || {
            sluice.quarantined("global_rules", "waf").filter(|told| told.contains(module))
        });
        assert_eq!(get(&sluice, "/other").status, 200);
    }
}

#[test]
fn a_global_rule_whose_module_may_fail_open_does_without_it_at_the_start() {
    let origin = HttpEcho::start("origin");
    let broken = &Guest::new("one").build()[..200];
    let sluice = gateway(&origin, broken, Some(json!({"on_failure": "open"})))
        .put("global_rules", "waf", json!({"plugins": {"guest": {}}}))
        .start();
    assert_eq!(get(&sluice, "/other").status, 200);
    sluice.quarantined("global_rules", "waf").expect("the rule is in quarantine");
}

#[test]
fn modules_come_back_after_a_restart_from_what_was_compiled() {
    let origin = HttpEcho::start("origin");
    let mut sluice =
        gateway(&origin, &Guest::new("one").build(), None).boot("cache_dir", json!("cache")).start();
    let code = sluice.folder().join("cache/code");
    let files = || walk(&code);
    let compiled = files();
    assert_eq!(compiled.len(), 1, "{compiled:?}");
    sluice.terminate(Duration::from_secs(10));
    // What is not sound is compiled again.
    std::fs::write(&compiled[0], "not code").unwrap();
    sluice.restart();
    assert_eq!(mark(&get(&sluice, "/guarded")).as_deref(), Some("one"));
    assert!(std::fs::metadata(&compiled[0]).unwrap().len() > 1000);
}

fn walk(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { vec![entry.path()] })
        .collect()
}

#[test]
fn a_module_passes_drops_rewrites_and_closes_by_frames() {
    let server = Server::frame_echo();
    let mut route = im_route(json!({}));
    route["plugins"] = json!({"guest": {}});
    let guest = Guest::new("one").phases(phases::FRAMES);
    let sluice = Sluice::builder()
        .listener("im", json!({"protocol": "tlv"}))
        .put("upstreams", "im", json!({"scheme": "tlv", "nodes": {server.node(): 1}}))
        .bytes("modules/guest.wasm", &guest.build())
        .put("stream_routes", "im", &route)
        .start();
    let mut raw = sluice.connect("im");
    // All in one write, so that one call sees them.
    let bodies: [&[u8]; 4] = [b"pass one", b"drop two", b"swap three", b"pass four"];
    let mut all = Vec::new();
    for (sequence, body) in bodies.iter().enumerate() {
        all.extend_from_slice(&frame(0x0301, sequence as u16, 7, body));
    }
    raw.send(all);
    let answers: Vec<_> = (0..3).map(|_| read_frame(&mut raw)).collect();
    let seen: Vec<(u16, &[u8])> = answers.iter().map(|frame| (frame.sequence, &frame.body[..])).collect();
    assert_eq!(seen, [(0, bodies[0]), (2, &b"changed"[..]), (3, bodies[3])]);
    let line = sluice
        .logged("the drop", |line| line["kind"] == "blocked" && line["verdicts"][0]["verdict"] == "drop");
    assert_eq!(
        (&line["verdicts"][0]["plugin"], &line["verdicts"][0]["rules"]),
        (&json!("guest"), &json!(["evil"]))
    );
    // A trap costs the frames of its call, and nothing else.
    raw.send(frame(0x0301, 10, 7, b"trap"));
    assert_eq!(read_error(&mut raw), (10, "module_trap".to_owned()));
    raw.send(frame(0x0301, 11, 7, b"pass five"));
    assert_eq!(read_frame(&mut raw).sequence, 11);
    raw.send(frame(0x0301, 12, 7, b"shut"));
    closes_for(&sluice, "module_close", 1);
}
