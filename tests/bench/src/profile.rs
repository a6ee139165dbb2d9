//! Where the time goes: `perf` and `strace` beside a stretch of load.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::Tree;

/// A recorder that runs beside the load.
pub(crate) struct Beside {
    child: Child,
    file: PathBuf,
}

impl Beside {
    /// Samples the stacks of `tree` into `file`.
    pub(crate) fn perf(tree: &Tree, file: PathBuf) -> Result<Self> {
        let ids = ids(tree);
        Self::start(
            "perf",
            "linux-perf",
            Command::new("perf")
                .args(["record", "-q", "-F", "1999", "-e", "cpu-clock", "-g", "-p", &ids, "-o"])
                .arg(&file),
            file,
        )
    }

    /// Counts the system calls of `tree` into `file`.
    pub(crate) fn strace(tree: &Tree, file: PathBuf) -> Result<Self> {
        let mut command = Command::new("strace");
        command.args(["-c", "-f", "-q", "-o"]).arg(&file);
        for id in tree.ids() {
            command.arg("-p").arg(id.to_string());
        }
        Self::start("strace", "strace", &mut command, file)
    }

    fn start(program: &str, package: &str, command: &mut Command, file: PathBuf) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("{program} is not here (Debian's package {package}); run without it"))?;
        // It attaches before the load's warm-up is over; what it misses at the
        // edges is the same for every proxy.
        std::thread::sleep(Duration::from_millis(200));
        Ok(Self { child, file })
    }

    /// Ends it and waits until its file is whole.
    pub(crate) fn finish(mut self) -> Result<PathBuf> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT)?;
        self.child.wait()?;
        Ok(std::mem::take(&mut self.file))
    }
}

fn ids(tree: &Tree) -> String {
    tree.ids().map(|id| id.to_string()).collect::<Vec<_>>().join(",")
}

/// The functions with the most time of their own.
pub(crate) fn hot_spots(file: &Path, count: usize) -> Result<Vec<String>> {
    let output = Command::new("perf")
        .args(["report", "--stdio", "--no-children", "-g", "none", "--percent-limit", "0.4", "-i"])
        .arg(file)
        .output()
        .context("perf report")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines =
        text.lines().filter(|line| line.contains('%')).take(count).map(|line| line.trim_end().to_owned());
    Ok(lines.collect())
}

/// Calls by name, from a summary of `strace -c`.
pub(crate) fn calls(summary: &str) -> Result<BTreeMap<String, u64>> {
    let mut calls = BTreeMap::new();
    for line in summary.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, count, .., name] = fields[..] else { continue };
        if let (Ok(count), false) = (count.parse(), name == "total") {
            calls.insert(name.to_owned(), count);
        }
    }
    if calls.is_empty() {
        bail!("strace counted nothing");
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    #[test]
    fn calls_are_read_from_a_summary_with_and_without_errors() {
        let summary = "% time     seconds  usecs/call     calls    errors syscall\n\
             ------ ----------- ----------- --------- --------- ----------------\n \
             60.00    0.100000          10     10000           write\n \
             40.00    0.050000          10      5000       120 read\n\
             ------ ----------- ----------- --------- --------- ----------------\n\
             100.00    0.150000          10     15000       120 total\n";
        let calls = super::calls(summary).unwrap();
        assert_eq!((calls.len(), calls["write"], calls["read"]), (2, 10_000, 5000));
        assert!(super::calls("nothing").is_err());
    }
}
