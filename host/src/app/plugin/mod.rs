//! `sluice plugin`: what authors of plugins use, without a gateway, and how
//! versions come into a fleet.
//!
//! `new` writes a plugin to begin with, `build` makes a component of sources,
//! `test` tries one out, `inspect` tells what is in one,
//! `sign` vouches for one; `push`, `promote`, `rollback` and `list` are about the
//! modules of a running fleet. Each command is one file here.

mod build;
pub mod cli;
mod describe;
mod inspect;
mod new;
mod push;
mod sign;
mod test;
mod tools;

use std::process::ExitCode;

/// Runs the command; prints its error on one line for each cause.
#[must_use]
pub(super) fn run(command: &cli::Plugin) -> ExitCode {
    let result = match command {
        cli::Plugin::New(flags) => new::run(flags),
        cli::Plugin::Build(flags) => build::run(flags),
        cli::Plugin::Test(flags) => test::run(flags),
        cli::Plugin::Push(flags) => push::push(flags),
        cli::Plugin::Promote(flags) => push::promote(flags),
        cli::Plugin::Rollback(flags) => push::rollback(flags),
        cli::Plugin::List(flags) => push::list(flags),
        cli::Plugin::Sign(flags) => sign::run(flags),
        cli::Plugin::Inspect(flags) => inspect::run(flags),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
