//! A version that is tried on a part of the traffic, and what takes it back.
//!
//! A [`Trial`] is what a chain holds: the version, ready to be called, and the
//! share of clients it gets. All chains of a node share one [`TrialRecord`],
//! which counts what the version and the current one do, and ends the trial by
//! itself when a threshold is passed: from that moment on nobody gets the
//! version any more, whether chains were built anew or not.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::module::Plugin;
use super::{CallError, ChunkVerdict, Head, HeadVerdict, Visit, wait};
use crate::config::objects::{ModuleCanary, ModuleRollback, ModuleVersion};
use crate::config::{Digest, Id};

/// The time over which failures are counted.
pub const TRIAL_WINDOW: Duration = Duration::from_secs(60);
/// Exchanges of both versions before times and refusals are compared.
pub const COMPARED_MIN: u64 = 100;
/// Exchanges of the version that is tried after which comparing begins anew.
pub const COMPARED_MAX: u64 = 1000;
/// Copies that wait to be shown to a version in the shadow; more are left out.
pub const SHADOWS_MAX: usize = 256;
/// Bytes of the copies that wait; more are left out.
pub const SHADOW_BYTES_MAX: usize = 16 << 20;
/// Parts of the traffic a share is counted in.
const PARTS: u64 = 10_000;

/// Which of two versions an exchange meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The one that serves.
    Current,
    /// The one that is tried.
    Trial,
}

/// A version that is tried, as a chain holds it.
#[derive(Debug, Clone)]
pub struct Trial {
    /// The version.
    pub plugin: Arc<Plugin>,
    /// What is counted of it.
    pub record: Arc<TrialRecord>,
    /// Parts of ten thousand it gets.
    share: u64,
    /// What places of clients begin with.
    seed: Fnv,
    /// Whether it sees copies only.
    is_shadow: bool,
}

impl Trial {
    pub(super) fn new(plugin: Arc<Plugin>, record: Arc<TrialRecord>, canary: &ModuleCanary) -> Self {
        let percent = canary.percent.unwrap_or(100.0).clamp(0.0, 100.0);
        let share = (percent * PARTS as f64 / 100.0).round().max(1.0) as u64;
        let seed = Fnv::of(&record.module);
        Self { plugin, record, share, seed, is_shadow: canary.is_shadow() }
    }

    /// Whether a client, by what it is known as, gets the version; the same
    /// client does on every node, and goes on to when the share grows.
    #[must_use]
    pub fn takes(&self, client: &[u8]) -> bool {
        self.share > 0
            && !self.record.is_stopped()
            && !self.plugin.is_withdrawn()
            && self.seed.place_of(client) < self.share
    }

    /// Whether the version sees copies only.
    #[must_use]
    pub fn is_shadow(&self) -> bool {
        self.is_shadow
    }

    /// Notes that the version cannot be tried on a part of what names its module.
    pub fn cannot(&self, why: &str) {
        tracing::warn!(module = %self.record.module, version = %self.record.version, reason = why,
            "a version is not tried everywhere");
        *self.record.note.lock() = Some(why.to_owned());
    }

    /// Shows the version a copy of an exchange, on a thread beside, and compares
    /// what it says with what became of the exchange.
    fn shadow(&self, copy: ShadowCopy) {
        self.record.shadow(Arc::clone(&self.plugin), copy);
    }
}

/// FNV-1a: keys are short, and it has no seed that would differ between builds.
#[derive(Debug, Clone, Copy)]
struct Fnv(u64);

impl Fnv {
    /// The hash that begins with a module's name.
    fn of(module: &Id) -> Self {
        Self(0xcbf2_9ce4_8422_2325).with(module.as_bytes()).with(&[0])
    }

    fn with(self, bytes: &[u8]) -> Self {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        Self(bytes.iter().fold(self.0, step))
    }

    /// The place of a client among all parts, the same everywhere.
    fn place_of(self, client: &[u8]) -> u64 {
        // Its low bits are weak; the high ones are mixed in.
        let mixed = self.with(client).0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) % PARTS
    }
}

