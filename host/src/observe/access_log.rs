//! The access log: JSON lines, written by one thread, never waited for.
//!
//! Each worker formats its lines into a buffer of its own. The writer thread
//! takes the full buffer away and leaves an empty one: at the latest every
//! [`FLUSH_AFTER`], sooner when a buffer has passed [`WAKE_AT`]. The lock between
//! the two is held by the writer only for that exchange of pointers. When the
//! target is slower than the traffic, a buffer reaches its limit and further
//! lines are dropped and counted; no worker ever waits for a disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};

use super::json::{Object, key};
use super::log_config::{LogConfig, LogTarget};
use super::record::{BlockedRecord, ConnectionRecord, HttpRecord};

/// The longest a line waits before it is handed to the system.
const FLUSH_AFTER: Duration = Duration::from_millis(250);
/// A worker's buffer of this many bytes wakes the writer.
const WAKE_AT: usize = 32 << 10;
/// What a buffer keeps of its memory after a burst.
const BUFFER_KEPT: usize = 64 << 10;

/// How opening the log fails.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be appended to.
    #[error("access log `{path}`: {source}")]
    Open {
        /// The path as configured.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A field of the configuration is out of range.
    #[error("{0}")]
    Config(String),
    /// The writer's thread could not be started.
    #[error("access log writer: {0}")]
    Thread(io::Error),
}

/// What became of the log's lines, for the metrics.
#[derive(Debug, Default)]
pub struct LogCounters {
    /// Lines dropped because a worker's buffer was full.
    pub dropped_full: AtomicU64,
    /// Lines dropped because the target could not be written.
    pub dropped_failed: AtomicU64,
    /// Lines handed to the system.
    pub written: AtomicU64,
    /// Times the file could not be opened again.
    pub reopen_failed: AtomicU64,
}

/// The process's access log: owns the writer thread.
#[derive(Debug)]
pub struct LogWriter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: LogConfig,
    /// `"gateway":"<node id>"` is on every line.
    node_id: String,
    shards: Mutex<Vec<Arc<Shard>>>,
    counters: LogCounters,
    reopen: AtomicBool,
    closing: AtomicBool,
    wake: Mutex<Wake>,
    writer: Condvar,
    closed: Condvar,
}

#[derive(Debug, Default)]
struct Wake {
    asked: bool,
    done: bool,
}

/// A worker's share of the log; cheap to clone, one per worker thread.
#[derive(Debug, Clone, Default)]
pub struct AccessLog {
    on: Option<(Arc<Shared>, Arc<Shard>)>,
}

#[derive(Debug, Default)]
struct Shard {
    state: Mutex<ShardState>,
}

#[derive(Debug, Default)]
struct ShardState {
    buffer: Vec<u8>,
    lines: u64,
    woken: bool,
    sampled: u32,
    clock: Clock,
}

impl LogWriter {
    /// Opens the target and starts the writer; with the log off it does neither.
    /// `node_id` is the `gateway` of every line.
    pub fn start(config: &LogConfig, node_id: &str) -> Result<Arc<Self>, LogError> {
        config.validate().map_err(LogError::Config)?;
        let shared = Arc::new(Shared {
            config: config.clone(),
            node_id: node_id.to_owned(),
            shards: Mutex::default(),
            counters: LogCounters::default(),
            reopen: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            wake: Mutex::default(),
            writer: Condvar::new(),
            closed: Condvar::new(),
        });
        if let Some(target) = Target::open(&config.access)? {
            let shared = shared.clone();
            thread::Builder::new()
                .name("sluice-log".into())
                .spawn(move || write_until_closed(&shared, target))
                .map_err(LogError::Thread)?;
        } else {
            shared.wake.lock().done = true;
        }
        Ok(Arc::new(Self { shared }))
    }

    /// A share for one worker thread.
    #[must_use]
    pub fn worker(&self) -> AccessLog {
        if self.shared.config.access == LogTarget::Off {
            return AccessLog::default();
        }
        let shard = Arc::new(Shard::default());
        self.shared.shards.lock().push(shard.clone());
        AccessLog { on: Some((self.shared.clone(), shard)) }
    }

