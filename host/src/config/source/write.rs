//! Writing one object file, whole or not at all.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::files::{Care, Tree};
use super::{Expect, WriteError};
use crate::config::document::{self, Format};
use crate::config::{FILE_BYTES_MAX, Key, Kind};

/// The mode of a new file: objects hold keys.
const MODE: u32 = 0o600;

/// Carries out a write, and has the tree read the file. Gives the new revision; 0 for a deletion.
pub(super) fn carry_out(
    tree: &mut Tree,
    key: &Key,
    value: Option<&Value>,
    expect: Expect,
) -> Result<u64, WriteError> {
    let (kind, id) = (key.0, &key.1);
    if id.starts_with('.') {
        return Err(WriteError::HiddenId(id.clone()));
    }
    let path = place(tree, key)?;
    // Compared with what is on the disk, not with what was heard of it.
    tree.look(&path, Care::Always);
    let there = fs::read(&path).ok().map(|bytes| document::revision_of(&bytes));
    let as_expected = match expect {
        Expect::Any => true,
        Expect::Absent => there.is_none(),
        Expect::Revision(revision) => there == Some(revision),
    };
    if !as_expected {
        return Err(WriteError::Conflict(kind, id.clone()));
    }
    let failed = |cause| WriteError::Io { file: path.display().to_string(), cause };
    let revision = match value {
        None if kind == Kind::Modules => {
            // Bytes left behind would be a module again.
            let bytes = path.with_extension("wasm");
            if there.is_none() && !bytes.is_file() {
                return Err(WriteError::NotFound(kind, id.clone()));
            }
            for file in [&path, &bytes] {
                match fs::remove_file(file) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                    _ => {}
                }
            }
            sync_folder(&path).map_err(failed)?;
            tree.look(&bytes, Care::Always);
            0
        }
        None if there.is_none() => return Err(WriteError::NotFound(kind, id.clone())),
        None => {
            fs::remove_file(&path).and_then(|()| sync_folder(&path)).map_err(failed)?;
            0
        }
        Some(value) => {
            let text = text_of(value, Format::of(&path).unwrap_or(Format::Json));
            if text.len() > FILE_BYTES_MAX {
                return Err(WriteError::TooLarge(kind, id.clone()));
            }
            replace(&path, text.as_bytes()).map_err(failed)?;
            document::revision_of(text.as_bytes())
        }
    };
    tree.look(&path, Care::Always);
    Ok(revision)
}

/// The file an object stands in, or would.
fn place(tree: &Tree, key: &Key) -> Result<PathBuf, WriteError> {
    let folder = tree.root().join(key.0.name());
    let read_only = |path: &Path| WriteError::ReadOnly {
        kind: key.0,
        id: key.1.clone(),
        file: path.display().to_string(),
    };
    let mut own = None;
    // The bytes of a module are no object.
    for path in tree.files_of(key).filter(|path| Format::of(path).is_some()) {
        if path.parent() != Some(&folder) {
            return Err(read_only(path));
        }
        own.get_or_insert_with(|| path.clone());
    }
    Ok(own.unwrap_or_else(|| folder.join(format!("{}.yaml", key.1))))
}

/// A value as text that reads back as the same value.
fn text_of(value: &Value, format: Format) -> String {
    let json = || serde_json::to_string_pretty(value).map(|text| text + "\n").unwrap_or_default();
    if format == Format::Json {
        return json();
    }
    let yaml = serde_saphyr::to_string(value).unwrap_or_default();
    // JSON is YAML too, where the writer's YAML would mean something else.
    match document::parse_value(yaml.as_bytes(), Format::Yaml) {
        Ok(back) if back == *value => yaml,
        _ => json(),
    }
}

/// Puts a file in the place of another in one step that survives a crash.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::other("the file has no folder"))?;
    fs::create_dir_all(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = folder.join(format!(".{name}.{}.new", std::process::id()));
    let mode = fs::metadata(path).map_or(MODE, |metadata| metadata.permissions().mode() & 0o777);
    let written = (|| {
        // What a crashed process of the same number left is ours to replace.
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written.and_then(|()| sync_folder(path))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
