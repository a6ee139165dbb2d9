//! The project's own tasks, run as `cargo xtask TASK`.
//!
//! `setup` installs what the others need, `test` is the whole check, here and
//! in CI, `demo` starts everything to be tried by hand, `bench` measures against
//! the peers, `fuzz` runs one fuzz target.

mod bench;
mod boundaries;
mod check;
mod demo;
mod floors;
mod fuzz;
mod licences;
mod locks;
mod plugins;
mod setup;
mod shell;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tasks of the Sluice project")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what builds, tests and benchmarks need and is missing (Debian 12, as root or by sudo)
    Setup,
    /// Set up, then run every check; with FILTER only the tests whose names contain it
    Test {
        /// Also fuzz every target for a minute and run the soak
        #[arg(long)]
        long: bool,
        /// Part of a test's name
        filter: Option<String>,
    },
    /// What CI runs: the same as `test`
    Ci,
    /// Run the checks of the sources alone: format, borders, dependency floors, locks, licences, lints
    Check,
    /// Build the plugins whose sources changed, and run their own tests
    Plugins,
    /// Set up, build, start everything and print a page of commands to try
    Demo {
        /// Run the commands of the page, say whether each shows what it should, and end
        #[arg(long)]
        check: bool,
    },
    /// Measure against nginx and haproxy; without NAME every benchmark
    Bench {
        /// Which one; `--help` of the benchmark program lists them
        name: Option<String>,
        /// Arguments for the benchmark program, after `--`
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Run one fuzz target
    Fuzz {
        /// The target; without it every target in turn
        target: Option<String>,
        /// Only print which there are
        #[arg(long)]
        list: bool,
        /// How long, each
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Setup => setup::run(setup::Needs::Test),
        Task::Test { long, filter: None } => check::everything(long),
        Task::Test { filter: Some(filter), .. } => check::tests_named(&filter),
        Task::Ci => check::everything(false),
        Task::Check => check::sources(),
        Task::Plugins => setup::run(setup::Needs::Test).and_then(|()| plugins::all()),
        Task::Demo { check } => demo::run(check),
        Task::Bench { name, arguments } => bench::run(name.as_deref(), &arguments),
        Task::Fuzz { list: true, .. } => fuzz::list(),
        Task::Fuzz { target, seconds, .. } => fuzz::run(target.as_deref(), seconds),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
