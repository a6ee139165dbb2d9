//! JSON for clients, protobuf in frames for the service: the real module
//! `transcode` in the real program, over requests, WebSocket and polling.

use std::io::Write;

use serde_json::{Value, json};
use sluice_harness::service::frame::{Frame, command};
use sluice_harness::service::im_client::ImClient;
use sluice_harness::service::im_v1::{ContentType, SendReply, SendRequest};
use sluice_harness::{ImServer, Port, Sluice, eventually};
use sluice_tests::admin::{expect, with_keys};
use sluice_tests::im::{
    Http, JsonSocket, PROTO, Session, change, commands, component, gateway, login, route, text,
    with_transcode,
};
use sluice_tests::lines::{Server, line_is, wait_active};

/// Beyond what a double can hold: a number that went through one shows.
const LARGE: u64 = (1 << 53) + 1;

fn server() -> ImServer {
    ImServer::start(&["leased", "public"])
}

fn started(server: &ImServer) -> Sluice {
    started_with(server, |_| {})
}

fn started_with(server: &ImServer, change: impl FnOnce(&mut Value)) -> Sluice {
    let sluice = gateway(server, change).start();
    wait_active(&sluice, "im", "leased");
    sluice
}

async fn pushed(client: &ImClient) -> sluice_harness::service::im_v1::Message {
    let push = tokio::time::timeout(sluice_harness::DEADLINE, client.push()).await;
    push.expect("a push in time").expect("the connection is open")
}

