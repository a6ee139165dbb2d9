use std::collections::BTreeSet;

use serde_json::{Value, json};
use sluice_sdk::testing::{Host, Tester};

use super::*;

fn plugin(config: Value) -> WebIm {
    Tester::<WebIm>::new(&config.to_string()).expect("a good configuration").plugin
}

fn get(path: &str) -> Response {
    plugin(json!({})).handle(Request::new("GET", path))
}

fn field<'a>(response: &'a Response, name: &str) -> &'a str {
    let found = response.headers.iter().find(|field| field.name == name);
    found.and_then(|field| std::str::from_utf8(&field.value).ok()).unwrap_or_default()
}

#[test]
fn the_page_is_served_wherever_the_route_puts_it() {
    let _host = Host::install();
    for path in ["/", "/chat/", "/a/b/"] {
        let response = get(path);
        assert_eq!((response.status, field(&response, "content-type")), (200, "text/html; charset=utf-8"));
        assert!(field(&response, "content-security-policy").contains("default-src 'none'"));
    }
    let response = get("/chat");
    assert_eq!((response.status, field(&response, "location")), (308, "./chat/"));
    assert_eq!(get("/chat/other.js").status, 404);
}

#[test]
fn a_file_the_browser_has_is_not_sent_again() {
    let _host = Host::install();
    let first = get("/chat/app.js");
    let tag = field(&first, "etag").to_owned();
    assert_eq!((first.status, field(&first, "cache-control")), (200, "no-cache"));
    for known in [tag.clone(), format!("\"x\", W/{tag}"), "*".to_owned()] {
        let request = Request::new("GET", "/chat/app.js").header("if-none-match", &known);
        let again = plugin(json!({})).handle(request);
        assert_eq!((again.status, again.body.len(), field(&again, "etag")), (304, 0, &*tag), "{known}");
    }
    let request = Request::new("GET", "/chat/style.css").header("if-none-match", &tag);
    assert_eq!(plugin(json!({})).handle(request).status, 200);
}

/// Names in quotes behind `marker`.
fn named(text: &str, marker: &str) -> BTreeSet<String> {
    text.split(marker)
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(|name| name.trim_start_matches("./").to_owned())
        .collect()
}

#[test]
fn all_files_the_page_names_are_there_and_no_other() {
    let mut wanted = BTreeSet::from([String::new()]);
    for asset in assets::ASSETS {
        let text = std::str::from_utf8(asset.bytes).expect("text");
        for marker in ["href=\"./", "src=\"./", "from \"./"] {
            wanted.extend(named(text, marker));
        }
    }
    let there: BTreeSet<String> = assets::ASSETS.iter().map(|asset| asset.name.to_owned()).collect();
    assert_eq!(wanted, there);
}

#[test]
fn the_page_holds_to_its_own_policy() {
    for asset in assets::ASSETS {
        let text = std::str::from_utf8(asset.bytes).expect("text");
        // What would make markup of a message's text, or code of it.
        for forbidden in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "onclick="]
        {
            assert!(!text.contains(forbidden), "{}: {forbidden}", asset.name);
        }
        assert!(!text.contains("style=\""), "{}: the policy forbids inline styles", asset.name);
    }
}

#[test]
fn the_configuration_is_told_and_checked() {
    let _host = Host::install();
    let mut own = plugin(json!({"api": "/api/im", "heartbeat": 5}));
    let response = own.handle(Request::new("GET", "/chat/config.json"));
    let told: Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!(
        (&told["api"], &told["heartbeat"], &told["login"]),
        (&json!("/api/im"), &json!(5), &json!("/login"))
    );
    assert_eq!(own.handle(Request::new("POST", "/chat/")).status, 405);
    let error = |config: Value| {
        Tester::<WebIm>::new(&config.to_string()).err().expect("a bad configuration").to_string()
    };
    assert_eq!(
        error(json!({"api": "//evil.example"})),
        "api: \"//evil.example\": not a path such as \"/im\""
    );
    assert_eq!(error(json!({"login": ""})), "login: \"\": not a path such as \"/im\"");
    assert_eq!(error(json!({"poll_wait": 0})), "poll_wait: 0: 1 to 3600 seconds");
}

#[test]
fn the_page_may_talk_to_the_access_points_that_are_named_and_to_no_other() {
    let _host = Host::install();
    let policy = |config: Value| {
        let response = plugin(config).handle(Request::new("GET", "/chat/"));
        field(&response, "content-security-policy").to_owned()
    };
    assert!(policy(json!({})).ends_with("; connect-src 'self'"));
    let hosts = json!({"access_hosts": ["b.example.com:8443", "*.example.net"]});
    let expected = "; connect-src 'self' https://b.example.com:8443 wss://b.example.com:8443 \
                    http://b.example.com:8443 ws://b.example.com:8443 https://*.example.net \
                    wss://*.example.net http://*.example.net ws://*.example.net";
    assert!(policy(hosts.clone()).ends_with(expected));
    let response = plugin(hosts.clone()).handle(Request::new("GET", "/chat/config.json"));
    let told: Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!(told["access_hosts"], hosts["access_hosts"]);
    for host in ["", "*", "a b", "a;script-src *", "https://a", "a:0", "a:port", "a/b", "*.a.*"] {
        let error = Tester::<WebIm>::new(&json!({"access_hosts": [host]}).to_string()).err();
        let error = error.expect(host).to_string();
        assert!(error.starts_with("access_hosts[0]: "), "{error}");
    }
}
