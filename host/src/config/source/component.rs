//! Components in a store: sent in pieces, what is there is not sent again.

use super::{RecordName, Transaction, WriteError, Writer};
use crate::config::Digest;
use crate::config::blob::{self, BlobError};

/// What came of sending a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Its SHA-256, in hexadecimal.
    pub digest: String,
    /// How many pieces it has.
    pub pieces: usize,
    /// How many of them were sent; the others were there.
    pub sent: usize,
}

/// Why a component could not be sent or fetched.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// The pieces are not a component.
    #[error("component sha256:{digest}: {cause}")]
    Blob {
        /// Its digest.
        digest: String,
        /// What is wrong.
        #[source]
        cause: BlobError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] WriteError),
    /// What was asked for is not a digest.
    #[error("{0:?} is not a SHA-256 of 64 hexadecimal digits")]
    NotADigest(String),
}

impl Writer {
    /// Sends a component's pieces. Nothing names it yet afterwards: the module
    /// object that is written next does. Tells after each piece how many are there.
    ///
    /// # Errors
    /// The component is too large, or the store failed; what was sent stays
    /// and is not sent again the next time.
    pub async fn push_component(
        &self,
        component: &[u8],
        progress: &mut (dyn FnMut(usize, usize) + Send),
    ) -> Result<Pushed, ComponentError> {
        let digest = Digest::of(component).hex();
        let fault = |cause| ComponentError::Blob { digest: digest.clone(), cause };
        let pieces = blob::split(component).map_err(fault)?;
        let (count, mut sent) = (pieces.len(), 0);
        for (number, piece) in pieces.into_iter().enumerate() {
            let name = name_of(&digest, number as u32)?;
            if self.record(name.clone()).await?.as_deref() != Some(&*piece) {
                let records = vec![(name, Some(piece))];
                self.transact(Transaction { writes: Vec::new(), records }).await?;
                sent += 1;
            }
            progress(number + 1, count);
        }
        Ok(Pushed { digest, pieces: count, sent })
    }

    /// A component by its digest in hexadecimal, checked, of at most `max` bytes.
    ///
    /// # Errors
    /// Which piece is missing, swapped, mixed or damaged; or the store failed.
    pub async fn component(&self, digest: &str, max: usize) -> Result<Vec<u8>, ComponentError> {
        let fault = |cause| ComponentError::Blob { digest: digest.to_owned(), cause };
        let first = self.record(name_of(digest, 0)?).await?.ok_or_else(|| fault(BlobError::Absent))?;
        let count = blob::count_of(&first).map_err(fault)?;
        let mut pieces = vec![first];
        for missing in 1..count {
            let piece = self.record(name_of(digest, missing)?).await?;
            pieces.push(piece.ok_or_else(|| fault(BlobError::Missing { missing, count }))?);
        }
        blob::join(&pieces, digest, max).map_err(fault)
    }
}

fn name_of(digest: &str, number: u32) -> Result<RecordName, ComponentError> {
    blob::piece_name(digest, number).ok_or_else(|| ComponentError::NotADigest(digest.to_owned()))
}
