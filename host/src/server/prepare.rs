//! What comes before a flow: PROXY header, TLS, and which protocol it is.
//!
//! Each step has its own time limit and its own counted reason. A connection
//! that waits for its first byte holds no buffer.

use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Flows, Inner, Raw, Spoken};
use crate::config::objects::{ListenerTls, Protocol};
use crate::message::Client;
use crate::net::proxy_protocol::{self, Addresses, HeaderError, ProxyHeader};
use crate::net::tls::{self, HELLO_BYTES_MAX, hello};
use crate::net::{
    Accepted, CloseReason, Drain, HandshakeFailure, LeasedBuffer, Listener, ProxyHeaderFailure, Stream,
};

/// The start of an HTTP/2 connection whose client knew beforehand.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a connection that came in while draining has for its first byte: one
/// that was on its way is served, one that is only kept open is not waited for.
const DRAINING_FIRST_BYTE: Duration = Duration::from_secs(1);

/// What is spoken, where nothing needs to be read to know.
pub(super) fn known_at_once(raw: &Raw) -> Option<Spoken> {
    let object = &raw.listener.object;
    if object.tls != ListenerTls::Off || expects_header(&raw.listener, raw.peer.ip()) {
        return None;
    }
    match object.protocol {
        Protocol::Http => None,
        Protocol::Tlv => Some(Spoken::Tlv),
        Protocol::Tcp | Protocol::Relay => Some(Spoken::Tcp),
    }
}

/// Whether the peer may send a PROXY header. From any other address one is
/// not looked for: it is then garbage in the protocol that is expected.
fn expects_header(listener: &Listener, peer: IpAddr) -> bool {
    let settings = listener.object.proxy_protocol.as_ref();
    settings.is_some_and(|settings| settings.from.iter().any(|net| net.contains(&peer)))
}

/// Reads and negotiates up to where a flow begins.
pub(super) async fn prepare<F: Flows>(
    server: &Inner<F>,
    raw: Raw,
) -> Result<(Accepted, Spoken), CloseReason> {
    let Raw { mut tcp, peer, local, listener, started } = raw;
    let drain = Drain::new(server.tasks.clone(), Arc::clone(&listener));
    let mut client = Client { peer, address: peer, local, tls: None, path: None };
    let mut first = None;
    let mut reader = Reader { server, drain: &drain, slot: &mut first };
    if expects_header(&listener, peer.ip())
        && let Some(header) = Box::pin(reader.header(&mut tcp, &listener)).await?
    {
        take_header(&mut client, header);
    }
    let object = &listener.object;
    let mut sni = None;
    let mut rule = None;
    let mut stream = match &object.tls {
        ListenerTls::Off => Stream::Plain(tcp),
        ListenerTls::Passthrough => {
            sni = Box::pin(reader.hello(&mut tcp, object.limits.handshake_timeout)).await?;
            Stream::Plain(tcp)
        }
        ListenerTls::Terminate(_) => {
            let replay = first.take().map(|buffer| Bytes::copy_from_slice(&buffer)).unwrap_or_default();
            let secured = Box::pin(handshake(server, &listener, tcp, replay)).await?;
            sni.clone_from(&secured.client.sni);
            client.tls = Some(Arc::new(secured.client));
            rule = secured.rule;
            secured.stream
        }
    };
    let spoken = match object.protocol {
        Protocol::Tlv => Spoken::Tlv,
        Protocol::Tcp | Protocol::Relay => Spoken::Tcp,
        Protocol::Http if stream.is_tls() => match stream.alpn() {
            Some(b"h2") => Spoken::Http2,
            _ => Spoken::Http1,
        },
        Protocol::Http => {
            let mut reader = Reader { server, drain: &drain, slot: &mut first };
            reader.version(&mut stream, object.limits.header_timeout).await?
        }
    };
    let client = Arc::new(client);
    Ok((Accepted { stream, client, listener, first, sni, rule, drain, started }, spoken))
}

