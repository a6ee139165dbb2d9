//! `sluice plugin test`: a component against a file of cases, without a gateway.

mod cases;
mod function;
mod step;
mod transcoder;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};

use super::{build, cli, describe};
use crate::plugin::{Component, Engine, EngineOptions, Limits, Plugin, PoolSize, Services, Settings};
use cases::{Case, Cases};

/// How long a case is repeated to be measured.
const MEASURED: Duration = Duration::from_millis(100);
/// How often at most.
const REPEATS_MAX: u32 = 10_000;
/// The file of cases in a folder of sources.
const CASES: &str = "cases.yaml";

/// Runs the cases and prints what each did; an error when one failed.
pub(super) fn run(flags: &cli::Test) -> Result<()> {
    let (component, folder) = component(&flags.path)?;
    let file = flags.cases.clone().unwrap_or_else(|| folder.join(CASES));
    let cases = Cases::read(&file)?;
    let failed = |error: crate::plugin::LoadError| anyhow::anyhow!("the component {error}");
    let options = EngineOptions { pool: PoolSize { instances: 16 }, ..EngineOptions::default() };
    let engine = Engine::new(&options).map_err(|error| anyhow::anyhow!("{error}"))?;
    let begin = Instant::now();
    let code = Component::compile(&engine, &component).map_err(failed)?;
    let compiled = begin.elapsed();
    let mut settings = Settings::new("test", serde_json::Value::Object(cases.config));
    settings.kv = cases.grants.kv;
    settings.fetch = cases.grants.fetch;
    // One instance, so that its memory tells of all calls.
    settings.slots = 1;
    if code.is_function() {
        settings.limits = Limits::of_functions();
    }
    let plugin = Plugin::open(&code, settings, &Services::alone(folder)).map_err(failed)?;
    println!(
        "{}, compiled in {:.0} ms, ready in {:.1} ms",
        describe::size(component.len()),
        compiled.as_secs_f64() * 1000.0,
        plugin.prepared_in().as_secs_f64() * 1000.0,
    );
    report(&plugin, cases.cases)
}

/// Runs each case, then prints a line of each.
fn report(plugin: &Arc<Plugin>, cases: Vec<Case>) -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["", "case", "time a call", "memory"]);
    let (mut failures, count) = (Vec::new(), cases.len());
    for case in cases {
        let name = case.name.clone();
        let step = case.step().with_context(|| format!("case {name:?}"))?;
        match step::run(plugin, &step) {
            Ok(()) => {
                let spent = time(measure(plugin, &step));
                // Edge functions have an instance for each call, gone with it.
                let memory = match plugin.memory() {
                    0 => String::new(),
                    bytes => describe::size(bytes),
                };
                table.add_row(["ok".to_owned(), name, spent, memory]);
            }
            Err(error) => {
                table.add_row(["FAILED".to_owned(), name.clone(), String::new(), String::new()]);
                failures.push(format!("{name}: {error:#}"));
            }
        }
    }
    println!("{table}");
    if failures.is_empty() {
        println!("{count} cases passed");
        return Ok(());
    }
    bail!("{} of {count} cases failed:\n  {}", failures.len(), failures.join("\n  "))
}

/// The mean time of a call of a case, which is repeated for it.
fn measure(plugin: &Arc<Plugin>, step: &cases::Step) -> Duration {
    let calls_before = plugin.stats().calls();
    let begin = Instant::now();
    let mut repeats = 0;
    while repeats < REPEATS_MAX && begin.elapsed() < MEASURED {
        if step::run(plugin, step).is_err() {
            break;
        }
        repeats += 1;
    }
    let spent = begin.elapsed();
    // Calls of edge functions are counted elsewhere: one for each repeat.
    let calls = plugin.stats().calls() - calls_before;
    spent / u32::try_from(calls).unwrap_or(u32::MAX).max(repeats).max(1)
}

fn time(duration: Duration) -> String {
    format!("{:.1} \u{b5}s", duration.as_secs_f64() * 1e6)
}

/// The component at a path, built if it is a folder of sources, and the folder.
fn component(path: &Path) -> Result<(Vec<u8>, PathBuf)> {
    if path.is_dir() {
        let folder = path.canonicalize().with_context(|| format!("cannot open {}", path.display()))?;
        let (_, component) = build::component(&folder)?;
        return Ok((component, folder));
    }
    let component = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((component, folder.to_owned()))
}
