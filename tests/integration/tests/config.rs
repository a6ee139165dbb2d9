//! Configuration from a directory, changed while the gateway runs.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sluice_harness::{Curl, HttpEcho, Signal, Sluice, eventually, within};
use sluice_tests::load::Load;

fn route(uri: &str, upstream: &str) -> Value {
    json!({"uri": uri, "upstream_id": upstream})
}

fn nodes(origin: &HttpEcho) -> Value {
    json!({"nodes": {origin.node(): 1}})
}

/// Status and the name of the origin that answered.
fn answer(sluice: &Sluice, path: &str) -> (u16, String) {
    let reply = Curl::get(format!("{}{path}", sluice.url("edge"))).run();
    let name = serde_json::from_slice::<Value>(&reply.body).unwrap_or_default()["server"].clone();
    (reply.status, name.as_str().unwrap_or_default().to_owned())
}

fn until_answered_by(sluice: &Sluice, path: &str, origin: &str) {
    eventually(&format!("{path} is answered by {origin}"), || {
        (answer(sluice, path) == (200, origin.to_owned())).then_some(())
    });
}

fn until_status(sluice: &Sluice, path: &str, status: u16) {
    eventually(&format!("{path} is answered with {status}"), || {
        (answer(sluice, path).0 == status).then_some(())
    });
}

fn quarantine(sluice: &Sluice, kind: &str, id: &str) -> Value {
    eventually(&format!("{kind}/{id} is quarantined"), || {
        let status = sluice.status();
        let all = status["config"]["quarantined"].as_array()?.clone();
        all.into_iter().find(|entry| entry["kind"] == kind && entry["id"] == id)
    })
}

