//! A WebSocket echo, by a library the gateway does not use.
//!
//! Every message comes back as it was. Some texts are orders instead:
//!
//! | text | effect |
//! | --- | --- |
//! | `close 4000 why` | closes with that code and reason |
//! | `flood 100 1000` | sends 100 binary messages of 1,000 bytes |
//! | `ping abc` | sends a ping with that payload |
//! | `abort` | ends the connection without a close frame |
//!
//! The first protocol a client offers is the one that is chosen. Start at
//! [`WebSocketEcho::start`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use crate::port::{Ending, Port};

/// A running server. Dropping it closes its port.
pub struct WebSocketEcho {
    port: Port,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    handshakes: AtomicU64,
    messages: AtomicU64,
}

impl WebSocketEcho {
    /// Listens on `address`; serves as tasks of the current runtime.
    pub async fn start(address: SocketAddr) -> io::Result<WebSocketEcho> {
        let counters = Arc::new(Counters::default());
        let shared = counters.clone();
        let port = Port::open(address, move |stream, _| {
            let counters = shared.clone();
            async move {
                // A client that breaks off is what tests do.
                let _ = serve(stream, &counters).await;
                Ending::Close
            }
        })
        .await?;
        Ok(WebSocketEcho { port, counters })
    }

    /// The listening port.
    pub fn port(&self) -> &Port {
        &self.port
    }

    /// Handshakes completed.
    pub fn handshakes(&self) -> u64 {
        self.counters.handshakes.load(Ordering::Relaxed)
    }

    /// Data messages received.
    pub fn messages(&self) -> u64 {
        self.counters.messages.load(Ordering::Relaxed)
    }
}

impl Drop for WebSocketEcho {
    fn drop(&mut self) {
        self.port.close();
    }
}

#[allow(clippy::result_large_err, reason = "the callback's type is the library's")]
fn choose_protocol(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let offered = request.headers().get("sec-websocket-protocol").and_then(|value| value.to_str().ok());
    let first = offered.and_then(|list| list.split(',').next()).and_then(|name| name.trim().parse().ok());
    if let Some(protocol) = first {
        response.headers_mut().insert("sec-websocket-protocol", protocol);
    }
    Ok(response)
}

async fn serve(stream: TcpStream, counters: &Counters) -> Result<(), tungstenite::Error> {
    let mut socket = accept_hdr_async(stream, choose_protocol).await?;
    counters.handshakes.fetch_add(1, Ordering::Relaxed);
    while let Some(message) = socket.next().await {
        let message = message?;
        if !matches!(message, Message::Text(_) | Message::Binary(_)) {
            continue;
        }
        counters.messages.fetch_add(1, Ordering::Relaxed);
        let order = message.to_text().unwrap_or_default().to_owned();
        let words: Vec<&str> = order.splitn(3, ' ').collect();
        match words[..] {
            ["close", code, reason] => return close(&mut socket, code, reason).await,
            ["flood", count, size] => flood(&mut socket, count, size).await?,
            ["ping", payload] => socket.send(Message::Ping(payload.to_owned().into())).await?,
            ["abort"] => return Ok(()),
            _ => socket.send(message).await?,
        }
    }
    Ok(())
}

async fn close(
    socket: &mut WebSocketStream<TcpStream>,
    code: &str,
    reason: &str,
) -> Result<(), tungstenite::Error> {
    let code = code.parse::<u16>().unwrap_or(1002).into();
    socket.close(Some(CloseFrame { code, reason: reason.to_owned().into() })).await?;
    while let Some(Ok(_)) = socket.next().await {}
    Ok(())
}

async fn flood(
    socket: &mut WebSocketStream<TcpStream>,
    count: &str,
    size: &str,
) -> Result<(), tungstenite::Error> {
    let (count, size): (u32, usize) = (count.parse().unwrap_or(0), size.parse().unwrap_or(0));
    let payload = bytes::Bytes::from(vec![b'f'; size.min(16 << 20)]);
    for _ in 0..count {
        socket.feed(Message::Binary(payload.clone())).await?;
    }
    socket.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_come_back_and_orders_are_obeyed() {
        let server = WebSocketEcho::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let stream = TcpStream::connect(server.port().address()).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async("ws://test/", stream).await.unwrap();
        socket.send(Message::text("hello")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
        socket.send(Message::text("flood 3 10")).await.unwrap();
        for _ in 0..3 {
            assert_eq!(socket.next().await.unwrap().unwrap().len(), 10);
        }
        socket.send(Message::text("close 4001 because")).await.unwrap();
        let Message::Close(Some(frame)) = socket.next().await.unwrap().unwrap() else { panic!("no close") };
        assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4001, "because"));
    }
}
