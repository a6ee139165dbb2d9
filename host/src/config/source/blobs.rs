//! The bytes of modules in a configuration directory.
//!
//! `DIR/blobs/sha256-<digits>.wasm` is looked at first, then what lies in
//! `DIR/modules/`, then what was sent in pieces over the Admin API. Whatever its
//! name, a file is what its digest says.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::write::read_record;
use crate::config::{Blobs, Digest, blob};

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
        match self.pieces(digest, max) {
            Ok(Some(bytes)) => return Ok(bytes),
            Ok(None) => {}
            Err(error) => found = Some(error),
        }
        Err(found.unwrap_or_else(|| format!("no file in {} has the digest {digest}", modules.display())))
    }
}

impl DirectoryBlobs {
    /// What was sent in pieces; nothing where the first is not there.
    fn pieces(&self, digest: &Digest, max: usize) -> Result<Option<Vec<u8>>, String> {
        let hex = digest.hex();
        let read = |number: u32| {
            let name = blob::piece_name(&hex, number)?;
            read_record(&self.root, &name).ok().flatten()
        };
        let Some(first) = read(0) else { return Ok(None) };
        let told = |error: blob::BlobError| format!("{digest}: {error}");
        let count = blob::count_of(&first).map_err(told)?;
        let rest = (1..count).map_while(read);
        let pieces: Vec<Vec<u8>> = std::iter::once(first).chain(rest).collect();
        blob::join(&pieces, &hex, max).map(Some).map_err(told)
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
    fn what_was_sent_in_pieces_is_found_once_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = DirectoryBlobs::new(folder.path().to_owned());
        // Bytes that do not compress, for two pieces.
        let mut state = 7_u32;
        let bytes = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        let component: Vec<u8> = bytes.take(blob::PIECE_BYTES_MAX).collect();
        let digest = Digest::of(&component);
        let pieces = blob::split(&component).unwrap();
        assert_eq!(pieces.len(), 2);
        let place = folder.path().join(format!(".sluice/blobs/sha256-{}", digest.hex()));
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("0"), &pieces[0]).unwrap();
        let max = component.len();
        assert!(blobs.read(&digest, max).unwrap_err().ends_with("piece 1 of 2 is missing"));
        fs::write(place.join("1"), &pieces[1]).unwrap();
        assert_eq!(blobs.read(&digest, max).unwrap(), component);
        assert!(blobs.read(&digest, max - 1).unwrap_err().contains("over the limit"));
    }

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
