//! What `server` gives a flow: a connection that is ready for its protocol.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;

use ipnet::IpNet;
use tokio::time::Instant;

use super::{LeasedBuffer, Stream, Tasks};
use crate::message::Client;

/// A listener while it lives: what flows need of its object, and its state,
/// which all workers share.
#[derive(Debug)]
pub struct Listener {
    /// Its id.
    pub id: Arc<str>,
    /// Where it listens.
    pub bind: SocketAddr,
    /// Hops whose `X-Forwarded-For` is believed.
    pub trusted: Vec<IpNet>,
    /// Open connections, on all workers.
    connections: AtomicUsize,
    /// Set once it goes away and its connections should end.
    closing: AtomicBool,
}

impl Listener {
    /// A listener without connections.
    #[must_use]
    pub fn new(id: Arc<str>, bind: SocketAddr, trusted: Vec<IpNet>) -> Self {
        Self { id, bind, trusted, connections: AtomicUsize::new(0), closing: AtomicBool::new(false) }
    }

    /// Open connections, on all workers.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Whether it goes away and its connections should end when they can.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }
}

/// A connection that is ready for its protocol: PROXY header and TLS are done.
#[derive(Debug)]
pub struct Accepted {
    /// The bytes.
    pub stream: Stream,
    /// Who is at the other end.
    pub client: Arc<Client>,
    /// Where it came in.
    pub listener: Arc<Listener>,
    /// Bytes read already, to be taken before any of the stream's.
    pub first: Option<LeasedBuffer>,
    /// Tells when to finish.
    pub drain: Drain,
    /// When the connection was accepted.
    pub started: Instant,
}

/// Tells a flow when to finish: the worker drains, or its listener goes away.
#[derive(Debug, Clone)]
pub struct Drain {
    tasks: Tasks,
    listener: Arc<Listener>,
}

impl Drain {
    /// For a connection of `listener` whose task is one of `tasks`.
    #[must_use]
    pub fn new(tasks: Tasks, listener: Arc<Listener>) -> Self {
        Self { tasks, listener }
    }

    /// Whether to finish what is there and take nothing new.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.tasks.is_draining() || self.listener.is_closing()
    }

    /// Returns once it is time to finish; the rules of [`Tasks::draining`] hold.
    pub async fn draining(&self) {
        std::future::poll_fn(|_| self.poll_draining()).await;
    }

    /// [`draining`](Self::draining) for hand-written futures.
    pub fn poll_draining(&self) -> Poll<()> {
        if self.is_draining() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// When what still runs is ended, once a drain has a deadline.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.tasks.deadline()
    }

    /// The worker's tasks, for a flow that starts more of them.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }
}
