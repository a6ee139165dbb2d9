//! One WebSocket connection as the client's side of a session.
//!
//! The library holds the protocol: masking, fragments, control frames, UTF-8,
//! sizes. Here messages become frames and frames messages, pings are sent to
//! the silent, and every end gets its close code.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

use crate::config::objects::WebSocketConf;
use crate::frame::{FrameDecoder, FrameError, Piece};
use crate::net::http2::Tunnel;
use crate::net::{LazyTimer, Stream};
use crate::proxy::tlv::{CloseReason, Down};
use crate::snapshot::TlvSettings;

use super::translate::{Beat, Translator};

/// Bytes the library takes at once out of what was read. A connection holds as
/// many; the library's own size, 128 KiB, costs more than all the rest of it.
pub(super) const READ_BYTES: usize = 1024;
/// Bytes of messages that leave in one write.
pub(super) const WRITE_BYTES: usize = 16 * 1024;

/// What the client says.
pub(super) enum Speech {
    /// A binary message is a frame. The user is written over what the client
    /// says, where somebody trusted knows better.
    Frames {
        /// Who the caller is.
        user: Option<u64>,
    },
    /// A text message is JSON for the transcoder.
    Text(Box<Translator>),
}

/// What a WebSocket connection lies on: a socket, or a stream of HTTP/2.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + 'static {
    /// Ends it so that the client sees a cut.
    fn cut(&mut self);
}

impl Wire for Stream {
    fn cut(&mut self) {
        // A socket that does not take the option is gone already.
        let _ = self.tcp().set_zero_linger();
    }
}

impl Wire for Tunnel {
    fn cut(&mut self) {
        self.abort();
    }
}

/// A connection, and what is between its messages and a session's bytes.
pub(super) struct WebSocketDown<W> {
    socket: WebSocketStream<W>,
    settings: Arc<TlvSettings>,
    speech: Speech,
    /// The rest of a frame the session has not taken yet.
    frame: Bytes,
    /// An answer of our own that waits for a place.
    reply: Option<Message>,
    timer: LazyTimer,
    ping_interval: Duration,
    pong_timeout: Duration,
    /// When the client was last heard.
    heard: Instant,
    /// When it last sent a message.
    spoke: Instant,
    /// When it was asked whether it is still there.
    pinged: Option<Instant>,
    /// A heartbeat sent in the client's name, whose answer ends here.
    beat: Option<Beat>,
    fault: Option<CloseReason>,
    /// Why reading ended, until the session has taken what came before.
    ended_by: Option<io::Error>,
    close: CloseReason,
    is_closed: bool,
    has_ended: bool,
}

impl<W: Wire> WebSocketDown<W> {
    /// A connection that has been greeted.
    pub(super) async fn new(
        wire: W,
        settings: Arc<TlvSettings>,
        conf: &WebSocketConf,
        speech: Speech,
    ) -> Self {
        let message_max = Some(conf.message_max as usize);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(WRITE_BYTES)
            .max_message_size(message_max)
            .max_frame_size(message_max);
        let socket = WebSocketStream::from_raw_socket(wire, Role::Server, Some(config)).await;
        let now = Instant::now();
        Self {
            socket,
            settings,
            speech,
            frame: Bytes::new(),
            reply: None,
            timer: LazyTimer::new(),
            ping_interval: conf.ping_interval,
            pong_timeout: conf.pong_timeout,
            heard: now,
            spoke: now,
            pinged: None,
            beat: None,
            fault: None,
            ended_by: None,
            close: CloseReason::ClientClosed,
            is_closed: false,
            has_ended: false,
        }
    }

    fn fail(&mut self, reason: CloseReason) -> Poll<io::Result<()>> {
        self.fault = Some(reason);
        Poll::Ready(Err(io::ErrorKind::InvalidData.into()))
    }

