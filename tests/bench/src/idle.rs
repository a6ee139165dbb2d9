//! Memory of idle connections: of the process, by the connection.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::net::TcpStream;

use crate::cases::IdleCase;
use crate::load::{self, Bed, Tls};
use crate::origin::SMALL;
use crate::process::Tree;
use crate::proxy::Proxy;

/// Connections that come and go first, so that code and pools are in memory.
const WARM_UP: usize = 500;
/// Connections that are opened at the same time.
const WIDTH: usize = 64;
/// When memory moves less than this in [`SETTLED_FOR`], it has settled.
const SETTLED_BYTES: u64 = 64 * 1024;
const SETTLED_FOR: Duration = Duration::from_millis(700);
const SETTLE_TIMEOUT: Duration = Duration::from_secs(15);

/// A connection that is held.
#[allow(dead_code, reason = "held for what its drop does")]
enum Held {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// Opens `count` connections through a fresh proxy, has one exchange on each
/// and says how many bytes of memory each has added.
pub(crate) fn measure(
    bed: &Bed,
    case: &'static IdleCase,
    proxy: &Proxy,
    tls: &Tls,
    count: usize,
) -> Result<f64> {
    bed.block_on(async {
        let open = |count| {
            let (ports, tls) = (proxy.ports, tls.clone());
            load::for_each(count, WIDTH, move |index| open(case, ports, tls.clone(), index))
        };
        let tree = proxy.tree();
        drop(open(WARM_UP).await.context("in the warm-up")?);
        let before = settled(&tree).await?;
        let held = open(count).await?;
        let after = settled(&tree).await?;
        drop(held);
        Ok((after as f64 - before as f64) / count as f64)
    })
}

async fn open(case: &'static IdleCase, ports: crate::proxy::Ports, tls: Tls, index: usize) -> Result<Held> {
    let port = match (case.is_http, case.tls) {
        (true, false) => ports.http,
        (true, true) => ports.https,
        (false, false) => ports.tlv,
        (false, true) => ports.tlvs,
    };
    let mut stream = load::connect(port, index).await?;
    if case.tls {
        let protocol: &[u8] = if case.is_http { b"http/1.1" } else { b"" };
        let mut stream = tls.connect(stream, protocol).await?;
        exchange(case, &mut stream).await?;
        return Ok(Held::Tls(Box::new(stream)));
    }
    exchange(case, &mut stream).await?;
    Ok(Held::Plain(stream))
}

async fn exchange(case: &IdleCase, stream: &mut impl load::Stream) -> Result<()> {
    if case.is_http {
        load::exchange_request(stream, SMALL.0, SMALL.1).await
    } else {
        load::exchange_frame(stream).await
    }
}

/// Memory once it has stopped moving.
async fn settled(tree: &Tree) -> Result<u64> {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    let mut last = tree.memory()?;
    loop {
        tokio::time::sleep(SETTLED_FOR).await;
        let now = tree.memory()?;
        if now.abs_diff(last) < SETTLED_BYTES || Instant::now() > deadline {
            return Ok(now);
        }
        last = now;
    }
}
