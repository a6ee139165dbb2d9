//! JavaScript: QuickJS for filters, StarlingMonkey for functions.
//!
//! QuickJS makes small components without WASI, whose calls are cheap to begin;
//! StarlingMonkey has the web's `fetch` event, `Request` and `Response`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::super::tools;
use super::{Guest, Manifest, wasi_http};

/// What Node runs: the two libraries have no command line that can do all of this.
const SCRIPT: &str = include_str!("componentize.mjs");

#[derive(Deserialize)]
struct Package {
    name: Option<String>,
    main: Option<String>,
    sluice: Option<Sluice>,
}

#[derive(Deserialize)]
struct Sluice {
    kind: Option<String>,
}

/// The component and the name of the folder's package.
pub(super) fn build(folder: &Path) -> Result<(String, Vec<u8>)> {
    let manifest = manifest(folder)?;
    let source = folder.join(&manifest.main);
    if !source.is_file() {
        bail!("package.json: main: {:?}: there is no such file", manifest.main);
    }
    let tools = tools::npm()?;
    let node = tools::on_path("node").context("node is not there; on Debian: apt-get install nodejs")?;
    tools::lay(&tools, &[("componentize.mjs", SCRIPT)])?;
    let wit = match manifest.kind {
        Guest::Function => wasi_http()?,
        Guest::Filter | Guest::Frame => tools::wit()?,
    };
    let out = tempfile(folder, &manifest.name)?;
    let backend = if manifest.kind == Guest::Function { "starling-monkey" } else { "quickjs" };
    let mut command = Command::new(node);
    command.current_dir(&tools).arg("componentize.mjs").arg(backend);
    command.arg(&source).arg(wit).arg(manifest.kind.world()).arg(&out);
    let result = tools::run(&mut command).with_context(|| format!("{} does not build", source.display()));
    let component = result.and_then(|()| std::fs::read(&out).context("no component came out"));
    let _ = std::fs::remove_file(&out);
    Ok((manifest.name, component?))
}

fn manifest(folder: &Path) -> Result<Manifest> {
    let file = folder.join("package.json");
    let text = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let package: Package = serde_json::from_slice(&text).with_context(|| file.display().to_string())?;
    let kind = package.sluice.and_then(|sluice| sluice.kind);
    Ok(Manifest {
        name: package.name.with_context(|| format!("{}: name is missing", file.display()))?,
        main: package.main.unwrap_or_else(|| "plugin.js".to_owned()),
        kind: Guest::parse(kind.as_deref(), "package.json: sluice.kind")?,
    })
}

/// A file in the folder's `target` for what a tool writes.
pub(super) fn tempfile(folder: &Path, name: &str) -> Result<std::path::PathBuf> {
    let target = folder.join("target");
    std::fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
    Ok(target.join(format!(".{name}.{}.component", std::process::id())))
}
