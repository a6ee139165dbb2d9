//! The files of a configuration directory, as far as they have been read.
//!
//! `DIR/<kind>/<id>.yaml|yml|json` holds one object, `DIR/*.yaml|yml|json` the
//! standalone form. Hidden files and other endings are not read. An object
//! that stands in two files is in force as it was, and both are told.
//!
//! Knows no watcher: whoever does says which files to look at again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::blobs;
use crate::config::document::{self, Format};
use crate::config::{
    COMPONENT_BYTES_MAX, Digest, Document, DocumentChange, DocumentError, FILE_BYTES_MAX, Id, Key, Kind,
    KindError, Origin, Problem,
};

/// The most files of a directory; what is more is not read, and told.
pub const FILES_MAX: usize = 500_000;
/// A file this young may change again without its stamp showing it.
const STAMP_GRAIN: Duration = Duration::from_millis(20);

/// The files of a directory and the objects in them.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    files: HashMap<PathBuf, FileState>,
    /// In which files an object stands.
    claims: HashMap<Key, BTreeSet<PathBuf>>,
    /// What was last told of an object.
    told: HashMap<Key, DocumentChange>,
    /// Keys to tell of, since the last [`Tree::take_changes`].
    touched: BTreeSet<Key>,
    file_problems: BTreeMap<PathBuf, Vec<DocumentError>>,
    folder_problems: Vec<DocumentError>,
    folders: Vec<PathBuf>,
    reads: u64,
}

#[derive(Debug, Default)]
struct FileState {
    stamp: Option<Stamp>,
    objects: Vec<(Key, Result<Arc<Document>, DocumentError>)>,
}

/// What tells two versions of a file apart without reading them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Read so soon after a change that another one may not show.
    young: bool,
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        let age = metadata.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            young: age.is_none_or(|age| age < STAMP_GRAIN),
        }
    }

    fn same_file(&self, other: &Self) -> bool {
        Self { young: false, ..*self } == Self { young: false, ..*other }
    }
}

/// How a look at a file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Its state is known now.
    Settled,
    /// It changed while it was read, or may be in the middle of a write.
    Again,
}

/// How carefully a file is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Care {
    /// Read it when its stamp is another one; leave it for later when it is
    /// so young that its writer may not be done.
    Patient,
    /// Read it when its stamp is another one.
    IfChanged,
    /// Read it.
    Always,
}

/// What a path is to us.
#[derive(Debug)]
enum Place {
    Object(Kind, Id, Format),
    /// The bytes of a module.
    Component(Id),
    Standalone(Format),
}

