//! HTTP/2 from clients: a connection that yields streams.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use tokio::io::{AsyncRead, AsyncWrite};

use super::convert::{self, BadRequest};
use super::io::{Metered, Noticed};
use super::meter::{Flood, Meter, MeterLimits};
use super::stream::{Incoming, Outgoing, reset_error, transfer_error};
use super::tunnel::Tunnel;
use crate::message::{
    BodyLength, BodyPart, BodyRead, BodyWrite, Downstream, Fields, Moved, Name, RequestHead, ResponseHead,
    Scheme, TransferError,
};
use crate::net::{LeasedBuffer, path};

/// Limits of one connection.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerLimits {
    /// Streams open at once.
    pub streams_max: u32,
    /// Bytes of a request's fields, each counted with 32 more (RFC 9113 §6.5.2).
    pub header_bytes_max: u32,
    /// Fields of a request.
    pub header_count_max: usize,
    /// Bytes of one stream's body that may wait here.
    pub stream_window_bytes: u32,
    /// Bytes of all streams' bodies that may wait here.
    pub connection_window_bytes: u32,
    /// Bytes of one stream's response that may wait here.
    pub send_buffer_bytes: usize,
    /// Whether extended CONNECT (RFC 8441) is offered.
    pub extended_connect: bool,
    /// How long preface and settings may take.
    pub handshake_timeout: Duration,
    /// Budgets of frames that cost the peer nothing.
    pub meter: MeterLimits,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            streams_max: 128,
            header_bytes_max: 32 * 1024,
            header_count_max: 100,
            stream_window_bytes: 256 * 1024,
            connection_window_bytes: 1024 * 1024,
            send_buffer_bytes: 64 * 1024,
            extended_connect: false,
            handshake_timeout: Duration::from_secs(10),
            meter: MeterLimits::default(),
        }
    }
}

