//! Measures Sluice against nginx and haproxy.
//!
//! All contenders run at the same time and are loaded in turns (A, B, C, B, C,
//! A, …), so that a noisy machine is noisy for all. What is compared is the CPU
//! time of the proxy's processes by operation: unlike requests a second it
//! hardly depends on what else the machine does. Start at [`run`].

mod cases;
mod engine;
mod fleet;
mod idle;
mod load;
mod messages;
mod origin;
mod plugin;
mod process;
mod profile;
mod proxy;
mod report;
mod stats;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;

use crate::cases::{Bench, CASES, Case, IDLE_CASES};
use crate::load::{Bed, Outcome, Tls};
use crate::messages::WAYS;
use crate::origin::Origin;
use crate::plugin::{PAIRS, Pair};
use crate::profile::Beside;
use crate::proxy::{Contender, Kit, Program, Proxy, Stage};
use crate::report::{Circumstances, Line, LoadFigures};
use crate::stats::Spread;

#[derive(Debug, Parser)]
#[command(name = "sluice-bench", about = "Measures Sluice against nginx and haproxy, interleaved in one run")]
struct Options {
    /// What to measure; everything when not said
    #[arg(value_enum)]
    benches: Vec<Bench>,
    /// Only cases whose names contain this
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// Three rounds of one second instead of seven of two and a half
    #[arg(long)]
    quick: bool,
    /// Rounds under load
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of each round
    #[arg(long)]
    seconds: Option<f64>,
    /// Who takes part; the first is what the others are compared with
    #[arg(long, value_delimiter = ',', default_value = "nginx,haproxy,sluice")]
    only: Vec<String>,
    /// A Sluice to measure, as NAME=PATH, instead of the one built beside this
    /// program; several compare builds with each other
    #[arg(long, value_name = "NAME=PATH")]
    sluice: Vec<String>,
    /// Worker threads of each proxy. With 1 it is held to one CPU and the load to the others
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Let everything run on all CPUs
    #[arg(long)]
    no_pin: bool,
    /// Idle connections of each kind
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Also sample stacks (needs perf) in one more round and print where the time goes
    #[arg(long)]
    profile: bool,
    /// Also count system calls (needs strace) in one more round
    #[arg(long)]
    calls: bool,
    /// The file the results are added to, or `none`
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/history.jsonl"))]
    history: PathBuf,
    /// Keep the configurations and logs, and say where
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    if options.benches.contains(&Bench::Fleet) {
        if options.benches.len() > 1 {
            bail!("fleet measures alone: name it alone");
        }
        return fleet::run();
    }
    let files = process::raise_open_files(60_000)?;
    // The client's end and the origin's two ends of a connection are in this process.
    let connections = options.connections.min((files as usize).saturating_sub(600) / 2);
    if connections < options.connections {
        eprintln!(
            "{files} open files are allowed: {connections} idle connections instead of {}",
            options.connections
        );
    }
    let contenders = contenders(options)?;
    let circumstances = circumstances(options, &contenders);
    let directory = tempfile::Builder::new().prefix("sluice-bench-").tempdir()?;
    let (cpus, own_cpus) = masks(options);
    if let Some(own) = &own_cpus {
        process::pin(own)?;
    }
    proxy::write_certificate(directory.path())?;
    let bed = Bed::new()?;
    let stage = Stage {
        directory: directory.path().to_owned(),
        origin: bed.block_on(Origin::start())?,
        bed,
        threads: options.threads,
        open_files: files,
        cpus,
        own_cpus,
    };
    println!(
        "{} on {} cores of {}, {} worker(s) each{}; CPU time of the proxy, relative to {}",
        contenders.iter().map(|contender| contender.name.as_str()).collect::<Vec<_>>().join(", "),
        circumstances.cores,
        circumstances.cpu,
        options.threads,
        if circumstances.is_pinned { ", held to one CPU" } else { "" },
        contenders[0].name,
    );
    let tls = Tls::new()?;
    let mut lines = Vec::new();
    let pairs: Vec<&Pair> =
        PAIRS.iter().filter(|pair| is_wanted(options, Bench::Plugin, pair.name)).collect();
    let outcome = under_load(options, &circumstances, &contenders, &stage, &tls, &mut lines)
        .and_then(|()| match pairs.is_empty() {
            true => Ok(()),
            false => plugin::run(&pairs, &circumstances, &contenders, &stage, &tls, &mut lines),
        })
        .and_then(|()| match engine::PARTS.iter().any(|(name, _)| is_wanted(options, Bench::Engine, name)) {
            true => engine::run(&circumstances, &mut lines).map_err(|error| anyhow!("{error:#}")),
            false => Ok(()),
        })
        .and_then(|()| match WAYS.iter().any(|way| is_wanted(options, Bench::Messages, way.name)) {
            true => messages::run(&circumstances, &contenders, &stage, &mut lines),
            false => Ok(()),
        })
        .and_then(|()| idle(options, connections, &contenders, &stage, &tls, &mut lines));
    if options.history.as_os_str() != "none" && !lines.is_empty() {
        report::append(&options.history, &circumstances, &lines)?;
    }
    if options.keep {
        println!("\nconfigurations and logs: {}", directory.keep().display());
    }
    outcome
}

