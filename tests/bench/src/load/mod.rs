//! The load generator: many connections on one thread, raw bytes, one read and
//! one write an operation.

mod frames;
mod handshakes;
mod http1;
mod http2;
mod im;
mod tls;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::{LocalSet, spawn_local};

pub(crate) use frames::exchange as exchange_frame;
pub(crate) use http1::exchange as exchange_request;
pub(crate) use im::message;
pub(crate) use tls::Tls;

use crate::cases::Load;
use crate::process::Tree;
use crate::proxy::Ports;

/// Anything bytes go through.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// The name every request and hello carries.
pub(crate) const HOST: &str = "bench.test";

/// What a stretch of load came to.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// Operations finished while it was measured.
    pub(crate) operations: u64,
    /// Those before and after as well.
    pub(crate) operations_in_all: u64,
    /// How long it was measured.
    pub(crate) elapsed: Duration,
    /// CPU time of the proxy meanwhile.
    pub(crate) cpu: Duration,
    /// How long each operation (each batch, for frames) took, in units of 100 ns, sorted.
    pub(crate) latencies: Vec<u32>,
}

/// Where sessions note what they finish.
#[derive(Default)]
struct Recorder {
    operations: Cell<u64>,
    operations_in_all: Cell<u64>,
    latencies: RefCell<Vec<u32>>,
    is_recording: Cell<bool>,
    is_over: Cell<bool>,
}

impl Recorder {
    fn finished(&self, operations: u64, started: Instant) {
        self.operations_in_all.set(self.operations_in_all.get() + operations);
        if self.is_recording.get() {
            self.operations.set(self.operations.get() + operations);
            let units = started.elapsed().as_nanos() / 100;
            self.latencies.borrow_mut().push(u32::try_from(units).unwrap_or(u32::MAX));
        }
    }
}

/// How long connections run before anything is measured.
const WARM_UP: Duration = Duration::from_millis(300);
/// How long sessions may take to end after their last operation.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// The runtime of the load and of the origin, one thread.
pub(crate) struct Bed {
    runtime: Runtime,
    tasks: LocalSet,
}

impl Bed {
    pub(crate) fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, tasks: LocalSet::new() })
    }

    /// Runs a future, and the origin's tasks meanwhile.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.tasks.block_on(&self.runtime, future)
    }

    /// Runs `load` against a proxy and measures `tree` for `length`.
    ///
    /// # Errors
    /// When any connection is refused, cut or answered wrongly: a proxy that
    /// fails is not faster.
    pub(crate) fn run(
        &self,
        load: Load,
        ports: &Ports,
        tls: &Tls,
        tree: &Tree,
        length: Duration,
    ) -> Result<Outcome> {
        self.block_on(async {
            let recorder = Rc::new(Recorder::default());
            let awake = spawn_local(stay_awake(recorder.clone()));
            let outcome = measure(load, ports, tls, tree, length, &recorder).await;
            recorder.is_over.set(true);
            awake.await?;
            outcome
        })
    }
}

/// Keeps this thread from sleeping: waking a thread is dear, and whoever sends
/// pays for it. A proxy that is slower, so that the load sleeps more often,
/// would be charged for it twice.
async fn stay_awake(recorder: Rc<Recorder>) {
    while !recorder.is_over.get() {
        tokio::task::yield_now().await;
    }
}