    /// Opens the file again, after the lines so far went to the old one: for
    /// rotation. When it cannot be opened the old one stays in use.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Relaxed);
        self.shared.wake_writer();
    }

    /// Writes what is buffered and ends the writer, waiting no longer than
    /// `limit`. Says whether everything was written in time.
    pub fn close(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        self.shared.closing.store(true, Relaxed);
        self.shared.wake_writer();
        let mut wake = self.shared.wake.lock();
        while !wake.done {
            if self.shared.closed.wait_until(&mut wake, deadline).timed_out() {
                return wake.done;
            }
        }
        true
    }

    /// What became of the lines.
    #[must_use]
    pub fn counters(&self) -> &LogCounters {
        &self.shared.counters
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.shared.closing.store(true, Relaxed);
        self.shared.wake_writer();
    }
}

impl AccessLog {
    /// Whether lines are wanted; ask before gathering what only the log needs.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// Logs a request.
    pub fn http(&self, record: &HttpRecord<'_>) {
        let Some((shared, _)) = &self.on else { return };
        let may_skip = shared.config.sample > 1 && record.is_ordinary();
        self.line("request", record.ended, may_skip, |line| {
            record.write(line, &shared.config);
        });
    }

    /// Logs a connection.
    pub fn connection(&self, record: &ConnectionRecord<'_>) {
        self.line("connection", Instant::now(), false, |line| record.write(line));
    }

    /// Logs a blocked call inside a connection.
    pub fn blocked(&self, record: &BlockedRecord<'_>) {
        self.line("blocked", Instant::now(), false, |line| record.write(line));
    }

    fn line(&self, kind: &str, now: Instant, may_skip: bool, fill: impl FnOnce(&mut Object<'_>)) {
        let Some((shared, shard)) = &self.on else { return };
        let mut state = shard.state.lock();
        let state = &mut *state;
        if may_skip {
            state.sampled = (state.sampled + 1) % shared.config.sample;
            if state.sampled != 0 {
                return;
            }
        }
        if state.buffer.len() >= shared.config.buffer_max {
            shared.counters.dropped_full.fetch_add(1, Relaxed);
            return;
        }
        let now = state.clock.text(now);
        let mut line = Object::open(&mut state.buffer, shared.config.value_max);
        line.plain(key!("time"), &now);
        line.plain(key!("kind"), kind.as_bytes());
        line.text_unless_empty(key!("gateway"), shared.node_id.as_bytes());
        fill(&mut line);
        line.close();
        state.buffer.push(b'\n');
        state.lines += 1;
        if state.buffer.len() >= WAKE_AT && !state.woken {
            state.woken = true;
            shared.wake_writer();
        }
    }
}

impl Shared {
    fn wake_writer(&self) {
        self.wake.lock().asked = true;
        self.writer.notify_one();
    }
}

/// UTC time as text; the part that changes once a second is kept.
#[derive(Debug, Default)]
struct Clock {
    second: u64,
    text: String,
    /// One moment on both clocks, so that the system's need not be asked for
    /// every line.
    anchor: Option<(Instant, Duration)>,
}

/// How long a step of the system's clock may go unnoticed.
const ANCHOR_AGE_MAX: Duration = Duration::from_millis(250);

impl Clock {
    fn text(&mut self, now: Instant) -> [u8; 24] {
        let since = now.saturating_duration_since(self.anchor.map_or(now, |(at, _)| at));
        let wall = match self.anchor {
            Some((_, wall)) if since < ANCHOR_AGE_MAX => wall + since,
            _ => {
                let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.anchor = Some((now, wall));
                wall
            }
        };
        self.at(wall)
    }

    /// `2026-01-31T23:59:59.999Z`
    fn at(&mut self, since_epoch: Duration) -> [u8; 24] {
        if self.second != since_epoch.as_secs() || self.text.is_empty() {
            self.second = since_epoch.as_secs();
            let time = jiff::Timestamp::from_second(self.second as i64).unwrap_or_default();
            self.text = time.strftime("%Y-%m-%dT%H:%M:%S").to_string();
        }
        // A copy on the stack: the line borrows the state the clock lies in.
        let mut text = [0; 24];
        let length = self.text.len().min(19);
        text[..length].copy_from_slice(&self.text.as_bytes()[..length]);
        let millis = since_epoch.subsec_millis();
        let digit = |value: u32| b'0' + (value % 10) as u8;
        text[19..].copy_from_slice(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis), b'Z']);
        text
    }
}

