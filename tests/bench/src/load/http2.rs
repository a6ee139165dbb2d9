//! HTTP/2, in raw frames: a client that does next to nothing but count.

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{HOST, Recorder, Stream};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// What the connection may carry before it is told to go on.
const WINDOW: u32 = 1 << 30;

struct Connection {
    /// Requests under way, and when they began.
    open: Vec<(u32, Instant)>,
    next_stream: u32,
    first_request: Vec<u8>,
    /// Fields the first request has put in the peer's table.
    later_request: Vec<u8>,
    out: Vec<u8>,
    body_bytes: usize,
    received: usize,
    /// Bytes taken since the window was last opened.
    unacknowledged: u32,
}

/// Keeps `streams` requests under way.
pub(super) async fn session(
    mut stream: impl Stream,
    streams: usize,
    path: &str,
    body_bytes: usize,
    recorder: &Recorder,
) -> Result<()> {
    let mut connection = Connection::new(path, body_bytes);
    stream.write_all(&std::mem::take(&mut connection.out)).await?;
    stream.flush().await?;
    let mut buffer = vec![0; 64 * 1024];
    let mut filled = 0;
    let mut is_started = false;
    while !recorder.is_over.get() || !connection.open.is_empty() {
        let read = stream.read(&mut buffer[filled..]).await?;
        ensure!(read > 0, "the connection was closed");
        filled += read;
        let mut taken = 0;
        while let Some(frame) = Frame::parse(&buffer[taken..filled]) {
            taken += 9 + frame.payload.len();
            connection.receive(&frame, recorder)?;
        }
        buffer.copy_within(taken..filled, 0);
        filled -= taken;
        if !is_started {
            is_started = true;
            (0..streams).for_each(|_| connection.request());
        }
        if !connection.out.is_empty() {
            stream.write_all(&connection.out).await?;
            stream.flush().await?;
            connection.out.clear();
        }
    }
    Ok(())
}

struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, s0, s1, s2, s3, ..] = bytes else { return None };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let payload = bytes.get(9..9 + length)?;
        Some(Self { kind, flags, stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]), payload })
    }
}

fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

impl Connection {
    fn new(path: &str, body_bytes: usize) -> Self {
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // No push; a stream's window of 1 MiB, which no answer fills.
        put(&mut out, SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 0, 0, 4, 0, 0x10, 0, 0]);
        put(&mut out, WINDOW_UPDATE, 0, 0, &(WINDOW - 65_535).to_be_bytes());
        // :method GET, :scheme https; then fields that enter the table.
        let mut first_request = vec![0x82, 0x87];
        for (name, value) in [(4, path), (1, HOST), (58, "sluice-bench/1"), (19, "*/*")] {
            first_request.extend_from_slice(&[0x40 | name, value.len() as u8]);
            first_request.extend_from_slice(value.as_bytes());
        }
        // The newest entry of the table has number 62.
        let later_request = vec![0x82, 0x87, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62];
        Self {
            open: Vec::new(),
            next_stream: 1,
            first_request,
            later_request,
            out,
            body_bytes,
            received: 0,
            unacknowledged: 0,
        }
    }

    fn request(&mut self) {
        let id = self.next_stream;
        self.next_stream += 2;
        let fields = if id == 1 { &self.first_request } else { &self.later_request };
        put(&mut self.out, HEADERS, END_HEADERS | END_STREAM, id, fields);
        self.open.push((id, Instant::now()));
    }

    fn receive(&mut self, frame: &Frame<'_>, recorder: &Recorder) -> Result<()> {
        match frame.kind {
            HEADERS => {
                let status = frame.payload.iter().find(|&&byte| byte & 0xe0 != 0x20);
                ensure!(status == Some(&0x88), "an answer other than 200: {:02x?}", frame.payload);
            }
            DATA => {
                self.received += frame.payload.len();
                self.unacknowledged += frame.payload.len() as u32;
                if self.unacknowledged > WINDOW / 4 {
                    put(&mut self.out, WINDOW_UPDATE, 0, 0, &self.unacknowledged.to_be_bytes());
                    self.unacknowledged = 0;
                }
            }
            SETTINGS if frame.flags & ACK == 0 => {
                for setting in frame.payload.chunks_exact(6) {
                    let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
                    ensure!(setting[..2] != [0, 1] || value >= 4096, "a header table of {value} bytes only");
                }
                put(&mut self.out, SETTINGS, ACK, 0, &[]);
            }
            PING if frame.flags & ACK == 0 => put(&mut self.out, PING, ACK, 0, frame.payload),
            GOAWAY => bail!("GOAWAY: {:02x?}", frame.payload),
            RST_STREAM => bail!("a stream was reset: {:02x?}", frame.payload),
            CONTINUATION => bail!("CONTINUATION: this client expects short heads"),
            _ => {}
        }
        if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
            self.finish(frame.stream, recorder)?;
        }
        Ok(())
    }

    fn finish(&mut self, stream: u32, recorder: &Recorder) -> Result<()> {
        let Some(index) = self.open.iter().position(|&(id, _)| id == stream) else {
            bail!("an answer on stream {stream}, which is not open");
        };
        let (_, started) = self.open.swap_remove(index);
        recorder.finished(1, started);
        if self.open.is_empty() {
            // Only now are all bodies whole; the sum must be a multiple of one.
            ensure!(self.received.is_multiple_of(self.body_bytes), "bodies of a wrong size");
        }
        if !recorder.is_over.get() {
            self.request();
        }
        Ok(())
    }
}
