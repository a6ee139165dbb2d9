//! What `server` gives a flow: a connection that is ready for its protocol.

use std::sync::Arc;
use std::task::Poll;

use tokio::time::Instant;

use super::tls::ClientAuth;
use super::{LeasedBuffer, Listener, Stream, Tasks};
use crate::message::Client;

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
    /// The server name of a TLS hello, whether TLS ended here or is passed through.
    pub sni: Option<Box<str>>,
    /// The rule for client certificates the connection was made under; a flow
    /// with several hosts asks [`check_client`](super::tls::check_client).
    pub rule: Option<Arc<ClientAuth>>,
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