/// A request or a response that is shown to a version in the shadow.
#[derive(Debug)]
pub struct ShadowMessage {
    /// The head's texts.
    pub bytes: Vec<u8>,
    /// The head's spans.
    pub spans: Vec<u32>,
    /// The beginning of the body, where the version wants it.
    pub body: Option<bytes::Bytes>,
    /// Whether the version wants the head.
    pub sees_head: bool,
    /// The status the current version answered with; none: it let it pass.
    pub answered: Option<u16>,
}

/// What is shown of one exchange.
#[derive(Debug, Default)]
struct ShadowCopy {
    request: Option<ShadowMessage>,
    response: Option<ShadowMessage>,
}

impl ShadowCopy {
    fn messages(&self) -> impl Iterator<Item = &ShadowMessage> {
        self.request.iter().chain(&self.response)
    }

    fn size(&self) -> usize {
        let size = |message: &ShadowMessage| {
            message.bytes.len() + message.body.as_ref().map_or(0, bytes::Bytes::len)
        };
        self.messages().map(size).sum()
    }
}

/// An exchange that a version in the shadow is shown a copy of, once it is over for
/// the version that serves: when this is dropped.
#[derive(Debug)]
pub struct Shadowing {
    trial: Arc<Trial>,
    copy: ShadowCopy,
}

impl Shadowing {
    /// An exchange with its request, where that is shown.
    #[must_use]
    pub fn new(trial: &Arc<Trial>, request: Option<ShadowMessage>) -> Self {
        Self { trial: Arc::clone(trial), copy: ShadowCopy { request, response: None } }
    }

    /// The response that is shown with it.
    pub fn response(&mut self) -> &mut Option<ShadowMessage> {
        &mut self.copy.response
    }
}

impl Drop for Shadowing {
    fn drop(&mut self) {
        self.trial.shadow(std::mem::take(&mut self.copy));
    }
}

/// What one of two versions did.
#[derive(Debug, Default)]
struct Counts {
    exchanges: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    nanos: AtomicU64,
}

impl Counts {
    /// The share of exchanges that failed.
    fn failed(&self) -> f64 {
        self.failed.load(Relaxed) as f64 / self.exchanges.load(Relaxed).max(1) as f64
    }

    fn tally(&self) -> Tally {
        let load = |count: &AtomicU64| count.load(Relaxed);
        Tally { exchanges: load(&self.exchanges), refused: load(&self.refused), nanos: load(&self.nanos) }
    }
}

/// What is compared of a version.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    exchanges: u64,
    refused: u64,
    nanos: u64,
}

impl Tally {
    fn since(self, before: Self) -> Self {
        Self {
            exchanges: self.exchanges - before.exchanges,
            refused: self.refused - before.refused,
            nanos: self.nanos - before.nanos,
        }
    }

    /// The time that the calls for one exchange take, on the mean.
    fn time(&self) -> Duration {
        Duration::from_nanos(self.nanos / self.exchanges.max(1))
    }

    /// The share of exchanges that are refused.
    fn refused(&self) -> f64 {
        self.refused as f64 / self.exchanges.max(1) as f64
    }
}

/// Why and when a trial ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialEnd {
    /// Which threshold was passed, with the figures.
    pub why: String,
    /// When.
    pub at: SystemTime,
    /// Exchanges that had met the version until then.
    pub exchanges: u64,
}

/// What is counted of a trial on this node.
#[derive(Debug)]
pub struct TrialRecord {
    module: Id,
    version: Arc<str>,
    digest: Digest,
    thresholds: ModuleRollback,
    since: SystemTime,
    current: Counts,
    trial: Counts,
    /// Copies on which the version said something else.
    differing: AtomicU64,
    /// Copies that were left out.
    skipped: AtomicU64,
    /// Where the comparison of both began, the current version's first.
    began: Mutex<[Tally; 2]>,
    /// Bytes of the copies that wait.
    waiting: AtomicUsize,
    traps: Mutex<Recent>,
    deadlines: Mutex<Recent>,
    is_over: AtomicBool,
    end: OnceLock<TrialEnd>,
    /// Why the version cannot be tried at this moment.
    gap: Mutex<Option<String>>,
    /// Whether there is a gap: nobody gets the version then, in chains that could
    /// not be built anew either.
    is_paused: AtomicBool,
    /// Why the version is not tried somewhere, though elsewhere it is.
    note: Mutex<Option<String>>,
    /// Told when the trial ends by itself.
    ended: mpsc::UnboundedSender<Id>,
    shadows: OnceLock<std::sync::mpsc::SyncSender<(Arc<Plugin>, ShadowCopy)>>,
}

