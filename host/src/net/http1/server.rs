//! A client's connection: requests in, responses out.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::message::{
    BodyLength, BodyPart, BodyRead, BodyWrite, Downstream, Fields, Method, Moved, RequestHead, ResponseHead,
    Scheme, TransferError, Version,
};
use crate::net::{BufferPool, LeasedBuffer, Stream};

use super::encode::{self, Persistence};
use super::input::{Input, Next};
use super::output::Output;
use super::{HeadLimits, ParsedRequest, Rejection, parse_request, request};

/// Empty lines before a request line that are passed over: some old clients
/// send one after a body.
const EMPTY_LINES_MAX: u8 = 2;

/// Why there is no next request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It is refused; the client is to get this answer, then the connection closes.
    #[error(transparent)]
    Refused(#[from] Rejection),
    /// The connection broke, or ended within a head.
    #[error(transparent)]
    Transfer(#[from] TransferError),
}

/// One client's HTTP/1.1 connection. At rest it holds no buffer.
pub struct ServerConnection {
    stream: Stream,
    pool: BufferPool,
    limits: Rc<HeadLimits>,
    input: Input,
    output: Output,
    scheme: Scheme,
    version: Version,
    request_length: BodyLength,
    empty_lines: u8,
    /// Bytes of the waiting head that were looked at in vain.
    looked_at: usize,
    is_head: bool,
    keep_alive: bool,
    awaits_continue: bool,
    upgrade: bool,
    answered: bool,
    aborted: bool,
    ended: bool,
}

impl ServerConnection {
    /// A connection whose first bytes may have been read already.
    #[must_use]
    pub fn new(
        stream: Stream,
        first: Option<LeasedBuffer>,
        pool: BufferPool,
        limits: Rc<HeadLimits>,
        scheme: Scheme,
    ) -> Self {
        Self {
            stream,
            pool,
            limits,
            input: Input::new(first),
            output: Output::new(),
            scheme,
            version: Version::Http11,
            request_length: BodyLength::None,
            empty_lines: 0,
            looked_at: 0,
            is_head: false,
            keep_alive: true,
            awaits_continue: false,
            upgrade: false,
            answered: false,
            aborted: false,
            ended: false,
        }
    }

    /// The next request; `None` when the client ended the connection between
    /// two. Cancel-safe: what was read stays.
    pub fn poll_request(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<RequestHead>, RequestError>> {
        loop {
            if let Some(parsed) = self.take_head()? {
                return Poll::Ready(Ok(Some(self.begin(parsed))));
            }
            if self.input.buffer.as_ref().is_some_and(LeasedBuffer::is_full) {
                self.grow()?;
            }
            let count = ready!(self.input.poll_fill(context, &mut self.stream, &self.pool))?;
            if count == 0 {
                return Poll::Ready(match self.input.waiting() {
                    [] => Ok(None),
                    _ => Err(TransferError::Closed.into()),
                });
            }
        }
    }

    /// Whether bytes of a next request wait, so that its time limit runs.
    #[must_use]
    pub fn is_receiving(&self) -> bool {
        self.input.buffer.is_some()
    }

    fn take_head(&mut self) -> Result<Option<ParsedRequest>, Rejection> {
        while let [b'\r' | b'\n', rest @ ..] = self.input.waiting() {
            match (self.input.waiting()[0], rest.first()) {
                (b'\r', None) => return Ok(None),
                (b'\r', Some(b'\n')) if self.empty_lines < EMPTY_LINES_MAX => {
                    self.empty_lines += 1;
                    self.input.skip(2);
                }
                _ => return Err(Rejection::bad("bad_line_end")),
            }
        }
        let waiting = self.input.waiting();
        if waiting.is_empty() || !is_worth_a_look(waiting, self.looked_at) {
            return Ok(None);
        }
        let parsed = parse_request(waiting, &self.limits, self.scheme)?;
        self.looked_at = if parsed.is_some() { 0 } else { waiting.len() };
        Ok(parsed)
    }

    /// Room for a head that fills its buffer: the large one, once.
    fn grow(&mut self) -> Result<(), Rejection> {
        let Some(buffer) = &mut self.input.buffer else { return Ok(()) };
        if buffer.grow() { Ok(()) } else { Err(request::too_large(buffer)) }
    }

    fn begin(&mut self, parsed: ParsedRequest) -> RequestHead {
        self.input.skip(parsed.bytes);
        self.input.begin(parsed.body, false);
        // What waits behind the head may be the next request's; it is counted
        // here all the same, since counting it twice would take a byte count each.
        self.input.received = (parsed.bytes + self.input.waiting().len()) as u64;
        self.output.sent = 0;
        self.version = parsed.head.version;
        self.request_length = parsed.body;
        self.is_head = parsed.head.method == Method::Head;
        self.keep_alive = parsed.keep_alive;
        self.awaits_continue = parsed.expects_continue;
        self.upgrade = parsed.upgrade;
        self.answered = false;
        self.empty_lines = 0;
        parsed.head
    }

    /// Whether the exchange ended so that another may follow.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.keep_alive && self.answered && !self.aborted && self.output.is_done() && self.input.is_end()
    }

    /// Whether the exchange was broken off.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.aborted
    }

    /// Queues a `101`; afterwards the connection is [taken apart](Self::into_parts).
    ///
    /// # Errors
    /// A head that cannot be written.
    pub fn send_switch(&mut self, head: &ResponseHead) -> Result<(), TransferError> {
        encode::check(&head.fields)?;
        self.answered = true;
        self.output.queue(&self.pool, |encoder| encode::switch(encoder, head))
    }

    /// The stream and what was read ahead, for another protocol.
    #[must_use]
    pub fn into_parts(self) -> (Stream, Option<LeasedBuffer>) {
        (self.stream, self.input.buffer)
    }

    /// Ends the sending side and reads what the client still sends, until
    /// `bytes_max` bytes came in all, so that it gets to read the answer: closing with
    /// bytes unread would reset the connection under it. Ready when the client
    /// closed, failed or sent too much.
    pub fn poll_linger(&mut self, context: &mut Context<'_>, bytes_max: u64) -> Poll<()> {
        if !self.ended {
            if ready!(Pin::new(&mut self.stream).poll_shutdown(context)).is_err() {
                return Poll::Ready(());
            }
            self.ended = true;
        }
        loop {
            self.input.buffer = None;
            match ready!(self.input.poll_fill(context, &mut self.stream, &self.pool)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) if self.input.received >= bytes_max => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }
}

/// Whether a head that was not whole at `looked_at` bytes is worth parsing
/// again: when it can have ended, or has grown by half. So a head that arrives
/// a byte at a time costs what it would in a few pieces.
fn is_worth_a_look(waiting: &[u8], looked_at: usize) -> bool {
    let from = looked_at.saturating_sub(3).min(waiting.len());
    waiting.len() >= looked_at + looked_at / 2
        || memchr::memmem::find(&waiting[from..], b"\n\r\n").is_some()
        || memchr::memmem::find(&waiting[from..], b"\n\n").is_some()
}

impl BodyRead for ServerConnection {
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Result<BodyPart<'_>, TransferError>> {
        if self.awaits_continue {
            // A client that sends its body anyway does not wait.
            if self.input.waiting().is_empty() && !self.answered {
                self.output.queue(&self.pool, |encoder| encoder.put(b"HTTP/1.1 100 Continue\r\n\r\n"))?;
            }
            self.awaits_continue = false;
            ready!(self.output.poll_flush(context, &mut self.stream))?;
        }
        let next = ready!(self.input.poll_next(context, &mut self.stream, &self.pool))?;
        Poll::Ready(Ok(match next {
            Next::Data(count) => BodyPart::Data(&self.input.waiting()[..count]),
            Next::End(trailers) => BodyPart::End(trailers),
        }))
    }

    fn consume(&mut self, count: usize) {
        self.input.consume(count);
    }

    fn remaining(&self) -> Option<u64> {
        self.input.remaining()
    }

    fn is_end(&self) -> bool {
        self.input.is_end()
    }
}

