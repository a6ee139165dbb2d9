//! How an exchange fails, and what the client is told.
//!
//! One function decides the status ([`ProxyError::status`]), one the reason
//! code that logs and counters carry. What is answered is JSON with
//! `error_msg` and `request_id`; causes go to the log, not to the client.

use std::borrow::Cow;
use std::time::Duration;

use crate::filter::LocalResponse;
use crate::message::{ResponseHead, TranscodeProblem, TransferError};
use crate::net::tls::ClientRefusal;
use crate::plugin::CallError;
use crate::upstream::{ConnectError, Failure, NoLine};

/// Why an exchange failed. Which side it was is in the variant.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// No route matches.
    #[error("404 Route Not Found")]
    NoRoute,
    /// The route names no upstream and no filter answered.
    #[error("route has no upstream")]
    NoUpstream,
    /// What the client sent is no request for this upstream, or what the
    /// upstream sent no answer to it.
    #[error(transparent)]
    Transcode(TranscodeProblem),
    /// The route wants to know who the caller is, and nobody trusted says so.
    #[error("the caller is not known")]
    NoCaller,
    /// Every connection to the upstream has as many requests as it may have.
    #[error("upstream is busy")]
    Busy,
    /// The connection broke when the request had been sent.
    #[error("connection was lost; the request may have been carried out")]
    RequestLost,
    /// No connection took the request: nothing of it was sent. With the code of
    /// what went wrong.
    #[error("upstream failed")]
    Unsent(&'static str),
    /// A module's verdict on the request cannot be carried out.
    #[error("a filter of this route failed")]
    Refused(&'static str),
    /// A session of a polling client that is not there, or does not take what
    /// is asked; with the status and the reason's code.
    #[error("{1}")]
    Session(u16, &'static str),
    /// A page of another site.
    #[error("this origin may not connect")]
    Origin,
    /// A plain request on a route that carries frames of clients alone.
    #[error("this route takes WebSocket connections")]
    WebSocketOnly,
    /// The upstream does not speak HTTP.
    #[error("upstream does not speak HTTP")]
    NotHttp,
    /// Nothing to try.
    #[error(transparent)]
    NoLine(#[from] NoLine),
    /// A node could not be reached: nothing of the request was sent.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The upstream broke off, or does not speak the protocol.
    #[error("upstream failed: {0}")]
    Upstream(#[source] TransferError),
    /// The line went down while a request waited on it that another line can take.
    #[error("line went down")]
    LineLost,
    /// The upstream took too long; the code names the limit.
    #[error("upstream timed out: {0}")]
    UpstreamTimeout(&'static str),
    /// The whole request took too long.
    #[error("request took too long")]
    Deadline,
    /// The request's body is over the limit.
    #[error("request body is over the limit of {0} bytes")]
    BodyTooLarge(u64),
    /// The client was too slow; the code names the limit.
    #[error("client timed out: {0}")]
    ClientTimeout(&'static str),
    /// The client broke off, or sent a malformed body.
    #[error("client failed: {0}")]
    Client(#[source] TransferError),
    /// The client is gone.
    #[error("client closed the connection")]
    Gone,
    /// The host or path wants another client certificate, or one at all.
    #[error(transparent)]
    Certificate(ClientRefusal),
    /// The route's edge function did not answer.
    #[error(transparent)]
    Function(CallError),
    /// A WebSocket handshake that cannot be one.
    #[error("bad websocket handshake: {0}")]
    Handshake(&'static str),
}

impl ProxyError {
    /// The status a client gets; 499 when nobody is left to get one.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::NoRoute => 404,
            Self::Certificate(ClientRefusal::Misdirected) => 421,
            Self::Certificate(ClientRefusal::CertificateRequired) => 400,
            Self::Transcode(problem) => match problem.status {
                status @ 400..=599 => status,
                _ => 502,
            },
            Self::Session(status, _) => *status,
            Self::NoCaller => 401,
            Self::Origin => 403,
            Self::WebSocketOnly | Self::Handshake("websocket_version") => 426,
            Self::Busy | Self::NoUpstream | Self::NoLine(_) | Self::Refused(_) => 503,
            Self::Function(error) => error.status(),
            Self::Connect(error) if error.failure == Failure::ConnectTimeout => 504,
            Self::Unsent(reason) if *reason == Failure::ConnectTimeout.code() => 504,
            Self::NotHttp | Self::Connect(_) | Self::LineLost | Self::RequestLost | Self::Unsent(_) => 502,
            Self::Upstream(TransferError::Timeout(_)) | Self::UpstreamTimeout(_) | Self::Deadline => 504,
            Self::Upstream(_) => 502,
            Self::BodyTooLarge(_) => 413,
            Self::ClientTimeout(_) => 408,
            Self::Client(TransferError::Malformed(_) | TransferError::Limit(_)) | Self::Handshake(_) => 400,
            Self::Client(_) | Self::Gone => 499,
        }
    }

    /// A fixed code for logs and counters.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::Certificate(ClientRefusal::Misdirected) => "misdirected",
            Self::Certificate(ClientRefusal::CertificateRequired) => "client_certificate_required",
            Self::NoUpstream => "no_upstream",
            Self::NotHttp => "upstream_not_http",
            Self::Transcode(problem) if (400..500).contains(&problem.status) => "transcode_refused",
            Self::Transcode(_) => "transcode_failed",
            Self::Session(_, reason) => reason,
            Self::NoCaller => "caller_unknown",
            Self::Origin => "origin_refused",
            Self::Busy => "upstream_busy",
            Self::RequestLost => "request_lost",
            Self::WebSocketOnly => "websocket_only",
            Self::LineLost => "line_lost",
            Self::NoLine(_) => "no_line",
            Self::Function(error) => error.code(),
            Self::Connect(error) => error.failure.code(),
            Self::Upstream(error) => match error {
                TransferError::Closed => "upstream_closed",
                TransferError::Malformed(_) | TransferError::Limit(_) => "upstream_malformed",
                TransferError::Timeout(_) => "upstream_timeout",
                TransferError::Reset(_) => "upstream_reset",
                TransferError::Io(_) => "upstream_broken",
            },
            Self::UpstreamTimeout(limit) | Self::ClientTimeout(limit) => limit,
            Self::Unsent(reason) | Self::Refused(reason) => reason,
            Self::Deadline => "request_timeout",
            Self::BodyTooLarge(_) => "body_too_large",
            Self::Client(TransferError::Malformed(reason) | TransferError::Limit(reason)) => reason,
            Self::Client(_) => "client_broken",
            Self::Gone => "client_gone",
            Self::Handshake(reason) => reason,
        }
    }

    /// Whether the upstream is to blame, and as what.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Self::Upstream(TransferError::Malformed(_) | TransferError::Limit(_)) => Some(Failure::Malformed),
            Self::Upstream(TransferError::Timeout(_)) | Self::UpstreamTimeout(_) => Some(Failure::Timeout),
            Self::Upstream(_) => Some(Failure::Broken),
            _ => None,
        }
    }

    /// Whether the connection broke, as a kept one does when its upstream
    /// closes it in the moment it is used again.
    #[must_use]
    pub fn is_break(&self) -> bool {
        matches!(self, Self::Upstream(TransferError::Closed | TransferError::Io(_) | TransferError::Reset(_)))
    }

    /// The answer, in words that tell a client nothing of the inside.
    #[must_use]
    pub fn response(&self, request_id: &str) -> LocalResponse {
        let message: Cow<'static, str> = match self {
            Self::NoRoute => "404 Route Not Found".into(),
            Self::NoUpstream | Self::NoLine(_) => "no healthy upstream".into(),
            Self::NotHttp | Self::Connect(_) | Self::LineLost | Self::Unsent(_) | Self::Upstream(_) => {
                match self.status() {
                    504 => "upstream timed out".into(),
                    _ => "upstream failed".into(),
                }
            }
            Self::UpstreamTimeout(_) => "upstream timed out".into(),
            other => other.to_string().into(),
        };
        if let Self::Transcode(problem) = self {
            let body = serde_json::json!({
                "error_msg": message, "path": problem.path, "request_id": request_id,
            });
            return LocalResponse::json(self.status(), self.reason(), &body);
        }
        let mut response = refusal(self.status(), self.reason(), &message, request_id);
        if matches!(self, Self::WebSocketOnly | Self::Handshake("websocket_version")) {
            response.head.fields.append(b"Sec-WebSocket-Version", b"13");
        }
        response
    }
}

/// An error as clients meet it, with `Retry-After` where they may come again.
#[must_use]
pub fn refusal(status: u16, reason: &'static str, message: &str, request_id: &str) -> LocalResponse {
    let response = LocalResponse::error(status, reason, message, request_id);
    match status {
        429 | 503 => response.retry_after(Duration::ZERO),
        _ => response,
    }
}

/// A refusal as gRPC clients understand it: the status goes into trailers, here
/// in the form of a head alone. Answers that refuse nothing stay as they are.
pub(super) fn for_grpc(response: LocalResponse) -> LocalResponse {
    if response.reason.is_empty() || response.head.status < 400 {
        return response;
    }
    // The protocol's own mapping of HTTP statuses, and what fits ours best.
    let code = match response.head.status {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        413 | 431 => "8",
        429 | 502 | 503 | 504 => "14",
        _ => "2",
    };
    let head = ResponseHead::new(200)
        .with("Content-Type", "application/grpc")
        .with("grpc-status", code)
        .with("grpc-message", response.reason);
    LocalResponse { head, body: bytes::Bytes::new(), reason: response.reason }
}

/// The time now, as a `Date` field has it.
#[must_use]
pub(super) fn http_date() -> String {
    jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