/// What the writer writes to.
enum Target {
    Stdout,
    File(File),
}

impl Target {
    fn open(target: &LogTarget) -> Result<Option<Self>, LogError> {
        match target {
            LogTarget::Off => Ok(None),
            LogTarget::Stdout => Ok(Some(Self::Stdout)),
            LogTarget::File(path) => match append_to(path) {
                Ok(file) => Ok(Some(Self::File(file))),
                Err(source) => Err(LogError::Open { path: path.display().to_string(), source }),
            },
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout => rustix::io::write(rustix::stdio::stdout(), bytes).map_err(io::Error::from),
            Self::File(file) => file.write(bytes),
        }
    }
}

/// Opens for appending, so that two processes (a takeover) may share the file.
fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn write_until_closed(shared: &Shared, mut target: Target) {
    let mut spare = Vec::new();
    // Whether the last write broke off inside a line.
    let mut torn = false;
    loop {
        let closing = wait_for_work(shared);
        // The list only grows, by one a worker; the lock is not held while writing.
        let shards = shared.shards.lock().clone();
        for shard in &shards {
            let lines = take(shard, &mut spare);
            if lines > 0 {
                write_batch(shared, &mut target, &spare, lines, &mut torn);
            }
            spare.clear();
            spare.shrink_to(BUFFER_KEPT);
        }
        if shared.reopen.swap(false, Relaxed) {
            reopen(shared, &mut target, &mut torn);
        }
        if closing {
            break;
        }
    }
    shared.wake.lock().done = true;
    shared.closed.notify_all();
}

/// Waits until there is something to do; says whether this is the last round.
fn wait_for_work(shared: &Shared) -> bool {
    let mut wake = shared.wake.lock();
    if !wake.asked {
        shared.writer.wait_for(&mut wake, FLUSH_AFTER);
    }
    wake.asked = false;
    drop(wake);
    shared.closing.load(Relaxed)
}

/// Exchanges the shard's buffer for the empty `spare`; returns its lines.
fn take(shard: &Shard, spare: &mut Vec<u8>) -> u64 {
    let mut state = shard.state.lock();
    std::mem::swap(&mut state.buffer, spare);
    state.woken = false;
    std::mem::take(&mut state.lines)
}

fn write_batch(shared: &Shared, target: &mut Target, batch: &[u8], lines: u64, torn: &mut bool) {
    let mut done = 0;
    let outcome = if *torn { write_whole(target, b"\n", &mut 0) } else { Ok(()) };
    let outcome = outcome.and_then(|()| {
        *torn = false;
        write_whole(target, batch, &mut done)
    });
    let Err(error) = outcome else {
        shared.counters.written.fetch_add(lines, Relaxed);
        return;
    };
    let whole = batch[..done].iter().filter(|byte| **byte == b'\n').count() as u64;
    *torn |= done > 0 && batch[done - 1] != b'\n';
    shared.counters.written.fetch_add(whole, Relaxed);
    let before = shared.counters.dropped_failed.fetch_add(lines - whole, Relaxed);
    if before == 0 {
        tracing::error!(target = %shared.config.access, %error, "the access log cannot be written, lines are dropped and counted");
    }
}

fn write_whole(target: &mut Target, bytes: &[u8], done: &mut usize) -> io::Result<()> {
    while *done < bytes.len() {
        match target.write(&bytes[*done..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => *done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Someone made our stdout non-blocking: wait a moment, this is the writer's own thread.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(5))
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn reopen(shared: &Shared, target: &mut Target, torn: &mut bool) {
    match Target::open(&shared.config.access) {
        Ok(Some(fresh)) => {
            if matches!(fresh, Target::File(_)) {
                *torn = false;
            }
            *target = fresh;
        }
        Ok(None) => {}
        Err(error) => {
            shared.counters.reopen_failed.fetch_add(1, Relaxed);
            tracing::error!(%error, "the access log cannot be opened again, the old file stays in use");
        }
    }
}

#[cfg(test)]
mod tests;