/// Moments of the last failures, as many as it takes.
#[derive(Debug, Default)]
struct Recent(VecDeque<Instant>);

impl Recent {
    /// Notes one; says whether there were `limit` of them in the window.
    fn note(&mut self, now: Instant, limit: usize) -> bool {
        self.0.push_back(now);
        while self.0.len() > limit.max(1) {
            self.0.pop_front();
        }
        let first = self.0.front().copied().unwrap_or(now);
        self.0.len() >= limit && now.duration_since(first) <= TRIAL_WINDOW
    }
}

impl TrialRecord {
    pub(super) fn new(
        module: Id,
        version: &ModuleVersion,
        thresholds: ModuleRollback,
        ended: mpsc::UnboundedSender<Id>,
    ) -> Self {
        Self {
            module,
            version: version.version.as_str().into(),
            digest: version.digest,
            thresholds,
            since: SystemTime::now(),
            current: Counts::default(),
            trial: Counts::default(),
            differing: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            began: Mutex::default(),
            waiting: AtomicUsize::new(0),
            traps: Mutex::default(),
            deadlines: Mutex::default(),
            is_over: AtomicBool::new(false),
            end: OnceLock::new(),
            gap: Mutex::default(),
            is_paused: AtomicBool::new(false),
            note: Mutex::default(),
            ended,
            shadows: OnceLock::new(),
        }
    }

    /// Whether this is the record of that version under these thresholds.
    pub(super) fn is_of(&self, version: &ModuleVersion, thresholds: &ModuleRollback) -> bool {
        *self.version == *version.version && self.digest == version.digest && self.thresholds == *thresholds
    }

    /// Whether it is that of a version of this name.
    pub(super) fn is_named(&self, version: &str) -> bool {
        *self.version == *version
    }

    /// Says why the version cannot be tried at this moment, or that it can.
    pub(super) fn set_gap(&self, gap: Option<String>) {
        self.is_paused.store(gap.is_some(), Relaxed);
        *self.gap.lock() = gap;
    }

    /// Whether nobody gets the version, for good or for now.
    fn is_stopped(&self) -> bool {
        self.is_over() || self.is_paused.load(Relaxed)
    }

