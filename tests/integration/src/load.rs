//! Steady load on a gateway, and long sessions that are looked after, while a
//! test changes things.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use sluice_harness::service::im_client::ImClient;
use sluice_harness::{Background, DEADLINE, Raw, within};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

/// Failures that are kept to be shown.
const SHOWN_MAX: usize = 10;
/// Pause of a client between two requests: load, not a benchmark.
const PAUSE: Duration = Duration::from_millis(2);
/// Pause of a session between two messages.
const SESSION_PAUSE: Duration = Duration::from_millis(200);

#[derive(Default)]
struct Tally {
    good: AtomicU64,
    bad: AtomicU64,
    shown: Mutex<Vec<String>>,
}

impl Tally {
    fn note(&self, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => {
                self.good.fetch_add(1, Ordering::Relaxed);
            }
            Err(why) => {
                self.bad.fetch_add(1, Ordering::Relaxed);
                let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
                if shown.len() < SHOWN_MAX {
                    shown.push(why);
                }
            }
        }
    }

    fn assert_none_bad(&self, what: &str) -> u64 {
        let (good, bad) = (self.good.load(Ordering::Relaxed), self.bad.load(Ordering::Relaxed));
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(bad == 0 && good > 0, "{what}: {bad} failed, {good} went well: {shown:#?}");
        good
    }
}

/// Clients that repeat a step until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    tally: Arc<Tally>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `clients` threads; `client` makes each one's step.
    pub fn start<C>(clients: usize, client: impl Fn(usize) -> C) -> Load
    where
        C: FnMut() -> Result<(), String> + Send + 'static,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let tally = Arc::new(Tally::default());
        let threads = (0..clients)
            .map(|index| {
                let (mut step, stop, tally) = (client(index), Arc::clone(&stop), Arc::clone(&tally));
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        tally.note(step());
                        thread::sleep(PAUSE);
                    }
                })
            })
            .collect();
        Load { stop, tally, threads }
    }

    /// Requests for `target` on connections that are kept, each answered by 200.
    pub fn kept(clients: usize, address: SocketAddr, target: &str) -> Load {
        Load::start(clients, |_| {
            let target = target.to_owned();
            let mut kept: Option<Raw> = None;
            move || {
                let mut client = match kept.take() {
                    Some(client) => client,
                    None => Raw::try_connect(address).map_err(|error| format!("connect: {error}"))?,
                };
                let closes = exchange(&mut client, &target, "keep-alive")?;
                kept = (!closes).then_some(client);
                Ok(())
            }
        })
    }

    /// Requests for `target`, a connection each, each answered by 200.
    pub fn short(clients: usize, address: SocketAddr, target: &str) -> Load {
        Load::start(clients, |_| {
            let target = target.to_owned();
            move || {
                let mut client = Raw::try_connect(address).map_err(|error| format!("connect: {error}"))?;
                exchange(&mut client, &target, "close").map(|_| ())
            }
        })
    }

    /// Steps that went well so far.
    pub fn answered(&self) -> u64 {
        self.tally.good.load(Ordering::Relaxed)
    }

    /// Waits until `count` more steps went well.
    pub fn wait_more(&self, count: u64) {
        let until = self.answered() + count;
        within(DEADLINE * 2, "requests under load", || (self.answered() >= until).then_some(()));
    }

    /// Ends the load; returns how many steps went well.
    ///
    /// # Panics
    /// When one failed, or there was none.
    pub fn stop(mut self) -> u64 {
        self.end();
        self.tally.assert_none_bad("load")
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

/// One request; says whether the connection ends with its answer.
fn exchange(client: &mut Raw, target: &str, connection: &str) -> Result<bool, String> {
    client
        .try_send(format!("GET {target} HTTP/1.1\r\nHost: test\r\nConnection: {connection}\r\n\r\n"))
        .map_err(|error| format!("send: {error}"))?;
    let (status, head) = answer(client).map_err(|error| format!("no answer: {error}"))?;
    if status != 200 {
        return Err(format!("answered {head}"));
    }
    Ok(head.to_ascii_lowercase().contains("connection: close"))
}

/// Reads an answer with a length without panicking; status and head.
pub fn answer(client: &mut Raw) -> Result<(u16, String), String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.read_answer()))
        .map(|(status, head, _)| (status, head))
        .map_err(|cause| {
            let text = cause.downcast_ref::<String>().cloned();
            text.unwrap_or_else(|| "the answer broke off".to_owned())
        })
}

/// Open sessions, each saying something now and then and waiting for the answer.
pub struct Sessions {
    background: Background,
    watch: Watch,
    wanted: u64,
}