    /// Takes the next message in, until there is something for the session.
    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.reply.is_some() {
                ready!(Pin::new(&mut self.socket).poll_ready(context)).map_err(broken)?;
                if let Some(reply) = self.reply.take() {
                    Pin::new(&mut self.socket).start_send(reply).map_err(broken)?;
                }
                // What does not go out now goes out with what comes next.
                let _ = Pin::new(&mut self.socket).poll_flush(context).map_err(broken)?;
            }
            match Pin::new(&mut self.socket).poll_next(context) {
                Poll::Pending => {
                    ready!(self.poll_silence(context))?;
                    continue;
                }
                Poll::Ready(None) => {
                    self.has_ended = true;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Some(Err(error))) => return self.failed(error),
                Poll::Ready(Some(Ok(message))) => {
                    self.heard = Instant::now();
                    self.pinged = None;
                    match message {
                        Message::Binary(bytes) => ready!(self.take_frame(bytes))?,
                        Message::Text(text) => ready!(self.take_text(text.as_bytes()))?,
                        Message::Pong(_) | Message::Ping(_) => self.beat_for_client(),
                        Message::Close(_) => {
                            self.has_ended = true;
                            return Poll::Ready(Ok(()));
                        }
                        Message::Frame(_) => {}
                    }
                    if self.frame.has_remaining() {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }

    fn failed(&mut self, error: Error) -> Poll<io::Result<()>> {
        match error {
            Error::Capacity(_) => self.fail(CloseReason::Client("websocket_too_large")),
            Error::Utf8(_) => self.fail(CloseReason::Client("websocket_utf8")),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
            Error::Protocol(_) => self.fail(CloseReason::Client("websocket_protocol")),
            other => Poll::Ready(Err(broken(other))),
        }
    }

    fn take_frame(&mut self, bytes: Bytes) -> Poll<io::Result<()>> {
        let Speech::Frames { user } = &self.speech else {
            return self.fail(CloseReason::Client("websocket_wrong_type"));
        };
        let format = &self.settings.format;
        match FrameDecoder::default().next(format, &bytes, usize::MAX) {
            Ok(Piece::Frame(frame)) if frame.bytes().len() == bytes.len() => {}
            Ok(_) => return self.fail(CloseReason::Client("websocket_not_one_frame")),
            Err(error) => return self.fail(CloseReason::ClientFrame(error)),
        }
        self.frame = match user.zip(format.user()) {
            Some((user, field)) => {
                let mut frame = Vec::from(bytes);
                if !field.write(&mut frame, user) {
                    return self.fail(CloseReason::Client("caller_too_large"));
                }
                frame.into()
            }
            None => bytes,
        };
        self.spoke = self.heard;
        Poll::Ready(Ok(()))
    }

    fn take_text(&mut self, text: &[u8]) -> Poll<io::Result<()>> {
        let Speech::Text(translator) = &mut self.speech else {
            return self.fail(CloseReason::Client("websocket_wrong_type"));
        };
        self.spoke = self.heard;
        match translator.encode(text) {
            Ok(frame) => self.frame = frame.into(),
            Err(answer) => self.reply = Some(text_message(answer)),
        }
        Poll::Ready(Ok(()))
    }

    /// A client that is there and says nothing is kept alive at the upstream.
    fn beat_for_client(&mut self) {
        if self.spoke + self.ping_interval > self.heard {
            return;
        }
        let (sequence, user) = match &mut self.speech {
            Speech::Frames { user } => (0, *user),
            Speech::Text(translator) => (translator.next_sequence(), translator.user()),
        };
        // A format whose heartbeat cannot be written gets none.
        if let Some((frame, beat)) = Beat::with(&self.settings, sequence, user) {
            (self.frame, self.beat) = (frame, Some(beat));
        }
    }

    /// Asks a silent client whether it is there; fails when it does not answer.
    /// Ready when it was asked, so that its answer is waited for.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let at = match self.pinged {
            None => self.heard + self.ping_interval,
            Some(pinged) => pinged + self.pong_timeout,
        };
        ready!(self.timer.poll_until(context, at));
        if self.pinged.is_some() {
            return self.fail(CloseReason::Client("websocket_no_pong"));
        }
        self.pinged = Some(Instant::now());
        // A connection that takes nothing is not asked; the wait runs all the same.
        if let Poll::Ready(ready) = Pin::new(&mut self.socket).poll_ready(context) {
            ready.map_err(broken)?;
            Pin::new(&mut self.socket).start_send(Message::Ping(Bytes::new())).map_err(broken)?;
            let _ = Pin::new(&mut self.socket).poll_flush(context).map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

fn text_message(text: Vec<u8>) -> Message {
    // A transcoder's text is JSON; a slip would show as a replacement character.
    let text = String::from_utf8(text)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    Message::text(text)
}

impl<W: Wire> AsyncRead for WebSocketDown<W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.fault.is_some() && this.is_closed {
            // What still comes is nobody's; reading it lets the close arrive.
            return Pin::new(this.socket.get_mut()).poll_read(context, buffer);
        }
        // As many messages as have come and fit, so that what a client sends in
        // one go leaves in one write.
        let before = buffer.filled().len();
        loop {
            let count = this.frame.remaining().min(buffer.remaining());
            buffer.put_slice(&this.frame[..count]);
            this.frame.advance(count);
            if buffer.remaining() == 0 || this.has_ended {
                return Poll::Ready(Ok(()));
            }
            let outcome = match this.ended_by.take() {
                Some(error) => Poll::Ready(Err(error)),
                None => this.poll_message(context),
            };
            match outcome {
                Poll::Ready(Ok(())) => {}
                // What came before is the session's; the rest is told when it asks again.
                Poll::Ready(Err(error)) if buffer.filled().len() > before => {
                    this.ended_by = Some(error);
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending if buffer.filled().len() > before => return Poll::Ready(Ok(())),
                ended => return ended,
            }
        }
    }
}

impl<W: Wire> AsyncWrite for WebSocketDown<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let format = Arc::clone(&this.settings.format);
        let mut taken = 0;
        while taken < data.len() {
            let Ok(Piece::Frame(frame)) = FrameDecoder::default().next(&format, &data[taken..], usize::MAX)
            else {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            };
            let length = frame.bytes().len();
            if Beat::take(&mut this.beat, &this.settings, &frame) {
                taken += length;
                continue;
            }
            match Pin::new(&mut this.socket).poll_ready(context) {
                Poll::Pending => break,
                Poll::Ready(ready) => ready.map_err(broken)?,
            }
            let message = match &mut this.speech {
                Speech::Frames { .. } => Message::Binary(Bytes::copy_from_slice(frame.bytes())),
                Speech::Text(translator) => text_message(translator.decode(&frame)),
            };
            Pin::new(&mut this.socket).start_send(message).map_err(broken)?;
            taken += length;
        }
        if taken == 0 && !data.is_empty() { Poll::Pending } else { Poll::Ready(Ok(taken)) }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.is_closed {
            // Where the client closed first its own close is answered already.
            if !this.has_ended {
                ready!(Pin::new(&mut this.socket).poll_ready(context)).map_err(broken)?;
                let frame =
                    CloseFrame { code: close_code(this.close).into(), reason: this.close.code().into() };
                Pin::new(&mut this.socket).start_send(Message::Close(Some(frame))).map_err(broken)?;
            }
            this.is_closed = true;
        }
        // The peer may be gone; its close was as good as it could be.
        Pin::new(&mut this.socket).poll_flush(context).map(|_| Ok(()))
    }
}

