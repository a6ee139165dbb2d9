//! What a rule can look at: one request, connection or frame, borrowed.
//!
//! A [`Subject`] gathers references to whatever the caller has at its stage;
//! [`Variable`](super::Variable) reads from it. Nothing here is copied.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::client::Client;
use super::fields::{Fields, Span};
use super::head::{RequestHead, ResponseHead};

/// The stage of an exchange at which a variable is read. It decides which
/// variables have a value at all, and is checked when configuration is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A TCP or TLV connection was accepted; there is no request.
    Connection,
    /// A request is looking for its route: its head is known, nothing else.
    Route,
    /// A request has its route; its body is at hand if a filter asked for it.
    Request,
    /// The head of the response has come.
    Response,
    /// One frame of a stream.
    Frame,
}

/// What rules, filters and the access log call a matched route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteLabels {
    /// Id of the route or stream route.
    pub route_id: Box<str>,
    /// Its `name`; empty when it has none.
    pub route_name: Box<str>,
    /// Id of its service; empty when it has none.
    pub service_id: Box<str>,
    /// Name of its service; empty when it has none.
    pub service_name: Box<str>,
}

/// The values a route's pattern captured from the path (`uri_param_*`).
///
/// Values are spans of the request's own buffer. That buffer only grows, so
/// they stay right after a filter has rewritten the path.
#[derive(Debug, Clone, Default)]
pub struct Params {
    /// The names, shared with the route.
    pub names: Option<Arc<[Box<str>]>>,
    /// One span a name.
    pub values: SmallVec<[Span; 4]>,
}

impl Params {
    /// The value captured under `name`, from the fields of the same request.
    #[must_use]
    pub fn get<'a>(&self, name: &str, fields: &'a Fields) -> Option<&'a [u8]> {
        let names = self.names.as_deref()?;
        let index = names.iter().position(|own| &**own == name)?;
        self.values.get(index).map(|span| fields.get(*span))
    }
}

/// A field of a frame's header that has a meaning of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameRole {
    /// The command.
    Command,
    /// The sequence number.
    Sequence,
    /// The user the frame speaks for.
    User,
    /// Bytes in the body.
    Length,
}

/// The header of one frame, as its format lays it out.
pub trait FrameFields {
    /// The field that has this role, if the format has one.
    fn role(&self, role: FrameRole) -> Option<u64>;
    /// A field by its name in the format.
    fn field(&self, name: &str) -> Option<u64>;
}

/// What is known of the upstream side once a response has come.
#[derive(Debug, Clone, Copy, Default)]
pub struct UpstreamView<'a> {
    /// Address of the node that answered, `ip:port`.
    pub address: &'a str,
    /// The status it answered with; absent when the gateway answered itself.
    pub status: Option<u16>,
    /// The `Host` it was sent.
    pub host: &'a str,
    /// The upstream's scheme.
    pub scheme: &'a str,
    /// Name of the line taken.
    pub line: &'a str,
    /// From the first byte sent to the head of the response.
    pub response_time: Option<Duration>,
}

/// Everything a variable can be read from.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The connection.
    pub client: &'a Client,
    /// The client as this request names it: after `X-Forwarded-For` of a
    /// trusted hop or the `real-ip` plugin.
    pub client_ip: IpAddr,
    /// Port of that client; 0 when the hop did not tell.
    pub client_port: u16,
    /// The request, except for raw streams.
    pub request: Option<&'a RequestHead>,
    /// Path and query as received, when a filter may have changed them since.
    pub original: Option<(Span, Option<Span>)>,
    /// What the route captured.
    pub params: Option<&'a Params>,
    /// Names of the route, once there is one.
    pub labels: Option<&'a RouteLabels>,
    /// The request's id; empty until it has one.
    pub request_id: &'a str,
    /// The consumer that sends the request, once that is known.
    pub consumer: Option<&'a str>,
    /// The request's body, where a filter asked for it.
    pub body: Option<&'a [u8]>,
    /// The response, once its head is there.
    pub response: Option<&'a ResponseHead>,
    /// The upstream side, once it has answered.
    pub upstream: Option<UpstreamView<'a>>,
    /// The frame at hand.
    pub frame: Option<&'a dyn FrameFields>,
    /// From the first byte of the request until now, where it is known.
    pub elapsed: Option<Duration>,
    /// Server name from a TLS hello that is passed through unopened.
    pub sni: Option<&'a str>,
}

impl<'a> Subject<'a> {
    /// A subject that knows only the connection.
    #[must_use]
    pub fn of_client(client: &'a Client) -> Self {
        Self {
            client,
            client_ip: client.ip(),
            client_port: client.address.port(),
            request: None,
            original: None,
            params: None,
            labels: None,
            request_id: "",
            consumer: None,
            body: None,
            response: None,
            upstream: None,
            frame: None,
            elapsed: None,
            sni: None,
        }
    }

    /// A request that has no route yet.
    #[must_use]
    pub fn of_request(client: &'a Client, client_ip: IpAddr, request: &'a RequestHead) -> Self {
        Self { client_ip, request: Some(request), ..Self::of_client(client) }
    }

    /// One frame of a client's connection.
    #[must_use]
    pub fn of_frame(client: &'a Client, labels: Option<&'a RouteLabels>, frame: &'a dyn FrameFields) -> Self {
        Self { labels, frame: Some(frame), ..Self::of_client(client) }
    }
}

/// The value of a variable: bytes of the subject where they stand there as
/// such, else a few bytes of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// Bytes of the subject or of the configuration.
    Lent(&'a [u8]),
    /// Bytes made on the spot (an address, a number, a decoded argument).
    Made(SmallVec<[u8; 48]>),
}

impl Deref for Value<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Lent(bytes) => bytes,
            Self::Made(bytes) => bytes,
        }
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Lent(text.as_bytes())
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Lent(bytes)
    }
}
