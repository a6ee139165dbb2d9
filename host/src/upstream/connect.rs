//! Reaching a node.

use std::io;
use std::net::SocketAddr;

use crate::message::Client;

use super::outcome::Failure;

/// The protocols offered in the TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// No offer: raw bytes and frames.
    None,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// What a connection is made for.
#[derive(Debug, Clone, Copy)]
pub struct ConnectRequest<'a> {
    /// What [`Target::tls_name`](super::Target::tls_name) gave.
    pub tls_name: Option<&'a str>,
    /// The client it is made for, named in the PROXY header; `None` when it
    /// will serve many.
    pub client: Option<&'a Client>,
    /// The signed path of Sluice hops, this one included, for PROXY v2's TLV 0xE5.
    pub path: Option<&'a str>,
    /// What to offer in TLS.
    pub alpn: Alpn,
}

/// A node could not be reached. Nothing of a request was sent, so another may
/// be tried whatever the request is. Already reported to the node's state.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {node} ({address:?}) on line {line}: {}: {source}", failure.code())]
pub struct ConnectError {
    /// Name of the line.
    pub line: std::sync::Arc<str>,
    /// The node as written.
    pub node: std::sync::Arc<str>,
    /// The address tried, where there was one.
    pub address: Option<SocketAddr>,
    /// What went wrong, as checks and metrics count it.
    pub failure: Failure,
    /// The cause.
    pub source: io::Error,
}