#[tokio::test(flavor = "multi_thread")]
async fn json_becomes_a_frame_and_its_reply_json() {
    let server = server();
    let sluice = started(&server);
    let (phone, _) = ImClient::login_at(sluice.address("im"), 2, "phone").await.unwrap();
    let mut http = Http::as_user(sluice.address("edge"), 1).await;
    let body = json!({
        "to": 2, "clientMessageId": LARGE.to_string(), "type": "CONTENT_TYPE_IMAGE", "text": "zwölf \u{1f600}",
        "data": "AAECAw==",
    });
    let answer = http.post("/im/messages", &body).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let reply = answer.json();
    assert_eq!(reply["clientMessageId"], json!(LARGE.to_string()), "{reply}");
    assert_eq!(reply["pushed"], 1, "{reply}");
    let message = pushed(&phone).await;
    assert_eq!(
        (message.from, message.text.as_str(), &*message.data),
        (1, "zwölf \u{1f600}", &[0, 1, 2, 3][..])
    );
    assert_eq!(message.r#type(), ContentType::Image);
    // The server's ids do not fit a double: they are texts, digit for digit.
    assert!(message.message_id > LARGE);
    assert_eq!(reply["messageId"], json!(message.message_id.to_string()));
    assert_eq!(reply["conversationId"], json!(message.conversation_id.to_string()));

    // Path and query are fields of the request.
    http.post("/im/messages", &json!({"to": 2, "text": "second"})).await;
    let id = message.conversation_id;
    let answer = http.get(&format!("/im/conversations/{id}/messages?limit=1")).await;
    let history = answer.json();
    assert_eq!(
        (answer.status, &history["more"], &history["messages"][0]["text"]),
        (200, &json!(true), &json!("second"))
    );
    let before = &history["messages"][0]["messageId"].as_str().unwrap().to_owned();
    let answer = http.get(&format!("/im/conversations/{id}/messages?beforeMessageId={before}&limit=5")).await;
    assert_eq!(answer.json()["messages"][0]["messageId"], json!(message.message_id.to_string()));
    let line = sluice.logged("the request", |line| line["status"] == 200 && line["method"] == "POST");
    assert_eq!((&line["route"], &line["line"]), (&json!("im"), &json!("leased")), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_with_its_place() {
    let server = server();
    let sluice = started_with(&server, |route| {
        change(route, &["protocol", "requests"], json!({"body_max": "4KiB"}));
    });
    let mut http = Http::as_user(sluice.address("edge"), 1).await;
    let table: [(&str, &str, &[u8], u16, &str); 14] = [
        ("POST", "/im/messages", br#"{"to": "two"}"#, 400, "to"),
        (
            "POST",
            "/im/messages",
            br#"{"to": 2, "clientMessageId": "18446744073709551616"}"#,
            400,
            "clientMessageId",
        ),
        ("POST", "/im/messages", br#"{"to": 2, "type": "CONTENT_TYPE_SMELL"}"#, 400, "type"),
        ("POST", "/im/messages", br#"{"to": 2, "data": "A"}"#, 400, "data"),
        ("POST", "/im/messages", br#"{"to": 2, "colour": "red"}"#, 400, "colour"),
        ("POST", "/im/messages", br#"{"to": 2, "text": "\ud83d"}"#, 400, "text"),
        ("POST", "/im/messages", b"{\"to\": 2, \"text\": \"\xff\"}", 400, ""),
        ("POST", "/im/messages", br#"{"to": 2"#, 400, ""),
        ("GET", "/im/conversations/x/messages", b"", 400, "conversation_id"),
        ("GET", "/im/conversations/1/messages?limit=x", b"", 400, "limit"),
        ("GET", "/im/conversations/1/messages?colour=red", b"", 400, "colour"),
        ("POST", "/im/nothing", b"{}", 404, ""),
        ("GET", "/im/messages", b"", 405, ""),
        ("POST", "/im/messages", &[b' '; 5000], 413, ""),
    ];
    for (method, target, body, status, path) in table {
        let shown = format!("{method} {target} {}", String::from_utf8_lossy(body));
        let answer = http.request(method, target, body).await;
        let told = answer.json();
        assert_eq!(answer.status, status, "{shown}: {told}");
        assert!(told["error_msg"].is_string() && told["request_id"].is_string(), "{shown}: {told}");
        if status != 413 {
            assert_eq!(told["path"], path, "{shown}: {told}");
        }
        if answer.header("connection") == Some("close") {
            http = Http::as_user(sluice.address("edge"), 1).await;
        }
    }
    // What the service says no to, by the map of commands or by its code.
    for (target, status, message) in [
        ("/im/conversations/12884901892/messages", 403, "conversation_id: 12884901892 is not yours"),
        ("/im/conversations/4294967298/messages?limit=200", 400, "limit: 200 is over 100"),
    ] {
        let answer = http.get(target).await;
        assert_eq!((answer.status, &answer.json()["error_msg"]), (status, &json!(message)));
    }
    assert_eq!(server.stats().messages, 0);
    sluice.logged("a refusal", |line| line["reason"] == "transcode_refused" && line["status"] == 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_is_who_was_authenticated_and_never_who_the_body_says() {
    let server = server();
    let sluice = started_with(&server, |route| {
        change(route, &["protocol"], json!({"user": "$consumer_name", "user_from": []}));
        change(route, &["plugins"], json!({"key-auth": {}}));
        change(route, &["plugins", "transcode"], json!({"query_ignore": ["apikey"]}));
    });
    for (name, key) in [("17", "key-of-17"), ("jack", "key-of-jack")] {
        let consumer = json!({"username": name, "plugins": {"key-auth": {"key": key}}});
        sluice.apply("consumers", name, consumer);
    }
    let (phone, _) = ImClient::login_at(sluice.address("im"), 2, "phone").await.unwrap();
    let mut http = Http::try_connect(sluice.address("edge")).await.unwrap();
    let body = json!({"to": 2, "text": "hi"});
    http.fields = "X-User-Id: 5\r\n".to_owned();
    assert_eq!(http.post("/im/messages", &body).await.status, 401, "no key");
    http.fields = "apikey: key-of-17\r\nX-User-Id: 5\r\nX-Consumer-Username: 5\r\n".to_owned();
    let answer = http.post("/im/messages?apikey=key-of-17", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    assert_eq!(pushed(&phone).await.from, 17);
    let forged = json!({"to": 2, "text": "hi", "from": 5});
    let answer = http.post("/im/messages", &forged).await;
    assert_eq!((answer.status, &answer.json()["path"]), (400, &json!("from")));
    // A consumer whose name is no number is nobody here.
    http.fields = "apikey: key-of-jack\r\n".to_owned();
    assert_eq!(http.post("/im/messages", &body).await.status, 401);

    // The field that is set from the identity cannot be written by a client.
    let mut route = route();
    let mut commands = commands();
    commands[1]["user_field"] = json!("user_id");
    change(&mut route, &["plugins", "transcode"], json!({"commands": commands}));
    let plain =
        "{\"cmd\": 257, \"body\": {\"token\": \"demo-$im_user\", \"device\": \"rest-$im_connection\"}}";
    change(&mut route, &["protocol", "requests"], json!({"login": plain}));
    sluice.put("routes", "im", &route);
    let mut http = Http::as_user(sluice.address("edge"), 9).await;
    eventually_ok(&mut http, &body).await;
    assert_eq!(pushed(&phone).await.from, 9);
    let mut socket = JsonSocket::connect(sluice.address("edge"), "/im?user=3").await;
    let told = socket.call(&login(3, "web")).await;
    assert_eq!(
        (&told["error"]["status"], &told["error"]["path"]),
        (&json!(400), &json!("body.userId")),
        "{told}"
    );
    let own = json!({"cmd": 257, "id": 1, "body": {"token": "demo-3", "device": "web"}});
    assert_eq!(socket.call(&own).await["body"]["userId"], 3);
}

/// Sends until it is taken: a change of modules is live a little later.
async fn eventually_ok(http: &mut Http, body: &Value) {
    sluice_harness::eventually_async("the message is taken", async || {
        (http.post("/im/messages", body).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_trusted_names_nobody() {
    let server = server();
    let sluice = started_with(&server, |route| {
        change(route, &["protocol"], json!({"user_from": ["10.0.0.0/8"]}));
    });
    let mut http = Http::as_user(sluice.address("edge"), 1).await;
    let answer = http.post("/im/messages", &json!({"to": 2, "text": "hi"})).await;
    assert_eq!((answer.status, &answer.json()["error_msg"]), (401, &json!("the caller is not known")));
    assert_eq!(server.stats().messages, 0);
}

/// A gateway with one connection to a service of the test's own, and the route
/// with that time for a reply.
fn with_service(service: &Server, seconds: f64) -> Sluice {
    let mut route = route();
    change(&mut route, &["protocol", "requests"], json!({"connections_max": 1}));
    sluice_tests::lines::merge(&mut route, json!({"timeout": {"connect": 5, "send": 5, "read": seconds}}));
    let upstream = json!({"scheme": "tlv", "nodes": {service.node(): 1}, "retries": 1});
    with_transcode(Sluice::builder())
        .threads(1)
        .listener("edge", json!({}))
        .put("upstreams", "im", upstream)
        .put("protos", "im", json!({"content": PROTO}))
        .put("routes", "im", route)
        .start()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_given_up_at_its_deadline_and_its_late_reply_meets_nobody() {
    // Answers the first message only when the second has come, in front of it.
    let service = Server::start(|mut connection| {
        let mut late = None;
        while let Some(frame) = connection.next_frame() {
            let mut reply = Frame { command: frame.command + 1, body: Default::default(), ..frame.clone() };
            if frame.command == command::SEND {
                let request: SendRequest = frame.message().expect("a message");
                let body = SendReply { client_message_id: request.client_message_id, ..SendReply::default() };
                reply = Frame::new(command::SEND_REPLY, frame.sequence, &body);
                if request.client_message_id == 1 {
                    late = Some(reply.to_bytes());
                    continue;
                }
            }
            let bytes = [late.take().unwrap_or_default(), reply.to_bytes()].concat();
            if connection.stream.write_all(&bytes).is_err() {
                return;
            }
        }
    });
    let sluice = with_service(&service, 2.0);
    let mut http = Http::as_user(sluice.address("edge"), 1).await;
    let message = |number: &str| json!({"to": 2, "clientMessageId": number});
    let answer = http.post("/im/messages", &message("1")).await;
    assert_eq!(answer.status, 504, "{}", answer.json());
    assert!(answer.json()["request_id"].is_string());
    let answer = http.post("/im/messages", &message("2")).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"clientMessageId": "2"})));
    assert_eq!(service.accepted(), 1, "the connection is still good");
    sluice.logged("the deadline", |line| line["status"] == 504 && line["reason"] == "request_timeout");
    eventually("the late reply is counted", || {
        let count = sluice.metrics().count("sluice_upstream_errors_total", &[("reason", "late_reply")]);
        (count == 1.0).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_line_fails_only_what_was_on_it() {
    // Logs everybody in; answers a history, but only on its second connection;
    // ends with a message.
    let service = Server::start(|mut connection| {
        let number = connection.number;
        while let Some(frame) = connection.next_frame() {
            match frame.command {
                command::SEND => return,
                command::HISTORY if number % 2 == 0 => return,
                _ => {}
            }
            let reply = Frame { command: frame.command + 1, body: Default::default(), ..frame };
            if connection.stream.write_all(&reply.to_bytes()).is_err() {
                return;
            }
        }
    });
    let sluice = with_service(&service, 60.0);
    let mut http = Http::as_user(sluice.address("edge"), 1).await;
    // Safe to repeat: it is asked again on another connection.
    let answer = http.get("/im/conversations/4294967298/messages").await;
    assert_eq!((answer.status, service.accepted()), (200, 2), "{}", answer.json());
    // Not safe: it may have been carried out.
    let answer = http.post("/im/messages", &json!({"to": 2, "text": "hi"})).await;
    let told = answer.json();
    assert_eq!(answer.status, 502, "{told}");
    assert!(told["error_msg"].as_str().unwrap().contains("may have been carried out"), "{told}");
    assert_eq!(service.frames().iter().filter(|frame| frame.command == command::SEND).count(), 1);
    drop(service);
    let answer = http.post("/im/messages", &json!({"to": 2, "text": "hi"})).await;
    assert!(matches!(answer.status, 502 | 503), "{}", answer.json());
    sluice.logged("the loss", |line| line["reason"] == "request_lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_speaks_json_over_websocket() {
    let server = server();
    let sluice = started(&server);
    let edge = sluice.address("edge");
    let (phone, _) = ImClient::login_at(sluice.address("im"), 2, "phone").await.unwrap();
    let mut web = JsonSocket::logged_in(edge, 1, "web").await;
    // A reply brings the message's id back, whatever it is.
    let reply = web.call(&text("a", 2, LARGE, "from the browser")).await;
    assert_eq!(
        (&reply["cmd"], &reply["body"]["clientMessageId"]),
        (&json!(0x0302), &json!(LARGE.to_string()))
    );
    let message = pushed(&phone).await;
    assert_eq!((message.from, message.text.as_str()), (1, "from the browser"));
    assert_eq!(reply["body"]["messageId"], json!(message.message_id.to_string()));

    let sent = phone.send(1, "from the phone").await.unwrap();
    let push = web.next().await;
    assert_eq!(
        (&push["cmd"], push.get("id"), &push["body"]["text"]),
        (&json!(0x0310), None, &json!("from the phone"))
    );
    assert_eq!(push["body"]["messageId"], json!(sent.message_id.to_string()));
    let acknowledgement = json!({"cmd": "0x0311", "id": 7, "body": {"messageId": push["body"]["messageId"]}});
    let reply = web.call(&acknowledgement).await;
    assert_eq!(
        (&reply["cmd"], &reply["id"], reply["body"].get("pending")),
        (&json!(0x0312), &json!(7), None)
    );
    assert_eq!(server.stats().users[&1].acknowledged, 1);

    // What is wrong is told where it is; the connection goes on.
    for (message, status, path) in [
        (json!({"cmd": 0x0301, "id": "b", "body": {"to": "two"}}), 400, "body.to"),
        (json!({"cmd": 0x0301, "id": "c", "body": {"to": 1, "nested": {"x": 1}}}), 400, "body.nested"),
        (json!({"cmd": 0x0999, "id": "d", "body": {}}), 404, ""),
        (json!({"id": "e"}), 400, "cmd"),
    ] {
        let answer = web.call(&message).await;
        assert_eq!(
            (&answer["error"]["status"], &answer["error"]["path"]),
            (&json!(status), &json!(path)),
            "{answer}"
        );
    }
    // What the service refuses comes as the map of commands has it.
    let answer = web.call(&json!({"cmd": 0x0301, "id": "f", "body": {"text": "to nobody"}})).await;
    assert_eq!(
        (&answer["cmd"], &answer["body"]["code"]),
        (&json!(0x00FF), &json!("ERROR_CODE_INVALID")),
        "{answer}"
    );
    web.close().await;
    let line = sluice.logged("the session", |line| line["protocol"] == "websocket");
    assert_eq!((&line["user"], &line["reason"]), (&json!("1"), &json!("client_closed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_polled_and_streamed() {
    let server = server();
    let sluice = started(&server);
    let edge = sluice.address("edge");
    let (phone, _) = ImClient::login_at(sluice.address("im"), 2, "phone").await.unwrap();
    let mut http = Http::try_connect(edge).await.unwrap();
    let session = Session::open(&mut http, 1, &login(1, "poller")).await;
    let first = http.get(&session.target("&cursor=0&wait=10s")).await.json();
    assert_eq!(first["messages"][0]["message"]["body"]["userId"], 1, "{first}");
    assert_eq!(first["cursor"], 1);

    // A number of the client's own makes a repeated message one.
    let send = session.target("&n=1");
    let body = text("a", 2, 1, "by post");
    let answer = http.post(&send, &body).await;
    assert_eq!((answer.status, answer.json()), (202, json!({"accepted": true, "duplicate": false})));
    assert_eq!(http.post(&send, &body).await.json()["duplicate"], true);
    assert_eq!(pushed(&phone).await.text, "by post");
    let batch = http.get(&session.target("&cursor=1&wait=10s")).await.json();
    assert_eq!(
        (&batch["messages"][0]["message"]["id"], &batch["cursor"]),
        (&json!("a"), &json!(2)),
        "{batch}"
    );
    // A poll that nothing comes for ends at its time, one that waits is answered at once.
    assert_eq!(
        http.get(&session.target("&cursor=2&wait=10ms")).await.json(),
        json!({"cursor": 2, "messages": []})
    );
    let waiting = session.target("&cursor=2&wait=30s");
    let mut other = Http::try_connect(edge).await.unwrap();
    let (batch, sent) = tokio::join!(other.get(&waiting), phone.send(1, "pushed"));
    assert_eq!(batch.json()["messages"][0]["message"]["body"]["text"], "pushed");
    assert_eq!(
        batch.json()["messages"][0]["message"]["body"]["messageId"],
        json!(sent.unwrap().message_id.to_string())
    );

    // A wrong token is no session; a wrong message is told where; so is a wrong cursor.
    let wrong = Session { token: "0".repeat(32), ..session.clone() };
    assert_eq!(http.get(&wrong.target("")).await.status, 404);
    let answer = http.post(&session.target("&n=2"), &json!({"cmd": 0x0301, "body": {"to": []}})).await;
    assert_eq!((answer.status, &answer.json()["path"]), (400, &json!("body.to")));
    assert_eq!(http.get(&session.target("&cursor=99")).await.status, 400);

    // The same as an event stream, from the cursor on.
    let mut events = Http::try_connect(edge).await.unwrap().events(&session.target("&cursor=2"), None).await;
    let event = events.next().await;
    assert_eq!((event.id, &event.data["body"]["text"]), (Some(3), &json!("pushed")));
    phone.send(1, "streamed").await.unwrap();
    let event = events.next().await;
    assert_eq!((event.id, &event.data["body"]["text"]), (Some(4), &json!("streamed")));
    // A browser that comes back by itself says what it had last.
    drop(events);
    let mut events =
        Http::try_connect(edge).await.unwrap().events(&session.target("&cursor=2"), Some(3)).await;
    assert_eq!(events.next().await.id, Some(4));

    assert_eq!(http.request("DELETE", &session.target(""), b"").await.status, 204);
    assert_eq!(events.next().await.name, "end");
    eventually("the session is gone at the service", || {
        (server.stats().users[&1].connected == 0).then_some(())
    });
    let logged = sluice.logged("a poll", |line| line["method"] == "GET" && line["route"] == "im");
    assert!(!logged.to_string().contains(&session.token), "{logged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_moves_between_websocket_stream_and_poll_and_misses_nothing() {
    let server = server();
    let sluice = started(&server);
    let edge = sluice.address("edge");
    let (phone, _) = ImClient::login_at(sluice.address("im"), 2, "phone").await.unwrap();
    let mut http = Http::try_connect(edge).await.unwrap();
    let session = Session::open(&mut http, 1, &login(1, "mover")).await;
    let mut cursor = http.get(&session.target("&cursor=0&wait=10s")).await.json()["cursor"].as_u64().unwrap();
    let mut texts = Vec::new();
    let mut sent = 0;
    for round in 0..6 {
        // Some come while nobody is there.
        for _ in 0..2 {
            phone.send(1, &format!("{sent}")).await.unwrap();
            sent += 1;
        }
        let target = session.target(&format!("&cursor={cursor}"));
        let wanted = sent + 1;
        match round % 3 {
            0 => {
                let mut socket = JsonSocket::try_connect(edge, &target, &session.token).await.unwrap();
                assert_eq!(socket.next().await["cursor"], json!(cursor));
                phone.send(1, &format!("{sent}")).await.unwrap();
                sent += 1;
                while texts.len() < wanted {
                    let message = socket.next().await;
                    texts.push(message["message"]["body"]["text"].as_str().unwrap().to_owned());
                }
                // A number of the client's own, acknowledged by it.
                let message = json!({"n": round + 1, "message": text("w", 2, 100 + round, "numbered")});
                socket.send(&message).await;
                assert_eq!(socket.next().await, json!({"accepted": round + 1, "duplicate": false}));
                let reply = socket.next().await;
                assert_eq!(reply["message"]["id"], "w", "{reply}");
                cursor = reply["cursor"].as_u64().unwrap();
                socket.send(&json!({"ack": cursor})).await;
            }
            1 => {
                let mut events = Http::try_connect(edge).await.unwrap().events(&target, None).await;
                phone.send(1, &format!("{sent}")).await.unwrap();
                sent += 1;
                while texts.len() < wanted {
                    let event = events.next().await;
                    cursor = event.id.unwrap();
                    texts.push(event.data["body"]["text"].as_str().unwrap().to_owned());
                }
            }
            _ => {
                phone.send(1, &format!("{sent}")).await.unwrap();
                sent += 1;
                while texts.len() < wanted {
                    let target = session.target(&format!("&cursor={cursor}&wait=10s"));
                    let batch = http.get(&target).await.json();
                    assert_eq!(batch.get("gap"), None, "{batch}");
                    cursor = batch["cursor"].as_u64().unwrap();
                    for message in batch["messages"].as_array().unwrap() {
                        texts.push(message["message"]["body"]["text"].as_str().unwrap().to_owned());
                    }
                }
            }
        }
    }
    let expected: Vec<String> = (0..sent).map(|number| number.to_string()).collect();
    assert_eq!(texts, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_its_line_and_the_newest_stream_counts() {
    let server = server();
    let sluice = started(&server);
    let edge = sluice.address("edge");
    let (phone, _) = ImClient::login_at(server.line("public").address(), 2, "phone").await.unwrap();
    let mut http = Http::try_connect(edge).await.unwrap();
    let session = Session::open(&mut http, 1, &login(1, "poller")).await;
    http.get(&session.target("&cursor=0&wait=10s")).await;
    let target = session.target("&cursor=1");
    let mut old = JsonSocket::try_connect(edge, &target, &session.token).await.unwrap();
    old.next().await;
    let mut events = Http::try_connect(edge).await.unwrap().events(&target, None).await;
    assert_eq!(old.closed().await, (4001, "session_replaced".to_owned()));
    tokio::task::block_in_place(|| {
        server.line("leased").cut();
        line_is(&sluice, "im", "leased", "unhealthy");
    });
    // Sent while the session has no line, or on its new one.
    phone.send(1, "after the cut").await.unwrap();
    let event = events.next().await;
    assert_eq!(event.data["body"]["text"], "after the cut", "{event:?}");
    assert_eq!(server.stats().users[&1].line, "public");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_command_is_live_at_once_and_a_proto_that_breaks_one_is_refused() {
    let server = server();
    // Without the acknowledgements.
    let without = || {
        let mut commands = commands();
        commands.as_array_mut().unwrap().remove(3);
        commands
    };
    let sluice = started_with(&server, |route| {
        change(route, &["plugins", "transcode"], json!({"commands": without()}));
    });
    let edge = sluice.address("edge");
    let mut http = Http::as_user(edge, 1).await;
    let mut web = JsonSocket::logged_in(edge, 1, "web").await;
    let acknowledge = json!({"cmd": 0x0311, "id": 1, "body": {"messageId": "5"}});
    assert_eq!(http.post("/im/acknowledgements", &json!({"messageId": "5"})).await.status, 404);
    assert_eq!(web.call(&acknowledge).await["error"]["status"], 404);

    // An entry in an object, and both kinds of clients have it, without a new
    // connection.
    sluice.put("routes", "im", route());
    sluice_harness::eventually_async("the command over HTTP", async || {
        let answer = http.post("/im/acknowledgements", &json!({"messageId": "5"})).await;
        (answer.status == 200).then(|| assert_eq!(answer.json(), json!({"messageId": "5"})))
    })
    .await;
    assert_eq!(web.call(&acknowledge).await["body"]["messageId"], "5");

    // A definition that a command needs is gone: refused with the reason, and
    // what was there goes on.
    let broken = PROTO.replace("message AckRequest", "message AckDemand");
    for (content, reason) in [
        (broken.as_str(), "commands[3].request: \"im.v1.AckRequest\""),
        ("syntax = \"proto3\";\nmessage A {\n  int32 a 1;\n}\n", "im.proto:3:"),
    ] {
        sluice.put("protos", "im", json!({"content": content}));
        let told = tokio::task::block_in_place(|| {
            eventually("the proto is refused", || {
                sluice.quarantined("protos", "im").filter(|told| told.contains(reason))
            })
        });
        assert!(told.contains("routes/im: plugins.transcode"), "{told}");
        assert_eq!(http.post("/im/acknowledgements", &json!({"messageId": "5"})).await.status, 200);
        assert_eq!(web.call(&acknowledge).await["body"]["messageId"], "5");
    }

    // A field more is no harm, and live at once.
    let more = PROTO.replace(
        "uint64 message_id = 1;\n}\n\n// Command 0x0312",
        "uint64 message_id = 1;\n  string reason = 2;\n}\n\n// Command 0x0312",
    );
    assert_ne!(more, PROTO);
    sluice.put("protos", "im", json!({"content": more}));
    let with_reason = json!({"cmd": 0x0311, "id": 2, "body": {"messageId": "5", "reason": "seen"}});
    sluice_harness::eventually_async("the new field", async || {
        web.call(&with_reason).await.get("body").is_some().then_some(())
    })
    .await;
    assert_eq!(sluice.quarantined("protos", "im"), None);
}

#[test]
fn what_a_change_of_definitions_breaks_for_clients_is_told() {
    let server = server();
    let sluice = with_keys(gateway(&server, |_| {})).start();
    wait_active(&sluice, "im", "leased");
    let put = |content: &str| {
        let object = json!({"content": content}).to_string();
        expect(&sluice, "PUT", "protos/im", &object, 200)
    };
    let breaking = || sluice.status()["config"]["breaking"].clone();
    let ack = "uint64 message_id = 1;\n}\n\n// Command 0x0312";
    let changed = |to: &str| {
        assert!(PROTO.contains(ack));
        PROTO.replace(ack, &format!("{to}\n}}\n\n// Command 0x0312"))
    };
    let nothing = put(&changed("uint64 message_id = 1;\n  string reason = 2;"));
    assert!(nothing.get("warnings").is_none() && nothing.get("quarantine").is_none(), "{nothing}");
    assert_eq!(breaking(), json!([]));

    // A field of another type, and one that is gone: live, and told everywhere.
    let told = put(&changed("string message_id = 1;"));
    let expected = ["im.v1.AckRequest.message_id: was uint64, is string", "im.v1.AckRequest.reason: is gone"];
    let named = expected.map(|change| format!("routes/im: plugins.transcode: {change}"));
    assert_eq!((&told["warnings"], told.get("quarantine")), (&json!(named), None), "{told}");
    let shown = breaking();
    assert_eq!(
        (&shown[0]["kind"], &shown[0]["id"], &shown[0]["plugin"], &shown[0]["changes"]),
        (&json!("routes"), &json!("im"), &json!("transcode"), &json!(expected)),
        "{shown}"
    );

    // A change that a command cannot live with is refused with the reason, and what
    // was there before stays.
    let refused = put(&PROTO.replace("message AckRequest", "message AckDemand"));
    let why = refused["quarantine"][0].to_string();
    assert!(why.contains("commands[3].request") && why.contains("im.v1.AckRequest"), "{refused}");
    assert_eq!(breaking(), shown);

    // Back again: what was string is a number, and nobody knew the reason.
    let back = put(PROTO);
    let expected = ["routes/im: plugins.transcode: im.v1.AckRequest.message_id: was string, is uint64"];
    assert_eq!((&back["warnings"], back.get("quarantine")), (&json!(expected), None), "{back}");

    // A command less, in a set of changes.
    let mut without = route();
    without["plugins"]["transcode"]["commands"].as_array_mut().unwrap().remove(3);
    let set = json!({"objects": [{"kind": "routes", "id": "im", "value": without}]}).to_string();
    let answer = expect(&sluice, "POST", "changes", &set, 200);
    let expected = [
        "routes/im: plugins.transcode: command 0x0311: is gone",
        "routes/im: plugins.transcode: command 0x0312: is no longer sent to clients",
    ];
    assert_eq!(answer["warnings"], json!(expected), "{answer}");
    // A command more is none: what was told before is over.
    let answer = expect(&sluice, "PUT", "routes/im", &route().to_string(), 200);
    assert!(answer.get("warnings").is_none(), "{answer}");
    assert_eq!(breaking(), json!([]));
}

/// The route as the documentation has it, and a service that needs no login.
#[tokio::test(flavor = "multi_thread")]
async fn the_map_of_commands_of_the_documentation_works_as_it_is_written() {
    let service = Server::start(|mut connection| {
        while let Some(frame) = connection.next_frame() {
            let request: SendRequest = frame.message().expect("a message");
            let reply = SendReply {
                message_id: LARGE,
                client_message_id: request.client_message_id,
                ..SendReply::default()
            };
            let reply = Frame::new(command::SEND_REPLY, frame.sequence, &reply);
            if connection.stream.write_all(&reply.to_bytes()).is_err() {
                return;
            }
        }
    });
    let route = "
uri: /im/*
plugins:
  transcode:
    proto_id: im
    commands:
      - {cmd: 0x0301, reply: 0x0302, method: POST, uri: /im/messages, request: im.v1.SendRequest, response: im.v1.SendReply}
      - {cmd: 0x0310, push: im.v1.Message}
upstream_id: im
";
    // The module as a file and nothing else.
    let sluice = Sluice::builder()
        .listener("edge", json!({}))
        .bytes("modules/transcode.wasm", &component("transcode"))
        .put("upstreams", "im", json!({"scheme": "tlv", "nodes": {service.node(): 1}}))
        .put("protos", "im", json!({"content": PROTO}))
        .put("routes", "im", route)
        .start();
    let mut http = Http::try_connect(sluice.address("edge")).await.unwrap();
    let answer = http.post("/im/messages", &json!({"to": 2, "clientMessageId": "7", "text": "hi"})).await;
    let expected = json!({"messageId": LARGE.to_string(), "clientMessageId": "7"});
    assert_eq!((answer.status, answer.json()), (200, expected));
    assert_eq!(service.frames()[0].command, command::SEND);
}

/// The example store as it is, on free ports.
#[tokio::test(flavor = "multi_thread")]
async fn the_example_store_serves_every_kind_of_client() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/web-im");
    let server = server();
    let (edge, im) = (Port::free(), Port::free());
    let places = [
        ("127.0.0.1:8080", edge.loopback().to_string()),
        ("127.0.0.1:9100", im.loopback().to_string()),
        ("127.0.0.1:9001", server.line("leased").node()),
        ("127.0.0.1:9002", server.line("public").node()),
        // A debug build on a busy machine takes its time.
        ("deadline: 20ms", "deadline: 1s".to_owned()),
    ];
    let mut builder = Sluice::builder().bytes("modules/transcode.wasm", &component("transcode"));
    for file in walk(&folder) {
        let mut text = std::fs::read_to_string(&file).unwrap();
        for (written, own) in &places {
            text = text.replace(written, own);
        }
        let kind = file.parent().and_then(|kind| kind.file_name()).unwrap().to_string_lossy();
        let id = file.file_stem().unwrap().to_string_lossy();
        if (&*kind, &*id) == ("protos", "im") {
            let content: Vec<&str> =
                text.lines().skip_while(|line| !line.starts_with("content")).skip(1).collect();
            let content: Vec<&str> =
                content.iter().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
            assert_eq!(
                content.join("\n").trim(),
                PROTO.trim(),
                "the example's definitions are those of proto/"
            );
        }
        builder = builder.put(&kind, &id, text);
    }
    let sluice = builder.start();
    let checked = Sluice::command(&["check", &sluice.conf().to_string_lossy()]).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    wait_active(&sluice, "im", "leased");
    let (phone, _) = ImClient::login_at(im.loopback(), 2, "phone").await.unwrap();
    let mut service = Http::as_user(edge.loopback(), 1).await;
    let mut browser = JsonSocket::logged_in(edge.loopback(), 3, "browser").await;
    let mut http = Http::try_connect(edge.loopback()).await.unwrap();
    let session = Session::open(&mut http, 4, &login(4, "poller")).await;
    http.get(&session.target("&cursor=0&wait=10s")).await;
    for to in [2, 3, 4] {
        let answer = service.post("/im/messages", &json!({"to": to, "text": "to all"})).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
    }
    assert_eq!(pushed(&phone).await.text, "to all");
    assert_eq!(browser.next().await["body"]["text"], "to all");
    let batch = http.get(&session.target("&cursor=1&wait=10s")).await.json();
    assert_eq!(batch["messages"][0]["message"]["body"]["text"], "to all");
    phone.send(3, "to the browser").await.unwrap();
    assert_eq!(browser.next().await["body"]["text"], "to the browser");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for kind in std::fs::read_dir(folder).unwrap() {
        files.extend(std::fs::read_dir(kind.unwrap().path()).unwrap().map(|file| file.unwrap().path()));
    }
    files.retain(|file| file.extension().is_some_and(|ending| ending == "yaml"));
    files
}
