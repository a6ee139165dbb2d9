//! Clients of all kinds that talk to each other while things break under them.
//!
//! Each sends to the next, one message after the other: a message that is not
//! acknowledged is sent again under its own number until it is. What came twice
//! from the service is told by its id, as any client does. [`Soak`] keeps the
//! books: what was acknowledged must have come, once and in order.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_harness::service::im_client::{ImClient, ImError};
use sluice_harness::service::im_v1::SendRequest;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::im::{Http, JsonSocket, Session, login, text};

/// Time between two messages of a client.
const PAUSE: Duration = Duration::from_millis(800);
/// How long an acknowledgement is waited for before the message is sent again.
const PATIENCE: Duration = Duration::from_secs(8);
/// Pause before a client that was thrown out comes back.
const COME_BACK: Duration = Duration::from_millis(200);

/// What was sent and what came, by sender and receiver.
#[derive(Default)]
struct Books {
    acknowledged: HashMap<(u32, u32), Vec<u64>>,
    received: HashMap<(u32, u32), Vec<u64>>,
    seen: HashMap<u32, HashSet<u64>>,
    faults: Vec<String>,
}

/// Where a gateway listens.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// Its listener for HTTP.
    pub edge: SocketAddr,
    /// Its listener for frames.
    pub tlv: SocketAddr,
}

/// What all clients share.
struct Shared {
    books: Mutex<Books>,
    nodes: Vec<Node>,
    clients: u32,
    /// Of these, those who have logged in: the service keeps messages only for
    /// whom it knows.
    known: AtomicU64,
    /// No new messages.
    is_closing: AtomicBool,
    /// Messages that wait for their acknowledgement.
    outstanding: AtomicU64,
    returns: AtomicU64,
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acknowledged(&self, from: u32, to: u32, number: u64) {
        self.outstanding.fetch_sub(1, Ordering::SeqCst);
        self.books().acknowledged.entry((from, to)).or_default().push(number);
    }

    /// Takes a message in, unless its id came before.
    fn received(&self, from: u32, to: u32, id: u64, text: &str) {
        let mut books = self.books();
        if books.seen.entry(to).or_default().insert(id) {
            match text.parse() {
                Ok(number) => books.received.entry((from, to)).or_default().push(number),
                Err(_) => books.faults.push(format!("{from} to {to}: {text:?} is no message of ours")),
            }
        }
    }

    fn fault(&self, what: String) {
        self.books().faults.push(what);
    }
}

/// Clients at work.
pub struct Soak {
    shared: Arc<Shared>,
    runtime: Runtime,
}

/// What it came to.
#[derive(Debug)]
pub struct Outcome {
    /// Messages that were acknowledged; all have come.
    pub messages: u64,
    /// How often a client had to log in again.
    pub returns: u64,
}

impl Soak {
    /// Starts `clients` of them, spread over `nodes`: by turns frames, WebSocket,
    /// and sessions that are polled and streamed. One whose node takes no
    /// connection goes to the next.
    ///
    /// # Panics
    /// When there is no runtime to be had.
    pub fn start(nodes: &[Node], clients: u32) -> Soak {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime can be built");
        let shared = Arc::new(Shared {
            books: Mutex::default(),
            nodes: nodes.to_vec(),
            clients,
            known: AtomicU64::new(0),
            is_closing: AtomicBool::new(false),
            outstanding: AtomicU64::new(0),
            returns: AtomicU64::new(0),
        });
        for user in 1..=clients {
            let to = user % clients + 1;
            let shared = Arc::clone(&shared);
            match user % 3 {
                0 => drop(runtime.spawn(frames(shared, user, to))),
                1 => drop(runtime.spawn(json(shared, user, to, Kind::Socket))),
                _ => drop(runtime.spawn(json(shared, user, to, Kind::Session))),
            }
        }
        Soak { shared, runtime }
    }

    /// Messages acknowledged so far.
    pub fn messages(&self) -> u64 {
        self.shared.books().acknowledged.values().map(|numbers| numbers.len() as u64).sum()
    }

    /// Pairs of clients between which something has come.
    pub fn conversations(&self) -> usize {
        self.shared.books().received.len()
    }

