//! The services of `sluice-services`, each on a thread and runtime of its own
//! inside the test.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use sluice_services::grpc;
use sluice_services::http_echo;
use sluice_services::im;
use sluice_services::port;
use sluice_services::websocket;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::network::Namespace;
use crate::process::io_ok;

/// A thread with a runtime, in a network namespace if wanted. Sockets of
/// futures that run here are in that namespace.
pub struct Background {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts the thread.
    pub fn start(namespace: Option<&Namespace>) -> Background {
        let namespace = namespace.cloned();
        let (stop, stopped) = oneshot::channel::<()>();
        let (send, handle) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            if let Some(namespace) = &namespace {
                namespace.enter();
            }
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
            let _ = send.send(runtime.handle().clone());
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        });
        let handle = handle.recv().expect("the thread has started its runtime");
        Background { handle, stop: Some(stop), thread: Some(thread) }
    }

    /// Runs a future there and waits for its value.
    pub fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let (send, value) = mpsc::channel();
        self.handle.spawn(async move {
            let _ = send.send(future.await);
        });
        value.recv().expect("the future has not panicked")
    }

    /// The runtime's handle, to spawn tasks on it.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A service's listening port and the switch to break it.
#[derive(Clone)]
pub struct LinePort {
    background: Arc<Background>,
    port: port::Port,
}

impl LinePort {
    /// Stops listening and resets every connection; returns when new ones are
    /// refused.
    pub fn cut(&self) {
        let port = self.port.clone();
        self.background.run(async move { port.cut().await });
    }

    /// Serves again; returns when it listens.
    pub fn restore(&self) {
        let port = self.port.clone();
        self.background.run(async move { port.restore().await });
    }

    /// Freezes every connection, old and new, as a stopped process would.
    pub fn hang(&self) {
        self.port.hang();
    }

    /// Resets every connection and goes on listening.
    pub fn reset_connections(&self) {
        self.port.reset_connections();
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The address as a key of `nodes`.
    pub fn node(&self) -> String {
        self.port.address().to_string()
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.port.accepted()
    }

    /// Connections open now.
    pub fn open_connections(&self) -> u64 {
        self.port.open_connections()
    }
}

fn any(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, 0)
}

/// An HTTP origin that tells what it received and misbehaves on request; its
/// methods are those of [`http_echo::HttpEcho`] and [`LinePort`].
pub struct HttpEcho {
    line: LinePort,
    server: http_echo::HttpEcho,
}

/// What an [`HttpEcho`] is to be.
pub struct HttpEchoBuilder {
    options: http_echo::HttpEchoOptions,
    namespace: Option<Namespace>,
    ip: IpAddr,
}

impl HttpEcho {
    /// A plain one on a free port; `name` is shown in its answers.
    pub fn start(name: &str) -> HttpEcho {
        HttpEcho::builder(name).start()
    }

    /// One with TLS, in a namespace, or both.
    pub fn builder(name: &str) -> HttpEchoBuilder {
        let options = http_echo::HttpEchoOptions { name: name.to_owned(), ..Default::default() };
        HttpEchoBuilder { options, namespace: None, ip: Ipv4Addr::LOCALHOST.into() }
    }

    /// The listening port.
    pub fn line(&self) -> &LinePort {
        &self.line
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.line.address()
    }

    /// The address as a key of `nodes`.
    pub fn node(&self) -> String {
        self.line.node()
    }
}

impl Deref for HttpEcho {
    type Target = http_echo::HttpEcho;

    fn deref(&self) -> &Self::Target {
        &self.server
    }
}

impl HttpEchoBuilder {
    /// Speaks TLS with this configuration.
    pub fn tls(mut self, config: Arc<rustls::ServerConfig>) -> Self {
        self.options.tls = Some(config);
        self
    }

    /// Listens on `ip` inside a namespace.
    pub fn within(mut self, namespace: &Namespace, ip: IpAddr) -> Self {
        self.namespace = Some(namespace.clone());
        self.ip = ip;
        self
    }

    /// Listens on this very address.
    pub fn address(mut self, address: SocketAddr) -> Self {
        self.options.address = Some(address);
        self
    }

    /// Starts it.
    pub fn start(self) -> HttpEcho {
        let background = Arc::new(Background::start(self.namespace.as_ref()));
        let address = self.options.address.unwrap_or(any(self.ip));
        let options = http_echo::HttpEchoOptions { address: Some(address), ..self.options };
        let server = io_ok("http-echo", background.run(http_echo::HttpEcho::start(options)));
        let line = LinePort { background, port: server.port().clone() };
        HttpEcho { line, server }
    }
}

/// A port inside a namespace through which one outside is reached: what listens on
/// loopback stands behind a link then.
pub struct Passage {
    address: SocketAddr,
    _background: Background,
}

