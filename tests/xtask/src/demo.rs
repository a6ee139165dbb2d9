//! Builds everything and starts the demo.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};

use crate::plugins;
use crate::setup::{self, Needs};
use crate::shell::{self, cargo, command, root};

/// The modules of `examples/demo`.
const PLUGINS: [&str; 4] = ["access-points", "qr-login", "transcode", "web-im"];

/// Becomes the demo program, so that Ctrl-C reaches it alone; returns only if
/// that fails.
pub(crate) fn run(check: bool) -> Result<()> {
    setup::run(Needs::Test)?;
    shell::run(cargo(&["build", "--workspace", "--bins"]))?;
    plugins::build_these("debug", &PLUGINS)?;
    let program = root().join(crate::check::target_folder()).join("debug/sluice-demo");
    let arguments: &[&str] = if check { &["--check"] } else { &[] };
    let error = command(&program.to_string_lossy(), arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
