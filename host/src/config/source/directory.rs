//! A directory as a source: one thread that reads and writes its files, woken
//! by inotify.
//!
//! The cost of a change is that of the files it touches. Everything is looked
//! at (by stamp, not read) when folders change, when the kernel has lost
//! events, and from time to time, for file systems that tell nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::files::{self, Care, Look, Tree};
use super::pending::{Due, Pending, Request};
use super::{Batch, Transaction, WriteError, write};
use crate::config::DocumentError;

/// How often everything is looked at without a reason.
const RESCAN: Duration = Duration::from_secs(30);
/// The same, where changes cannot be watched.
const RESCAN_UNWATCHED: Duration = Duration::from_secs(1);
/// How often a listing begins again because folders came while it was made.
const LISTINGS_MAX: usize = 4;
/// Batches that wait for the control thread; then this thread waits, and what
/// changes meanwhile becomes one batch.
const BATCHES_MAX: usize = 4;

/// A directory that is read and watched.
#[derive(Debug)]
pub struct DirectorySource {
    root: PathBuf,
    pending: Arc<Pending>,
    batches: mpsc::Receiver<Batch>,
    thread: Option<JoinHandle<()>>,
}

impl DirectorySource {
    /// Starts to read and watch a directory, which need not exist yet. The
    /// first batch comes at once, empty when there is nothing.
    ///
    /// # Errors
    /// The thread cannot be started, or there is no current directory for a
    /// relative path to start from.
    pub fn start(root: &Path) -> std::io::Result<Self> {
        // Not resolved further: the directory may be a link that is swapped.
        let root = std::path::absolute(root)?;
        let pending = Arc::new(Pending::default());
        let (sender, batches) = mpsc::channel(BATCHES_MAX);
        let worker = Worker::new(root.clone(), pending.clone(), sender);
        let thread =
            std::thread::Builder::new().name("config-directory".to_owned()).spawn(|| worker.run())?;
        Ok(Self { root, pending, batches, thread: Some(thread) })
    }

    /// Waits for the next batch; `None` when the thread has ended.
    pub async fn next(&mut self) -> Option<Batch> {
        self.batches.recv().await
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn pending(&self) -> Arc<Pending> {
        self.pending.clone()
    }
}

impl Drop for DirectorySource {
    fn drop(&mut self) {
        self.batches.close();
        self.pending.close();
        // Closed and woken, the thread ends after the file it is at.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    tree: Tree,
    pending: Arc<Pending>,
    batches: mpsc::Sender<Batch>,
    watcher: Option<RecommendedWatcher>,
    problems: Vec<DocumentError>,
    rescan_at: Instant,
}

impl Worker {
    fn new(root: PathBuf, pending: Arc<Pending>, batches: mpsc::Sender<Batch>) -> Self {
        let tree = Tree::new(root);
        Self { tree, pending, batches, watcher: None, problems: Vec::new(), rescan_at: Instant::now() }
    }

    fn run(mut self) {
        self.watcher = self.start_watcher();
        self.look_at_everything(Care::IfChanged);
        let mut told = self.tell(Telling::Whole);
        while told.is_ok() {
            let due = self.pending.wait(self.rescan_at);
            if due.closed {
                return;
            }
            told = self.work(due);
        }
    }

    fn work(&mut self, due: Due) -> Result<(), Closed> {
        for path in due.paths {
            if self.tree.look(&path, Care::Always) == Look::Again {
                self.pending.retry(path);
            }
        }
        if due.rescan || Instant::now() >= self.rescan_at {
            self.look_at_everything(if due.reread { Care::Always } else { Care::Patient });
        }
        self.tell(Telling::Difference)?;
        for request in due.requests {
            // Whoever asked may have gone; what was done stands all the same.
            match request {
                Request::Write(transaction, reply) => {
                    let result = self.write(&transaction)?;
                    let _ = reply.send(result);
                }
                Request::Read(name, reply) => {
                    let _ = reply.send(write::read_record(self.tree.root(), &name));
                }
                Request::List(area, start, reply) => {
                    let _ = reply.send(write::list_records(self.tree.root(), area, &start));
                }
            }
        }
        Ok(())
    }

    /// Watches and lists. A folder is watched before it is listed for the last
    /// time, so that nothing can come in between.
    fn look_at_everything(&mut self, care: Care) {
        for _ in 0..LISTINGS_MAX {
            let watched = self.watch_folders();
            for path in self.tree.scan(care) {
                self.pending.retry(path);
            }
            let root = self.tree.root().to_owned();
            if self.tree.folders().iter().all(|folder| watched.contains(folder))
                && watched.contains(&root) == root.is_dir()
            {
                break;
            }
        }
        let every = if self.watcher.is_some() { RESCAN } else { RESCAN_UNWATCHED };
        self.rescan_at = Instant::now() + every;
    }

    fn write(&mut self, transaction: &Transaction) -> Result<Result<Vec<u64>, WriteError>, Closed> {
        let result = write::carry_out(&mut self.tree, transaction);
        if let Err(WriteError::Io { file, cause }) = &result {
            tracing::warn!(file, %cause, "cannot write to the configuration directory");
        }
        self.tell(Telling::Difference)?;
        Ok(result)
    }

    /// Sends what is different, if anything is.
    fn tell(&mut self, telling: Telling) -> Result<(), Closed> {
        let changes = self.tree.take_changes();
        let problems = self.tree.problems();
        if telling == Telling::Difference && changes.is_empty() && problems == self.problems {
            return Ok(());
        }
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            tracing::warn!(reason = %problem, "configuration not read");
        }
        self.problems.clone_from(&problems);
        self.batches.blocking_send(Batch { changes, problems, stamp: None }).map_err(|_| Closed)
    }

    fn start_watcher(&self) -> Option<RecommendedWatcher> {
        let (pending, root) = (self.pending.clone(), self.tree.root().to_owned());
        let handler = move |event| pending.take_event(event, |path| files::mark_of(&root, path));
        match notify::recommended_watcher(handler) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, "cannot watch the configuration; looking at it every second");
                None
            }
        }
    }

    /// Watches the directory, its folders, and the nearest folder above it
    /// that exists, where its coming and its swap are seen. Watching what is
    /// watched already changes nothing. Gives the folders that are watched,
    /// or would be if that were possible here.
    fn watch_folders(&mut self) -> Vec<PathBuf> {
        let root = self.tree.root().to_owned();
        let above = root.ancestors().skip(1).find(|folder| folder.is_dir()).map(Path::to_owned);
        let mut wanted: Vec<PathBuf> = above.into_iter().chain([root]).collect();
        wanted.extend(self.tree.folders().iter().cloned());
        wanted.retain(|folder| folder.is_dir());
        for folder in &wanted {
            self.watch(folder);
        }
        wanted
    }

    fn watch(&mut self, folder: &Path) {
        let Some(watcher) = &mut self.watcher else { return };
        if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive)
            && folder.is_dir()
        {
            tracing::warn!(folder = %folder.display(), %error, "cannot watch a folder of the configuration");
            // Without a watch only the regular look sees changes: make it often.
            self.watcher = None;
        }
    }
}

/// Which batches are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Telling {
    /// Also one that says nothing: the first.
    Whole,
    /// One that says something.
    Difference,
}

/// Nobody takes batches any more.
struct Closed;
