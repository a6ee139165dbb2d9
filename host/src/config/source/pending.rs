//! What the directory thread has to do next: paths that changed, writes that
//! were asked for. Everything here has a limit; too many paths become one
//! look at everything.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RemoveKind, RenameMode};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::files::Mark;
use super::{Area, RecordName, Transaction, WriteError};

/// Changed paths that wait one by one; more become one look at everything.
pub const PENDING_PATHS_MAX: usize = 16_384;
/// Writes that wait; more are refused.
pub const PENDING_WRITES_MAX: usize = 256;

/// Time for events that belong together to come together.
const SETTLE: Duration = Duration::from_millis(5);
/// A file that is being written is read when its writer closes it, or when
/// nothing has been written for this long.
const QUIET: Duration = Duration::from_millis(150);
/// No path waits longer than this for others to settle.
const SETTLE_MAX: Duration = Duration::from_millis(40);

/// Where an answer goes.
type Reply<T> = oneshot::Sender<Result<T, WriteError>>;

/// What was asked of the thread, and where the answer goes.
#[derive(Debug)]
pub(super) enum Request {
    /// To write.
    Write(Transaction, Reply<Vec<u64>>),
    /// To read a record.
    Read(RecordName, Reply<Option<Vec<u8>>>),
    /// To list an area's records whose names begin so.
    List(Area, String, Reply<Vec<RecordName>>),
}

/// What is to be done now.
#[derive(Debug, Default)]
pub(super) struct Due {
    pub(super) paths: Vec<PathBuf>,
    pub(super) rescan: bool,
    /// Read everything again, whether it seems changed or not.
    pub(super) reread: bool,
    pub(super) requests: Vec<Request>,
    pub(super) closed: bool,
}

/// What is to be done, shared between watcher, writers and the thread.
#[derive(Debug, Default)]
pub(super) struct Pending {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    paths: HashMap<PathBuf, Dirty>,
    rescan: Option<Dirty>,
    reread: bool,
    requests: VecDeque<Request>,
    closed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Dirty {
    first: Instant,
    last: Instant,
    being_written: bool,
}

impl Dirty {
    fn due(&self) -> Instant {
        if self.being_written { self.last + QUIET } else { (self.last + SETTLE).min(self.first + SETTLE_MAX) }
    }
}

impl Pending {
    /// Takes in an event of the watcher; `mark_of` says what a path means.
    pub(super) fn take_event(&self, event: notify::Result<notify::Event>, mark_of: impl Fn(&Path) -> Mark) {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, "watching the configuration failed; looking at everything");
                return self.rescan();
            }
        };
        if event.need_rescan() {
            tracing::info!("more changes than the kernel could tell; looking at everything");
            return self.rescan();
        }
        let being_written = match event.kind {
            EventKind::Create(CreateKind::File) | EventKind::Modify(ModifyKind::Data(_)) => true,
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Create(_)
            | EventKind::Remove(
                RemoveKind::File | RemoveKind::Folder | RemoveKind::Any | RemoveKind::Other,
            )
            | EventKind::Modify(ModifyKind::Name(
                RenameMode::From | RenameMode::To | RenameMode::Any | RenameMode::Other,
            )) => false,
            // Reading makes events too; a change of mode shows in what is read.
            EventKind::Modify(ModifyKind::Metadata(_)) => false,
            _ => return,
        };
        let metadata = matches!(event.kind, EventKind::Modify(ModifyKind::Metadata(_)));
        let data = matches!(event.kind, EventKind::Modify(ModifyKind::Data(_)) | EventKind::Access(_));
        for path in event.paths {
            match mark_of(&path) {
                Mark::File => self.mark(path, being_written, metadata),
                Mark::Folders if !data => self.rescan(),
                Mark::Folders | Mark::None => {}
            }
        }
    }

    fn mark(&self, path: PathBuf, being_written: bool, metadata: bool) {
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.paths.len() >= PENDING_PATHS_MAX && !state.paths.contains_key(&path) {
            state.paths.clear();
            state.rescan.get_or_insert(Dirty { first: now, last: now, being_written: false });
        } else {
            let dirty = state.paths.entry(path).or_insert(Dirty { first: now, last: now, being_written });
            dirty.last = now;
            // A change of mode says nothing about whether the writer is done.
            if !metadata {
                dirty.being_written = being_written;
            }
        }
        self.changed.notify_one();
    }

    /// Has a path read again a little later.
    pub(super) fn retry(&self, path: PathBuf) {
        let now = Instant::now() + Duration::from_millis(15);
        self.state.lock().paths.insert(path, Dirty { first: now, last: now, being_written: false });
    }

    /// Has everything looked at.
    pub(super) fn rescan(&self) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.rescan.get_or_insert(Dirty { first: now, last: now, being_written: false }).last = now;
        self.changed.notify_one();
    }

    /// Has everything read.
    pub(super) fn reread(&self) {
        self.state.lock().reread = true;
        self.rescan();
    }

    /// Asks the thread, and waits for its answer.
    pub(super) async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, WriteError> {
        let (reply, answer) = oneshot::channel();
        self.push(request(reply))?;
        answer.await.map_err(|_| WriteError::Closed)
    }

    fn push(&self, request: Request) -> Result<(), WriteError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(WriteError::Closed);
        }
        if state.requests.len() >= PENDING_WRITES_MAX {
            return Err(WriteError::Busy);
        }
        state.requests.push_back(request);
        self.changed.notify_one();
        Ok(())
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        // Their callers are told by the dropped replies.
        state.requests.clear();
        self.changed.notify_one();
    }

    /// Waits until there is something to do, or until `deadline`.
    pub(super) fn wait(&self, deadline: Instant) -> Due {
        let mut state = self.state.lock();
        loop {
            let now = Instant::now();
            let due = take_due(&mut state, now);
            if due.closed
                || due.rescan
                || !due.paths.is_empty()
                || !due.requests.is_empty()
                || now >= deadline
            {
                return due;
            }
            let next = state.paths.values().chain(&state.rescan).map(Dirty::due).min();
            self.changed.wait_until(&mut state, next.unwrap_or(deadline).min(deadline));
        }
    }
}

fn take_due(state: &mut State, now: Instant) -> Due {
    let rescan = state.rescan.is_some_and(|dirty| dirty.due() <= now);
    let mut due = Due { closed: state.closed, rescan, ..Due::default() };
    if rescan {
        state.rescan = None;
        due.reread = std::mem::take(&mut state.reread);
    }
    let paths = state.paths.iter().filter(|(_, dirty)| dirty.due() <= now);
    due.paths = paths.map(|(path, _)| path.clone()).collect();
    for path in &due.paths {
        state.paths.remove(path);
    }
    due.requests = state.requests.drain(..).collect();
    due
}
