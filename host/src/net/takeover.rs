//! Handing all listening sockets to a new process without losing a connection.
//!
//! The old process offers on a Unix socket; the new one connects, receives a
//! copy of every listening socket, begins to accept, and says so; then the
//! old one stops accepting and drains. Connections the kernel holds meanwhile
//! belong to the sockets, so they move along. If either side fails before the
//! new one has said it is ready, the old one goes on as if nothing had been.
//!
//! Everything blocks, within time limits: call it from a thread of its own.

use std::fs::{self, Permissions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg, sockopt,
};

use super::listener::{Inherited, SocketName};
use crate::config::Id;

/// Bytes of a record: what it is, in text, filled up with zeros.
const RECORD_BYTES: usize = 256;
/// Sockets a new process accepts at most.
const SOCKETS_MAX: usize = 65_536;
const VERSION: &str = "sluice-takeover-1";
const READY: &[u8] = b"ready\n";

/// Where a process offers its sockets.
#[derive(Debug)]
pub struct Offer {
    listener: UnixListener,
}

impl Offer {
    /// Offers at `path`, for this user only. Takes the place of the offer of
    /// a process before, which has handed its sockets over.
    ///
    /// # Errors
    /// When the path cannot be bound.
    pub fn listen(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(Self { listener })
    }

    /// Waits for a new process.
    ///
    /// # Errors
    /// When the socket fails, or the peer is of another user.
    pub fn wait(&self) -> io::Result<Taker> {
        let (stream, _) = self.listener.accept()?;
        let peer = sockopt::socket_peercred(&stream)?;
        let own = rustix::process::geteuid();
        if peer.uid != own && !peer.uid.is_root() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the process that asks for the sockets is of another user",
            ));
        }
        Ok(Taker { stream })
    }
}

/// A new process that asks for the sockets.
#[derive(Debug)]
pub struct Taker {
    stream: UnixStream,
}

impl Taker {
    /// Sends every socket and waits until the new process accepts from them.
    /// Returns only then: now the old one may stop accepting.
    ///
    /// # Errors
    /// When the new process does not say it is ready within `timeout`.
    pub fn hand_over<'a>(
        mut self,
        sockets: impl IntoIterator<Item = (SocketName, &'a TcpListener)>,
        timeout: Duration,
    ) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(timeout))?;
        self.stream.set_read_timeout(Some(timeout))?;
        send(&self.stream, VERSION, None)?;
        let mut count = 0;
        for (name, socket) in sockets {
            let id = name.listener.as_ref().map_or("", Id::as_str);
            send(&self.stream, &format!("socket {} {id}", name.bind), Some(socket))?;
            count += 1;
        }
        send(&self.stream, &format!("end {count}"), None)?;
        let mut answer = [0; READY.len()];
        self.stream.read_exact(&mut answer)?;
        if answer != *READY {
            return Err(invalid("the new process did not say it is ready"));
        }
        Ok(count)
    }
}

/// The way back to the old process.
#[derive(Debug)]
pub struct Ready {
    stream: UnixStream,
}

impl Ready {
    /// Tells the old process that its sockets are accepted from here.
    ///
    /// # Errors
    /// When the old process is gone.
    pub fn announce(mut self) -> io::Result<()> {
        self.stream.write_all(READY)
    }
}

/// Asks the process that offers at `path` for its sockets. Nothing when none
/// offers there.
///
/// # Errors
/// When it does, but does not send them whole within `timeout`.
pub fn receive(path: &Path, timeout: Duration) -> io::Result<Option<(Inherited, Ready)>> {
    let stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let (version, _) = receive_record(&stream)?;
    if version != VERSION {
        return Err(invalid("the old process speaks another version of the takeover"));
    }
    let mut inherited = Inherited::default();
    for count in 0..=SOCKETS_MAX {
        let (record, socket) = receive_record(&stream)?;
        if let Some(declared) = record.strip_prefix("end ") {
            if declared != count.to_string() {
                return Err(invalid("the old process sent fewer sockets than it has"));
            }
            return Ok(Some((inherited, Ready { stream })));
        }
        let name = parse_name(&record).ok_or_else(|| invalid("a record is malformed"))?;
        let socket = socket.ok_or_else(|| invalid("a record came without its socket"))?;
        inherited.insert(name, TcpListener::from(socket))?;
    }
    Err(invalid("the old process sent more sockets than can be"))
}