impl Passage {
    /// Listens on `ip` inside the namespace and connects from outside.
    pub fn start(namespace: &Namespace, ip: IpAddr, to: SocketAddr) -> Passage {
        let listener = io_ok("a passage", namespace.run(|| std::net::TcpListener::bind((ip, 0))));
        let address = io_ok("a passage", listener.local_addr());
        io_ok("a passage", listener.set_nonblocking(true));
        let background = Background::start(None);
        background.handle().spawn(async move {
            let listener = io_ok("a passage", TcpListener::from_std(listener));
            while let Ok((mut inside, _)) = listener.accept().await {
                tokio::spawn(async move {
                    // Who comes while nothing listens behind it is hung up on.
                    if let Ok(mut outside) = TcpStream::connect(to).await {
                        let _ = copy_bidirectional(&mut inside, &mut outside).await;
                    }
                });
            }
        });
        Passage { address, _background: background }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A gRPC echo; its methods are those of [`grpc::GrpcEcho`].
pub struct GrpcEcho {
    server: grpc::GrpcEcho,
    _background: Background,
}

impl GrpcEcho {
    /// Starts one without TLS on a free port.
    pub fn start() -> GrpcEcho {
        let background = Background::start(None);
        let server = background.run(grpc::GrpcEcho::start(any(Ipv4Addr::LOCALHOST.into())));
        GrpcEcho { server: io_ok("grpc-echo", server), _background: background }
    }

    /// The address as a key of `nodes`.
    pub fn node(&self) -> String {
        self.server.address().to_string()
    }
}

impl Deref for GrpcEcho {
    type Target = grpc::GrpcEcho;

    fn deref(&self) -> &Self::Target {
        &self.server
    }
}

/// A WebSocket echo; its methods are those of [`websocket::WebSocketEcho`].
pub struct WebSocketEcho {
    line: LinePort,
    server: websocket::WebSocketEcho,
}

impl WebSocketEcho {
    /// Starts one on a free port.
    pub fn start() -> WebSocketEcho {
        let background = Arc::new(Background::start(None));
        let server = background.run(websocket::WebSocketEcho::start(any(Ipv4Addr::LOCALHOST.into())));
        let server = io_ok("ws-echo", server);
        WebSocketEcho { line: LinePort { background, port: server.port().clone() }, server }
    }

    /// The listening port.
    pub fn line(&self) -> &LinePort {
        &self.line
    }

    /// The address as a key of `nodes`.
    pub fn node(&self) -> String {
        self.line.node()
    }
}

impl Deref for WebSocketEcho {
    type Target = websocket::WebSocketEcho;

    fn deref(&self) -> &Self::Target {
        &self.server
    }
}

/// An IM server with one port for each line; its methods are those of
/// [`im::ImServer`].
pub struct ImServer {
    lines: Vec<(String, LinePort)>,
    server: im::ImServer,
}

/// What an [`ImServer`] is to be.
pub struct ImServerBuilder {
    options: im::ImOptions,
    namespace: Option<Namespace>,
}

impl ImServer {
    /// One that takes PROXY headers, with those lines on free ports.
    pub fn start(lines: &[&str]) -> ImServer {
        let builder = ImServer::builder();
        lines
            .iter()
            .fold(builder, |builder, line| builder.line(line, any(Ipv4Addr::LOCALHOST.into())))
            .start()
    }

    /// One with TLS, in a namespace, or without PROXY headers.
    pub fn builder() -> ImServerBuilder {
        let options = im::ImOptions { proxy_protocol: true, ..Default::default() };
        ImServerBuilder { options, namespace: None }
    }

    /// The port of a line; panics if there is none of that name.
    pub fn line(&self, name: &str) -> &LinePort {
        let found = self.lines.iter().find(|(found, _)| found == name);
        &found.unwrap_or_else(|| panic!("the server has no line {name}")).1
    }
}

impl Deref for ImServer {
    type Target = im::ImServer;

    fn deref(&self) -> &Self::Target {
        &self.server
    }
}

impl ImServerBuilder {
    /// Adds a line; port 0 is a free one.
    pub fn line(mut self, name: &str, address: SocketAddr) -> Self {
        self.options.lines.push((name.to_owned(), address));
        self
    }

    /// Speaks TLS on every line.
    pub fn tls(mut self, config: Arc<rustls::ServerConfig>) -> Self {
        self.options.tls = Some(config);
        self
    }

    /// Lets phones confirm logins of browsers.
    pub fn qr(mut self, qr: im::QrOptions) -> Self {
        self.options.qr = Some(qr);
        self
    }

    /// Takes the first byte as a frame's, PROXY header or not.
    pub fn without_proxy_protocol(mut self) -> Self {
        self.options.proxy_protocol = false;
        self
    }

    /// Runs inside a namespace.
    pub fn within(mut self, namespace: &Namespace) -> Self {
        self.namespace = Some(namespace.clone());
        self
    }

    /// Starts it.
    pub fn start(self) -> ImServer {
        let background = Arc::new(Background::start(self.namespace.as_ref()));
        let server = io_ok("im-server", background.run(im::ImServer::start(self.options)));
        let line = |port: &port::Port| LinePort { background: background.clone(), port: port.clone() };
        let lines = server.lines().iter().map(|(name, port)| (name.clone(), line(port))).collect();
        ImServer { lines, server }
    }
}
