//! The Admin API, with curl as APISIX's documentation has it and with a client
//! that was written for APISIX.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sluice_harness::{Curl, HttpEcho, Sluice, eventually, tool};
use sluice_tests::admin::{ADMIN_KEY, VIEWER_KEY, ask, call, expect, with_keys};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn gateway() -> Sluice {
    with_keys(Sluice::builder().listener("edge", json!({}))).start()
}

fn status_of(sluice: &Sluice, path: &str) -> u16 {
    Curl::get(format!("{}{path}", sluice.url("edge"))).run().status
}

/// An upstream of one node, as a body.
fn nodes(origin: &HttpEcho) -> String {
    json!({"type": "roundrobin", "nodes": {origin.node(): 1}}).to_string()
}

#[test]
fn an_object_lives_as_in_the_documentation() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway();
    let made = expect(&sluice, "PUT", "upstreams/1", &nodes(&origin), 201);
    assert_eq!(made["key"], "/apisix/upstreams/1");
    assert_eq!(made["value"]["id"], "1");
    assert_eq!(made["value"]["scheme"], "http", "defaults are written as APISIX writes them");
    let route = r#"{"uri": "/index.html", "methods": ["GET"], "upstream_id": 1}"#;
    let made = expect(&sluice, "PUT", "routes/1", route, 201);
    let created = made["value"]["create_time"].as_u64().unwrap();
    // A write is answered when this node has taken it up.
    assert_eq!(status_of(&sluice, "/index.html"), 200);

    let read = expect(&sluice, "GET", "routes/1", "", 200);
    assert_eq!(read, made);
    let again = expect(&sluice, "PUT", "routes/1", r#"{"uri": "/other", "upstream_id": "1"}"#, 200);
    assert_eq!(again["createdIndex"], read["createdIndex"]);
    assert!(again["modifiedIndex"].as_u64() > read["modifiedIndex"].as_u64());
    assert_eq!(again["value"]["create_time"], created);
    assert_eq!([status_of(&sluice, "/index.html"), status_of(&sluice, "/other")], [404, 200]);

    let list = expect(&sluice, "GET", "routes", "", 200);
    assert_eq!((&list["total"], &list["list"][0]["value"]["uri"]), (&json!(1), &json!("/other")));
    let gone = expect(&sluice, "DELETE", "routes/1", "", 200);
    assert_eq!(gone, json!({"deleted": "1", "key": "/apisix/routes/1"}));
    assert_eq!(status_of(&sluice, "/other"), 404);
    let missing = expect(&sluice, "GET", "routes/1", "", 404);
    assert_eq!(missing["message"], "Key not found");
    expect(&sluice, "DELETE", "routes/1", "", 404);
    assert_eq!(expect(&sluice, "GET", "routes", "", 200), json!({"total": 0, "list": []}));
}

