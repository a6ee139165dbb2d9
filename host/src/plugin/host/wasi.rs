//! WASI 0.2 with nothing granted: clocks, random numbers, and what is written
//! to stdout and stderr in the log. No files, no environment, no sockets.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::{Level, Owner, State};

/// Handles of one instance: streams, pollables and the like.
const HANDLES_MAX: usize = 1024;

pub(super) struct Wasi {
    context: WasiCtx,
    table: ResourceTable,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let owner = &self.owner;
        // Most guests never ask for it.
        let wasi = self.wasi.get_or_insert_with(|| Box::new(Wasi::new(owner)));
        WasiCtxView { ctx: &mut wasi.context, table: &mut wasi.table }
    }
}

impl Wasi {
    fn new(owner: &Arc<Owner>) -> Self {
        let stream = |level| LogStream { owner: Arc::clone(owner), level, line: Vec::new() };
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES_MAX);
        let context = WasiCtx::builder().stdout(stream(Level::INFO)).stderr(stream(Level::WARN)).build();
        Self { context, table }
    }
}

/// What is written becomes lines of the log.
#[derive(Clone)]
struct LogStream {
    owner: Arc<Owner>,
    level: Level,
    line: Vec<u8>,
}

impl LogStream {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' {
                self.end_line();
            } else if self.line.len() < super::lines::LINE_BYTES_MAX {
                self.line.push(*byte);
            }
        }
    }

    fn end_line(&mut self) {
        if !self.line.is_empty() {
            let line = String::from_utf8_lossy(&self.line);
            self.owner.lines.write(&self.owner.module, self.level, &line);
            self.line.clear();
        }
    }
}

impl Drop for LogStream {
    fn drop(&mut self) {
        self.end_line();
    }
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for LogStream {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(super::lines::LINE_BYTES_MAX)
    }
}
