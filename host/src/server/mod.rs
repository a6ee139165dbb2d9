//! From a listening socket to a flow: one task a connection.
//!
//! Each worker has one [`Server`]. It accepts, finds out what is spoken (PROXY
//! header, TLS, HTTP version) and gives the connection to the flow in
//! [`Flows`]. Long connections are spread evenly: a worker that has clearly
//! more than another hands new ones over ([`Seat`]).

mod accept;
mod balance;
mod prepare;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::Instant;

pub use balance::{Seat, seats};

use crate::message::Client;
use crate::net::tls::Certificates;
use crate::net::{
    Accepted, BufferPool, CloseReason, Counters, Drain, Listener, SocketId, Tasks, WorkerChange,
};
use accept::Acceptor;
use balance::{Handed, Place};

/// The flows a connection can be given to, and what they are configured with.
pub trait Flows: Clone + 'static {
    /// The certificates of this moment.
    fn certificates(&self) -> Arc<Certificates>;
    /// Serves HTTP/1.1, upgrades included.
    fn http1(&self, accepted: Accepted) -> impl Future<Output = ()> + 'static;
    /// Serves HTTP/2; the connection preface is still to be read.
    fn http2(&self, accepted: Accepted) -> impl Future<Output = ()> + 'static;
    /// Serves frames.
    fn tlv(&self, accepted: Accepted) -> impl Future<Output = ()> + 'static;
    /// Told of a connection that was refused before there was a flow for it.
    fn refused(&self, client: &Client, listener: &Listener, reason: CloseReason, started: Instant);
    /// Relays bytes.
    fn tcp(&self, accepted: Accepted) -> impl Future<Output = ()> + 'static;
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Http1,
    Http2,
    Tlv,
    Tcp,
}

/// A worker's connections.
pub struct Server<F> {
    inner: Rc<Inner<F>>,
}

struct Inner<F> {
    flows: F,
    tasks: Tasks,
    buffers: BufferPool,
    counters: Arc<Counters>,
    place: Place,
    acceptors: RefCell<HashMap<SocketId, Rc<Acceptor>>>,
}

/// A socket from which nothing was read yet.
struct Raw {
    tcp: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    listener: Arc<Listener>,
    started: Instant,
}

/// Counts a connection out, wherever it ends.
struct Guard {
    listener: Arc<Listener>,
    counters: Arc<Counters>,
    place: Place,
    tasks: Tasks,
    reason: Cell<CloseReason>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.listener.leave();
        self.place.leave();
        let is_cut = std::thread::panicking() || self.tasks.has_ended();
        let reason = if is_cut { CloseReason::Aborted } else { self.reason.get() };
        self.counters.close(reason);
    }
}

impl<F: Flows> Server<F> {
    /// The server of the worker with this seat. Must be called on the worker.
    #[must_use]
    pub fn new(flows: F, tasks: Tasks, buffers: BufferPool, counters: Arc<Counters>, seat: Seat) -> Self {
        let (place, inbox) = seat.take();
        let acceptors = RefCell::default();
        let inner = Rc::new(Inner { flows, tasks: tasks.clone(), buffers, counters, place, acceptors });
        let server = Self { inner: Rc::clone(&inner) };
        tasks.spawn(async move { inner.take_handed(inbox).await });
        server
    }

    /// Does what the control thread wants. Must be called on the worker.
    ///
    /// # Errors
    /// When the socket cannot be registered; the other sockets go on.
    pub fn apply(&self, change: WorkerChange) -> io::Result<()> {
        let inner = &self.inner;
        match change {
            WorkerChange::Open { listener, id, socket } => {
                let acceptor = Rc::new(Acceptor::new(listener, socket.local_addr()?));
                let socket = tokio::net::TcpListener::from_std(socket)?;
                inner.acceptors.borrow_mut().insert(id, Rc::clone(&acceptor));
                let server = Rc::clone(inner);
                inner.tasks.spawn(async move { acceptor.run(&server, socket).await });
            }
            WorkerChange::Update(listener) => {
                let acceptors = inner.acceptors.borrow();
                let own = acceptors.values().filter(|acceptor| acceptor.is_of(&listener.id));
                own.for_each(|acceptor| acceptor.update(&listener));
            }
            WorkerChange::Close(id, queue) => {
                if let Some(acceptor) = inner.acceptors.borrow_mut().remove(&id) {
                    acceptor.stop(queue);
                }
            }
            WorkerChange::Wake => inner.tasks.wake_all(),
        }
        Ok(())
    }

    /// Connections of this worker that are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.inner.place.load()
    }
}

