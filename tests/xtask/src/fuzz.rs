//! Runs fuzz targets with libFuzzer on the stable toolchain.

use anyhow::{Context, Result, bail};

use crate::setup;
use crate::shell::{self, cargo, root};

/// Where targets are: those of the host, and those of the plugins, which build
/// without it.
const FOLDERS: [&str; 2] = ["tests/fuzz-plugins", "tests/fuzz"];

/// A target and the folder it is in.
type Target = (&'static str, String);

/// Runs one target, or every one, for `seconds` each.
pub(crate) fn run(wanted: Option<&str>, seconds: u32) -> Result<()> {
    let mut all = targets()?;
    if let Some(name) = wanted {
        let names: Vec<String> = all.iter().map(|(_, target)| target.clone()).collect();
        all.retain(|(_, target)| target == name);
        if all.is_empty() {
            bail!("no fuzz target {name:?}; there are: {}", names.join(", "));
        }
    }
    setup::cargo_program("cargo-fuzz", "drives libFuzzer")?;
    for (folder, target) in all {
        let time = format!("-max_total_time={seconds}");
        let mut command = cargo(&["fuzz", "run", "--fuzz-dir", folder, "--sanitizer", "none", &target]);
        command.args(["--", &time, "-rss_limit_mb=2048", "-timeout=10", "-print_final_stats=1"]);
        // cargo-fuzz passes flags that the stable compiler takes only so.
        command.env("RUSTC_BOOTSTRAP", "1");
        shell::run(command)?;
    }
    Ok(())
}

/// Prints the targets there are.
pub(crate) fn list() -> Result<()> {
    targets()?.iter().for_each(|(folder, target)| println!("{target}  ({folder})"));
    Ok(())
}

fn targets() -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for folder in FOLDERS {
        let path = root().join(folder).join("fuzz_targets");
        let files = std::fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let names = files.filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_owned));
        targets.extend(names.map(|name| (folder, name)));
    }
    targets.sort_by(|(_, one), (_, other)| one.cmp(other));
    Ok(targets)
}