fn until_clean(sluice: &Sluice) {
    eventually("an empty quarantine", || {
        sluice.status()["config"]["quarantined"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
}

#[test]
fn an_object_is_live_after_its_rename_and_gone_after_its_removal() {
    let (one, two) = (HttpEcho::start("one"), HttpEcho::start("two"));
    let sluice = Sluice::builder()
        .listener("edge", json!({}))
        .put("upstreams", "one", nodes(&one))
        .put("upstreams", "two", nodes(&two))
        .start();
    assert_eq!(answer(&sluice, "/a").0, 404);
    sluice.put("routes", "a", route("/a", "one"));
    until_answered_by(&sluice, "/a", "one");
    sluice.put("routes", "a", route("/a", "two"));
    until_answered_by(&sluice, "/a", "two");
    // The same object as YAML, then under another path.
    sluice.put("routes", "a", "uri: /b\nupstream_id: one\n");
    until_answered_by(&sluice, "/b", "one");
    assert_eq!(answer(&sluice, "/a").0, 404);
    sluice.remove("routes", "a");
    until_status(&sluice, "/b", 404);
    assert_eq!(sluice.status()["config"]["objects"]["routes"], 0);
}

#[test]
fn the_standalone_form_is_read_beside_single_files() {
    let origin = HttpEcho::start("origin");
    let text = |path: &str| {
        format!(
            "upstreams:\n  - id: u\n    nodes: {{\"{}\": 1}}\nroutes:\n  - id: s\n    uri: {path}\n    \
             upstream_id: u\n  - uri: /unnamed\n    upstream_id: u\n#END\n",
            origin.node()
        )
    };
    let sluice = Sluice::builder()
        .listener("edge", json!({}))
        .file("apisix.yaml", &text("/first"))
        .put("routes", "single", route("/single", "u"))
        .start();
    for path in ["/first", "/unnamed", "/single"] {
        assert_eq!(answer(&sluice, path).0, 200, "{path}");
    }
    let whole = sluice.folder().join("whole.yaml");
    fs::write(&whole, text("/second")).unwrap();
    fs::rename(&whole, sluice.conf().join("apisix.yaml")).unwrap();
    until_status(&sluice, "/second", 200);
    assert_eq!(answer(&sluice, "/first").0, 404);
    // One id in two files names both, and what was in force stays.
    sluice.put("routes", "s", route("/third", "u"));
    let reason = eventually("the clash is shown", || {
        let status = sluice.status();
        let text = status["config"]["quarantined"].to_string();
        (text.contains("apisix.yaml") && text.contains("s.json")).then_some(text)
    });
    assert_eq!(answer(&sluice, "/second").0, 200, "{reason}");
    sluice.remove("routes", "s");
    until_clean(&sluice);
}

#[test]
fn a_file_written_in_place_and_a_swapped_folder_are_read() {
    let origin = HttpEcho::start("origin");
    let sluice = Sluice::builder().listener("edge", json!({})).put("upstreams", "u", nodes(&origin)).start();
    let routes = sluice.conf().join("routes");
    fs::create_dir_all(&routes).unwrap();
    fs::write(routes.join("a.json"), route("/a", "u").to_string()).unwrap();
    until_status(&sluice, "/a", 200);
    // A folder that is a link, swapped as Kubernetes swaps a volume.
    let versions = sluice.folder().join("versions");
    for (version, path) in [("1", "/v1"), ("2", "/v2")] {
        fs::create_dir_all(versions.join(version)).unwrap();
        fs::write(versions.join(version).join("l.json"), route(path, "u").to_string()).unwrap();
    }
    fs::remove_dir_all(&routes).unwrap();
    until_status(&sluice, "/a", 404);
    std::os::unix::fs::symlink(versions.join("1"), &routes).unwrap();
    until_status(&sluice, "/v1", 200);
    let swapped = sluice.folder().join("swapped");
    std::os::unix::fs::symlink(versions.join("2"), &swapped).unwrap();
    fs::rename(&swapped, &routes).unwrap();
    until_status(&sluice, "/v2", 200);
    assert_eq!(answer(&sluice, "/v1").0, 404);
}

#[test]
fn a_bad_object_is_quarantined_with_its_last_good_version_kept() {
    let origin = HttpEcho::start("origin");
    let sluice = Sluice::builder()
        .listener("edge", json!({}))
        .put("upstreams", "u", nodes(&origin))
        .put("routes", "shop", route("/shop", "u"))
        .put("routes", "other", route("/other", "u"))
        .start();
    let mut bad = route("/shop", "u");
    bad["priority"] = json!("high");
    sluice.put("routes", "shop", &bad);
    let shown = quarantine(&sluice, "routes", "shop");
    assert_eq!(shown["last_good"], true, "{shown}");
    assert!(shown["origin"].as_str().unwrap().contains("routes/shop.json"), "{shown}");
    let reason = shown["reason"].as_str().unwrap();
    assert!(reason.contains("priority") && reason.contains("high"), "{shown}");
    assert!(shown["since"].is_string() && shown["for_seconds"].is_number(), "{shown}");
    assert_eq!(answer(&sluice, "/shop").0, 200);
    assert_eq!(sluice.metrics().value("sluice_config_quarantined", &[("kind", "routes")]), Some(1.0));

    // A new object that is bad has no last good version, and harms nobody.
    sluice.put("routes", "new", "uri: [\n");
    let shown = quarantine(&sluice, "routes", "new");
    assert_eq!(shown["last_good"], false, "{shown}");
    assert_eq!(answer(&sluice, "/other").0, 200);

    sluice.put("routes", "shop", route("/shop2", "u"));
    until_status(&sluice, "/shop2", 200);
    sluice.remove("routes", "new");
    until_clean(&sluice);
    assert_eq!(answer(&sluice, "/shop").0, 404);
}

#[test]
fn every_kind_of_bad_object_is_refused_and_named() {
    let origin = HttpEcho::start("origin");
    let sluice = Sluice::builder()
        .listener("edge", json!({}))
        .put("upstreams", "u", nodes(&origin))
        .put("routes", "r", route("/r", "u"))
        .start();
    let cases: [(&str, Value, &str); 13] = [
        ("listeners", json!({"bind": "127.0.0.1:99999"}), "bind"),
        ("listeners", json!({"bind": "127.0.0.1:0", "limits": {"connections": -1}}), "limits.connections"),
        ("routes", json!({"uri": "/x", "upstream_id": "u", "colour": 1}), "colour"),
        ("routes", json!({"uri": "/x"}), "upstream"),
        ("routes", json!({"uri": "/x", "upstream_id": "u", "vars": [["a", "~~", "("]]}), "vars"),
        ("routes", json!({"uri": "/x", "upstream_id": "u", "plugins": {"no-such": {}}}), "no-such"),
        (
            "routes",
            json!({"uri": "/x", "upstream_id": "u", "plugins": {"limit-req": {"rate": 0, "burst": 0, "key": "remote_addr"}}}),
            "rate",
        ),
        ("services", json!({"upstream_id": "u", "script": "return"}), "script"),
        ("upstreams", json!({"nodes": {"127.0.0.1:80": -1}}), "nodes"),
        ("upstreams", json!({"nodes": {"h:80": 1}, "scheme": "gopher"}), "scheme"),
        ("ssls", json!({"sni": "a.example", "cert": "no", "key": "no"}), "cert"),
        ("stream_routes", json!({"listener": "none", "upstream_id": "u"}), "listener"),
        (
            "frame_formats",
            json!({"header": [{"name": "a", "at": 0, "bytes": 9}], "roles": {"length": "a"}}),
            "bytes",
        ),
    ];
    for (number, (kind, object, field)) in cases.iter().enumerate() {
        let id = format!("bad{number}");
        sluice.put(kind, &id, object);
        let shown = quarantine(&sluice, kind, &id);
        let reason = shown["reason"].as_str().unwrap();
        assert!(reason.contains(field), "{kind} {object}: {reason} does not name {field}");
        assert_eq!(answer(&sluice, "/r").0, 200, "{kind} {object}");
        sluice.remove(kind, &id);
    }
    until_clean(&sluice);
    assert_eq!(answer(&sluice, "/r").0, 200);
}

#[test]
fn references_that_dangle_heal_and_what_is_named_is_held() {
    let origin = HttpEcho::start("origin");
    let sluice =
        Sluice::builder().listener("edge", json!({})).put("routes", "r", route("/r", "late")).start();
    let shown = quarantine(&sluice, "routes", "r");
    assert!(shown["reason"].as_str().unwrap().contains("upstream_id"), "{shown}");
    assert!(shown["reason"].as_str().unwrap().contains("late"), "{shown}");
    sluice.put("upstreams", "late", nodes(&origin));
    until_answered_by(&sluice, "/r", "origin");
    until_clean(&sluice);

    sluice.remove("upstreams", "late");
    quarantine(&sluice, "routes", "r");
    let held = quarantine(&sluice, "upstreams", "late");
    assert_eq!(held["last_good"], true, "{held}");
    assert!(held["reason"].as_str().unwrap().contains("deleted"), "{held}");
    assert_eq!(answer(&sluice, "/r").0, 200, "what a route in force names stays");
    sluice.remove("routes", "r");
    until_clean(&sluice);
    assert_eq!(sluice.status()["config"]["objects"]["upstreams"], 0);
}

#[test]
fn ten_thousand_routes_serve_while_one_of_them_changes() {
    let origin = HttpEcho::start("origin");
    let list: Vec<Value> = (0..10_000)
        .map(|n| json!({"id": format!("r{n}"), "uri": format!("/many/{n}"), "upstream_id": "u"}))
        .collect();
    let mut sluice = Sluice::builder()
        .listener("edge", json!({}))
        .put("upstreams", "u", nodes(&origin))
        .file("many.json", &json!({"routes": list}).to_string())
        .put("routes", "one", route("/one/0", "u"))
        .boot("log", json!({"level": "info"}))
        .spawn();
    within(std::time::Duration::from_secs(60), "a gateway with 10,000 routes", || {
        Curl::get(format!("http://{}/status/ready", sluice.status_address()))
            .run()
            .text()
            .contains("ok")
            .then_some(())
    });
    sluice.process().expect_running();
    assert_eq!(sluice.status()["config"]["objects"]["routes"], 10_001);
    for n in [0, 17, 5_000, 9_999] {
        assert_eq!(answer(&sluice, &format!("/many/{n}")).0, 200, "{n}");
    }
    let load = Load::kept(2, sluice.address("edge"), "/many/4321");
    for turn in 1..=20 {
        sluice.put("routes", "one", route(&format!("/one/{turn}"), "u"));
        until_status(&sluice, &format!("/one/{turn}"), 200);
    }
    assert_eq!(answer(&sluice, "/one/19").0, 404);
    load.stop();
}

#[test]
fn sighup_reads_everything_again() {
    let origin = HttpEcho::start("origin");
    let mut sluice = Sluice::builder()
        .listener("edge", json!({}))
        .put("upstreams", "u", nodes(&origin))
        .put("routes", "r", route("/r", "u"))
        .start();
    // A link into a folder that is not watched: its target changes unseen.
    let target = sluice.folder().join("elsewhere.json");
    fs::write(&target, route("/before", "u").to_string()).unwrap();
    std::os::unix::fs::symlink(&target, sluice.conf().join("routes/l.json")).unwrap();
    until_status(&sluice, "/before", 200);
    fs::write(&target, route("/after", "u").to_string()).unwrap();
    sluice.process().signal(Signal::HUP);
    until_status(&sluice, "/after", 200);
    assert_eq!(answer(&sluice, "/r").0, 200);
    assert!(sluice.observe().log().contains("SIGHUP"));
}

#[test]
fn a_store_that_disappears_and_comes_back_changes_nothing_meanwhile() {
    let origin = HttpEcho::start("origin");
    let sluice = Sluice::builder()
        .listener("edge", json!({}))
        .put("upstreams", "u", nodes(&origin))
        .put("routes", "r", route("/r", "u"))
        .start();
    let away = sluice.folder().join("away");
    fs::rename(sluice.conf(), &away).unwrap();
    let load = Load::kept(1, sluice.address("edge"), "/r");
    sluice.observe().until_logged("conf");
    load.wait_more(50);
    fs::rename(&away, sluice.conf()).unwrap();
    sluice.put("routes", "s", route("/s", "u"));
    until_status(&sluice, "/s", 200);
    load.stop();
}

/// Runs `sluice check`; exit code and what it printed.
fn check(paths: &[&Path]) -> (i32, String) {
    let mut arguments = vec!["check"];
    arguments.extend(paths.iter().map(|path| path.to_str().unwrap()));
    let output = Sluice::command(&arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn check_names_file_object_field_and_value() {
    let good = "upstreams/u.yaml\nnodes: {\"127.0.0.1:80\": 1}\n";
    let cases: [(&str, &[&str]); 12] = [
        (
            "routes/r.yaml\nuri: /a\nupstream_id: u\npriority: high\n",
            &["routes/r", "priority", "high", "r.yaml"],
        ),
        ("routes/r.yaml\nuri: /a\nupstream_id: u\nurii: /b\n", &["routes/r", "urii"]),
        ("routes/r.yaml\nuri: /a\nupstream_id: nobody\n", &["routes/r", "upstream_id", "nobody"]),
        ("routes/r.yaml\nuri: /a\nuri: /b\nupstream_id: u\n", &["r.yaml", "uri", "duplicate"]),
        ("routes/r.json\n{\"uri\": \"/a\",}\n", &["r.json:1"]),
        ("routes/r.yaml\nid: other\nuri: /a\nupstream_id: u\n", &["other"]),
        ("routes/r.yaml\nuri: /a\nupstream_id: u\nfilter_func: x\n", &["filter_func"]),
        ("routes/r.yaml\nuri: /a\nupstream_id: u\nvars: [[arg_a, nope, 1]]\n", &["vars", "nope"]),
        ("routes/r.yaml\nuri: /a\nplugins: {limit-count: {count: 0}}\n", &["limit-count", "count"]),
        ("listeners/l.yaml\nbind: nowhere\n", &["listeners/l", "bind", "nowhere"]),
        ("xrpc_protocols/s.yaml\nuri: /a\n", &["xrpc_protocols"]),
        (
            "all.yaml\nroutes:\n  - uri: /a\n    upstream_id: u\n    timeout: {connect: soon, send: 1, read: 1}\n",
            &["all.yaml", "arr_1", "timeout.connect", "soon"],
        ),
    ];
    for (bad, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        for text in [good, bad] {
            let (name, text) = text.split_once('\n').unwrap();
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let (code, text) = check(&[folder.path()]);
        assert_eq!(code, 1, "{bad}{text}");
        for word in words {
            assert!(text.contains(word), "{bad}\n{text} lacks {word}");
        }
        assert!(text.contains("1 fault"), "{bad}\n{text}");
    }
}

#[test]
fn check_of_what_is_good_says_so() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("upstreams/u.yaml", "nodes: {\"127.0.0.1:80\": 1}\n"),
        ("routes/r.yaml", "uri: /a\nupstream_id: u\n"),
        ("listeners/l.yaml", "bind: 127.0.0.1:8080\n"),
        ("all.yaml", "routes:\n  - uri: /b\n    upstream_id: u\n"),
    ] {
        fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
        fs::write(folder.path().join(name), text).unwrap();
    }
    assert_eq!(check(&[folder.path()]), (0, "4 objects, all good\n".to_owned()));
    // A single file is not asked for what stands in others.
    let (code, text) = check(&[&folder.path().join("routes/r.yaml")]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = check(&[&folder.path().join("none.yaml")]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("none.yaml"), "{text}");
}
