//! Accepting from one socket.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Flows, Inner, Raw, canonical, local_address};
use crate::config::Id;
use crate::net::{Listener, Queue};

/// Connections accepted in a row before other tasks have their turn.
const BATCH: u32 = 32;
/// Connections taken from the kernel's queue when a socket closes.
const QUEUE_MAX: u32 = 65_535;
/// First pause when descriptors or memory ran out; it doubles each time.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// One listening socket of a worker.
pub(super) struct Acceptor {
    listener: RefCell<Arc<Listener>>,
    bound: SocketAddr,
    queue: Cell<Queue>,
    stop: Notify,
}

impl Acceptor {
    pub(super) fn new(listener: Arc<Listener>, bound: SocketAddr) -> Self {
        let queue = Cell::new(Queue::Accept);
        Self { listener: RefCell::new(listener), bound: canonical(bound), queue, stop: Notify::new() }
    }

    pub(super) fn is_of(&self, id: &Id) -> bool {
        self.listener.borrow().id == *id
    }

    pub(super) fn update(&self, listener: &Arc<Listener>) {
        *self.listener.borrow_mut() = Arc::clone(listener);
    }

    pub(super) fn stop(&self, queue: Queue) {
        self.queue.set(queue);
        self.stop.notify_one();
    }

    /// Accepts until stopped or the worker drains.
    pub(super) async fn run<F: Flows>(&self, server: &Rc<Inner<F>>, socket: TcpListener) {
        let mut in_a_row = 0;
        let mut pause = PAUSE_FIRST;
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.notified() => break,
                () = server.tasks.draining() => break,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((tcp, peer)) => {
                    pause = PAUSE_FIRST;
                    self.arrive(server, tcp, peer);
                }
                Err(error) if is_of_the_connection(&error) => server.counters.accept_error(),
                Err(error) => {
                    server.counters.accept_error();
                    if pause == PAUSE_FIRST {
                        tracing::error!(%error, listener = %self.listener.borrow().id, "cannot accept connections");
                    }
                    // Descriptors or memory ran out. The connection stays in
                    // the queue, so asking at once would only burn the core.
                    tokio::select! {
                        biased;
                        () = self.stop.notified() => break,
                        () = server.tasks.draining() => break,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
            in_a_row += 1;
            if in_a_row == BATCH {
                in_a_row = 0;
                tokio::task::yield_now().await;
            }
        }
        if self.queue.get() == Queue::Accept {
            self.empty_queue(server, socket);
        }
    }

    /// Accepts what the kernel has finished already: closing would reset it.
    /// Asks the kernel itself, since the runtime knows only of what had come
    /// when it last looked.
    fn empty_queue<F: Flows>(&self, server: &Rc<Inner<F>>, socket: TcpListener) {
        let Ok(socket) = socket.into_std() else { return };
        for _ in 0..QUEUE_MAX {
            match socket.accept() {
                Ok((tcp, peer)) => match tcp.set_nonblocking(true).and_then(|()| TcpStream::from_std(tcp)) {
                    Ok(tcp) => self.arrive(server, tcp, peer),
                    Err(_) => server.counters.accept_error(),
                },
                Err(error) if is_of_the_connection(&error) => server.counters.accept_error(),
                Err(_) => return,
            }
        }
    }

    fn arrive<F: Flows>(&self, server: &Rc<Inner<F>>, tcp: TcpStream, peer: SocketAddr) {
        let local = local_address(&tcp, self.bound);
        let listener = Arc::clone(&self.listener.borrow());
        server.arrive(Raw { tcp, peer: canonical(peer), local, listener, started: Instant::now() });
    }
}

/// Whether only the connection that was to be accepted failed. The kernel
/// gives errors of the network on accept as well.
fn is_of_the_connection(error: &io::Error) -> bool {
    let Some(errno) = Errno::from_io_error(error) else { return false };
    matches!(
        errno,
        Errno::CONNABORTED
            | Errno::INTR
            | Errno::PROTO
            | Errno::PERM
            | Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NOPROTOOPT
            | Errno::OPNOTSUPP
            | Errno::NONET
            | Errno::TIMEDOUT
    )
}
