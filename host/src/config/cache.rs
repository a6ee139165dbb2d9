//! The last good state of a remote store, kept on this node's disk.
//!
//! One file: a line with the format's version, a SHA-256 and a length, then
//! JSON of that length. It is written beside its place and renamed, so there
//! is always a whole one; what is damaged is told and not used. A state is
//! used only for the prefix that it was kept of.
//!
//! Start at [`Keeper`], which writes, and [`load`], which reads.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::seal::{self, Sealer};
use super::source::{KeptState, Stamp, key_of};
use super::{Digest, Document, Id, Key, Kind, Origin};

/// The first word of the file, and the version of its format.
const MAGIC: &str = "sluice-state";
const VERSION: u32 = 1;
/// The largest state, in bytes.
pub const STATE_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// The shortest time between two writes: a burst of changes is kept once.
const WRITE_INTERVAL: Duration = Duration::from_millis(500);
/// The file holds keys.
const MODE: u32 = 0o600;

/// Why a kept state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The file cannot be read or written.
    #[error("{}: {cause}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The file is not what was written.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// What is kept, in JSON.
#[derive(Serialize, Deserialize)]
struct State {
    prefix: String,
    /// In hexadecimal: JSON numbers do not reach so far.
    cluster: String,
    revision: u64,
    /// Seconds since 1970.
    kept_at: u64,
    objects: Vec<Kept>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    kind: String,
    id: Id,
    revision: u64,
    /// States of earlier versions do not have it.
    #[serde(default)]
    created: u64,
    value: Box<RawValue>,
}

/// Reads the state that was kept of `prefix`; none when none was, or one of
/// another prefix.
///
/// # Errors
/// The file is there and cannot be used.
pub fn load(path: &Path, prefix: &str, sealer: Option<&Sealer>) -> Result<Option<KeptState>, CacheError> {
    let damaged = |reason: String| CacheError::Damaged { path: path.to_owned(), reason };
    let bytes = match fs::metadata(path) {
        Ok(metadata) if metadata.len() > STATE_BYTES_MAX as u64 => {
            return Err(damaged(format!("is larger than {STATE_BYTES_MAX} bytes")));
        }
        Ok(_) => fs::read(path).map_err(|cause| CacheError::Io { path: path.to_owned(), cause })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(CacheError::Io { path: path.to_owned(), cause }),
    };
    let body = checked(&bytes).map_err(damaged)?;
    let state: State = serde_json::from_slice(body).map_err(|error| damaged(error.to_string()))?;
    if state.prefix != prefix {
        return Ok(None);
    }
    let documents = state.objects.iter().filter_map(|kept| document_of(kept, prefix, sealer)).collect();
    Ok(Some(KeptState {
        cluster: u64::from_str_radix(&state.cluster, 16).unwrap_or_default(),
        revision: state.revision,
        at: SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(state.kept_at)),
        documents,
    }))
}

/// An object as it was kept; none for a kind that this version does not know,
/// and for one whose keys cannot be opened any more, which is told.
fn document_of(kept: &Kept, prefix: &str, sealer: Option<&Sealer>) -> Option<Document> {
    let kind = Kind::from_name(&kept.kind).ok()?;
    let mut value: Value = serde_json::from_str(kept.value.get()).ok()?;
    if let Err(problems) = seal::open(sealer, kind, &kept.id, &mut value) {
        for problem in problems {
            tracing::warn!(object = %format_args!("{kind}/{}", kept.id), %problem, "a kept object cannot be used");
        }
        return None;
    }
    let origin = Origin::file(Path::new(&format!("{prefix}/{}", key_of(kind, &kept.id))));
    let (revision, created) = (kept.revision, kept.created);
    Some(Document { kind, id: kept.id.clone(), value, origin, revision, created })
}

/// The body of a file, when it is whole.
fn checked(bytes: &[u8]) -> Result<&[u8], String> {
    let end = bytes.iter().take(200).position(|byte| *byte == b'\n').ok_or("has no first line")?;
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| "has no first line")?;
    let body = &bytes[end + 1..];
    match line.split(' ').collect::<Vec<_>>()[..] {
        [MAGIC, version, digest, length] => {
            if version.parse() != Ok(VERSION) {
                return Err(format!("is of version {version}, not {VERSION}"));
            }
            if length.parse() != Ok(body.len()) {
                return Err(format!("holds {} bytes, not {length}", body.len()));
            }
            if digest != Digest::of(body).hex() {
                return Err("is not what was written: its SHA-256 is another".to_owned());
            }
            Ok(body)
        }
        _ => Err(format!("does not begin with {MAGIC}")),
    }
}

