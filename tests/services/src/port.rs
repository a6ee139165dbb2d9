//! A listening port that can be cut, hung and restored while the service runs.
//!
//! Tests and the demo break lines with it. Start at [`Port::open`].

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::Socket;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How a port treats its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Accepts and serves.
    Serving,
    /// Accepts, but reads and writes nothing: what a frozen process looks like.
    Hung,
    /// Does not listen: connecting is refused.
    Cut,
    /// Closed for good.
    Closed,
}

/// How a service leaves a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// As the service closed it.
    Close,
    /// With a reset.
    Reset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    mode: Mode,
    /// Connections of an earlier epoch are reset.
    epoch: u64,
}

/// A handle on a listening port; clones share it. The port closes, and resets
/// its connections, when [`Port::close`] is called or the runtime ends.
#[derive(Debug, Clone)]
pub struct Port {
    address: SocketAddr,
    wanted: Arc<watch::Sender<State>>,
    listening: watch::Receiver<bool>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    open: AtomicU64,
}

impl Port {
    /// Listens on `address` and gives each connection to `serve`. Runs as a
    /// task of the current runtime.
    pub async fn open<S, F>(address: SocketAddr, serve: S) -> io::Result<Port>
    where
        S: Fn(TcpStream, SocketAddr) -> F + Send + Sync + 'static,
        F: Future<Output = Ending> + Send + 'static,
    {
        let listener = listen(address)?;
        let address = listener.local_addr()?;
        let (wanted, states) = watch::channel(State { mode: Mode::Serving, epoch: 0 });
        let (listening_now, listening) = watch::channel(true);
        let counters = Arc::new(Counters::default());
        let port = Port { address, wanted: Arc::new(wanted), listening, counters: counters.clone() };
        tokio::spawn(accept_loop(address, listener, states, listening_now, Arc::new(serve), counters));
        Ok(port)
    }

    /// Where it listens; the port number is the real one.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The current mode.
    pub fn mode(&self) -> Mode {
        self.wanted.borrow().mode
    }

    /// Connections accepted since it was opened.
    pub fn accepted(&self) -> u64 {
        self.counters.accepted.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub fn open_connections(&self) -> u64 {
        self.counters.open.load(Ordering::Relaxed)
    }

    /// Stops listening and resets every connection. Returns when new
    /// connections are refused.
    pub async fn cut(&self) {
        self.wanted.send_modify(|state| *state = State { mode: Mode::Cut, epoch: state.epoch + 1 });
        self.until_listening(false).await;
    }

    /// Resets every connection and goes on listening.
    pub fn reset_connections(&self) {
        self.wanted.send_modify(|state| state.epoch += 1);
    }

    /// Freezes every connection, old and new.
    pub fn hang(&self) {
        self.wanted.send_modify(|state| state.mode = Mode::Hung);
    }

    /// Serves again after a cut or a hang. Returns when it listens.
    pub async fn restore(&self) {
        self.wanted.send_modify(|state| state.mode = Mode::Serving);
        self.until_listening(true).await;
    }

    /// Ends the port for good, resetting its connections.
    pub fn close(&self) {
        self.wanted.send_modify(|state| *state = State { mode: Mode::Closed, epoch: state.epoch + 1 });
    }

    async fn until_listening(&self, wanted: bool) {
        // The sender is gone only with the whole runtime.
        let _ = self.listening.clone().wait_for(|listening| *listening == wanted).await;
    }
}

/// Binds with `SO_REUSEADDR`, so that a cut port can come back at once.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket =
        if address.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}

async fn accept_loop<S, F>(
    address: SocketAddr,
    first: TcpListener,
    mut states: watch::Receiver<State>,
    listening: watch::Sender<bool>,
    serve: Arc<S>,
    counters: Arc<Counters>,
) where
    S: Fn(TcpStream, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = Ending> + Send + 'static,
{
    let mut listener = Some(first);
    loop {
        let state = *states.borrow_and_update();
        match state.mode {
            Mode::Closed => break,
            Mode::Cut => listener = None,
            Mode::Serving | Mode::Hung if listener.is_none() => match listen(address) {
                Ok(again) => listener = Some(again),
                Err(_) => {
                    // Someone else's connection may sit on the number for a
                    // moment: connecting to it from here can pick it.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
            },
            Mode::Serving | Mode::Hung => {}
        }
        listening.send_replace(listener.is_some());
        let Some(open) = &listener else {
            if states.changed().await.is_err() {
                break;
            }
            continue;
        };
        tokio::select! {
            biased;
            changed = states.changed() => if changed.is_err() { break },
            accepted = open.accept() => {
                let Ok((stream, peer)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let Ok(duplicate) = stream.as_fd().try_clone_to_owned() else { continue };
                counters.accepted.fetch_add(1, Ordering::Relaxed);
                let connection = serve(stream, peer);
                let states = states.clone();
                let epoch = state.epoch;
                let counters = counters.clone();
                counters.open.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    supervise(connection, states, epoch, Socket::from(duplicate)).await;
                    counters.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        }
    }
    listening.send_replace(false);
}

/// Runs a connection while its port serves; resets it when its epoch is over.
async fn supervise(
    connection: impl Future<Output = Ending>,
    mut states: watch::Receiver<State>,
    epoch: u64,
    duplicate: Socket,
) {
    let mut connection = pin!(connection);
    loop {
        let state = *states.borrow_and_update();
        if state.epoch != epoch {
            // The service's own descriptor closes with its future, this one
            // after it: the last close sends the reset.
            let _ = duplicate.set_linger(Some(Duration::ZERO));
            return;
        }
        let changed = match state.mode {
            Mode::Hung => states.changed().await,
            Mode::Serving | Mode::Cut | Mode::Closed => tokio::select! {
                biased;
                changed = states.changed() => changed,
                ending = &mut connection => {
                    if ending == Ending::Reset {
                        let _ = duplicate.set_linger(Some(Duration::ZERO));
                    }
                    return;
                }
            },
        };
        if changed.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn echo() -> Port {
        Port::open("127.0.0.1:0".parse().unwrap(), |mut stream: TcpStream, _| async move {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            Ending::Close
        })
        .await
        .unwrap()
    }

    async fn exchange(stream: &mut TcpStream) -> io::Result<u8> {
        stream.write_all(b"x").await?;
        stream.read_u8().await
    }

    #[tokio::test]
    async fn a_cut_port_resets_and_refuses_until_restored() {
        let port = echo().await;
        let mut stream = TcpStream::connect(port.address()).await.unwrap();
        assert_eq!(exchange(&mut stream).await.unwrap(), b'x');
        port.cut().await;
        assert_eq!(stream.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let refused = TcpStream::connect(port.address()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        port.restore().await;
        let mut stream = TcpStream::connect(port.address()).await.unwrap();
        assert_eq!(exchange(&mut stream).await.unwrap(), b'x');
        assert_eq!(port.accepted(), 2);
    }

    #[tokio::test]
    async fn a_hung_port_answers_what_it_was_sent_once_restored() {
        let port = echo().await;
        port.hang();
        let mut stream = TcpStream::connect(port.address()).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        let silent = tokio::time::timeout(Duration::from_millis(100), stream.read_u8()).await;
        assert!(silent.is_err(), "a hung port answered");
        port.restore().await;
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
    }
}
