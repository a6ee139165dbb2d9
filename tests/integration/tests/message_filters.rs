//! Filters on messages: alike for frames, requests, WebSocket and polling.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sluice_harness::guest::{Guest, phases};
use sluice_harness::service::frame::{Frame, command};
use sluice_harness::service::im_v1;
use sluice_harness::{Sluice, eventually};
use sluice_tests::im::{Http, JsonSocket, Session, with_transcode};
use sluice_tests::lines::{Server, closes_for, frame, frames_of, merge, read_frame};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

const PROTO: &str = "syntax = \"proto3\"; package t;
message Say { string text = 1; uint32 number = 2; }
message Said { }
message Error { uint32 code = 1; string text = 2; uint32 retry_after_ms = 3; uint32 command = 4; }";

/// The command of a message.
const SAY: u16 = 0x0301;

/// A gateway in front of a service that answers everything: the route `im` for
/// JSON and WebSocket, the stream route `im` for frames, both with `plugins`.
fn gateway(service: &Server, plugins: &Value, conf: Value) -> Sluice {
    gateway_with(service, plugins, conf, None)
}

fn gateway_with(service: &Server, plugins: &Value, conf: Value, guest: Option<&Guest>) -> Sluice {
    let transcode = json!({"proto_id": "t", "commands": [
        {"cmd": "0x0301", "reply": "0x0302", "uri": "/im/say", "request": "t.Say", "response": "t.Said"},
        {"cmd": "0x0401", "reply": "0x0402", "uri": "/im/whisper", "request": "t.Say", "response": "t.Said"},
        {"cmd": "0x00FF", "error": "t.Error", "message_field": "text", "code_field": "code"},
    ]});
    let mut own = plugins.clone();
    merge(&mut own, json!({"transcode": transcode.clone()}));
    let route = json!({
        "uris": ["/im", "/im/*"], "enable_websocket": true, "upstream_id": "im", "plugins": own,
        "protocol": {
            "name": "tlv", "conf": conf.clone(), "user": "$http_x_user_id", "user_from": ["127.0.0.1"],
        },
    });
    let mut framed = plugins.clone();
    if conf.get("inspect").is_some() {
        merge(&mut framed, json!({"transcode": transcode}));
    }
    let stream = json!({
        "listener": "im", "upstream_id": "im", "protocol": {"name": "tlv", "conf": conf}, "plugins": framed,
    });
    let mut builder = with_transcode(Sluice::builder())
        .threads(1)
        .listener("edge", json!({}))
        .listener("im", json!({"protocol": "tlv"}))
        .put("protos", "t", json!({"content": PROTO}))
        .put("upstreams", "im", json!({"scheme": "tlv", "nodes": {service.node(): 1}}))
        .put("routes", "im", route)
        .put("stream_routes", "im", stream);
    if let Some(guest) = guest {
        builder = builder.bytes("modules/guest.wasm", &guest.build()).put(
            "modules",
            "guest",
            json!({"limits": {"deadline": "1s"}}),
        );
    }
    builder.start()
}

fn say(id: u64, text: &str) -> Value {
    json!({"cmd": SAY, "id": id, "body": {"text": text}})
}

fn body(text: &str) -> Vec<u8> {
    [&[0x0A, text.len() as u8], text.as_bytes()].concat()
}

/// The texts that came to the service in messages, in order.
fn texts(service: &Server) -> Vec<String> {
    let messages = service.frames().into_iter().filter(|frame| frame.command == SAY);
    messages
        .map(|frame| String::from_utf8_lossy(frame.body.get(2..).unwrap_or_default()).into_owned())
        .collect()
}

