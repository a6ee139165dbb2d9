//! HTTP/2 to upstreams: one connection shared by many exchanges.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use tokio::io::{AsyncRead, AsyncWrite};

use super::convert;
use super::io::Metered;
use super::meter::{Meter, MeterLimits};
use super::server::head_bytes;
use super::stream::{Incoming, Outgoing, transfer_error};
use crate::message::{
    BodyLength, BodyPart, BodyRead, BodyWrite, Fields, Method, Moved, Name, RequestHead, RequestShape,
    ResponseHead, Scheme, TransferError, UpstreamExchange,
};

/// Limits of one connection to an upstream.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientLimits {
    /// Bytes of a response's fields.
    pub header_bytes_max: u32,
    /// Bytes of one stream's response that may wait here.
    pub stream_window_bytes: u32,
    /// Bytes of all streams' responses that may wait here.
    pub connection_window_bytes: u32,
    /// Bytes of one stream's request body that may wait here.
    pub send_buffer_bytes: usize,
    /// Streams to open before the upstream has said how many it takes.
    pub streams_initial: usize,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            header_bytes_max: 64 * 1024,
            stream_window_bytes: 256 * 1024,
            connection_window_bytes: 2 * 1024 * 1024,
            send_buffer_bytes: 64 * 1024,
            streams_initial: 100,
        }
    }
}

/// A connection to an upstream; clones share it. Closed when every clone and
/// every exchange on it is gone.
#[derive(Debug, Clone)]
pub struct ClientConnection {
    send: SendRequest<Bytes>,
    scheme: Scheme,
    state: Rc<State>,
}

#[derive(Debug, Default)]
struct State {
    closed: Cell<bool>,
    open: Cell<usize>,
}

impl ClientConnection {
    /// Exchanges preface and settings over `stream` and returns the connection
    /// and the future that drives it, to be spawned by the caller.
    ///
    /// # Errors
    /// When the preface cannot be written.
    pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin + 'static>(
        stream: S,
        limits: &ClientLimits,
        scheme: Scheme,
    ) -> Result<(Self, impl Future<Output = ()> + 'static), TransferError> {
        let (io, noticed) =
            Metered::new(stream, None, Meter::for_client(MeterLimits::default(), Instant::now()));
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .max_header_list_size(limits.header_bytes_max)
            .initial_window_size(limits.stream_window_bytes)
            .initial_connection_window_size(limits.connection_window_bytes)
            .initial_max_send_streams(limits.streams_initial)
            .max_send_buffer_size(limits.send_buffer_bytes);
        let (send, mut connection) = builder.handshake::<_, Bytes>(io).await.map_err(transfer_error)?;
        let state = Rc::new(State::default());
        let driven = Rc::clone(&state);
        let driver = async move {
            let ended = std::future::poll_fn(|context| {
                let polled = Pin::new(&mut connection).poll(context);
                // A flood ends the connection: dropping it fails what is on it.
                if noticed.take().is_some() { Poll::Ready(Ok(())) } else { polled }
            });
            if let Err(error) = ended.await {
                tracing::debug!(%error, "upstream http/2 connection ended");
            }
            driven.closed.set(true);
        };
        Ok((Self { send, scheme, state }, driver))
    }

    /// Whether the connection has ended, so that no exchange can be opened.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state.closed.get()
    }

    /// Exchanges under way.
    #[must_use]
    pub fn open(&self) -> usize {
        self.state.open.get()
    }

    /// Whether the upstream takes another stream now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.is_closed() && self.state.open.get() < self.send.current_max_send_streams()
    }

    /// Opens an exchange, waiting at most `wait` for a free stream.
    ///
    /// # Errors
    /// When the connection is gone (nothing was sent: a retry is safe) or no
    /// stream came free in time.
    pub async fn exchange(&self, wait: Duration) -> Result<ClientStream, TransferError> {
        let mut send = self.send.clone();
        tokio::time::timeout(wait, std::future::poll_fn(|context| send.poll_ready(context)))
            .await
            .map_err(|_| TransferError::Timeout("h2_stream_wait"))?
            .map_err(transfer_error)?;
        self.state.open.set(self.state.open.get() + 1);
        Ok(ClientStream {
            send,
            scheme: self.scheme,
            state: Rc::clone(&self.state),
            response: None,
            outgoing: None,
            incoming: None,
            length: BodyLength::Unknown,
            is_head: false,
            moved: Moved::default(),
        })
    }
}