impl BodyWrite for ServerConnection {
    fn poll_write(&mut self, context: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, TransferError>> {
        self.output.poll_write(context, &mut self.stream, &self.pool, data)
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), TransferError>> {
        self.output.poll_flush(context, &mut self.stream)
    }

    fn poll_finish(
        &mut self,
        context: &mut Context<'_>,
        trailers: Option<&Fields>,
    ) -> Poll<Result<(), TransferError>> {
        self.output.poll_finish(context, &mut self.stream, &self.pool, trailers)
    }
}

impl Downstream for ServerConnection {
    fn request_length(&self) -> BodyLength {
        self.request_length
    }

    fn asks_upgrade(&self) -> bool {
        self.upgrade
    }

    fn expects_continue(&self) -> bool {
        self.awaits_continue
    }

    fn send_interim(&mut self, head: &ResponseHead) -> Result<(), TransferError> {
        if self.version < Version::Http11 || self.answered || head.status == 101 {
            return Ok(());
        }
        encode::check(&head.fields)?;
        self.output.queue(&self.pool, |encoder| encode::interim(encoder, head))
    }

    fn send_head(&mut self, head: &ResponseHead, body: BodyLength) -> Result<(), TransferError> {
        encode::check(&head.fields)?;
        let body = match body {
            _ if self.is_head || matches!(head.status, 204 | 304) => BodyLength::None,
            // An answer of HTTP/2 may end with its head. Without a length it
            // would last until the close here.
            BodyLength::None => BodyLength::Known(0),
            body => body,
        };
        let until_close = body == BodyLength::Unknown && self.version < Version::Http11;
        // A client that is still sending its body when the answer begins gets no
        // further exchange: whether it stops or goes on, nothing can be misread.
        if until_close || !self.input.is_end() {
            self.keep_alive = false;
        }
        let persistence = match (self.keep_alive, self.version) {
            (false, _) => Persistence::Closed,
            (true, Version::Http10) => Persistence::Kept,
            (true, _) => Persistence::Implied,
        };
        // An unknown length that lasts until the close has no framing field.
        let framing = if until_close { BodyLength::None } else { body };
        self.output.queue(&self.pool, |encoder| encode::response(encoder, head, framing, persistence))?;
        self.output.begin(body, until_close);
        self.answered = true;
        self.awaits_continue = false;
        Ok(())
    }

    fn is_answered(&self) -> bool {
        self.answered
    }

    fn discard_request(&mut self) {
        self.input.discard_waiting();
    }

    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<TransferError> {
        // Bytes of a body, or of a next request, say that someone is there; what
        // follows them is not looked at, so nothing is read beyond one buffer.
        if !self.input.is_end() || self.input.buffer.is_some() {
            return Poll::Pending;
        }
        match ready!(self.input.poll_fill(context, &mut self.stream, &self.pool)) {
            Ok(0) => Poll::Ready(TransferError::Closed),
            Ok(_) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }

    fn close_after(&mut self) {
        self.keep_alive = false;
    }

    fn abort(&mut self) {
        self.aborted = true;
        // With lingering off, dropping the socket resets the connection. One
        // that does not take the option is gone already.
        let _ = self.stream.tcp().set_zero_linger();
    }

    fn moved(&self) -> Moved {
        Moved { received: self.input.received, sent: self.output.sent }
    }
}
