//! This node's entry among the nodes that live: `<prefix>/nodes/<id>` under a lease.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::PutOptions;
use serde_json::Value;
use tokio::time::sleep;

use super::session::{Connection, Lost};
use super::{EtcdWriter, Link};
use crate::config::source::Area;

/// How long an entry outlives its node, in seconds.
const LEASE_SECONDS: i64 = 10;
/// How often the lease is renewed, and the entry looked at.
const RENEW_INTERVAL: Duration = Duration::from_secs(3);
/// The soonest that a changed entry is written.
const CHANGE_INTERVAL: Duration = Duration::from_secs(1);

/// Tells what stands in the entry.
pub type Describe = Box<dyn Fn() -> Value + Send + Sync>;

/// Tells the entries of all nodes that live.
pub type Fleet = Box<dyn Fn() -> Result<Vec<Value>, String> + Send + Sync>;

/// The most nodes that are told of.
const FLEET_MAX: usize = 10_000;

/// The entries of all nodes that live, by their ids.
pub(super) async fn fleet(writer: &EtcdWriter) -> Result<Vec<Value>, String> {
    let values = writer.values(Area::Nodes, FLEET_MAX).await.map_err(|error| error.to_string())?;
    // What is no JSON was not written by a node.
    Ok(values.iter().filter_map(|bytes| serde_json::from_slice(bytes).ok()).collect())
}

/// Keeps the entry of a node while there is a connection, and writes it again
/// after a lease was lost.
pub(super) async fn run(link: Arc<Link>, id: String, describe: Describe) {
    let mut connections = link.client.subscribe();
    loop {
        let connection = match connections.wait_for(Option::is_some).await {
            Ok(connection) => connection.clone(),
            Err(_) => return,
        };
        if let Some(connection) = connection {
            let key = format!("{}nodes/{id}", link.options.root());
            let Err(lost) = keep(&connection, key, &describe).await;
            tracing::debug!(reason = %lost, "the node's entry is not kept up; it will be written again");
        }
        sleep(CHANGE_INTERVAL).await;
    }
}

/// Keeps the entry through one connection, until that fails.
async fn keep(
    connection: &Connection,
    key: String,
    describe: &Describe,
) -> Result<std::convert::Infallible, Lost> {
    let mut leases = connection.lease();
    let granted = connection.answer("asking for a lease", leases.grant(LEASE_SECONDS, None)).await?;
    let lease = granted.id();
    let (mut keeper, mut renewals) = connection.answer("keeping a lease", leases.keep_alive(lease)).await?;
    let mut written = String::new();
    loop {
        for _ in 0..RENEW_INTERVAL.as_secs() / CHANGE_INTERVAL.as_secs() {
            let text = describe().to_string();
            if text != written {
                let options = PutOptions::new().with_lease(lease);
                let mut kv = connection.kv();
                let put = kv.put(key.clone(), text.clone(), Some(options));
                connection.answer("writing the node's entry", put).await?;
                written = text;
            }
            sleep(CHANGE_INTERVAL).await;
        }
        connection.answer("keeping a lease", keeper.keep_alive()).await?;
        let renewed = connection.answer("keeping a lease", renewals.message()).await?;
        if renewed.is_none_or(|renewed| renewed.ttl() <= 0) {
            return Err(Lost("the lease has ended".to_owned()));
        }
    }
}
