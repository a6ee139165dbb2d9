//! The `sluice` program.

use std::process::ExitCode;

/// Less memory and time for small, short-lived allocations than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sluice::app::main()
}
