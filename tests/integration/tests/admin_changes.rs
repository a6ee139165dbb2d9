//! Several objects at once, what was changed, and going back, on both stores.

use serde_json::{Value, json};
use sluice_harness::{Etcd, Sluice, tool};
use sluice_tests::admin::{ADMIN_KEY, VIEWER_KEY, ask, call, expect, on_both_stores, with_keys};

fn upstream() -> Value {
    json!({"nodes": {"127.0.0.1:9": 1}})
}

fn put(kind: &str, id: &str, value: Value) -> Value {
    json!({"kind": kind, "id": id, "value": value})
}

fn gone(kind: &str, id: &str) -> Value {
    json!({"kind": kind, "id": id, "value": null})
}

fn set(objects: &[Value]) -> String {
    json!({"objects": objects}).to_string()
}

fn error(answer: &Value) -> &str {
    answer["error_msg"].as_str().unwrap_or_default()
}

#[test]
fn a_set_is_made_whole_or_not_at_all() {
    on_both_stores(|sluice, _| {
        // The route comes first and names what comes after it.
        let both =
            [put("routes", "r", json!({"uri": "/", "upstream_id": "u"})), put("upstreams", "u", upstream())];
        let trial = expect(sluice, "POST", "changes?dry_run=true", &set(&both), 200);
        assert_eq!((&trial["dry_run"], &trial["objects"][0]["action"]), (&json!(true), &json!("created")));
        expect(sluice, "GET", "routes/r", "", 404);
        let made = expect(sluice, "POST", "changes", &set(&both), 200);
        assert!(made["change"].is_u64(), "{made}");
        assert_eq!(expect(sluice, "GET", "routes/r", "", 200)["value"]["upstream_id"], "u");
        let again = expect(sluice, "POST", "changes", &set(&both), 200);
        assert_eq!((&again["change"], &again["objects"][1]["action"]), (&Value::Null, &json!("unchanged")));

        let bad =
            [put("upstreams", "v", upstream()), put("routes", "s", json!({"uri": "s", "upstream_id": "v"}))];
        let refused = expect(sluice, "POST", "changes", &set(&bad), 400);
        assert_eq!(
            (&refused["problems"][0]["id"], &refused["problems"][0]["field"]),
            (&json!("s"), &json!("uri"))
        );
        expect(sluice, "GET", "upstreams/v", "", 404);

        let refused = expect(sluice, "POST", "changes", &set(&[gone("upstreams", "u")]), 400);
        assert!(error(&refused).contains("routes/r is still using it"), "{refused}");
        expect(sluice, "POST", "changes", &set(&[gone("upstreams", "u"), gone("routes", "r")]), 200);
        assert_eq!(expect(sluice, "GET", "routes", "", 200)["total"], 0);
    });
}

#[test]
fn a_set_that_cannot_be_meant_is_refused_with_its_place() {
    on_both_stores(|sluice, _| {
        expect(sluice, "PUT", "upstreams/there", &upstream().to_string(), 201);
        let with_index = |id: &str, index: Value| {
            set(&[json!({"kind": "upstreams", "id": id, "value": upstream(), "modifiedIndex": index})])
        };
        let many: Vec<Value> =
            (0..200).map(|number| put("upstreams", &format!("u{number}"), upstream())).collect();
        for (body, status, words) in [
            ("{}".to_owned(), 400, "objects: must be a list"),
            (set(&[]), 400, "objects: must be 1 to 100"),
            (set(&many), 400, "objects: must be 1 to 100, not 200"),
            (set(&vec![put("upstreams", "u", upstream()); 2]), 400, "objects[1]: upstreams/u is there twice"),
            (set(&[put("nosuch", "u", upstream())]), 400, "objects[0]: kind: there is no kind \"nosuch\""),
            (set(&[put("upstreams", "..", upstream())]), 400, "objects[0]: wrong upstream id"),
            (set(&[put("upstreams", "u", json!(7))]), 400, "objects[0]: value: must be an object"),
            (set(&[gone("routes", "none")]), 404, "objects[0]: routes/none does not exist"),
            (with_index("u", json!(1)), 412, "its modifiedIndex is null, not 1"),
            (with_index("there", Value::Null), 412, "not null"),
        ] {
            let refused = expect(sluice, "POST", "changes", &body, status);
            assert!(error(&refused).contains(words), "{words}: {refused}");
        }
        expect(sluice, "POST", "changes", &with_index("u", Value::Null), 200);
        expect(sluice, "GET", "changes", "", 405);
        assert_eq!(expect(sluice, "GET", "upstreams", "", 200)["total"], 2);
    });
}

