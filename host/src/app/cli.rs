//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::objects::cli::{Apply, Delete, Diff, Get, History, Rollback};

/// The `sluice` command.
#[derive(Debug, Parser)]
#[command(
    name = "sluice",
    version,
    about = "A Wasm-extensible gateway and IM access layer",
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `sluice` can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway
    Run(Run),
    /// Validate objects; prints every error with file, object, field and value
    Check {
        /// Files and directories; default: `conf`
        #[arg(value_name = "DIR|FILE")]
        paths: Vec<PathBuf>,
    },
    /// Show lines, nodes, modules and what is quarantined
    Status(Status),
    /// Write, build and look at plugins
    #[command(subcommand)]
    Plugin(super::plugin::cli::Plugin),
    /// Show objects of a kind, or one of them
    Get(Get),
    /// Write the objects of files and directories, after showing what is different
    Apply(Apply),
    /// Delete an object
    Delete(Delete),
    /// Show what is different between an object and an earlier state of it, or files; exit code 2 if anything is
    Diff(Diff),
    /// Show what was changed, when and by whom
    History(History),
    /// Bring an object back to an earlier state, or take a change back
    Rollback(Rollback),
    /// Print a script that completes commands in a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Make a key: 32 random bytes in hex for `fleet_key` and `store.encryption`, or one that signs modules
    Keygen(Keygen),
}

/// Flags of `sluice run`.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The boot file; without it every default holds
    #[arg(short, long, value_name = "sluice.yaml")]
    pub config: Option<PathBuf>,
    /// Read the objects from this directory, whatever the boot file says
    #[arg(long, value_name = "DIR", conflicts_with = "etcd")]
    pub conf: Option<PathBuf>,
    /// Read the objects from these etcd servers
    #[arg(long, value_name = "URL,URL", value_delimiter = ',')]
    pub etcd: Vec<String>,
    /// Take the listening sockets over from the process at the boot file's
    /// `takeover` socket, which then drains and ends
    #[arg(long)]
    pub takeover: bool,
}

/// Flags of `sluice keygen`.
#[derive(Debug, clap::Args)]
pub struct Keygen {
    /// Make an Ed25519 key that signs modules: the private key goes to FILE, whose name without its
    /// ending is the key's id, and the object for `trust_keys` is printed
    #[arg(long, value_name = "FILE")]
    pub signing: Option<PathBuf>,
}

/// Flags of `sluice status`.
#[derive(Debug, clap::Args)]
pub struct Status {
    /// The status address of the node
    #[arg(long, default_value = "127.0.0.1:9090", env = "SLUICE_STATUS")]
    pub addr: SocketAddr,
    /// Redraw every second
    #[arg(short, long, conflicts_with = "json")]
    pub watch: bool,
    /// Show the nodes that read the same etcd store
    #[arg(long, conflicts_with = "watch")]
    pub fleet: bool,
    /// Print what the node says as it is
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
