//! The flags of `sluice plugin`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum, ValueHint};

use crate::app::objects::cli::Server;

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
    /// Sign a component as a version of a module
    Sign(Sign),
    /// Send a component to a running fleet as a version of a module, to serve or to be tried
    Push(Push),
    /// Have the version that is tried serve
    Promote(Promote),
    /// Take back the version that is tried, or go back to the one before the one that serves
    Rollback(Rollback),
    /// Show the modules of a running fleet, their versions and what is tried
    List(List),
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
    /// Tell perf where the component's functions are, by a file /tmp/perf-<pid>.map
    #[arg(long)]
    pub perf_map: bool,
    /// How the outcome is shown
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
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

/// Flags of `sluice plugin sign`.
#[derive(Debug, Args)]
pub struct Sign {
    /// A component
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The module it is a version of
    #[arg(long)]
    pub name: String,
    /// The name of the version
    #[arg(long)]
    pub version: String,
    /// A namespace of the node's key-value store it may be granted; may be given again
    #[arg(long, value_name = "NAMESPACE")]
    pub kv: Vec<String>,
    /// A namespace of values on all nodes it may be granted; may be given again
    #[arg(long, value_name = "NAMESPACE")]
    pub store: Vec<String>,
    /// A host it may be granted to fetch from; may be given again
    #[arg(long, value_name = "HOST")]
    pub fetch: Vec<String>,
    /// How it is signed.
    #[command(flatten)]
    pub seal: Seal,
    /// Where the signature goes; without it it is printed
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Flags of `sluice plugin push`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("trial").args(["canary", "node", "region"]).multiple(true))]
pub struct Push {
    /// Whom to ask.
    #[command(flatten)]
    pub server: Server,
    /// The module
    pub name: String,
    /// A component
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Only try it, on these hundredths of the clients
    #[arg(long, value_name = "PERCENT")]
    pub canary: Option<f64>,
    /// Only try it, on this node; may be given again
    #[arg(long, value_name = "ID")]
    pub node: Vec<String>,
    /// Only try it, in this region; may be given again
    #[arg(long, value_name = "REGION")]
    pub region: Vec<String>,
    /// Only show it copies of what those clients send
    #[arg(long, requires = "trial")]
    pub shadow: bool,
    /// The name of the version; without it the first 12 digits of the digest
    #[arg(long)]
    pub version: Option<String>,
    /// A namespace of the node's key-value store it is granted; may be given again. Without any
    /// grant those of the module stay
    #[arg(long, value_name = "NAMESPACE")]
    pub kv: Vec<String>,
    /// A namespace of values on all nodes it is granted; may be given again
    #[arg(long, value_name = "NAMESPACE")]
    pub store: Vec<String>,
    /// A host it is granted to fetch from; may be given again
    #[arg(long, value_name = "HOST")]
    pub fetch: Vec<String>,
    /// How it is signed.
    #[command(flatten)]
    pub seal: Seal,
}

/// Flags of `sluice plugin promote`.
#[derive(Debug, Args)]
pub struct Promote {
    /// Whom to ask.
    #[command(flatten)]
    pub server: Server,
    /// The module
    pub name: String,
    /// Also when a node has taken the version back
    #[arg(long)]
    pub force: bool,
}

/// Flags of `sluice plugin rollback`.
#[derive(Debug, Args)]
pub struct Rollback {
    /// Whom to ask.
    #[command(flatten)]
    pub server: Server,
    /// The module
    pub name: String,
    /// The version to go back to
    #[arg(long, value_name = "VERSION")]
    pub to: Option<String>,
}

/// Flags of `sluice plugin list`.
#[derive(Debug, Args)]
pub struct List {
    /// Whom to ask.
    #[command(flatten)]
    pub server: Server,
    /// How they are shown
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// How a component is signed.
#[derive(Debug, Args)]
pub struct Seal {
    /// The private key, as `sluice keygen --signing` or openssl makes it
    #[arg(long = "key", alias = "sign", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The id of its trust key; without it the file's name without its ending
    #[arg(long, value_name = "ID")]
    pub key_id: Option<String>,
    /// A number that rises with each version; without it the seconds since 1970
    #[arg(long)]
    pub number: Option<u64>,
    /// Versions with a lower number do not run any more once this one has served; without it the
    /// number itself
    #[arg(long, value_name = "NUMBER")]
    pub floor: Option<u64>,
    /// How long the signature holds, such as 90d; without it for ever
    #[arg(long, value_name = "TIME")]
    pub expires: Option<String>,
}

/// How something is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}
