//! The description of the Admin API, judged by a validator that was made for it
//! and by asking for everything it names.

use std::path::Path;

use serde_json::{Value, json};
use sluice_harness::{Sluice, tool};
use sluice_tests::admin::{VIEWER_KEY, ask, call, expect, with_keys};

fn gateway() -> Sluice {
    with_keys(Sluice::builder()).start()
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

/// What a judge among `clients` says of a document; an error where it finds faults.
fn judged(judge: &str, document: &Value, more: &[&Path]) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("openapi.json");
    std::fs::write(&file, document.to_string()).unwrap();
    let output = tool("python3")
        .env("PYTHONPATH", workspace().join("target/python/openapi-spec-validator"))
        .arg(workspace().join("tests/integration/clients").join(judge))
        .arg(&file)
        .args(more)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.is_empty(), "the validator failed (`cargo xtask setup` brings it): {error}");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(told) } else { Err(told) }
}

/// What a validator says against a document.
fn faults_of(document: &Value) -> Option<String> {
    judged("openapi_judge.py", document, &[]).err()
}

#[test]
fn the_document_is_valid_and_the_validator_would_say_if_it_were_not() {
    let sluice = gateway();
    let document = expect(&sluice, "GET", "openapi.json", "", 200);
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(faults_of(&document), None);
    let mut other = document.clone();
    other["info"] = json!({"title": "without a version"});
    assert!(faults_of(&other).is_some_and(|told| told.contains("version")));
    let viewer = format!("X-API-KEY: {VIEWER_KEY}");
    assert_eq!(ask(&sluice, "GET", "openapi.json", "").header(&viewer).run().status, 200);
    assert_eq!(ask(&sluice, "GET", "openapi.json", "").run().status, 401);
}

#[test]
fn its_schemas_take_every_documented_object_and_tell_fields_of_another_type() {
    let document = expect(&gateway(), "GET", "openapi.json", "", 200);
    let judge = |folder: &Path| judged("schema_judge.py", &document, &[folder]);
    let told = judge(workspace()).unwrap_or_else(|told| panic!("{told}"));
    let count: usize = told.lines().next().and_then(|line| line.parse().ok()).expect("a number");
    assert!(count >= 30, "{count} objects were judged");
    for (kind, object, fault) in [
        ("routes", "uri: 7", "uri: 7 is not of type 'string'"),
        ("upstreams", "lines: [{name: a, priority: high, nodes: {}}]", "lines.0.priority"),
        ("modules", "on_failure: ajar", "on_failure: 'ajar' is not one of"),
        ("stream_routes", "listener: im\nport: 9", "'port' was unexpected"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("examples/one").join(kind);
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("one.yaml"), object).unwrap();
        let told = judge(folder.path()).expect_err(object);
        assert!(told.contains(fault), "{object}: {told}");
    }
}

/// A path of the document with something in its open parts.
fn asked(pattern: &str, change: &Value) -> String {
    let path = pattern.strip_prefix("/apisix/admin/").unwrap();
    let kind = if path.contains("{kind}") { path.replace("{kind}", "routes") } else { path.to_owned() };
    kind.replace("plugins/{name}", "plugins/limit-req")
        .replace("{change}", &change.to_string())
        .replace("{consumer}", "jack")
        .replace("{manager}", "file")
        .replace("{digest}", &format!("sha256-{}", "0".repeat(64)))
        .replace("{piece}", "0")
        .replace("{id}", "documented")
}

#[test]
fn everything_it_names_is_there_and_nothing_else_is() {
    let sluice = gateway();
    let upstream = r#"{"nodes": {"127.0.0.1:9": 1}}"#;
    expect(&sluice, "PUT", "upstreams/documented", upstream, 201);
    let document = expect(&sluice, "GET", "openapi.json", "", 200);
    let history = expect(&sluice, "GET", "history", "", 200);
    let change = &history["list"][0]["id"];
    for (pattern, operations) in document["paths"].as_object().unwrap() {
        let path = asked(pattern, change);
        for method in ["get", "put", "post", "patch", "delete"] {
            let reply = call(&sluice, &method.to_uppercase(), &path, "");
            let is_named = operations.get(method).is_some();
            // An object that is not there has a place all the same.
            let is_missing = reply.status == 404 && reply.json()["message"] == "Key not found";
            if is_named {
                let is_answered = !matches!(reply.status, 404 | 405 | 500..) || is_missing;
                assert!(is_answered, "{method} {path}: {} {}", reply.status, reply.text());
            } else {
                assert!(reply.status >= 400, "{method} {path} is answered and not named: {}", reply.status);
            }
        }
    }
    for path in ["nothing", "history/1/2", "openapi.yaml", "schema/validate/nothing"] {
        let reply = call(&sluice, "GET", path, "");
        assert!(matches!(reply.status, 404 | 405), "{path}: {}", reply.status);
    }
}
