//! The flags of the commands that go through the Admin API.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum, ValueHint};

use crate::config::{KINDS, Kind};

/// Whom to ask.
#[derive(Debug, Clone, Args)]
pub struct Server {
    /// The Admin API of a node; without it the one in the client's file, or http://127.0.0.1:9180
    #[arg(long, value_name = "URL", env = "SLUICE_ADMIN", value_hint = ValueHint::Url)]
    pub server: Option<String>,
    /// The file with the key; without it the key is in SLUICE_ADMIN_KEY, or in the file that the client's file names
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key_file: Option<PathBuf>,
    /// The client's file: `server` and `key_file`; without it ~/.config/sluice/client.yaml if it is there
    #[arg(long, value_name = "FILE", env = "SLUICE_CLIENT", value_hint = ValueHint::FilePath)]
    pub client: Option<PathBuf>,
}

/// How answers are shown.
#[derive(Debug, Clone, Copy, Args)]
pub struct Shown {
    /// How to show it
    #[arg(short = 'o', long = "output", value_name = "FORM", value_enum, default_value = "table")]
    pub form: Output,
}

/// A form of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs
    Json,
    /// For files
    Yaml,
}

/// Whether to ask before something is changed.
#[derive(Debug, Clone, Copy, Args)]
pub struct Consent {
    /// Only show what would be different; exit code 2 if anything would
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask; needed where there is no terminal
    #[arg(short, long, conflicts_with = "dry_run")]
    pub yes: bool,
}

fn kinds() -> PossibleValuesParser {
    PossibleValuesParser::new(KINDS.map(Kind::name))
}

/// Flags of `sluice get`.
#[derive(Debug, Args)]
pub struct Get {
    /// Whom to ask.
    #[command(flatten)]
    pub server: Server,
    /// How to show it.
    #[command(flatten)]
    pub output: Shown,
    /// The kind
    #[arg(value_parser = kinds())]
    pub kind: String,
    /// The id; without it all objects of the kind
    pub id: Option<String>,
    /// Only objects whose name matches
    #[arg(long, value_name = "REGEX", conflicts_with = "id")]
    pub name: Option<String>,
    /// Only objects with this label, or label:value
    #[arg(long, conflicts_with = "id")]
    pub label: Option<String>,
    /// Only objects with a path that matches
    #[arg(long, value_name = "REGEX", conflicts_with = "id")]
    pub uri: Option<String>,
}

/// Flags of `sluice apply`.
#[derive(Debug, Args)]
pub struct Apply {
    /// Whom to ask.
    #[command(flatten)]
    pub server: Server,
    /// How to show what is different.
    #[command(flatten)]
    pub output: Shown,
    /// A file (KIND/ID.yaml, or a map of kinds to lists) or a directory of them; `-` reads such a map
    #[arg(short, long = "file", value_name = "FILE|DIR", required = true, value_hint = ValueHint::AnyPath)]
    pub files: Vec<PathBuf>,
    /// Whether to ask.
    #[command(flatten)]
    pub consent: Consent,
}

/// Flags of `sluice delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// Whom to ask.
    #[command(flatten)]
    pub server: Server,
    /// The kind
    #[arg(value_parser = kinds())]
    pub kind: String,
    /// The id
    pub id: String,
    /// Also when others name it
    #[arg(long)]
    pub force: bool,
    /// Whether to ask.
    #[command(flatten)]
    pub consent: Consent,
}

/// Flags of `sluice diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// Whom to ask.
    #[command(flatten)]
    pub server: Server,
    /// How to show it.
    #[command(flatten)]
    pub output: Shown,
    /// The kind
    #[arg(requires = "id", required_unless_present = "files", conflicts_with = "files", value_parser = kinds())]
    pub kind: Option<String>,
    /// The id
    pub id: Option<String>,
    /// The change after which the object was as it is compared with; without it the state before its last one
    #[arg(long, value_name = "CHANGE", conflicts_with = "files")]
    pub to: Option<u64>,
    /// Files and directories to compare with instead
    #[arg(short, long = "file", value_name = "FILE|DIR", value_hint = ValueHint::AnyPath)]
    pub files: Vec<PathBuf>,
}

/// Flags of `sluice history`.
#[derive(Debug, Args)]
pub struct History {
    /// Whom to ask.
    #[command(flatten)]
    pub server: Server,
    /// How to show it.
    #[command(flatten)]
    pub output: Shown,
    /// Only changes of this kind
    #[arg(value_parser = kinds())]
    pub kind: Option<String>,
    /// Only changes of this object
    pub id: Option<String>,
    /// One change in full
    #[arg(long, conflicts_with = "kind")]
    pub change: Option<u64>,
    /// The most changes to show
    #[arg(long, default_value_t = 50)]
    pub limit: u16,
}

/// Flags of `sluice rollback`.
#[derive(Debug, Args)]
pub struct Rollback {
    /// Whom to ask.
    #[command(flatten)]
    pub server: Server,
    /// How to show what is different.
    #[command(flatten)]
    pub output: Shown,
    /// The kind
    #[arg(requires = "id", required_unless_present = "change", value_parser = kinds())]
    pub kind: Option<String>,
    /// The id
    pub id: Option<String>,
    /// Back to how it was after this change; without it to before its last one
    #[arg(long, value_name = "CHANGE", requires = "id")]
    pub to: Option<u64>,
    /// Take back this change, with all it changed
    #[arg(long, conflicts_with = "kind")]
    pub change: Option<u64>,
    /// Whether to ask.
    #[command(flatten)]
    pub consent: Consent,
}