    /// Whether the trial has ended by itself.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<&TrialEnd> {
        self.end.get()
    }

    fn counts(&self, lane: Lane) -> &Counts {
        match lane {
            Lane::Current => &self.current,
            Lane::Trial => &self.trial,
        }
    }

    /// Counts an exchange that begins.
    pub fn begin(&self, lane: Lane) {
        self.counts(lane).exchanges.fetch_add(1, Relaxed);
    }

    /// Counts the time the calls of an exchange took.
    pub fn spent(&self, lane: Lane, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.counts(lane).nanos.fetch_add(nanos, Relaxed);
        if lane == Lane::Trial {
            self.compare();
        }
    }

    /// Counts an exchange that a version refused.
    pub fn refused(&self, lane: Lane) {
        self.counts(lane).refused.fetch_add(1, Relaxed);
    }

    /// Counts a call that gave no verdict; ends the trial when that was one too many.
    pub fn failed(&self, lane: Lane, error: &CallError) {
        self.failed_at(lane, error, Instant::now());
    }

    fn failed_at(&self, lane: Lane, error: &CallError, now: Instant) {
        // Want of room is the node's, not the version's.
        let (recent, limit, what) = match error {
            CallError::Deadline => (&self.deadlines, self.thresholds.deadlines_max(), "missed deadlines"),
            CallError::Busy | CallError::Withdrawn => return,
            _ => (&self.traps, self.thresholds.traps_max(), "traps"),
        };
        self.counts(lane).failed.fetch_add(1, Relaxed);
        if lane == Lane::Current || !recent.lock().note(now, limit as usize) {
            return;
        }
        let (own, other) = (self.trial.failed(), self.current.failed());
        if own > other {
            self.finish(format!(
                "{limit} {what} within a minute: {:.2} % of its exchanges failed, {:.2} % of the current version's",
                own * 100.0,
                other * 100.0
            ));
        }
    }

    /// Compares both versions, once there is enough to compare.
    fn compare(&self) {
        let ModuleRollback { latency, block_rate, .. } = self.thresholds;
        if self.is_over() || (latency.is_none() && block_rate.is_none()) {
            return;
        }
        // Whoever finds another thread at it leaves it to that.
        let Some(mut began) = self.began.try_lock() else { return };
        let now = [self.current.tally(), self.trial.tally()];
        let [other, own] = [now[0].since(began[0]), now[1].since(began[1])];
        if own.exchanges < COMPARED_MIN || other.exchanges < COMPARED_MIN {
            return;
        }
        if own.exchanges >= COMPARED_MAX {
            *began = now;
        }
        drop(began);
        if latency.is_some_and(|limit| own.time() > other.time() + limit) {
            let (own, other) = (own.time(), other.time());
            self.finish(format!("its calls take {own:?} an exchange, the current version's {other:?}"));
        }
        if block_rate.is_some_and(|limit| own.refused() > other.refused() + limit) {
            let [own, other] = [own, other].map(|tally| tally.refused() * 100.0);
            self.finish(format!("it refuses {own:.2} % of its exchanges, the current version {other:.2} %"));
        }
    }

    /// Ends the trial. Whoever comes first says why.
    fn finish(&self, why: String) {
        if self.is_over.swap(true, Relaxed) {
            return;
        }
        let exchanges = self.trial.exchanges.load(Relaxed);
        tracing::warn!(module = %self.module, version = %self.version, why, exchanges,
            "a version that was tried is taken back");
        let _ = self.end.set(TrialEnd { why, at: SystemTime::now(), exchanges });
        // Nobody listens once the node ends.
        let _ = self.ended.send(self.module.clone());
    }

    fn shadow(self: &Arc<Self>, plugin: Arc<Plugin>, copy: ShadowCopy) {
        let sender = self.shadows.get_or_init(|| {
            let (sender, copies) = std::sync::mpsc::sync_channel::<(Arc<Plugin>, ShadowCopy)>(SHADOWS_MAX);
            // It ends with the record, whose sender it waits for.
            let record = Arc::downgrade(self);
            let thread = std::thread::Builder::new().name("sluice-shadow".into()).spawn(move || {
                while let Ok((plugin, copy)) = copies.recv() {
                    let Some(record) = record.upgrade() else { return };
                    record.waiting.fetch_sub(copy.size(), Relaxed);
                    record.show(&plugin, &copy);
                }
            });
            if let Err(error) = thread {
                tracing::error!(%error, "no thread for a version in the shadow");
            }
            sender
        });
        let size = copy.size();
        let waiting = self.waiting.fetch_add(size, Relaxed) + size;
        if waiting > SHADOW_BYTES_MAX || sender.try_send((plugin, copy)).is_err() {
            self.waiting.fetch_sub(size, Relaxed);
            self.skipped.fetch_add(1, Relaxed);
        }
    }

    /// Has the version look at a copy, and compares.
    fn show(&self, plugin: &Plugin, copy: &ShadowCopy) {
        self.begin(Lane::Trial);
        let began = Instant::now();
        let told = ask(plugin, copy);
        if told.as_ref().is_ok_and(|statuses| statuses.iter().any(|status| matches!(status, Some(400..)))) {
            self.refused(Lane::Trial);
        }
        self.spent(Lane::Trial, began.elapsed());
        let answered = match told {
            Ok(answered) => answered,
            Err(error) => return self.failed(Lane::Trial, &error),
        };
        let current = [&copy.request, &copy.response].map(|message| message.as_ref()?.answered);
        // Where the request was answered what follows is no response of the upstream.
        let is_other = match (answered, current) {
            ([None, own], [None, current]) => own != current,
            ([own, _], [current, _]) => own != current,
        };
        if is_other {
            self.differing.fetch_add(1, Relaxed);
            tracing::info!(module = %self.module, version = %self.version, ?answered, ?current,
                "a version in the shadow would have decided otherwise");
        }
    }

    /// What is known of the trial.
    #[must_use]
    pub fn shown(&self) -> TrialShown {
        let load = |count: &AtomicU64| count.load(Relaxed);
        TrialShown {
            version: Arc::clone(&self.version),
            since: self.since,
            counts: TrialCounts {
                exchanges: load(&self.trial.exchanges),
                failed: load(&self.trial.failed),
                refused: load(&self.trial.refused),
                current_exchanges: load(&self.current.exchanges),
                differing: load(&self.differing),
                skipped: load(&self.skipped),
            },
            gap: self.gap.lock().clone(),
            note: self.note.lock().clone(),
            end: self.end.get().cloned(),
        }
    }
}