/// The CPUs of the proxy and those of the load, where it makes sense to part them.
fn masks(options: &Options) -> (Option<Vec<usize>>, Option<Vec<usize>>) {
    let cores = cores();
    if options.no_pin || options.threads != 1 || cores < 2 {
        return (None, None);
    }
    (Some(vec![0]), Some((1..cores).collect()))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn contenders(options: &Options) -> Result<Vec<Contender>> {
    let mut contenders = Vec::new();
    for name in &options.only {
        let program = match name.as_str() {
            "nginx" => Program::Nginx,
            "haproxy" => Program::Haproxy,
            "sluice" if options.sluice.is_empty() => {
                let beside = std::env::current_exe()?.with_file_name("sluice");
                if !beside.exists() {
                    bail!("{} is not built: cargo build --release --package sluice", beside.display());
                }
                Program::Sluice(beside)
            }
            "sluice" => continue,
            _ => bail!("`{name}` is none of nginx, haproxy, sluice"),
        };
        contenders.push(Contender { name: name.clone(), program });
    }
    for text in &options.sluice {
        let (name, path) = text.split_once('=').with_context(|| format!("`{text}` is not NAME=PATH"))?;
        let path = std::fs::canonicalize(path).with_context(|| format!("no Sluice at {path}"))?;
        contenders.push(Contender { name: name.to_owned(), program: Program::Sluice(path) });
    }
    if contenders.is_empty() {
        bail!("no one takes part");
    }
    Ok(contenders)
}

fn circumstances(options: &Options, contenders: &[Contender]) -> Circumstances {
    Circumstances {
        date: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        commit: report::commit(),
        cpu: report::cpu(),
        cores: cores(),
        kernel: report::fact("/proc/sys/kernel/osrelease"),
        load_average: report::fact("/proc/loadavg"),
        versions: contenders.iter().map(|contender| (contender.name.clone(), contender.version())).collect(),
        threads: options.threads,
        is_pinned: masks(options).0.is_some(),
        rounds: options.rounds.unwrap_or(if options.quick { 3 } else { 7 }),
        seconds: options.seconds.unwrap_or(if options.quick { 1.0 } else { 2.5 }),
    }
}

fn is_wanted(options: &Options, bench: Bench, name: &str) -> bool {
    let benches = if options.benches.is_empty() { &Bench::ALL[..] } else { &options.benches };
    benches.contains(&bench) && options.case.as_ref().is_none_or(|text| name.contains(text))
}

fn under_load(
    options: &Options,
    circumstances: &Circumstances,
    contenders: &[Contender],
    stage: &Stage,
    tls: &Tls,
    lines: &mut Vec<Line>,
) -> Result<()> {
    let wanted = CASES.iter().filter(|case| is_wanted(options, case.bench, case.name));
    let (im, relayed): (Vec<&Case>, Vec<&Case>) = wanted.partition(|case| case.bench == Bench::Im);
    let translators: Vec<Contender> = contenders.iter().filter_map(Contender::as_translator).collect();
    for (cases, contenders) in [(relayed, contenders), (im, &translators[..])] {
        if !cases.is_empty() {
            measure(options, circumstances, &cases, contenders, stage, tls, lines)?;
        }
    }
    Ok(())
}

fn measure(
    options: &Options,
    circumstances: &Circumstances,
    wanted: &[&Case],
    contenders: &[Contender],
    stage: &Stage,
    tls: &Tls,
    lines: &mut Vec<Line>,
) -> Result<()> {
    let proxies: Vec<Proxy> = contenders
        .iter()
        .map(|contender| Proxy::start(contender, stage, Kit::Plain, 0))
        .collect::<Result<_>>()?;
    for &case in wanted {
        let rounds = rounds(case, &proxies, circumstances, stage, tls)?;
        let costs: Vec<Vec<f64>> = rounds.iter().map(|rounds| rounds.iter().map(cost).collect()).collect();
        let figures = rounds.iter().map(|rounds| LoadFigures::of(rounds));
        let found = compare(case.name, names(contenders), &costs, figures)?;
        let title = format!("{}: {:?}", case.name, case.load);
        report::print(&title, &format!("us/{}", case.operation), &found, case.goal, true);
        lines.extend(found);
        if options.calls {
            proxies.iter().try_for_each(|proxy| count_calls(case, proxy, stage, tls))?;
        }
        if options.profile {
            proxies.iter().try_for_each(|proxy| sample(case, proxy, stage, tls))?;
        }
    }
    Ok(())
}

/// Loads each proxy in turn, another one first in each round. One outcome a
/// round for each proxy.
fn rounds(
    case: &Case,
    proxies: &[Proxy],
    circumstances: &Circumstances,
    stage: &Stage,
    tls: &Tls,
) -> Result<Vec<Vec<Outcome>>> {
    let load = |proxy: &Proxy, seconds: f64| {
        stage
            .bed
            .run(case.load, &proxy.ports, tls, &proxy.tree(), Duration::from_secs_f64(seconds))
            .with_context(|| format!("{} under {}\n{}", proxy.name, case.name, proxy.log()))
    };
    for proxy in proxies {
        load(proxy, 0.3)?;
    }
    let mut outcomes: Vec<Vec<Outcome>> = proxies.iter().map(|_| Vec::new()).collect();
    for round in 0..circumstances.rounds {
        for turn in 0..proxies.len() {
            let index = (round + turn) % proxies.len();
            let outcome = load(&proxies[index], circumstances.seconds)?;
            if outcome.operations == 0 {
                bail!("{} finished nothing under {}", proxies[index].name, case.name);
            }
            outcomes[index].push(outcome);
        }
    }
    Ok(outcomes)
}

/// Microseconds of CPU an operation.
fn cost(outcome: &Outcome) -> f64 {
    outcome.cpu.as_secs_f64() * 1e6 / outcome.operations as f64
}

fn names(contenders: &[Contender]) -> impl Iterator<Item = &str> {
    contenders.iter().map(|contender| contender.name.as_str())
}

/// Costs of a case, and what they are relative to the first contender's, round by round.
fn compare<'a>(
    case: &'static str,
    names: impl Iterator<Item = &'a str>,
    costs: &[Vec<f64>],
    figures: impl Iterator<Item = Option<LoadFigures>>,
) -> Result<Vec<Line>> {
    let lines = names.zip(costs).zip(figures).map(|((name, own), load)| {
        let ratios = own.iter().zip(&costs[0]).map(|(own, first)| own / first);
        Ok(Line {
            case,
            contender: name.to_owned(),
            cost: Spread::of(own.iter().copied()).context("no round")?,
            ratio: Spread::of(ratios).context("no round")?,
            load,
        })
    });
    lines.collect()
}

