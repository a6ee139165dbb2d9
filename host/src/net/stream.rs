//! One connection's bytes, whatever lies between: plain TCP, TLS as server,
//! TLS as client, TLS inside another connection.
//!
//! Plain TCP is the arm without indirection; the others are boxed, so that an
//! idle plain session does not pay for them. Shutting the writing side down is
//! a half-close (with `close_notify` first where TLS is); reading goes on.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

/// A connection's bytes in both directions.
pub enum Stream {
    /// TCP as it is.
    Plain(TcpStream),
    /// TLS that we terminate.
    ServerTls(Box<server::TlsStream<Transport>>),
    /// TLS that we began.
    ClientTls(Box<client::TlsStream<TcpStream>>),
    /// TLS that we began inside another connection, as through a relay.
    NestedTls(Box<client::TlsStream<Stream>>),
}

/// What an idle connection's other end has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// Nothing: it may be used.
    Quiet,
    /// It closed or reset the connection.
    Closed,
    /// It sent bytes nobody asked for: never use the connection again.
    Unsolicited,
}

/// Socket options of a connection. Nagle's algorithm is always off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpOptions {
    /// Silence before the first keep-alive probe; none turns probes off.
    pub keepalive_idle: Option<Duration>,
    /// Time between probes.
    pub keepalive_interval: Duration,
    /// Unanswered probes after which the connection is dead.
    pub keepalive_probes: u32,
    /// How long sent bytes may stay unacknowledged before the connection is
    /// dead; none leaves it to the kernel (about 15 minutes).
    pub unacknowledged_max: Option<Duration>,
}

impl TcpOptions {
    /// For clients: a vanished one is noticed within 90 s when idle. Bytes
    /// that do not get through are the flow's write timeout's business, since
    /// a slow reader is no dead one.
    pub const DOWNSTREAM: Self = Self {
        keepalive_idle: Some(Duration::from_secs(60)),
        keepalive_interval: Duration::from_secs(10),
        keepalive_probes: 3,
        unacknowledged_max: None,
    };

    /// For upstreams: a black hole is noticed within 15 s, idle or not.
    pub const UPSTREAM: Self = Self {
        keepalive_idle: Some(Duration::from_secs(5)),
        keepalive_interval: Duration::from_secs(3),
        keepalive_probes: 3,
        unacknowledged_max: Some(Duration::from_secs(14)),
    };

    /// Sets the options on a socket. Sockets accepted from a listening socket
    /// inherit them, so listeners set them once and not for each connection.
    ///
    /// # Errors
    /// What the kernel says, as for a socket that was reset already.
    pub fn apply(&self, socket: SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        match self.keepalive_idle {
            None => socket.set_keepalive(false)?,
            Some(idle) => socket.set_tcp_keepalive(
                &TcpKeepalive::new()
                    .with_time(idle)
                    .with_interval(self.keepalive_interval)
                    .with_retries(self.keepalive_probes),
            )?,
        }
        socket.set_tcp_user_timeout(self.unacknowledged_max)
    }
}

impl Stream {
    /// The socket underneath.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::ServerTls(tls) => &tls.get_ref().0.tcp,
            Self::ClientTls(tls) => tls.get_ref().0,
            Self::NestedTls(tls) => tls.get_ref().0.tcp(),
        }
    }

    /// The socket's other end.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        self.tcp().peer_addr()
    }

    /// The socket's own end.
    ///
    /// # Errors
    /// When the socket is unusable.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.tcp().local_addr()
    }

    /// Whether bytes go through TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// The protocol agreed on by ALPN.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::ServerTls(tls) => tls.get_ref().1.alpn_protocol(),
            Self::ClientTls(tls) => tls.get_ref().1.alpn_protocol(),
            Self::NestedTls(tls) => tls.get_ref().1.alpn_protocol(),
        }
    }

    /// The bare socket of a plain connection; other streams come back as they are.
    ///
    /// # Errors
    /// The stream itself, when it is not plain.
    pub fn into_tcp(self) -> Result<TcpStream, Self> {
        match self {
            Self::Plain(tcp) => Ok(tcp),
            other => Err(other),
        }
    }

    /// Ends the connection with a reset: what was not sent yet is thrown away
    /// and the peer sees an error, never an orderly end.
    pub fn abort(self) {
        // Without the option the kernel would send a FIN on close; a socket
        // that does not take the option is gone already.
        let _ = self.tcp().set_zero_linger();
    }

    /// What the other end of an idle connection has done. Makes a system call
    /// only if the socket became readable, or for TLS with bytes waiting.
    ///
    /// Only for connections from which nothing is expected: TLS records are
    /// read here, so that session tickets do not look like unsolicited bytes.
    pub fn liveness(&mut self) -> Liveness {
        let mut context = Context::from_waker(Waker::noop());
        let mut byte = [0_u8; 1];
        let mut buffer = ReadBuf::new(&mut byte);
        let outcome = match self {
            Self::Plain(tcp) => match tcp.poll_read_ready(&mut context) {
                Poll::Pending => return Liveness::Quiet,
                Poll::Ready(_) => tcp.poll_peek(&mut context, &mut buffer),
            },
            tls => Pin::new(tls).poll_read(&mut context, &mut buffer).map_ok(|()| buffer.filled().len()),
        };
        match outcome {
            Poll::Pending => Liveness::Quiet,
            Poll::Ready(Ok(0) | Err(_)) => Liveness::Closed,
            Poll::Ready(Ok(_)) => Liveness::Unsolicited,
        }
    }

    /// Whether an idle connection must not be used again.
    pub fn is_closed(&mut self) -> bool {
        self.liveness() != Liveness::Quiet
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Plain(_) => "Plain",
            Self::ServerTls(_) => "ServerTls",
            Self::ClientTls(_) => "ClientTls",
            Self::NestedTls(_) => "NestedTls",
        };
        write!(formatter, "Stream::{kind}")
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self::Plain(tcp)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Self::ServerTls(tls) => Pin::new(tls).poll_read(context, buffer),
            Self::ClientTls(tls) => Pin::new(tls).poll_read(context, buffer),
            Self::NestedTls(tls) => Pin::new(tls).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Self::ServerTls(tls) => Pin::new(tls).poll_write(context, bytes),
            Self::ClientTls(tls) => Pin::new(tls).poll_write(context, bytes),
            Self::NestedTls(tls) => Pin::new(tls).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(context, slices),
            Self::ServerTls(tls) => Pin::new(tls).poll_write_vectored(context, slices),
            Self::ClientTls(tls) => Pin::new(tls).poll_write_vectored(context, slices),
            Self::NestedTls(tls) => Pin::new(tls).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::ServerTls(tls) => Pin::new(tls).poll_flush(context),
            Self::ClientTls(tls) => Pin::new(tls).poll_flush(context),
            Self::NestedTls(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Self::ServerTls(tls) => Pin::new(tls).poll_shutdown(context),
            Self::ClientTls(tls) => Pin::new(tls).poll_shutdown(context),
            Self::NestedTls(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }
}

