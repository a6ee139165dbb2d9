//! Compiled code on the disk, so that a restart does not compile again.
//!
//! A file is named by the component's digest and lies in a folder named by what
//! the code was compiled by and for; another engine, another folder. Whatever
//! is wrong with a file makes it a miss. The folder is this node's alone: who
//! could write to it could make the host run any code, so one that others may
//! write to is not used.

use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use wasmtime::component::Component;

use crate::config::Digest;

/// The most files kept; the oldest go first.
const FILES_MAX: usize = 256;

pub(super) struct CodeCache {
    folder: PathBuf,
}

impl CodeCache {
    /// The cache below `root` for what `engine` compiles.
    pub(super) fn new(root: &Path, engine: &wasmtime::Engine) -> Self {
        let mut hasher = std::hash::DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Self { folder: root.join(format!("{:016x}", hasher.finish())) }
    }

    /// The compiled component, if it is there and sound.
    pub(super) fn read(&self, digest: &Digest, engine: &wasmtime::Engine) -> Option<Component> {
        let path = self.path(digest);
        if !path.is_file() || !is_ours(&self.folder) {
            return None;
        }
        match load(engine, &path) {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(file = %path.display(), error = %format_args!("{error:#}"), "compiled code is not usable; compiling again");
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Keeps a compiled component. Not being able to is worth a warning only.
    pub(super) fn write(&self, digest: &Digest, component: &Component) {
        let written = component.serialize().map_err(std::io::Error::other).and_then(|bytes| {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            if !is_ours(&self.folder) {
                return Err(std::io::Error::other("others may write to the folder"));
            }
            let path = self.path(digest);
            let new = path.with_extension(format!("{}.new", std::process::id()));
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)
        });
        if let Err(error) = written {
            tracing::warn!(folder = %self.folder.display(), %error, "compiled code cannot be kept");
        }
        self.tidy();
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{}.code", digest.hex()))
    }

    fn tidy(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let mut files: Vec<_> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
            })
            .collect();
        files.sort();
        for (_, path) in files.iter().take(files.len().saturating_sub(FILES_MAX)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether only this user may write to a folder.
fn is_ours(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|metadata| {
        metadata.mode() & 0o022 == 0 && metadata.uid() == rustix::process::geteuid().as_raw()
    })
}

/// Maps a file of compiled code.
#[allow(unsafe_code)]
fn load(engine: &wasmtime::Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the file was written by `CodeCache::write` into a folder that only
    // this user may write to, and is never changed in place, only renamed over.
    unsafe { Component::deserialize_file(engine, path) }
}
