//! Where documents come from, and how they are written back.
//!
//! A source tells what changed in batches: the first one is the whole
//! listing, the next ones are what is different since. What a batch costs is
//! in proportion to it. Start at [`Source::next`] for reading, at
//! [`Writer::transact`] for writing.

mod blobs;
mod component;
mod directory;
mod etcd;
mod files;
mod pending;
mod record;
mod write;

use serde_json::Value;

pub use blobs::DirectoryBlobs;
pub use component::{ComponentError, Pushed};
pub use directory::DirectorySource;
pub(in crate::config) use etcd::key_of;
pub use etcd::{
    Describe, EtcdOptions, EtcdOptionsError, EtcdSource, EtcdStart, Fleet, KeptState, SHARED_KEY_BYTES_MAX,
    SHARED_KEYS_MAX, SHARED_TIME_MAX, SHARED_VALUE_BYTES_MAX, Secret, SharedKey, SharedValueError,
    SharedValues, StoreState, TlsFiles, state_file,
};
pub use files::{FILES_MAX, Tree};
pub use pending::{PENDING_PATHS_MAX, PENDING_WRITES_MAX};
pub use record::{Area, RECORD_BYTES_MAX, RECORDS_LISTED_MAX, RecordName, RecordNameError};

use super::{Blobs, DocumentChange, DocumentError, Id, Kind};

/// The most objects and records of one transaction. An etcd server takes 128
/// operations by default (`--max-txn-ops`), and counts comparisons as well.
pub const TRANSACTION_MAX: usize = 120;

/// What a source has to say at one time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// What changed; everything there is, in the first batch.
    pub changes: Vec<DocumentChange>,
    /// Everything that is wrong now and is not of one object: files that
    /// cannot be read, folders that are not kinds.
    pub problems: Vec<DocumentError>,
    /// Which state of a remote store this is; none for a directory.
    pub stamp: Option<Stamp>,
}

/// Names a state of a remote store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// The id of the cluster.
    pub cluster: u64,
    /// The revision of the last change of an object.
    pub revision: u64,
    /// The same on every node that has the same objects of the same revisions.
    pub digest: u64,
    /// Whether it was kept on this node's disk and not read from the store.
    pub is_kept: bool,
}

/// What must be there for a write to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Anything or nothing.
    Any,
    /// Nothing.
    Absent,
    /// The document of this revision.
    Revision(u64),
}

/// One object to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// The kind.
    pub kind: Kind,
    /// The id.
    pub id: Id,
    /// Its fields; none deletes it.
    pub value: Option<Value>,
    /// What must be there.
    pub expect: Expect,
}

/// What is written together: everything, or nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Transaction {
    /// Objects, each named once.
    pub writes: Vec<Write>,
    /// Records that go with them, each named once; no bytes delete one.
    pub records: Vec<(RecordName, Option<Vec<u8>>)>,
}

/// Why a write was not made.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Something else is there than was expected.
    #[error("{0}/{1} was changed by someone else in the meantime")]
    Conflict(Kind, Id),
    /// There is nothing to delete.
    #[error("{0}/{1} does not exist")]
    NotFound(Kind, Id),
    /// An object is named twice in one transaction.
    #[error("{0}/{1} stands twice in one change")]
    Twice(Kind, Id),
    /// A transaction is too long.
    #[error("one change may write {TRANSACTION_MAX} objects and records, not {0}")]
    TooMany(usize),
    /// The object stands where this cannot write.
    #[error("{kind}/{id} stands in {file}, which is read only here: change it there")]
    ReadOnly {
        /// The kind.
        kind: Kind,
        /// The id.
        id: Id,
        /// The file.
        file: String,
    },
    /// The object cannot have this id in this store.
    #[error("an id that begins with '.' cannot be kept in a directory: {0:?}")]
    HiddenId(Id),
    /// The object is too large.
    #[error("{0}/{1} is larger than {2} bytes, the most this store keeps of one object")]
    TooLarge(Kind, Id, usize),
    /// A record is too large.
    #[error("{0} is larger than {RECORD_BYTES_MAX} bytes, the largest record")]
    RecordTooLarge(RecordName),
    /// The store failed.
    #[error("cannot write {file}: {cause}")]
    Io {
        /// The file.
        file: String,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// The store refused.
    #[error("the store refused: {0}")]
    Store(String),
    /// A transaction is too large.
    #[error("one change may hold {1} bytes, not {0}")]
    TooLargeTogether(usize, usize),
    /// The store cannot be reached.
    #[error("the store cannot be reached: {0}")]
    Unavailable(String),
    /// The store was asked and did not answer: the write may have been made.
    #[error("it is not known whether the store has taken the change: {0}")]
    Unknown(String),
    /// Too many writes wait.
    #[error("too many writes wait; try again")]
    Busy,
    /// The source has ended.
    #[error("the store is closed")]
    Closed,
}

/// Components that lie in a remote store, in pieces. To be asked on a thread
/// that may wait, within a runtime.
struct RemoteBlobs {
    writer: Writer,
}

impl std::fmt::Debug for RemoteBlobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteBlobs").finish_non_exhaustive()
    }
}

