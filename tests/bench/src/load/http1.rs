//! HTTP/1.1 keep-alive.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{HOST, Recorder, Stream};

/// Sends a request when the answer to the one before is whole.
pub(super) async fn session(
    mut stream: impl Stream,
    path: &str,
    upload: usize,
    body_bytes: usize,
    recorder: &Recorder,
) -> Result<()> {
    let mut request = Request::new(path, upload);
    let mut buffer = vec![0; 32 * 1024];
    while !recorder.is_over.get() {
        let started = Instant::now();
        stream.write_all(request.next()).await?;
        // Over TLS the bytes may wait in the session until they are flushed.
        stream.flush().await?;
        receive(&mut stream, &mut buffer, body_bytes).await?;
        recorder.finished(1, started);
    }
    Ok(())
}

/// One request and its answer.
pub(crate) async fn exchange(stream: &mut impl Stream, path: &str, body_bytes: usize) -> Result<()> {
    stream.write_all(Request::new(path, 0).next()).await?;
    stream.flush().await?;
    receive(stream, &mut vec![0; 4096], body_bytes).await
}

/// Stands in a path for a number that no other request has.
const NUMBER: &str = "000000000";

/// A request that is sent again and again.
struct Request {
    bytes: Vec<u8>,
    /// Where [`NUMBER`] stands in it.
    number: Option<usize>,
}

impl Request {
    /// A request with `upload` bytes of text, or none.
    fn new(path: &str, upload: usize) -> Self {
        let (method, length) = match upload {
            0 => ("GET", String::new()),
            _ => ("POST", format!("Content-Type: text/plain\r\nContent-Length: {upload}\r\n")),
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: sluice-bench/1\r\nAccept: */*\r\n{length}\r\n"
        );
        let text = b"The quick brown fox jumps over the lazy dog. ".iter().copied().cycle().take(upload);
        let number = path.find(NUMBER).map(|at| method.len() + 1 + at);
        Self { bytes: head.into_bytes().into_iter().chain(text).collect(), number }
    }

    /// Its bytes, with a number of its own where it has one.
    fn next(&mut self) -> &[u8] {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if let Some(at) = self.number {
            let mut rest = NEXT.fetch_add(1, Relaxed);
            for digit in self.bytes[at..at + NUMBER.len()].iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
        &self.bytes
    }
}

/// Reads one answer whose body must have `body_bytes`, and nothing after it.
async fn receive(stream: &mut impl Stream, buffer: &mut [u8], body_bytes: usize) -> Result<()> {
    let mut filled = 0;
    let head = loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        ensure!(read > 0, "the connection was closed before an answer");
        filled += read;
        if let Some(at) = memchr::memmem::find(&buffer[..filled], b"\r\n\r\n") {
            break at + 4;
        }
        ensure!(filled < buffer.len(), "the head of an answer does not end");
    };
    if !buffer.starts_with(b"HTTP/1.1 200") {
        let head = String::from_utf8_lossy(&buffer[..head]);
        bail!("the answer is `{}`", head.lines().next().unwrap_or_default());
    }
    let mut left =
        (head + body_bytes).checked_sub(filled).context("the answer is longer than it should be")?;
    while left > 0 {
        let size = left.min(buffer.len());
        let read = stream.read(&mut buffer[..size]).await?;
        ensure!(read > 0, "the connection was closed in an answer");
        left -= read;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_has_a_number_of_its_own_where_the_path_has_room_for_one() {
        let mut plain = Request::new("/a?b=1", 0);
        assert_eq!(plain.next().to_vec(), plain.next());
        let mut numbered = Request::new("/a?b=000000000&c=d", 3);
        let (one, other) = (numbered.next().to_vec(), numbered.next());
        assert_eq!(one.len(), other.len());
        assert_ne!(one, other);
        assert!(String::from_utf8_lossy(other).contains("&c=d HTTP/1.1"));
    }
}
