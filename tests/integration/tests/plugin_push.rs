//! `sluice plugin push`, `promote`, `rollback` and `list`: how versions of modules
//! come into a running fleet, and what is refused on the way.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use sluice_harness::guest::{Guest, with_section};
use sluice_harness::{Curl, Etcd, HttpEcho, Sluice, SluiceBuilder, eventually};
use sluice_tests::admin::{ADMIN_KEY, VIEWER_KEY, ask, call, expect, on_both_stores, with_keys};
use tempfile::TempDir;

/// Components and keys of whoever pushes.
struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { folder: TempDir::new().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn component(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect("a component");
    }

    fn command(&self, server: SocketAddr, key: &str, arguments: &[&str]) -> Output {
        let mut command = Sluice::command(&["plugin"]);
        command
            .args(arguments)
            .env("SLUICE_ADMIN", format!("http://{server}"))
            .env("SLUICE_ADMIN_KEY", key)
            .env_remove("SLUICE_CLIENT")
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command.output().expect("sluice runs")
    }

    /// What `sluice plugin` says when it does what it is told.
    #[track_caller]
    fn does(&self, gateway: &Sluice, arguments: &[&str]) -> String {
        let output = self.command(gateway.admin_address(), ADMIN_KEY, arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {error}");
        assert_eq!(error, "", "{arguments:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Why it does not.
    #[track_caller]
    fn fails(&self, gateway: &Sluice, arguments: &[&str]) -> String {
        let output = self.command(gateway.admin_address(), ADMIN_KEY, arguments);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Makes a key; gives the object of its public half.
    fn key(&self, id: &str) -> Value {
        let file = self.path(&format!("{id}.pem"));
        let mut command = Sluice::command(&["keygen", "--signing", &file.to_string_lossy()]);
        let output = command.output().expect("sluice runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("text");
        let key = text.lines().find_map(|line| line.strip_prefix("key: ")).expect("the public half");
        json!({"key": key.trim_matches('"')})
    }
}

/// The component with a section that does not compress, so that it has two pieces.
fn large(component: &[u8]) -> Vec<u8> {
    let mut state = 7_u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    with_section(component, "noise", &noise.take(600 << 10).collect::<Vec<u8>>())
}

/// A listener and a route with the module `guest`, through the Admin API.
fn fill(gateway: &Sluice, origin: &HttpEcho) {
    let put = |path: &str, object: Value| expect(gateway, "PUT", path, &object.to_string(), 201);
    put("listeners/edge", json!({"bind": "127.0.0.1:0"}));
    let upstream = json!({"nodes": {origin.node(): 1}});
    put("routes/all", json!({"uri": "/*", "upstream": upstream, "plugins": {"guest": {}}}));
}

fn address(gateway: &Sluice) -> SocketAddr {
    eventually("the listener is open", || {
        let status = gateway.status();
        status["listeners"][0]["binds"][0]["address"].as_str()?.parse().ok()
    })
}

fn get(gateway: &Sluice, path: &str) -> u16 {
    Curl::get(format!("http://{}{path}", address(gateway))).run().status
}

/// Waits until requests meet the version that leaves this mark.
fn until_mark(gateway: &Sluice, mark: &str) {
    eventually(&format!("requests meet {mark}"), || {
        let reply = Curl::get(format!("http://{}/", address(gateway))).run();
        if reply.status != 200 {
            return None;
        }
        let seen = reply.seen();
        let own = seen.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-guest"));
        own.is_some_and(|(_, value)| value == mark).then_some(())
    });
}

fn module(gateway: &Sluice) -> Value {
    gateway.status_path("/v1/modules")[0].clone()
}

fn until_trial(gateway: &Sluice, state: &str) -> Value {
    eventually(&format!("the trial is {state}"), || {
        let module = module(gateway);
        (module["trial"]["state"] == state).then_some(module)
    })
}

/// The digest of a component, as paths have it.
fn digest_of(desk: &Desk, name: &str) -> String {
    let file = desk.path(name);
    let arguments = ["plugin", "inspect", &file.to_string_lossy(), "--output", "json"];
    let output = Sluice::command(&arguments).output().expect("sluice runs");
    let description: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    description["digest"].as_str().expect("a digest").replace(':', "-")
}

#[test]
fn a_version_is_pushed_tried_promoted_and_rolled_back_and_sent_but_once() {
    let origin = HttpEcho::start("origin");
    on_both_stores(|gateway, _| {
        let desk = Desk::new();
        desk.component("one.wasm", &large(&Guest::new("one").build()));
        desk.component("two.wasm", &Guest::new("two").build());
        let told = desk.does(gateway, &["push", "guest", "one.wasm", "--version", "1"]);
        assert!(told.starts_with("guest 1: ") && told.ends_with("2 of 2 pieces sent; it serves\n"), "{told}");
        fill(gateway, &origin);
        until_mark(gateway, "one");
        let again = desk.does(gateway, &["push", "guest", "one.wasm", "--version", "1"]);
        assert!(again.contains("0 of 2 pieces sent"), "{again}");
        let tried = desk.does(gateway, &["push", "guest", "two.wasm", "--version", "2", "--canary", "100"]);
        assert!(tried.ends_with("1 of 1 pieces sent; it is tried on 100 %\n"), "{tried}");
        until_trial(gateway, "running");
        until_mark(gateway, "two");
        let listed = desk.does(gateway, &["list"]);
        assert!(
            listed.contains("guest") && listed.contains("2 on 100 %") && listed.contains("1, 2"),
            "{listed}"
        );
        let object = expect(gateway, "GET", "modules/guest", "", 200);
        assert_eq!(
            (&object["value"]["active"], &object["value"]["canary"]["version"]),
            (&json!("1"), &json!("2"))
        );
        assert_eq!(desk.does(gateway, &["rollback", "guest"]), "guest: 2 is taken back, 1 serves\n");
        until_mark(gateway, "one");
        desk.does(gateway, &["push", "guest", "two.wasm", "--version", "2", "--region", "here"]);
        assert_eq!(desk.does(gateway, &["promote", "guest"]), "guest: 2 serves\n");
        until_mark(gateway, "two");
        let shown = eventually("the trial is over", || {
            let module = module(gateway);
            module["trial"].is_null().then_some(module)
        });
        assert_eq!((&shown["active"], shown["since"].as_str().is_some()), (&json!("2"), true), "{shown}");
        assert_eq!(desk.does(gateway, &["rollback", "guest"]), "guest: 1 serves\n");
        until_mark(gateway, "one");
        assert_eq!(desk.does(gateway, &["rollback", "guest", "--to", "2"]), "guest: 2 serves\n");
        until_mark(gateway, "two");
        for (arguments, told) in [
            (&["promote", "guest"][..], "no version of it is tried"),
            (&["promote", "other"], "there is no modules/other"),
            (&["rollback", "guest", "--to", "7"], "has no version 7; it has 1, 2"),
            (&["push", "guest", "one.wasm", "--version", "2"], "version 2 is there with other bytes"),
            (&["push", "guest", "two.wasm", "--version", "2", "--canary", "1"], "serves already"),
            (
                &["push", "guest", "one.wasm", "--version", "3", "--canary", "0"],
                "canary.percent: must be more than 0",
            ),
            (&["push", "guest", "nothing.wasm"], "cannot read nothing.wasm"),
        ] {
            let error = desk.fails(gateway, arguments);
            assert!(error.contains(told), "{arguments:?}: {error}");
        }
        let viewer = desk.command(gateway.admin_address(), VIEWER_KEY, &["push", "guest", "one.wasm"]);
        assert_eq!(viewer.status.code(), Some(1));
    });
}

#[test]
fn what_is_damaged_is_refused_piece_by_piece_and_as_a_whole() {
    on_both_stores(|gateway, etcd| {
        let desk = Desk::new();
        desk.component("one.wasm", &large(&Guest::new("one").build()));
        desk.component("two.wasm", &large(&Guest::new("two").build()));
        desk.does(gateway, &["push", "guest", "one.wasm"]);
        let one = digest_of(&desk, "one.wasm");
        let there = expect(gateway, "GET", &format!("blobs/{one}"), "", 200);
        assert_eq!(there["pieces"], json!([0, 1]), "{there}");
        let key = format!("X-API-KEY: {ADMIN_KEY}");
        let put = |path: &str, bytes: &[u8]| {
            let url = gateway.admin_url(&format!("blobs/{path}"));
            let reply = Curl::post(url, bytes).method("PUT").header(&key).run();
            (reply.status, reply.text())
        };
        let pieces = pieces_of(gateway, etcd, &one);
        let mut flipped = pieces[0].clone();
        flipped[1000] ^= 1;
        let two = digest_of(&desk, "two.wasm");
        for (path, bytes, status, told) in [
            (format!("{two}/0"), &flipped[..], 400, "piece 0 is damaged: its checksum is another"),
            (format!("{two}/0"), &pieces[0][..7], 400, "piece 0 is damaged: it is cut short"),
            (format!("{two}/1"), &pieces[0][..], 400, "in the place of piece 1 stands piece 0"),
            (format!("{two}/256"), &pieces[0][..], 400, "pieces are 0 to 255"),
            ("sha256-7/0".to_owned(), &pieces[0][..], 400, "64 digits"),
            (format!("{two}/0"), &vec![0; (512 << 10) + 1][..], 413, "at most 524288 bytes"),
        ] {
            let (found, text) = put(&path, bytes);
            assert!(found == status && text.contains(told), "{path}: {found} {text}");
        }
        // Sound pieces of something else.
        for (number, piece) in pieces.iter().enumerate() {
            assert_eq!(put(&format!("{two}/{number}"), piece).0, 201);
        }
        let wrong = call(gateway, "POST", &format!("blobs/{two}"), "");
        assert_eq!(wrong.status, 400);
        assert!(wrong.text().contains("something else than what was asked for"), "{}", wrong.text());
        let mended = desk.does(gateway, &["push", "guest", "two.wasm"]);
        assert!(mended.contains("2 of 2 pieces sent"), "{mended}");
        expect(gateway, "POST", &format!("blobs/{two}"), "", 200);
        // What a module names stays.
        let refused = expect(gateway, "DELETE", &format!("blobs/{two}"), "", 400);
        assert!(refused["error_msg"].as_str().unwrap().contains("modules/guest names it"), "{refused}");
        expect(gateway, "DELETE", "modules/guest", "", 200);
        expect(gateway, "DELETE", &format!("blobs/{two}"), "", 200);
        expect(gateway, "DELETE", &format!("blobs/{two}"), "", 404);
        let viewer = format!("X-API-KEY: {VIEWER_KEY}");
        assert_eq!(ask(gateway, "DELETE", &format!("blobs/{one}"), "").header(&viewer).run().status, 401);
    });
}

/// The pieces of a component, from wherever the store keeps them.
fn pieces_of(gateway: &Sluice, etcd: Option<&Etcd>, digest: &str) -> Vec<Vec<u8>> {
    let piece = |number: usize| match etcd {
        None => {
            let folder = gateway.conf().join(".sluice/blobs").join(digest);
            std::fs::read(folder.join(number.to_string())).expect("a piece")
        }
        Some(etcd) => etcd.with_client(async |client| {
            let answer = client.get(format!("/sluice/blobs/{digest}/{number}"), None).await?;
            Ok(answer.kvs()[0].value().to_vec())
        }),
    };
    (0..2).map(piece).collect()
}

#[test]
fn what_no_key_vouches_for_cannot_be_pushed() {
    let (origin, desk) = (HttpEcho::start("origin"), Desk::new());
    let gateway = with_keys(Sluice::builder()).boot("modules", json!({"trust": "required"})).start();
    desk.component("one.wasm", &Guest::new("one").build());
    desk.component("two.wasm", &Guest::new("two").build());
    let (ops, _) = (desk.key("ops"), desk.key("other"));
    expect(&gateway, "PUT", "trust_keys/ops", &ops.to_string(), 201);
    let push = ["push", "guest", "one.wasm", "--version", "1", "--key", "ops.pem", "--number", "10"];
    let next = ["push", "guest", "two.wasm", "--version", "2", "--number"];
    let with = |more: &[&'static str]| -> Vec<&'static str> { next.iter().chain(more).copied().collect() };
    let error = desk.fails(&gateway, &["push", "guest", "one.wasm", "--version", "1"]);
    assert!(error.contains("versions[0].signature") && error.contains("is not signed"), "{error}");
    let pushed = desk.does(&gateway, &push);
    assert!(pushed.contains("0 of 1 pieces sent"), "they were there before it was refused: {pushed}");
    fill(&gateway, &origin);
    until_mark(&gateway, "one");
    for (arguments, told) in [
        (with(&["11", "--key", "other.pem"]), "\"other\", which is not among trust_keys"),
        (with(&["11", "--key", "other.pem", "--canary", "1"]), "\"other\", which is not among trust_keys"),
        (with(&["9", "--key", "ops.pem"]), "has the number 9, and versions below 10 do not run"),
        (with(&["9", "--key", "ops.pem", "--canary", "1"]), "has the number 9, and versions below 10"),
    ] {
        let error = desk.fails(&gateway, &arguments);
        assert!(error.contains("versions[1].signature") && error.contains(told), "{arguments:?}: {error}");
    }
    desk.does(&gateway, &with(&["11", "--key", "ops.pem", "--canary", "1"]));
    until_trial(&gateway, "running");
    // Once the key is revoked nothing comes in by it, and what ran or was tried ends.
    let mut revoked = ops;
    revoked["revoked"] = json!(true);
    expect(&gateway, "PUT", "trust_keys/ops", &revoked.to_string(), 200);
    let shown = until_trial(&gateway, "waiting");
    assert!(shown["trial"]["why"].as_str().is_some_and(|why| why.contains("is revoked")), "{shown}");
    let error = desk.fails(&gateway, &["promote", "guest"]);
    assert!(error.contains("\"ops\", which is revoked"), "{error}");
    assert_eq!(get(&gateway, "/"), 503);
}

/// A node of a fleet that reads this cluster.
fn node(etcd: &Etcd, id: &str) -> SluiceBuilder {
    let node = json!({"id": id, "region": "here"});
    with_keys(Sluice::builder().etcd(etcd, json!({"timeout": "2s"}))).boot("node", node)
}

#[test]
fn a_revoked_key_stops_its_modules_on_the_whole_fleet() {
    let (origin, desk, etcd) = (HttpEcho::start("origin"), Desk::new(), Etcd::start());
    let start = |id: &str| node(&etcd, id).boot("modules", json!({"trust": "required"})).start();
    let (one, two) = (start("one"), start("two"));
    let mut key = desk.key("ops");
    expect(&one, "PUT", "trust_keys/ops", &key.to_string(), 201);
    desk.component("one.wasm", &Guest::new("one").build());
    desk.does(&one, &["push", "guest", "one.wasm", "--version", "1", "--key", "ops.pem"]);
    fill(&one, &origin);
    [&one, &two].into_iter().for_each(|node| until_mark(node, "one"));
    key["revoked"] = json!(true);
    expect(&two, "PUT", "trust_keys/ops", &key.to_string(), 200);
    for node in [&one, &two] {
        eventually("requests are refused", || (get(node, "/") == 503).then_some(()));
        assert_eq!(module(node)["state"], "withdrawn");
    }
    let address = one.status_address().to_string();
    eventually("the fleet shows it", || {
        let mut command = Sluice::command(&["status", "--fleet", "--addr", &address]);
        let shown = String::from_utf8(command.output().expect("sluice runs").stdout).expect("text");
        (shown.matches("guest=1:withdrawn").count() == 2).then_some(())
    });
}

#[test]
fn what_one_node_takes_back_the_fleet_does_and_a_node_has_its_modules_without_etcd() {
    let (origin, desk, mut etcd) = (HttpEcho::start("origin"), Desk::new(), Etcd::start());
    let (one, mut two) = (node(&etcd, "one").start(), node(&etcd, "two").start());
    desk.component("one.wasm", &Guest::new("one").build());
    desk.component("two.wasm", &Guest::new("two").on_evil("unreachable").build());
    desk.does(&one, &["push", "guest", "one.wasm", "--version", "1"]);
    fill(&one, &origin);
    desk.does(&one, &["push", "guest", "two.wasm", "--version", "2", "--canary", "100"]);
    let object = expect(&one, "GET", "modules/guest", "", 200)["value"].clone();
    let mut strict = object.clone();
    strict["rollback"] = json!({"traps": 2});
    expect(&one, "PUT", "modules/guest", &strict.to_string(), 200);
    for node in [&one, &two] {
        until_trial(node, "running");
        until_mark(node, "two");
    }
    let fleet = eventually("both nodes tell of it", || {
        let fleet = one.status_path("/v1/fleet");
        let tell = fleet["nodes"].as_array()?.iter().filter(|node| node["modules"][0]["trial"] == "running");
        (tell.count() == 2).then_some(fleet)
    });
    assert_eq!(fleet["nodes"][1]["modules"][0]["running"], json!(["1", "2"]), "{fleet}");
    assert_eq!([(); 2].map(|()| get(&one, "/?q=evil")), [503, 503]);
    let shown = until_trial(&two, "rolled_back");
    assert_eq!(shown["trial"]["by"], "one", "{shown}");
    until_trial(&one, "rolled_back");
    for node in [&one, &two] {
        assert_eq!(get(node, "/?q=evil"), 403);
        until_mark(node, "one");
    }
    let error = desk.fails(&two, &["promote", "guest"]);
    assert!(error.contains("was taken back by one: 2 traps within a minute"), "{error}");
    assert!(desk.does(&two, &["list"]).contains("2, taken back: 2 traps"));
    // What it ran it has on its own disk.
    let kept = two.folder().join("cache/etcd-state");
    eventually("the state is kept", || {
        std::fs::read_to_string(&kept).ok().filter(|text| text.contains("rolled_back")).map(drop)
    });
    etcd.kill(0);
    two.process().kill();
    two.restart();
    until_mark(&two, "one");
    assert_eq!(module(&two)["state"], "ready");
    // A node without that is not taken in by bytes that are others.
    etcd.restart(0);
    etcd.until_serving();
    let place = format!("/sluice/blobs/{}/0", digest_of(&desk, "one.wasm"));
    let mut piece = etcd.with_client(async |client| {
        let answer = client.get(place.as_str(), None).await?;
        Ok(answer.kvs()[0].value().to_vec())
    });
    *piece.last_mut().expect("a byte") ^= 1;
    etcd.put_raw(&place, piece);
    let three = node(&etcd, "three").start();
    let shown = module(&three);
    assert_eq!(shown["state"], "failed", "{shown}");
    assert!(shown["why"].as_str().is_some_and(|why| why.contains("piece 0 is damaged")), "{shown}");
    assert_eq!(get(&three, "/"), 503, "a route without its filter lets nothing pass");
}