    /// Ends it: nothing new is sent, and what is under way must come within
    /// `limit`.
    ///
    /// # Panics
    /// When a message was lost, came twice or out of order.
    pub fn finish(self, limit: Duration) -> Outcome {
        self.shared.is_closing.store(true, Ordering::SeqCst);
        let until = std::time::Instant::now() + limit;
        while (self.shared.outstanding.load(Ordering::SeqCst) > 0 || self.missing() > 0)
            && std::time::Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(20));
        }
        let missing = self.missing();
        let outcome =
            Outcome { messages: self.messages(), returns: self.shared.returns.load(Ordering::Relaxed) };
        let outstanding = self.shared.outstanding.load(Ordering::SeqCst);
        let books = self.shared.books();
        let disordered: Vec<String> = books
            .received
            .iter()
            .filter(|(_, numbers)| !numbers.is_sorted_by(|one, next| one < next))
            .map(|((from, to), numbers)| format!("{from} to {to}: {numbers:?}"))
            .collect();
        assert!(books.faults.is_empty(), "{:#?}", books.faults);
        assert!(disordered.is_empty(), "twice or out of order: {disordered:#?}");
        drop(books);
        assert_eq!(missing, 0, "acknowledged and lost, of {outcome:?}: {}", self.lost());
        assert_eq!(outstanding, 0, "never acknowledged, of {outcome:?}");
        self.runtime.shutdown_background();
        outcome
    }

    fn missing(&self) -> usize {
        let books = self.shared.books();
        let of_pair = |(pair, numbers): (&(u32, u32), &Vec<u64>)| {
            let received: HashSet<_> = books.received.get(pair).into_iter().flatten().collect();
            numbers.iter().filter(|number| !received.contains(number)).count()
        };
        books.acknowledged.iter().map(of_pair).sum()
    }

    fn lost(&self) -> String {
        let books = self.shared.books();
        let mut shown = Vec::new();
        for (pair, numbers) in &books.acknowledged {
            let received: HashSet<_> = books.received.get(pair).into_iter().flatten().collect();
            let lost: Vec<_> = numbers.iter().filter(|number| !received.contains(number)).collect();
            if !lost.is_empty() {
                shown.push(format!("{pair:?}: {lost:?} of {}", numbers.len()));
            }
        }
        shown.join("; ")
    }
}

/// A client that speaks frames.
async fn frames(shared: Arc<Shared>, user: u32, to: u32) {
    let mut next = Next::new(user, to);
    loop {
        let login = ImClient::login_at(next.node(&shared).tlv, user, "soak");
        let Ok(Ok((client, _))) = timeout(PATIENCE, login).await else {
            next.node += 1;
            sleep(COME_BACK).await;
            continue;
        };
        next.logged_in(&shared);
        let receiving = async {
            while let Some(message) = client.push().await {
                shared.received(message.from, user, message.message_id, &message.text);
                // What is not acknowledged comes again.
                let _ = client.acknowledge(message.message_id).await;
            }
        };
        let sending = async {
            loop {
                if !next.take(&shared) {
                    sleep(PAUSE).await;
                    continue;
                }
                let request = SendRequest {
                    to,
                    client_message_id: next.number,
                    text: next.number.to_string(),
                    ..SendRequest::default()
                };
                match timeout(PATIENCE, client.send_request(&request)).await {
                    Ok(Ok(_)) => {
                        next.arrived(&shared);
                        sleep(PAUSE).await;
                    }
                    Ok(Err(ImError::Closed(_) | ImError::Io(_))) => return,
                    Ok(Err(_)) | Err(_) => sleep(COME_BACK).await,
                }
            }
        };
        tokio::select! { () = receiving => {}, () = sending => {} }
        shared.returns.fetch_add(1, Ordering::Relaxed);
        sleep(COME_BACK).await;
    }
}

/// The message a client is at.
struct Next {
    user: u32,
    to: u32,
    /// The node it goes to, counted on for ever.
    node: usize,
    number: u64,
    /// It waits for its acknowledgement.
    is_out: bool,
    /// The client has logged in before.
    is_known: bool,
}

impl Next {
    fn new(user: u32, to: u32) -> Self {
        // Neighbours of one kind are on different nodes.
        Self { user, to, node: user as usize / 3, number: 0, is_out: false, is_known: false }
    }

    fn node(&self, shared: &Shared) -> Node {
        shared.nodes[self.node % shared.nodes.len()]
    }

