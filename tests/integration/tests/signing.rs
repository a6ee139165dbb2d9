//! Signed modules: a node that asks for signatures runs what a trust key
//! signed, and says of everything else why it does not.

use std::path::PathBuf;

use serde_json::{Value, json};
use sluice_harness::guest::{Guest, phases};
use sluice_harness::{Curl, HttpEcho, Sluice, SluiceBuilder, SteadyLoad, eventually};
use sluice_tests::lines::{Server, frame, im_route, read_error, read_frame};
use tempfile::TempDir;

/// Who signs: a folder with keys.
struct Signer {
    folder: TempDir,
}

impl Signer {
    fn new() -> Self {
        Self { folder: TempDir::new().expect("a folder for keys") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a key; gives the object of its public half.
    fn key(&self, id: &str) -> String {
        let file = self.path(&format!("{id}.pem"));
        let mut command = Sluice::command(&["keygen", "--signing", &file.to_string_lossy()]);
        let output = command.output().expect("sluice runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// A version of the module `guest`, signed with these flags over the usual ones.
    fn version(&self, version: &str, component: &[u8], flags: &[&str]) -> Value {
        let file = self.path("component.wasm");
        std::fs::write(&file, component).expect("a component");
        let usual = [("--name", "guest"), ("--version", version), ("--key", "ops.pem")];
        let mut arguments = vec!["plugin".to_owned(), "sign".to_owned(), file.to_string_lossy().into_owned()];
        for (flag, value) in usual.into_iter().filter(|(flag, _)| !flags.contains(flag)) {
            arguments.extend([flag.to_owned(), value.to_owned()]);
        }
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output =
            Sluice::command(&arguments).current_dir(self.folder.path()).output().expect("sluice runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let signature: Value = serde_json::from_slice(&output.stdout).expect("a signature");
        json!({"version": version, "digest": signature["digest"], "signature": signature})
    }
}

/// A gateway that runs signed modules only, with the key `ops` and these bytes.
fn gateway(origin: &HttpEcho, signer: &Signer, components: &[(&str, &[u8])]) -> SluiceBuilder {
    let mut builder = Sluice::builder()
        .boot("modules", json!({"trust": "required"}))
        .listener("edge", json!({}))
        .put("trust_keys", "ops", signer.key("ops"))
        .put(
            "routes",
            "all",
            json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}, "plugins": {"guest": {}}}),
        );
    for (name, bytes) in components {
        builder = builder.bytes(&format!("blobs/{name}"), bytes);
    }
    builder
}

/// The name under which a store keeps bytes.
fn blob(version: &Value) -> String {
    let digest = version["digest"].as_str().expect("a digest");
    format!("{}.wasm", digest.replace(':', "-"))
}

fn mark(sluice: &Sluice) -> Option<String> {
    let reply = Curl::get(format!("{}/", sluice.url("edge"))).run();
    if reply.status != 200 {
        return None;
    }
    let seen = reply.seen();
    seen.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-guest")).map(|(_, value)| value.clone())
}

fn status(sluice: &Sluice) -> Value {
    sluice.status_path("/v1/modules")[0].clone()
}

/// What the Admin API says to this object.
fn put(sluice: &Sluice, path: &str, object: &Value) -> (u16, String) {
    let reply = Curl::post(sluice.admin_url(path), object.to_string()).method("PUT").run();
    (reply.status, reply.text())
}

#[test]
fn a_signed_version_runs_and_its_provenance_is_shown() {
    let (origin, signer) = (HttpEcho::start("origin"), Signer::new());
    let bytes = Guest::new("one").build();
    let builder = gateway(&origin, &signer, &[]);
    let version = signer.version("1", &bytes, &["--number", "7", "--expires", "30d"]);
    let sluice = builder
        .bytes(&format!("blobs/{}", blob(&version)), &bytes)
        .put("modules", "guest", json!({"versions": [version]}))
        .start();
    assert_eq!(mark(&sluice).as_deref(), Some("one"));
    let shown = status(&sluice);
    assert_eq!(shown["provenance"]["state"], "signed", "{shown}");
    assert_eq!(shown["provenance"]["key"], "ops", "{shown}");
    assert_eq!(shown["provenance"]["number"], 7, "{shown}");
    assert!(shown["provenance"]["expires"].as_str().is_some_and(|at| at.starts_with("20")), "{shown}");
}

#[test]
fn what_no_key_vouches_for_is_refused_with_the_reason_and_the_old_one_stays() {
    let (origin, signer) = (HttpEcho::start("origin"), Signer::new());
    let (one, two) = (Guest::new("one").build(), Guest::new("two").build());
    let builder = gateway(&origin, &signer, &[]);
    let first = signer.version("1", &one, &["--number", "10"]);
    signer.key("other");
    let other = signer.version("2", &two, &["--key", "other.pem"]);
    let sluice = builder
        .bytes(&format!("blobs/{}", blob(&first)), &one)
        .bytes(&format!("blobs/{}", blob(&other)), &two)
        .put("modules", "guest", json!({"versions": [first]}))
        .start();
    assert_eq!(mark(&sluice).as_deref(), Some("one"));
    let good = signer.version("2", &two, &["--number", "11", "--kv", "own"]);
    let changed = |field: &str, value: Value| {
        let mut version = good.clone();
        version["signature"][field] = value;
        version
    };
    let mut bare = good.clone();
    bare.as_object_mut().expect("an object").remove("signature");
    let mut swapped = good.clone();
    swapped["digest"] = first["digest"].clone();
    let cases: Vec<(&str, Value, Value)> = vec![
        ("is not signed", bare, json!({})),
        ("is signed by the key \"other\", which is not among trust_keys", other, json!({})),
        ("has other bytes than were signed", swapped, json!({})),
        ("not of what it says", changed("number", json!(12)), json!({})),
        ("not of what it says", changed("expires", json!("2099-01-01T00:00:00Z")), json!({})),
        ("is signed as a version of \"else\"", signer.version("2", &two, &["--name", "else"]), json!({})),
        ("is granted kv: more, which was not signed", good.clone(), json!({"kv": ["own", "more"]})),
        ("expired at", signer.version("2", &two, &["--expires", "0s"]), json!({})),
        ("has the number 9, and versions below 10", signer.version("2", &two, &["--number", "9"]), json!({})),
    ];
    for (reason, version, grants) in cases {
        let object = json!({"versions": [version], "grants": grants});
        // Over the Admin API it does not reach the store.
        let (code, text) = put(&sluice, "modules/guest", &object);
        assert_eq!(code, 400, "{reason}: {text}");
        let told = text.replace("\\\"", "\"");
        assert!(told.contains(reason) && told.contains("versions[0].signature"), "{reason}: {text}");
        // What is in the store all the same is not run.
        sluice.apply("modules", "guest", &object);
        let shown = eventually("the reason is shown", || {
            let shown = status(&sluice);
            shown["why"].as_str().is_some_and(|why| why.contains(reason)).then_some(shown)
        });
        assert_eq!(shown["provenance"]["state"], "refused", "{shown}");
        assert_eq!(mark(&sluice).as_deref(), Some("one"), "{reason}");
    }
    let compiled = |log: &str| log.matches("module is ready").count();
    let log = std::fs::read_to_string(sluice.folder().join("sluice.log")).expect("a log");
    assert_eq!(compiled(&log), 1, "nothing else was compiled");
    // And the good one goes in, by the Admin API's leave.
    sluice.apply("modules", "guest", json!({"versions": [good]}));
    eventually("the good one runs", || (mark(&sluice).as_deref() == Some("two")).then_some(()));
}

#[test]
fn an_older_version_does_not_come_back_after_a_restart() {
    let (origin, signer) = (HttpEcho::start("origin"), Signer::new());
    let (one, two) = (Guest::new("one").build(), Guest::new("two").build());
    let builder = gateway(&origin, &signer, &[]);
    let old = signer.version("1", &one, &["--number", "1"]);
    let new = signer.version("2", &two, &["--number", "2"]);
    let mut sluice = builder
        .bytes(&format!("blobs/{}", blob(&old)), &one)
        .bytes(&format!("blobs/{}", blob(&new)), &two)
        .put("modules", "guest", json!({"versions": [old, new], "active": "2"}))
        .start();
    assert_eq!(mark(&sluice).as_deref(), Some("two"));
    sluice.process().kill();
    sluice.restart();
    sluice.apply("modules", "guest", json!({"versions": [old, new], "active": "1"}));
    eventually("the older version is refused", || {
        let shown = status(&sluice);
        shown["why"].as_str().is_some_and(|why| why.contains("has the number 1")).then_some(())
    });
    assert_eq!(mark(&sluice).as_deref(), Some("two"));
    sluice.apply("modules", "guest", json!({"versions": [old, new], "active": "2"}));
    eventually("the newer one is signed and ready", || {
        let shown = status(&sluice);
        (shown["state"] == "ready" && shown["provenance"]["state"] == "signed").then_some(())
    });
}

/// The trust key `ops` as it is written.
fn key_of(sluice: &Sluice) -> String {
    std::fs::read_to_string(sluice.conf().join("trust_keys/ops.yaml")).expect("the key")
}

fn answer(sluice: &Sluice) -> u16 {
    Curl::get(format!("{}/", sluice.url("edge"))).run().status
}

#[test]
fn what_a_revoked_key_signed_stops_under_load_until_a_version_of_another_key_is_to_serve() {
    let (origin, signer) = (HttpEcho::start("origin"), Signer::new());
    let (one, two) = (Guest::new("one").build(), Guest::new("two").build());
    let builder = gateway(&origin, &signer, &[]).put("trust_keys", "spare", signer.key("spare"));
    let first = signer.version("1", &one, &["--number", "1"]);
    let second = signer.version("2", &two, &["--number", "2", "--key", "spare.pem"]);
    let object = |active: &str| json!({"versions": [first, second], "active": active});
    let sluice = builder
        .bytes(&format!("blobs/{}", blob(&first)), &one)
        .bytes(&format!("blobs/{}", blob(&second)), &two)
        .put("modules", "guest", object("1"))
        .start();
    let load = SteadyLoad::get(sluice.address("edge"), "localhost", "/", 4, 100);
    load.until_good(40);
    assert_eq!(load.so_far().failed, 0);
    sluice.apply("trust_keys", "ops", format!("{}revoked: true\n", key_of(&sluice)));
    assert_eq!(answer(&sluice), 503);
    // What was under way then has ended when each connection has met two refusals.
    let until_failed = |more: u64| {
        let goal = load.so_far().failed + more;
        eventually("requests are refused", || (load.so_far().failed >= goal).then_some(()));
    };
    until_failed(16);
    let good = load.so_far().good;
    until_failed(100);
    assert_eq!(load.so_far().good, good, "nothing passes");
    sluice.logged("a refusal", |line| line["reason"] == "module_missing" && line["status"] == 503);
    let shown = status(&sluice);
    assert_eq!((&shown["state"], &shown["running"]), (&json!("withdrawn"), &json!([])), "{shown}");
    assert!(shown["why"].as_str().is_some_and(|why| why.contains("\"ops\", which is revoked")), "{shown}");
    assert_eq!(shown["provenance"]["state"], "refused", "{shown}");
    let told = sluice.quarantined("routes", "all").expect("the route is in quarantine");
    assert!(told.contains("plugins.guest") && told.contains("which is revoked"), "{told}");
    let gauge = |sluice: &Sluice| sluice.metrics().value("sluice_module_withdrawn", &[("module", "guest")]);
    assert_eq!(gauge(&sluice), Some(1.0));
    let log = std::fs::read_to_string(sluice.folder().join("sluice.log")).expect("a log");
    assert!(log.contains("a version that ran is withdrawn"), "{log}");
    // A version of another key comes when the object says so.
    sluice.apply("modules", "guest", object("2"));
    eventually("the other version serves", || (mark(&sluice).as_deref() == Some("two")).then_some(()));
    load.until_good(40);
    assert_eq!((&status(&sluice)["state"], gauge(&sluice)), (&json!("ready"), None));
    let report = load.stop();
    assert!(report.failures.iter().all(|why| why.starts_with("status 503")), "{:?}", report.failures);
}

#[test]
fn a_key_that_is_removed_narrowed_or_replaced_stops_what_it_signed_and_one_that_ends_does_not() {
    let (origin, signer) = (HttpEcho::start("origin"), Signer::new());
    let one = Guest::new("one").build();
    let builder = gateway(&origin, &signer, &[]);
    let version = signer.version("1", &one, &[]);
    let sluice = builder
        .bytes(&format!("blobs/{}", blob(&version)), &one)
        .put("modules", "guest", json!({"versions": [version]}))
        .start();
    let key = key_of(&sluice);
    let other = signer.key("other").replace("id: other", "id: ops");
    let narrowed = format!("{key}modules: [other]\n");
    for (what, changed) in [("removed", None), ("narrowed", Some(narrowed)), ("replaced", Some(other))] {
        assert_eq!(mark(&sluice).as_deref(), Some("one"), "{what}");
        match changed {
            Some(changed) => sluice.apply("trust_keys", "ops", changed),
            None => sluice.apply_removal("trust_keys", "ops"),
        }
        assert_eq!(answer(&sluice), 503, "{what}");
        assert_eq!(status(&sluice)["state"], "withdrawn", "{what}");
        // With the key its version comes back.
        sluice.apply("trust_keys", "ops", &key);
        eventually(what, || (mark(&sluice).as_deref() == Some("one")).then_some(()));
        assert_eq!(status(&sluice)["state"], "ready", "{what}");
    }
    // Time that passes stops nothing that runs.
    sluice.apply("trust_keys", "ops", format!("{key}not_after: \"2020-01-01T00:00:00Z\"\n"));
    assert_eq!(status(&sluice)["provenance"]["state"], "refused");
    assert_eq!(mark(&sluice).as_deref(), Some("one"));
    // What may fail open is left out.
    sluice.apply("trust_keys", "ops", &key);
    sluice.apply("modules", "guest", json!({"versions": [version], "on_failure": "open"}));
    eventually("it may fail open", || {
        let shown = status(&sluice);
        (shown["state"] == "ready" && mark(&sluice).is_some()).then_some(())
    });
    sluice.apply("trust_keys", "ops", format!("{key}revoked: true\n"));
    assert_eq!((answer(&sluice), mark(&sluice)), (200, None));
}

#[test]
fn a_revoked_key_stops_its_modules_on_frames_and_in_global_rules() {
    let (origin, signer, server) = (HttpEcho::start("origin"), Signer::new(), Server::frame_echo());
    let one = Guest::new("one").phases(phases::REQUEST_HEAD | phases::FRAMES).build();
    let builder = gateway(&origin, &signer, &[]);
    let version = signer.version("1", &one, &[]);
    let mut stream = im_route(json!({}));
    stream["plugins"] = json!({"guest": {}});
    let sluice = builder
        .bytes(&format!("blobs/{}", blob(&version)), &one)
        .put("modules", "guest", json!({"versions": [version]}))
        .put("routes", "all", json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}}))
        .put("global_rules", "guest", json!({"plugins": {"guest": {}}}))
        .listener("im", json!({"protocol": "tlv"}))
        .put("upstreams", "im", json!({"scheme": "tlv", "nodes": {server.node(): 1}}))
        .put("stream_routes", "im", &stream)
        .start();
    assert_eq!(mark(&sluice).as_deref(), Some("one"));
    let mut raw = sluice.connect("im");
    raw.send(frame(0x0301, 1, 7, b"passpass"));
    assert_eq!(read_frame(&mut raw).sequence, 1);
    sluice.apply("trust_keys", "ops", format!("{}revoked: true\n", key_of(&sluice)));
    assert_eq!(answer(&sluice), 503);
    raw.send(frame(0x0301, 2, 7, b"passpass"));
    assert_eq!(read_error(&mut raw), (2, "module_missing".to_owned()));
    assert_eq!(status(&sluice)["running"], json!([]));
}

#[test]
fn openssl_verifies_what_was_signed() {
    let signer = Signer::new();
    signer.key("ops");
    let version =
        signer.version("1", &Guest::new("one").build(), &["--number", "3", "--kv", "b", "--kv", "a"]);
    let signature = &version["signature"];
    let digest = version["digest"].as_str().expect("a digest");
    let manifest = format!(
        "sluice module manifest 1\nname guest\nversion 1\ndigest {digest}\nworld sluice:plugin@0.1.0\n\
         number 3\nfloor 3\nexpires never\ngrant kv a\ngrant kv b\nkey ops\n"
    );
    std::fs::write(signer.path("manifest"), &manifest).expect("written");
    std::fs::write(signer.path("value"), signature["value"].as_str().expect("base64")).expect("written");
    let script = "openssl base64 -d -A -in value -out raw && openssl pkey -in ops.pem -pubout -out public \
                  && openssl pkeyutl -verify -pubin -inkey public -rawin -in manifest -sigfile raw";
    let output =
        std::process::Command::new("sh").args(["-c", script]).current_dir(signer.folder.path()).output();
    let output = output.expect("a shell runs");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("Verified Successfully"), "{text}");
}