impl Tree {
    /// A tree that has not been looked at. `root` need not exist.
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            files: HashMap::new(),
            claims: HashMap::new(),
            told: HashMap::new(),
            touched: BTreeSet::new(),
            file_problems: BTreeMap::new(),
            folder_problems: Vec::new(),
            folders: Vec::new(),
            reads: 0,
        }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How many files have been read so far.
    pub fn reads(&self) -> u64 {
        self.reads
    }

    /// The folders of kinds there were at the last look.
    pub(super) fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// The files an object stands in.
    pub(super) fn files_of(&self, key: &Key) -> impl Iterator<Item = &PathBuf> {
        self.claims.get(key).into_iter().flatten()
    }

    /// Looks at everything; reads what changed. Gives the files to look at again.
    pub fn scan_now(&mut self) {
        self.scan(Care::IfChanged);
    }

    /// As [`Tree::scan_now`], with a choice of care.
    pub(super) fn scan(&mut self, care: Care) -> Vec<PathBuf> {
        let mut again = Vec::new();
        self.folder_problems.clear();
        let listing = match self.list() {
            Ok(listing) => listing,
            Err(error) => {
                // A directory that is not there says nothing about its
                // objects: what is in force stays so.
                let message = match error.kind() {
                    io::ErrorKind::NotFound => "the directory does not exist; waiting for it".to_owned(),
                    _ => format!("cannot read the directory: {error}"),
                };
                self.folder_problems.push(DocumentError::file(Origin::file(&self.root), message));
                return again;
            }
        };
        let gone: Vec<PathBuf> = self.files.keys().filter(|path| !listing.keeps(path)).cloned().collect();
        for path in gone {
            self.forget(&path);
        }
        for path in listing.files {
            if self.look(&path, care) == Look::Again {
                again.push(path);
            }
        }
        again
    }

    fn list(&mut self) -> io::Result<Listing> {
        let mut listing = Listing::default();
        self.folders.clear();
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            if is_hidden(&path) {
                continue;
            }
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => self.list_folder(path, &mut listing),
                Ok(metadata) if metadata.is_file() && Format::of(&path).is_some() => listing.add(path),
                _ => {}
            }
        }
        if listing.files.len() >= FILES_MAX {
            let message = format!("holds more than {FILES_MAX} files; the rest is not read");
            self.folder_problems.push(DocumentError::file(Origin::file(&self.root), message));
        }
        Ok(listing)
    }

    fn list_folder(&mut self, folder: PathBuf, listing: &mut Listing) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kind = match Kind::from_name(&name) {
            Ok(kind) => {
                self.folders.push(folder.clone());
                kind
            }
            Err(error) => {
                // `lost+found`, `certs` and the like may lie beside the kinds;
                // a kind that is not supported must not be passed over.
                if let KindError::NotSupported(_) = error {
                    self.folder_problems.push(DocumentError::file(Origin::file(&folder), error.to_string()));
                } else {
                    tracing::debug!(folder = %folder.display(), "not the folder of a kind; not read");
                }
                return;
            }
        };
        let entries = fs::read_dir(&folder).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        match entries {
            Ok(entries) => {
                let paths = entries.into_iter().map(|entry| entry.path());
                for path in paths.filter(|path| !is_hidden(path) && is_ours(kind, path)) {
                    listing.add(path);
                }
            }
            Err(error) => {
                let message = format!("cannot read the folder: {error}");
                self.folder_problems.push(DocumentError::file(Origin::file(&folder), message));
                listing.unreadable.push(folder);
            }
        }
    }

    /// Looks at one file.
    pub(super) fn look(&mut self, path: &Path, care: Care) -> Look {
        let metadata = match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => {
                self.forget(path);
                return Look::Settled;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget(path);
                return Look::Settled;
            }
            Err(error) => {
                self.fail(path, format!("cannot be read: {error}"));
                return Look::Settled;
            }
        };
        let stamp = Stamp::of(&metadata);
        let known = self.files.get(path).and_then(|file| file.stamp);
        let unchanged = known.is_some_and(|known| known.same_file(&stamp) && !known.young);
        if unchanged && care != Care::Always {
            return Look::Settled;
        }
        if stamp.young && care == Care::Patient {
            return Look::Again;
        }
        self.reads += 1;
        match read_whole(path, &stamp) {
            Ok(Some(bytes)) => {
                self.take(path, &bytes, stamp);
                Look::Settled
            }
            Ok(None) => Look::Again,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget(path);
                Look::Settled
            }
            Err(error) => {
                self.fail(path, format!("cannot be read: {error}"));
                Look::Settled
            }
        }
    }

    fn place(&self, path: &Path) -> Result<Option<Place>, DocumentError> {
        let fault = |message: String| DocumentError::file(Origin::file(path), message);
        let Ok(inside) = path.strip_prefix(&self.root) else { return Ok(None) };
        if blobs::is_component(path) {
            let Some(id) = module_of(inside) else { return Ok(None) };
            let id = Id::new(&id)
                .map_err(|error| fault(format!("the name of the file is not an id: it {error}")))?;
            return Ok(Some(Place::Component(id)));
        }
        let Some(format) = Format::of(path) else { return Ok(None) };
        let mut parts = inside.components();
        let (first, second) = (parts.next(), parts.next());
        match (first, second) {
            (Some(_), None) => Ok(Some(Place::Standalone(format))),
            (Some(folder), Some(_)) => {
                // An unknown folder has been told at the scan.
                let Ok(kind) = Kind::from_name(&folder.as_os_str().to_string_lossy()) else {
                    return Ok(None);
                };
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                let id = Id::new(&stem)
                    .map_err(|error| fault(format!("the name of the file is not an id: it {error}")))?;
                Ok(Some(Place::Object(kind, id, format)))
            }
            _ => Ok(None),
        }
    }

    fn take(&mut self, path: &Path, bytes: &[u8], stamp: Stamp) {
        let (objects, problems) = match self.place(path) {
            Ok(None) => return,
            Err(error) => (Some(Vec::new()), vec![error]),
            Ok(Some(Place::Object(kind, id, format))) => {
                let document = document::parse_object(kind, &id, bytes, format, path).map(Arc::new);
                (Some(vec![((kind, id), document)]), Vec::new())
            }
            Ok(Some(Place::Component(id))) => {
                let document = component_document(&id, bytes, path);
                (Some(vec![((Kind::Modules, id), document)]), Vec::new())
            }
            Ok(Some(Place::Standalone(format))) => match document::parse_standalone(bytes, format, path) {
                Ok((documents, problems)) => (Some(by_key(documents)), problems),
                // The objects it held stay as they are.
                Err(error) => (None, vec![error]),
            },
        };
        let file = self.files.entry(path.to_owned()).or_default();
        file.stamp = Some(stamp);
        if let Some(objects) = objects {
            let old = std::mem::replace(&mut file.objects, objects);
            share_unchanged(&old, &mut file.objects);
            let new: Vec<Key> = file.objects.iter().map(|(key, _)| key.clone()).collect();
            for (key, _) in old {
                self.unclaim(&key, path);
            }
            for key in new {
                self.claims.entry(key.clone()).or_default().insert(path.to_owned());
                self.touched.insert(key);
            }
        }
        self.set_problems(path, problems);
    }

    /// Notes that a file is there and cannot be read; its objects stay.
    fn fail(&mut self, path: &Path, message: String) {
        let file = self.files.entry(path.to_owned()).or_default();
        file.stamp = None;
        self.set_problems(path, vec![DocumentError::file(Origin::file(path), message)]);
    }

    fn forget(&mut self, path: &Path) {
        self.set_problems(path, Vec::new());
        let Some(file) = self.files.remove(path) else { return };
        for (key, _) in file.objects {
            self.unclaim(&key, path);
        }
    }

    fn unclaim(&mut self, key: &Key, path: &Path) {
        if let Some(paths) = self.claims.get_mut(key) {
            paths.remove(path);
            if paths.is_empty() {
                self.claims.remove(key);
            }
        }
        self.touched.insert(key.clone());
    }

    fn set_problems(&mut self, path: &Path, problems: Vec<DocumentError>) {
        if problems.is_empty() {
            self.file_problems.remove(path);
        } else {
            self.file_problems.insert(path.to_owned(), problems);
        }
    }

    /// What is different since the last call.
    pub fn take_changes(&mut self) -> Vec<DocumentChange> {
        let touched = std::mem::take(&mut self.touched);
        let mut changes = Vec::new();
        for key in touched {
            let change = self.resolve(&key);
            let known = match &change {
                DocumentChange::Deleted(_) => self.told.remove(&key).is_none(),
                change => self.told.insert(key, change.clone()).is_some_and(|old| old == *change),
            };
            if !known {
                changes.push(change);
            }
        }
        changes
    }

    fn resolve(&self, key: &Key) -> DocumentChange {
        let broken = |origin, problems| DocumentChange::Broken { key: key.clone(), origin, problems };
        let mut paths = self.files_of(key);
        match (paths.next(), paths.next()) {
            (None, _) => DocumentChange::Deleted(key.clone()),
            (Some(one), Some(other)) if key.0 == Kind::Modules && paths.next().is_none() => {
                match (blobs::is_component(one), blobs::is_component(other)) {
                    (true, false) => self.module(key, other, one),
                    (false, true) => self.module(key, one, other),
                    _ => broken(Origin::file(other), vec![stands_twice(one, other)]),
                }
            }
            (Some(first), Some(second)) => broken(Origin::file(second), vec![stands_twice(first, second)]),
            (Some(path), None) => match self.document_in(key, path) {
                Some(Ok(document)) => DocumentChange::Put(document.clone()),
                Some(Err(error)) => broken(error.origin.clone(), vec![(*error.problem).clone()]),
                None => DocumentChange::Deleted(key.clone()),
            },
        }
    }

    fn document_in(&self, key: &Key, path: &Path) -> Option<&Result<Arc<Document>, DocumentError>> {
        let objects = &self.files.get(path)?.objects;
        objects.iter().find(|(own, _)| own == key).map(|(_, document)| document)
    }

    /// A module whose object lies beside its bytes: an object that lists no
    /// versions has the one that lies there.
    fn module(&self, key: &Key, object: &Path, bytes: &Path) -> DocumentChange {
        let written = match self.document_in(key, object) {
            Some(Ok(document)) => document,
            Some(Err(error)) => {
                let (origin, problems) = (error.origin.clone(), vec![(*error.problem).clone()]);
                return DocumentChange::Broken { key: key.clone(), origin, problems };
            }
            None => return DocumentChange::Deleted(key.clone()),
        };
        let Some(Ok(beside)) = self.document_in(key, bytes) else {
            return DocumentChange::Put(written.clone());
        };
        let mut value = written.value.clone();
        if let (Some(fields), Some(versions)) = (value.as_object_mut(), beside.value.get("versions"))
            && !fields.contains_key("versions")
        {
            fields.insert("versions".to_owned(), versions.clone());
        }
        // The revision is that of the object's file, which writes compare with.
        DocumentChange::Put(Arc::new(Document { value, ..(**written).clone() }))
    }

    /// Everything that is wrong now and is not of one object.
    pub fn problems(&self) -> Vec<DocumentError> {
        self.folder_problems.iter().chain(self.file_problems.values().flatten()).cloned().collect()
    }
}