/// One stream, the upstream's side of an exchange. Dropped before its end, it
/// is reset with CANCEL.
#[derive(Debug)]
pub struct ClientStream {
    send: SendRequest<Bytes>,
    scheme: Scheme,
    state: Rc<State>,
    response: Option<ResponseFuture>,
    outgoing: Option<Outgoing>,
    incoming: Option<Incoming>,
    length: BodyLength,
    is_head: bool,
    moved: Moved,
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        self.state.open.set(self.state.open.get().saturating_sub(1));
    }
}

impl UpstreamExchange for ClientStream {
    fn send_head(&mut self, head: &RequestHead, shape: RequestShape<'_>) -> Result<(), TransferError> {
        let mut request = convert::request(head, self.scheme, head.authority())
            .map_err(|_| TransferError::Malformed("request_not_fit_for_h2"))?;
        let fields = request.headers_mut();
        match shape.body {
            BodyLength::Known(bytes) => {
                fields.insert(http::header::CONTENT_LENGTH, bytes.into());
            }
            BodyLength::None | BodyLength::Unknown => {
                fields.remove(http::header::CONTENT_LENGTH);
            }
        }
        fields.remove(http::header::EXPECT);
        if shape.trailers {
            fields.insert(http::header::TE, http::HeaderValue::from_static("trailers"));
        }
        self.is_head = head.method == Method::Head;
        self.moved.sent += head_bytes(&head.fields);
        let end = shape.body.is_empty();
        let (response, stream) = self.send.send_request(request, end).map_err(transfer_error)?;
        self.response = Some(response);
        self.outgoing = Some(Outgoing::new(stream, shape.body, end));
        Ok(())
    }

    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<ResponseHead, TransferError>> {
        let Some(response) = &mut self.response else {
            return Poll::Ready(Err(TransferError::Malformed("response_before_its_request")));
        };
        if let Poll::Ready(Some(interim)) = response.poll_informational(context) {
            let (parts, ()) = interim.map_err(transfer_error)?.into_parts();
            return Poll::Ready(Ok(convert::response_head(&parts)));
        }
        let (parts, body) = ready!(Pin::new(response).poll(context)).map_err(transfer_error)?.into_parts();
        let head = convert::response_head(&parts);
        self.moved.received += head_bytes(&head.fields);
        self.length = response_length(&head, self.is_head || body.is_end_stream());
        self.incoming = Some(Incoming::new(body, self.length));
        self.response = None;
        Poll::Ready(Ok(head))
    }

    fn response_length(&self) -> BodyLength {
        self.length
    }

    fn is_answering(&self) -> bool {
        self.incoming.is_some()
    }

    fn moved(&self) -> Moved {
        Moved {
            received: self.moved.received + self.incoming.as_ref().map_or(0, |incoming| incoming.received),
            sent: self.moved.sent + self.outgoing.as_ref().map_or(0, |outgoing| outgoing.sent),
        }
    }
}

fn response_length(head: &ResponseHead, ended: bool) -> BodyLength {
    if ended || matches!(head.status, 204 | 304) {
        return BodyLength::None;
    }
    let declared = head.value(Name::ContentLength).and_then(|value| std::str::from_utf8(value).ok());
    match declared.and_then(|text| text.parse().ok()) {
        Some(bytes) => BodyLength::Known(bytes),
        None => BodyLength::Unknown,
    }
}

impl BodyRead for ClientStream {
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Result<BodyPart<'_>, TransferError>> {
        match &mut self.incoming {
            Some(incoming) => incoming.poll_body(context),
            None => Poll::Ready(Err(TransferError::Malformed("body_before_its_head"))),
        }
    }

    fn consume(&mut self, count: usize) {
        if let Some(incoming) = &mut self.incoming {
            incoming.consume(count);
        }
    }

    fn remaining(&self) -> Option<u64> {
        self.incoming.as_ref().and_then(Incoming::remaining)
    }

    fn is_end(&self) -> bool {
        self.incoming.as_ref().is_some_and(Incoming::is_end)
    }
}

impl BodyWrite for ClientStream {
    fn poll_write(&mut self, context: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, TransferError>> {
        match &mut self.outgoing {
            Some(outgoing) => outgoing.poll_write(context, data),
            None => Poll::Ready(Err(TransferError::Malformed("body_before_its_head"))),
        }
    }

    fn poll_flush(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), TransferError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(
        &mut self,
        _context: &mut Context<'_>,
        trailers: Option<&Fields>,
    ) -> Poll<Result<(), TransferError>> {
        match &mut self.outgoing {
            Some(outgoing) => outgoing.poll_finish(trailers),
            None => Poll::Ready(Err(TransferError::Malformed("body_before_its_head"))),
        }
    }
}
