//! What must not get into the Admin API, and what must not get out of the node.

use serde_json::{Value, json};
use sluice_harness::{Curl, Etcd, Raw, Sluice};
use sluice_tests::admin::{ADMIN_KEY, VIEWER_KEY, ask, call, expect, on_both_stores, with_keys};

const ROUTE: &str = r#"{"uri": "/x", "upstream": {"nodes": {"127.0.0.1:9": 1}}}"#;

#[test]
fn clients_that_never_finish_their_bodies_hold_nobody_up() {
    let sluice = with_keys(Sluice::builder()).start();
    let before = sluice.observe().resident_bytes();
    let slow: Vec<Raw> = (0..40)
        .map(|number| {
            let mut raw = Raw::connect(sluice.admin_address());
            // Half of them without a key: they are refused by their heads.
            let key = if number % 2 == 0 { ADMIN_KEY } else { "wrong" };
            raw.send(format!(
                "PUT /apisix/admin/routes/slow HTTP/1.1\r\nHost: localhost\r\nX-API-KEY: {key}\r\n\
                 Content-Length: 1000000\r\n\r\n{{\"uri\": "
            ));
            raw
        })
        .collect();
    for number in 0..20 {
        expect(&sluice, "PUT", &format!("routes/r{number}"), ROUTE, 201);
    }
    expect(&sluice, "GET", "routes/slow", "", 404);
    let grown = sluice.observe().resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "grown by {grown} bytes");
    drop(slow);
    expect(&sluice, "GET", "routes/slow", "", 404);
}

#[test]
fn encoded_bodies_are_refused_before_they_unfold() {
    let sluice = with_keys(Sluice::builder()).start();
    let folder = tempfile::tempdir().unwrap();
    let bomb = folder.path().join("bomb");
    let made = std::process::Command::new("sh")
        .arg("-c")
        .arg(format!("head -c 300000000 /dev/zero | gzip -9 > '{}'", bomb.display()))
        .status()
        .unwrap();
    assert!(made.success());
    let bytes = std::fs::read(&bomb).unwrap();
    let before = sluice.observe().resident_bytes();
    for encoding in ["gzip", "deflate", "br", "zstd", "identity, gzip", "GZIP"] {
        for (method, path) in
            [("PUT", "routes/bomb"), ("POST", "changes"), ("POST", "schema/validate/routes")]
        {
            let reply = Curl::post(sluice.admin_url(path), bytes.clone())
                .method(method)
                .header(&format!("X-API-KEY: {ADMIN_KEY}"))
                .header(&format!("Content-Encoding: {encoding}"))
                .run();
            assert_eq!(reply.status, 415, "{encoding} {path}: {}", reply.text());
        }
    }
    let grown = sluice.observe().resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "grown by {grown} bytes");
}

#[test]
fn ids_that_climb_or_do_not_end_are_refused_on_both_stores() {
    on_both_stores(|sluice, etcd| {
        let long = "a".repeat(65);
        let key = format!("X-API-KEY: {ADMIN_KEY}");
        let before = names(sluice, etcd);
        for id in [
            "..",
            ".",
            "%2e%2e",
            "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
            "..%5c..",
            "a%00b",
            "%00",
            "a%0ab",
            "%ff%fe",
            "a%2fb",
            "%20",
            long.as_str(),
        ] {
            for (method, path) in [
                ("PUT", format!("routes/{id}")),
                ("GET", format!("upstreams/{id}")),
                ("DELETE", format!("services/{id}")),
                ("PUT", format!("consumers/{id}/credentials/one")),
                ("PUT", format!("consumers/jack/credentials/{id}")),
                ("PUT", format!("secrets/file/{id}")),
                ("GET", format!("history/{id}")),
            ] {
                let reply =
                    ask(sluice, method, &path, if method == "PUT" { ROUTE } else { "" }).header(&key).run();
                assert!(
                    matches!(reply.status, 400 | 404),
                    "{method} {path}: {} {}",
                    reply.status,
                    reply.text()
                );
            }
            let set = json!({"objects": [{"kind": "routes", "id": id, "value": {"uri": "/"}}]}).to_string();
            expect(sluice, "POST", "changes", &set, 400);
        }
        let endless = format!("routes/{}", "a".repeat(20_000));
        let reply = ask(sluice, "PUT", &endless, ROUTE).header(&key).run();
        assert!((400..500).contains(&reply.status), "{}", reply.status);
        assert_eq!(names(sluice, etcd), before, "nothing was written anywhere");
    });
}

