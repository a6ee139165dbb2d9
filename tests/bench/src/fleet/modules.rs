//! How long a fleet takes to apply a version of a module of one megabyte.
//!
//! The version was pushed before, so that its bytes are in the store and on no
//! node; the time runs from the start of the command that has it serve until the
//! last node says that it does. Then versions that every node has compiled serve
//! in turns.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sluice_harness::guest::with_section;
use sluice_harness::{Etcd, Sluice};

use super::{POLL_INTERVAL, answer_of, answering, print};

/// The module, and what each of its versions is made of.
const NAME: &str = "waf";
const COMPONENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/plugins/waf.wasm");
/// Bytes of a version.
const BYTES: usize = 1 << 20;
/// Versions that nodes have not compiled.
const NEW: usize = 5;
/// Changes between versions that they have.
const TURNS: usize = 40;
/// What a change to a version that was compiled before may take.
const GOAL: Duration = Duration::from_secs(1);
/// How long a node is waited for: all of them compile at once.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures it on nodes that run, and prints what it found.
pub(super) fn run(etcd: &Etcd, nodes: &[Sluice]) -> Result<()> {
    let base =
        std::fs::read(COMPONENT).with_context(|| format!("{COMPONENT}: `cargo xtask bench` builds it"))?;
    let folder = tempfile::tempdir()?;
    let addresses: Vec<SocketAddr> = nodes.iter().map(Sluice::status_address).collect();
    let server = nodes[0].admin_address();
    let push = |number: usize, more: &[&str]| {
        let file = folder.path().join(format!("{number}.wasm"));
        std::fs::write(&file, version(&base, number))?;
        let number = number.to_string();
        let arguments = ["push", NAME, &file.to_string_lossy(), "--version", &number];
        plugin(server, &[&arguments[..], more].concat())
    };
    push(0, &[])?;
    let mut route = answering("/guarded", "guarded");
    route["plugins"][NAME] = json!({});
    etcd.put("routes", "guarded", &route);
    until_all(&addresses, 0)?;
    let mut fresh = Vec::new();
    for number in 1..=NEW {
        // Tried nowhere, so that only the store has it.
        push(number, &["--node", "none"])?;
        fresh.push(measure(server, &addresses, &["promote", NAME], number)?);
    }
    let mut again = Vec::new();
    for turn in 0..TURNS {
        let number = NEW - (turn + 1) % 2;
        let command = ["rollback", NAME, "--to", &number.to_string()];
        again.push(measure(server, &addresses, &command, number)?);
    }
    let size = version(&base, 0).len() >> 10;
    print(&format!("a version of a module of {size} KiB, compiled before"), &mut again, Some(GOAL));
    print("the same, compiled by every node at once", &mut fresh, None);
    Ok(())
}

/// A component with a section of its own, so that its digest is another.
fn version(base: &[u8], number: usize) -> Vec<u8> {
    let mut content = number.to_string().into_bytes();
    content.resize(content.len().max(BYTES.saturating_sub(base.len())), 0);
    with_section(base, "number", &content)
}

/// Runs a command; gives the time until every node says that a version serves.
fn measure(server: SocketAddr, nodes: &[SocketAddr], command: &[&str], number: usize) -> Result<Duration> {
    let start = Instant::now();
    plugin(server, command)?;
    Ok(until_all(nodes, number)? - start)
}

fn plugin(server: SocketAddr, arguments: &[&str]) -> Result<()> {
    let mut command = Sluice::command(&["plugin"]);
    command.args(arguments).env("SLUICE_ADMIN", format!("http://{server}")).env_remove("SLUICE_CLIENT");
    let output = command.output()?;
    if !output.status.success() {
        bail!("sluice plugin {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Waits until a version serves on every node; gives when it did on the last.
fn until_all(nodes: &[SocketAddr], number: usize) -> Result<Instant> {
    std::thread::scope(|scope| {
        let waiting: Vec<_> =
            nodes.iter().map(|address| scope.spawn(move || until(*address, number))).collect();
        let mut last = None;
        for thread in waiting {
            match thread.join() {
                Ok(served) => last = last.max(Some(served?)),
                Err(_) => bail!("asking a node failed"),
            }
        }
        last.context("there is no node")
    })
}

fn until(address: SocketAddr, number: usize) -> Result<Instant> {
    let start = Instant::now();
    let mut shown = Value::Null;
    while start.elapsed() < PATIENCE {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /v1/modules HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let (_, body) = answer_of(&mut stream)?;
        shown = serde_json::from_slice(&body)?;
        let (module, wanted) = (&shown[0], number.to_string());
        // It says since when once requests meet it.
        if module["active"] == *wanted && module["since"].as_str().is_some_and(|at| !at.is_empty()) {
            return Ok(Instant::now());
        }
        std::thread::sleep(POLL_INTERVAL * 4);
    }
    bail!("{address} does not serve version {number} of {NAME} after {PATIENCE:?}: {shown}")
}
