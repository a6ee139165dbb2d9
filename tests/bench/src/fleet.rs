//! How long a fleet takes to apply a write.
//!
//! Five nodes on one etcd with many routes. A write goes through the Admin API
//! of the first node, validation and history included; each node is asked for
//! the new route over a connection of its own until it answers as it should.
//! The time ends when the last one does. Then the same for versions of a module.

mod modules;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sluice_harness::{Etcd, Sluice, eventually};

/// Nodes of the fleet.
const NODES: usize = 5;
/// Routes that are there.
const ROUTES: usize = 2000;
/// Writes that are measured, and those before them that are not.
const WRITES: usize = 200;
const WRITES_BEFORE: usize = 20;
/// What a route may take.
const GOAL: Duration = Duration::from_millis(50);
/// How long a node is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two questions to a node.
const POLL_INTERVAL: Duration = Duration::from_micros(500);

/// Measures it and prints what it found.
pub(crate) fn run() -> Result<()> {
    let etcd = Etcd::start();
    etcd.put("listeners", "edge", &json!({"bind": "127.0.0.1:0"}));
    let routes = (0..ROUTES).map(|number| {
        let route = answering(&format!("/r{number}"), &number.to_string());
        (format!("/sluice/routes/r{number}"), route.to_string())
    });
    etcd.put_all(routes.collect());
    let nodes: Vec<Sluice> = (0..NODES)
        .map(|number| {
            let id = json!({"id": format!("node-{number}")});
            Sluice::builder()
                .etcd(&etcd, json!({}))
                .boot("node", id)
                .boot("log", json!({"level": "warn"}))
                .start()
        })
        .collect();
    let addresses: Vec<SocketAddr> = nodes.iter().map(address).collect();
    let last = format!("/r{}", ROUTES - 1);
    for address in &addresses {
        until(*address, &last, &(ROUTES - 1).to_string())?;
    }
    println!("{NODES} nodes on one etcd, {ROUTES} routes; {WRITES} writes through one node's Admin API");
    let mut made = Vec::new();
    let mut changed = Vec::new();
    for number in 0..WRITES_BEFORE + WRITES {
        let path = format!("/new{}", number / 2);
        let (answer, times) =
            (format!("answer-{number}"), if number % 2 == 0 { &mut made } else { &mut changed });
        let taken = measure(&nodes[0], &addresses, &path, &answer)?;
        if number >= WRITES_BEFORE {
            times.push(taken);
        }
    }
    print("a new route, applied by every node", &mut made, Some(GOAL));
    print("a changed route, applied by every node", &mut changed, Some(GOAL));
    modules::run(&etcd, &nodes)
}

/// A route that answers by itself.
fn answering(uri: &str, answer: &str) -> Value {
    json!({"uri": uri, "plugins": {"mocking": {"response_example": answer, "content_type": "text/plain"}}})
}

fn address(node: &Sluice) -> SocketAddr {
    eventually("the listener is open", || {
        node.status()["listeners"][0]["binds"][0]["address"].as_str()?.parse().ok()
    })
}

/// Writes a route; gives the time until every node answers by it.
fn measure(writer: &Sluice, addresses: &[SocketAddr], path: &str, answer: &str) -> Result<Duration> {
    let id = path.trim_start_matches('/');
    let body = answering(path, answer).to_string();
    let request = format!(
        "PUT /apisix/admin/routes/{id} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(writer.admin_address())?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    std::thread::scope(|scope| {
        let waiting: Vec<_> =
            addresses.iter().map(|address| scope.spawn(move || until(*address, path, answer))).collect();
        let start = Instant::now();
        stream.write_all(request.as_bytes())?;
        let (status, told) = answer_of(&mut stream)?;
        if !matches!(status, 200 | 201) {
            bail!("the write of {path} was answered with {status}: {}", String::from_utf8_lossy(&told));
        }
        let mut last = start;
        for thread in waiting {
            match thread.join() {
                Ok(applied) => last = last.max(applied?),
                Err(_) => bail!("asking a node failed"),
            }
        }
        Ok(last - start)
    })
}

/// Asks a node until a path is answered so; gives when it was.
fn until(address: SocketAddr, path: &str, answer: &str) -> Result<Instant> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let start = Instant::now();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    while start.elapsed() < PATIENCE {
        stream.write_all(request.as_bytes())?;
        let (_, body) = answer_of(&mut stream)?;
        if body == answer.as_bytes() {
            return Ok(Instant::now());
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    bail!("{address} does not answer {path} with {answer} after {PATIENCE:?}")
}

/// Reads an answer that says how long it is: its status and body.
fn answer_of(stream: &mut TcpStream) -> Result<(u16, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        if let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.context("an answer without its length")?.trim().parse()?;
            if bytes.len() >= head + 4 + length {
                let status = text.split(' ').nth(1).context("an answer without a status")?.parse()?;
                return Ok((status, bytes[head + 4..head + 4 + length].to_vec()));
            }
        }
        match stream.read(&mut part)? {
            0 => bail!("a node closed the connection"),
            count => bytes.extend_from_slice(&part[..count]),
        }
    }
}

/// The median and the 99th of a hundred, against the goal if there is one.
fn print(what: &str, times: &mut [Duration], goal: Option<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    let (median, most) = (at(0.5), at(0.99));
    let verdict = goal.map_or_else(String::new, |goal| {
        let verdict = if most <= goal { "within" } else { "over" };
        format!(", {verdict} the goal of {goal:?}")
    });
    println!("{what}: p50 {median:.1?}, p99 {most:.1?}{verdict}");
}