impl<F: Flows> Inner<F> {
    /// A connection that came in here: refused over the limit, handed over if
    /// another worker has clearly less to do, else begun.
    fn arrive(self: &Rc<Self>, raw: Raw) {
        let has_room = self.counters.accept();
        if !has_room || !raw.listener.admit() {
            let reason =
                if has_room { CloseReason::TooManyConnections } else { CloseReason::DescriptorsShort };
            // The peer sees a reset at once instead of waiting for nothing;
            // the kernel keeps no state of it either.
            let _ = raw.tcp.set_zero_linger();
            self.counters.close(reason);
            let client = client_of(raw.peer, raw.local);
            self.flows.refused(&client, &raw.listener, reason, raw.started);
            return;
        }
        match self.place.hand_over(raw) {
            None => self.counters.hand_over(),
            Some(raw) => {
                self.place.join();
                self.begin(raw);
            }
        }
    }

    /// Connections that other workers hand over, until the worker drains.
    async fn take_handed(self: Rc<Self>, mut inbox: tokio::sync::mpsc::Receiver<Handed>) {
        loop {
            let handed = tokio::select! {
                biased;
                handed = inbox.recv() => handed,
                () = self.tasks.draining() => {
                    // From here on the others keep theirs; what is in the
                    // channel already is still served.
                    inbox.close();
                    inbox.recv().await
                }
            };
            let Some(handed) = handed else { return };
            match TcpStream::from_std(handed.tcp) {
                Ok(tcp) => self.begin(Raw {
                    tcp,
                    peer: handed.peer,
                    local: handed.local,
                    listener: handed.listener,
                    started: Instant::now(),
                }),
                Err(error) => {
                    tracing::warn!(%error, "cannot register a connection that was handed over");
                    drop(self.guard(&handed.listener, CloseReason::Socket));
                }
            }
        }
    }

    fn guard(&self, listener: &Arc<Listener>, reason: CloseReason) -> Guard {
        Guard {
            listener: Arc::clone(listener),
            counters: Arc::clone(&self.counters),
            place: self.place.clone(),
            tasks: self.tasks.clone(),
            reason: Cell::new(reason),
        }
    }

    /// Starts a connection's task. Admitted and counted before.
    fn begin(self: &Rc<Self>, raw: Raw) {
        let guard = self.guard(&raw.listener, CloseReason::Served);
        if let Some(spoken) = prepare::known_at_once(&raw) {
            let accepted = self.accepted(raw);
            self.start(accepted, spoken, guard);
            return;
        }
        let server = Rc::clone(self);
        // What prepares a connection is a task of its own and gone once the
        // flow begins: a session is as large as its flow, not as a handshake.
        self.tasks.spawn(async move {
            let (peer, local, started) = (raw.peer, raw.local, raw.started);
            match prepare::prepare(&server, raw).await {
                Ok((accepted, spoken)) => server.start(accepted, spoken, guard),
                Err(reason) => {
                    guard.reason.set(reason);
                    // Those that only looked whether the port is open, and
                    // those there was no time for, were not refused.
                    if !matches!(reason, CloseReason::ClosedEarly | CloseReason::Draining) {
                        let client = client_of(peer, local);
                        server.flows.refused(&client, &guard.listener, reason, started);
                    }
                }
            }
        });
    }

    fn accepted(&self, raw: Raw) -> Accepted {
        Accepted {
            stream: raw.tcp.into(),
            client: Arc::new(client_of(raw.peer, raw.local)),
            drain: Drain::new(self.tasks.clone(), Arc::clone(&raw.listener)),
            listener: raw.listener,
            first: None,
            sni: None,
            rule: None,
            started: raw.started,
        }
    }

    fn start(&self, accepted: Accepted, spoken: Spoken, guard: Guard) {
        match spoken {
            Spoken::Http1 => self.tasks.spawn_holding(self.flows.http1(accepted), guard),
            Spoken::Http2 => self.tasks.spawn_holding(self.flows.http2(accepted), guard),
            Spoken::Tlv => self.tasks.spawn_holding(self.flows.tlv(accepted), guard),
            Spoken::Tcp => self.tasks.spawn_holding(self.flows.tcp(accepted), guard),
        }
    }
}

/// What is known of a client before it has said anything.
fn client_of(peer: SocketAddr, local: SocketAddr) -> Client {
    Client { peer, address: peer, local, tls: None, path: None }
}

/// The socket's own address; for one bound to all addresses it takes a system call.
fn local_address(tcp: &TcpStream, bound: SocketAddr) -> SocketAddr {
    if !bound.ip().is_unspecified() {
        return bound;
    }
    let address = SockRef::from(tcp).local_addr().ok().and_then(|address| address.as_socket());
    canonical(address.unwrap_or(bound))
}

/// IPv4 in IPv6 form, as sockets bound to `[::]` give it, as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(_) => SocketAddr::new(address.ip().to_canonical(), address.port()),
    }
}
