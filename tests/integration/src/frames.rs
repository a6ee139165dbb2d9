//! HTTP/2 frames as bytes, for clients that break the rules.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What a client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types.
#[allow(missing_docs, reason = "the names are the standard's")]
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Ends a stream.
pub const END_STREAM: u8 = 1;
/// Ends a header block.
pub const END_HEADERS: u8 = 4;

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a test's frame is small").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block without compression or table.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        // A literal that is never indexed.
        bytes.push(0x10);
        string(&mut bytes, name.as_bytes());
        string(&mut bytes, value.as_bytes());
    }
    bytes
}

fn string(bytes: &mut Vec<u8>, text: &[u8]) {
    // The length as an integer with a prefix of seven bits.
    if text.len() < 127 {
        bytes.push(text.len() as u8);
    } else {
        bytes.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            bytes.push((rest % 128) as u8 | 0x80);
            rest /= 128;
        }
        bytes.push(rest as u8);
    }
    bytes.extend_from_slice(text);
}

/// The fields of a usual request.
pub fn get(path: &str) -> Vec<(&str, &str)> {
    vec![(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", path)]
}

/// HEADERS of a request that has no body.
pub fn request(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(kind::HEADERS, END_STREAM | END_HEADERS, stream, &block(fields))
}

/// A frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM and GOAWAY.
    pub fn error_code(&self) -> Option<u32> {
        let at = match self.kind {
            kind::RST_STREAM => 0,
            kind::GOAWAY => 4,
            _ => return None,
        };
        self.payload.get(at..at + 4).map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap_or_default()))
    }
}

/// A connection that has sent its preface and empty SETTINGS.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects without TLS.
    pub fn connect(address: SocketAddr) -> Client {
        Client::connect_with(address, &[])
    }

    /// With a payload of SETTINGS.
    pub fn connect_with(address: SocketAddr, settings: &[u8]) -> Client {
        let stream = TcpStream::connect(address).expect("the gateway listens");
        stream.set_nodelay(true).expect("a socket takes the option");
        stream.set_read_timeout(Some(Duration::from_secs(15))).expect("the time is not zero");
        stream.set_write_timeout(Some(Duration::from_secs(15))).expect("the time is not zero");
        let mut client = Client { stream, buffer: Vec::new() };
        assert!(client.send(PREFACE) && client.send(frame(kind::SETTINGS, 0, 0, settings)));
        client
    }

    /// The same connection, to read from in another thread.
    pub fn reader(&self) -> Client {
        let stream = self.stream.try_clone().expect("a socket can be shared");
        Client { stream, buffer: self.buffer.clone() }
    }

    /// Sends bytes; false when the gateway has ended the connection.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// The next frame; none when the connection has ended.
    pub fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take() {
                return Some(frame);
            }
            let mut piece = [0; 16 * 1024];
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("the gateway neither answers nor ends the connection")
                }
                Err(_) => return None,
            }
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let head: [u8; 9] = self.buffer.get(..9)?.try_into().ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = self.buffer.get(9..9 + length)?.to_vec();
        self.buffer.drain(..9 + length);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads until a frame `fits`; panics if the connection ends first.
    pub fn until(&mut self, what: &str, fits: impl Fn(&Frame) -> bool) -> Frame {
        let mut seen = Vec::new();
        while let Some(frame) = self.frame() {
            if fits(&frame) {
                return frame;
            }
            seen.push((frame.kind, frame.stream, frame.error_code()));
        }
        panic!("the connection ended before {what}, after {seen:?}");
    }

    /// Reads until each of these streams has an answer's head or was reset, or
    /// the connection has ended.
    pub fn until_answered(&mut self, streams: &[u32]) {
        let mut open = streams.to_vec();
        while !open.is_empty() {
            let Some(frame) = self.frame() else { return };
            if matches!(frame.kind, kind::HEADERS | kind::RST_STREAM) {
                open.retain(|stream| *stream != frame.stream);
            }
        }
    }

    /// Reads to the end of the connection; the code of the last GOAWAY.
    pub fn until_end(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.frame() {
            if frame.kind == kind::GOAWAY {
                code = frame.error_code();
            }
        }
        code
    }
}
