//! A program that ends with its test.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, kill_process};

pub use rustix::process::Signal;

use crate::network::Namespace;
use crate::wait::within;

/// Lines of a log that are printed when a test fails.
const LOG_LINES_SHOWN: usize = 120;

/// A running program. Its output goes to a file. Dropping it ends it: with its
/// stop signal first, by force after two seconds; if the test failed, the end of
/// its log is printed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    stop: Signal,
    exited: Option<ExitStatus>,
    told_to_end: bool,
}

impl Process {
    /// Starts `command` with both outputs in the file `log`.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Process {
        let file = File::options().create(true).append(true).open(log).expect("the log file can be made");
        let copy = file.try_clone().expect("a descriptor is free");
        command.stdin(Stdio::null()).stdout(copy).stderr(file);
        without_proxies(&mut command);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Process {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            stop: Signal::KILL,
            exited: None,
            told_to_end: false,
        }
    }

    /// Sets the signal that dropping sends first; without it, it kills at once.
    pub fn stop_with(mut self, signal: Signal) -> Process {
        self.stop = signal;
        self
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal; a process that has ended is left alone.
    pub fn signal(&mut self, signal: Signal) {
        if self.exit_status().is_none() {
            self.told_to_end |=
                [Signal::TERM, Signal::INT, Signal::QUIT, Signal::KILL, Signal::ABORT].contains(&signal);
            // It may end between the two lines; then there is nobody to tell.
            let _ = kill_process(self.raw_pid(), signal);
        }
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait(Duration::from_secs(10));
    }

    /// How it ended; none while it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.exited.is_none() {
            self.exited = self.child.try_wait().expect("a child can be waited for");
        }
        self.exited
    }

    /// Waits for its end; panics with its log after `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.exit_status() {
                return status;
            }
            assert!(
                start.elapsed() < deadline,
                "{} runs on after {deadline:?}\n{}",
                self.name,
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Panics with the log if it has ended.
    pub fn expect_running(&mut self) {
        if let Some(status) = self.exit_status() {
            panic!("{} has ended: {status}\n{}", self.name, self.log_tail());
        }
    }

    /// Panics with the log if it has panicked, or has ended without a signal
    /// that told it to.
    pub fn expect_sound(&mut self) {
        if !self.told_to_end {
            self.expect_running();
        }
        assert!(!self.log().contains("panicked at"), "{} has panicked\n{}", self.name, self.log_tail());
    }

    /// Waits for `ready`, and panics with the log when the process ends or the
    /// deadline passes first.
    pub fn until<T>(&mut self, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        // A gateway starts when its modules are compiled, and that takes long
        // where a machine has more to do.
        let deadline = Duration::from_secs(120);
        loop {
            if let Some(value) = ready() {
                return value;
            }
            self.expect_running();
            let late = start.elapsed() > deadline;
            assert!(!late, "{}: not within {deadline:?}: {what}\n{}", self.name, self.log_tail());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Waits until its output contains `text`.
    pub fn until_logged(&self, text: &str) {
        within(Duration::from_secs(15), &format!("{} prints {text:?}", self.name), || {
            self.log().contains(text).then_some(())
        });
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        format!("---- the last lines of {}\n{}\n----", self.name, tail.join("\n"))
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.status_field("VmRSS:") * 1024
    }

    /// Proportional memory in bytes: what is shared with other processes counts
    /// in part. Slower to read than [`Process::resident_bytes`].
    pub fn proportional_bytes(&self) -> u64 {
        let rollup = self.proc_file("smaps_rollup");
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let number =
            line.and_then(|line| line.split_whitespace().next()).and_then(|word| word.parse::<u64>().ok());
        number.unwrap_or_else(|| panic!("{} has no Pss in its smaps_rollup", self.name)) * 1024
    }

    /// Threads.
    pub fn threads(&self) -> u64 {
        self.status_field("Threads:")
    }

    fn status_field(&self, name: &str) -> u64 {
        let status = self.proc_file("status");
        let line = status.lines().find(|line| line.starts_with(name));
        let number = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|word| word.parse().ok());
        number.unwrap_or_else(|| panic!("{} has no {name} in its status", self.name))
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.pid());
        std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", self.name)).count()
    }

    /// CPU time used so far, in steps of 10 ms.
    pub fn cpu(&self) -> Duration {
        let stat = self.proc_file("stat");
        // The name in brackets may hold spaces; the numbers follow it.
        let after = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        let ticks = |at: usize| after.split_whitespace().nth(at).and_then(|word| word.parse::<u64>().ok());
        Duration::from_millis((ticks(11).unwrap_or(0) + ticks(12).unwrap_or(0)) * 10)
    }

    fn proc_file(&self, name: &str) -> String {
        let path = format!("/proc/{}/{name}", self.pid());
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{} is gone: {error}", self.name))
    }

    fn raw_pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        self.signal(self.stop);
        if self.stop != Signal::KILL {
            let start = Instant::now();
            while self.exit_status().is_none() && start.elapsed() < Duration::from_secs(2) {
                std::thread::sleep(Duration::from_millis(5));
            }
            self.signal(Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// A command of a program that `cargo xtask setup` installs. Panics with that
/// advice if it is not there.
pub fn tool(name: &str) -> Command {
    let mut command = Command::new(find_tool(name));
    without_proxies(&mut command);
    command
}

fn find_tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers where only root looks.
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: run `cargo xtask setup`"))
}

/// A command in a namespace, or as it is.
pub(crate) fn command_in(namespace: Option<&Namespace>, program: impl AsRef<OsStr>) -> Command {
    match namespace {
        None => Command::new(program),
        Some(namespace) => {
            // `ip netns exec` becomes the program: same process, same id.
            let mut command = tool("ip");
            command.args(["netns", "exec", namespace.name()]).arg(program);
            command
        }
    }
}

/// Every connection of a test stays on this machine.
pub(crate) fn without_proxies(command: &mut Command) {
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
}

/// Path of a program of this workspace: from the environment variable
/// `NAME_BIN`, else beside the running test. Panics with the command that builds
/// it.
pub fn program(name: &str) -> PathBuf {
    let variable = format!("{}_BIN", name.to_uppercase().replace('-', "_"));
    if let Some(path) = std::env::var_os(&variable) {
        return path.into();
    }
    let own = std::env::current_exe().expect("a running program has a path");
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "{name} is not built beside {}: run `cargo build --workspace --bins`, or set {variable}",
            own.display()
        )
    })
}

