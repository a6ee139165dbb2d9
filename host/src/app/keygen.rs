//! `sluice keygen`.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use data_encoding::HEXLOWER;

use super::cli;
use crate::config::Id;
use crate::config::signature::SigningKey;

/// Prints 32 random bytes in hex, or makes a key that signs modules.
#[must_use]
pub(super) fn run(flags: &cli::Keygen) -> ExitCode {
    let made = match &flags.signing {
        Some(file) => signing(file),
        None => random(),
    };
    match made {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sluice: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn random() -> Result<String> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(HEXLOWER.encode(&key) + "\n")
}

/// Writes the private key and gives the object of the public one.
fn signing(file: &Path) -> Result<String> {
    let shown = file.display();
    let id = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    Id::new(&id).with_context(|| format!("{shown}: the name before the ending is the key's id, {id:?}"))?;
    let key = SigningKey::generate()?;
    // Never over another key, and for nobody else's eyes.
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .with_context(|| format!("cannot make {shown}"))?;
    out.write_all(key.to_pem().as_bytes()).with_context(|| format!("cannot write {shown}"))?;
    Ok(format!("# trust_keys/{id}.yaml\nid: {id}\nkey: {}\n", key.public()))
}