#[test]
fn every_change_is_kept_with_who_made_it_and_without_secrets() {
    on_both_stores(|sluice, etcd| {
        let consumer =
            |key: &str| json!({"username": "jack", "plugins": {"key-auth": {"key": key}}}).to_string();
        expect(sluice, "PUT", "consumers", &consumer("the-first-secret"), 201);
        expect(sluice, "PUT", "consumers", &consumer("the-second-secret"), 200);
        expect(sluice, "PUT", "upstreams/u", &upstream().to_string(), 201);
        expect(sluice, "DELETE", "upstreams/u", "", 200);
        let history = expect(sluice, "GET", "history", "", 200);
        let told: Vec<_> = history["list"]
            .as_array()
            .unwrap()
            .iter()
            .map(|change| {
                assert_eq!(change["by"], "ops");
                (change["action"].as_str().unwrap(), change["objects"][0]["action"].as_str().unwrap())
            })
            .collect();
        assert_eq!(told, [("delete", "deleted"), ("put", "created"), ("put", "updated"), ("put", "created")]);
        let jack = expect(sluice, "GET", "history?kind=consumers&id=jack&limit=1", "", 200);
        let number = jack["list"][0]["id"].as_u64().unwrap();
        let change = expect(sluice, "GET", &format!("history/{number}"), "", 200);
        assert_eq!(change["objects"][0]["secrets_changed"], true);
        assert_eq!(change["objects"][0]["after"]["plugins"]["key-auth"]["key"], "(hidden)");
        assert_eq!(
            stored_with(sluice, etcd, "the-second-secret"),
            1,
            "only the object itself has its secret"
        );
        assert_eq!(stored_with(sluice, etcd, "the-first-secret"), 0);
        let log = sluice.observe().log();
        assert!(!log.contains("-secret"), "a secret is in the log");
        // A viewer reads the history, and an object without its secrets.
        let viewer = format!("X-API-KEY: {VIEWER_KEY}");
        assert_eq!(ask(sluice, "GET", "history", "").header(&viewer).run().status, 200);
        let seen = ask(sluice, "GET", "consumers/jack", "").header(&viewer).run().text();
        assert!(seen.contains("(hidden)") && !seen.contains("-secret"), "{seen}");
        for path in ["rollback", "changes"] {
            assert_eq!(ask(sluice, "POST", path, "{}").header(&viewer).run().status, 401);
        }
        expect(sluice, "GET", "history/17", "", 404);
        expect(sluice, "GET", "history/x", "", 400);
    });
}

/// How many files or keys of a store hold a text.
fn stored_with(sluice: &Sluice, etcd: Option<&Etcd>, text: &str) -> usize {
    match etcd {
        Some(etcd) => etcd.keys("/sluice/").iter().filter(|(_, value, _)| value.contains(text)).count(),
        None => {
            let found = tool("grep").args(["-r", "-l", text]).arg(sluice.conf()).output().unwrap();
            String::from_utf8_lossy(&found.stdout).lines().count()
        }
    }
}

#[test]
fn the_history_has_a_length() {
    let sluice = with_keys(Sluice::builder())
        .boot("admin", json!({"history": 5, "keys": [{"name": "ops", "env": "TEST_ADMIN_KEY"}]}));
    let sluice = sluice.start();
    for number in 0..40 {
        let route = json!({"uri": format!("/{number}"), "upstream": upstream()}).to_string();
        expect(&sluice, "PUT", "routes/r", &route, if number == 0 { 201 } else { 200 });
    }
    let history = expect(&sluice, "GET", "history", "", 200);
    let kept = history["list"].as_array().unwrap();
    assert_eq!(kept.len(), 5);
    let newest = expect(&sluice, "GET", &format!("history/{}", kept[0]["id"]), "", 200);
    assert_eq!(newest["objects"][0]["after"]["uri"], "/39");
}

