//! The bytes of modules in a configuration directory.
//!
//! `DIR/blobs/sha256-<digits>.wasm` is looked at first, then what lies in
//! `DIR/modules/`. Whatever its name, a file is what its digest says.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::config::{Blobs, Digest};

/// Bytes by digest, from a directory.
#[derive(Debug)]
pub struct DirectoryBlobs {
    root: PathBuf,
}

impl DirectoryBlobs {
    /// The bytes below a configuration directory.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where bytes of this digest are put by whoever pushes them.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(format!("sha256-{}.wasm", digest.hex()))
    }
}

impl Blobs for DirectoryBlobs {
    fn read(&self, digest: &Digest, max: usize) -> Result<Vec<u8>, String> {
        let pushed = self.path(digest);
        let modules = self.root.join("modules");
        let beside = fs::read_dir(&modules).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut found = None;
        for path in std::iter::once(pushed).chain(beside.filter(|path| is_component(path))) {
            match read_at_most(&path, max) {
                Ok(bytes) if Digest::of(&bytes) == *digest => return Ok(bytes),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => found = Some(format!("{}: {error}", path.display())),
            }
        }
        Err(found.unwrap_or_else(|| format!("no file in {} has the digest {digest}", modules.display())))
    }
}

/// Whether a file is a component by its name.
pub(super) fn is_component(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "wasm")
        && path.file_name().and_then(|name| name.to_str()).is_some_and(|name| !name.starts_with('.'))
}

fn read_at_most(path: &Path, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > max {
        return Err(io::Error::other(format!("is larger than {max} bytes, the most a component may have")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_found_by_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = DirectoryBlobs::new(folder.path().to_owned());
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        assert!(blobs.read(&one, 10).unwrap_err().contains("no file in"));
        for (path, text) in [
            (blobs.path(&one), "other bytes under its name"),
            (folder.path().join("modules/x.wasm"), "one"),
            (blobs.path(&two), "two"),
        ] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(blobs.read(&one, 100).unwrap(), b"one");
        assert_eq!(blobs.read(&two, 100).unwrap(), b"two");
        assert!(blobs.read(&two, 2).unwrap_err().contains("larger than 2 bytes"));
    }
}