#[test]
fn the_store_names_what_is_posted_and_takes_ids_from_bodies() {
    let sluice = gateway();
    let made =
        expect(&sluice, "POST", "routes", r#"{"uri": "/a", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#, 201);
    let id = made["value"]["id"].as_str().unwrap().to_owned();
    assert_eq!((id.len(), &made["key"]), (20, &json!(format!("/apisix/routes/{id}"))));
    let other =
        expect(&sluice, "POST", "routes", r#"{"uri": "/b", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#, 201);
    assert_ne!(other["value"]["id"], made["value"]["id"]);
    expect(
        &sluice,
        "PUT",
        "routes",
        r#"{"id": 7, "uri": "/c", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#,
        201,
    );
    expect(
        &sluice,
        "PUT",
        "routes",
        r#"{"id": "7", "uri": "/d", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#,
        200,
    );
    assert_eq!(expect(&sluice, "GET", "routes/7", "", 200)["value"]["uri"], "/d");
    for (method, path, body, status, words) in [
        (
            "PUT",
            "routes",
            r#"{"uri": "/c", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#,
            400,
            "missing route id",
        ),
        ("PUT", "routes/8", r#"{"id": 9, "uri": "/c"}"#, 400, "wrong route id"),
        (
            "POST",
            "routes/8",
            r#"{"uri": "/c", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#,
            400,
            "wrong route id, do not need it",
        ),
        ("POST", "global_rules", r#"{"plugins": {}}"#, 405, "not supported `POST` method for global rule"),
        ("PUT", "routes/8", "", 400, "missing configurations"),
        ("PUT", "routes/8", "{", 400, "invalid request body"),
        ("PUT", "routes/8", r#"{"uri": "/c", "uri": "/d"}"#, 400, "invalid request body"),
        ("PUT", "routes/8", "[]", 400, "invalid configuration"),
        ("PUT", "routes/8", r#"{"uri": "c"}"#, 400, "uri: must begin with '/'"),
        ("PUT", "routes/8", r#"{"uri": "/c", "nosuch": 1}"#, 400, "nosuch: is not a field"),
        ("PUT", "routes/8", r#"{"uri": "/c", "plugins": {"nope": {}}}"#, 400, "plugins.nope: unknown plugin"),
        ("PUT", "routes/8?ttl=60", r#"{"uri": "/c", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#, 400, "ttl"),
        ("PUT", "nosuch/8", "{}", 404, "Unsupported resource type"),
        ("OPTIONS", "routes", "", 405, "OPTIONS"),
    ] {
        let answer = expect(&sluice, method, path, body, status);
        let error = answer["error_msg"].as_str().unwrap();
        assert!(error.contains(words), "{method} {path} {body}: {error}");
    }
    assert_eq!(expect(&sluice, "GET", "routes", "", 200)["total"], 3);
}

#[test]
fn a_part_is_changed_by_patch() {
    let sluice = gateway();
    expect(&sluice, "PUT", "upstreams/u", r#"{"nodes": {"127.0.0.1:1980": 1}, "type": "roundrobin"}"#, 201);
    let nodes = |answer: &Value| answer["value"]["nodes"].clone();
    let patched = expect(&sluice, "PATCH", "upstreams/u", r#"{"nodes": {"127.0.0.1:1981": 1}}"#, 200);
    assert_eq!(nodes(&patched), json!({"127.0.0.1:1980": 1, "127.0.0.1:1981": 1}));
    let patched = expect(&sluice, "PATCH", "upstreams/u", r#"{"nodes": {"127.0.0.1:1980": null}}"#, 200);
    assert_eq!(nodes(&patched), json!({"127.0.0.1:1981": 1}));
    let patched = expect(&sluice, "PATCH", "upstreams/u/nodes", r#"{"127.0.0.1:1982": 2}"#, 200);
    assert_eq!(nodes(&patched), json!({"127.0.0.1:1982": 2}));
    let patched = expect(&sluice, "PATCH", "upstreams/u/nodes/127.0.0.1:1982", "5", 200);
    assert_eq!(nodes(&patched), json!({"127.0.0.1:1982": 5}));
    expect(&sluice, "PUT", "routes/r", r#"{"uri": "/", "methods": ["GET"], "upstream_id": "u"}"#, 201);
    let patched = expect(&sluice, "PATCH", "routes/r/methods", r#"["GET", "POST"]"#, 200);
    assert_eq!(patched["value"]["methods"], json!(["GET", "POST"]));
    let refused = expect(&sluice, "PATCH", "routes/r/uri/deep", "1", 400);
    assert_eq!(refused["error_msg"], "invalid sub-path: /uri");
    let refused = expect(&sluice, "PATCH", "routes/r", r#"{"upstream_id": "gone"}"#, 400);
    assert!(refused["error_msg"].as_str().unwrap().contains("upstreams/gone does not exist"), "{refused}");
    expect(
        &sluice,
        "PATCH",
        "routes/none",
        r#"{"uri": "/", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#,
        404,
    );
    expect(&sluice, "PATCH", "routes", r#"{"uri": "/", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#, 400);
}

#[test]
fn what_is_in_use_is_not_deleted_and_what_is_missing_is_not_named() {
    let sluice = gateway();
    let refused = expect(&sluice, "PUT", "routes/r", r#"{"uri": "/", "service_id": "s"}"#, 400);
    assert!(refused["error_msg"].as_str().unwrap().contains("services/s does not exist"), "{refused}");
    expect(&sluice, "PUT", "upstreams/u", r#"{"nodes": {"127.0.0.1:9": 1}}"#, 201);
    expect(&sluice, "PUT", "services/s", r#"{"upstream_id": "u"}"#, 201);
    expect(&sluice, "PUT", "routes/r", r#"{"uri": "/", "service_id": "s"}"#, 201);
    let split = json!({"uri": "/split", "upstream_id": "u", "plugins": {"traffic-split": {"rules": [
        {"weighted_upstreams": [{"upstream_id": "other", "weight": 1}]}
    ]}}});
    expect(&sluice, "PUT", "upstreams/other", r#"{"nodes": {"127.0.0.1:9": 1}}"#, 201);
    expect(&sluice, "PUT", "routes/split", &split.to_string(), 201);
    for (path, message) in [
        ("services/s", "can not delete this service directly, route [r] is still using it now"),
        ("upstreams/u", "can not delete this upstream, service [s] is still using it now"),
        ("upstreams/other", "can not delete this upstream, plugin in route [split] is still using it now"),
    ] {
        assert_eq!(expect(&sluice, "DELETE", path, "", 400)["error_msg"], message);
        assert_eq!(
            expect(&sluice, "DELETE", &format!("{path}?force=anyvalue"), "", 400)["error_msg"],
            message
        );
    }
    expect(&sluice, "DELETE", "services/s?force=true", "", 200);
    expect(&sluice, "GET", "services/s", "", 404);
    expect(&sluice, "DELETE", "routes/r", "", 200);
}

#[test]
fn lists_have_pages_and_filters() {
    let sluice = gateway();
    for number in 1..=11 {
        let body = json!({"uri": format!("/n{number}"), "upstream": {"nodes": {"127.0.0.1:9": 1}}, "name": format!("route-{number}"), "labels": {"odd": (number % 2).to_string()}});
        expect(&sluice, "PUT", &format!("routes/{number}"), &body.to_string(), 201);
    }
    let ids = |path: &str| {
        let list = expect(&sluice, "GET", path, "", 200);
        let ids = list["list"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["value"]["id"].as_str().unwrap().to_owned());
        (list["total"].as_u64().unwrap(), ids.collect::<Vec<_>>())
    };
    let all: Vec<String> = (1..=11).map(|number| number.to_string()).collect();
    assert_eq!(ids("routes/?page=1&page_size=10"), (11, all[..10].to_vec()));
    assert_eq!(ids("routes/?page=2&page_size=10"), (11, all[10..].to_vec()));
    assert_eq!(ids("routes?name=route-1"), (3, vec!["1".into(), "10".into(), "11".into()]));
    assert_eq!(ids("routes?uri=n2&label=odd"), (1, vec!["2".into()]));
    assert_eq!(ids("routes?label=odd:0").0, 5);
    let refused = expect(&sluice, "GET", "routes/?page=1&page_size=2", "", 400);
    assert_eq!(refused["error_msg"], "page_size must be between 10 and 500");
}

#[test]
fn a_write_by_index_never_undoes_another() {
    let sluice = gateway();
    let first =
        call(&sluice, "PUT", "routes/r", r#"{"uri": "/1", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#);
    let tag = first.header("etag").unwrap().to_owned();
    assert_eq!(tag, format!("\"{}\"", first.json()["modifiedIndex"]));
    let with = |method: &str, field: &str, body: &str| {
        let key = format!("X-API-KEY: {ADMIN_KEY}");
        ask(&sluice, method, "routes/r", body).header(&key).header(field).run()
    };
    let index = first.json()["modifiedIndex"].to_string();
    assert_eq!(
        with(
            "PUT",
            &format!("If-Match: {index}"),
            r#"{"uri": "/2", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#
        )
        .status,
        200
    );
    for (method, body) in [
        ("PUT", r#"{"uri": "/3", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#),
        ("PATCH", r#"{"uri": "/3", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#),
        ("DELETE", ""),
    ] {
        let refused = with(method, &format!("If-Match: {tag}"), body);
        assert_eq!(refused.status, 412, "{method}: {}", refused.text());
        assert!(refused.json()["error_msg"].as_str().unwrap().contains("was changed"), "{}", refused.text());
    }
    assert_eq!(
        with("PUT", "If-None-Match: *", r#"{"uri": "/3", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#).status,
        412
    );
    assert_eq!(expect(&sluice, "GET", "routes/r", "", 200)["value"]["uri"], "/2");
    assert_eq!(with("DELETE", "If-Match: *", "").status, 200);
    assert_eq!(
        with("PUT", "If-Match: *", r#"{"uri": "/3", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#).status,
        412
    );
    assert_eq!(
        with("PUT", "If-None-Match: *", r#"{"uri": "/3", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#).status,
        201
    );
}

#[test]
fn changes_by_file_and_by_api_are_one_store() {
    let sluice = with_keys(Sluice::builder().listener("edge", json!({})))
        .put(
            "routes",
            "file",
            json!({"uri": "/file", "upstream": {"nodes": {"127.0.0.1:9": 1}}, "create_time": 1_600_000_000}),
        )
        .file(
            "apisix.yaml",
            "routes:\n  - {id: fixed, uri: /fixed, upstream: {nodes: {\"127.0.0.1:9\": 1}}}\n",
        )
        .start();
    let read = expect(&sluice, "GET", "routes/file", "", 200);
    assert_eq!(read["createdIndex"], 1_600_000_000_000_u64);
    expect(&sluice, "PATCH", "routes/file", r#"{"name": "mine"}"#, 200);
    let text = std::fs::read_to_string(sluice.conf().join("routes/file.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["name"], "mine");
    let refused = expect(&sluice, "PATCH", "routes/fixed", r#"{"name": "mine"}"#, 409);
    assert!(refused["error_msg"].as_str().unwrap().contains("apisix.yaml"), "{refused}");
    sluice.put("routes", "bad", json!({"uri": "bad"}));
    eventually("the fault of a file is shown", || {
        let reply = call(&sluice, "GET", "routes/bad", "");
        (reply.status == 200 && reply.json()["quarantine"][0]["field"] == "uri").then_some(())
    });
    // What is written in the new form clears it.
    let mended = expect(
        &sluice,
        "PUT",
        "routes/bad",
        r#"{"uri": "/good", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#,
        200,
    );
    assert!(mended.get("quarantine").is_none(), "{mended}");
}

#[test]
fn objects_are_validated_without_being_written() {
    let sluice = gateway();
    let good = call(
        &sluice,
        "POST",
        "schema/validate/routes",
        r#"{"uri": "/httpbin/*", "upstream": {"nodes": {"a:1": 1}}}"#,
    );
    assert_eq!((good.status, good.text().as_str()), (200, ""));
    let bad = expect(
        &sluice,
        "POST",
        "schema/validate/routes",
        r#"{"uri": 1980, "upstream": {"type": "roundrobin", "nodes": {"a:1": 1}}}"#,
        400,
    );
    assert!(bad["error_msg"].as_str().unwrap().contains("uri: "), "{bad}");
    assert_eq!(bad["problems"][0]["field"], "uri");
    assert_eq!(expect(&sluice, "GET", "routes", "", 200)["total"], 0);
    let plugins = expect(&sluice, "GET", "plugins/list", "", 200);
    assert!(plugins.as_array().unwrap().contains(&json!("limit-count")), "{plugins}");
    let schema = expect(&sluice, "GET", "schema/route", "", 200);
    assert!(schema["properties"].get("upstream_id").is_some(), "{schema}");
}

#[test]
fn nobody_gets_in_without_a_key_or_from_another_site() {
    let sluice = gateway();
    expect(&sluice, "PUT", "routes/r", r#"{"uri": "/", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#, 201);
    let put = |fields: &[&str]| {
        let curl =
            ask(&sluice, "PUT", "routes/x", r#"{"uri": "/x", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#);
        fields.iter().fold(curl, |curl, field| curl.header(field)).run()
    };
    let admin = format!("X-API-KEY: {ADMIN_KEY}");
    let viewer = format!("X-API-KEY: {VIEWER_KEY}");
    for (fields, status) in [
        (vec![], 401),
        (vec!["X-API-KEY: wrong"], 401),
        (vec![viewer.as_str()], 401),
        (vec!["Cookie: x_api_key=edd1c9f034335f136f87ad84b625c8f1"], 401),
        (vec![admin.as_str(), "Origin: http://evil.example"], 403),
        (vec![admin.as_str(), "Sec-Fetch-Site: cross-site"], 403),
        (vec![admin.as_str(), "Host: evil.example"], 421),
        (vec![admin.as_str(), "Content-Encoding: gzip"], 415),
    ] {
        let reply = put(&fields);
        assert_eq!(reply.status, status, "{fields:?}: {}", reply.text());
        assert!(reply.header("access-control-allow-origin").is_none());
    }
    let read = ask(&sluice, "GET", "routes/r", "").header(&viewer).run();
    assert_eq!(read.status, 200);
    let by_query = ask(&sluice, "GET", &format!("routes/r?api_key={ADMIN_KEY}"), "").run();
    assert_eq!(by_query.status, 200);
    let nothing = ask(&sluice, "GET", "routes", "").run();
    assert_eq!((nothing.status, &nothing.json()["error_msg"]), (401, &json!("failed to check token")));
    assert_eq!(status_of(&sluice, "/x"), 404);
    let log = sluice.observe().log();
    assert!(!log.contains(ADMIN_KEY) && !log.contains(VIEWER_KEY), "a key is in the log");
}

#[test]
fn large_bodies_and_paths_that_climb_are_refused() {
    let sluice = gateway();
    let before = sluice.observe().resident_bytes();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large.json");
    std::fs::File::create(&file).unwrap().set_len(100 << 20).unwrap();
    for fields in [&["Expect: 100-continue"][..], &["Expect:"], &["Expect:", "Transfer-Encoding: chunked"]] {
        for key in [ADMIN_KEY, "wrong"] {
            let curl = Curl::get(sluice.admin_url("routes/large"))
                .arg("--upload-file")
                .arg(&file)
                .header(&format!("X-API-KEY: {key}"));
            let reply = fields.iter().fold(curl, |curl, field| curl.header(field)).run();
            let expected = if key == ADMIN_KEY { 413 } else { 401 };
            assert_eq!(reply.status, expected, "{fields:?}: {} {}", reply.text(), reply.error);
        }
    }
    let grown = sluice.observe().resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "grown by {grown} bytes");
    let key = format!("X-API-KEY: {ADMIN_KEY}");
    for path in
        ["routes/..", "routes/%2e%2e%2f%2e%2e%2fowned", "routes/..%2fowned", "routes/a%00", "routes/.hidden"]
    {
        let reply = ask(&sluice, "PUT", path, r#"{"uri": "/x", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#)
            .header(&key)
            .run();
        assert_eq!(reply.status, 400, "{path}: {}", reply.text());
    }
    assert!(!sluice.folder().join("owned").exists() && !sluice.conf().join("owned.yaml").exists());
    let largest = json!({"uri": "/x", "desc": "x".repeat(1_500_000)}).to_string();
    let reply = call(&sluice, "PUT", "routes/wide", &largest);
    assert_eq!(reply.status, 400, "a large body within the limit is read and judged: {}", reply.text());
}

#[test]
fn private_keys_go_in_and_never_come_out() {
    let sluice = gateway();
    let authority = sluice_harness::Authority::new("root");
    let ssl = authority.leaf(&["a.example"]).ssl(&["a.example"]);
    let made = call(&sluice, "PUT", "ssls/1", &ssl.to_string());
    assert_eq!(made.status, 201, "{}", made.text());
    let mut answers =
        vec![made.text(), call(&sluice, "GET", "ssls/1", "").text(), call(&sluice, "GET", "ssls", "").text()];
    let bad = json!({"cert": ssl["cert"], "key": "-----BEGIN PRIVATE KEY-----\nbm90IGEga2V5\n-----END PRIVATE KEY-----", "snis": ["a"]});
    answers.push(call(&sluice, "PUT", "ssls/2", &bad.to_string()).text());
    answers.push(sluice.observe().log());
    for answer in answers {
        assert!(!answer.contains("PRIVATE KEY") && !answer.contains("bm90IGEga2V5"), "{answer}");
    }
    // A change of something else keeps the key.
    expect(&sluice, "PATCH", "ssls/1", r#"{"snis": ["b.example"]}"#, 200);
    let stored = std::fs::read_to_string(sluice.conf().join("ssls/1.yaml")).unwrap();
    assert!(stored.contains("PRIVATE KEY"));
}

#[test]
fn a_client_made_for_apisix_works() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway();
    let packages = workspace().join("target/python/apisix-client");
    let script: PathBuf = workspace().join("tests/integration/clients/apisix_client_calls.py");
    let output = tool("python3")
        .env("PYTHONPATH", &packages)
        .arg(&script)
        .arg(format!("http://{}/", sluice.admin_address()))
        .arg(ADMIN_KEY)
        .arg(origin.node())
        .output()
        .unwrap();
    let (told, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success(),
        "the client failed (packages in {}):\n{told}\n{error}",
        packages.display()
    );
    assert_eq!(status_of(&sluice, "/from-python"), 200);
}

#[test]
fn an_api_without_a_key_is_served_to_this_machine_only() {
    let sluice = Sluice::builder().listener("edge", json!({})).start();
    let made =
        ask(&sluice, "PUT", "routes/r", r#"{"uri": "/", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#).run();
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(ask(&sluice, "PUT", "routes/r", "{}").header("Origin: http://evil.example").run().status, 403);
    assert!(sluice.observe().log().contains("asks for no key"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sluice.yaml");
    std::fs::write(&file, "admin: {api: '0.0.0.0:0', status: 'off', metrics: 'off'}\n").unwrap();
    let output = Sluice::command(&["run", "-c", file.to_str().unwrap()]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("needs a key"), "{error}");
}