#[test]
fn an_object_goes_back_to_how_it_was() {
    on_both_stores(|sluice, _| {
        expect(sluice, "PUT", "upstreams/u", &upstream().to_string(), 201);
        let route = |uri: &str| json!({"uri": uri, "upstream_id": "u"}).to_string();
        for (uri, status) in [("/1", 201), ("/2", 200), ("/3", 200)] {
            expect(sluice, "PUT", "routes/r", &route(uri), status);
        }
        let uri = || expect(sluice, "GET", "routes/r", "", 200)["value"]["uri"].as_str().unwrap().to_owned();
        let back = |body: Value, status: u16| expect(sluice, "POST", "rollback", &body.to_string(), status);
        let history = expect(sluice, "GET", "history?kind=routes&id=r", "", 200);
        let first = history["list"][2]["id"].clone();
        let diff = expect(sluice, "GET", "diff?kind=routes&id=r", "", 200);
        assert_eq!(diff["differences"], json!([{"field": "uri", "before": "/2", "after": "/3"}]));
        let diff = expect(sluice, "GET", &format!("diff?kind=routes&id=r&to={first}"), "", 200);
        assert_eq!(diff["differences"][0]["before"], "/1");
        back(json!({"kind": "routes", "id": "r"}), 200);
        assert_eq!(uri(), "/2");
        back(json!({"kind": "routes", "id": "r", "to": first}), 200);
        assert_eq!(uri(), "/1");
        expect(sluice, "DELETE", "routes/r", "", 200);
        expect(sluice, "DELETE", "upstreams/u", "", 200);
        let refused = back(json!({"kind": "routes", "id": "r"}), 400);
        assert!(error(&refused).contains("upstreams/u does not exist"), "{refused}");
        back(json!({"kind": "upstreams", "id": "u"}), 200);
        back(json!({"kind": "routes", "id": "r"}), 200);
        assert_eq!(uri(), "/1");
        for (body, status) in [
            (json!({}), 400),
            (json!({"kind": "routes"}), 400),
            (json!({"kind": "routes", "id": "r", "to": "x"}), 400),
            (json!({"kind": "routes", "id": "never"}), 404),
            (json!({"change": 1}), 404),
        ] {
            back(body, status);
        }
    });
}

#[test]
fn a_change_of_several_objects_is_taken_back_as_a_whole() {
    on_both_stores(|sluice, _| {
        expect(sluice, "PUT", "upstreams/old", &upstream().to_string(), 201);
        let made = expect(
            sluice,
            "POST",
            "changes",
            &set(&[
                gone("upstreams", "old"),
                put("upstreams", "new", upstream()),
                put("routes", "r", json!({"uri": "/", "upstream_id": "new"})),
            ]),
            200,
        );
        let body = json!({"change": made["change"]}).to_string();
        let trial = expect(sluice, "POST", "rollback?dry_run=true", &body, 200);
        let actions: Vec<_> =
            trial["objects"].as_array().unwrap().iter().map(|object| object["action"].clone()).collect();
        assert_eq!(actions, ["created", "deleted", "deleted"]);
        expect(sluice, "POST", "rollback", &body, 200);
        expect(sluice, "GET", "upstreams/old", "", 200);
        expect(sluice, "GET", "upstreams/new", "", 404);
        expect(sluice, "GET", "routes/r", "", 404);
    });
}

#[test]
fn what_goes_back_keeps_the_secret_of_now_or_says_that_it_is_gone() {
    on_both_stores(|sluice, _| {
        let consumer = |desc: &str, key: &str| {
            json!({"username": "jack", "desc": desc, "plugins": {"key-auth": {"key": key}}}).to_string()
        };
        let jack = r#"{"kind": "consumers", "id": "jack"}"#;
        expect(sluice, "PUT", "consumers", &consumer("one", "key-one"), 201);
        expect(sluice, "PUT", "consumers", &consumer("two", "key-two"), 200);
        expect(sluice, "POST", "rollback", jack, 200);
        let now = expect(sluice, "GET", "consumers/jack", "", 200);
        assert_eq!(
            (&now["value"]["desc"], &now["value"]["plugins"]["key-auth"]["key"]),
            (&json!("one"), &json!("key-two"))
        );
        expect(sluice, "DELETE", "consumers/jack", "", 200);
        let refused = expect(sluice, "POST", "rollback", jack, 409);
        assert!(error(&refused).contains("plugins.key-auth.key was a secret"), "{refused}");
    });
}

