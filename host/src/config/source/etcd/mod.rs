//! An etcd cluster as a source: one thread with one connection to one member,
//! another member when that one fails.
//!
//! A session lists everything at one revision and watches from the next, so
//! nothing is missed. Whatever goes wrong (a compaction, a lost leader, a
//! cancelled watch, a member that is silent, a cluster that was restored) ends
//! the session; the next one lists again and tells only what is different.
//! While no member can be used, everything stays as it is.
//!
//! Start at [`worker`] for the life of a session, at [`mirror`] for what is told.

mod backoff;
mod keys;
mod mirror;
mod options;
mod pace;
mod purpose;
mod registration;
mod session;
mod values;
mod worker;
mod write;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};

use super::Batch;
use crate::config::Document;

pub(in crate::config) use keys::key_of;
pub use options::{EtcdOptions, EtcdOptionsError, Secret, TlsFiles};
pub use registration::{Describe, Fleet};
pub use values::{
    SHARED_KEY_BYTES_MAX, SHARED_KEYS_MAX, SHARED_TIME_MAX, SHARED_VALUE_BYTES_MAX, SharedKey,
    SharedValueError, SharedValues,
};
pub(super) use write::EtcdWriter;

/// A batch that waits for the control thread; what comes meanwhile becomes one batch.
const BATCHES_MAX: usize = 1;

/// How a store is doing, for status and for those who must know why nothing comes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StoreState {
    /// The member it talks to, when it does.
    pub endpoint: Option<String>,
    /// The id of the cluster; 0 before the first answer.
    pub cluster: u64,
    /// The revision of the store up to which everything was told.
    pub revision: u64,
    /// Since when the store cannot be read, and why.
    pub stale: Option<(SystemTime, String)>,
    /// When the state was kept that was read from the cache; none once the
    /// store itself was read.
    pub cached: Option<SystemTime>,
}

impl StoreState {
    /// What an operator is told when the store cannot be read.
    #[must_use]
    pub fn stale_reason(&self) -> Option<String> {
        let (since, reason) = self.stale.as_ref()?;
        let from = match self.cached {
            Some(at) => format!("; serving what was kept at {}", utc(at)),
            None => String::new(),
        };
        Some(format!("stale since {}{from}: {reason}", utc(*since)))
    }
}

fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let stamp = jiff::Timestamp::from_second(seconds as i64).unwrap_or_default();
    stamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What was kept of a store's last good state.
#[derive(Debug, Default)]
pub struct KeptState {
    /// The cluster it came from.
    pub cluster: u64,
    /// The revision it is of.
    pub revision: u64,
    /// When it was kept.
    pub at: Option<SystemTime>,
    /// The objects.
    pub documents: Vec<Document>,
}

/// An etcd cluster that is read and watched.
#[derive(Debug)]
pub struct EtcdSource {
    batches: mpsc::Receiver<Batch>,
    link: Arc<Link>,
    thread: Option<JoinHandle<()>>,
    stop: Arc<Notify>,
    runtime: tokio::runtime::Handle,
}

/// What the thread shares with writers and status.
#[derive(Debug)]
struct Link {
    options: EtcdOptions,
    /// The connection of the session that lives now.
    client: watch::Sender<Option<session::Connection>>,
    /// The revision up to which everything was told.
    told: watch::Sender<u64>,
    state: Mutex<StoreState>,
    /// Asks for everything to be listed again.
    reread: Notify,
}

/// What a source needs to begin.
pub struct EtcdStart {
    /// How the cluster is reached.
    pub options: EtcdOptions,
    /// The last good state: served when no member can be read at the start.
    pub kept: Option<KeptState>,
    /// Registers this node under a lease while the source lives.
    pub node: Option<(String, Describe)>,
}

impl EtcdSource {
    /// Starts to read and watch. The first batch comes when a member was
    /// listed, or when none can be and there is a kept state.
    ///
    /// # Errors
    /// The options are wrong, or the thread cannot be started.
    pub fn start(start: EtcdStart) -> Result<Self, EtcdOptionsError> {
        start.options.check()?;
        let (sender, batches) = mpsc::channel(BATCHES_MAX);
        let link = Arc::new(Link {
            options: start.options,
            client: watch::Sender::new(None),
            told: watch::Sender::new(0),
            state: Mutex::new(StoreState {
                stale: Some((SystemTime::now(), "not read yet".to_owned())),
                ..StoreState::default()
            }),
            reread: Notify::new(),
        });
        let stop = Arc::new(Notify::new());
        let (shared, stopped) = (link.clone(), stop.clone());
        let (kept, node) = (start.kept, start.node);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(EtcdOptionsError::Thread)?;
        let handle = runtime.handle().clone();
        let thread = std::thread::Builder::new().name("config-etcd".to_owned()).spawn(move || {
            runtime.block_on(async {
                if let Some((id, describe)) = node {
                    tokio::spawn(registration::run(shared.clone(), id, describe));
                }
                tokio::select! {
                    () = worker::Worker::new(shared, sender, kept).run() => {}
                    () = stopped.notified() => {}
                }
            });
            // A connection to a member that is frozen is not waited for.
            runtime.shutdown_background();
        });
        let thread = thread.map_err(EtcdOptionsError::Thread)?;
        Ok(Self { batches, link, thread: Some(thread), stop, runtime: handle })
    }

    /// Waits for the next batch; `None` when the thread has ended.
    pub async fn next(&mut self) -> Option<Batch> {
        self.batches.recv().await
    }

    /// Tells how the store is doing.
    pub fn state(&self) -> impl Fn() -> StoreState + Send + Sync + use<> {
        let link = self.link.clone();
        move || link.state.lock().clone()
    }

    /// Tells which nodes are registered. Asked on a thread that may wait.
    #[must_use]
    pub fn fleet(&self) -> Fleet {
        let (writer, runtime) = (self.writer(), self.runtime.clone());
        Box::new(move || runtime.block_on(registration::fleet(&writer)))
    }

    /// The values that the modules of the fleet share.
    #[must_use]
    pub fn values(&self) -> SharedValues {
        SharedValues::new(self.link.clone())
    }

    pub(super) fn writer(&self) -> EtcdWriter {
        EtcdWriter::new(self.link.clone())
    }
}

impl Drop for EtcdSource {
    fn drop(&mut self) {
        self.batches.close();
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The folder of an etcd store's cache in `cache_dir`, and the file in it.
#[must_use]
pub fn state_file(cache_dir: &std::path::Path) -> PathBuf {
    cache_dir.join("etcd-state")
}

#[cfg(test)]
mod tests;
