//! Requests at a steady rate, while a test breaks things.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::network::Namespace;
use crate::services::Background;
use crate::wait::{eventually, within};

/// Failures whose text is kept.
const FAILURES_KEPT: usize = 100;

/// HTTP/1.1 requests over kept connections, each connection a given number of
/// times a second. Runs until [`SteadyLoad::stop`].
pub struct SteadyLoad {
    background: Background,
    shared: Arc<Shared>,
}

struct Shared {
    address: SocketAddr,
    request: String,
    pause: Duration,
    stop: AtomicBool,
    report: Mutex<LoadReport>,
}

/// What a load has met.
#[derive(Debug, Clone, Default)]
pub struct LoadReport {
    /// Requests that were answered with a status below 500.
    pub good: u64,
    /// Requests that were answered otherwise, or not at all.
    pub failed: u64,
    /// The first hundred failures, in words.
    pub failures: Vec<String>,
    /// The longest a request took.
    pub longest: Duration,
    /// Every request's time, in the order they ended.
    pub times: Vec<Duration>,
    /// Good answers, counted by the `server` that an HTTP echo names.
    pub servers: std::collections::BTreeMap<String, u64>,
}

impl LoadReport {
    /// The time that `share` (0.99) of the requests did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        let at = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(at).copied().unwrap_or_default()
    }
}

impl SteadyLoad {
    /// `GET path` with `host` over that many connections, each `rate` times a
    /// second at most.
    pub fn get(address: SocketAddr, host: &str, path: &str, connections: usize, rate: u32) -> SteadyLoad {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        SteadyLoad::start(None, address, request, connections, rate)
    }

    /// Any request that can be repeated, from inside a namespace if one is
    /// given.
    pub fn start(
        namespace: Option<&Namespace>,
        address: SocketAddr,
        request: String,
        connections: usize,
        rate: u32,
    ) -> SteadyLoad {
        let shared = Arc::new(Shared {
            address,
            request,
            pause: Duration::from_secs(1) / rate.max(1),
            stop: AtomicBool::new(false),
            report: Mutex::default(),
        });
        let background = Background::start(namespace);
        for _ in 0..connections {
            background.handle().spawn(connection(shared.clone()));
        }
        SteadyLoad { background, shared }
    }

    /// What has been met so far.
    pub fn so_far(&self) -> LoadReport {
        self.shared.lock().clone()
    }

    /// Waits until that many more requests have been answered well.
    pub fn until_good(&self, more: u64) {
        let goal = self.so_far().good + more;
        eventually(&format!("{more} more requests are answered"), || {
            (self.shared.lock().good >= goal).then_some(())
        });
    }

    /// Lets requests under way end and returns what was met.
    pub fn stop(self) -> LoadReport {
        let SteadyLoad { background, shared } = self;
        shared.stop.store(true, Ordering::Relaxed);
        // Each connection holds a share until it has ended.
        within(Duration::from_secs(40), "the load's connections end", || {
            (Arc::strong_count(&shared) == 1).then_some(())
        });
        drop(background);
        shared.lock().clone()
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, LoadReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, outcome: Result<Option<String>, String>, took: Duration) {
        let mut report = self.lock();
        report.longest = report.longest.max(took);
        report.times.push(took);
        match outcome {
            Ok(server) => {
                report.good += 1;
                *report.servers.entry(server.unwrap_or_default()).or_default() += 1;
            }
            Err(reason) => {
                report.failed += 1;
                if report.failures.len() < FAILURES_KEPT {
                    report.failures.push(format!("{reason} after {took:?}"));
                }
            }
        }
    }
}

async fn connection(shared: Arc<Shared>) {
    let mut stream: Option<TcpStream> = None;
    let mut ticks = tokio::time::interval(shared.pause);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !shared.stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let start = Instant::now();
        let outcome = tokio::time::timeout(Duration::from_secs(30), exchange(&shared, &mut stream)).await;
        let outcome = outcome.unwrap_or_else(|_| Err("no answer".to_owned()));
        if outcome.is_err() {
            stream = None;
        }
        shared.note(outcome, start.elapsed());
    }
}

/// One request. A kept connection that turns out to be closed before a byte of
/// the answer is replaced once, as every client does.
async fn exchange(shared: &Shared, stream: &mut Option<TcpStream>) -> Result<Option<String>, String> {
    let text = |error: std::io::Error| error.to_string();
    if let Some(open) = stream.as_mut() {
        match answer(shared, open).await {
            Ok(Some(reply)) => return finish(reply, stream),
            Ok(None) => {}
            Err(error) => return Err(text(error)),
        }
    }
    let mut fresh = TcpStream::connect(shared.address).await.map_err(text)?;
    fresh.set_nodelay(true).map_err(text)?;
    let reply = answer(shared, &mut fresh).await.map_err(text)?;
    *stream = Some(fresh);
    finish(reply.ok_or("closed before an answer")?, stream)
}

struct Answer {
    status: u16,
    keep: bool,
    server: Option<String>,
}

fn finish(reply: Answer, stream: &mut Option<TcpStream>) -> Result<Option<String>, String> {
    if !reply.keep {
        *stream = None;
    }
    if reply.status < 500 { Ok(reply.server) } else { Err(format!("status {}", reply.status)) }
}

/// None: the connection ended in order before the first byte.
async fn answer(shared: &Shared, stream: &mut TcpStream) -> std::io::Result<Option<Answer>> {
    let invalid = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    if stream.write_all(shared.request.as_bytes()).await.is_err() {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(4096);
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        match stream.read_buf(&mut bytes).await {
            Ok(0) if bytes.is_empty() => return Ok(None),
            Ok(0) => return Err(invalid("closed within a head")),
            Ok(_) => {}
            Err(error) if bytes.is_empty() && error.kind() == std::io::ErrorKind::ConnectionReset => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let status =
        text.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(|| invalid("no status"))?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|value| value.trim().to_owned())
    };
    let length: usize = match field("content-length") {
        Some(value) => value.parse().map_err(|_| invalid("bad length"))?,
        None => return Err(invalid("answer without a length")),
    };
    while bytes.len() < head + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(invalid("closed within a body"));
        }
    }
    let body: serde_json::Value = serde_json::from_slice(&bytes[head..head + length]).unwrap_or_default();
    Ok(Some(Answer {
        status,
        keep: field("connection").as_deref() != Some("close"),
        server: body["server"].as_str().map(str::to_owned),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::HttpEcho;

    #[test]
    fn a_cut_shows_as_failures_and_only_then() {
        let origin = HttpEcho::start("one");
        let load = SteadyLoad::get(origin.address(), "h", "/", 2, 200);
        load.until_good(20);
        assert_eq!(load.so_far().failed, 0);
        origin.line().cut();
        eventually("a failure", || (load.so_far().failed > 0).then_some(()));
        origin.line().restore();
        load.until_good(5);
        let report = load.stop();
        assert!(report.servers["one"] >= 25);
        let is_of_a_cut =
            |failure: &String| ["refused", "closed", "reset"].iter().any(|word| failure.contains(word));
        assert!(report.failures.iter().all(is_of_a_cut), "{:?}", report.failures);
    }
}
