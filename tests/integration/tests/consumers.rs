//! Consumers: who they are is proved, told to the origin, and decides what holds.

use serde_json::{Value, json};
use sluice_harness::{Curl, HttpEcho, Reply, Sluice, tool};
use sluice_tests::admin::{ADMIN_KEY, call, expect, with_keys};

/// A gateway with an echo behind `/*`, guarded by `plugins`.
fn guarded(origin: &HttpEcho, plugins: Value) -> Sluice {
    with_keys(Sluice::builder().listener("edge", json!({})))
        .environment("TEST_JACK_KEY", "key-of-jack-in-the-environment")
        .put("upstreams", "u", json!({"nodes": {origin.node(): 1}}))
        .put("routes", "r", json!({"uri": "/*", "upstream_id": "u", "plugins": plugins}))
        .start()
}

fn get(sluice: &Sluice, path: &str, fields: &[&str]) -> Reply {
    let curl = Curl::get(format!("{}{path}", sluice.url("edge")));
    fields.iter().fold(curl, |curl, field| curl.header(field)).run()
}

fn said(reply: &Reply) -> (u16, String) {
    (reply.status, reply.json()["message"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_consumer_with_key_auth_works_as_in_the_documentation() {
    let origin = HttpEcho::start("origin");
    let sluice = guarded(&origin, json!({"key-auth": {}}));
    let jack = r#"{"username": "jack", "labels": {"custom_id": "495aec6a"}, "plugins": {"key-auth": {"key": "auth-one"}}}"#;
    let made = expect(&sluice, "PUT", "consumers", jack, 201);
    assert_eq!(
        (&made["key"], &made["value"]["username"]),
        (&json!("/apisix/consumers/jack"), &json!("jack"))
    );
    expect(&sluice, "PUT", "consumers", jack, 200);
    assert_eq!(said(&get(&sluice, "/a", &[])), (401, "Missing API key in request".into()));
    let challenge = get(&sluice, "/a", &[]);
    assert_eq!(challenge.header("www-authenticate"), Some("apikey realm=\"key\""));
    assert_eq!(said(&get(&sluice, "/a", &["apikey: other"])), (401, "Invalid API key in request".into()));
    let forged = ["apikey: auth-one", "X-Consumer-Username: root", "X-Credential-Identifier: root"];
    let seen = get(&sluice, "/a", &forged).seen();
    assert_eq!(seen.header("x-consumer-username"), Some("jack"));
    assert_eq!(seen.header("x-consumer-custom-id"), Some("495aec6a"));
    assert_eq!((seen.header("x-credential-identifier"), seen.header("apikey")), (None, Some("auth-one")));
    assert_eq!(get(&sluice, "/a?apikey=auth-one", &[]).status, 200);

    let hide = r#"{"plugins": {"key-auth": {"header": "X-Key", "query": "k", "hide_credentials": true}}}"#;
    expect(&sluice, "PATCH", "routes/r", hide, 200);
    let seen = get(&sluice, "/a?x=1&k=auth-one&y=2", &[]).seen();
    assert!(seen.target.ends_with("/a?x=1&y=2"), "{}", seen.target);
    assert_eq!(get(&sluice, "/a", &["X-Key: auth-one"]).seen().header("x-key"), None);
    assert_eq!(get(&sluice, "/a", &["apikey: auth-one"]).status, 401);

    expect(&sluice, "DELETE", "consumers/jack", "", 200);
    assert_eq!(get(&sluice, "/a", &["X-Key: auth-one"]).status, 401);
}

#[test]
fn names_and_passwords_and_those_who_have_none() {
    let origin = HttpEcho::start("origin");
    let sluice = guarded(&origin, json!({"basic-auth": {"hide_credentials": true}}));
    let rose =
        r#"{"username": "rose", "plugins": {"basic-auth": {"username": "foo", "password": "bar:baz"}}}"#;
    expect(&sluice, "PUT", "consumers", rose, 201);
    let with = |user: &str| Curl::get(format!("{}/a", sluice.url("edge"))).arg("--user").arg(user).run();
    let seen = with("foo:bar:baz").seen();
    assert_eq!((seen.header("x-consumer-username"), seen.header("authorization")), (Some("rose"), None));
    assert_eq!(said(&with("foo:bar")), (401, "Invalid user authorization".into()));
    assert_eq!(said(&with("nobody:bar:baz")), (401, "Invalid user authorization".into()));
    assert_eq!(
        said(&get(&sluice, "/a", &["Authorization: Basic !"])),
        (401, "Invalid authorization in request".into())
    );
    assert_eq!(said(&get(&sluice, "/a", &[])), (401, "Missing authorization in request".into()));
    let guest = r#"{"username": "guest", "plugins": {"limit-count": {"count": 1, "time_window": 60, "rejected_code": 429}}}"#;
    expect(&sluice, "PUT", "consumers", guest, 201);
    expect(
        &sluice,
        "PATCH",
        "routes/r",
        r#"{"plugins": {"basic-auth": {"anonymous_consumer": "guest"}}}"#,
        200,
    );
    assert_eq!(get(&sluice, "/a", &[]).seen().header("x-consumer-username"), Some("guest"));
    assert_eq!(get(&sluice, "/a", &[]).status, 429, "the guest's own limit holds");
    assert_eq!(with("foo:bar:baz").status, 200, "and for nobody else");
}

/// A token of HS256, made by another program.
fn token(secret: &str, payload: &str) -> String {
    let script = r#"
import base64, hashlib, hmac, sys
encode = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=")
head = encode(b'{"alg":"HS256","typ":"JWT"}') + b"." + encode(sys.argv[2].encode())
print((head + b"." + encode(hmac.new(sys.argv[1].encode(), head, hashlib.sha256).digest())).decode())
"#;
    let output = tool("python3").args(["-c", script, secret, payload]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn tokens_are_taken_from_header_argument_and_cookie() {
    let origin = HttpEcho::start("origin");
    let sluice = guarded(&origin, json!({"jwt-auth": {"hide_credentials": true}}));
    let jack =
        r#"{"username": "jack", "plugins": {"jwt-auth": {"key": "user-key", "secret": "my-secret-key"}}}"#;
    expect(&sluice, "PUT", "consumers", jack, 201);
    let good = token("my-secret-key", r#"{"key": "user-key"}"#);
    for (path, field) in [
        ("/a".to_owned(), format!("Authorization: Bearer {good}")),
        ("/a".to_owned(), format!("Authorization: {good}")),
        (format!("/a?jwt={good}"), "X: y".to_owned()),
        ("/a".to_owned(), format!("Cookie: a=b; jwt={good}; c=d")),
    ] {
        let seen = get(&sluice, &path, &[&field]).seen();
        assert_eq!(seen.header("x-consumer-username"), Some("jack"), "{field}");
        assert_eq!(seen.header("authorization"), None);
        assert!(!seen.target.contains("jwt"), "{}", seen.target);
        assert!(seen.header("cookie").is_none_or(|cookie| cookie == "a=b; c=d"));
    }
    let none = "eyJhbGciOiJub25lIn0.eyJrZXkiOiJ1c2VyLWtleSJ9.";
    for (token, message) in [
        (token("other", r#"{"key": "user-key"}"#), "failed to verify jwt"),
        (token("my-secret-key", r#"{"key": "user-key", "exp": 1000}"#), "failed to verify jwt"),
        (token("my-secret-key", r#"{"key": "nobody"}"#), "Invalid user key in JWT token"),
        (token("my-secret-key", r#"{"sub": "user-key"}"#), "missing user key in JWT token"),
        (none.to_owned(), "JWT token invalid"),
        ("rubbish".to_owned(), "JWT token invalid"),
    ] {
        let reply = get(&sluice, "/a", &[&format!("Authorization: Bearer {token}")]);
        assert_eq!(said(&reply), (401, message.to_owned()), "{token}");
    }
    assert_eq!(said(&get(&sluice, "/a", &[])), (401, "Missing JWT token in request".into()));
}

#[test]
fn a_consumers_plugins_replace_the_routes_and_its_groups_go_below() {
    let origin = HttpEcho::start("origin");
    let limit =
        |count: u32| json!({"count": count, "time_window": 60, "rejected_code": 503, "key": "consumer_name"});
    let sluice = guarded(
        &origin,
        json!({"key-auth": {}, "limit-count": limit(1), "ip-restriction": {"whitelist": ["127.0.0.1"]}}),
    );
    let group = json!({"plugins": {"limit-count": limit(3), "response-rewrite": {"headers": {"set": {"X-Group": "gold"}}}}});
    expect(&sluice, "PUT", "consumer_groups/gold", &group.to_string(), 201);
    let consumer = |name: &str, more: Value| {
        let mut body = json!({"username": name, "plugins": {"key-auth": {"key": format!("key-{name}")}}});
        if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        body.to_string()
    };
    expect(&sluice, "PUT", "consumers", &consumer("plain", json!({})), 201);
    expect(&sluice, "PUT", "consumers", &consumer("member", json!({"group_id": "gold"})), 201);
    let statuses = |name: &str| {
        let field = format!("apikey: key-{name}");
        (0..4).map(|_| get(&sluice, "/a", &[&field]).status).collect::<Vec<_>>()
    };
    assert_eq!(statuses("plain"), [200, 503, 503, 503], "the route's own");
    assert_eq!(statuses("member"), [200, 200, 200, 503], "the group's in its place");
    let reply = get(&sluice, "/a", &["apikey: key-member"]);
    assert_eq!(reply.header("x-group"), Some("gold"));
    let refused = expect(&sluice, "DELETE", "consumer_groups/gold", "", 400);
    assert_eq!(
        refused["error_msg"],
        "can not delete this consumer group, consumer [member] is still using it now"
    );
    let refused = expect(&sluice, "PUT", "consumers", &consumer("other", json!({"group_id": "none"})), 400);
    assert!(
        refused["error_msg"].as_str().unwrap().contains("consumer_groups/none does not exist"),
        "{refused}"
    );
}

#[test]
fn credentials_belong_to_a_consumer() {
    let origin = HttpEcho::start("origin");
    let sluice = guarded(&origin, json!({"key-auth": {}}));
    let body = |key: &str| json!({"plugins": {"key-auth": {"key": key}}}).to_string();
    expect(&sluice, "PUT", "consumers/jack/credentials/one", &body("k-one"), 400);
    expect(&sluice, "PUT", "consumers", r#"{"username": "jack"}"#, 201);
    let made = expect(&sluice, "PUT", "consumers/jack/credentials/one", &body("k-one"), 201);
    assert_eq!(
        (&made["key"], &made["value"]["id"]),
        (&json!("/apisix/consumers/jack/credentials/one"), &json!("one"))
    );
    expect(&sluice, "PUT", "consumers/jack/credentials/two", &body("k-two"), 201);
    assert_eq!(expect(&sluice, "GET", "consumers/jack/credentials", "", 200)["total"], 2);
    assert_eq!(expect(&sluice, "GET", "consumers", "", 200)["total"], 1);
    let seen = get(&sluice, "/a", &["apikey: k-two"]).seen();
    assert_eq!(seen.header("x-consumer-username"), Some("jack"));
    assert_eq!(seen.header("x-credential-identifier"), Some("two"));
    expect(&sluice, "PUT", "consumers", r#"{"username": "rose"}"#, 201);
    let refused = expect(&sluice, "PUT", "consumers/rose/credentials/one", &body("k-one"), 400);
    assert!(
        refused["error_msg"].as_str().unwrap().contains("duplicate key found with consumer: jack"),
        "{refused}"
    );
    let other = r#"{"plugins": {"limit-count": {"count": 1, "time_window": 1}}}"#;
    let refused = expect(&sluice, "PUT", "consumers/jack/credentials/bad", other, 400);
    assert!(refused["error_msg"].as_str().unwrap().contains("only supports auth type plugins"), "{refused}");
    expect(&sluice, "DELETE", "consumers/jack/credentials/two", "", 200);
    assert_eq!(get(&sluice, "/a", &["apikey: k-two"]).status, 401);
    assert_eq!(get(&sluice, "/a", &["apikey: k-one"]).status, 200);
}

#[test]
fn a_secret_by_reference_is_read_and_one_that_is_not_there_is_an_error() {
    let origin = HttpEcho::start("origin");
    let sluice = guarded(&origin, json!({"key-auth": {}}));
    let by = |key: &str| json!({"username": "jack", "plugins": {"key-auth": {"key": key}}}).to_string();
    expect(&sluice, "PUT", "consumers", &by("$env://TEST_JACK_KEY"), 201);
    assert_eq!(get(&sluice, "/a", &["apikey: key-of-jack-in-the-environment"]).status, 200);
    assert_eq!(get(&sluice, "/a", &["apikey: $env://TEST_JACK_KEY"]).status, 401);
    let folder = sluice.folder().join("secrets");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("jack"), "key-of-jack-in-a-file\n").unwrap();
    expect(&sluice, "PUT", "secrets/file/run", &json!({"dir": folder}).to_string(), 201);
    assert_eq!(expect(&sluice, "GET", "secrets/file/run", "", 200)["key"], "/apisix/secrets/file/run");
    expect(&sluice, "PUT", "consumers", &by("$secret://file/run/jack"), 200);
    assert_eq!(get(&sluice, "/a", &["apikey: key-of-jack-in-a-file"]).status, 200);
    let refused = expect(&sluice, "PUT", "consumers", &by("$env://TEST_NOT_SET"), 400);
    assert!(refused["error_msg"].as_str().unwrap().contains("TEST_NOT_SET"), "{refused}");
    // In the form the Admin API wrote, so that the one file takes the other's place.
    sluice.apply("consumers", "jack", "username: jack\nplugins: {key-auth: {key: '$env://TEST_NOT_SET'}}\n");
    assert_eq!(get(&sluice, "/a", &["apikey: $env://TEST_NOT_SET"]).status, 401, "never a literal");
    assert_eq!(get(&sluice, "/a", &["apikey: key-of-jack-in-a-file"]).status, 200, "the last good one stays");
    assert!(sluice.quarantined("consumers", "jack").is_some());
    let vault = call(&sluice, "PUT", "secrets/vault/1", r#"{"dir": "/run"}"#);
    assert_eq!(vault.status, 400, "{}", vault.text());
    let told = sluice.observe().log() + &sluice.status().to_string();
    for secret in ["key-of-jack", ADMIN_KEY] {
        assert!(!told.contains(secret), "{secret} is in the log or the status");
    }
}
