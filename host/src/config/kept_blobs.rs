//! The bytes of modules that came from a remote store, kept on this node's disk:
//! it starts with its modules when the store is gone, and does not fetch twice.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Blobs, Digest};

/// Bytes that are kept at most; those that were not used for longest go first.
pub const KEPT_BYTES_MAX: u64 = 1 << 30;

/// Bytes by digest, from a folder, and from another place what is not there.
pub struct KeptBlobs {
    store: Arc<dyn Blobs>,
    folder: PathBuf,
    bytes_max: u64,
}

impl KeptBlobs {
    /// Keeps what comes from `store` in `folder`, of at most [`KEPT_BYTES_MAX`] together.
    #[must_use]
    pub fn new(store: Arc<dyn Blobs>, folder: PathBuf) -> Self {
        Self { store, folder, bytes_max: KEPT_BYTES_MAX }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("sha256-{}.wasm", digest.hex()))
    }

    /// What is kept, if it is what its name says.
    fn kept(&self, digest: &Digest, max: usize) -> Option<Vec<u8>> {
        let path = self.path(digest);
        let file = fs::File::options().read(true).write(true).open(&path).ok()?;
        if file.metadata().ok()?.len() > max as u64 {
            return None;
        }
        let bytes = fs::read(&path).ok()?;
        if Digest::of(&bytes) != *digest {
            tracing::warn!(file = %path.display(), "a kept component is damaged; it is fetched again");
            return None;
        }
        // The time of its last use, by which the oldest are found.
        let _ = file.set_modified(SystemTime::now());
        Some(bytes)
    }

    fn keep(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let path = self.path(digest);
        let new = path.with_extension("new");
        let mut file = fs::File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        self.prune()
    }

    /// Takes away the oldest until the rest is within its limit.
    fn prune(&self) -> io::Result<()> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_file() {
                all.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        all.sort();
        let mut together: u64 = all.iter().map(|(_, bytes, _)| bytes).sum();
        // The newest stays, however large.
        all.pop();
        for (_, bytes, path) in all {
            if together <= self.bytes_max {
                break;
            }
            fs::remove_file(path)?;
            together -= bytes;
        }
        Ok(())
    }
}

impl Blobs for KeptBlobs {
    fn read(&self, digest: &Digest, max: usize) -> Result<Vec<u8>, String> {
        if let Some(bytes) = self.kept(digest, max) {
            return Ok(bytes);
        }
        let bytes = self.store.read(digest, max)?;
        if let Err(error) = self.keep(digest, &bytes) {
            tracing::warn!(folder = %self.folder.display(), %error, "a component cannot be kept");
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Far(AtomicUsize);

    impl Blobs for Far {
        fn read(&self, digest: &Digest, _: usize) -> Result<Vec<u8>, String> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let all = [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()];
            all.into_iter()
                .find(|bytes| Digest::of(bytes) == *digest)
                .ok_or_else(|| "is not there".to_owned())
        }
    }

    #[test]
    fn bytes_are_fetched_once_and_again_when_they_are_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let far = Arc::new(Far::default());
        let kept = KeptBlobs::new(Arc::clone(&far) as _, folder.path().join("components"));
        let one = Digest::of(b"one");
        for _ in 0..3 {
            assert_eq!(kept.read(&one, 100).unwrap(), b"one");
        }
        assert_eq!(far.0.load(Ordering::Relaxed), 1);
        fs::write(kept.path(&one), "other").unwrap();
        assert_eq!(kept.read(&one, 100).unwrap(), b"one");
        assert_eq!(far.0.load(Ordering::Relaxed), 2);
        assert_eq!(kept.read(&Digest::of(b"none"), 100).unwrap_err(), "is not there");
    }

    #[test]
    fn the_oldest_go_when_there_is_too_much() {
        let folder = tempfile::tempdir().unwrap();
        let mut kept = KeptBlobs::new(Arc::new(Far::default()), folder.path().to_owned());
        kept.bytes_max = 8;
        let digests = [b"one".as_slice(), b"two", b"three"].map(Digest::of);
        for (age, digest) in [(20, digests[0]), (10, digests[1])] {
            kept.read(&digest, 100).unwrap();
            let file = fs::File::options().write(true).open(kept.path(&digest)).unwrap();
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
        }
        kept.read(&digests[2], 100).unwrap();
        let there = digests.map(|digest| kept.path(&digest).exists());
        assert_eq!(there, [false, true, true]);
    }
}
