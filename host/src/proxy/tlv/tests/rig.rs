//! A worker of its own for every test, with nodes the test plays itself.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalRuntime;
use tokio::time::{Instant, timeout};

use crate::config::objects::{self, Limits, OnChange, TlvConf};
use crate::filter::{BuildContext, Chain, ChainKind, FoundModule, Groups, ModulePlace};
use crate::frame::{FrameDecoder, FrameFormat, Piece};
use crate::message::Client;
use crate::net::{Accepted, BufferPool, Drain, Listener, Stream, Tasks};
use crate::observe::{BlockedRecord, ConnectionRecord, Metrics, WorkerMetrics};
use crate::proxy::tlv::{CloseReason, DialOrder, Host, Link, serve};
use crate::snapshot::{StreamFlow, StreamRoute, TlvSettings};

/// Every wait of a test ends here at the latest.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(test: impl Future<Output = ()>) {
    LocalRuntime::new().unwrap().block_on(test);
}

pub(super) fn frame(command: u64, sequence: u64, body: &[u8]) -> Vec<u8> {
    let format = FrameFormat::im20();
    let fields = [(format.command().unwrap(), command), (format.sequence().unwrap(), sequence)];
    let mut out = Vec::new();
    format.encode(&mut out, &fields, body).unwrap();
    out
}

/// What a session's line says.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) reason: &'static str,
    pub(super) frames_in: u64,
    pub(super) frames_out: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

pub(super) struct TestHost {
    pub(super) buffers: BufferPool,
    metrics: WorkerMetrics,
    lines: RefCell<Vec<Line>>,
    pub(super) blocked: Cell<u32>,
    pub(super) revision: Cell<u64>,
    pub(super) route: RefCell<Option<Arc<StreamRoute>>>,
    /// The nodes, tried in this order.
    pub(super) nodes: RefCell<Vec<SocketAddr>>,
    pub(super) dials: Cell<u32>,
}

impl Host for TestHost {
    fn buffers(&self) -> &BufferPool {
        &self.buffers
    }

    fn metrics(&self) -> &WorkerMetrics {
        &self.metrics
    }

    fn log_connection(&self, record: &ConnectionRecord<'_>) {
        // Codes are fixed texts; the record borrows them for its own life only.
        let reason = Box::leak(record.reason.to_owned().into_boxed_str());
        self.lines.borrow_mut().push(Line {
            reason,
            frames_in: record.frames_in,
            frames_out: record.frames_out,
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
        });
    }

    fn log_blocked(&self, _: &BlockedRecord<'_>) {
        self.blocked.set(self.blocked.get() + 1);
    }

    fn revision(&self) -> u64 {
        self.revision.get()
    }

    fn stream_route(&self, _: &StreamRoute) -> Option<Arc<StreamRoute>> {
        self.route.borrow().clone()
    }

    fn dial<'a>(&'a self, _: DialOrder<'a>) -> Pin<Box<dyn Future<Output = Result<Link, CloseReason>> + 'a>> {
        Box::pin(async {
            self.dials.set(self.dials.get() + 1);
            let nodes = self.nodes.borrow().clone();
            for address in nodes {
                if let Ok(tcp) = TcpStream::connect(address).await {
                    let (line, connect_time) = (Arc::from("test"), Duration::ZERO);
                    let stream = Stream::Plain(tcp);
                    return Ok(Link { stream, line, address: Some(address), connect_time, target: None });
                }
            }
            Err(CloseReason::NoUpstream)
        })
    }
}

pub(super) struct Rig {
    pub(super) host: Rc<TestHost>,
    pub(super) tasks: Tasks,
    pub(super) limits: Limits,
    front: TcpListener,
    node: TcpListener,
    seen: Cell<usize>,
}

pub(super) fn route(conf: TlvConf, chain: Chain, on_change: OnChange, identity: u64) -> Arc<StreamRoute> {
    let settings = TlvSettings::new(&conf, Arc::new(FrameFormat::im20())).unwrap();
    Arc::new(StreamRoute {
        id: "im".into(),
        flow: StreamFlow::Tlv(Arc::new(settings)),
        upstream: None,
        on_change,
        timeouts: None,
        identity,
        is_bridged: false,
        chain: Arc::new(chain),
        labels: None,
        metrics: Metrics::new(1, "test").stream_route("im"),
    })
}

impl Rig {
    pub(super) async fn new(conf: TlvConf) -> Self {
        Self::with_route(route(conf, Chain::default(), OnChange::Keep, 1)).await
    }

    pub(super) async fn with_plugins(conf: TlvConf, plugins: serde_json::Value) -> Self {
        let plugins = serde_json::from_value(plugins).unwrap();
        let format = FrameFormat::im20();
        let context = BuildContext {
            module: &|_| Ok(FoundModule::LeftOut),
            kind: ChainKind::Frames,
            upstream: &|_| Err("none here".to_owned()),
            groups: &Groups::default(),
            https_port: 443,
            frame_fields: &format.field_names().collect::<Vec<_>>(),
            modules: ModulePlace::default(),
        };
        let chain = Chain::build(&plugins, &context, None).unwrap();
        Self::with_route(route(conf, chain, OnChange::Keep, 1)).await
    }