#[derive(Clone, Default)]
struct Watch {
    stop: Arc<AtomicBool>,
    open: Arc<AtomicU64>,
    tally: Arc<Tally>,
}

/// A session that is open; gone with it.
struct Open(Arc<AtomicU64>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Watch {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn opened(&self) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(&self.open))
    }
}

impl Sessions {
    /// Opens `websockets` sessions at `ws` (path `/ws`) and `users` TLV sessions
    /// at `tlv`, and waits until all are open.
    ///
    /// # Panics
    /// When one cannot be opened.
    pub fn open(ws: SocketAddr, websockets: u32, tlv: SocketAddr, users: u32) -> Sessions {
        let background = Background::start(None);
        let watch = Watch::default();
        for number in 0..websockets {
            spawn(&background, &watch, websocket(ws, number, watch.clone()));
        }
        for user in 0..users {
            spawn(&background, &watch, tlv_session(tlv, 1000 + user, watch.clone()));
        }
        let sessions = Sessions { background, watch, wanted: u64::from(websockets) + u64::from(users) };
        within(DEADLINE * 3, "open sessions", || {
            let bad = sessions.failures();
            assert!(bad.is_empty(), "sessions cannot be opened: {bad:#?}");
            (sessions.count() == sessions.wanted).then_some(())
        });
        sessions
    }

    fn failures(&self) -> Vec<String> {
        self.watch.tally.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sessions open now.
    pub fn count(&self) -> u64 {
        self.watch.open.load(Ordering::Relaxed)
    }

    /// Messages answered so far, on all sessions together.
    pub fn answered(&self) -> u64 {
        self.watch.tally.good.load(Ordering::Relaxed)
    }

    /// Waits until there were, a session on the average, `rounds` more answers.
    pub fn wait_rounds(&self, rounds: u64) {
        let until = self.answered() + rounds * self.wanted;
        within(DEADLINE * 2, "messages on open sessions", || {
            (self.answered() >= until || self.count() < self.wanted).then_some(())
        });
    }

    /// Waits until a session has ended by itself, however it did.
    pub fn wait_cut(&self) {
        within(DEADLINE * 2, "the end of every session", || (self.count() == 0).then_some(()));
    }

    /// Ends them; returns how many messages were answered.
    ///
    /// # Panics
    /// When one was lost before.
    pub fn close(self) -> u64 {
        let lost = self.wanted - self.count();
        assert_eq!(lost, 0, "sessions were lost: {:#?}", self.failures());
        self.watch.stop.store(true, Ordering::Relaxed);
        self.wait_cut();
        let answered = self.watch.tally.assert_none_bad("sessions");
        drop(self.background);
        answered
    }
}

fn spawn(
    background: &Background,
    watch: &Watch,
    session: impl Future<Output = Result<(), String>> + Send + 'static,
) {
    let tally = Arc::clone(&watch.tally);
    background.handle().spawn(async move {
        if let Err(why) = session.await {
            tally.note(Err(why));
        }
    });
}

/// Awaits an answer, not for ever.
async fn in_time<T>(what: &str, answer: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(DEADLINE, answer).await.map_err(|_| format!("{what}: no answer in time"))
}

async fn websocket(address: SocketAddr, number: u32, watch: Watch) -> Result<(), String> {
    let stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
    let handshake = tokio_tungstenite::client_async("ws://test/ws", stream);
    let (mut socket, _) =
        in_time("handshake", handshake).await?.map_err(|error| format!("handshake: {error}"))?;
    let _open = watch.opened();
    let mut round = 0_u64;
    while !watch.is_over() {
        let text = format!("session {number} round {round}");
        socket.send(Message::text(text.clone())).await.map_err(|error| format!("websocket: {error}"))?;
        match in_time("websocket", socket.next()).await? {
            Some(Ok(Message::Text(answer))) if answer.as_str() == text => watch.tally.note(Ok(())),
            other => return Err(format!("websocket {number}: {other:?} instead of {text:?}")),
        }
        round += 1;
        tokio::time::sleep(SESSION_PAUSE).await;
    }
    let _ = socket.close(None).await;
    Ok(())
}

async fn tlv_session(address: SocketAddr, user: u32, watch: Watch) -> Result<(), String> {
    let login = ImClient::login_at(address, user, "test");
    let (client, _) = in_time("login", login).await?.map_err(|error| format!("login: {error}"))?;
    let _open = watch.opened();
    while !watch.is_over() {
        let heartbeat = in_time("heartbeat", client.heartbeat()).await?;
        heartbeat.map_err(|error| format!("tlv session of {user}: {error}"))?;
        watch.tally.note(Ok(()));
        tokio::time::sleep(SESSION_PAUSE).await;
    }
    Ok(())
}
