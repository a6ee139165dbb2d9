//! The edge functions we ship, in the host: `qr-login`, `access-points`, `web-im`.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sluice_harness::{Curl, ImServer, Reply, Sluice, SluiceBuilder, eventually};
use sluice_services::im::QrOptions;
use sluice_services::im_client::{ImClient, ImError};
use sluice_services::im_v1::{ErrorCode, LoginReply, LoginRequest};
use sluice_tests::lines::{Server, im_route, line_is, two_lines, wait_active};

const CONFIRM_KEY: &str = "what the service shows, 32 bytes or more";
const SESSION_KEY: &str = "what sessions are signed with, 32 bytes or more";

/// A gateway with a component of `plugins/` on `/NAME` and below.
fn gateway(name: &str, object: Value) -> SluiceBuilder {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../target/plugins/{name}.wasm"));
    let component = std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask plugins` builds it", path.display()));
    let route = json!({"uris": [format!("/{name}"), format!("/{name}/*")], "plugins": {name: {}}});
    Sluice::builder()
        // The compiler's own lines would be thousands.
        .boot("log", json!({"level": "info"}))
        .listener("edge", json!({"trusted": ["127.0.0.0/8"]}))
        .put("modules", name, object)
        .put("routes", name, route)
        .bytes(&format!("modules/{name}.wasm"), &component)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no text {name} in {value}"))
}

// ---- qr-login --------------------------------------------------------------

fn qr_login(token_ttl: u32) -> Sluice {
    let config = json!({
        "url": "https://im.example/qr#", "confirm_key": CONFIRM_KEY, "session_key": SESSION_KEY,
        "token_ttl": token_ttl,
    });
    gateway("qr-login", json!({"config": config, "grants": {"kv": ["qr-login"]}})).start()
}

/// A browser that has asked for a code.
struct Browser {
    base: String,
    token: String,
    cookie: String,
}

impl Browser {
    fn begin(sluice: &Sluice) -> Browser {
        let base = format!("{}/qr-login", sluice.url("edge"));
        let reply = Curl::post(format!("{base}/start"), "").run();
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        let cookie = reply.header("set-cookie").expect("a cookie");
        assert!(cookie.contains("; Secure; HttpOnly; SameSite=Strict"), "{cookie}");
        let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
        let token = text(&reply.json(), "token").to_owned();
        assert!(text(&reply.json(), "picture").contains("<svg"));
        Browser { base, token, cookie }
    }

    fn poll(&self, cookie: &str) -> Reply {
        let url = format!("{}/poll?token={}", self.base, self.token);
        Curl::get(url).header(&format!("Cookie: {cookie}")).run()
    }

    fn confirm(&self, key: &str) -> u16 {
        let body = json!({"token": self.token, "user": "7"}).to_string();
        let key = format!("Authorization: Bearer {key}");
        Curl::post(format!("{}/confirm", self.base), body).header(&key).run().status
    }
}

#[test]
fn a_browser_is_let_in_once_and_no_other_with_its_code() {
    let sluice = qr_login(60);
    let (browser, other) = (Browser::begin(&sluice), Browser::begin(&sluice));
    assert_eq!(browser.poll(&browser.cookie).status, 202);
    assert_eq!(browser.confirm("a guess"), 401);
    assert_eq!(browser.confirm(CONFIRM_KEY), 204);
    assert_eq!(browser.confirm(CONFIRM_KEY), 409, "a code is confirmed once");
    assert_eq!(browser.poll(&other.cookie).status, 410, "the code without its browser is nothing");
    assert_eq!(browser.poll("a=b").status, 400);
    let session = browser.poll(&browser.cookie);
    assert_eq!((session.status, text(&session.json(), "user")), (200, "7"));
    assert_eq!(browser.poll(&browser.cookie).status, 410, "the session is given once");
    assert_eq!(other.poll(&other.cookie).status, 202, "others wait on");
}

#[test]
fn of_many_polls_at_once_one_gets_the_session() {
    let sluice = qr_login(60);
    let browser = Browser::begin(&sluice);
    assert_eq!(browser.confirm(CONFIRM_KEY), 204);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let polls: Vec<_> = (0..8).map(|_| scope.spawn(|| browser.poll(&browser.cookie).status)).collect();
        polls.into_iter().map(|poll| poll.join().unwrap()).collect()
    });
    let count = |status| statuses.iter().filter(|own| **own == status).count();
    assert_eq!((count(200), count(410)), (1, 7), "{statuses:?}");
}

#[test]
fn a_code_expires() {
    let sluice = qr_login(1);
    let browser = Browser::begin(&sluice);
    eventually("the code expires", || (browser.poll(&browser.cookie).status == 410).then_some(()));
    assert_eq!(browser.confirm(CONFIRM_KEY), 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_confirms_over_its_own_channel_and_the_service_takes_the_session() {
    let sluice = qr_login(60);
    let qr = QrOptions {
        address: sluice.address("edge"),
        path: "/qr-login/confirm".to_owned(),
        confirm_key: CONFIRM_KEY.to_owned(),
        session_key: SESSION_KEY.to_owned(),
    };
    let any = "127.0.0.1:0".parse().unwrap();
    let server = ImServer::builder().line("leased", any).qr(qr).start();
    let browser = Browser::begin(&sluice);
    let (phone, _) = ImClient::login_at(server.line("leased").address(), 42, "phone").await.unwrap();
    phone.confirm_login(&browser.token).await.unwrap();
    let refused = |result: Result<(), ImError>| match result {
        Err(ImError::Refused(error)) => (error.code(), error.text),
        other => panic!("{other:?}"),
    };
    let (code, why) = refused(phone.confirm_login(&browser.token).await);
    assert_eq!((code, why.as_str()), (ErrorCode::Invalid, "token: this login was confirmed before"));
    let (code, why) = refused(phone.confirm_login("unknown").await);
    assert!(code == ErrorCode::Invalid && why.contains("no such login"), "{why}");

    let session = browser.poll(&browser.cookie).json();
    assert_eq!(text(&session, "user"), "42", "who confirmed is who is let in");
    let log_in = async |user: u32, token: &str| {
        let client = ImClient::connect(server.line("leased").address(), user).await.unwrap();
        let request = LoginRequest { user_id: user, token: token.to_owned(), ..LoginRequest::default() };
        client.call::<LoginReply>(0x0101, 0x0102, 0, &request).await
    };
    assert_eq!(log_in(42, text(&session, "session")).await.unwrap().user_id, 42);
    assert!(log_in(43, text(&session, "session")).await.is_err(), "another user's session");
}

// ---- access-points ---------------------------------------------------------

/// An HTTP service that gives the same answer until it is told another.
struct Provider {
    answer: Arc<Mutex<Option<String>>>,
    server: Server,
}

impl Provider {
    fn start(answer: &str) -> Provider {
        let answer = Arc::new(Mutex::new(Some(answer.to_owned())));
        let own = Arc::clone(&answer);
        let server = Server::start(move |mut connection| {
            let mut request = Vec::new();
            let mut piece = [0; 1024];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match connection.read(&mut piece) {
                    Ok(count @ 1..) => request.extend_from_slice(&piece[..count]),
                    _ => return,
                }
            }
            let (status, body) = match own.lock().unwrap().clone() {
                Some(body) => ("200 OK", body),
                None => ("503 Service Unavailable", String::new()),
            };
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            // The gateway may have given up waiting.
            let _ = connection.stream.write_all(format!("{head}{body}").as_bytes());
        });
        Provider { answer, server }
    }

    fn answers(&self, answer: Option<&str>) {
        *self.answer.lock().unwrap() = answer.map(str::to_owned);
    }
}

/// What a client at this address is told.
fn told(sluice: &Sluice, client: &str) -> Reply {
    let url = format!("{}/access-points", sluice.url("edge"));
    let reply = Curl::get(url).header(&format!("X-Forwarded-For: {client}")).run();
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply
}

fn points(reply: &Reply) -> Vec<String> {
    let points = reply.json()["points"].as_array().cloned().unwrap_or_default();
    points.iter().map(|point| point.as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn access_points_follow_the_client_and_the_health_of_their_lines() {
    let server = ImServer::start(&["leased", "public"]);
    let (leased, public) = (server.line("leased").node(), server.line("public").node());
    let config = json!({
        "regions": [
            {"name": "eu", "clients": ["192.0.2.0/24"],
             "points": [{"address": leased, "upstream": "im"}, {"address": public, "upstream": "im"}]},
            {"name": "lab", "clients": ["192.0.2.128/25", "2001:db8::/32"],
             "points": [{"address": "[2001:db8::1]:443"}]},
        ],
        "default": {"name": "world", "points": [{"address": "gate.example:443"}]},
        "ttl": 45,
    });
    let sluice = gateway(
        "access-points",
        json!({"config": config, "grants": {"kv": ["access-points"], "fetch": ["points.example"]}}),
    )
    .listener("im", json!({"protocol": "tlv"}))
    .put("upstreams", "im", two_lines("tlv", &leased, &public, "tlv"))
    .put("stream_routes", "im", im_route(json!({})))
    .start();
    wait_active(&sluice, "im", "leased");
    let reply = told(&sluice, "192.0.2.5");
    assert_eq!(reply.header("cache-control"), Some("private, max-age=45"));
    assert_eq!((&reply.json()["region"], &reply.json()["ttl"]), (&json!("eu"), &json!(45)));
    assert_eq!(points(&reply), [leased.clone(), public.clone()]);
    for (client, region) in [("192.0.2.200", "lab"), ("2001:db8::7", "lab"), ("198.51.100.1", "world")] {
        assert_eq!(told(&sluice, client).json()["region"], region, "{client}");
    }
    server.line("leased").cut();
    line_is(&sluice, "im", "leased", "unhealthy");
    assert_eq!(
        points(&told(&sluice, "192.0.2.5")),
        [public.clone(), leased.clone()],
        "the healthy one first"
    );
    server.line("leased").restore();
    line_is(&sluice, "im", "leased", "healthy");
    assert_eq!(points(&told(&sluice, "192.0.2.5")), [leased, public]);
}

#[test]
fn a_providers_answer_is_fetched_by_the_timer_and_holds_for_its_time() {
    let provider = Provider::start(r#"{"ttl": 20, "regions": {"world": ["203.0.113.9:443"]}}"#);
    let address = provider.server.node();
    let config = json!({
        "default": {"name": "world", "points": [{"address": "gate.example:443"}]},
        "provider": {"url": format!("http://{address}/list"), "interval": 1},
    });
    let grants = json!({"kv": ["access-points"], "fetch": [address]});
    let sluice = gateway("access-points", json!({"config": config, "grants": grants})).start();
    let first = |sluice: &Sluice| points(&told(sluice, "198.51.100.1"))[0].clone();
    eventually("the provider's answer", || (first(&sluice) == "203.0.113.9:443").then_some(()));
    let reply = told(&sluice, "198.51.100.1");
    assert_eq!(points(&reply), ["203.0.113.9:443", "gate.example:443"]);
    assert_eq!(reply.header("cache-control"), Some("private, max-age=20"), "its time is the shorter one");

    // What is wrong is not used; what was there before stays.
    provider.answers(Some(r#"{"ttl": 20, "regions": {"world": ["nowhere"]}}"#));
    let asked = provider.server.accepted();
    eventually("two more fetches", || (provider.server.accepted() > asked + 2).then_some(()));
    assert_eq!(first(&sluice), "203.0.113.9:443");
    let log = sluice.observe().log();
    assert!(log.contains("nowhere") && log.contains("not HOST:PORT"), "{log}");

    // Ten intervals without a good answer, and the configured list is told again.
    provider.answers(None);
    eventually("the answer is forgotten", || (first(&sluice) == "gate.example:443").then_some(()));
    assert_eq!(told(&sluice, "198.51.100.1").json()["ttl"], 60);
}

// ---- web-im ----------------------------------------------------------------

#[test]
fn the_chat_page_comes_with_its_policy_and_is_not_sent_twice() {
    let config = json!({"api": "/api/im", "login": "/qr", "title": "Team"});
    let sluice = gateway("web-im", json!({"config": config, "instance": "reuse"})).start();
    let get = |path: &str| Curl::get(format!("{}{path}", sluice.url("edge")));
    let page = get("/web-im/").run();
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap_or_default();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let script = get("/web-im/app.js").run();
    assert_eq!((script.status, script.header("cache-control")), (200, Some("no-cache")));
    let tag = script.header("etag").expect("a tag").to_owned();
    let again = get("/web-im/app.js").header(&format!("If-None-Match: {tag}")).run();
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert_eq!(get("/web-im/config.json").run().json()["api"], "/api/im");
    let moved = get("/web-im").run();
    assert_eq!((moved.status, moved.header("location")), (308, Some("./web-im/")));
    assert_eq!(get("/web-im/none.js").run().status, 404);
    let head = get("/web-im/").method("HEAD").run();
    assert_eq!((head.status, &head.measured["size_download"]), (200, &json!(0)), "{}", head.error);
    assert_eq!((head.exit, head.header("content-type")), (0, page.header("content-type")));
}
