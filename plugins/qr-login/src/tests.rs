use serde_json::Value;
use sluice_sdk::testing::{Host, Tester};

use super::*;

const KEY: &str = "a key of the service, 32 bytes or more";

fn host() -> Host {
    let host = Host::install();
    host.grant_key_value("qr-login");
    host
}

fn plugin() -> QrLogin {
    let config = json!({
        "url": "https://im.example/qr#",
        "confirm_key": KEY,
        "session_key": "another key, of 32 bytes or more too",
    });
    Tester::<QrLogin>::new(&config.to_string()).expect("a good configuration").plugin
}

/// A login that has begun: its token and the browser's cookie.
fn begin(plugin: &mut QrLogin) -> (String, String) {
    let response = plugin.handle(Request::new("POST", "/login/start"));
    assert_eq!(response.status, 200);
    let body: Value = serde_json::from_slice(&response.body).expect("JSON");
    assert!(body["picture"].as_str().is_some_and(|picture| picture.contains("<svg")));
    let token = body["token"].as_str().expect("a token").to_owned();
    assert_eq!(body["url"], format!("https://im.example/qr#{token}"));
    let cookie = response.headers.iter().find(|field| field.name == "set-cookie").expect("a cookie");
    let cookie = String::from_utf8(cookie.value.clone()).expect("text");
    assert!(cookie.contains("; Secure; HttpOnly; SameSite=Strict"), "{cookie}");
    (token, cookie.split(';').next().unwrap_or_default().to_owned())
}

fn poll(plugin: &mut QrLogin, token: &str, cookie: &str) -> (u16, Value) {
    let response =
        plugin.handle(Request::new("GET", &format!("/login/poll?token={token}")).header("cookie", cookie));
    (response.status, serde_json::from_slice(&response.body).unwrap_or_default())
}

fn confirm(plugin: &mut QrLogin, token: &str, key: &str) -> u16 {
    let body = json!({"token": token, "user": "7"}).to_string();
    let request = Request::new("POST", "/login/confirm").header("authorization", format!("Bearer {key}"));
    plugin.handle(request.with_body(body)).status
}

#[test]
fn a_confirmed_browser_gets_its_session_once() {
    let _host = host();
    let mut plugin = plugin();
    let (token, cookie) = begin(&mut plugin);
    assert_eq!(poll(&mut plugin, &token, &cookie).0, 202);
    assert_eq!(confirm(&mut plugin, &token, KEY), 204);
    let (status, body) = poll(&mut plugin, &token, &cookie);
    assert_eq!((status, &body["user"]), (200, &json!("7")));
    let session = body["session"].as_str().expect("a session");
    assert!(session.starts_with(&format!("{}.", URL_SAFE_NO_PAD.encode("7"))), "{session}");
    assert_eq!(poll(&mut plugin, &token, &cookie).0, 410, "the session is given once");
}

#[test]
fn a_token_is_useless_without_the_browser_that_asked() {
    let _host = host();
    let mut plugin = plugin();
    let (token, cookie) = begin(&mut plugin);
    let (_, other) = begin(&mut plugin);
    assert_eq!(confirm(&mut plugin, &token, KEY), 204);
    assert_eq!(poll(&mut plugin, &token, &other).0, 410);
    assert_eq!(poll(&mut plugin, &token, &format!("{COOKIE}=")).0, 410);
    assert_eq!(poll(&mut plugin, &token, "a=b").0, 400);
    assert_eq!(poll(&mut plugin, &token, &cookie).0, 200, "a stranger's polls take nothing away");
}

#[test]
fn a_token_is_confirmed_once_and_by_the_service_alone() {
    let _host = host();
    let mut plugin = plugin();
    let (token, _) = begin(&mut plugin);
    assert_eq!(confirm(&mut plugin, &token, ""), 401);
    assert_eq!(confirm(&mut plugin, &token, "a key of the service, 32 bytes or mora"), 401);
    assert_eq!(confirm(&mut plugin, "unknown", KEY), 410);
    assert_eq!(confirm(&mut plugin, &token, KEY), 204);
    assert_eq!(confirm(&mut plugin, &token, KEY), 409);
}

#[test]
fn a_token_expires() {
    let host = host();
    let mut plugin = plugin();
    let (token, cookie) = begin(&mut plugin);
    host.advance(Duration::from_secs(121));
    assert_eq!(confirm(&mut plugin, &token, KEY), 410);
    assert_eq!(poll(&mut plugin, &token, &cookie).0, 410);
}

#[test]
fn without_the_grant_it_says_so_and_gives_nothing() {
    let host = Host::install();
    assert_eq!(plugin().handle(Request::new("POST", "/start")).status, 503);
    assert!(host.lines()[0].1.contains("not granted"));
}

#[test]
fn short_keys_are_refused_without_being_shown() {
    let config = json!({"url": "u", "confirm_key": "secret", "session_key": KEY});
    let error = Tester::<QrLogin>::new(&config.to_string()).err().expect("a bad configuration").to_string();
    assert_eq!(error, "confirm_key: 6 bytes: at least 32 bytes");
}