fn idle(
    options: &Options,
    connections: usize,
    contenders: &[Contender],
    stage: &Stage,
    tls: &Tls,
    lines: &mut Vec<Line>,
) -> Result<()> {
    let rounds = if options.quick { 1 } else { 3 };
    for (number, case) in IDLE_CASES.iter().enumerate() {
        if !is_wanted(options, Bench::Idle, case.name) {
            continue;
        }
        let mut costs: Vec<Vec<f64>> = contenders.iter().map(|_| Vec::new()).collect();
        for round in 0..rounds {
            for (contender, costs) in contenders.iter().zip(&mut costs) {
                let proxy = Proxy::start(contender, stage, Kit::Plain, 1 + number * rounds + round)?;
                let bytes = idle::measure(&stage.bed, case, &proxy, tls, connections)
                    .with_context(|| format!("{} under {}\n{}", contender.name, case.name, proxy.log()))?;
                costs.push(bytes);
            }
        }
        let found = compare(case.name, names(contenders), &costs, contenders.iter().map(|_| None))?;
        let title = format!("{}: {connections} connections held after one exchange", case.name);
        report::print(&title, "bytes each", &found, case.goal, false);
        lines.extend(found);
    }
    Ok(())
}

/// Prints system calls an operation.
fn count_calls(case: &Case, proxy: &Proxy, stage: &Stage, tls: &Tls) -> Result<()> {
    let file = stage.directory.join(format!("{}-{}.calls", case.name, proxy.name));
    let tree = proxy.tree();
    let beside = Beside::strace(&tree, file)?;
    let outcome = stage.bed.run(case.load, &proxy.ports, tls, &tree, Duration::from_secs(2))?;
    let summary = std::fs::read_to_string(beside.finish()?)?;
    let calls = profile::calls(&summary)?;
    let operations = outcome.operations_in_all as f64;
    let mut parts: Vec<(f64, String)> =
        calls.into_iter().map(|(name, count)| (count as f64 / operations, name)).collect();
    parts.sort_by(|a, b| b.0.total_cmp(&a.0));
    let total: f64 = parts.iter().map(|part| part.0).sum();
    let list: Vec<String> = parts
        .iter()
        .filter(|part| part.0 >= 0.01)
        .map(|(count, name)| format!("{name} {count:.2}"))
        .collect();
    println!("  calls of {}: {total:.2} an operation: {}", proxy.name, list.join(", "));
    Ok(())
}

/// Prints the functions that took the most time.
fn sample(case: &Case, proxy: &Proxy, stage: &Stage, tls: &Tls) -> Result<()> {
    let file = std::env::temp_dir().join(format!("sluice-bench-{}-{}.perf", case.name, proxy.name));
    let tree = proxy.tree();
    let beside = Beside::perf(&tree, file)?;
    stage.bed.run(case.load, &proxy.ports, tls, &tree, Duration::from_secs(4))?;
    let file = beside.finish()?;
    println!("  {} ({}):", proxy.name, file.display());
    for line in profile::hot_spots(&file, 30)? {
        println!("    {line}");
    }
    Ok(())
}
