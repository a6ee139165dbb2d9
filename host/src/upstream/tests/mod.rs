//! Upstreams as a whole: built from objects, selected from, reached through
//! real sockets, probed.

mod build;
mod connect;
mod names;
mod pool;
mod select;
mod watch;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalRuntime;

use super::health::{Sign, Source};
use super::model::Forced;
use super::*;
use crate::config::objects;

/// Longest wait for a condition: generous, since the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

fn on_worker<F: Future>(future: F) -> F::Output {
    LocalRuntime::new().unwrap().block_on(future)
}

fn environment() -> Arc<Environment> {
    let way_key = via::WayKey::new(&[&[7; 32]]);
    Environment::new(Options { dns: DnsOptions::default(), way_key })
}

fn object(value: Value) -> objects::Upstream {
    serde_json::from_value(value).unwrap()
}

fn upstream_in(environment: &Arc<Environment>, value: Value, previous: Option<&Upstream>) -> Arc<Upstream> {
    let built = Upstream::build(&object(value), "test", previous, &References::NONE, environment);
    Arc::new(built.unwrap())
}

fn upstream(value: Value) -> Arc<Upstream> {
    upstream_in(&environment(), value, None)
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Marks a node as failed, as a connect would.
fn fail(upstream: &Upstream, line: usize, node: usize, failure: Failure) {
    let line = &upstream.lines[line];
    line.judge(&line.nodes[node], Source::Passive, Sign::Bad(failure), Forced::No, Instant::now());
}

/// An address nobody listens at: bound once, then given back.
async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Serves each connection with a task of its own.
async fn serve<F: Future<Output = ()> + 'static>(handle: impl Fn(TcpStream) -> F + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(serve_on(listener, handle));
    address
}

async fn serve_on<F: Future<Output = ()> + 'static>(
    listener: TcpListener,
    handle: impl Fn(TcpStream) -> F + 'static,
) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::task::spawn_local(handle(stream));
    }
}

/// Sends back what it gets.
async fn echo(stream: TcpStream) {
    let (mut read, mut write) = stream.into_split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

async fn exchange(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), text: &[u8]) -> Vec<u8> {
    stream.write_all(text).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).await.unwrap();
    answer
}

fn two_lines(leased: SocketAddr, public: SocketAddr) -> Value {
    json!({
        "scheme": "tcp",
        "lines": [
            {"name": "public", "priority": 5, "nodes": {public.to_string(): 1}},
            {"name": "leased", "priority": 10, "nodes": {leased.to_string(): 1}},
        ],
        "failover": {"hold_down": "300ms", "connect_timeout": "300ms"},
    })
}
