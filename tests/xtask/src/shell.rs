//! Running other programs, and saying which.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}

/// A command in the workspace's root.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    command
}

/// `cargo` itself, the one that runs this task.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    command(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()), arguments)
}

/// Prints the command, runs it, prints what it took and fails with it.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let shown = shown(&command);
    eprintln!("\u{2192} {shown}");
    let start = Instant::now();
    let status = command.status().with_context(|| format!("cannot run {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    print_taken(&shown, start);
    Ok(())
}

/// Runs two things at once, for builds that leave cores idle while they link; when
/// both fail, the first one's error is told.
pub(crate) fn together(
    one: impl FnOnce() -> Result<()>,
    other: impl FnOnce() -> Result<()> + Send,
) -> Result<()> {
    std::thread::scope(|scope| {
        let other = scope.spawn(other);
        let done = one();
        let other_done = other.join().map_err(|_| anyhow!("a task panicked"))?;
        done.and(other_done)
    })
}

/// What takes no time is not worth a line.
fn print_taken(shown: &str, start: Instant) {
    let seconds = start.elapsed().as_secs();
    if seconds > 0 {
        eprintln!("\u{2192} {shown}: {seconds} s");
    }
}

/// Prints the command of `cargo test` and runs it; gives the targets whose tests
/// failed, as cargo names them (`-p sluice-tests --test etcd`). Fails when it
/// ended without naming any.
pub(crate) fn failed_targets(mut command: Command) -> Result<Vec<String>> {
    let shown = shown(&command);
    eprintln!("\u{2192} {shown}");
    let mut child = command.stderr(Stdio::piped()).spawn().with_context(|| format!("cannot run {shown}"))?;
    let start = Instant::now();
    let mut failed = Vec::new();
    for line in BufReader::new(child.stderr.take().context("no standard error")?).lines() {
        let line = line.with_context(|| format!("cannot read what {shown} says"))?;
        eprintln!("{line}");
        failed.extend(target_of(&line));
    }
    let status = child.wait()?;
    if !status.success() && failed.is_empty() {
        bail!("{shown}: {status}");
    }
    print_taken(&shown, start);
    Ok(failed)
}

/// The target in a line of cargo's closing list, which is indented and quoted.
fn target_of(line: &str) -> Option<String> {
    let target = line.strip_prefix("    `")?.strip_suffix('`')?;
    target.starts_with("-p ").then(|| target.to_owned())
}

fn shown(command: &Command) -> String {
    // Programs are named as one would type them, without the folder they are in.
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Whether a program is on the path or where Debian keeps what only root uses.
pub(crate) fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .any(|folder| folder.join(name).is_file())
}

#[cfg(test)]
mod tests {
    use super::target_of;

    #[test]
    fn failed_targets_are_read_from_cargos_list() {
        assert_eq!(
            target_of("    `-p sluice-tests --test etcd`").as_deref(),
            Some("-p sluice-tests --test etcd")
        );
        assert_eq!(target_of("    `-p sluice --lib`").as_deref(), Some("-p sluice --lib"));
        assert_eq!(target_of("error: 1 target failed:"), None);
        assert_eq!(target_of("thread 'main' panicked at `-p x`"), None);
    }
}
