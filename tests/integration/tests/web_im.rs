//! The chat page in a real browser, against the gateway, the IM service and phones.
//!
//! `browser/chat.mjs` holds the scenarios; what they ask for is done here.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sluice_harness::{Authority, Background, ImServer, Port, Sluice, program, tool};
use sluice_services::im::QrOptions;
use sluice_services::im_client::ImClient;
use sluice_tests::im::{PROTO, component, with_transcode};
use sluice_tests::lines::{im_route, two_lines, wait_active};

const CONFIRM_KEY: &str = "what the service shows, 32 bytes or more";
const SESSION_KEY: &str = "what sessions are signed with, 32 bytes or more";
/// The version `cargo xtask setup` brings.
const PLAYWRIGHT: &str = "target/node/playwright-core/node_modules/playwright-core/index.mjs";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// How many gateways lead to the service.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AccessPoints {
    One,
    /// The second has no page.
    Two,
}

/// The gateway with everything the page needs, and the service behind it.
struct Town {
    sluice: Sluice,
    /// Another access point, where there is one.
    other: Option<Sluice>,
    server: ImServer,
    phones: Background,
    // The listener's number, known before there is a gateway.
    _internal: Port,
}

impl Town {
    fn start() -> Town {
        Self::with(AccessPoints::One)
    }

    fn with(gateways: AccessPoints) -> Town {
        let internal = Port::free();
        let qr = QrOptions {
            address: internal.loopback(),
            path: "/chat/login/confirm".to_owned(),
            confirm_key: CONFIRM_KEY.to_owned(),
            session_key: SESSION_KEY.to_owned(),
        };
        let any = "127.0.0.1:0".parse().expect("an address");
        let server = ImServer::builder().line("leased", any).line("public", any).qr(qr).start();
        let (leased, public) = (server.line("leased").node(), server.line("public").node());
        let authority = Authority::new("Sluice test root");
        let gateway = || {
            let builder = Sluice::builder()
                .boot("log", json!({"level": "info"}))
                .listener("edge", json!({"tls": true}))
                .put("ssls", "localhost", authority.leaf(&["localhost"]).ssl(&["localhost"]))
                .put("upstreams", "im", two_lines("tlv", &leased, &public, "tlv"))
                .put("protos", "im", json!({"content": PROTO}))
                .put("routes", "im", im_over_http());
            with_transcode(builder)
        };
        let other = (gateways == AccessPoints::Two).then(|| {
            let other = gateway().start();
            wait_active(&other, "im", "leased");
            other
        });
        let points: Vec<String> = other.iter().map(point_of).collect();
        let mut builder = gateway()
            .listener("im", json!({"protocol": "tlv"}))
            .put("listeners", "internal", json!({"bind": internal.loopback()}))
            .put("stream_routes", "im", im_route(json!({})));
        let login = json!({
            "url": "sluice-im://login#", "confirm_key": CONFIRM_KEY, "session_key": SESSION_KEY,
        });
        let mut listed = vec![json!({"address": leased, "upstream": "im"})];
        listed.extend(points.iter().map(|point| json!({"address": point})));
        let points_config = json!({"default": {"name": "here", "points": listed}});
        let page = json!({
            "api": "/im", "login": "/chat/login", "access_points": "/chat/access-points", "title": "Sluice Chat",
            "hint": "In the terminal client: /confirm {code}",
            "heartbeat": 2, "poll_wait": 5, "upgrade_after": 1, "access_hosts": points,
        });
        let modules = [
            ("qr-login", "/chat/login/*", json!({"config": login, "grants": {"kv": ["qr-login"]}})),
            (
                "access-points",
                "/chat/access-points",
                json!({"config": points_config, "grants": {"kv": ["access-points"], "fetch": ["points.example"]}}),
            ),
            ("web-im", "/chat/*", json!({"config": page, "instance": "reuse"})),
        ];
        for (name, uri, object) in modules {
            builder = builder
                .bytes(&format!("modules/{name}.wasm"), &component(name))
                .put("modules", name, object)
                .put("routes", name, json!({"uri": uri, "plugins": {name: {}}}));
        }
        let sluice = builder.start();
        wait_active(&sluice, "im", "leased");
        Town { sluice, other, server, phones: Background::start(None), _internal: internal }
    }

    /// Refuses WebSocket handshakes that fit, ahead of the route they would take.
    fn block_websocket(&self, vars: Value) {
        let route = json!({
            "uri": "/im", "priority": 10, "vars": vars,
            "plugins": {"fault-injection": {"abort": {"http_status": 403}}},
        });
        for sluice in [Some(&self.sluice), self.other.as_ref()].into_iter().flatten() {
            sluice.apply("routes", "no-websocket", route.clone());
        }
    }