fn take_header(client: &mut Client, header: ProxyHeader) {
    // Of a Unix socket or an unknown connection, the hop is all we know.
    if let Addresses::Inet { source, destination } = header.addresses {
        client.address = source;
        client.local = destination;
    }
    client.path = header.path;
}

async fn handshake<F: Flows>(
    server: &Inner<F>,
    listener: &Listener,
    tcp: TcpStream,
    replay: Bytes,
) -> Result<tls::Secured, CloseReason> {
    // A listener that ends TLS has a profile: both come from one object.
    let profile = listener.tls.as_deref().ok_or(CloseReason::Handshake)?;
    let certificates = || server.flows.certificates();
    let limit = listener.object.limits.handshake_timeout;
    match tls::accept(tcp, replay, profile, certificates, limit).await {
        Ok(secured) => {
            server.counters.handshake(secured.client.resumed);
            Ok(secured)
        }
        Err(error) => {
            server.counters.handshake_failure(error.reason);
            tracing::debug!(
                listener = %listener.id,
                reason = error.reason.as_str(),
                sni = error.sni.as_deref(),
                detail = error.detail,
                "TLS handshake failed"
            );
            Err(CloseReason::Handshake)
        }
    }
}

/// Reads what decides, and keeps it for the flow.
struct Reader<'a, F> {
    server: &'a Inner<F>,
    drain: &'a Drain,
    slot: &'a mut Option<LeasedBuffer>,
}

/// Why no more bytes came.
enum NoBytes {
    Timeout,
    Closed,
    Full,
    Draining,
    Failed,
}