/// The files there are.
#[derive(Debug, Default)]
struct Listing {
    files: Vec<PathBuf>,
    seen: HashSet<PathBuf>,
    /// Folders that are there and cannot be listed.
    unreadable: Vec<PathBuf>,
}

impl Listing {
    fn add(&mut self, path: PathBuf) {
        if self.files.len() < FILES_MAX {
            self.seen.insert(path.clone());
            self.files.push(path);
        }
    }

    /// Whether what is known of a file stays known.
    fn keeps(&self, path: &Path) -> bool {
        self.seen.contains(path) || self.unreadable.iter().any(|folder| path.starts_with(folder))
    }
}

/// Objects by key; one that is listed twice is bad.
fn by_key(documents: Vec<Document>) -> Vec<(Key, Result<Arc<Document>, DocumentError>)> {
    let mut places: HashMap<Key, usize> = HashMap::new();
    let mut objects: Vec<(Key, Result<Arc<Document>, DocumentError>)> = Vec::new();
    for document in documents {
        let key = (document.kind, document.id.clone());
        match places.get(&key) {
            None => {
                places.insert(key.clone(), objects.len());
                objects.push((key, Ok(Arc::new(document))));
            }
            Some(&place) => {
                let mut error = DocumentError::file(document.origin, "stands in this file twice");
                error.object = Some(key);
                objects[place].1 = Err(error);
            }
        }
    }
    objects
}

