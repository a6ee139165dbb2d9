//! The program: command line, start, signals, end.
//!
//! Start at [`main`]; `run` is the gateway, the other commands are small.

pub mod boot;
mod check;
pub mod cli;
mod keygen;
mod limits;
mod manager;
pub mod plugin;
mod run;
pub mod status;
mod worker;

use std::process::ExitCode;

use clap::Parser;

/// What the `sluice` program does.
#[must_use]
pub fn main() -> ExitCode {
    match cli::Cli::parse().command {
        cli::Command::Run(flags) => run::run(&flags),
        cli::Command::Check { paths } => check::run(&paths),
        cli::Command::Status(flags) => status::run(&flags),
        cli::Command::Plugin(command) => plugin::run(&command),
        cli::Command::Keygen(flags) => keygen::run(&flags),
    }
}