/// Streams the peer can make us reset before the connection ends.
const LOCAL_RESETS_MAX: usize = 256;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// Preface and settings did not come in time.
    #[error("h2_handshake_timeout")]
    HandshakeTimeout,
    /// A flood was noticed.
    #[error(transparent)]
    Flood(#[from] Flood),
    /// The peer broke the protocol, or the socket failed.
    #[error(transparent)]
    Transfer(#[from] TransferError),
}

/// A connection from a client.
#[derive(Debug)]
pub struct ServerConnection<S> {
    inner: Connection<Metered<S>, Bytes>,
    noticed: Noticed,
    ending: Option<Flood>,
    scheme: Scheme,
    slashes: path::Slashes,
    header_count_max: usize,
}

/// What the next stream brings.
#[derive(Debug)]
pub struct Accepted {
    /// Its head, or why there is no sound one.
    pub head: Result<RequestHead, Refused>,
    /// The stream to answer on.
    pub stream: ServerStream,
}

/// Why a stream is answered before the flow sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The request is not sound: 400.
    #[error(transparent)]
    Bad(#[from] BadRequest),
    /// More fields than the limit: 431.
    #[error("h2_too_many_fields")]
    TooManyFields,
}

impl Refused {
    /// The reason code.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Bad(bad) => bad.reason(),
            Self::TooManyFields => "h2_too_many_fields",
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ServerConnection<S> {
    /// Exchanges preface and settings; `first` was read from `stream` already.
    ///
    /// # Errors
    /// When they do not come in time or are wrong.
    pub async fn handshake(
        stream: S,
        first: Option<LeasedBuffer>,
        limits: &ServerLimits,
        scheme: Scheme,
        slashes: path::Slashes,
    ) -> Result<Self, ConnectionError> {
        let (io, noticed) = Metered::new(stream, first, Meter::new(limits.meter.clone(), Instant::now()));
        let mut builder = h2::server::Builder::new();
        builder
            .max_concurrent_streams(limits.streams_max)
            .max_header_list_size(limits.header_bytes_max)
            .initial_window_size(limits.stream_window_bytes)
            .initial_connection_window_size(limits.connection_window_bytes)
            .max_send_buffer_size(limits.send_buffer_bytes)
            .max_local_error_reset_streams(Some(LOCAL_RESETS_MAX));
        if limits.extended_connect {
            builder.enable_connect_protocol();
        }
        let inner = tokio::time::timeout(limits.handshake_timeout, builder.handshake(io))
            .await
            .map_err(|_| ConnectionError::HandshakeTimeout)?
            .map_err(transfer_error)?;
        Ok(Self { inner, noticed, ending: None, scheme, slashes, header_count_max: limits.header_count_max })
    }

    /// The next stream; `None` when the connection has ended. Drives the whole
    /// connection, so it must be polled for as long as streams are open.
    pub fn poll_accept(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Accepted, ConnectionError>>> {
        loop {
            if self.ending.is_none()
                && let Some(flood) = self.noticed.take()
            {
                self.ending = Some(flood);
                self.inner.abrupt_shutdown(match flood {
                    Flood::FrameSize => Reason::FRAME_SIZE_ERROR,
                    _ => Reason::ENHANCE_YOUR_CALM,
                });
            }
            let accepted = self.inner.poll_accept(context);
            if let Some(flood) = self.ending {
                // GOAWAY has been queued; the connection ends once it is written.
                return match accepted {
                    Poll::Ready(Some(Ok(_))) => continue,
                    Poll::Ready(_) => Poll::Ready(Some(Err(flood.into()))),
                    Poll::Pending => Poll::Pending,
                };
            }
            return match accepted {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    Poll::Ready(Some(Ok(self.accepted(request, respond))))
                }
                Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(transfer_error(error).into()))),
                Poll::Ready(None) => Poll::Ready(None),
                // A flood noticed in this very poll.
                Poll::Pending if self.noticed.take().is_some() => continue,
                Poll::Pending => Poll::Pending,
            };
        }
    }

    fn accepted(&self, request: http::Request<RecvStream>, respond: SendResponse<Bytes>) -> Accepted {
        let (parts, body) = request.into_parts();
        let is_tunnel = matches!(convert::tunnel_protocol(&parts), Ok(Some(_)));
        // What follows is the tunnel's, once there is one.
        let length = if is_tunnel { BodyLength::None } else { request_length(&parts, &body) };
        let expects_continue = parts
            .headers
            .get(http::header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let head = if parts.headers.len() > self.header_count_max {
            Err(Refused::TooManyFields)
        } else {
            convert::request_head(&parts, self.scheme, self.slashes).map_err(Refused::from)
        };
        let is_head = parts.method == http::Method::HEAD;
        let stream = ServerStream {
            incoming: Incoming::new(body, if is_tunnel { BodyLength::Unknown } else { length }),
            is_tunnel,
            length,
            expects_continue,
            is_head,
            respond,
            pending: None,
            outgoing: None,
            moved: Moved::default(),
        };
        Accepted { head, stream }
    }

    /// Takes no further streams and ends when the open ones have (GOAWAY).
    pub fn drain(&mut self) {
        self.inner.graceful_shutdown();
    }

    /// Ends at once, telling the peer so.
    pub fn close(&mut self) {
        self.inner.abrupt_shutdown(Reason::NO_ERROR);
    }
}

fn request_length(parts: &http::request::Parts, body: &RecvStream) -> BodyLength {
    if body.is_end_stream() {
        return BodyLength::None;
    }
    let declared = parts.headers.get(http::header::CONTENT_LENGTH);
    match declared.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok()) {
        Some(bytes) => BodyLength::Known(bytes),
        None => BodyLength::Unknown,
    }
}

/// One stream, the client's side of an exchange.
#[derive(Debug)]
pub struct ServerStream {
    incoming: Incoming,
    length: BodyLength,
    /// An extended CONNECT: a 2xx would open a tunnel.
    is_tunnel: bool,
    expects_continue: bool,
    is_head: bool,
    respond: SendResponse<Bytes>,
    /// A head without a body waits for `poll_finish`, which may bring trailers.
    pending: Option<http::Response<()>>,
    outgoing: Option<Outgoing>,
    moved: Moved,
}

impl ServerStream {
    fn send(
        &mut self,
        response: http::Response<()>,
        body: BodyLength,
        end: bool,
    ) -> Result<(), TransferError> {
        let stream = self.respond.send_response(response, end).map_err(transfer_error)?;
        self.outgoing = Some(Outgoing::new(stream, body, end));
        Ok(())
    }

    /// Opens the tunnel an extended CONNECT asked for.
    ///
    /// # Errors
    /// When the stream is gone, or asked for none.
    pub fn into_tunnel(mut self, head: &ResponseHead) -> Result<Tunnel, TransferError> {
        if !self.is_tunnel || self.is_answered() {
            return Err(TransferError::Malformed("tunnel_not_asked_for"));
        }
        let mut response = convert::response(head);
        *response.status_mut() = http::StatusCode::OK;
        let outgoing = Outgoing::new(
            self.respond.send_response(response, false).map_err(transfer_error)?,
            BodyLength::Unknown,
            false,
        );
        Ok(Tunnel::new(self.incoming, outgoing))
    }
}