/// Everything a store holds, by name.
fn names(sluice: &Sluice, etcd: Option<&Etcd>) -> Vec<String> {
    match etcd {
        Some(etcd) => {
            etcd.keys("/").into_iter().map(|(key, _, _)| key).filter(|key| !key.contains("/nodes/")).collect()
        }
        None => {
            let mut names = Vec::new();
            let mut folders = vec![sluice.folder().to_owned()];
            while let Some(folder) = folders.pop() {
                for entry in std::fs::read_dir(folder).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_dir() {
                        folders.push(path.clone());
                    }
                    names.push(path.display().to_string());
                }
            }
            names.sort();
            names
        }
    }
}

#[test]
fn the_api_is_not_reached_through_the_gateway() {
    // Nobody needs a key here: the most that a request through a proxy could get.
    let sluice = Sluice::builder().listener("edge", json!({})).start();
    let own = sluice.admin_address().to_string();
    let hole = json!({"uri": "/*", "upstream": {"nodes": {&own: 1}}});
    let made = ask(&sluice, "PUT", "routes/hole", &hole.to_string()).run();
    assert_eq!(made.status, 201, "{}", made.text());
    let through = |method: &str, host: &str| {
        let url = format!("{}/apisix/admin/routes", sluice.url("edge"));
        let curl = if method == "GET" { Curl::get(url) } else { Curl::post(url, ROUTE) };
        curl.method(method).header(&format!("Host: {host}")).run()
    };
    for host in ["localhost", "127.0.0.1", own.as_str(), "gateway.example"] {
        for method in ["GET", "POST"] {
            let reply = through(method, host);
            assert!(
                matches!(reply.status, 401 | 421),
                "{method} for {host}: {} {}",
                reply.status,
                reply.text()
            );
        }
    }
    // The way it is meant still works.
    assert_eq!(ask(&sluice, "GET", "routes", "").run().json()["total"], 1);
}

/// Every secret of the next test begins so.
const SECRET: &str = "s3cr3t-";