/// An object and the document of it that is in force; none when it is gone.
pub type GoodDocument = (Key, Option<Arc<Document>>);

/// A state to be kept.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The cluster it came from.
    pub cluster: u64,
    /// The revision it is of.
    pub revision: u64,
    /// The objects in force.
    pub documents: Vec<Arc<Document>>,
}

/// Writes a state in one step that survives a crash.
///
/// # Errors
/// The file cannot be written; the one before stays.
pub fn save(
    path: &Path,
    prefix: &str,
    snapshot: &Snapshot,
    sealer: Option<&Sealer>,
) -> Result<(), CacheError> {
    let failed = |cause| CacheError::Io { path: path.to_owned(), cause };
    let objects: Vec<Kept> =
        snapshot.documents.iter().filter_map(|document| kept_of(document, sealer)).collect();
    let state = State {
        prefix: prefix.to_owned(),
        cluster: format!("{:x}", snapshot.cluster),
        revision: snapshot.revision,
        kept_at: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
        objects,
    };
    let body = serde_json::to_vec(&state).map_err(|error| failed(io::Error::other(error)))?;
    let head = format!("{MAGIC} {VERSION} {} {}\n", Digest::of(&body).hex(), body.len());
    let folder = path.parent().unwrap_or(Path::new("."));
    let new = path.with_extension("new");
    let write = || {
        fs::create_dir_all(folder)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&new)?;
        file.write_all(head.as_bytes())?;
        file.write_all(&body)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(failed)
}

fn kept_of(document: &Document, sealer: Option<&Sealer>) -> Option<Kept> {
    let text = match sealer {
        None => document.value.to_string(),
        Some(sealer) => {
            let mut value = document.value.clone();
            sealer.seal(document.kind, &document.id, &mut value);
            value.to_string()
        }
    };
    let value = RawValue::from_string(text).ok()?;
    Some(Kept {
        kind: document.kind.to_string(),
        id: document.id.clone(),
        revision: document.revision,
        created: document.created,
        value,
    })
}

/// Keeps the newest state that it is given, on a thread of its own: what was
/// not written yet when a newer one comes is never written.
#[derive(Debug)]
pub struct Keeper {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Desk {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    documents: HashMap<Key, Arc<Document>>,
    /// The state that is not written yet.
    due: Option<Stamp>,
    closed: bool,
}

impl Waiting {
    fn take(&mut self) -> Option<Snapshot> {
        let stamp = self.due.take()?;
        let documents = self.documents.values().cloned().collect();
        Some(Snapshot { cluster: stamp.cluster, revision: stamp.revision, documents })
    }
}

impl Keeper {
    /// Starts to keep the states of `prefix` in `path`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(path: PathBuf, prefix: String, sealer: Option<Arc<Sealer>>) -> io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let shared = desk.clone();
        let thread = std::thread::Builder::new()
            .name("config-cache".to_owned())
            .spawn(move || shared.write_until_closed(&path, &prefix, sealer.as_deref()))?;
        Ok(Self { desk, thread: Some(thread) })
    }

