//! A WebSocket connection attached to a session that outlives it.
//!
//! What waits in the session's mailbox goes out with its cursor; what the client
//! sends goes in, plain or numbered (`{"n": 1, "message": …}`), and `{"ack": 7}`
//! tells what it has. When the connection goes the session stays.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use crate::config::objects::WebSocketConf;
use crate::observe::ReasonFamily;
use crate::proxy::SharedWorker;

use super::mailbox::Batch;
use super::post::{Holder, Order, Refused, What};
use super::sessions::{gap_text, message_text};
use super::socket::{READ_BYTES, WRITE_BYTES, Wire};

/// How long the other side may take to close.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// A session's stream, ready to be carried.
pub(super) struct Attached {
    pub(super) holder: Holder,
    pub(super) batches: mpsc::Receiver<Batch>,
    /// What the client is told first.
    pub(super) hello: String,
}

/// Why the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client closed or is gone.
    Client,
    /// Another connection took the session over.
    Replaced,
    /// The session ended.
    Session(&'static str),
    /// The client broke a rule; with the close code.
    Fault(u16, &'static str),
}

/// Text that tells of itself what it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Control<'a> {
    #[serde(default)]
    ack: Option<u64>,
    #[serde(default)]
    n: Option<u64>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
}

/// Carries a session's messages until either side goes.
pub(super) async fn carry<W: Wire>(
    worker: SharedWorker,
    wire: W,
    attached: Attached,
    conf: WebSocketConf,
    send_timeout: Duration,
) {
    let message_max = Some(conf.message_max as usize);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(WRITE_BYTES)
        .max_message_size(message_max)
        .max_frame_size(message_max);
    let socket = WebSocketStream::from_raw_socket(wire, Role::Server, Some(config)).await;
    let Attached { holder, batches, hello } = attached;
    let mut own = Carrier { worker, socket, holder, conf, send_timeout };
    let end = own.run(batches, hello).await;
    own.finish(end).await;
}

struct Carrier<W> {
    worker: SharedWorker,
    socket: WebSocketStream<W>,
    holder: Holder,
    conf: WebSocketConf,
    send_timeout: Duration,
}

