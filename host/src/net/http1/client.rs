//! A connection to an upstream: requests out, responses in.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::message::{
    BodyLength, BodyPart, BodyRead, BodyWrite, Fields, Method, Moved, RequestHead, RequestShape,
    ResponseHead, TransferError, UpstreamExchange,
};
use crate::net::{BufferPool, LeasedBuffer, Stream};

use super::encode;
use super::input::{Input, Next};
use super::output::Output;
use super::{HeadLimits, parse_response};

/// One HTTP/1.1 connection to an upstream. At rest it holds no buffer.
pub struct ClientConnection {
    stream: Stream,
    pool: BufferPool,
    limits: Rc<HeadLimits>,
    input: Input,
    output: Output,
    response_length: BodyLength,
    to_head: bool,
    asked_upgrade: bool,
    answering: bool,
    keep_alive: bool,
}

impl ClientConnection {
    /// A connection just made. `limits` bounds the heads of responses.
    #[must_use]
    pub fn new(stream: Stream, pool: BufferPool, limits: Rc<HeadLimits>) -> Self {
        Self {
            stream,
            pool,
            limits,
            input: Input::new(None),
            output: Output::new(),
            response_length: BodyLength::None,
            to_head: false,
            asked_upgrade: false,
            answering: false,
            keep_alive: true,
        }
    }

    /// Whether the exchange ended so that the connection may carry another:
    /// request sent whole, response read whole, nothing behind it.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.keep_alive
            && self.answering
            && self.output.is_done()
            && self.input.is_end()
            && self.input.buffer.is_none()
    }

    /// Whether an idle connection may still be used: the upstream has neither
    /// closed it nor sent bytes nobody asked for.
    #[must_use]
    pub fn is_idle_usable(&mut self) -> bool {
        self.input.buffer.is_none() && !self.stream.is_closed()
    }

    /// The stream and what was read behind the last head, for another protocol.
    #[must_use]
    pub fn into_parts(self) -> (Stream, Option<LeasedBuffer>) {
        (self.stream, self.input.buffer)
    }

    /// The stream underneath.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.stream
    }
}

impl BodyRead for ClientConnection {
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Result<BodyPart<'_>, TransferError>> {
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

impl BodyWrite for ClientConnection {
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

impl UpstreamExchange for ClientConnection {
    fn send_head(&mut self, head: &RequestHead, shape: RequestShape<'_>) -> Result<(), TransferError> {
        encode::check(&head.fields)?;
        // Every byte is looked at, which the compiler can do many at a time.
        let has_space = |text: &[u8]| text.iter().fold(false, |found, byte| found | (*byte <= b' '));
        if has_space(head.authority_bytes())
            || has_space(head.path_bytes())
            || head.query_bytes().is_some_and(has_space)
        {
            return Err(TransferError::Malformed("space_in_target"));
        }
        self.input.received = 0;
        self.output.sent = 0;
        self.answering = false;
        self.to_head = head.method == Method::Head;
        self.asked_upgrade = shape.upgrade.is_some();
        self.output.queue(&self.pool, |encoder| encode::request(encoder, head, shape))?;
        self.output.begin(shape.body, false);
        Ok(())
    }

    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<ResponseHead, TransferError>> {
        loop {
            let waiting = self.input.waiting();
            if !waiting.is_empty() {
                let parsed =
                    parse_response(waiting, &self.limits, self.to_head).map_err(TransferError::Malformed)?;
                if let Some(parsed) = parsed {
                    if parsed.head.status == 101 && !(self.asked_upgrade && parsed.upgrade) {
                        return Poll::Ready(Err(TransferError::Malformed("unasked_upgrade")));
                    }
                    self.input.skip(parsed.bytes);
                    self.input.begin(parsed.body, parsed.until_close);
                    self.response_length = parsed.body;
                    self.keep_alive = parsed.keep_alive && parsed.head.status != 101;
                    return Poll::Ready(Ok(parsed.head));
                }
            }
            if let Some(buffer) = self.input.buffer.as_mut().filter(|buffer| buffer.is_full())
                && !buffer.grow()
            {
                return Poll::Ready(Err(TransferError::Malformed("head_too_large")));
            }
            if ready!(self.input.poll_fill(context, &mut self.stream, &self.pool))? == 0 {
                return Poll::Ready(Err(TransferError::Closed));
            }
            self.answering = true;
        }
    }

    fn response_length(&self) -> BodyLength {
        self.response_length
    }

    fn is_answering(&self) -> bool {
        self.answering
    }

    fn moved(&self) -> Moved {
        Moved { received: self.input.received, sent: self.output.sent }
    }
}
