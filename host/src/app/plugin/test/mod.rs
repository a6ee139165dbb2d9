//! `sluice plugin test`: a component against a file of cases, without a gateway.

mod cases;
mod function;
mod step;
mod transcoder;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};
use serde::Serialize;

use super::{build, cli, describe};
use crate::plugin::{
    Component, Engine, EngineOptions, Limits, Plugin, PoolSize, Services, Settings, thread_time,
};
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
    let options = EngineOptions {
        pool: PoolSize { instances: 16 },
        perf_map: flags.perf_map,
        ..EngineOptions::default()
    };
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
    let plugin =
        Plugin::open(&code, settings, &Services::alone(folder), &|| Ok(component.clone())).map_err(failed)?;
    let report = Report {
        size: component.len(),
        compiled_ms: compiled.as_secs_f64() * 1e3,
        ready_ms: plugin.prepared_in().as_secs_f64() * 1e3,
        cases: cases.cases.into_iter().map(|case| Outcome::of(&plugin, case)).collect::<Result<_>>()?,
    };
    match flags.output {
        cli::Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        cli::Output::Table => println!("{report}"),
    }
    report.verdict()
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    /// Bytes of the component.
    size: usize,
    compiled_ms: f64,
    /// Until the first instance was configured.
    ready_ms: f64,
    cases: Vec<Outcome>,
}

/// What became of a case.
#[derive(Debug, Serialize)]
struct Outcome {
    name: String,
    passed: bool,
    /// How it differed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Of the processor's time a call, the mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    nanoseconds: Option<f64>,
    /// Bytes the instance has then; none of edge functions, which have one for
    /// each call, gone with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<usize>,
}

impl Outcome {
    fn of(plugin: &Arc<Plugin>, case: Case) -> Result<Self> {
        let name = case.name.clone();
        let step = case.step().with_context(|| format!("case {name:?}"))?;
        Ok(match step::run(plugin, &step) {
            Ok(()) => Self {
                name,
                passed: true,
                error: None,
                nanoseconds: Some(measure(plugin, &step).as_secs_f64() * 1e9),
                memory: Some(plugin.memory()).filter(|bytes| *bytes > 0),
            },
            Err(error) => Self {
                name,
                passed: false,
                error: Some(format!("{error:#}")),
                nanoseconds: None,
                memory: None,
            },
        })
    }
}

impl Report {
    /// An error that says what differed, when something did.
    fn verdict(&self) -> Result<()> {
        let failures: Vec<String> = self
            .cases
            .iter()
            .filter_map(|case| case.error.as_ref().map(|error| format!("{}: {error}", case.name)))
            .collect();
        if failures.is_empty() {
            return Ok(());
        }
        bail!("{} of {} cases failed:\n  {}", failures.len(), self.cases.len(), failures.join("\n  "))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size, compiled_ms, ready_ms, cases } = self;
        writeln!(f, "{}, compiled in {compiled_ms:.0} ms, ready in {ready_ms:.1} ms", describe::size(*size))?;
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(["", "case", "time a call", "memory"]);
        for case in cases {
            let verdict = if case.passed { "ok" } else { "FAILED" };
            let spent = case.nanoseconds.map(|spent| format!("{:.1} \u{b5}s", spent / 1e3));
            let memory = case.memory.map(describe::size);
            table.add_row([verdict, &case.name, &spent.unwrap_or_default(), &memory.unwrap_or_default()]);
        }
        write!(f, "{table}")?;
        if cases.iter().all(|case| case.passed) {
            write!(f, "\n{} cases passed", cases.len())?;
        }
        Ok(())
    }
}

/// What a call of a case takes of the processor's time, the mean; the case is
/// repeated for it.
fn measure(plugin: &Arc<Plugin>, step: &cases::Step) -> Duration {
    let calls_before = plugin.stats().calls();
    let (begin, used) = (Instant::now(), thread_time());
    let (mut repeats, mut until) = (0, 1);
    // Looking at the clock costs too much to do it after each call.
    while repeats < REPEATS_MAX && begin.elapsed() < MEASURED {
        while repeats < until && step::run(plugin, step).is_ok() {
            repeats += 1;
        }
        if repeats < until {
            break;
        }
        until = REPEATS_MAX.min(until + until.min(64));
    }
    let spent = thread_time() - used;
    // Calls of edge functions are counted elsewhere: one for each repeat.
    let calls = plugin.stats().calls() - calls_before;
    spent / u32::try_from(calls).unwrap_or(u32::MAX).max(repeats).max(1)
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
