//! The flags of `sluice plugin`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// What can be done with plugins.
#[derive(Debug, Subcommand)]
pub enum Plugin {
    /// Write a plugin to begin with, which builds and passes its tests
    New(New),
    /// Make a component of a Rust crate, or of a folder of JavaScript or Python
    Build(Build),
    /// Run a component against recorded cases, without a gateway
    Test(Test),
    /// Show what a component imports, exports and needs
    Inspect(Inspect),
}

/// Flags of `sluice plugin new`.
#[derive(Debug, Args)]
pub struct New {
    /// Its name, and the folder it is written to; `[a-z][a-z0-9-]*`
    pub name: String,
    /// What it does
    #[arg(long, value_enum)]
    pub kind: Kind,
    /// The language it is written in
    #[arg(long, value_enum, default_value_t = Lang::Rust)]
    pub lang: Lang,
    /// The folder of the crate `sluice-sdk`, for Rust; without it the one this
    /// program brings is laid into the cache
    #[arg(long, value_name = "DIR")]
    pub sdk: Option<PathBuf>,
}

/// What a plugin does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Looks at requests
    Filter,
    /// Looks at frames
    Frame,
    /// Goes between JSON and the bodies of frames
    Transcode,
    /// Answers HTTP requests itself, through `wasi:http`
    Function,
    /// Runs by itself
    Timer,
}

/// A language plugins are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Lang {
    /// Rust, for every kind
    Rust,
    /// JavaScript, for filters of requests and frames and for functions
    Js,
    /// Python, for the same
    Python,
}

/// Flags of `sluice plugin build`.
#[derive(Debug, Args)]
pub struct Build {
    /// A folder with a `Cargo.toml`, a `package.json` or a `pyproject.toml`
    #[arg(value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
    /// Where the component goes; without it `PATH/target/NAME.wasm`
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Flags of `sluice plugin test`.
#[derive(Debug, Args)]
pub struct Test {
    /// A component, or a folder of sources, which is built first
    #[arg(value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
    /// The cases; without it `cases.yaml` in the folder, or beside the component
    #[arg(long, value_name = "FILE")]
    pub cases: Option<PathBuf>,
}

/// Flags of `sluice plugin inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// A component
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How it is shown
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// How something is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}
