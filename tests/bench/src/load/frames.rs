//! Frames of the built-in format, echoed by the origin.

use std::time::Instant;

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Recorder, Stream};

/// Markers and header of a frame.
const OVERHEAD: usize = 22;

/// Sends batches of frames and awaits their echo.
pub(super) async fn session(
    mut stream: impl Stream,
    frame_bytes: usize,
    batch: usize,
    recorder: &Recorder,
) -> Result<()> {
    let frames: Vec<u8> = (1..=batch).flat_map(|sequence| frame(frame_bytes, sequence as u16)).collect();
    let mut echo = vec![0; frames.len()];
    let mut is_checked = false;
    while !recorder.is_over.get() {
        let started = Instant::now();
        stream.write_all(&frames).await?;
        stream.read_exact(&mut echo).await?;
        if !is_checked {
            ensure!(echo == frames, "what came back is not what was sent");
            is_checked = true;
        }
        recorder.finished(batch as u64, started);
    }
    Ok(())
}

/// One frame there and back.
pub(crate) async fn exchange(stream: &mut impl Stream) -> Result<()> {
    let frame = frame(64, 1);
    let mut echo = vec![0; frame.len()];
    stream.write_all(&frame).await?;
    // Over TLS the bytes may wait in the session until they are flushed.
    stream.flush().await?;
    stream.read_exact(&mut echo).await?;
    ensure!(echo == frame, "what came back is not what was sent");
    Ok(())
}

/// A chat message of `bytes` altogether.
pub(super) fn frame(bytes: usize, sequence: u16) -> Vec<u8> {
    let body = bytes - OVERHEAD;
    let mut frame = vec![0x09, 0, 1, 0, 2, 0x03, 0x20];
    frame.extend_from_slice(&sequence.to_be_bytes());
    frame.extend_from_slice(&1001_u32.to_be_bytes());
    frame.extend_from_slice(&1002_u32.to_be_bytes());
    frame.extend_from_slice(&(body as u32).to_be_bytes());
    frame.resize(frame.len() + body, b'x');
    frame.push(0x0A);
    frame
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_frame_has_the_size_asked_for() {
        for bytes in [64, 1024] {
            let frame = super::frame(bytes, 7);
            assert_eq!((frame.len(), frame[0], frame[bytes - 1]), (bytes, 0x09, 0x0A));
        }
    }
}
