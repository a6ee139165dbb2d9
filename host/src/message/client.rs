//! Who is at the other end of a downstream connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What is known of a downstream connection, fixed when it is accepted.
///
/// `peer` is the socket's other end; `address` is the client behind it, which
/// differs once a trusted hop named it in a PROXY header. A single request may
/// move the client further (X-Forwarded-For of a trusted hop): that one is in
/// the exchange, not here.
#[derive(Debug, Clone)]
pub struct Client {
    /// The socket's other end.
    pub peer: SocketAddr,
    /// The client as the PROXY header of a trusted hop names it, else `peer`.
    pub address: SocketAddr,
    /// Our end of the connection, or the destination a PROXY header names.
    pub local: SocketAddr,
    /// What TLS told us, when the listener terminates it.
    pub tls: Option<Arc<TlsClient>>,
    /// The path of earlier Sluice hops, from PROXY v2's TLV 0xE5, as received.
    pub path: Option<Arc<str>>,
}

impl Client {
    /// The client's IP address.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.address.ip()
    }
}

/// What the TLS handshake told of a client.
#[derive(Debug, Clone, Default)]
pub struct TlsClient {
    /// The server name asked for, in lower case.
    pub sni: Option<Box<str>>,
    /// The protocol agreed on by ALPN.
    pub alpn: Option<Box<str>>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite by its IANA name.
    pub cipher: &'static str,
    /// Whether the session was resumed.
    pub resumed: bool,
    /// The verified client certificate, if one was asked for.
    pub certificate: Option<ClientCertificate>,
}

/// A client certificate that its CA vouches for.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// Subject distinguished name, RFC 4514.
    pub subject: Box<str>,
    /// Issuer distinguished name.
    pub issuer: Box<str>,
    /// Serial number in lower-case hex.
    pub serial: Box<str>,
    /// SHA-256 of the DER form, lower-case hex.
    pub fingerprint: Box<str>,
}
