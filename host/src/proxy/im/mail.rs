//! A mailbox as the client's side of a session.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::frame::{FrameDecoder, Piece};
use crate::net::LazyTimer;
use crate::proxy::tlv::{CloseReason, Down};
use crate::snapshot::TlvSettings;

use super::mailbox::Mailbox;
use super::translate::{Beat, SharedTranslator};

/// The session of clients that come and go.
pub(super) struct MailDown {
    mailbox: Rc<Mailbox>,
    settings: Arc<TlvSettings>,
    translator: SharedTranslator,
    frame: Bytes,
    timer: LazyTimer,
    /// How long nothing is sent before the upstream gets a heartbeat.
    beat_interval: Duration,
    beat: Option<Beat>,
    /// When something was last sent to the upstream.
    sent: Instant,
    fault: Option<CloseReason>,
    is_shut: bool,
}

impl MailDown {
    pub(super) fn new(
        mailbox: Rc<Mailbox>,
        settings: Arc<TlvSettings>,
        translator: SharedTranslator,
        beat_interval: Duration,
    ) -> Self {
        Self {
            mailbox,
            settings,
            translator,
            frame: Bytes::new(),
            timer: LazyTimer::new(),
            beat_interval,
            beat: None,
            sent: Instant::now(),
            fault: None,
            is_shut: false,
        }
    }

    /// Waits for the client's next frame, sending heartbeats in its name.
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.mailbox.poll_take(context) {
                Poll::Ready(Some(frame)) => {
                    self.frame = frame;
                    self.sent = Instant::now();
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {}
            }
            let idle = self.mailbox.heard() + self.mailbox.idle_timeout();
            let beat = self.sent + self.beat_interval;
            ready!(self.timer.poll_until(context, idle.min(beat)));
            let now = Instant::now();
            // A stream that was attached may have gone since, or one have come.
            if now >= self.mailbox.heard() + self.mailbox.idle_timeout() {
                self.fault = Some(CloseReason::IdleTimeout);
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            if now >= beat {
                self.sent = now;
                if let Some((frame, beat)) = Beat::make(&self.settings, &self.translator) {
                    self.frame = frame;
                    self.beat = Some(beat);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncRead for MailDown {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.is_shut {
            return Poll::Ready(Ok(()));
        }
        if !this.frame.has_remaining() {
            ready!(this.poll_frame(context))?;
        }
        let count = this.frame.remaining().min(buffer.remaining());
        buffer.put_slice(&this.frame[..count]);
        this.frame.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MailDown {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut taken = 0;
        while taken < data.len() {
            let piece = FrameDecoder::default().next(&this.settings.format, &data[taken..], usize::MAX);
            let Ok(Piece::Frame(frame)) = piece else {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            };
            if !Beat::take(&mut this.beat, &this.settings, &frame) {
                if this.mailbox.poll_room(context).is_pending() {
                    break;
                }
                let text = this.translator.borrow_mut().decode(&frame);
                this.mailbox.add(text.into());
            }
            taken += frame.bytes().len();
        }
        if taken == 0 && !data.is_empty() { Poll::Pending } else { Poll::Ready(Ok(taken)) }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nothing is read any more: whoever lingers sees the end.
        self.is_shut = true;
        Poll::Ready(Ok(()))
    }
}

impl Down for MailDown {
    const WHOLE: bool = true;

    fn protocol(&self) -> &'static str {
        "polling"
    }

    fn cut(&mut self) {}

    fn fault(&self) -> Option<CloseReason> {
        self.fault
    }

    fn heard(&self) -> Option<Instant> {
        Some(self.mailbox.heard())
    }

    fn ending(&mut self, reason: CloseReason) {
        self.mailbox.end(reason.code());
    }
}
