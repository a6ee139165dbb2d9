//! One call of an edge function, as the HTTP flow drives it: the function
//! stands where an upstream would.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::PollSender;
use wasmtime_wasi_http::handler::{
    ExpirationError, InstantiationError, ProxyHandler, Response, TrapOrPanicError,
};
use wasmtime_wasi_http::{Error, WasiBody};

use crate::message::{
    BodyLength, BodyPart, BodyRead, BodyWrite, Fields, Method, Moved, Name, RequestHead, RequestShape,
    ResponseHead, TransferError, UpstreamExchange,
};

use super::function::{Fate, Instances, Place, Ties};
use super::state::DeadlinePassed;
use crate::net::{copied, http_types};
use crate::plugin::stats::Health;
use crate::plugin::{CallError, LoadError};

/// Pieces of a request's body that wait for the function.
const PIECES_MAX: usize = 2;
/// The largest piece, in bytes.
const PIECE_BYTES_MAX: usize = 16 * 1024;
/// Fields of a response.
const FIELDS_MAX: usize = 256;

type Answering = Pin<Box<dyn Future<Output = Result<Response, wasmtime::Error>>>>;
type Piece = Result<Frame<Bytes>, Error>;

/// A call. Dropped before its end, the function is told and given up.
pub struct EdgeCall {
    handler: ProxyHandler<Instances>,
    _place: Place,
    upload: Option<PollSender<Piece>>,
    /// Whether the request's body was sent to its end.
    is_whole: Arc<AtomicBool>,
    answering: Option<Answering>,
    body: Option<WasiBody>,
    piece: Bytes,
    trailers: Option<Fields>,
    ended: bool,
    length: BodyLength,
    is_head: bool,
    ending: Option<oneshot::Sender<()>>,
    fate: Arc<Fate>,
    failure: Option<CallError>,
    health: Arc<Health>,
    moved: Moved,
}

impl EdgeCall {
    pub(super) fn new(handler: ProxyHandler<Instances>, place: Place, health: Arc<Health>) -> Self {
        Self {
            handler,
            _place: place,
            upload: None,
            is_whole: Arc::default(),
            answering: None,
            body: None,
            piece: Bytes::new(),
            trailers: None,
            ended: false,
            length: BodyLength::Unknown,
            is_head: false,
            ending: None,
            fate: Arc::default(),
            failure: None,
            health,
            moved: Moved::default(),
        }
    }

    /// Why the function failed, when it did.
    #[must_use]
    pub fn failure(&self) -> Option<&CallError> {
        self.failure.as_ref()
    }

    fn fail(&mut self, error: CallError) -> TransferError {
        let error = if self.fate.passed.load(Ordering::Acquire) { CallError::Deadline } else { error };
        let code = error.code();
        if self.failure.is_none() {
            self.health.failed(&error, self.given());
            self.failure = Some(error);
        }
        TransferError::Malformed(code)
    }

    /// Bytes it was given so far.
    fn given(&self) -> usize {
        usize::try_from(self.moved.sent).unwrap_or(usize::MAX)
    }

    fn end(&mut self) {
        self.ended = true;
        self.health.succeeded();
        if let Some(ending) = self.ending.take() {
            let _ = ending.send(());
        }
    }
}

impl Drop for EdgeCall {
    fn drop(&mut self) {
        // Its client left, perhaps because it did not come back.
        if !self.ended && self.failure.is_none() && self.fate.passed.load(Ordering::Acquire) {
            self.health.failed(&CallError::Deadline, self.given());
        }
    }
}

