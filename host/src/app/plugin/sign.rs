//! `sluice plugin sign`: a detached signature of a component under a name.

use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

use super::cli;
use super::describe::Description;
use crate::config::objects::units::parse_duration;
use crate::config::objects::{ModuleGrants, ModuleSignature};
use crate::config::signature::SigningKey;
use crate::config::{Digest, Id};

/// Prints the signature, or writes it.
pub(super) fn run(flags: &cli::Sign) -> Result<()> {
    let file = flags.file.display();
    let component = std::fs::read(&flags.file).with_context(|| format!("cannot read {file}"))?;
    let grants =
        ModuleGrants { fetch: flags.fetch.clone(), kv: flags.kv.clone(), store: flags.store.clone() };
    let signature = signature(&component, &flags.name, &flags.version, grants, &flags.seal)?;
    let text = serde_json::to_string_pretty(&signature)? + "\n";
    match &flags.out {
        Some(out) => std::fs::write(out, text).with_context(|| format!("cannot write {}", out.display())),
        None => {
            print!("{text}");
            Ok(())
        }
    }
}

/// Signs a component as a version of a module that may have these grants.
pub(super) fn signature(
    component: &[u8],
    name: &str,
    version: &str,
    grants: ModuleGrants,
    seal: &cli::Seal,
) -> Result<ModuleSignature> {
    let path = seal.key.as_deref().context("--key says where the private key is")?;
    let key = key(path)?;
    let id = match &seal.key_id {
        Some(id) => id.clone(),
        None => path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let expires = match &seal.expires {
        None => None,
        Some(time) => {
            let time = parse_duration(time).map_err(|why| anyhow::anyhow!("--expires {time}: {why}"))?;
            Some(i64::try_from(now + time.as_secs()).unwrap_or(i64::MAX))
        }
    };
    let wrong = |what: &str, text: &str| format!("{what} {text:?}");
    let mut signature = ModuleSignature {
        key: Id::new(&id).with_context(|| wrong("--key-id", &id))?,
        name: Id::new(name).with_context(|| wrong("the name", name))?,
        version: version.to_owned(),
        digest: Digest::of(component),
        world: world(&Description::of(component)?)?,
        // Rises by itself, whoever signs.
        number: seal.number.unwrap_or(now),
        floor: seal.floor,
        expires,
        grants,
        // Of nothing yet.
        value: key.sign(b""),
    };
    if signature.floor() > signature.number {
        bail!("--floor {} is above --number {}", signature.floor(), signature.number);
    }
    signature.value = key.sign(signature.manifest().as_bytes());
    Ok(signature)
}

fn key(path: &Path) -> Result<SigningKey> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    SigningKey::from_pem(&text).map_err(|error| anyhow::anyhow!("{shown} {error}"))
}

/// The interfaces a component is made for, as signatures name them.
fn world(description: &Description) -> Result<String> {
    let version = |prefix: &str| {
        let name = description.exports.keys().find(|name| name.starts_with(prefix))?;
        name.split_once('@').map(|(_, version)| version.to_owned())
    };
    // A function may export interfaces of ours as well.
    for prefix in ["wasi:http/incoming-handler@", "wasi:http/handler@"] {
        if let Some(version) = version(prefix) {
            let minor: Vec<&str> = version.split('.').take(2).collect();
            return Ok(format!("wasi:http@{}", minor.join(".")));
        }
    }
    match version("sluice:plugin/") {
        Some(version) => Ok(format!("sluice:plugin@{version}")),
        None => bail!("the component exports neither sluice:plugin nor wasi:http"),
    }
}
