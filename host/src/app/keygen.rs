//! `sluice keygen`.

use std::process::ExitCode;

/// Prints 32 random bytes in hex.
#[must_use]
pub(super) fn run() -> ExitCode {
    let mut key = [0; 32];
    if let Err(error) = getrandom::fill(&mut key) {
        eprintln!("sluice: no randomness: {error}");
        return ExitCode::FAILURE;
    }
    println!("{}", key.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    ExitCode::SUCCESS
}