    /// Has the state with these changes kept; what was read from the disk is
    /// not written again.
    pub fn keep(&self, stamp: Stamp, changes: Vec<GoodDocument>) {
        let mut state = self.desk.state.lock();
        for (key, document) in changes {
            match document {
                Some(document) => state.documents.insert(key, document),
                None => state.documents.remove(&key),
            };
        }
        if !stamp.is_kept {
            state.due = Some(stamp);
            self.desk.changed.notify_one();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.desk.state.lock().closed = true;
        self.desk.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Desk {
    fn write_until_closed(&self, path: &Path, prefix: &str, sealer: Option<&Sealer>) {
        let mut state = self.state.lock();
        loop {
            match state.take() {
                Some(snapshot) => {
                    drop(state);
                    let begun = Instant::now();
                    match save(path, prefix, &snapshot, sealer) {
                        Ok(()) => tracing::debug!(
                            revision = snapshot.revision,
                            objects = snapshot.documents.len(),
                            "the state is kept"
                        ),
                        Err(error) => tracing::warn!(%error, "the state cannot be kept"),
                    }
                    state = self.state.lock();
                    if !state.closed {
                        // A large state is written less often.
                        let pause = WRITE_INTERVAL.max(begun.elapsed() * 10);
                        let until = Instant::now() + pause;
                        while !state.closed && !self.changed.wait_until(&mut state, until).timed_out() {}
                    }
                }
                None if state.closed => return,
                None => self.changed.wait(&mut state),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(revision: u64, count: usize) -> Snapshot {
        let documents = (0..count)
            .map(|number| {
                Arc::new(Document {
                    kind: Kind::Routes,
                    id: Id::new(&format!("r{number}")).unwrap(),
                    value: serde_json::json!({"uri": format!("/{number}"), "priority": 3}),
                    origin: Origin::file(Path::new(&format!("/sluice/routes/r{number}"))),
                    revision: number as u64 + 1,
                    created: 1,
                })
            })
            .collect();
        Snapshot { cluster: u64::MAX, revision, documents }
    }

    #[test]
    fn a_state_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache/etcd-state");
        assert!(load(&path, "/sluice", None).unwrap().is_none());
        let kept = snapshot(77, 3);
        save(&path, "/sluice", &kept, None).unwrap();
        let back = load(&path, "/sluice", None).unwrap().unwrap();
        assert_eq!((back.cluster, back.revision), (u64::MAX, 77));
        let documents: Vec<Document> = kept.documents.iter().map(|document| (**document).clone()).collect();
        assert_eq!(back.documents, documents);
        assert!(load(&path, "/other", None).unwrap().is_none(), "kept of another prefix");
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, MODE);
    }

    #[test]
    fn private_keys_are_kept_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("etcd-state");
        let sealer = Sealer::new(&[("k".to_owned(), "1f".repeat(32).into_bytes())]).unwrap();
        let key = "-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\n";
        let document = Document {
            kind: Kind::Ssls,
            id: Id::new("s").unwrap(),
            value: serde_json::json!({"key": key}),
            origin: Origin::file(Path::new("/sluice/ssls/s")),
            revision: 9,
            created: 9,
        };
        let kept = Snapshot { cluster: 1, revision: 9, documents: vec![Arc::new(document.clone())] };
        save(&path, "/sluice", &kept, Some(&sealer)).unwrap();
        assert!(!fs::read_to_string(&path).unwrap().contains("MIGH"));
        assert_eq!(load(&path, "/sluice", Some(&sealer)).unwrap().unwrap().documents, [document]);
        assert!(load(&path, "/sluice", None).unwrap().unwrap().documents.is_empty());
    }

    #[test]
    fn a_damaged_state_is_refused_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("etcd-state");
        save(&path, "/sluice", &snapshot(1, 5), None).unwrap();
        let good = fs::read(&path).unwrap();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let other_version = String::from_utf8(good.clone()).unwrap().replacen("state 1 ", "state 9 ", 1);
        for (bytes, words) in [
            (flipped, "SHA-256"),
            (good[..good.len() - 9].to_vec(), "bytes, not"),
            (other_version.into_bytes(), "version 9"),
            (Vec::new(), "first line"),
            (b"hello\n".to_vec(), "does not begin"),
        ] {
            fs::write(&path, bytes).unwrap();
            let error = load(&path, "/sluice", None).unwrap_err().to_string();
            assert!(error.contains(words), "{error} lacks {words}");
        }
    }

    #[test]
    fn a_keeper_that_is_dropped_has_written_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("etcd-state");
        let keeper = Keeper::start(path.clone(), "/sluice".to_owned(), None).unwrap();
        let documents = snapshot(1, 3).documents;
        let key = |number: usize| (Kind::Routes, documents[number].id.clone());
        for revision in 1..=50 {
            let stamp = Stamp { cluster: 1, revision, ..Stamp::default() };
            let number = revision as usize % 3;
            keeper.keep(stamp, vec![(key(number), Some(documents[number].clone()))]);
        }
        let stamp = Stamp { cluster: 1, revision: 51, ..Stamp::default() };
        keeper.keep(stamp, vec![(key(0), None)]);
        drop(keeper);
        let kept = load(&path, "/sluice", None).unwrap().unwrap();
        assert_eq!((kept.revision, kept.documents.len()), (51, 2));
    }
}