    pub(super) async fn with_route(route: Arc<StreamRoute>) -> Self {
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            host: Rc::new(TestHost {
                buffers: BufferPool::default(),
                metrics: Metrics::new(1, "test").worker(0),
                lines: RefCell::default(),
                blocked: Cell::new(0),
                revision: Cell::new(1),
                route: RefCell::new(Some(route)),
                nodes: RefCell::new(vec![node.local_addr().unwrap()]),
                dials: Cell::new(0),
            }),
            tasks: Tasks::new(),
            limits: Limits::default(),
            front,
            node,
            seen: Cell::new(0),
        }
    }

    /// A client's connection, with a session that serves it.
    pub(super) async fn connect(&self) -> Peer {
        let near = TcpStream::connect(self.front.local_addr().unwrap()).await.unwrap();
        let (far, peer) = self.front.accept().await.unwrap();
        near.set_nodelay(true).unwrap();
        let local = far.local_addr().unwrap();
        let object = serde_json::json!({"id": "im", "bind": "127.0.0.1:0", "protocol": "tlv"});
        let mut object: objects::Listener = serde_json::from_value(object).unwrap();
        object.limits = self.limits.clone();
        let listener = Arc::new(Listener::new(Arc::new(object)).unwrap());
        let accepted = Accepted {
            stream: Stream::Plain(far),
            client: Arc::new(Client { peer, address: peer, local, tls: None, path: None }),
            listener: Arc::clone(&listener),
            first: None,
            sni: None,
            rule: None,
            drain: Drain::new(self.tasks.clone(), listener),
            started: Instant::now(),
        };
        let route = self.host.route.borrow().clone().unwrap();
        let StreamFlow::Tlv(settings) = &route.flow else { panic!("a route for frames") };
        let settings = Arc::clone(settings);
        self.tasks.spawn(serve(Rc::clone(&self.host), route, settings, accepted));
        Peer { tcp: near, buffer: Vec::new() }
    }

    /// The session's connection, at the node.
    pub(super) async fn accept(&self) -> Peer {
        let (tcp, _) =
            timeout(PATIENCE, self.node.accept()).await.expect("no connection to the node").unwrap();
        tcp.set_nodelay(true).unwrap();
        Peer { tcp, buffer: Vec::new() }
    }

    /// Whether a connection to the node waits to be accepted.
    pub(super) async fn is_dialled(&self) -> bool {
        self.host.dials.get() > 0
    }

    pub(super) async fn joined(&self) -> (Peer, Peer) {
        let client = self.connect().await;
        (client, self.accept().await)
    }

    /// The line of the next session that ends.
    pub(super) async fn line(&self) -> Line {
        self.until(|| self.host.lines.borrow().len() > self.seen.get()).await;
        let at = self.seen.replace(self.seen.get() + 1);
        self.host.lines.borrow()[at].clone()
    }

    pub(super) async fn until(&self, condition: impl Fn() -> bool) {
        let wait = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, wait).await.expect("the condition never held");
    }
}

/// One end of a connection that a test plays.
pub(super) struct Peer {
    pub(super) tcp: TcpStream,
    buffer: Vec<u8>,
}

impl Peer {
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.tcp.write_all(bytes)).await.expect("nothing is read").unwrap();
    }

    pub(super) async fn shutdown(&mut self) {
        self.tcp.shutdown().await.unwrap();
    }

    /// Breaks the connection with a reset.
    pub(super) fn reset(self) {
        self.tcp.set_zero_linger().unwrap();
    }

    pub(super) async fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.fill().await > 0, "ended after {} of {count} bytes", self.buffer.len());
        }
        self.buffer.drain(..count).collect()
    }

    pub(super) async fn read_frame(&mut self) -> (u64, u64, Vec<u8>) {
        let format = FrameFormat::im20();
        loop {
            if let Piece::Frame(frame) =
                FrameDecoder::default().next(&format, &self.buffer, usize::MAX).expect("no frame")
            {
                let read = |field: Option<crate::frame::FrameField>| field.unwrap().read(frame.head());
                let found = (read(format.command()), read(format.sequence()), frame.body().to_vec());
                let total = frame.total_bytes();
                self.buffer.drain(..total);
                return found;
            }
            assert!(self.fill().await > 0, "ended inside a frame: {:?}", self.buffer);
        }
    }

    pub(super) async fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill().await > 0 {}
        std::mem::take(&mut self.buffer)
    }

    /// The other side ends, in an orderly way or not, with nothing before it.
    pub(super) async fn expect_end(&mut self) {
        let mut byte = [0];
        let end = timeout(PATIENCE, self.tcp.read(&mut byte)).await.expect("the connection stays open");
        assert!(self.buffer.is_empty() && !matches!(end, Ok(1)), "bytes before the end");
    }

    /// Nothing has arrived.
    pub(super) fn expect_silence(&mut self) {
        let outcome = self.tcp.try_read(&mut [0; 64]);
        assert!(self.buffer.is_empty() && outcome.is_err(), "unexpected bytes: {outcome:?}");
    }

    async fn fill(&mut self) -> usize {
        timeout(PATIENCE, self.tcp.read_buf(&mut self.buffer)).await.expect("nothing comes").unwrap_or(0)
    }
}