impl BodyRead for ServerStream {
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Result<BodyPart<'_>, TransferError>> {
        if self.is_tunnel {
            return Poll::Ready(Ok(BodyPart::End(None)));
        }
        if self.expects_continue {
            self.expects_continue = false;
            let mut interim = http::Response::new(());
            *interim.status_mut() = http::StatusCode::CONTINUE;
            self.respond.send_informational(interim).map_err(transfer_error)?;
        }
        self.incoming.poll_body(context)
    }

    fn consume(&mut self, count: usize) {
        self.incoming.consume(count);
    }

    fn remaining(&self) -> Option<u64> {
        if self.is_tunnel { Some(0) } else { self.incoming.remaining() }
    }

    fn is_end(&self) -> bool {
        self.is_tunnel || self.incoming.is_end()
    }
}

impl BodyWrite for ServerStream {
    fn poll_write(&mut self, context: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, TransferError>> {
        match &mut self.outgoing {
            Some(outgoing) => outgoing.poll_write(context, data),
            None => Poll::Ready(Err(TransferError::Malformed("body_before_its_head"))),
        }
    }

    fn poll_flush(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), TransferError>> {
        // The connection's own task writes what was queued.
        Poll::Ready(Ok(()))
    }

    fn poll_finish(
        &mut self,
        _context: &mut Context<'_>,
        trailers: Option<&Fields>,
    ) -> Poll<Result<(), TransferError>> {
        if let Some(response) = self.pending.take() {
            let end = trailers.is_none_or(Fields::is_empty);
            self.send(response, BodyLength::None, end)?;
        }
        match &mut self.outgoing {
            Some(outgoing) => outgoing.poll_finish(trailers),
            None => Poll::Ready(Err(TransferError::Malformed("body_before_its_head"))),
        }
    }
}

impl Downstream for ServerStream {
    fn request_length(&self) -> BodyLength {
        self.length
    }

    fn asks_upgrade(&self) -> bool {
        self.is_tunnel
    }

    fn is_tunnel(&self) -> bool {
        self.is_tunnel
    }

    fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    fn send_interim(&mut self, head: &ResponseHead) -> Result<(), TransferError> {
        self.respond.send_informational(convert::response(head)).map_err(transfer_error)
    }

    fn send_head(&mut self, head: &ResponseHead, body: BodyLength) -> Result<(), TransferError> {
        self.expects_continue = false;
        self.moved.sent += head_bytes(&head.fields);
        let mut response = convert::response(head);
        // Nothing but the tunnel itself may look like one.
        if self.is_tunnel && response.status().is_success() {
            *response.status_mut() = http::StatusCode::BAD_GATEWAY;
        }
        match body {
            BodyLength::Known(bytes) => {
                response.headers_mut().insert(http::header::CONTENT_LENGTH, bytes.into());
            }
            BodyLength::Unknown => {
                response.headers_mut().remove(http::header::CONTENT_LENGTH);
            }
            // The length of a body that HEAD leaves out is passed on.
            BodyLength::None if !self.is_head && head.status != 304 => {
                response.headers_mut().remove(http::header::CONTENT_LENGTH);
            }
            BodyLength::None => {}
        }
        if body.is_empty() {
            self.pending = Some(response);
            return Ok(());
        }
        self.send(response, body, false)
    }

    fn is_answered(&self) -> bool {
        self.pending.is_some() || self.outgoing.is_some()
    }

    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<TransferError> {
        match &mut self.outgoing {
            Some(outgoing) if outgoing.is_finished() => Poll::Pending,
            Some(outgoing) => outgoing.poll_reset(context),
            None => self.respond.poll_reset(context).map(reset_error),
        }
    }

    fn close_after(&mut self) {}

    fn abort(&mut self) {
        match &mut self.outgoing {
            Some(outgoing) => outgoing.abort(),
            None => self.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }

    fn moved(&self) -> Moved {
        Moved {
            received: self.moved.received + self.incoming.received,
            sent: self.moved.sent + self.outgoing.as_ref().map_or(0, |outgoing| outgoing.sent),
        }
    }
}

/// Bytes of fields before compression, the size logs speak of.
pub(super) fn head_bytes(fields: &Fields) -> u64 {
    fields.table().iter().map(|field| u64::from(field.name.len + field.value.len + 4)).sum()
}

/// Whether a head asks for trailers to be passed on.
#[must_use]
pub fn takes_trailers(fields: &Fields) -> bool {
    fields
        .values(Name::Te)
        .any(|value| value.split(|byte| *byte == b',').any(|one| one.trim_ascii() == b"trailers"))
}
