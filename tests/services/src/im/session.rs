//! One client's connection to the IM server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::hub::{Hub, Known, Session, now_ms, refuse};
use super::qr::QrOptions;
use crate::frame::{Frame, command, decode};
use crate::im_v1::{ConfirmLoginReply, ConfirmLoginRequest, Error, ErrorCode, HeartbeatReply, LoginRequest};
use crate::port::Ending;
use crate::proxy_header;

const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Settings {
    pub(super) hub: Arc<Hub>,
    pub(super) line: String,
    pub(super) proxy_protocol: bool,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) qr: Option<Arc<QrOptions>>,
}

pub(super) async fn serve(settings: Arc<Settings>, mut stream: TcpStream, peer: SocketAddr) -> Ending {
    let mut client = peer;
    let mut buffer = BytesMut::new();
    if settings.proxy_protocol {
        match timeout(LOGIN_TIMEOUT, proxy_header::read(&mut stream, &mut buffer)).await {
            Ok(Ok(header)) => client = header.and_then(|header| header.source).unwrap_or(peer),
            _ => {
                settings.hub.count_protocol_error();
                return Ending::Close;
            }
        }
    }
    // How a connection ends is seen in the counters; the peer has no use for
    // the reason.
    let _ = match &settings.tls {
        None => Connection::new(&settings, client, stream, buffer).run().await,
        Some(tls) => {
            let stream = Prefixed { prefix: buffer, stream };
            match timeout(LOGIN_TIMEOUT, tls.accept(stream)).await {
                Ok(Ok(stream)) => {
                    Box::pin(Connection::new(&settings, client, stream, BytesMut::new()).run()).await
                }
                _ => {
                    settings.hub.count_protocol_error();
                    Ok(())
                }
            }
        }
    };
    Ending::Close
}

struct Connection<'a, S> {
    settings: &'a Settings,
    client: SocketAddr,
    stream: S,
    buffer: BytesMut,
    session: Option<Session>,
}

enum After {
    Continue,
    Close,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Connection<'a, S> {
    fn new(settings: &'a Settings, client: SocketAddr, stream: S, buffer: BytesMut) -> Self {
        Connection { settings, client, stream, buffer, session: None }
    }

    async fn run(mut self) -> io::Result<()> {
        let outcome = self.serve_frames().await;
        if let Some(session) = &self.session {
            self.settings.hub.leave(session);
        }
        let _ = timeout(WRITE_TIMEOUT, self.stream.shutdown()).await;
        outcome
    }

    async fn serve_frames(&mut self) -> io::Result<()> {
        let login_by = Instant::now() + LOGIN_TIMEOUT;
        let mut replies = BytesMut::new();
        loop {
            while let Some(frame) = self.next_frame()? {
                let outcome = match frame.command {
                    command::CONFIRM_LOGIN => self.confirm_login(&frame).await,
                    _ => self.carry_out(&frame),
                };
                let after = self.answer(&frame, outcome, &mut replies);
                if replies.len() > 64 * 1024 || matches!(after, After::Close) {
                    self.write(&mut replies).await?;
                }
                if matches!(after, After::Close) {
                    return Ok(());
                }
            }
            self.write(&mut replies).await?;
            let idle_by = Instant::now() + IDLE_TIMEOUT;
            let deadline = if self.session.is_some() { idle_by } else { login_by.min(idle_by) };
            if self.wait(deadline, &mut replies).await? == 0 {
                return Ok(());
            }
        }
    }

    fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        decode(&mut self.buffer).map_err(|error| {
            self.settings.hub.count_protocol_error();
            io::Error::new(io::ErrorKind::InvalidData, error)
        })
    }

    /// Waits for bytes from the client, writing pushes meanwhile. Zero: the
    /// connection is over.
    async fn wait(&mut self, deadline: Instant, out: &mut BytesMut) -> io::Result<usize> {
        loop {
            let Some(session) = &mut self.session else {
                return timeout_at(deadline, self.stream.read_buf(&mut self.buffer)).await.unwrap_or(Ok(0));
            };
            let pushed: Option<Bytes> = tokio::select! {
                read = timeout_at(deadline, self.stream.read_buf(&mut self.buffer)) => {
                    return read.unwrap_or(Ok(0));
                }
                pushed = session.outgoing.recv() => pushed,
            };
            let Some(frame) = pushed else { return Ok(0) };
            out.extend_from_slice(&frame);
            while let Ok(more) = session.outgoing.try_recv() {
                out.extend_from_slice(&more);
            }
            self.write(out).await?;
        }
    }

    async fn write(&mut self, out: &mut BytesMut) -> io::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        timeout(WRITE_TIMEOUT, async {
            self.stream.write_all(out).await?;
            self.stream.flush().await
        })
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        out.clear();
        Ok(())
    }

    fn answer(&mut self, frame: &Frame, outcome: Result<Frame, Error>, out: &mut BytesMut) -> After {
        let settings = self.settings;
        settings.hub.count_frame(frame.command);
        let user = self.session.as_ref().map_or(frame.from, |session| session.user);
        match outcome {
            Ok(reply) => {
                reply.between(0, user).encode(out);
                if frame.command == command::LOGIN
                    && let Some(session) = &mut self.session
                {
                    session.pending.drain(..).for_each(|pending| out.extend_from_slice(&pending));
                }
                After::Continue
            }
            Err(error) => {
                settings.hub.count_error();
                let fatal = error.code() == ErrorCode::BadCredentials;
                let error = Error { command: frame.command.into(), ..error };
                Frame::new(command::ERROR, frame.sequence, &error).between(0, user).encode(out);
                if fatal { After::Close } else { After::Continue }
            }
        }
    }

    /// Lets a browser in as the user of this connection.
    async fn confirm_login(&self, frame: &Frame) -> Result<Frame, Error> {
        let user = self.speaker(frame)?.user;
        let request: ConfirmLoginRequest = body(frame)?;
        let Some(qr) = &self.settings.qr else {
            return Err(refuse(ErrorCode::UnknownCommand, "this server confirms no logins"));
        };
        qr.confirm(&request.token, user).await?;
        Ok(Frame::new(command::CONFIRM_LOGIN_REPLY, frame.sequence, &ConfirmLoginReply {}))
    }

    /// The session a frame is sent in; who speaks is who logged in.
    fn speaker(&self, frame: &Frame) -> Result<&Session, Error> {
        let Some(session) = &self.session else {
            return Err(refuse(ErrorCode::NotLoggedIn, "log in first"));
        };
        if frame.from != session.user {
            let text = format!("from: {} is not the user logged in", frame.from);
            return Err(refuse(ErrorCode::Forbidden, text));
        }
        Ok(session)
    }

    fn carry_out(&mut self, frame: &Frame) -> Result<Frame, Error> {
        let hub = &self.settings.hub;
        let sequence = frame.sequence;
        match frame.command {
            command::HEARTBEAT => {
                let reply = HeartbeatReply { server_time_ms: now_ms(), line: self.settings.line.clone() };
                return Ok(Frame::new(command::HEARTBEAT_REPLY, sequence, &reply));
            }
            command::LOGIN => {
                let request: LoginRequest = body(frame)?;
                let qr = self.settings.qr.as_deref();
                let known = match qr.is_some_and(|qr| qr.is_session_of(&request.token, request.user_id)) {
                    true => Known::BySession,
                    false => Known::ByToken,
                };
                let session = hub.login(request, known, self.client, &self.settings.line)?;
                if let Some(earlier) = self.session.replace(session) {
                    hub.leave(&earlier);
                }
                let reply = self.session.as_ref().map(|session| session.reply.clone()).unwrap_or_default();
                return Ok(Frame::new(command::LOGIN_REPLY, sequence, &reply));
            }
            _ => {}
        }
        let session = self.speaker(frame)?;
        match frame.command {
            command::SEND => {
                let reply = hub.send(session, body(frame)?)?;
                Ok(Frame::new(command::SEND_REPLY, sequence, &reply))
            }
            command::ACK => {
                let request: crate::im_v1::AckRequest = body(frame)?;
                let reply = hub.acknowledge(session, request.message_id);
                Ok(Frame::new(command::ACK_REPLY, sequence, &reply))
            }
            command::HISTORY => {
                let reply = hub.history(session, body(frame)?)?;
                Ok(Frame::new(command::HISTORY_REPLY, sequence, &reply))
            }
            command::CONVERSATIONS => {
                let reply = hub.conversations(session, body(frame)?)?;
                Ok(Frame::new(command::CONVERSATIONS_REPLY, sequence, &reply))
            }
            other => Err(refuse(ErrorCode::UnknownCommand, format!("command {other:#06x} is unknown"))),
        }
    }
}

fn body<M: prost::Message + Default>(frame: &Frame) -> Result<M, Error> {
    frame.message().map_err(|error| refuse(ErrorCode::Malformed, error.to_string()))
}

/// A stream with bytes in front that were read already.
struct Prefixed {
    prefix: BytesMut,
    stream: TcpStream,
}

mod prefixed {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::Prefixed;

    impl AsyncRead for Prefixed {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            out: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.prefix.is_empty() {
                return Pin::new(&mut self.stream).poll_read(cx, out);
            }
            let count = self.prefix.len().min(out.remaining());
            out.put_slice(&self.prefix.split_to(count));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Prefixed {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.stream).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }
}