/// Keeps the documents that are as they were, so that they are held in memory once.
fn share_unchanged(
    old: &[(Key, Result<Arc<Document>, DocumentError>)],
    new: &mut [(Key, Result<Arc<Document>, DocumentError>)],
) {
    let old: HashMap<&Key, &Arc<Document>> =
        old.iter().filter_map(|(key, document)| Some((key, document.as_ref().ok()?))).collect();
    for (key, document) in new {
        if let (Ok(document), Some(&known)) = (document, old.get(key))
            && document == known
        {
            *document = known.clone();
        }
    }
}

/// What a change of a path means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// A file of ours changed.
    File,
    /// Folders came, went or were swapped.
    Folders,
    /// Nothing.
    None,
}

/// What a change of a path means, by its name alone.
pub(super) fn mark_of(root: &Path, path: &Path) -> Mark {
    if root.starts_with(path) {
        return Mark::Folders;
    }
    let Ok(inside) = path.strip_prefix(root) else { return Mark::None };
    let depth = inside.components().count();
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    // `..data` is the link that Kubernetes swaps under a volume's files.
    if depth <= 2 && name.starts_with("..") {
        return Mark::Folders;
    }
    let is_module = blobs::is_component(path) && module_of(inside).is_some();
    if depth <= 2 && !is_hidden(path) && (Format::of(path).is_some() || is_module) {
        return Mark::File;
    }
    let is_kind = !matches!(Kind::from_name(name), Err(KindError::Unknown(_)));
    if depth == 1 && is_kind { Mark::Folders } else { Mark::None }
}

