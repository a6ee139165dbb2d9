//! `sluice status`.

use std::process::ExitCode;

use crate::admin::client::{self, Form, Mode, Options};
use crate::admin::fleet;

use super::cli;

/// Asks the node and shows its answer. Exit codes: 0 ready, 1 not reached, 2 not ready.
#[must_use]
pub fn run(flags: &cli::Status) -> ExitCode {
    let form = if flags.json { Form::Json } else { Form::Table };
    if flags.fleet {
        return ExitCode::from(fleet::run(flags.addr, form));
    }
    let options =
        Options { address: flags.addr, mode: if flags.watch { Mode::Watch } else { Mode::Once }, form };
    ExitCode::from(client::run(&options))
}
