//! Writing object files and records, all of a transaction or none of it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::files::{Care, Tree};
use super::{Area, Expect, RECORD_BYTES_MAX, RECORDS_LISTED_MAX, RecordName, Transaction, Write, WriteError};
use crate::config::document::{self, Format};
use crate::config::{FILE_BYTES_MAX, Key, Kind};

/// The mode of a new file: objects hold keys.
const MODE: u32 = 0o600;
/// The folder of the records; hidden, so that it is not read as objects.
const RECORDS: &str = ".sluice";

/// One file to be replaced or removed.
struct Step {
    path: PathBuf,
    /// What is there now.
    old: Option<Vec<u8>>,
    /// What is to be there.
    new: Option<Vec<u8>>,
    /// The new bytes, beside their place.
    staged: Option<PathBuf>,
}

/// Carries out a transaction, and has the tree read the files. Gives the new
/// revisions of the objects; 0 for a deletion.
pub(super) fn carry_out(tree: &mut Tree, transaction: &Transaction) -> Result<Vec<u64>, WriteError> {
    let mut steps = Vec::new();
    for write in &transaction.writes {
        steps.push(plan(tree, write)?);
    }
    // Bytes of a deleted module that were left behind would be a module again.
    for at in 0..transaction.writes.len() {
        let write = &transaction.writes[at];
        if write.kind == Kind::Modules && write.value.is_none() {
            let path = steps[at].path.with_extension("wasm");
            let old = fs::read(&path).ok();
            steps.push(Step { path, old, new: None, staged: None });
        }
    }
    let in_tree = steps.len();
    for (name, bytes) in &transaction.records {
        let path = record_path(tree.root(), name);
        let old = fs::read(&path).ok();
        steps.push(Step { path, old, new: bytes.clone(), staged: None });
    }
    let done = stage(&mut steps).and_then(|()| commit(&steps));
    for step in &steps {
        if let Some(staged) = &step.staged {
            // Renamed away, unless something failed.
            let _ = fs::remove_file(staged);
        }
    }
    let objects = &steps[..transaction.writes.len()];
    for step in &steps[..in_tree] {
        tree.look(&step.path, Care::Always);
    }
    done?;
    Ok(objects.iter().map(|step| step.new.as_deref().map_or(0, document::revision_of)).collect())
}

/// Decides which file a write is of, and whether it may be made.
fn plan(tree: &mut Tree, write: &Write) -> Result<Step, WriteError> {
    let (kind, id) = (write.kind, &write.id);
    if id.starts_with('.') {
        return Err(WriteError::HiddenId(id.clone()));
    }
    let path = place(tree, &(kind, id.clone()))?;
    // Compared with what is on the disk, not with what was heard of it.
    tree.look(&path, Care::Always);
    let old = fs::read(&path).ok();
    let as_expected = match write.expect {
        Expect::Any => true,
        Expect::Absent => old.is_none(),
        Expect::Revision(revision) => old.as_deref().map(document::revision_of) == Some(revision),
    };
    if !as_expected {
        return Err(WriteError::Conflict(kind, id.clone()));
    }
    let new = match &write.value {
        None if old.is_none() && !has_bytes(kind, &path) => {
            return Err(WriteError::NotFound(kind, id.clone()));
        }
        None => None,
        Some(value) => Some(text_of(value, Format::of(&path).unwrap_or(Format::Json)).into_bytes()),
    };
    if new.as_ref().is_some_and(|new| new.len() > FILE_BYTES_MAX) {
        return Err(WriteError::TooLarge(kind, id.clone(), FILE_BYTES_MAX));
    }
    Ok(Step { path, old, new, staged: None })
}

/// Whether a module is there by its bytes alone.
fn has_bytes(kind: Kind, path: &Path) -> bool {
    kind == Kind::Modules && path.with_extension("wasm").is_file()
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
    match format {
        Format::Yaml => document::to_yaml(value),
        Format::Json => serde_json::to_string_pretty(value).map(|text| text + "\n").unwrap_or_default(),
    }
}

/// Writes all new bytes beside their places: what can fail for want of space
/// or permission fails here.
fn stage(steps: &mut [Step]) -> Result<(), WriteError> {
    for step in steps {
        let Some(new) = &step.new else { continue };
        let staged = beside(&step.path);
        step.staged = Some(staged.clone());
        write_beside(&step.path, &staged, new).map_err(|cause| failed(&step.path, cause))?;
    }
    Ok(())
}

/// Moves everything to its place; puts back what was there when one cannot be moved.
fn commit(steps: &[Step]) -> Result<(), WriteError> {
    for (done, step) in steps.iter().enumerate() {
        let moved = match &step.staged {
            Some(staged) => fs::rename(staged, &step.path),
            None if step.old.is_none() => Ok(()),
            None => fs::remove_file(&step.path),
        };
        if let Err(cause) = moved.and_then(|()| sync_folder(&step.path)) {
            for step in &steps[..=done] {
                restore(step);
            }
            return Err(failed(&step.path, cause));
        }
    }
    Ok(())
}

fn restore(step: &Step) {
    let staged = beside(&step.path);
    let restored = match &step.old {
        Some(old) => write_beside(&step.path, &staged, old).and_then(|()| fs::rename(&staged, &step.path)),
        None => match fs::remove_file(&step.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    };
    if let Err(error) = restored {
        tracing::error!(file = %step.path.display(), %error, "a part of a change that failed could not be taken back");
    }
}

fn failed(path: &Path, cause: io::Error) -> WriteError {
    WriteError::Io { file: path.display().to_string(), cause }
}

/// Where the bytes of a file are written before they take its place. What a
/// crashed process of the same number left there is ours to replace.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.new", std::process::id()))
}

/// Writes bytes so that they survive a crash, with the mode of the file they
/// are to replace.
fn write_beside(path: &Path, new: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(path.parent().ok_or_else(|| io::Error::other("the file has no folder"))?)?;
    let mode = fs::metadata(path).map_or(MODE, |metadata| metadata.permissions().mode() & 0o777);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(new)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn record_path(root: &Path, name: &RecordName) -> PathBuf {
    root.join(RECORDS).join(name.area().name()).join(name.name())
}

/// A record's bytes.
pub(super) fn read_record(root: &Path, name: &RecordName) -> Result<Option<Vec<u8>>, WriteError> {
    let path = record_path(root, name);
    match fs::metadata(&path) {
        Ok(metadata) if metadata.len() > RECORD_BYTES_MAX as u64 => {
            Err(WriteError::RecordTooLarge(name.clone()))
        }
        _ => match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(failed(&path, cause)),
        },
    }
}

/// The names of records that begin with `start`, in order.
pub(super) fn list_records(root: &Path, area: Area, start: &str) -> Result<Vec<RecordName>, WriteError> {
    let top = root.join(RECORDS).join(area.name());
    let mut names = Vec::new();
    let mut folders = vec![top.clone()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(cause) => return Err(failed(&folder, cause)),
        };
        for entry in entries {
            let path = entry.map_err(|cause| failed(&folder, cause))?.path();
            let inside = path.strip_prefix(&top).unwrap_or(&path).to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(name) = RecordName::new(area, &inside)
                && inside.starts_with(start)
            {
                names.push(name);
            }
        }
    }
    names.sort();
    names.truncate(RECORDS_LISTED_MAX);
    Ok(names)
}
