//! What new configurations of modules mean for clients of the old ones.
//!
//! When a chain takes a module with another configuration, the module is asked
//! beside the traffic what clients would stumble over: what it says is for people,
//! in log, status and the Admin API's answers, and stops nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{Semaphore, mpsc};

use super::Plugin;
use crate::config::{Id, Key};

/// Changes of one comparison that are told; the rest is counted.
const CHANGES_MAX: usize = 100;

/// What a change of an object would break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaking {
    /// The module that says so.
    pub module: Arc<str>,
    /// What clients stumble over, a text each.
    pub changes: Vec<String>,
    /// When the change came.
    pub since: SystemTime,
}

/// The last comparison of each object and module: at most one for each pair in
/// the configuration.
pub(super) struct Comparisons {
    last: BTreeMap<(Key, Arc<str>), Last>,
    begun: u64,
    done: mpsc::UnboundedReceiver<Done>,
    tell: mpsc::UnboundedSender<Done>,
}

/// One comparison, by its number.
struct Last {
    number: u64,
    /// None until the module has answered.
    found: Option<Breaking>,
}

struct Done {
    owner: Key,
    module: Arc<str>,
    number: u64,
    changes: Vec<String>,
}

impl Comparisons {
    pub(super) fn new() -> Self {
        let (tell, done) = mpsc::unbounded_channel();
        Self { last: BTreeMap::new(), begun: 0, done, tell }
    }

    /// Has `new`, which takes the place of `old` in what `owner` says, asked. What
    /// was found before is forgotten: it was about another change.
    pub(super) fn begin(&mut self, owner: &Key, old: Arc<Plugin>, new: Arc<Plugin>, jobs: &Arc<Semaphore>) {
        self.begun += 1;
        let (number, module) = (self.begun, Arc::clone(new.name()));
        self.last.insert((owner.clone(), Arc::clone(&module)), Last { number, found: None });
        let (owner, tell, jobs) = (owner.clone(), self.tell.clone(), Arc::clone(jobs));
        tokio::spawn(async move {
            let permit = jobs.acquire_owned().await;
            let work = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                new.breaking(&old)
            });
            let changes = match work.await {
                Ok(Ok(changes)) => changes,
                Ok(Err(why)) => vec![format!("cannot be compared with what was before: {why}")],
                Err(error) => vec![format!("cannot be compared with what was before: {error}")],
            };
            // Nobody listens once the node ends.
            let _ = tell.send(Done { owner, module, number, changes });
        });
    }

    /// Waits until a comparison ends, and says of which module. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Id> {
        let Done { owner, module, number, mut changes } = self.done.recv().await?;
        let key = (owner, module);
        // Another change may have come, or the object has gone.
        if let Some(last) = self.last.get_mut(&key).filter(|last| last.number == number) {
            let more = changes.len().saturating_sub(CHANGES_MAX);
            changes.truncate(CHANGES_MAX);
            if more > 0 {
                changes.push(format!("{more} more"));
            }
            let ((kind, id), module) = &key;
            for change in &changes {
                tracing::warn!(object = %format_args!("{kind}/{id}"), %module, change, "a change breaks clients of what was before");
            }
            let module = Arc::clone(module);
            match changes.is_empty() {
                true => drop(self.last.remove(&key)),
                false => last.found = Some(Breaking { module, changes, since: SystemTime::now() }),
            }
        }
        Id::new(&key.1).ok()
    }

    /// Whether an object is being compared.
    pub(super) fn is_pending(&self, owner: &Key) -> bool {
        self.of(owner).any(|last| last.found.is_none())
    }

    /// What was found about an object.
    pub(super) fn found<'a>(&'a self, owner: &Key) -> impl Iterator<Item = &'a Breaking> {
        self.of(owner).filter_map(|last| last.found.as_ref())
    }

    /// All that was found.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Key, &Breaking)> {
        self.last.iter().filter_map(|((owner, _), last)| Some((owner, last.found.as_ref()?)))
    }

    /// Forgets an object.
    pub(super) fn forget(&mut self, owner: &Key) {
        self.last.retain(|(own, _), _| own != owner);
    }

    fn of<'a>(&'a self, owner: &Key) -> impl Iterator<Item = &'a Last> {
        let first = (owner.clone(), Arc::from(""));
        let owner = owner.clone();
        self.last.range(first..).take_while(move |((own, _), _)| *own == owner).map(|(_, last)| last)
    }
}
