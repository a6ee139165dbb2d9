//! `sluice check`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::snapshot::Checker;
use crate::upstream::{self, Environment};

/// Checks what `paths` hold and prints every fault; exit code 1 when there is one.
#[must_use]
pub(super) fn run(paths: &[PathBuf]) -> ExitCode {
    let default = [PathBuf::from("conf")];
    let paths = if paths.is_empty() { &default[..] } else { paths };
    let checker = Checker::new(Environment::new(upstream::Options::default()));
    let report =
        crate::config::check(paths, Box::new(move |object, problems| checker.check(object, problems)));
    print!("{report}");
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