/// Which failure an error of the library is.
fn failure_of(error: &wasmtime::Error) -> CallError {
    if let Some(start) = error.downcast_ref::<InstantiationError<Ties>>() {
        return match start.error.downcast_ref::<LoadError>() {
            Some(LoadError::Tried(error)) => error.clone(),
            Some(other) => CallError::Trap(format!("cannot be started: {other}")),
            None => CallError::Trap("cannot be started".to_owned()),
        };
    }
    if error.downcast_ref::<DeadlinePassed>().is_some() || error.downcast_ref::<ExpirationError>().is_some() {
        return CallError::Deadline;
    }
    if error.downcast_ref::<TrapOrPanicError>().is_none() {
        tracing::debug!(error = %format_args!("{error:#}"), "edge function answered with an error");
    }
    CallError::Trap(error.root_cause().to_string())
}

fn no_response(what: &str) -> CallError {
    CallError::Garbage(format!("what is no response: {what}"))
}

fn request(head: &RequestHead, shape: RequestShape<'_>, body: WasiBody) -> Option<http::Request<WasiBody>> {
    let authority = if head.authority().is_empty() { "localhost" } else { head.authority() };
    let mut request = http_types::request_of(head, head.scheme, authority, body).ok()?;
    // What the parser let through that this map cannot hold is left out.
    let mut fields = http_types::map_of(&head.fields, |name| {
        matches!(name, Name::ContentLength | Name::TransferEncoding | Name::Connection | Name::Expect)
    });
    if let BodyLength::Known(bytes) = shape.body {
        fields.insert(header::CONTENT_LENGTH, bytes.into());
    }
    *request.headers_mut() = fields;
    Some(request)
}

impl UpstreamExchange for EdgeCall {
    fn send_head(&mut self, head: &RequestHead, shape: RequestShape<'_>) -> Result<(), TransferError> {
        let body = if shape.body.is_empty() {
            Empty::new().map_err(|never| match never {}).boxed_unsync()
        } else {
            let (sender, pieces) = mpsc::channel(PIECES_MAX);
            self.upload = Some(PollSender::new(sender));
            let known = match shape.body {
                BodyLength::Known(bytes) => Some(bytes),
                _ => None,
            };
            UploadBody { pieces, known, is_whole: Arc::clone(&self.is_whole) }.boxed_unsync()
        };
        let request = request(head, shape, body).ok_or_else(|| {
            self.fail(CallError::Garbage("no answer to a request it cannot be told of".to_owned()))
        })?;
        self.is_head = head.method == Method::Head;
        self.moved.sent += head.fields.text().len() as u64;
        let (sender, ending) = oneshot::channel();
        self.ending = Some(sender);
        let ties = Ties { ending, fate: Arc::clone(&self.fate) };
        let handler = self.handler.clone();
        self.answering = Some(Box::pin(async move { handler.handle(ties, request).await }));
        Ok(())
    }

    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<ResponseHead, TransferError>> {
        let Some(answering) = &mut self.answering else {
            return Poll::Ready(Err(TransferError::Malformed("response_before_its_request")));
        };
        let answered = ready!(answering.as_mut().poll(context));
        self.answering = None;
        let (parts, body) = match answered {
            Ok(response) => response.into_parts(),
            Err(error) => return Poll::Ready(Err(self.fail(failure_of(&error)))),
        };
        if parts.headers.len() > FIELDS_MAX {
            return Poll::Ready(Err(self.fail(no_response("too many fields"))));
        }
        if parts.status.as_u16() < 200 {
            return Poll::Ready(Err(self.fail(no_response("a status below 200"))));
        }
        let head =
            ResponseHead { status: parts.status.as_u16(), fields: http_types::fields_of(&parts.headers) };
        self.moved.received += head.fields.text().len() as u64;
        let declared = head.value(Name::ContentLength).and_then(|value| std::str::from_utf8(value).ok());
        self.length = if self.is_head || matches!(head.status, 204 | 304) {
            BodyLength::None
        } else if let Some(bytes) = declared.and_then(|text| text.parse().ok()) {
            BodyLength::Known(bytes)
        } else {
            body.size_hint().exact().map_or(BodyLength::Unknown, BodyLength::Known)
        };
        self.body = Some(body);
        Poll::Ready(Ok(head))
    }