    /// Runs a scenario and does what it asks for.
    fn play(&mut self, scenario: &str) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser");
        let playwright = root().join(PLAYWRIGHT);
        assert!(playwright.is_file(), "{}: not there; run `cargo xtask setup`", playwright.display());
        let mut node = tool("node");
        node.arg(folder.join("chat.mjs")).arg(scenario).stdin(Stdio::piped()).stdout(Stdio::piped());
        node.env("PLAYWRIGHT_CORE", playwright).env("CHROMIUM", tool("chromium").get_program());
        let port = self.sluice.address("edge").port();
        node.env("PAGE_URL", format!("https://localhost:{port}/chat/"));
        let mut node = node.spawn().expect("node runs");
        let mut answers = node.stdin.take().expect("the script's input is ours");
        let questions = BufReader::new(node.stdout.take().expect("the script's output is ours"));
        let mut phone = None;
        for line in questions.lines() {
            let line = line.expect("the script writes text");
            let question: Value =
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let answer = self.answer(&question, &mut phone);
            writeln!(answers, "{answer}").expect("the script reads");
        }
        let status = node.wait().expect("the script can be waited for");
        assert!(status.success(), "scenario {scenario}: {status}");
    }

    fn answer(&mut self, question: &Value, phone: &mut Option<ImClient>) -> Value {
        let number = |name: &str| question[name].as_u64().and_then(|number| u32::try_from(number).ok());
        let text = |name: &str| question[name].as_str().unwrap_or_default().to_owned();
        match question["ask"].as_str() {
            Some("confirm") => self.confirm(number("user").expect("a user"), &text("code")),
            Some("cut") => self.server.line(&text("line")).cut(),
            Some("unblock") => self.sluice.apply_removal("routes", "no-websocket"),
            Some("kill") => {
                self.sluice.process().kill();
            }
            Some("point") => return json!({"point": point_of(self.other.as_ref().expect("another one"))}),
            Some("restart") => {
                self.sluice.process().kill();
                self.sluice.restart();
            }
            Some("phone") => {
                let (address, user) = (self.sluice.address("im"), number("user").expect("a user"));
                let logged_in =
                    self.phones.run(async move { ImClient::login_at(address, user, "phone").await });
                *phone = Some(logged_in.expect("the phone logs in").0);
            }
            Some("phone receives") => {
                let phone = phone.as_ref().expect("a phone");
                let message = block_on(phone.push()).expect("a message");
                return json!({"from": message.from, "text": message.text});
            }
            Some("phone sends") => {
                let phone = phone.as_ref().expect("a phone");
                block_on(phone.send(number("to").expect("a receiver"), &text("text"))).expect("it is taken");
            }
            other => panic!("the script asks for {other:?}"),
        }
        json!({})
    }

    /// The terminal client of this user, as the phone that reads the picture.
    fn confirm(&self, user: u32, code: &str) {
        let mut chat = Command::new(program("chat"));
        chat.arg("--connect").arg(self.sluice.address("im").to_string()).args(["--device", "phone"]);
        chat.args(["--user", &user.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut chat = chat.spawn().expect("the terminal client runs");
        let mut input = chat.stdin.take().expect("its input is ours");
        writeln!(input, "/confirm sluice-im://login#{code}").expect("it reads");
        drop(input);
        let output = chat.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&format!("the browser is logged in as user {user}")), "{text}");
    }
}

/// A gateway as the list of access points names it.
fn point_of(sluice: &Sluice) -> String {
    format!("localhost:{}", sluice.address("edge").port())
}

/// Waits for what a phone's own threads bring about.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let limited = async { tokio::time::timeout(sluice_harness::DEADLINE, future).await };
    runtime.expect("a runtime can be built").block_on(limited).expect("in time")
}

/// The service over WebSocket and polls, in JSON.
fn im_over_http() -> Value {
    let command = |cmd: u32, request: &str, reply: &str| json!({"cmd": cmd, "reply": cmd + 1, "request": format!("im.v1.{request}"), "response": format!("im.v1.{reply}")});
    json!({
        "uri": "/im", "enable_websocket": true, "upstream_id": "im",
        "protocol": {
            "name": "tlv",
            "conf": {
                "replay": ["0x0101"], "login": ["0x0101"], "safe": ["0x0320", "0x0330"], "heartbeat": "0x0001",
            },
            // Pages of other access points come here as well.
            "websocket": {"origins": ["*"]},
        },
        "plugins": {"cors": {}, "transcode": {"proto_id": "im", "commands": [
            command(0x0001, "Heartbeat", "HeartbeatReply"),
            command(0x0101, "LoginRequest", "LoginReply"),
            command(0x0301, "SendRequest", "SendReply"),
            command(0x0311, "AckRequest", "AckReply"),
            command(0x0320, "HistoryRequest", "HistoryReply"),
            command(0x0330, "ConversationsRequest", "ConversationsReply"),
            {"cmd": 0x0310, "push": "im.v1.Message"},
        ]}},
    })
}

#[test]
fn two_browsers_and_a_phone_talk_by_websocket() {
    Town::start().play("websocket");
}

#[test]
fn with_websocket_blocked_they_talk_by_polls_and_come_back_when_it_is_not() {
    let mut town = Town::start();
    town.block_websocket(json!([["http_upgrade", "==", "websocket"]]));
    town.play("polls");
}

#[test]
fn a_line_that_breaks_in_mid_conversation_loses_and_doubles_nothing() {
    let mut town = Town::start();
    town.block_websocket(json!([["http_upgrade", "==", "websocket"], ["http_user_agent", "==", "Polls"]]));
    town.play("line");
}

#[test]
fn a_gateway_that_goes_away_in_mid_conversation_loses_and_doubles_nothing() {
    let mut town = Town::start();
    town.block_websocket(json!([["http_upgrade", "==", "websocket"], ["http_user_agent", "==", "Polls"]]));
    town.play("restart");
}

#[test]
fn a_page_whose_access_point_is_gone_goes_on_at_the_next_and_loses_and_doubles_nothing() {
    let mut town = Town::with(AccessPoints::Two);
    town.block_websocket(json!([["http_upgrade", "==", "websocket"], ["http_user_agent", "==", "Polls"]]));
    town.play("elsewhere");
}