async fn measure(
    load: Load,
    ports: &Ports,
    tls: &Tls,
    tree: &Tree,
    length: Duration,
    recorder: &Rc<Recorder>,
) -> Result<Outcome> {
    let mut sessions = start(load, ports, tls, recorder)?;
    tokio::select! {
        () = tokio::time::sleep(WARM_UP) => {}
        ended = sessions.join_next() => ended.context("no session")??.context("in the warm-up")?,
    }
    recorder.is_recording.set(true);
    let (cpu, started) = (tree.cpu_time()?, Instant::now());
    tokio::select! {
        () = tokio::time::sleep(length) => {}
        ended = sessions.join_next() => {
            ended.context("no session")??.context("under load")?;
            bail!("a session ended under load");
        }
    }
    let (cpu, elapsed) = (tree.cpu_time()?.saturating_sub(cpu), started.elapsed());
    recorder.is_recording.set(false);
    recorder.is_over.set(true);
    let end = async {
        while let Some(ended) = sessions.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(END_TIMEOUT, end).await.context("a session waits for an answer")??;
    let mut latencies = recorder.latencies.take();
    latencies.sort_unstable();
    Ok(Outcome {
        operations: recorder.operations.get(),
        operations_in_all: recorder.operations_in_all.get(),
        elapsed,
        cpu,
        latencies,
    })
}

type Sessions = tokio::task::JoinSet<Result<()>>;

fn start(load: Load, ports: &Ports, tls: &Tls, recorder: &Rc<Recorder>) -> Result<Sessions> {
    let mut sessions = Sessions::new();
    let mut add = |index: usize, port: SocketAddr| {
        let (tls, recorder) = (tls.clone(), recorder.clone());
        sessions.spawn_local(async move {
            match load {
                Load::Http { tls: false, path, upload, body_bytes, .. } => {
                    let stream = connect(port, index).await?;
                    http1::session(stream, path, upload, body_bytes, &recorder).await
                }
                Load::Http { path, upload, body_bytes, .. } => {
                    let stream = tls.connect(connect(port, index).await?, b"http/1.1").await?;
                    http1::session(stream, path, upload, body_bytes, &recorder).await
                }
                Load::Http2 { streams, path, body_bytes, .. } => {
                    let stream = tls.connect(connect(port, index).await?, b"h2").await?;
                    http2::session(stream, streams, path, body_bytes, &recorder).await
                }
                Load::Handshake { .. } => handshakes::session(port, index, &tls, &recorder).await,
                Load::Json { .. } => im::requests(connect(port, index).await?, &recorder).await,
                Load::WebSocket { frame_bytes, batch, .. } => {
                    im::messages(connect(port, index).await?, frame_bytes, batch, &recorder).await
                }
                Load::Tlv { frame_bytes, batch, .. } => {
                    frames::session(connect(port, index).await?, frame_bytes, batch, &recorder).await
                }
            }
        });
    };
    let (connections, port) = match load {
        Load::Http { connections, tls: false, .. }
        | Load::Json { connections }
        | Load::WebSocket { connections, .. } => (connections, ports.http),
        Load::Http { connections, .. }
        | Load::Http2 { connections, .. }
        | Load::Handshake { connections } => (connections, ports.https),
        Load::Tlv { connections, .. } => (connections, ports.tlv),
    };
    (0..connections).for_each(|index| add(index, port));
    Ok(sessions)
}

/// Connects from one of many loopback addresses, so that no pair of addresses
/// runs out of ports.
pub(crate) async fn connect(to: SocketAddr, index: usize) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let source = [127, 0, 1 + ((index / 200) % 200) as u8, 1 + (index % 200) as u8];
    // The port is chosen at connect, when the whole tuple is known.
    setsockopt(&socket.as_fd(), sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(SocketAddr::from((source, 0)))?;
    socket.set_nodelay(true)?;
    socket.connect(to).await.with_context(|| format!("cannot connect to {to}"))
}

/// Runs `work` for each of `0..count`, `width` at a time, on this thread.
pub(crate) async fn for_each<F, T>(count: usize, width: usize, work: impl Fn(usize) -> F) -> Result<Vec<T>>
where
    F: Future<Output = Result<T>> + 'static,
    T: 'static,
{
    let mut done = Vec::with_capacity(count);
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..count {
        if tasks.len() >= width {
            done.push(tasks.join_next().await.context("no task")???);
        }
        tasks.spawn_local(work(index));
    }
    while let Some(task) = tasks.join_next().await {
        done.push(task??);
    }
    Ok(done)
}
