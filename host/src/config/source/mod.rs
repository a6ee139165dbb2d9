//! Where documents come from, and how they are written back.
//!
//! A source tells what changed in batches: the first one is the whole
//! listing, the next ones are what is different since. What a batch costs is
//! in proportion to it. Start at [`Source::next`].

mod blobs;
mod directory;
mod files;
mod pending;
mod write;

use serde_json::Value;

pub use blobs::DirectoryBlobs;
pub use directory::DirectorySource;
pub use files::{FILES_MAX, Tree};
pub use pending::{PENDING_PATHS_MAX, PENDING_WRITES_MAX};

use super::{Blobs, DocumentChange, DocumentError, Id, Kind};

/// What a source has to say at one time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// What changed; everything there is, in the first batch.
    pub changes: Vec<DocumentChange>,
    /// Everything that is wrong now and is not of one object: files that
    /// cannot be read, folders that are not kinds.
    pub problems: Vec<DocumentError>,
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

/// Why a write was not made.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Something else is there than was expected.
    #[error("{0}/{1} was changed by someone else in the meantime")]
    Conflict(Kind, Id),
    /// There is nothing to delete.
    #[error("{0}/{1} does not exist")]
    NotFound(Kind, Id),
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
    #[error("{0}/{1} is larger than 16 MiB, the largest file")]
    TooLarge(Kind, Id),
    /// The store failed.
    #[error("cannot write {file}: {cause}")]
    Io {
        /// The file.
        file: String,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// Too many writes wait.
    #[error("too many writes wait; try again")]
    Busy,
    /// The source has ended.
    #[error("the store is closed")]
    Closed,
}

/// A source of documents.
#[derive(Debug)]
pub enum Source {
    /// A directory.
    Directory(DirectorySource),
}

impl Source {
    /// Waits for the next batch; `None` when the source has ended. Loses
    /// nothing when it is dropped while it waits.
    pub async fn next(&mut self) -> Option<Batch> {
        match self {
            Self::Directory(directory) => directory.next().await,
        }
    }

    /// Where the bytes of its modules come from.
    pub fn blobs(&self) -> std::sync::Arc<dyn Blobs> {
        match self {
            Self::Directory(directory) => {
                std::sync::Arc::new(DirectoryBlobs::new(directory.root().to_owned()))
            }
        }
    }

    /// A handle to write with.
    pub fn writer(&self) -> Writer {
        match self {
            Self::Directory(directory) => Writer(directory.pending()),
        }
    }
}

/// Writes to a source; clones write to the same.
#[derive(Debug, Clone)]
pub struct Writer(std::sync::Arc<pending::Pending>);

impl Writer {
    /// Writes an object, whole or not at all, and gives its new revision. The
    /// batch that tells the change is on its way when this returns.
    ///
    /// # Errors
    /// See [`WriteError`]; the store is as it was.
    pub async fn put(&self, kind: Kind, id: Id, value: Value, expect: Expect) -> Result<u64, WriteError> {
        self.ask(kind, id, Some(value), expect).await
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// See [`WriteError`]; the store is as it was.
    pub async fn delete(&self, kind: Kind, id: Id, expect: Expect) -> Result<(), WriteError> {
        self.ask(kind, id, None, expect).await.map(|_| ())
    }

    /// Has everything read again, whether it seems changed or not.
    pub fn reread(&self) {
        self.0.reread();
    }

    async fn ask(&self, kind: Kind, id: Id, value: Option<Value>, expect: Expect) -> Result<u64, WriteError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.0.push_write(pending::WriteRequest { key: (kind, id), value, expect, reply })?;
        answer.await.map_err(|_| WriteError::Closed)?
    }
}

#[cfg(test)]
mod tests;
