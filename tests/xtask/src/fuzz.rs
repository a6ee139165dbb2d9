//! Runs fuzz targets with libFuzzer on the stable toolchain.

use anyhow::{Context, Result, bail};

use crate::setup;
use crate::shell::{self, cargo, root};

/// Runs `target`, or every one, for `seconds` each.
pub(crate) fn run_all(targets: &[String], seconds: u32) -> Result<()> {
    setup::cargo_program("cargo-fuzz", "drives libFuzzer")?;
    for target in targets {
        let time = format!("-max_total_time={seconds}");
        let mut command = cargo(&["fuzz", "run", "--fuzz-dir", "tests/fuzz", "--sanitizer", "none", target]);
        command.args(["--", &time, "-rss_limit_mb=2048", "-timeout=10", "-print_final_stats=1"]);
        // cargo-fuzz passes flags that the stable compiler takes only so.
        command.env("RUSTC_BOOTSTRAP", "1");
        shell::run(command)?;
    }
    Ok(())
}

/// Runs one target or all of them.
pub(crate) fn run(target: Option<&str>, seconds: u32) -> Result<()> {
    let all = targets()?;
    match target {
        None => run_all(&all, seconds),
        Some(name) if all.iter().any(|target| target == name) => run_all(&[name.to_owned()], seconds),
        Some(name) => bail!("no fuzz target {name:?}; there are: {}", all.join(", ")),
    }
}

fn targets() -> Result<Vec<String>> {
    let folder = root().join("tests/fuzz/fuzz_targets");
    let mut targets: Vec<String> = std::fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_owned))
        .collect();
    targets.sort();
    Ok(targets)
}
