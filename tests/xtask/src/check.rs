//! The whole check, in the order in which a fault shows soonest.

use anyhow::Result;

use crate::setup::{self, Needs};
use crate::shell::{cargo, command, root, run};
use crate::{boundaries, floors, fuzz, licences, plugins};

/// The plugins we ship, a workspace of their own.
const PLUGINS: &str = "plugins/Cargo.toml";

/// Everything. `long` adds what takes minutes: fuzzing and the soak.
pub(crate) fn everything(long: bool) -> Result<()> {
    setup::run(Needs::Test)?;
    sources()?;
    build()?;
    plugins::build()?;
    // The programs the tests start are built above; a test builds nothing.
    run(cargo(&["test", "--workspace", "--no-fail-fast"]))?;
    run(cargo(&["test", "--workspace", "--no-fail-fast", "--manifest-path", PLUGINS]))?;
    examples()?;
    if long {
        let long = ["--features", "long", "--test", "long", "--test", "long_lines"];
        run(cargo(&[&["test", "--package", "sluice-tests"], &long[..]].concat()))?;
        fuzz::run(None, 60)?;
    }
    Ok(())
}

/// The tests whose names contain `filter`.
pub(crate) fn tests_named(filter: &str) -> Result<()> {
    setup::run(Needs::Test)?;
    build()?;
    plugins::build()?;
    run(cargo(&["test", "--workspace", "--no-fail-fast", "--", filter]))
}

/// What reads the sources alone.
pub(crate) fn sources() -> Result<()> {
    run(cargo(&["fmt", "--all", "--", "--check"]))?;
    boundaries::check(&root())?;
    floors::check(&root())?;
    licences::check()?;
    run(cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"]))?;
    run(cargo(&["fmt", "--all", "--manifest-path", PLUGINS, "--", "--check"]))?;
    let lints = ["clippy", "--workspace", "--all-targets", "--quiet", "--manifest-path", PLUGINS];
    run(cargo(&[&lints[..], &["--", "--deny", "warnings"]].concat()))
}

fn build() -> Result<()> {
    run(cargo(&["build", "--workspace", "--bins"]))
}

/// Every example directory is a valid store.
fn examples() -> Result<()> {
    let sluice = root().join(target_folder()).join("debug/sluice");
    let mut stores: Vec<_> = std::fs::read_dir(root().join("examples"))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.is_dir())
        .collect();
    stores.sort();
    for store in stores {
        run(command(&sluice.to_string_lossy(), &["check", &store.to_string_lossy()]))?;
    }
    Ok(())
}

/// Where cargo builds, seen from the root.
pub(crate) fn target_folder() -> std::path::PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), Into::into)
}
