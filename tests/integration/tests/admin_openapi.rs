//! The description of the Admin API, judged by a validator that was made for it
//! and by asking for everything it names.

use std::path::Path;

use serde_json::{Value, json};
use sluice_harness::{Sluice, tool};
use sluice_tests::admin::{VIEWER_KEY, ask, call, expect, with_keys};

fn gateway() -> Sluice {
    with_keys(Sluice::builder()).start()
}

/// What a validator says against a document.
fn faults_of(document: &Value) -> Option<String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("openapi.json");
    std::fs::write(&file, document.to_string()).unwrap();
    let output = tool("python3")
        .env("PYTHONPATH", workspace.join("target/python/openapi-spec-validator"))
        .arg(workspace.join("tests/integration/clients/openapi_judge.py"))
        .arg(&file)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.is_empty(), "the validator failed (`cargo xtask setup` brings it): {error}");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    (!output.status.success()).then_some(told)
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
