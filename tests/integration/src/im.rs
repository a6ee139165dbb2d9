//! The IM service behind an HTTP route: JSON for clients, frames for the server.
//!
//! [`gateway`] has the route with the real module `transcode`. Clients of each
//! kind: [`Http`] for requests and polls, [`Events`] for event streams,
//! [`JsonSocket`] for WebSocket. They share no code with the gateway.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sluice_harness::{DEADLINE, ImServer, Sluice, SluiceBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::lines::{im_route, merge, two_lines};

/// The definitions of the demo's protocol.
pub const PROTO: &str = include_str!("../../../proto/im/v1/im.proto");

/// A component of `plugins/`, as `cargo xtask plugins` builds it.
///
/// # Panics
/// When it is not built.
pub fn component(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../target/plugins/{name}.wasm"));
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask plugins` builds it", path.display()))
}

/// The map of all commands of the demo's protocol.
pub fn commands() -> Value {
    json!([
        {"cmd": "0x0001", "reply": "0x0002", "request": "im.v1.Heartbeat", "response": "im.v1.HeartbeatReply"},
        {"cmd": "0x0101", "reply": "0x0102", "request": "im.v1.LoginRequest", "response": "im.v1.LoginReply"},
        {"cmd": "0x0301", "reply": "0x0302", "method": "POST", "uri": "/im/messages",
         "request": "im.v1.SendRequest", "response": "im.v1.SendReply"},
        {"cmd": "0x0311", "reply": "0x0312", "method": "POST", "uri": "/im/acknowledgements",
         "request": "im.v1.AckRequest", "response": "im.v1.AckReply"},
        {"cmd": "0x0320", "reply": "0x0321", "method": "GET",
         "uri": "/im/conversations/{conversation_id}/messages",
         "request": "im.v1.HistoryRequest", "response": "im.v1.HistoryReply"},
        {"cmd": "0x0310", "push": "im.v1.Message"},
        {"cmd": "0x00FF", "error": "im.v1.Error", "message_field": "text", "code_field": "code",
         "statuses": {"ERROR_CODE_RATE_LIMITED": 429, "ERROR_CODE_FORBIDDEN": 403}},
    ])
}

/// The route `im` at `/im` and below: requests, WebSocket, polling. A caller is
/// named by `X-User-Id` from this machine.
pub fn route() -> Value {
    json!({
        "uris": ["/im", "/im/*"], "enable_websocket": true, "upstream_id": "im",
        "protocol": {
            "name": "tlv",
            "conf": {
                "replay": ["0x0101"], "login": ["0x0101"], "safe": ["0x0320"], "heartbeat": "0x0001",
            },
            "user": "$http_x_user_id",
            "user_from": ["127.0.0.1"],
            "requests": {
                "login": "{\"cmd\": 257, \"body\": {\"userId\": $im_user, \"token\": \"demo-$im_user\", \
                          \"device\": \"rest-$im_connection\"}}",
            },
        },
        "plugins": {"transcode": {"proto_id": "im", "commands": commands()}},
    })
}

/// A gateway in front of the IM server's lines `leased` and `public`, with the
/// listeners `edge` (HTTP, the route `im`) and `im` (TLV). What `change` does to
/// the route is done before it is put.
pub fn gateway(server: &ImServer, change: impl FnOnce(&mut Value)) -> SluiceBuilder {
    let mut route = route();
    change(&mut route);
    let upstream = two_lines("tlv", &server.line("leased").node(), &server.line("public").node(), "tlv");
    with_transcode(Sluice::builder())
        .listener("edge", json!({}))
        .listener("im", json!({"protocol": "tlv"}))
        .put("upstreams", "im", upstream)
        .put("protos", "im", json!({"content": PROTO}))
        .put("routes", "im", route)
        .put("stream_routes", "im", im_route(json!({})))
}

/// Adds the module. Its deadline allows for a busy machine and a debug build.
pub fn with_transcode(builder: SluiceBuilder) -> SluiceBuilder {
    builder.bytes("modules/transcode.wasm", &component("transcode")).put(
        "modules",
        "transcode",
        json!({"limits": {"deadline": "1s", "configure_deadline": "60s"}}),
    )
}

/// Lays fields over an object inside a route: `change(route, &["protocol", "conf"], …)`.
///
/// # Panics
/// When there is no such object.
pub fn change(route: &mut Value, path: &[&str], over: Value) {
    let inside = path.iter().fold(route, |value, name| value.get_mut(name).expect("the field is there"));
    merge(inside, over);
}

/// A login's text message.
pub fn login(user: u32, device: &str) -> Value {
    let body = json!({"userId": user, "token": format!("demo-{user}"), "device": device});
    json!({"cmd": 0x0101, "id": "login", "body": body})
}

/// A message to somebody, as a text message.
pub fn text(id: &str, to: u32, number: u64, text: &str) -> Value {
    json!({"cmd": 0x0301, "id": id, "body": {"to": to, "clientMessageId": number.to_string(), "text": text}})
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not in time: {what}"),
    }
}

/// An answer over HTTP.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The head, in lower case.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// With the answer, when it is none.
    pub fn json(&self) -> Value {
        let shown = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}) in answer {}: {shown}", self.status))
    }

    /// A field of the head.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(found, _)| *found == name).map(|(_, value)| value.trim())
    }
}

/// One kept HTTP/1.1 connection.
pub struct Http {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Lines each request has, each ended by CR LF.
    pub fields: String,
}

impl Http {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn try_connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new(), fields: String::new() })
    }

    /// Connects, and says who the caller is with each request.
    ///
    /// # Panics
    /// When nobody listens.
    pub async fn as_user(address: SocketAddr, user: u32) -> Self {
        let http = Self::try_connect(address).await.expect("the gateway listens");
        Self { fields: format!("X-User-Id: {user}\r\n"), ..http }
    }

    /// One request and its answer.
    ///
    /// # Panics
    /// When none comes in time.
    pub async fn request(&mut self, method: &str, target: &str, body: &[u8]) -> Answer {
        let answer = in_time("an answer", self.try_request(method, target, body)).await;
        answer.unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    /// The same; how long it takes is up to the caller.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn try_request(&mut self, method: &str, target: &str, body: &[u8]) -> std::io::Result<Answer> {
        let head = self.head(method, target, &format!("Content-Length: {}\r\n", body.len()));
        self.stream.write_all(&[head.as_bytes(), body].concat()).await?;
        let (status, head) = self.read_head().await?;
        let field = |name: &str| {
            let mut fields = head.lines().filter_map(|line| line.split_once(':'));
            fields.find(|(found, _)| *found == name).map(|(_, value)| value.trim().to_owned())
        };
        let mut body = Vec::new();
        if field("transfer-encoding").is_some() {
            while let Some(mut piece) = self.read_chunk().await? {
                body.append(&mut piece);
            }
        } else if let Some(length) = field("content-length") {
            body = self.read_exactly(length.parse().map_err(std::io::Error::other)?).await?;
        }
        Ok(Answer { status, head, body })
    }

    /// POSTs JSON.
    pub async fn post(&mut self, target: &str, body: &Value) -> Answer {
        self.request("POST", target, body.to_string().as_bytes()).await
    }

    /// GETs.
    pub async fn get(&mut self, target: &str) -> Answer {
        self.request("GET", target, b"").await
    }

    /// Makes this connection an event stream.
    ///
    /// # Panics
    /// With the answer, when it is none.
    pub async fn events(self, target: &str, last: Option<u64>) -> Events {
        in_time("a stream", self.try_events(target, last)).await.expect("an event stream")
    }

    /// The same; none when it is refused or the connection breaks.
    pub async fn try_events(mut self, target: &str, last: Option<u64>) -> Option<Events> {
        let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let head = self.head("GET", target, &format!("Accept: text/event-stream\r\n{last}"));
        self.stream.write_all(head.as_bytes()).await.ok()?;
        let (status, head) = self.read_head().await.ok()?;
        let is_stream = status == 200 && head.contains("text/event-stream");
        is_stream.then(|| Events { http: self, text: String::new() })
    }

    fn head(&self, method: &str, target: &str, more: &str) -> String {
        format!("{method} {target} HTTP/1.1\r\nHost: im.test\r\n{}{more}\r\n", self.fields)
    }

    async fn fill(&mut self) -> std::io::Result<()> {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.buffer.extend_from_slice(&piece[..count]);
                Ok(())
            }
        }
    }

    async fn read_line(&mut self, end: &[u8]) -> std::io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return Ok(self.buffer.drain(..at + end.len()).collect());
            }
            self.fill().await?;
        }
    }

    async fn read_exactly(&mut self, count: usize) -> std::io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.fill().await?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    async fn read_head(&mut self) -> std::io::Result<(u16, String)> {
        let head = self.read_line(b"\r\n\r\n").await?;
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.ok_or_else(|| std::io::Error::other(head.clone()))?, head))
    }

    /// The next chunk; none after the last.
    async fn read_chunk(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let line = self.read_line(b"\r\n").await?;
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        let size = usize::from_str_radix(&line, 16).map_err(std::io::Error::other)?;
        let mut piece = self.read_exactly(size + 2).await?;
        piece.truncate(size);
        Ok((size > 0).then_some(piece))
    }
}

/// An event stream.
pub struct Events {
    http: Http,
    text: String,
}

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `message` where none is said.
    pub name: String,
    /// The cursor.
    pub id: Option<u64>,
    /// What it says.
    pub data: Value,
}

impl Events {
    /// The next event; none when the stream ends or breaks. Cancel-safe.
    pub async fn try_next(&mut self) -> Option<Event> {
        loop {
            while let Some(at) = self.text.find("\n\n") {
                let block: String = self.text.drain(..at + 2).collect();
                let field = |name: &str| {
                    let lines = block.lines().filter_map(|line| line.split_once(": "));
                    lines.into_iter().find(|(found, _)| *found == name).map(|(_, value)| value.to_owned())
                };
                let Some(data) = field("data") else { continue };
                return Some(Event {
                    name: field("event").unwrap_or_else(|| "message".to_owned()),
                    id: field("id").and_then(|id| id.parse().ok()),
                    data: serde_json::from_str(&data).expect("an event is JSON"),
                });
            }
            let piece = self.http.read_chunk().await.ok().flatten()?;
            self.text.push_str(std::str::from_utf8(&piece).expect("an event stream is UTF-8"));
        }
    }

    /// The next event.
    ///
    /// # Panics
    /// When none comes in time.
    pub async fn next(&mut self) -> Event {
        in_time("an event", self.try_next()).await.expect("the stream goes on")
    }
}

/// A WebSocket client that speaks `sluice.json`.
pub struct JsonSocket {
    socket: WebSocketStream<TcpStream>,
    waiting: VecDeque<Value>,
}

impl JsonSocket {
    /// Connects to `target`, `/im?user=1` for example.
    ///
    /// # Errors
    /// The status of a refusal, or what else went wrong.
    pub async fn try_connect(address: SocketAddr, target: &str, token: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let mut request =
            format!("ws://{address}{target}").into_client_request().map_err(|error| error.to_string())?;
        let protocols = match token {
            "" => "sluice.json".to_owned(),
            token => format!("sluice.json, token.{token}"),
        };
        let protocols = protocols.parse().map_err(|_| "no subprotocol".to_owned())?;
        request.headers_mut().insert("sec-websocket-protocol", protocols);
        let (socket, answer) = client_async(request, stream).await.map_err(|error| error.to_string())?;
        assert_eq!(answer.headers()["sec-websocket-protocol"], "sluice.json");
        Ok(Self { socket, waiting: VecDeque::new() })
    }

    /// The same.
    ///
    /// # Panics
    /// When it cannot.
    pub async fn connect(address: SocketAddr, target: &str) -> Self {
        in_time("a handshake", Self::try_connect(address, target, "")).await.expect("a handshake")
    }

    /// Connects as a user and logs in.
    pub async fn logged_in(address: SocketAddr, user: u32, device: &str) -> Self {
        let mut socket = Self::connect(address, &format!("/im?user={user}")).await;
        let reply = socket.call(&login(user, device)).await;
        assert_eq!((&reply["cmd"], &reply["body"]["userId"]), (&json!(0x0102), &json!(user)), "{reply}");
        socket
    }

    /// Sends a text message.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn try_send(&mut self, message: &Value) -> Result<(), String> {
        let sent = self.socket.send(Message::text(message.to_string())).await;
        sent.map_err(|error| error.to_string())
    }

    /// The same.
    ///
    /// # Panics
    /// When it cannot.
    pub async fn send(&mut self, message: &Value) {
        self.try_send(message).await.expect("the connection is open");
    }

    async fn read(&mut self) -> Result<Value, String> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"));
                }
                Some(Ok(Message::Close(frame))) => {
                    return Err(frame.map_or_else(|| "closed".to_owned(), |frame| frame.to_string()));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(other)) => return Err(format!("{other:?} instead of a text")),
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("closed".to_owned()),
            }
        }
    }

    /// The next message, those first that came while an answer was waited for.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn try_next(&mut self) -> Result<Value, String> {
        match self.waiting.pop_front() {
            Some(message) => Ok(message),
            None => self.read().await,
        }
    }

    /// The same.
    ///
    /// # Panics
    /// When none comes in time.
    pub async fn next(&mut self) -> Value {
        in_time("a message", self.try_next()).await.expect("the connection is open")
    }

    /// Sends a message and waits for the one with its `id`.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn try_call(&mut self, message: &Value) -> Result<Value, String> {
        self.try_send(message).await?;
        loop {
            let answer = self.read().await?;
            if answer["id"] == message["id"] {
                return Ok(answer);
            }
            self.waiting.push_back(answer);
        }
    }

    /// The same.
    ///
    /// # Panics
    /// When none comes in time.
    pub async fn call(&mut self, message: &Value) -> Value {
        in_time("an answer", self.try_call(message)).await.expect("the connection is open")
    }

    /// Waits for the close, dropping what comes before; code and reason.
    ///
    /// # Panics
    /// When none comes in time.
    pub async fn closed(&mut self) -> (u16, String) {
        in_time("a close", async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Close(Some(frame)))) => {
                        return (frame.code.into(), frame.reason.to_string());
                    }
                    Some(Ok(Message::Close(None))) => return (CloseCode::Status.into(), String::new()),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return (CloseCode::Abnormal.into(), String::new()),
                }
            }
        })
        .await
    }

    /// Closes it.
    pub async fn close(mut self) {
        // A connection that is gone is closed.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.socket.close(None)).await;
    }
}

/// A session that outlives connections, as its client knows it.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its id.
    pub id: String,
    /// What proves that it is the client's.
    pub token: String,
}

impl Session {
    /// Makes one on a user's connection; `message` is its login.
    ///
    /// # Panics
    /// With the answer, when it is refused.
    pub async fn open(http: &mut Http, user: u32, message: &Value) -> Self {
        let answer = http.post(&format!("/im?session=new&user={user}"), message).await;
        assert_eq!(answer.status, 201, "{}", answer.json());
        let told = answer.json();
        let text = |name: &str| told[name].as_str().expect("a text").to_owned();
        Self { id: text("session"), token: text("token") }
    }

    /// Where requests about it go, with more of a query.
    pub fn target(&self, more: &str) -> String {
        format!("/im?session={}&token={}{more}", self.id, self.token)
    }
}
