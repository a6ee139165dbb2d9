//! The bytes of an HTTP/2 connection on their way to `h2`, metered.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::{Flood, Meter};
use crate::net::LeasedBuffer;

/// A stream whose inbound frames are counted. Once a flood is noticed it lends
/// no further byte, and whoever drives the connection finds the reason in
/// [`Noticed`] and says GOAWAY.
#[derive(Debug)]
pub(super) struct Metered<S> {
    inner: S,
    /// Bytes read before HTTP/2 was known to be spoken.
    first: Option<LeasedBuffer>,
    meter: Meter,
    noticed: Noticed,
}

/// Where a noticed flood is left for the driver of the connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Noticed(Rc<Cell<Option<Flood>>>);

impl Noticed {
    pub(super) fn take(&self) -> Option<Flood> {
        self.0.get()
    }
}

impl<S> Metered<S> {
    pub(super) fn new(inner: S, first: Option<LeasedBuffer>, meter: Meter) -> (Self, Noticed) {
        let noticed = Noticed::default();
        (Self { inner, first, meter, noticed: noticed.clone() }, noticed)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.noticed.0.get().is_some() {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let result = match &mut self.first {
            Some(first) => {
                let count = first.filled().len().min(buffer.remaining());
                buffer.put_slice(&first.filled()[..count]);
                first.consume(count);
                if first.filled().is_empty() {
                    self.first = None;
                }
                Poll::Ready(Ok(()))
            }
            None => Pin::new(&mut self.inner).poll_read(context, buffer),
        };
        if let Poll::Ready(Ok(())) = result {
            let this = &mut *self;
            if let Err(flood) = this.meter.received(&buffer.filled()[before..], Instant::now()) {
                if flood == Flood::NoSettings {
                    // Not HTTP/2: there is nobody to say GOAWAY to.
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, flood)));
                }
                this.noticed.0.set(Some(flood));
                buffer.set_filled(before);
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(context, data);
        if let Poll::Ready(Ok(count)) = result {
            self.meter.sent(count);
        }
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        if let Poll::Ready(Ok(count)) = result {
            self.meter.sent(count);
        }
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