/// A TCP connection under TLS that we terminate: bytes read before the
/// handshake are read again first, and the hello's size is limited.
#[derive(Debug)]
pub struct Transport {
    tcp: TcpStream,
    replay: Option<Box<Bytes>>,
    read_max: Option<u32>,
}

impl Transport {
    /// Reads `replay` first, then the socket.
    #[must_use]
    pub fn new(tcp: TcpStream, replay: Bytes) -> Self {
        let replay = (!replay.is_empty()).then(|| Box::new(replay));
        Self { tcp, replay, read_max: None }
    }

    /// Allows at most `bytes` more to be read, then fails with
    /// [`io::ErrorKind::FileTooLarge`]; none lifts the limit.
    pub fn limit_read(&mut self, bytes: Option<u32>) {
        self.read_max = bytes;
    }

    /// The socket.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    fn poll_read_inner(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(replay) = &mut self.replay else {
            return Pin::new(&mut self.tcp).poll_read(context, buffer);
        };
        let count = replay.len().min(buffer.remaining());
        buffer.put_slice(&replay[..count]);
        replay.advance(count);
        if replay.is_empty() {
            self.replay = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(left) = this.read_max else { return this.poll_read_inner(context, buffer) };
        if left == 0 {
            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        let before = buffer.filled().len();
        ready!(this.poll_read_inner(context, buffer))?;
        let count = u32::try_from(buffer.filled().len() - before).unwrap_or(u32::MAX);
        this.read_max = Some(left.saturating_sub(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (Stream::Plain(near), far)
    }

    async fn until(stream: &mut Stream, wanted: Liveness) {
        timeout(Duration::from_secs(10), async {
            while stream.liveness() != wanted {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn liveness_tells_quiet_from_closed_from_unsolicited() {
        let (mut near, mut far) = pair().await;
        assert_eq!(near.liveness(), Liveness::Quiet);
        far.write_all(b"x").await.unwrap();
        until(&mut near, Liveness::Unsolicited).await;

        let (mut near, far) = pair().await;
        drop(far);
        until(&mut near, Liveness::Closed).await;
        assert!(near.is_closed());
    }

    #[tokio::test]
    async fn liveness_is_quiet_again_after_an_exchange() {
        let (mut near, mut far) = pair().await;
        far.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        near.read_exact(&mut answer).await.unwrap();
        assert_eq!(near.liveness(), Liveness::Quiet);
    }

    #[tokio::test]
    async fn an_abort_is_a_reset() {
        let (near, mut far) = pair().await;
        near.abort();
        let error = far.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_half_close_leaves_the_other_direction_open() {
        let (mut near, mut far) = pair().await;
        near.shutdown().await.unwrap();
        assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0);
        far.write_all(b"late").await.unwrap();
        let mut late = [0; 4];
        near.read_exact(&mut late).await.unwrap();
        assert_eq!(&late, b"late");
    }

    #[tokio::test]
    async fn replayed_bytes_come_before_the_sockets() {
        let (near, mut far) = pair().await;
        far.write_all(b"world").await.unwrap();
        let mut transport = Transport::new(near.into_tcp().unwrap(), Bytes::from_static(b"hello "));
        let mut all = [0; 11];
        transport.read_exact(&mut all).await.unwrap();
        assert_eq!(&all, b"hello world");
    }

    #[tokio::test]
    async fn reading_stops_at_the_limit() {
        let (near, mut far) = pair().await;
        far.write_all(&[7; 100]).await.unwrap();
        let mut transport = Transport::new(near.into_tcp().unwrap(), Bytes::new());
        transport.limit_read(Some(10));
        let error = transport.read_exact(&mut [0; 101]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[tokio::test]
    async fn options_are_set() {
        let (near, _far) = pair().await;
        let socket = SockRef::from(near.tcp());
        TcpOptions::UPSTREAM.apply(socket).unwrap();
        let socket = SockRef::from(near.tcp());
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(5));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(14)));
    }
}