impl<W: Wire> Carrier<W> {
    async fn run(&mut self, mut batches: mpsc::Receiver<Batch>, hello: String) -> End {
        if let Err(end) = self.send(Message::text(hello)).await {
            return end;
        }
        let mut heard = Instant::now();
        let mut pinged = None;
        loop {
            let quiet = match pinged {
                None => heard + self.conf.ping_interval,
                Some(pinged) => pinged + self.conf.pong_timeout,
            };
            let step = tokio::select! {
                message = self.socket.next() => {
                    (heard, pinged) = (Instant::now(), None);
                    match message {
                        Some(Ok(message)) => self.received(message).await,
                        Some(Err(error)) => Err(fault(&error)),
                        None => Err(End::Client),
                    }
                }
                batch = batches.recv() => match batch {
                    Some(batch) => self.deliver(batch).await,
                    None => Err(End::Replaced),
                },
                () = sleep_until(quiet) => match pinged {
                    Some(_) => Err(End::Fault(1008, "websocket_no_pong")),
                    None => {
                        pinged = Some(Instant::now());
                        self.send(Message::Ping(Bytes::new())).await
                    }
                },
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn send(&mut self, message: Message) -> Result<(), End> {
        match timeout(self.send_timeout, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Client),
            Err(_) => Err(End::Fault(1008, "send_timeout")),
        }
    }

    async fn received(&mut self, message: Message) -> Result<(), End> {
        match message {
            Message::Text(text) => self.take(text.as_bytes()).await,
            Message::Binary(_) => Err(End::Fault(1003, "websocket_wrong_type")),
            Message::Close(_) => Err(End::Client),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
        }
    }

    async fn take(&mut self, text: &[u8]) -> Result<(), End> {
        let control = serde_json::from_slice(text).ok();
        let (text, number) = match control {
            Some(Control { ack: Some(cursor), n: None, message: None }) => {
                // A session that is gone needs no acknowledgement; the stream's end tells.
                let _ = self.order(What::Acknowledge { cursor });
                return Ok(());
            }
            Some(Control { ack: None, n, message: Some(message) }) => {
                (Bytes::copy_from_slice(message.get().as_bytes()), n)
            }
            _ => (Bytes::copy_from_slice(text), None),
        };
        let (reply, answer) = oneshot::channel();
        let sent = match self.order(What::Send { text, number, reply }) {
            Ok(()) => answer.await.unwrap_or(Err(Refused::Unknown)),
            Err(refused) => Err(refused),
        };
        let told = match (sent, number) {
            (Ok(_), None) => return Ok(()),
            (Ok(is_new), Some(number)) => format!("{{\"accepted\":{number},\"duplicate\":{}}}", !is_new),
            (Err(Refused::Message(text)), _) => String::from_utf8_lossy(&text).into_owned(),
            (Err(Refused::Busy), number) => busy(number),
            (Err(_), _) => return Err(End::Session("session_ended")),
        };
        self.send(Message::text(told)).await
    }

    fn order(&self, what: What) -> Result<(), Refused> {
        self.worker.shared.im.send(&self.holder.id, Order { holder: self.holder.clone(), what })
    }

    async fn deliver(&mut self, batch: Batch) -> Result<(), End> {
        let feeding = async {
            if let Some(gap) = batch.gap {
                let text = format!("{{\"gap\":{}}}", gap_text(gap));
                self.socket.feed(Message::text(text)).await?;
            }
            for (cursor, text) in &batch.messages {
                let mut out = Vec::with_capacity(text.len() + 40);
                message_text(&mut out, *cursor, text);
                let text = String::from_utf8_lossy(&out).into_owned();
                self.socket.feed(Message::text(text)).await?;
            }
            if let Some(reason) = batch.ended {
                let text = format!("{{\"end\":{{\"reason\":\"{reason}\"}}}}");
                self.socket.feed(Message::text(text)).await?;
            }
            self.socket.flush().await
        };
        match timeout(self.send_timeout, feeding).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(End::Client),
            Err(_) => return Err(End::Fault(1008, "send_timeout")),
        }
        batch.ended.map_or(Ok(()), |reason| Err(End::Session(reason)))
    }

    async fn finish(mut self, end: End) {
        let (code, reason) = match end {
            End::Client => (1000, "client_closed"),
            End::Replaced => (4001, "session_replaced"),
            End::Session(reason @ ("drained" | "route_changed" | "aborted")) => (1012, reason),
            End::Session(reason) => (1000, reason),
            End::Fault(code, reason) => (code, reason),
        };
        Rc::clone(&self.worker).metrics.reason(ReasonFamily::Close, reason);
        let closing = async {
            let frame = CloseFrame { code: code.into(), reason: reason.into() };
            let _ = self.socket.send(Message::Close(Some(frame))).await;
            // Until the client has closed too, so that ours reaches it.
            while let Some(Ok(_)) = self.socket.next().await {}
        };
        let _ = timeout(CLOSE_TIME, closing).await;
    }
}

fn busy(number: Option<u64>) -> String {
    let error = serde_json::json!({"status": 429, "path": "", "message": "session_busy"});
    match number {
        Some(number) => format!("{{\"refused\":{number},\"error\":{error}}}"),
        None => format!("{{\"error\":{error}}}"),
    }
}

fn fault(error: &Error) -> End {
    match error {
        Error::Capacity(_) => End::Fault(1009, "websocket_too_large"),
        Error::Utf8(_) => End::Fault(1007, "websocket_utf8"),
        Error::Protocol(_) => End::Fault(1002, "websocket_protocol"),
        _ => End::Client,
    }
}