/// The statuses a version answers request and response of a copy with; none: it
/// lets them pass.
fn ask(plugin: &Plugin, copy: &ShadowCopy) -> Result<[Option<u16>; 2], CallError> {
    let mut visit = Visit::default();
    let mut statuses = [None; 2];
    if let Some(request) = &copy.request {
        let verdict = |head, end| wait(plugin.request_head(&mut visit, head, end)).0;
        let mut status = ask_head(request, verdict)?;
        if let (Some(body), Ok(())) = (&request.body, status) {
            status = refusal(wait(plugin.request_body(&mut visit, body, true)).0?);
        }
        statuses[0] = status.err().flatten();
    }
    if let (Some(response), None) = (&copy.response, statuses[0]) {
        let verdict = |head, end| wait(plugin.response_head(&mut visit, head, end)).0;
        let mut status = ask_head(response, verdict)?;
        if let (Some(body), Ok(())) = (&response.body, status) {
            status = refusal(wait(plugin.response_body(&mut visit, body, true)).0?);
        }
        statuses[1] = status.err().flatten();
    }
    Ok(statuses)
}

/// What a version says to a head: to go on, or that it wants no more, with the
/// status it answers with.
fn ask_head<'a>(
    message: &'a ShadowMessage,
    verdict: impl FnOnce(Head<'a>, bool) -> Result<HeadVerdict, CallError>,
) -> Result<Result<(), Option<u16>>, CallError> {
    if !message.sees_head {
        return Ok(Ok(()));
    }
    let head = Head { bytes: &message.bytes, spans: &message.spans };
    Ok(match verdict(head, message.body.is_none())? {
        HeadVerdict::Accept | HeadVerdict::Edit(_) => Ok(()),
        HeadVerdict::Done => Err(None),
        HeadVerdict::Deny(denial) => Err(Some(denial.status)),
    })
}

fn refusal(verdict: ChunkVerdict) -> Result<(), Option<u16>> {
    match verdict {
        ChunkVerdict::Deny(denial) => Err(Some(denial.status)),
        ChunkVerdict::Forward | ChunkVerdict::Hold | ChunkVerdict::Replace(_) => Ok(()),
    }
}

/// What is counted of a trial, as status shows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrialCounts {
    /// Exchanges, or copies, that met the version.
    pub exchanges: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Those of them it refused.
    pub refused: u64,
    /// Exchanges that met the current version meanwhile.
    pub current_exchanges: u64,
    /// Copies on which it decided otherwise.
    pub differing: u64,
    /// Copies that were left out, because too many waited.
    pub skipped: u64,
}