fn error_of(frame: &Frame) -> im_v1::Error {
    assert_eq!(frame.command, command::ERROR, "{frame:?}");
    frame.message().expect("an error frame")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_judges_messages_whichever_way_they_come() {
    let service = Server::frame_sink();
    let guest = Guest::new("one").phases(phases::FRAMES).frames_at(2);
    let sluice = gateway_with(&service, &json!({"guest": {}}), json!({}), Some(&guest));
    let edge = sluice.address("edge");
    let (kept, dropped, swapped) = ("good one", "drop this", "swap this");

    let mut raw = sluice.connect("im");
    for (sequence, text) in [(1, kept), (2, dropped), (3, swapped)] {
        raw.send(frame(SAY, sequence, 7, &body(text)));
    }
    assert_eq!([read_frame(&mut raw).sequence, read_frame(&mut raw).sequence], [1, 3]);

    let mut web = JsonSocket::connect(edge, "/im?user=7").await;
    web.send(&say(2, dropped)).await;
    assert_eq!(web.call(&say(1, kept)).await["cmd"], 0x0302);
    assert_eq!(web.call(&say(3, swapped)).await["cmd"], 0x0302);

    let mut http = Http::as_user(edge, 7).await;
    let session = Session::open(&mut http, 7, &say(1, kept)).await;
    http.post(&session.target(""), &say(2, dropped)).await;
    http.post(&session.target(""), &say(3, swapped)).await;
    let mut cursor = 0;
    let mut ids = Vec::new();
    while ids.len() < 2 {
        let batch = http.get(&session.target(&format!("&cursor={cursor}&wait=10s"))).await.json();
        cursor = batch["cursor"].as_u64().unwrap();
        ids.extend(
            batch["messages"].as_array().unwrap().iter().map(|message| message["message"]["id"].clone()),
        );
    }
    assert_eq!(ids, [1, 3]);

    for (text, status) in
        [(kept, 200), (dropped, 403), (swapped, 200), ("shut this", 403), ("trap this", 503)]
    {
        let answer = http.post("/im/say", &json!({"text": text})).await;
        assert_eq!(answer.status, status, "{text}: {}", answer.json());
    }
    let line = sluice.logged("the refusal", |line| line["status"] == 403 && line["reason"] == "module_drop");
    assert_eq!(line["verdicts"][0]["plugin"], "guest", "{line}");
    assert_eq!(line["verdicts"][0]["rules"], json!(["evil"]), "{line}");
    // What is rewritten is a body of seven bytes without a length of its own.
    let expected: Vec<String> = (0..4).flat_map(|_| [kept, "anged"]).map(str::to_owned).collect();
    assert_eq!(texts(&service), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_told_when_to_come_again() {
    let service = Server::frame_sink();
    // Two in ten seconds.
    let limit = json!({"limit-req": {
        "rate": 0.1, "burst": 1, "nodelay": true, "key": "frame_from", "rejected": "error_frame",
    }});
    let sluice = gateway(&service, &limit, json!({}));
    let edge = sluice.address("edge");

    let mut raw = sluice.connect("im");
    for sequence in 1..=3 {
        raw.send(frame(SAY, sequence, 1, &body("x")));
    }
    let answers: Vec<Frame> = (0..3).map(|_| read_frame(&mut raw)).collect();
    let refused = answers.iter().find(|frame| frame.command == command::ERROR).expect("one is too many");
    let error = error_of(refused);
    assert_eq!((refused.sequence, error.code, error.text.as_str()), (3, 7, "rate_limited"));
    assert!((1..=10_000).contains(&error.retry_after_ms), "{error:?}");

    // JSON says the same. Another user has a limit of its own.
    let mut web = JsonSocket::connect(edge, "/im?user=2").await;
    for id in 1..=2 {
        assert_eq!(web.call(&say(id, "x")).await["cmd"], 0x0302);
    }
    let told = web.call(&say(3, "x")).await;
    assert_eq!(
        (&told["cmd"], &told["body"]["text"], &told["body"]["command"]),
        (&json!(0xFF), &json!("rate_limited"), &json!(SAY))
    );
    assert!(told["body"]["retryAfterMs"].as_u64().is_some_and(|wait| (1..=10_000).contains(&wait)), "{told}");

    let mut http = Http::as_user(edge, 3).await;
    let session = Session::open(&mut http, 3, &say(1, "x")).await;
    for id in 2..=3 {
        assert_eq!(http.post(&session.target(""), &say(id, "x")).await.status, 202);
    }
    let mut told = Vec::new();
    let mut cursor = 0;
    while told.len() < 3 {
        let batch = http.get(&session.target(&format!("&cursor={cursor}&wait=10s"))).await.json();
        cursor = batch["cursor"].as_u64().unwrap();
        told.extend(batch["messages"].as_array().unwrap().iter().map(|message| message["message"].clone()));
    }
    let refused = told.iter().find(|message| message["cmd"] == 0xFF).expect("one is too many");
    assert_eq!((&refused["id"], &refused["body"]["text"]), (&json!(3), &json!("rate_limited")));
    assert!(refused["body"]["retryAfterMs"].is_u64(), "{refused}");

    let mut http = Http::as_user(edge, 4).await;
    for status in [200, 200, 429] {
        let answer = http.post("/im/say", &json!({"text": "x"})).await;
        assert_eq!(answer.status, status, "{}", answer.json());
        if status == 429 {
            let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=10).contains(&wait), "{}", answer.head);
            assert_eq!(answer.json()["error_msg"], "limit reached");
        }
    }
    assert_eq!(texts(&service).len(), 8);
    let line = sluice.logged("the refused request", |line| line["status"] == 429);
    assert_eq!(
        (&line["reason"], &line["verdicts"][0]["plugin"]),
        (&json!("rate_limited"), &json!("limit-req"))
    );
    sluice.logged("a refused message", |line| line["kind"] == "blocked" && line["protocol"] == "websocket");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_count_by_command_and_by_address_over_all_users() {
    let service = Server::frame_sink();
    let plugins = json!({
        "limit-count": {"count": 2, "time_window": 600, "key": "frame_cmd", "rejected": "error_frame"},
        "limit-req": {"rate": 0.01, "burst": 2, "nodelay": true, "key": "remote_addr", "rejected": "error_frame"},
    });
    let sluice = gateway(&service, &plugins, json!({}));
    let edge = sluice.address("edge");
    let mut web = JsonSocket::connect(edge, "/im?user=1").await;
    let whisper = |id: u64| json!({"cmd": 0x0401, "id": id, "body": {"text": "x"}});
    assert_eq!(web.call(&say(1, "x")).await["cmd"], 0x0302);
    let mut http = Http::as_user(edge, 2).await;
    assert_eq!(http.post("/im/say", &json!({"text": "x"})).await.status, 200);
    // The third of this command, whoever sends it and however.
    let answer = http.post("/im/say", &json!({"text": "x"})).await;
    assert_eq!((answer.status, answer.header("retry-after").is_some()), (429, true));
    assert_eq!(sluice.logged("it", |line| line["status"] == 429)["reason"], "quota_exceeded");
    // Another command, and the third frame of this address that passed; then it is full.
    assert_eq!(web.call(&whisper(2)).await["cmd"], 0x0402);
    let told = web.call(&whisper(3)).await;
    assert_eq!((&told["cmd"], &told["body"]["text"]), (&json!(0xFF), &json!("rate_limited")), "{told}");
    assert_eq!(http.post("/im/whisper", &json!({"text": "x"})).await.status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_slowed_where_the_route_says_so() {
    let service = Server::frame_sink();
    let limit = json!({"limit-req": {"rate": 20, "burst": 1, "key": "frame_from", "rejected": "delay"}});
    let sluice = gateway(&service, &limit, json!({}));
    let edge = sluice.address("edge");
    let mut web = JsonSocket::connect(edge, "/im?user=1").await;
    for id in 1..=6 {
        web.send(&say(id, &format!("{id}"))).await;
    }
    for id in 1..=6 {
        assert_eq!(web.next().await["id"], id, "all come, in order");
    }
    let mut http = Http::as_user(edge, 2).await;
    for _ in 0..4 {
        assert_eq!(http.post("/im/say", &json!({"text": "x"})).await.status, 200);
    }
    let line =
        sluice.logged("a delay", |line| line["verdicts"][0]["verdict"] == "delay" && line["status"] == 200);
    assert_eq!(line["verdicts"][0]["plugin"], "limit-req");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_over_its_limit_is_closed_where_the_route_says_so() {
    let service = Server::frame_sink();
    let limit = json!({"limit-count": {
        "count": 1, "time_window": 600, "key": "frame_from", "rejected": "close",
    }});
    let sluice = gateway(&service, &limit, json!({}));
    let edge = sluice.address("edge");
    let mut web = JsonSocket::connect(edge, "/im?user=1").await;
    assert_eq!(web.call(&say(1, "x")).await["cmd"], 0x0302);
    web.send(&say(2, "x")).await;
    assert_eq!(web.closed().await, (1008, "quota_exceeded".to_owned()));
    let mut http = Http::as_user(edge, 2).await;
    let session = Session::open(&mut http, 2, &say(1, "x")).await;
    http.post(&session.target(""), &say(2, "x")).await;
    let mut end = Value::Null;
    let mut cursor = 0;
    while end.is_null() {
        let batch = http.get(&session.target(&format!("&cursor={cursor}&wait=10s"))).await.json();
        cursor = batch["cursor"].as_u64().unwrap();
        end = batch["end"].clone();
    }
    assert_eq!(end["reason"], "quota_exceeded");
    // A request is an exchange of its own: it is refused, its connection is not at fault.
    let mut http = Http::as_user(edge, 3).await;
    assert_eq!(http.post("/im/say", &json!({"text": "x"})).await.status, 200);
    assert_eq!(http.post("/im/say", &json!({"text": "x"})).await.status, 429);
    closes_for(&sluice, "quota_exceeded", 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firewall_sees_the_texts_of_messages_where_the_route_asks_for_it() {
    let service = Server::frame_sink();
    // A module for requests that denies bodies with `evil` in them.
    let guest = Guest::new("one").phases(phases::REQUEST_BODY);
    let conf = json!({"inspect": ["guest"]});
    let sluice = gateway_with(&service, &json!({"guest": {}}), conf, Some(&guest));
    let edge = sluice.address("edge");
    let mut raw = sluice.connect("im");
    raw.send(frame(SAY, 1, 7, &body("something evil")));
    let refused = read_frame(&mut raw);
    let error = error_of(&refused);
    assert_eq!((refused.sequence, error.code, error.text.as_str()), (1, 5, "module_deny"));
    raw.send(frame(SAY, 2, 7, &body("good")));
    assert_eq!(read_frame(&mut raw).sequence, 2);

    let (mut binary, _) =
        client_async(format!("ws://{edge}/im"), tokio::net::TcpStream::connect(edge).await.unwrap())
            .await
            .unwrap();
    binary.send(Message::binary(frame(SAY, 3, 7, &body("evil again")))).await.unwrap();
    let Some(Ok(Message::Binary(answer))) = binary.next().await else { panic!("no answer") };
    assert_eq!(error_of(&frames_of(&answer)[0]).text, "module_deny");

    let mut web = JsonSocket::connect(edge, "/im?user=7").await;
    let told = web.call(&say(1, "so evil")).await;
    assert_eq!((&told["cmd"], &told["body"]["text"]), (&json!(0xFF), &json!("module_deny")), "{told}");
    assert_eq!(web.call(&say(2, "fine")).await["cmd"], 0x0302);

    // Requests are seen as they are, and their messages as well.
    let mut http = Http::as_user(edge, 7).await;
    assert_eq!(http.post("/im/say", &json!({"text": "evil"})).await.status, 403);
    let escaped = br#"{"text": "\u0065vil"}"#;
    let answer = http.request("POST", "/im/say", escaped).await;
    assert_eq!(answer.status, 403, "what JSON hides the message shows: {}", answer.json());
    assert_eq!(http.post("/im/say", &json!({"text": "fine"})).await.status, 200);
    assert_eq!(texts(&service), ["good", "fine", "fine"]);
    let line = sluice.logged("the denial", |line| line["kind"] == "blocked" && line["protocol"] == "tlv");
    assert_eq!(
        (&line["verdicts"][0]["plugin"], &line["verdicts"][0]["rules"]),
        (&json!("guest"), &json!(["evil"]))
    );

    // Who is to inspect must be there.
    let odd = json!({
        "listener": "im", "upstream_id": "im",
        "protocol": {"name": "tlv", "conf": {"inspect": ["guest"]}}, "plugins": {},
    });
    sluice.put("stream_routes", "im", odd);
    let told = eventually("the refusal", || sluice.quarantined("stream_routes", "im"));
    assert!(told.contains("protocol.conf.inspect[0]") && told.contains("\"guest\""), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_looks_at_nothing_here_is_refused() {
    let service = Server::frame_sink();
    // Its only phase is one that frames have not, requests neither.
    let guest = Guest::new("one").phases(0);
    let sluice = gateway_with(&service, &json!({}), json!({}), Some(&guest));
    let plugins = json!({"guest": {}});
    let route = json!({
        "uri": "/odd", "enable_websocket": true, "upstream_id": "im", "plugins": plugins,
    });
    sluice.put("routes", "odd", route);
    let told = eventually("the refusal", || {
        sluice.quarantined("routes", "odd").filter(|told| told.contains("has no effect here"))
    });
    assert!(told.contains("plugins.guest"), "{told}");
}
