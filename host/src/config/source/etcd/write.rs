//! Writing to a cluster: every write is one transaction.

use std::sync::Arc;

use etcd_client::{Compare, CompareOp, Error, GetOptions, Txn, TxnOp};
use tokio::time::timeout;

use super::Link;
use super::keys::{key_of, with_short_id};
use super::session::{Connection, Lost};
use crate::config::source::{Area, Expect, RECORDS_LISTED_MAX, RecordName, Transaction, Write, WriteError};

/// The largest object, in bytes.
const OBJECT_BYTES_MAX: usize = 1024 * 1024;
/// The most bytes of one transaction: a server takes 1.5 MiB by default
/// (`--max-request-bytes`), names and framing included.
const TRANSACTION_BYTES_MAX: usize = 1_400_000;
/// Names of a page of a listing of records.
const PAGE_KEYS: i64 = 5000;

/// Writes to a cluster, through the connection that its source has.
#[derive(Debug, Clone)]
pub(in crate::config::source) struct EtcdWriter {
    link: Arc<Link>,
}

impl EtcdWriter {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link }
    }

    pub(in crate::config::source) fn reread(&self) {
        self.link.reread.notify_one();
    }

    /// Carries out a transaction; see [`crate::config::source::Writer::transact`].
    pub(in crate::config::source) async fn transact(
        &self,
        transaction: &Transaction,
    ) -> Result<Vec<u64>, WriteError> {
        let txn = self.txn(transaction)?;
        let connection = self.connection().await?;
        let mut kv = connection.kv();
        let answer = timeout(self.link.options.timeout, kv.txn(txn)).await;
        let answer = match answer {
            Err(_) => {
                let message = format!("{} did not answer", connection.endpoint);
                return Err(WriteError::Unknown(message));
            }
            Ok(Err(error)) => return Err(failed(&error)),
            Ok(Ok(answer)) => answer,
        };
        if !answer.succeeded() {
            return Err(self.conflict(&connection, transaction).await?);
        }
        let revision = answer.header().map_or(0, |header| header.revision().unsigned_abs());
        if !transaction.writes.is_empty() {
            self.told(revision).await;
        }
        let writes = transaction.writes.iter();
        Ok(writes.map(|write| if write.value.is_some() { revision } else { 0 }).collect())
    }

    fn txn(&self, transaction: &Transaction) -> Result<Txn, WriteError> {
        let (mut compares, mut operations, mut bytes) = (Vec::new(), Vec::new(), 0);
        for write in &transaction.writes {
            let key = self.object_key(write);
            compares.extend(match (write.expect, &write.value) {
                (Expect::Absent, _) => Some(Compare::version(key.clone(), CompareOp::Equal, 0)),
                (Expect::Revision(revision), _) => {
                    Some(Compare::mod_revision(key.clone(), CompareOp::Equal, revision as i64))
                }
                (Expect::Any, None) => Some(Compare::version(key.clone(), CompareOp::Greater, 0)),
                (Expect::Any, Some(_)) => None,
            });
            bytes += key.len();
            operations.push(match &write.value {
                None => TxnOp::delete(key, None),
                Some(value) => {
                    let text = self.text_of(write, value);
                    if text.len() > OBJECT_BYTES_MAX {
                        return Err(WriteError::TooLarge(write.kind, write.id.clone(), OBJECT_BYTES_MAX));
                    }
                    bytes += text.len();
                    TxnOp::put(key, text, None)
                }
            });
        }
        for (name, value) in &transaction.records {
            let key = self.record_key(name);
            bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            operations.push(match value {
                None => TxnOp::delete(key, None),
                Some(value) => {
                    // What was recorded is never replaced, whoever chose the same name.
                    if name.area() == Area::History {
                        compares.push(Compare::version(key.clone(), CompareOp::Equal, 0));
                    }
                    TxnOp::put(key, value.clone(), None)
                }
            });
        }
        if bytes > TRANSACTION_BYTES_MAX {
            return Err(WriteError::TooLargeTogether(bytes, TRANSACTION_BYTES_MAX));
        }
        Ok(Txn::new().when(compares).and_then(operations))
    }

    /// An object as it is written: its private keys sealed, its id as APISIX has it.
    fn text_of(&self, write: &Write, value: &serde_json::Value) -> String {
        let mut value = value.clone();
        if let Some(sealer) = &self.link.options.sealer {
            sealer.seal(write.kind, &write.id, &mut value);
        }
        with_short_id(write.kind, &write.id, &mut value);
        value.to_string()
    }

    /// Which write was not as expected: what is there now is looked at.
    async fn conflict(
        &self,
        connection: &Connection,
        transaction: &Transaction,
    ) -> Result<WriteError, WriteError> {
        for write in &transaction.writes {
            let mut kv = connection.kv();
            let options = GetOptions::new().with_keys_only();
            let asked = kv.get(self.object_key(write), Some(options));
            let answer = connection.answer("reading", asked).await.map_err(unavailable)?;
            let there = answer.kvs().first().map(|pair| pair.mod_revision().unsigned_abs());
            let (kind, id) = (write.kind, write.id.clone());
            match (write.expect, there) {
                (Expect::Any | Expect::Revision(_), None) if write.value.is_none() => {
                    return Ok(WriteError::NotFound(kind, id));
                }
                (Expect::Absent, Some(_)) => return Ok(WriteError::Conflict(kind, id)),
                (Expect::Revision(revision), there) if there != Some(revision) => {
                    return Ok(WriteError::Conflict(kind, id));
                }
                _ => {}
            }
        }
        // It was as expected again when it was looked at.
        Ok(match transaction.writes.first() {
            Some(write) => WriteError::Conflict(write.kind, write.id.clone()),
            None => WriteError::Store("the transaction was refused".to_owned()),
        })
    }

    pub(in crate::config::source) async fn record(
        &self,
        name: &RecordName,
    ) -> Result<Option<Vec<u8>>, WriteError> {
        let connection = self.connection().await?;
        let mut kv = connection.kv();
        let asked = kv.get(self.record_key(name), None);
        let answer = connection.answer("reading", asked).await.map_err(unavailable)?;
        Ok(answer.kvs().first().map(|pair| pair.value().to_vec()))
    }

    pub(in crate::config::source) async fn records(
        &self,
        area: Area,
        start: &str,
    ) -> Result<Vec<RecordName>, WriteError> {
        let root = format!("{}{}/", self.link.options.root(), area.name());
        let mut from = format!("{root}{start}").into_bytes();
        let end = after(&from);
        let connection = self.connection().await?;
        let mut names = Vec::new();
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE_KEYS).with_keys_only();
            let mut kv = connection.kv();
            let asked = kv.get(from.clone(), Some(options));
            let answer = connection.answer("listing records", asked).await.map_err(unavailable)?;
            for pair in answer.kvs() {
                from = pair.key().to_vec();
                let name = std::str::from_utf8(pair.key()).ok().and_then(|key| key.strip_prefix(&root));
                // What nobody of ours wrote is not a record.
                names.extend(name.and_then(|name| RecordName::new(area, name).ok()));
            }
            if !answer.more() || names.len() >= RECORDS_LISTED_MAX {
                break;
            }
            from.push(0);
        }
        names.truncate(RECORDS_LISTED_MAX);
        Ok(names)
    }

    /// The values of an area's first records, for areas of small ones.
    pub(super) async fn values(&self, area: Area, max: usize) -> Result<Vec<Vec<u8>>, WriteError> {
        let root = format!("{}{}/", self.link.options.root(), area.name());
        let options = GetOptions::new().with_prefix().with_limit(max as i64);
        let connection = self.connection().await?;
        let mut kv = connection.kv();
        let asked = kv.get(root, Some(options));
        let mut answer = connection.answer("listing records", asked).await.map_err(unavailable)?;
        Ok(answer.take_kvs().into_iter().map(|pair| pair.into_key_value().1).collect())
    }

    /// The connection that lives now, or comes soon.
    async fn connection(&self) -> Result<Connection, WriteError> {
        let mut connections = self.link.client.subscribe();
        let coming = connections.wait_for(Option::is_some);
        match timeout(self.link.options.timeout, coming).await {
            Ok(Ok(connection)) => connection.clone().ok_or(WriteError::Closed),
            Ok(Err(_)) => Err(WriteError::Closed),
            Err(_) => {
                let reason = self.link.state.lock().stale.clone().map(|(_, reason)| reason);
                Err(WriteError::Unavailable(reason.unwrap_or_else(|| "no connection".to_owned())))
            }
        }
    }

    /// Waits until the batch of a write is told, as long as that is usual.
    async fn told(&self, revision: u64) {
        let mut told = self.link.told.subscribe();
        let _ = timeout(self.link.options.timeout, told.wait_for(|told| *told >= revision)).await;
    }

    fn object_key(&self, write: &Write) -> String {
        format!("{}{}", self.link.options.root(), key_of(write.kind, &write.id))
    }

    fn record_key(&self, name: &RecordName) -> String {
        format!("{}{name}", self.link.options.root())
    }
}

/// The first key after all that begin so; the last byte of a name is never 0xFF.
fn after(start: &[u8]) -> Vec<u8> {
    let mut end = start.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn unavailable(lost: Lost) -> WriteError {
    WriteError::Unavailable(lost.0)
}

/// Why a transaction was not made, or may not have been.
fn failed(error: &Error) -> WriteError {
    let message = super::session::told(error);
    match error {
        // Said by the store itself, which did nothing.
        Error::GRpcStatus(status) if status.message().starts_with("etcdserver: ") => {
            let text = status.message();
            if text.contains("timed out") || text.contains("leader changed") {
                WriteError::Unknown(message)
            } else {
                WriteError::Store(message)
            }
        }
        _ => WriteError::Unknown(message),
    }
}
