//! The whole check, in the order in which a fault shows soonest.

use anyhow::Result;

use crate::setup::{self, Needs};
use crate::shell::{cargo, failed_targets, root, run, together};
use crate::{boundaries, floors, fuzz, licences, locks, plugins};

/// The plugins we ship, a workspace of their own.
const PLUGINS: &str = "plugins/Cargo.toml";

/// Everything. `long` adds what takes minutes: fuzzing and the soak.
pub(crate) fn everything(long: bool) -> Result<()> {
    setup::run(Needs::Test)?;
    sources()?;
    together(build, || run(cargo(&["build", "--workspace", "--tests", "--manifest-path", PLUGINS])))?;
    plugins::build("debug")?;
    // The programs the tests start are built above; a test builds nothing.
    tests(&["--workspace", "--no-fail-fast"])?;
    tests(&["--workspace", "--no-fail-fast", "--manifest-path", PLUGINS])?;
    if long {
        // The whole workspace is named, so that its crates are those built above.
        let long = [
            "--features",
            "sluice-tests/long",
            "--test",
            "long",
            "--test",
            "long_lines",
            "--test",
            "long_im",
        ];
        run(cargo(&[&["test", "--workspace"], &long[..]].concat()))?;
        fuzz::run(None, 60)?;
    }
    Ok(())
}

/// `cargo test` with `arguments`. A target that fails runs once more when the
/// others are done: what a crowded machine does to a program that talks to a
/// dozen others shows only once, a fault shows twice. Both runs are printed, and
/// what failed once is named at the end.
fn tests(arguments: &[&str]) -> Result<()> {
    let failed = match failed_targets(cargo(&[&["test"], arguments].concat()))? {
        failed if failed.is_empty() => return Ok(()),
        failed => failed,
    };
    for target in &failed {
        let words: Vec<&str> = target.split_whitespace().skip(2).collect();
        run(cargo(&[&["test"], arguments, &words].concat()))?;
    }
    eprintln!("warning: failed at first, and passed when run again: {}", failed.join(", "));
    Ok(())
}

/// The tests whose names contain `filter`.
pub(crate) fn tests_named(filter: &str) -> Result<()> {
    setup::run(Needs::Test)?;
    build()?;
    plugins::build("debug")?;
    run(cargo(&["test", "--workspace", "--no-fail-fast", "--", filter]))
}

/// What reads the sources alone.
pub(crate) fn sources() -> Result<()> {
    run(cargo(&["fmt", "--all", "--", "--check"]))?;
    boundaries::check(&root())?;
    floors::check(&root())?;
    locks::check(&root())?;
    licences::check()?;
    run(cargo(&["fmt", "--all", "--manifest-path", PLUGINS, "--", "--check"]))?;
    let lints = |of: [&str; 2]| {
        let words = ["clippy", "--workspace", "--all-targets", "--quiet", of[0], of[1]];
        run(cargo(&[&words[..], &["--", "--deny", "warnings"]].concat()))
    };
    together(|| lints(["--features", "sluice-tests/long"]), || lints(["--manifest-path", PLUGINS]))
}

/// Programs and tests at once: apart, cargo would build what both depend on twice,
/// as tests ask for more features of it.
fn build() -> Result<()> {
    run(cargo(&["build", "--workspace", "--bins", "--tests"]))
}

/// Where cargo builds, seen from the root.
pub(crate) fn target_folder() -> std::path::PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), Into::into)
}
