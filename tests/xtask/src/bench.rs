//! Hands over to the benchmark program, built as it is shipped.

use anyhow::Result;

use crate::plugins;
use crate::setup::{self, Needs};
use crate::shell::{self, cargo};

/// Builds everything in the release profile and runs the benchmark `name`.
pub(crate) fn run(name: Option<&str>, arguments: &[String]) -> Result<()> {
    setup::run(Needs::Bench)?;
    shell::run(cargo(&["build", "--release", "--workspace", "--bins"]))?;
    plugins::build("release")?;
    let mut command = cargo(&["run", "--release", "--quiet", "--package", "sluice-bench", "--"]);
    command.args(name).args(arguments);
    shell::run(command)
}
