//! An origin that keeps every byte it receives and answers as a test says.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use sluice_harness::eventually;

use crate::strict::{self, Request};

/// How long an origin waits for bytes before it gives a connection up.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// A running origin. Dropping it stops listening and ends its connections.
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    log: Mutex<Log>,
}

/// What an origin saw so far.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// Every byte, by connection.
    pub received: Vec<Vec<u8>>,
    /// Whole requests, in the order they were read.
    pub requests: Vec<Request>,
    /// Bytes that the standard's grammar does not allow.
    pub faults: Vec<String>,
    /// Connections that the gateway ended.
    pub ended: usize,
}

impl Log {
    /// Bytes in all.
    pub fn bytes(&self) -> usize {
        self.received.iter().map(Vec::len).sum()
    }
}

/// One connection, as the test's answer sees it.
pub struct Conversation {
    stream: TcpStream,
    shared: Arc<Shared>,
    /// Number of the connection, from 0.
    pub index: usize,
    buffer: Vec<u8>,
}

impl Origin {
    /// Every connection is handed to `talk`, on a thread of its own.
    pub fn start(talk: impl Fn(&mut Conversation) + Send + Sync + 'static) -> Origin {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port can be bound");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let (state, talk) = (Arc::clone(&shared), Arc::new(talk));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if state.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let _ = stream.set_nodelay(true);
                let _ = stream.set_read_timeout(Some(READ_TIMEOUT));
                let index = {
                    let mut log = lock(&state);
                    log.received.push(Vec::new());
                    log.received.len() - 1
                };
                let (shared, talk) = (Arc::clone(&state), Arc::clone(&talk));
                thread::spawn(move || talk(&mut Conversation { stream, shared, index, buffer: Vec::new() }));
            }
        });
        Origin { address, shared }
    }

    /// Reads requests strictly and gives each the answer `answer` makes of it.
    pub fn answering(answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> Origin {
        Origin::start(move |talk| {
            while let Some(request) = talk.request() {
                if talk.send(answer(&request)).is_err() {
                    return;
                }
            }
        })
    }

    /// Reads a head and sends these bytes, then ends the connection.
    pub fn once(bytes: impl Into<Vec<u8>>) -> Origin {
        let bytes = bytes.into();
        Origin::start(move |talk| {
            if talk.head().is_some() {
                // The gateway may be gone, which is what some tests are about.
                let _ = talk.send(&bytes);
            }
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as a key of `nodes`.
    pub fn node(&self) -> String {
        self.address.to_string()
    }

    /// What it saw so far.
    pub fn log(&self) -> Log {
        lock(&self.shared).clone()
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        lock(&self.shared).received.len()
    }

    /// Takes the whole requests seen so far.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut lock(&self.shared).requests)
    }

    /// Waits until what it saw is enough.
    pub fn until(&self, what: &str, enough: impl Fn(&Log) -> bool) -> Log {
        eventually(what, || {
            let log = lock(&self.shared);
            enough(&log).then(|| log.clone())
        })
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Log> {
    shared.log.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Conversation {
    /// Reads once more; zero when the gateway ended the connection.
    pub fn fill(&mut self) -> usize {
        let mut piece = vec![0; 64 * 1024];
        let count = self.stream.read(&mut piece).unwrap_or(0);
        let mut log = lock(&self.shared);
        log.received[self.index].extend_from_slice(&piece[..count]);
        log.ended += usize::from(count == 0);
        self.buffer.extend_from_slice(&piece[..count]);
        count
    }

    /// The next whole request; none when the connection ended first or what
    /// came is not allowed.
    pub fn request(&mut self) -> Option<Request> {
        loop {
            match strict::request(&self.buffer) {
                Ok(Some((request, length))) => {
                    self.buffer.drain(..length);
                    lock(&self.shared).requests.push(request.clone());
                    return Some(request);
                }
                Ok(None) if self.fill() > 0 => {}
                Ok(None) => return None,
                Err(fault) => {
                    lock(&self.shared).faults.push(fault);
                    return None;
                }
            }
        }
    }

    /// Reads up to an empty line and returns the head.
    pub fn head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = self.buffer.drain(..at + 4).collect::<Vec<_>>();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            if self.fill() == 0 {
                return None;
            }
        }
    }

    /// Reads that many bytes behind the head; false if the connection ended first.
    pub fn body(&mut self, count: usize) -> bool {
        while self.buffer.len() < count {
            if self.fill() == 0 {
                return false;
            }
        }
        self.buffer.drain(..count);
        true
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When the gateway is gone.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Reads until the gateway ends the connection.
    pub fn drain(&mut self) {
        while self.fill() > 0 {
            self.buffer.clear();
        }
    }

    /// Ends its own side.
    pub fn finish(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The connection ends with a reset when the conversation does.
    pub fn reset_on_end(&self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .expect("a socket takes the option");
    }
}
