//! A socket written to byte by byte.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// How long one read may take.
const READ_TIMEOUT: Duration = Duration::from_secs(15);

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// A client connection that sends exactly the bytes it is given. Reads end
/// after 15 seconds ([`Raw::read_timeout`] changes that).
pub struct Raw {
    stream: Stream,
    buffer: Vec<u8>,
}

impl Raw {
    /// Connects; panics if nobody listens.
    pub fn connect(address: SocketAddr) -> Raw {
        Raw::try_connect(address).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    /// Connects.
    pub fn try_connect(address: SocketAddr) -> io::Result<Raw> {
        let stream = TcpStream::connect_timeout(&address, READ_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.set_write_timeout(Some(READ_TIMEOUT))?;
        Ok(Raw { stream: Stream::Plain(stream), buffer: Vec::new() })
    }

    /// Connects and completes a TLS handshake.
    pub fn connect_tls(address: SocketAddr, config: Arc<ClientConfig>, name: &str) -> io::Result<Raw> {
        Raw::try_connect(address)?.start_tls(config, name)
    }

    /// Completes a TLS handshake on a plain connection, for example behind a
    /// PROXY header.
    pub fn start_tls(self, config: Arc<ClientConfig>, name: &str) -> io::Result<Raw> {
        let Stream::Plain(stream) = self.stream else { panic!("TLS is on already") };
        let name = ServerName::try_from(name.to_owned()).expect("the name can stand in a certificate");
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Raw { stream: Stream::Tls(Box::new(stream)), buffer: self.buffer })
    }

    /// The TLS connection, if there is one.
    pub fn tls(&self) -> Option<&ClientConnection> {
        match &self.stream {
            Stream::Plain(_) => None,
            Stream::Tls(stream) => Some(&stream.conn),
        }
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
        }
    }

    /// How long one read may take.
    pub fn read_timeout(self, timeout: Duration) -> Raw {
        self.socket().set_read_timeout(Some(timeout)).expect("the time is not zero");
        self
    }

    /// Sends bytes; panics if the other side has gone.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Raw {
        self.try_send(bytes).unwrap_or_else(|error| panic!("cannot send: {error}"));
        self
    }

    /// Sends bytes.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.write_all(bytes.as_ref())?;
        self.flush()
    }

    /// Ends the sending side.
    pub fn finish(&mut self) {
        if let Stream::Tls(stream) = &mut self.stream {
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
        let _ = self.socket().shutdown(std::net::Shutdown::Write);
    }

    /// Reads once more into the buffer. Zero: the other side has closed.
    fn fill(&mut self) -> io::Result<usize> {
        let mut piece = vec![0; 16 * 1024];
        let count = match &mut self.stream {
            Stream::Plain(stream) => stream.read(&mut piece)?,
            Stream::Tls(stream) => stream.read(&mut piece)?,
        };
        self.buffer.extend_from_slice(&piece[..count]);
        Ok(count)
    }

    /// Reads until `end` has come and returns everything up to its last byte;
    /// panics with what came if the connection ends first.
    pub fn read_until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return self.buffer.drain(..at + end.len()).collect();
            }
            self.more(&format!("{:?}", String::from_utf8_lossy(end)));
        }
    }

    /// Reads that many bytes.
    pub fn read_bytes(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            self.more(&format!("{count} bytes"));
        }
        self.buffer.drain(..count).collect()
    }

    fn more(&mut self, wanted: &str) {
        let come = |raw: &Raw| String::from_utf8_lossy(&raw.buffer).into_owned();
        match self.fill() {
            Ok(0) => panic!("closed before {wanted}, after {:?}", come(self)),
            Ok(_) => {}
            Err(error) => panic!("{error} before {wanted}, after {:?}", come(self)),
        }
    }

    /// Reads one HTTP/1.1 answer that has a `content-length`, or none at all:
    /// status, head and body.
    pub fn read_answer(&mut self) -> (u16, String, Vec<u8>) {
        let head = String::from_utf8_lossy(&self.read_until(b"\r\n\r\n")).into_owned();
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status in {head:?}"));
        let length = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(0, |(_, value)| value.trim().parse().expect("the length is a number"));
        let body = self.read_bytes(length);
        (status, head, body)
    }

    /// Reads until the other side ends the connection, in order or with a
    /// reset; panics if it does not within the read time-out.
    pub fn read_to_close(&mut self) -> Vec<u8> {
        match self.try_read_to_close() {
            Ok(bytes) => bytes,
            Err(_) => {
                let come = String::from_utf8_lossy(&self.buffer).into_owned();
                panic!("still open after the read time-out, with {come:?}");
            }
        }
    }

    /// The same; an error if the connection stays open.
    pub fn try_read_to_close(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.fill() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(error);
                }
                // A reset, or TLS that ended without saying so: it is over.
                Err(_) => break,
            }
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Whether the other side has ended the connection, without waiting.
    pub fn is_closed(&mut self) -> bool {
        self.socket().set_nonblocking(true).expect("a socket can be made non-blocking");
        let outcome = self.fill();
        self.socket().set_nonblocking(false).expect("a socket can be made blocking");
        match outcome {
            Ok(count) => count == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

impl Write for Raw {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}