    fn logged_in(&mut self, shared: &Shared) {
        if !std::mem::replace(&mut self.is_known, true) {
            shared.known.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The message to send: the one before until it is acknowledged. False: none
    /// any more.
    fn take(&mut self, shared: &Shared) -> bool {
        if self.is_out {
            return true;
        }
        let is_early = shared.known.load(Ordering::SeqCst) < u64::from(shared.clients);
        if is_early || shared.is_closing.load(Ordering::SeqCst) {
            return false;
        }
        shared.outstanding.fetch_add(1, Ordering::SeqCst);
        self.number += 1;
        self.is_out = true;
        true
    }

    fn arrived(&mut self, shared: &Shared) {
        if std::mem::take(&mut self.is_out) {
            shared.acknowledged(self.user, self.to, self.number);
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Socket,
    Session,
}

/// How a client that speaks JSON is connected.
enum Link {
    Socket(Box<JsonSocket>),
    Session {
        http: Option<Http>,
        session: Session,
        edge: SocketAddr,
        /// The client's number of the last message.
        number: u64,
        incoming: mpsc::Receiver<Value>,
    },
}

impl Link {
    async fn open(shared: &Arc<Shared>, edge: SocketAddr, user: u32, kind: Kind) -> Result<Self, String> {
        match kind {
            Kind::Socket => {
                let target = format!("/im?user={user}");
                let mut socket = JsonSocket::try_connect(edge, &target, "").await?;
                let reply = socket.try_call(&login(user, "soak")).await?;
                if reply["cmd"] != 0x0102 {
                    return Err(reply.to_string());
                }
                Ok(Self::Socket(Box::new(socket)))
            }
            Kind::Session => {
                let mut http = Http::try_connect(edge).await.map_err(|error| error.to_string())?;
                let body = login(user, "soak").to_string();
                let target = format!("/im?session=new&user={user}");
                let answer = http.try_request("POST", &target, body.as_bytes()).await;
                let answer = answer.map_err(|error| error.to_string())?;
                if answer.status != 201 {
                    return Err(answer.json().to_string());
                }
                let told = answer.json();
                let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
                let session = Session { id: text("session"), token: text("token") };
                let (sender, incoming) = mpsc::channel(64);
                tokio::spawn(pump(Arc::clone(shared), edge, session.clone(), sender));
                Ok(Self::Session { http: Some(http), session, edge, number: 0, incoming })
            }
        }
    }

    /// The next message. Cancel-safe.
    async fn next(&mut self) -> Result<Value, String> {
        match self {
            Self::Socket(socket) => socket.try_next().await,
            Self::Session { incoming, .. } => incoming.recv().await.ok_or_else(|| "ended".to_owned()),
        }
    }

    async fn send(&mut self, message: &Value) -> Result<(), String> {
        let (http, session, edge, number) = match self {
            Self::Socket(socket) => return socket.try_send(message).await,
            Self::Session { http, session, edge, number, .. } => (http, session, *edge, number),
        };
        *number += 1;
        let target = session.target(&format!("&n={number}"));
        // The number makes one of a message that was sent twice.
        for _ in 0..3 {
            let mut connection = match http.take() {
                Some(connection) => connection,
                None => Http::try_connect(edge).await.map_err(|error| error.to_string())?,
            };
            let sent = connection.try_request("POST", &target, message.to_string().as_bytes()).await;
            let Ok(answer) = sent else { continue };
            *http = Some(connection);
            match answer.status {
                202 => return Ok(()),
                404 | 410 => return Err("the session is gone".to_owned()),
                _ => sleep(COME_BACK).await,
            }
        }
        Ok(())
    }
}

/// A client that speaks JSON.
async fn json(shared: Arc<Shared>, user: u32, to: u32, kind: Kind) {
    let mut next = Next::new(user, to);
    loop {
        let edge = next.node(&shared).edge;
        match timeout(PATIENCE, Link::open(&shared, edge, user, kind)).await {
            Ok(Ok(link)) => {
                if matches!(link, Link::Socket(_)) {
                    next.logged_in(&shared);
                }
                converse(&shared, link, &mut next).await;
            }
            Ok(Err(_)) | Err(_) => next.node += 1,
        }
        shared.returns.fetch_add(1, Ordering::Relaxed);
        sleep(COME_BACK).await;
    }
}

/// Talks until the link is gone.
async fn converse(shared: &Shared, mut link: Link, next: &mut Next) {
    let mut at = Instant::now();
    loop {
        let message = tokio::select! {
            message = link.next() => match message {
                Ok(message) => message,
                Err(_) => return,
            },
            () = sleep_until(at) => {
                at = Instant::now() + if next.is_out { PATIENCE } else { PAUSE };
                if next.take(shared) {
                    at = Instant::now() + PATIENCE;
                    let number = next.number;
                    let message = text(&format!("m{number}"), next.to, number, &number.to_string());
                    if link.send(&message).await.is_err() {
                        return;
                    }
                }
                continue;
            }
        };
        let body = &message["body"];
        let number = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
        if message["cmd"] == 0x0310 {
            let (id, from) = (number(&body["messageId"]), body["from"].as_u64().unwrap_or(0) as u32);
            shared.received(from, next.user, id, body["text"].as_str().unwrap_or_default());
            let acknowledgement = json!({"cmd": 0x0311, "body": {"messageId": id.to_string()}});
            if link.send(&acknowledgement).await.is_err() {
                return;
            }
        } else if message["id"] == "login" {
            if message["cmd"] != 0x0102 {
                return;
            }
            next.logged_in(shared);
        } else if message["id"] == json!(format!("m{}", next.number)) {
            if message["cmd"] == 0x0302 {
                next.arrived(shared);
                at = Instant::now() + PAUSE;
            } else {
                // Refused or lost: the same again.
                at = Instant::now() + COME_BACK;
            }
        }
    }
}

/// Fetches what waits for a session, by turns as polls, an event stream and a
/// WebSocket connection, until the session is gone.
async fn pump(shared: Arc<Shared>, edge: SocketAddr, session: Session, sender: mpsc::Sender<Value>) {
    let mut cursor = 0;
    for turn in 0.. {
        let target = session.target(&format!("&cursor={cursor}"));
        let outcome = match turn % 3 {
            0 => poll(&shared, edge, &session, &mut cursor, &sender).await,
            1 => stream(&shared, edge, &target, &mut cursor, &sender).await,
            _ => attach(&shared, edge, &session, &target, &mut cursor, &sender).await,
        };
        if outcome.is_none() {
            return;
        }
    }
}

/// Hands a message on. None: the session or its client is gone.
async fn hand(
    shared: &Shared,
    found: u64,
    message: Value,
    cursor: &mut u64,
    sender: &mpsc::Sender<Value>,
) -> Option<()> {
    if found != *cursor + 1 {
        shared.fault(format!("cursor {found} after {cursor}: {message}"));
    }
    *cursor = found;
    sender.send(message).await.ok()
}

async fn poll(
    shared: &Shared,
    edge: SocketAddr,
    session: &Session,
    cursor: &mut u64,
    sender: &mpsc::Sender<Value>,
) -> Option<()> {
    // The session is its node's: without that there is none.
    let mut http = Http::try_connect(edge).await.ok()?;
    for _ in 0..5 {
        let target = session.target(&format!("&cursor={cursor}&wait=2s"));
        let Ok(answer) = http.try_request("GET", &target, b"").await else { return Some(()) };
        if answer.status != 200 {
            return None;
        }
        let batch = answer.json();
        if let Some(gap) = batch.get("gap") {
            shared.fault(format!("a gap: {gap}"));
        }
        for message in batch["messages"].as_array().into_iter().flatten() {
            let found = message["cursor"].as_u64().unwrap_or(0);
            hand(shared, found, message["message"].clone(), cursor, sender).await?;
        }
        if batch.get("end").is_some() {
            return None;
        }
    }
    Some(())
}

async fn stream(
    shared: &Shared,
    edge: SocketAddr,
    target: &str,
    cursor: &mut u64,
    sender: &mpsc::Sender<Value>,
) -> Option<()> {
    let http = Http::try_connect(edge).await.ok()?;
    let Some(mut events) = http.try_events(target, None).await else { return Some(()) };
    for _ in 0..6 {
        match timeout(Duration::from_secs(4), events.try_next()).await {
            Ok(Some(event)) if event.name == "message" => {
                hand(shared, event.id.unwrap_or(0), event.data, cursor, sender).await?;
            }
            Ok(Some(event)) if event.name == "gap" => shared.fault(format!("a gap: {}", event.data)),
            Ok(Some(_)) => return None,
            Ok(None) | Err(_) => break,
        }
    }
    Some(())
}

async fn attach(
    shared: &Shared,
    edge: SocketAddr,
    session: &Session,
    target: &str,
    cursor: &mut u64,
    sender: &mpsc::Sender<Value>,
) -> Option<()> {
    let Ok(mut socket) = JsonSocket::try_connect(edge, target, &session.token).await else {
        return Some(());
    };
    for _ in 0..8 {
        let Ok(Ok(message)) = timeout(Duration::from_secs(4), socket.try_next()).await else { break };
        if message.get("end").is_some() {
            return None;
        }
        if let Some(gap) = message.get("gap") {
            shared.fault(format!("a gap: {gap}"));
        }
        if let (Some(found), Some(inner)) = (message["cursor"].as_u64(), message.get("message")) {
            hand(shared, found, inner.clone(), cursor, sender).await?;
            let _ = socket.try_send(&json!({"ack": *cursor})).await;
        }
    }
    Some(())
}