impl<F: Flows> Reader<'_, F> {
    fn bytes(&self) -> &[u8] {
        self.slot.as_deref().unwrap_or_default()
    }

    /// Reads once, until `deadline`.
    async fn more<S>(&mut self, stream: &mut S, deadline: Instant) -> Result<(), NoBytes>
    where
        S: tokio::io::AsyncRead + Unpin,
    {
        let (server, drain) = (self.server, self.drain);
        let slot = &mut *self.slot;
        let mut is_limited = false;
        let mut timer = pin!(tokio::time::sleep_until(deadline));
        poll_fn(|context| {
            match server.buffers.poll_fill(slot, context, stream) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(NoBytes::Closed)),
                Poll::Ready(Ok(_)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::StorageFull => {
                    return Poll::Ready(Err(NoBytes::Full));
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(NoBytes::Failed)),
                Poll::Pending => {}
            }
            if !is_limited && slot.is_none() && drain.is_draining() {
                is_limited = true;
                timer.as_mut().reset(deadline.min(Instant::now() + DRAINING_FIRST_BYTE));
            }
            let reason = if is_limited { NoBytes::Draining } else { NoBytes::Timeout };
            timer.as_mut().poll(context).map(|()| Err(reason))
        })
        .await
    }

    /// The PROXY header, consumed; nothing where none is required and none came.
    async fn header(
        &mut self,
        tcp: &mut TcpStream,
        listener: &Listener,
    ) -> Result<Option<ProxyHeader>, CloseReason> {
        let Some(settings) = &listener.object.proxy_protocol else { return Ok(None) };
        let deadline = Instant::now() + settings.timeout;
        loop {
            let failure = match proxy_protocol::parse(self.bytes()) {
                Ok(Some((header, length))) => {
                    self.consume(length);
                    return Ok(Some(header));
                }
                Ok(None) => match self.more(tcp, deadline).await {
                    Ok(()) => continue,
                    // A client of a protocol in which the server speaks first.
                    Err(NoBytes::Timeout) if !settings.required && self.bytes().is_empty() => {
                        return Ok(None);
                    }
                    Err(NoBytes::Timeout) => ProxyHeaderFailure::Timeout,
                    Err(NoBytes::Closed) => ProxyHeaderFailure::Closed,
                    Err(NoBytes::Full) => ProxyHeaderFailure::TooLong,
                    Err(NoBytes::Draining) => return Err(CloseReason::Draining),
                    Err(NoBytes::Failed) => ProxyHeaderFailure::Socket,
                },
                Err(HeaderError::Missing) if !settings.required => return Ok(None),
                Err(error) => {
                    tracing::debug!(listener = %listener.id, %error, "PROXY header refused");
                    error.reason()
                }
            };
            self.server.counters.proxy_header_failure(failure);
            return Err(CloseReason::ProxyHeader);
        }
    }

    fn consume(&mut self, count: usize) {
        if let Some(buffer) = self.slot {
            buffer.consume(count);
            if buffer.is_empty() {
                *self.slot = None;
            }
        }
    }

    /// The server name of a hello that is passed on as it is.
    async fn hello(&mut self, tcp: &mut TcpStream, limit: Duration) -> Result<Option<Box<str>>, CloseReason> {
        let deadline = Instant::now() + limit;
        loop {
            let failure = match hello::parse(self.bytes(), HELLO_BYTES_MAX as usize) {
                Ok(Some(hello)) => return Ok(hello.sni),
                Ok(None) => match self.more(tcp, deadline).await {
                    Ok(()) => continue,
                    Err(NoBytes::Full) if self.slot.as_mut().is_some_and(LeasedBuffer::grow) => continue,
                    Err(NoBytes::Full) => HandshakeFailure::HelloTooLarge,
                    Err(NoBytes::Timeout) => HandshakeFailure::Timeout,
                    Err(NoBytes::Closed) => HandshakeFailure::Closed,
                    Err(NoBytes::Draining) => return Err(CloseReason::Draining),
                    Err(NoBytes::Failed) => HandshakeFailure::Socket,
                },
                Err(hello::HelloError::NotTls) => HandshakeFailure::NotTls,
                Err(hello::HelloError::Malformed(_)) => HandshakeFailure::Protocol,
                Err(hello::HelloError::TooLarge { .. }) => HandshakeFailure::HelloTooLarge,
            };
            self.server.counters.handshake_failure(failure);
            return Err(CloseReason::Handshake);
        }
    }

    /// Which HTTP it is, by the first bytes.
    async fn version(&mut self, stream: &mut Stream, limit: Duration) -> Result<Spoken, CloseReason> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(spoken) = version(self.bytes()) {
                return Ok(spoken);
            }
            match self.more(stream, deadline).await {
                Ok(()) => {}
                // What is there will not become HTTP/2 any more; the flow
                // answers what it makes of it.
                Err(NoBytes::Timeout | NoBytes::Closed) if !self.bytes().is_empty() => {
                    return Ok(Spoken::Http1);
                }
                Err(NoBytes::Timeout) => return Err(CloseReason::FirstByteTimeout),
                Err(NoBytes::Closed) => return Err(CloseReason::ClosedEarly),
                Err(NoBytes::Draining) => return Err(CloseReason::Draining),
                Err(NoBytes::Full | NoBytes::Failed) => return Err(CloseReason::Socket),
            }
        }
    }
}

/// Which HTTP `bytes` begin; nothing while both may be.
fn version(bytes: &[u8]) -> Option<Spoken> {
    let common = bytes.len().min(HTTP2_PREFACE.len());
    if bytes[..common] != HTTP2_PREFACE[..common] {
        Some(Spoken::Http1)
    } else if common == HTTP2_PREFACE.len() {
        Some(Spoken::Http2)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_that_differs_decides() {
        assert_eq!(version(b""), None);
        assert_eq!(version(b"G"), Some(Spoken::Http1));
        assert_eq!(version(b"POST / HTTP/1.1"), Some(Spoken::Http1));
        for cut in 0..HTTP2_PREFACE.len() {
            assert_eq!(version(&HTTP2_PREFACE[..cut]), None);
        }
        assert_eq!(version(HTTP2_PREFACE), Some(Spoken::Http2));
        assert_eq!(version(b"PRI * HTTP/2.0\r\n\r\nXX"), Some(Spoken::Http1));
    }
}