/// Reads a file, unless it changes meanwhile.
fn read_whole(path: &Path, stamp: &Stamp) -> io::Result<Option<Vec<u8>>> {
    let file = fs::File::open(path)?;
    let max = if blobs::is_component(path) { COMPONENT_BYTES_MAX } else { FILE_BYTES_MAX };
    let mut bytes = Vec::with_capacity((stamp.size as usize).min(max) + 1);
    // One byte more than allowed, so that the reader sees that it is too large.
    (&file).take(max as u64 + 1).read_to_end(&mut bytes)?;
    let after = Stamp::of(&file.metadata()?);
    Ok(after.same_file(stamp).then_some(bytes))
}

/// Whether a file of a kind's folder is read.
fn is_ours(kind: Kind, path: &Path) -> bool {
    Format::of(path).is_some() || (kind == Kind::Modules && blobs::is_component(path))
}

/// The module whose bytes a path below the directory is.
fn module_of(inside: &Path) -> Option<String> {
    let is_there = inside.parent() == Some(Path::new(Kind::Modules.name()));
    is_there.then(|| inside.file_stem().unwrap_or_default().to_string_lossy().into_owned())
}

fn component_document(id: &Id, bytes: &[u8], path: &Path) -> Result<Arc<Document>, DocumentError> {
    if bytes.len() > COMPONENT_BYTES_MAX {
        let message = format!("is larger than {COMPONENT_BYTES_MAX} bytes, the most a component may have");
        let error = DocumentError::file(Origin::file(path), message);
        return Err(DocumentError { object: Some((Kind::Modules, id.clone())), ..error });
    }
    Ok(Arc::new(Document {
        kind: Kind::Modules,
        id: id.clone(),
        value: described(bytes),
        origin: Origin::file(path),
        revision: document::revision_of(bytes),
        created: 0,
    }))
}

/// The module that these bytes alone are: one version, named by its digest.
fn described(bytes: &[u8]) -> Value {
    let digest = Digest::of(bytes);
    json!({"versions": [{"version": &digest.hex()[..12], "digest": digest, "size": bytes.len()}]})
}

fn stands_twice(first: &Path, second: &Path) -> Problem {
    let message = format!("stands in both {} and {}", first.display(), second.display());
    Problem { field: String::new(), message, value: None }
}

fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_none_or(|name| name.starts_with('.'))
}