fn parse_name(record: &str) -> Option<SocketName> {
    let (bind, id) = record.strip_prefix("socket ")?.split_once(' ')?;
    let listener = match id {
        "" => None,
        id => Some(Id::new(id).ok()?),
    };
    Some(SocketName { bind: bind.parse().ok()?, listener })
}

fn send(stream: &UnixStream, text: &str, socket: Option<&TcpListener>) -> io::Result<()> {
    let mut record = [0_u8; RECORD_BYTES];
    let place = record.get_mut(..text.len()).ok_or_else(|| invalid("a record is too long"))?;
    place.copy_from_slice(text.as_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = socket.map(|socket| [socket.as_fd()]);
    if let Some(descriptors) = &descriptors {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let slices = [IoSlice::new(&record)];
    let sent = rustix::io::retry_on_intr(|| sendmsg(stream, &slices, &mut control, SendFlags::NOSIGNAL))?;
    // The descriptor went with the first byte; the rest may follow alone.
    let mut writer = stream;
    writer.write_all(&record[sent..])
}

fn receive_record(stream: &UnixStream) -> io::Result<(String, Option<OwnedFd>)> {
    let mut record = [0_u8; RECORD_BYTES];
    let mut filled = 0;
    let mut socket = None;
    while filled < RECORD_BYTES {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut record[filled..])];
        // With a time limit set, a signal interrupts the call.
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                socket = descriptors.last().or(socket);
            }
        }
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += received.bytes;
    }
    let end = record.iter().position(|byte| *byte == 0).unwrap_or(RECORD_BYTES);
    let text = std::str::from_utf8(&record[..end]).map_err(|_| invalid("a record is not text"))?;
    Ok((text.to_owned(), socket))
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::super::listener::Listeners;
    use super::*;
    use std::net::TcpStream;
    use std::sync::Arc;
    use std::time::Instant;

    const LIMIT: Duration = Duration::from_secs(10);

    fn listeners(inherited: Inherited, workers: usize) -> Listeners {
        let object = serde_json::json!({"id": "edge", "bind": ["127.0.0.1:0", "[::1]:0"]});
        let mut listeners = Listeners::new(workers, inherited);
        let outcome = listeners.apply(&[Arc::new(serde_json::from_value(object).unwrap())], Instant::now());
        assert!(outcome.errors.is_empty(), "{:?}", outcome.errors);
        listeners
    }

    #[test]
    fn every_socket_moves_with_the_connections_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("takeover.sock");
        let old = listeners(Inherited::default(), 3);
        let address = old.bound().next().unwrap().1[0];
        // Made before the takeover, accepted by nobody yet.
        let waiting: Vec<_> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();

        let offer = Offer::listen(&path).unwrap();
        let handing = std::thread::spawn(move || {
            let count = offer.wait().unwrap().hand_over(old.sockets(), LIMIT).unwrap();
            drop(old);
            count
        });
        let (inherited, ready) = receive(&path, LIMIT).unwrap().unwrap();
        assert_eq!(inherited.len(), 6);
        let new = listeners(inherited, 2);
        ready.announce().unwrap();
        assert_eq!(handing.join().unwrap(), 6);

        assert_eq!(new.bound().next().unwrap().1[0], address);
        let more = TcpStream::connect(address).unwrap();
        let accepted: usize = new
            .sockets()
            .filter(|(name, _)| name.bind.is_ipv4())
            .map(|(_, socket)| std::iter::from_fn(|| socket.accept().ok()).count())
            .sum();
        assert_eq!(accepted, waiting.len() + 1);
        drop(more);
    }

    #[test]
    fn a_new_process_that_dies_leaves_the_old_one_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("takeover.sock");
        let old = listeners(Inherited::default(), 1);
        let offer = Offer::listen(&path).unwrap();
        let dying = std::thread::spawn({
            let path = path.clone();
            move || drop(receive(&path, LIMIT).unwrap())
        });
        let error = offer.wait().unwrap().hand_over(old.sockets(), LIMIT).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        dying.join().unwrap();
        TcpStream::connect(old.bound().next().unwrap().1[0]).unwrap();
    }

    #[test]
    fn nobody_there_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("takeover.sock");
        assert!(receive(&path, LIMIT).unwrap().is_none());
        drop(Offer::listen(&path).unwrap());
        assert!(receive(&path, LIMIT).unwrap().is_none());
    }
}