impl Blobs for RemoteBlobs {
    fn read(&self, digest: &super::Digest, max: usize) -> Result<Vec<u8>, String> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| error.to_string())?;
        let digest = digest.hex();
        let fetching = self.writer.component(&digest, max);
        runtime.block_on(fetching).map_err(|error| error.to_string())
    }
}

/// A source of documents.
#[derive(Debug)]
pub enum Source {
    /// A directory.
    Directory(DirectorySource),
    /// An etcd cluster.
    Etcd(EtcdSource),
}

impl Source {
    /// Waits for the next batch; `None` when the source has ended. Loses
    /// nothing when it is dropped while it waits.
    pub async fn next(&mut self) -> Option<Batch> {
        match self {
            Self::Directory(directory) => directory.next().await,
            Self::Etcd(etcd) => etcd.next().await,
        }
    }

    /// Where the bytes of its modules come from.
    pub fn blobs(&self) -> std::sync::Arc<dyn Blobs> {
        match self {
            Self::Directory(directory) => {
                std::sync::Arc::new(DirectoryBlobs::new(directory.root().to_owned()))
            }
            Self::Etcd(_) => std::sync::Arc::new(RemoteBlobs { writer: self.writer() }),
        }
    }

    /// The values that modules of all nodes share; a directory has none.
    pub fn values(&self) -> Option<SharedValues> {
        match self {
            Self::Directory(_) => None,
            Self::Etcd(etcd) => Some(etcd.values()),
        }
    }

    /// A handle to write with.
    pub fn writer(&self) -> Writer {
        match self {
            Self::Directory(directory) => Writer(Sink::Directory(directory.pending())),
            Self::Etcd(etcd) => Writer(Sink::Etcd(etcd.writer())),
        }
    }
}

/// Writes to a source; clones write to the same.
#[derive(Debug, Clone)]
pub struct Writer(Sink);

#[derive(Debug, Clone)]
enum Sink {
    Directory(std::sync::Arc<pending::Pending>),
    Etcd(etcd::EtcdWriter),
}

impl Writer {
    /// Writes an object, whole or not at all, and gives its new revision. The
    /// batch that tells the change is on its way when this returns.
    ///
    /// # Errors
    /// See [`WriteError`]; the store is as it was.
    pub async fn put(&self, kind: Kind, id: Id, value: Value, expect: Expect) -> Result<u64, WriteError> {
        self.one(Write { kind, id, value: Some(value), expect }).await
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// See [`WriteError`]; the store is as it was.
    pub async fn delete(&self, kind: Kind, id: Id, expect: Expect) -> Result<(), WriteError> {
        self.one(Write { kind, id, value: None, expect }).await.map(|_| ())
    }

    /// Writes several objects and records, all or none, and gives the new
    /// revisions of the objects in their order, 0 for a deletion. The change
    /// comes as one batch.
    ///
    /// A directory replaces one file after the other once all are written
    /// beside their places, and puts back what was there when one cannot be
    /// replaced; only a crash in between leaves a part.
    ///
    /// # Errors
    /// See [`WriteError`]; the store is as it was.
    pub async fn transact(&self, transaction: Transaction) -> Result<Vec<u64>, WriteError> {
        check(&transaction)?;
        match &self.0 {
            Sink::Directory(pending) => {
                pending.ask(|reply| pending::Request::Write(transaction, reply)).await?
            }
            Sink::Etcd(etcd) => etcd.transact(&transaction).await,
        }
    }

    /// A record's bytes; `None` when it is not there.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn record(&self, name: RecordName) -> Result<Option<Vec<u8>>, WriteError> {
        match &self.0 {
            Sink::Directory(pending) => pending.ask(|reply| pending::Request::Read(name, reply)).await?,
            Sink::Etcd(etcd) => etcd.record(&name).await,
        }
    }

    /// The names of an area's records that begin with `start`, in order, at
    /// most [`RECORDS_LISTED_MAX`], the first ones.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn records(&self, area: Area, start: &str) -> Result<Vec<RecordName>, WriteError> {
        match &self.0 {
            Sink::Directory(pending) => {
                pending.ask(|reply| pending::Request::List(area, start.to_owned(), reply)).await?
            }
            Sink::Etcd(etcd) => etcd.records(area, start).await,
        }
    }

    /// Has everything read again, whether it seems changed or not.
    pub fn reread(&self) {
        match &self.0 {
            Sink::Directory(pending) => pending.reread(),
            Sink::Etcd(etcd) => etcd.reread(),
        }
    }

    async fn one(&self, write: Write) -> Result<u64, WriteError> {
        let written = self.transact(Transaction { writes: vec![write], records: Vec::new() }).await?;
        Ok(written.first().copied().unwrap_or_default())
    }
}

/// What no store takes.
fn check(transaction: &Transaction) -> Result<(), WriteError> {
    let count = transaction.writes.len() + transaction.records.len();
    if count > TRANSACTION_MAX {
        return Err(WriteError::TooMany(count));
    }
    let mut seen = std::collections::HashSet::new();
    for write in &transaction.writes {
        if !seen.insert((write.kind, &write.id)) {
            return Err(WriteError::Twice(write.kind, write.id.clone()));
        }
    }
    for (name, bytes) in &transaction.records {
        if bytes.as_ref().is_some_and(|bytes| bytes.len() > RECORD_BYTES_MAX) {
            return Err(WriteError::RecordTooLarge(name.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