impl<W: Wire> Down for WebSocketDown<W> {
    const WHOLE: bool = true;

    fn protocol(&self) -> &'static str {
        "websocket"
    }

    fn cut(&mut self) {
        self.socket.get_mut().cut();
    }

    fn fault(&self) -> Option<CloseReason> {
        self.fault
    }

    fn heard(&self) -> Option<Instant> {
        Some(self.heard)
    }

    fn ending(&mut self, reason: CloseReason) {
        self.close = reason;
    }
}

/// The close code that says why; `docs/im.md` lists them.
pub(super) fn close_code(reason: CloseReason) -> u16 {
    match reason {
        CloseReason::ClientClosed
        | CloseReason::ClientReset
        | CloseReason::UpstreamClosed
        | CloseReason::HalfCloseTimeout => 1000,
        CloseReason::Client("websocket_protocol") => 1002,
        CloseReason::Client("websocket_wrong_type") => 1003,
        CloseReason::Client("websocket_too_large")
        | CloseReason::ClientFrame(FrameError::BodyTooLarge { .. }) => 1009,
        CloseReason::Client("websocket_utf8" | "websocket_not_one_frame") | CloseReason::ClientFrame(_) => {
            1007
        }
        CloseReason::UpstreamFrame(_) => 1011,
        CloseReason::RouteChanged | CloseReason::Drained | CloseReason::Aborted => 1012,
        CloseReason::NoUpstream
        | CloseReason::UpstreamReset
        | CloseReason::UpstreamStalled
        | CloseReason::MoveFailed
        | CloseReason::ReplayTooLarge
        | CloseReason::RequestLost => 1013,
        _ => 1008,
    }
}