pub(crate) fn io_ok<T>(what: &str, result: io::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (Process, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let mut command = tool("sh");
        command.args(["-c", script]);
        (Process::spawn("shell", command, &folder.path().join("log")), folder)
    }

    #[test]
    fn a_process_ends_with_its_value() {
        let (mut process, _folder) = shell("echo ready; exec sleep 600");
        process.until_logged("ready");
        process.expect_sound();
        assert!(process.proportional_bytes() > 0);
        let proc = PathBuf::from(format!("/proc/{}", process.pid()));
        drop(process);
        assert!(!proc.exists());
    }

    #[test]
    fn one_that_was_told_to_end_is_sound() {
        let (mut process, _folder) = shell("exec sleep 600");
        process.kill();
        process.expect_sound();
    }

    #[test]
    #[should_panic(expected = "shell has ended")]
    fn one_that_ends_by_itself_is_not() {
        let (mut process, _folder) = shell("exit 3");
        process.wait(Duration::from_secs(10));
        process.expect_sound();
    }

    #[test]
    #[should_panic(expected = "shell has panicked")]
    fn nor_is_one_that_panicked_and_went_on() {
        let (mut process, _folder) = shell("echo \"thread 'x' panicked at y\"; exec sleep 600");
        process.until_logged("panicked");
        process.expect_sound();
    }

    #[test]
    #[should_panic(expected = "cargo xtask setup")]
    fn a_missing_tool_names_the_set_up_command() {
        tool("no-such-program");
    }
}