/// A trial, for status.
#[derive(Debug, Clone)]
pub struct TrialShown {
    /// The version.
    pub version: Arc<str>,
    /// Since when it is tried on this node.
    pub since: SystemTime,
    /// What was counted since.
    pub counts: TrialCounts,
    /// Why it cannot be tried at this moment.
    pub gap: Option<String>,
    /// Why it is not tried somewhere, though elsewhere it is.
    pub note: Option<String>,
    /// How it ended, if it has.
    pub end: Option<TrialEnd>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(thresholds: ModuleRollback) -> (TrialRecord, mpsc::UnboundedReceiver<Id>) {
        let (sender, ended) = mpsc::unbounded_channel();
        let version =
            ModuleVersion { version: "2".to_owned(), digest: Digest::of(b""), size: None, signature: None };
        (TrialRecord::new(Id::new("waf").unwrap(), &version, thresholds, sender), ended)
    }

    #[test]
    fn a_share_is_of_the_clients_and_grows_by_new_ones() {
        let seed = Fnv::of(&Id::new("waf").unwrap());
        let clients: Vec<[u8; 4]> = (0..20_000_u32).map(u32::to_be_bytes).collect();
        let taken =
            |share: u64| clients.iter().filter(|client| seed.place_of(*client) < share).collect::<Vec<_>>();
        let (one, ten) = (taken(100), taken(1000));
        assert!((120..280).contains(&one.len()), "{}", one.len());
        assert!((1700..2300).contains(&ten.len()), "{}", ten.len());
        assert!(one.iter().all(|client| ten.contains(client)));
        assert_eq!(taken(PARTS).len(), clients.len());
    }

    #[test]
    fn traps_end_it_once_and_say_how_many_exchanges_were_touched() {
        let (record, mut ended) = record(ModuleRollback { traps: Some(3), ..ModuleRollback::default() });
        let (trap, now) = (CallError::Trap("x".to_owned()), Instant::now());
        (0..1000).for_each(|_| record.begin(Lane::Current));
        (0..200).for_each(|_| record.begin(Lane::Trial));
        // Far apart they are not too many; want of room is none.
        for minute in 1..=3 {
            record.failed_at(Lane::Trial, &trap, now + TRIAL_WINDOW * minute * 2);
        }
        record.failed_at(Lane::Trial, &CallError::Busy, now);
        assert!(!record.is_over());
        let later = now + TRIAL_WINDOW * 10;
        for _ in 0..4 {
            record.failed_at(Lane::Trial, &trap, later);
        }
        let end = record.end().unwrap();
        assert_eq!(end.exchanges, 200);
        assert!(end.why.starts_with("3 traps within a minute: 3.00 %"), "{}", end.why);
        assert_eq!(ended.try_recv().unwrap().as_str(), "waf");
        assert!(ended.try_recv().is_err(), "told once");
    }

    #[test]
    fn a_version_that_fails_no_more_than_the_current_one_stays() {
        let (record, _ended) = record(ModuleRollback { traps: Some(2), ..ModuleRollback::default() });
        let (trap, now) = (CallError::Trap("x".to_owned()), Instant::now());
        for lane in [Lane::Current, Lane::Trial] {
            record.begin(lane);
            (0..5).for_each(|_| record.failed_at(lane, &trap, now));
        }
        assert!(!record.is_over());
    }

    #[test]
    fn times_and_refusals_are_compared_with_the_current_version() {
        let (slow, _ended) =
            record(ModuleRollback { latency: Some(Duration::from_micros(10)), ..ModuleRollback::default() });
        let (strict, _ended) = record(ModuleRollback { block_rate: Some(0.1), ..ModuleRollback::default() });
        for round in 0..COMPARED_MIN {
            for record in [&slow, &strict] {
                record.begin(Lane::Current);
                record.spent(Lane::Current, Duration::from_micros(5));
                record.begin(Lane::Trial);
                record.refused(Lane::Trial);
                assert!(!record.is_over(), "{round}");
                record.spent(Lane::Trial, Duration::from_micros(20));
            }
        }
        assert!(slow.end().unwrap().why.contains("take 20µs an exchange, the current version's 5µs"));
        assert!(strict.end().unwrap().why.contains("refuses 100.00 %"));
    }
}