#[test]
fn indexes_are_those_of_etcd_and_a_write_by_index_never_undoes_another() {
    let etcd = Etcd::start();
    let start = |id: &str| {
        let node = Sluice::builder().etcd(&etcd, json!({"timeout": "2s"})).boot("node", json!({"id": id}));
        with_keys(node).start()
    };
    let (one, two) = (start("one"), start("two"));
    expect(&one, "PUT", "upstreams/u", &upstream().to_string(), 201);
    let written = call(&one, "PATCH", "upstreams/u", r#"{"desc": "again"}"#);
    let index = written.json()["modifiedIndex"].as_u64().unwrap();
    let (_, _, revision) = etcd.keys("/sluice/upstreams/u").remove(0);
    assert_eq!(index, revision);
    assert_eq!(written.header("etag"), Some(format!("\"{revision}\"").as_str()));
    assert!(written.json()["createdIndex"].as_u64().unwrap() < index);
    sluice_harness::eventually("the other node tells the same", || {
        let reply = call(&two, "GET", "upstreams/u", "");
        (reply.status == 200 && reply.json() == call(&one, "GET", "upstreams/u", "").json()).then_some(())
    });
    // Of two writes by the same index through two nodes one is made.
    let write = |node: &Sluice, desc: &str| {
        let key = format!("X-API-KEY: {ADMIN_KEY}");
        let field = format!("If-Match: {index}");
        ask(node, "PATCH", "upstreams/u", &json!({"desc": desc}).to_string())
            .header(&key)
            .header(&field)
            .run()
            .status
    };
    let statuses = std::thread::scope(|scope| {
        let both = [(&one, "from one"), (&two, "from two")]
            .map(|(node, desc)| scope.spawn(move || write(node, desc)));
        both.map(|thread| thread.join().unwrap())
    });
    let made = statuses.iter().filter(|status| **status == 200).count();
    assert!(made == 1 && statuses.iter().all(|status| matches!(status, 200 | 409 | 412)), "{statuses:?}");
    let history = expect(&one, "GET", "history?kind=upstreams&id=u", "", 200);
    assert_eq!(history["list"].as_array().unwrap().len(), 3, "what was not made is not recorded");
}

#[test]
fn credentials_and_secrets_stand_in_etcd_as_in_apisix() {
    let etcd = Etcd::start();
    let sluice = with_keys(Sluice::builder().etcd(&etcd, json!({"prefix": "/apisix"}))).start();
    expect(&sluice, "PUT", "consumers", r#"{"username": "jack"}"#, 201);
    let body = r#"{"plugins": {"key-auth": {"key": "k-one"}}}"#;
    let made = expect(&sluice, "PUT", "consumers/jack/credentials/one", body, 201);
    assert_eq!(
        (&made["key"], &made["value"]["id"]),
        (&json!("/apisix/consumers/jack/credentials/one"), &json!("one"))
    );
    let (key, value, _) = etcd.keys("/apisix/consumers/jack/credentials/").remove(0);
    assert_eq!(key, "/apisix/consumers/jack/credentials/one");
    assert_eq!(serde_json::from_str::<Value>(&value).unwrap()["id"], "one");
    // What APISIX wrote is read.
    let two =
        json!({"id": "two", "plugins": {"key-auth": {"key": "k-two"}}, "create_time": 1, "update_time": 1});
    etcd.put_raw("/apisix/consumers/jack/credentials/two", two.to_string());
    sluice_harness::eventually("both are there", || {
        (expect(&sluice, "GET", "consumers/jack/credentials", "", 200)["total"] == 2).then_some(())
    });
    assert_eq!(expect(&sluice, "GET", "consumers", "", 200)["total"], 1);
    assert_eq!(sluice.status()["config"]["quarantined"], json!([]));
    let folder = tempfile::tempdir().unwrap();
    expect(&sluice, "PUT", "secrets/file/run", &json!({"dir": folder.path()}).to_string(), 201);
    assert_eq!(etcd.keys("/apisix/secrets/")[0].0, "/apisix/secrets/file/run");
    // A consumer's credentials go with it, in one change.
    expect(&sluice, "DELETE", "consumers/jack", "", 200);
    assert!(etcd.keys("/apisix/consumers/").is_empty());
    let change = expect(&sluice, "GET", "history?limit=1", "", 200);
    assert_eq!(change["list"][0]["objects"].as_array().unwrap().len(), 3);
}