    fn response_length(&self) -> BodyLength {
        self.length
    }

    fn is_answering(&self) -> bool {
        self.body.is_some()
    }

    fn moved(&self) -> Moved {
        self.moved
    }
}

impl BodyRead for EdgeCall {
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Result<BodyPart<'_>, TransferError>> {
        while self.piece.is_empty() {
            if self.ended {
                return Poll::Ready(Ok(BodyPart::End(self.trailers.take())));
            }
            let Some(body) = &mut self.body else {
                return Poll::Ready(Err(TransferError::Malformed("body_before_its_head")));
            };
            match ready!(Pin::new(body).poll_frame(context)) {
                // The head was the whole answer, whatever length it names: what comes
                // behind it, or breaks there, is nobody's.
                Some(Ok(_)) if self.length == BodyLength::None => {}
                _ if self.length == BodyLength::None => self.end(),
                // A guest that fails leaves its answer without an end, which looks
                // like one.
                None if self.fate.broke.load(Ordering::Acquire) => {
                    let error = CallError::Trap("failed in the middle of its answer".to_owned());
                    return Poll::Ready(Err(self.fail(error)));
                }
                None => self.end(),
                Some(Err(error)) => {
                    return Poll::Ready(Err(self.fail(CallError::Trap(format!("in its answer: {error:?}")))));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.piece = data,
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok().map(|map| http_types::fields_of(&map));
                    }
                },
            }
        }
        Poll::Ready(Ok(BodyPart::Data(&self.piece)))
    }

    fn consume(&mut self, count: usize) {
        self.piece.advance(count);
        self.moved.received += count as u64;
    }

    fn remaining(&self) -> Option<u64> {
        None
    }

    fn is_end(&self) -> bool {
        self.ended && self.piece.is_empty()
    }
}

impl BodyWrite for EdgeCall {
    fn poll_write(&mut self, context: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, TransferError>> {
        let Some(upload) = &mut self.upload else { return Poll::Ready(Err(TransferError::Closed)) };
        // A function that reads no further has dropped its end.
        ready!(upload.poll_reserve(context)).map_err(|_| TransferError::Closed)?;
        let count = data.len().min(PIECE_BYTES_MAX);
        let piece = Ok(Frame::data(copied(&data[..count])));
        upload.send_item(piece).map_err(|_| TransferError::Closed)?;
        self.moved.sent += count as u64;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransferError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(
        &mut self,
        context: &mut Context<'_>,
        trailers: Option<&Fields>,
    ) -> Poll<Result<(), TransferError>> {
        if let (Some(upload), Some(trailers)) = (&mut self.upload, trailers) {
            ready!(upload.poll_reserve(context)).map_err(|_| TransferError::Closed)?;
            let map = http_types::map_of(trailers, |_| false);
            upload.send_item(Ok(Frame::trailers(map))).map_err(|_| TransferError::Closed)?;
        }
        self.is_whole.store(true, Ordering::Release);
        self.upload = None;
        Poll::Ready(Ok(()))
    }
}

/// The request's body, as the function reads it.
struct UploadBody {
    pieces: mpsc::Receiver<Piece>,
    known: Option<u64>,
    is_whole: Arc<AtomicBool>,
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        let piece = ready!(self.pieces.poll_recv(context));
        // A client that breaks off must not look like one that has finished.
        if piece.is_none() && !self.is_whole.swap(true, Ordering::Acquire) {
            return Poll::Ready(Some(Err(Error::HttpRequestBodySize(None))));
        }
        if let (Some(left), Some(Ok(frame))) = (&mut self.known, &piece)
            && let Some(data) = frame.data_ref()
        {
            *left = left.saturating_sub(data.len() as u64);
        }
        Poll::Ready(piece)
    }

    fn size_hint(&self) -> SizeHint {
        self.known.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
