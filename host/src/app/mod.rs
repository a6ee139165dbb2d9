//! The program: command line, start, signals, end.
//!
//! Start at [`main`]; `run` is the gateway, the other commands are small.

pub mod boot;
mod check;
pub mod cli;
mod keygen;
mod limits;
mod manager;
pub mod objects;
pub mod plugin;
mod run;
pub mod status;
mod worker;

use std::process::ExitCode;

use clap::Parser;

/// What the `sluice` program does.
#[must_use]
pub fn main() -> ExitCode {
    let command = match cli::Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => {
            // 2 means "something is different" or "not ready": what was typed
            // wrong is a failure like any other. Help is none.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match command {
        cli::Command::Run(flags) => run::run(&flags),
        cli::Command::Check { paths } => check::run(&paths),
        cli::Command::Status(flags) => status::run(&flags),
        cli::Command::Plugin(command) => plugin::run(&command),
        cli::Command::Keygen(flags) => keygen::run(&flags),
        cli::Command::Completion { shell } => {
            let mut command = <cli::Cli as clap::CommandFactory>::command();
            clap_complete::generate(shell, &mut command, "sluice", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
        cli::Command::Get(flags) => objects::run(|| objects::get(&flags)),
        cli::Command::Apply(flags) => objects::run(|| objects::apply(&flags)),
        cli::Command::Delete(flags) => objects::run(|| objects::delete(&flags)),
        cli::Command::Diff(flags) => objects::run(|| objects::diff(&flags)),
        cli::Command::History(flags) => objects::run(|| objects::history(&flags)),
        cli::Command::Rollback(flags) => objects::run(|| objects::rollback(&flags)),
    }
}
