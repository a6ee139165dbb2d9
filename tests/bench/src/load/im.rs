//! JSON over HTTP, and frames over WebSocket; the origin answers with what it
//! was sent.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::frames::frame;
use super::{HOST, Recorder, Stream};

/// A number no double holds: it must come back digit for digit.
const ID: &str = "9007199254740993";

/// An `im.v1.SendRequest` as JSON.
pub(crate) fn message() -> String {
    let text = "Shall we meet at the station at half past six? I will bring the documents.";
    format!(
        r#"{{"to":1002,"clientMessageId":"{ID}","type":"CONTENT_TYPE_TEXT","text":"{text}","data":"AAECAwQFBgcICQ=="}}"#
    )
}

/// Sends a message when the reply to the one before is whole.
pub(super) async fn requests(mut stream: impl Stream, recorder: &Recorder) -> Result<()> {
    let body = message();
    let request = format!(
        "POST /im/messages HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: sluice-bench/1\r\nX-User-Id: 1001\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut buffer = vec![0; 8 * 1024];
    while !recorder.is_over.get() {
        let started = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        let (head, end) = receive(&mut stream, &mut buffer).await?;
        let answer = &buffer[head..end];
        let is_good = memchr::memmem::find(answer, ID.as_bytes()).is_some() && answer.len() + 8 > body.len();
        ensure!(is_good, "the reply is `{}`", String::from_utf8_lossy(answer));
        recorder.finished(1, started);
    }
    Ok(())
}

/// Reads one answer with a length; the ends of its head and of its body.
async fn receive(stream: &mut impl Stream, buffer: &mut [u8]) -> Result<(usize, usize)> {
    let mut filled = 0;
    let mut whole = None;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        ensure!(read > 0, "the connection was closed before an answer");
        filled += read;
        if whole.is_none()
            && let Some(at) = memchr::memmem::find(&buffer[..filled], b"\r\n\r\n")
        {
            let head = String::from_utf8_lossy(&buffer[..at]).to_ascii_lowercase();
            if !head.starts_with("http/1.1 200") {
                bail!("the answer is `{}`", String::from_utf8_lossy(&buffer[..filled]));
            }
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.context("an answer without a length")?.trim().parse()?;
            whole = Some((at + 4, at + 4 + length));
        }
        if let Some((head, end)) = whole.filter(|(_, end)| filled >= *end) {
            ensure!(filled == end, "the answer is longer than it should be");
            return Ok((head, end));
        }
        ensure!(filled < buffer.len(), "the answer does not end");
    }
}

/// Sends batches of frames, a message each, and awaits their echo.
pub(super) async fn messages(
    mut stream: impl Stream,
    frame_bytes: usize,
    batch: usize,
    recorder: &Recorder,
) -> Result<()> {
    greet(&mut stream).await?;
    let mut sent = Vec::new();
    let mut awaited = Vec::new();
    for sequence in 1..=batch {
        let frame = frame(frame_bytes, sequence as u16);
        let length = u16::try_from(frame.len())?.to_be_bytes();
        ensure!(frame.len() >= 126, "messages of less than 126 bytes have another head");
        let mask = [0x37, 0xFA, 0x21, 0x3D];
        sent.extend_from_slice(&[0x82, 0x80 | 126, length[0], length[1]]);
        sent.extend_from_slice(&mask);
        sent.extend(frame.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        awaited.extend_from_slice(&[0x82, 126, length[0], length[1]]);
        awaited.extend_from_slice(&frame);
    }
    let mut echo = vec![0; awaited.len()];
    let mut is_checked = false;
    while !recorder.is_over.get() {
        let started = Instant::now();
        stream.write_all(&sent).await?;
        stream.read_exact(&mut echo).await?;
        if !is_checked {
            ensure!(echo == awaited, "what came back is not what was sent");
            is_checked = true;
        }
        recorder.finished(batch as u64, started);
    }
    Ok(())
}

async fn greet(stream: &mut impl Stream) -> Result<()> {
    let request = format!(
        "GET /im HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: sluice.im20\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < 4096, "the head of an answer does not end");
        head.push(stream.read_u8().await?);
    }
    ensure!(head.starts_with(b"HTTP/1.1 101"), "the answer is `{}`", String::from_utf8_lossy(&head));
    Ok(())
}
