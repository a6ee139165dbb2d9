//! Full handshakes, one after the other.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Recorder, Tls, connect};

/// Connects, shakes hands, says goodbye and waits for the server's end, so that
/// the server has finished its side (tickets included) of what is counted.
pub(super) async fn session(port: SocketAddr, first: usize, tls: &Tls, recorder: &Recorder) -> Result<()> {
    let mut index = first;
    let mut rest = [0; 4096];
    while !recorder.is_over.get() {
        let started = Instant::now();
        let mut stream = tls.connect(connect(port, index).await?, b"http/1.1").await?;
        stream.shutdown().await?;
        // A server may end with a reset instead of a goodbye of its own.
        while let Ok(1..) = stream.read(&mut rest).await {}
        recorder.finished(1, started);
        index += 16;
    }
    Ok(())
}
