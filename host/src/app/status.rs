//! `sluice status`.

use std::process::ExitCode;

use crate::admin::client::{self, Form, Mode, Options};

use super::cli;

/// Asks the node and shows its answer. Exit codes: 0 ready, 1 not reached, 2 not ready.
#[must_use]
pub fn run(flags: &cli::Status) -> ExitCode {
    let options = Options {
        address: flags.addr,
        mode: if flags.watch { Mode::Watch } else { Mode::Once },
        form: if flags.json { Form::Json } else { Form::Table },
    };
    ExitCode::from(client::run(&options))
}