/// Writes objects with secrets, well and badly, and gives all answers that may
/// not show one.
fn write_secrets(sluice: &Sluice) -> Vec<String> {
    let mut told = Vec::new();
    let authority = sluice_harness::Authority::new("root");
    let ssl = authority.leaf(&["a.example"]).ssl(&["a.example"]);
    let consumer = |plugins: Value| json!({"username": "jack", "plugins": plugins}).to_string();
    let good = consumer(json!({
        "key-auth": {"key": format!("{SECRET}key")},
        "jwt-auth": {"key": "jack-token", "secret": format!("{SECRET}jwt-secret-that-is-long-enough-for-hs256")},
        "basic-auth": {"username": "jack", "password": format!("{SECRET}password")},
    }));
    expect(sluice, "PUT", "consumers", &good, 201);
    expect(sluice, "PUT", "consumers", &good.replace(SECRET, &format!("{SECRET}2-")), 200);
    let credential = json!({"plugins": {"key-auth": {"key": format!("{SECRET}credential")}}}).to_string();
    expect(sluice, "PUT", "consumers/jack/credentials/one", &credential, 201);
    told.push(call(sluice, "PUT", "ssls/1", &ssl.to_string()).text());
    for bad in [
        consumer(json!({"key-auth": {"key": [format!("{SECRET}list")]}})),
        consumer(json!({"key-auth": {"key": {"deep": format!("{SECRET}object")}}})),
        consumer(json!({"key-auth": {"key": format!("{SECRET}k"), "nosuch": 1}})),
        consumer(json!({"basic-auth": {"username": "j", "password": [format!("{SECRET}p")]}})),
        consumer(json!({"jwt-auth": {"key": "k", "secret": format!("{SECRET}s"), "algorithm": "none"}})),
        consumer(
            json!({"jwt-auth": {"key": "k", "algorithm": "RS256", "public_key": "x", "private_key": format!("{SECRET}pem")}}),
        ),
        format!("{{\"username\": \"jack\", \"plugins\": {{\"key-auth\": {{\"key\": \"{SECRET}cut"),
    ] {
        told.push(call(sluice, "PUT", "consumers/jack", &bad).text());
        told.push(call(sluice, "POST", "schema/validate/consumers", &bad).text());
        let set = format!(r#"{{"objects": [{{"kind": "consumers", "id": "jack", "value": {bad}}}]}}"#);
        told.push(call(sluice, "POST", "changes", &set).text());
    }
    // The key of a consumer may be another's: who has it is told, not what it is.
    let other = json!({"username": "rose", "plugins": {"key-auth": {"key": format!("{SECRET}credential")}}});
    told.push(call(sluice, "PUT", "consumers", &other.to_string()).text());
    let key = ssl["key"].as_str().unwrap().replace('b', "c");
    let broken = json!({"cert": ssl["cert"], "key": key, "snis": ["a"]});
    told.push(call(sluice, "PUT", "ssls/2", &broken.to_string()).text());
    // An admin key that is almost right, and one in the wrong place.
    told.push(ask(sluice, "GET", "routes", "").header(&format!("X-API-KEY: {ADMIN_KEY}x")).run().text());
    told.push(ask(sluice, "GET", &format!("{ADMIN_KEY}/1"), "").header("X-API-KEY: x").run().text());
    told
}

#[test]
fn no_secret_is_in_a_log_an_error_a_status_or_the_history() {
    on_both_stores(|sluice, _| {
        let mut told = write_secrets(sluice);
        let trial = json!({"objects": [
            {"kind": "consumers", "id": "jack", "value": {"username": "jack", "plugins": {"key-auth": {"key": format!("{SECRET}trial")}}}},
        ]});
        told.push(expect(sluice, "POST", "changes?dry_run=true", &trial.to_string(), 200).to_string());
        let history = expect(sluice, "GET", "history", "", 200);
        for change in history["list"].as_array().unwrap() {
            told.push(expect(sluice, "GET", &format!("history/{}", change["id"]), "", 200).to_string());
        }
        assert!(told.iter().filter(|text| text.contains("secrets_changed")).count() >= 2);
        for path in
            ["diff?kind=consumers&id=jack", "diff?kind=credentials&id=jack.one", "diff?kind=ssls&id=1"]
        {
            told.push(expect(sluice, "GET", path, "", 200).to_string());
        }
        let back = json!({"kind": "consumers", "id": "jack"}).to_string();
        told.push(expect(sluice, "POST", "rollback?dry_run=true", &back, 200).to_string());
        told.push(expect(sluice, "POST", "rollback", &back, 200).to_string());
        let viewer = format!("X-API-KEY: {VIEWER_KEY}");
        for path in ["consumers", "consumers/jack", "consumers/jack/credentials", "ssls", "ssls/1", "history"]
        {
            let reply = ask(sluice, "GET", path, "").header(&viewer).run();
            assert_eq!(reply.status, 200, "{path}");
            told.push(reply.text());
        }
        for path in ["/v1/status", "/v1/config", "/v1/modules"] {
            told.push(sluice.status_path(path).to_string());
        }
        told.push(
            Curl::get(format!("http://{}/apisix/prometheus/metrics", sluice.metrics_address())).run().text(),
        );
        told.push(sluice.observe().log());
        for text in &told {
            for secret in [SECRET, "PRIVATE KEY", ADMIN_KEY, VIEWER_KEY] {
                let at = text.find(secret);
                let around = at.map(|at| text[..at].chars().rev().take(300).collect::<Vec<_>>());
                assert!(
                    at.is_none(),
                    "{secret} is told behind {:?}",
                    around.map(|all| all.iter().rev().collect::<String>())
                );
            }
        }
    });
}
