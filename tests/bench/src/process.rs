//! What a process costs: its time on the CPU and its memory, with all of its
//! children.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// A process and the children it has now.
#[derive(Debug, Clone)]
pub(crate) struct Tree(Vec<i32>);

impl Tree {
    /// The tree below `root`, as it is now. Workers that start later are not in it.
    pub(crate) fn of(root: u32) -> Self {
        let mut pids = vec![root as i32];
        let mut next = 0;
        while let Some(&pid) = pids.get(next) {
            next += 1;
            let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for thread in threads.flatten() {
                let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
                pids.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
            }
        }
        Self(pids)
    }

    /// Time on the CPU since each process began, user and kernel, threads that
    /// have ended included. To the nanosecond, unlike `/proc/PID/stat`.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let mut total = Duration::ZERO;
        for &pid in &self.0 {
            let clock = clock_getcpuclockid(Pid::from_raw(pid))
                .with_context(|| format!("process {pid} has ended while it was measured"))?;
            total += Duration::from(clock.now().context("cannot read the clock of a process")?);
        }
        Ok(total)
    }

    /// Proportional set size in bytes: memory of its own, and its share of what
    /// it shares with others.
    pub(crate) fn memory(&self) -> Result<u64> {
        let mut kibibytes = 0;
        for pid in &self.0 {
            let path = format!("/proc/{pid}/smaps_rollup");
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
            let value = line.and_then(|rest| rest.split_whitespace().next()).context("smaps without Pss")?;
            kibibytes += value.parse::<u64>()?;
        }
        Ok(kibibytes * 1024)
    }

    /// The ids, for `perf` and `strace`.
    pub(crate) fn ids(&self) -> impl Iterator<Item = i32> + '_ {
        self.0.iter().copied()
    }
}

/// Nanoseconds of this thread an operation takes, over so many of them.
pub(crate) fn thread_time<E: From<Errno>>(
    operations: u32,
    mut operate: impl FnMut() -> Result<(), E>,
) -> Result<f64, E> {
    let spent = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    let before = spent()?;
    for _ in 0..operations {
        operate()?;
    }
    Ok((spent()? - before).as_nanos() as f64 / f64::from(operations))
}

/// Puts the calling thread, and what it starts from now on, on these CPUs.
pub(crate) fn pin(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).context("cannot set the CPU mask")
}

/// Raises the limit of open files to `wanted`, or as far as it goes; says how far.
pub(crate) fn raise_open_files(wanted: u64) -> Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= wanted {
        return Ok(soft);
    }
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted.max(hard)).is_ok() {
        return Ok(wanted);
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(wanted), hard)?;
    Ok(hard.min(wanted))
}
