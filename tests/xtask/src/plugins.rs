//! Builds the plugins of `plugins/` and the guests of `tests/guests`, each only
//! when its sources changed, and runs the plugins' own tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::shell::{self, cargo, command, root};

/// What says that a folder is a plugin.
const MANIFESTS: [&str; 3] = ["Cargo.toml", "package.json", "pyproject.toml"];
/// What all plugins are made of as well.
const SHARED: [&str; 3] = ["guest-sdk/src", "plugins/Cargo.lock", "wit"];

/// Builds the host's program, all plugins, and tests them.
pub(crate) fn all() -> Result<()> {
    shell::run(cargo(&["build", "--workspace", "--bins"]))?;
    build("debug")?;
    shell::run(cargo(&["test", "--manifest-path", "plugins/Cargo.toml", "--workspace", "--quiet"]))
}

/// Builds the plugins and guests whose sources changed, into `target/plugins` and
/// `target/guests`. The host's program is there, built by `profile`.
pub(crate) fn build(profile: &str) -> Result<()> {
    build_where(profile, |_| true)
}

/// Builds these alone.
pub(crate) fn build_these(profile: &str, names: &[&str]) -> Result<()> {
    build_where(profile, |name| names.contains(&name))
}

fn build_where(profile: &str, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
    let target = root().join(crate::check::target_folder());
    let sluice = target.join(profile).join("sluice");
    let (mut rust, mut others) = (Vec::new(), Vec::new());
    for (kind, folder) in folders("plugins", "plugins")?.into_iter().chain(folders("tests/guests", "guests")?)
    {
        let name = folder.file_name().context("a plugin's folder has a name")?.to_string_lossy().into_owned();
        let component = target.join(kind).join(format!("{name}.wasm"));
        if !is_wanted(&name) || is_fresh(&component, &folder)? {
            continue;
        }
        let (path, out) = (folder.to_string_lossy(), component.to_string_lossy());
        let mut build = command(&sluice.to_string_lossy(), &["plugin", "build", &path, "--out", &out]);
        // Tools of other registries stay within the project; plugins have their
        // own target folder whatever the host's is, and guests share it, so that
        // std is built once.
        build.env("SLUICE_TOOLS", target.join("guest-tools"));
        build.env("CARGO_TARGET_DIR", root().join("plugins/target"));
        if folder.join("Cargo.toml").is_file() { rust.push(build) } else { others.push(build) }
    }
    // Those of Rust share a target folder and wait for each other anyway.
    let in_turn = |builds: Vec<Command>| builds.into_iter().try_for_each(shell::run);
    shell::together(|| in_turn(rust), || in_turn(others))?;
    place_in_examples(&target.join("plugins"))
}

/// Puts the components that example stores have objects for beside these.
fn place_in_examples(components: &Path) -> Result<()> {
    for store in fs::read_dir(root().join("examples")).context("cannot read examples/")? {
        let Ok(objects) = fs::read_dir(store?.path().join("modules")) else { continue };
        for object in objects.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
            let name = object.file_stem().unwrap_or_default();
            let component = components.join(name).with_extension("wasm");
            if object.extension().is_some_and(|ending| ending == "yaml") && component.is_file() {
                fs::copy(&component, object.with_extension("wasm"))
                    .with_context(|| format!("cannot write beside {}", object.display()))?;
            }
        }
    }
    Ok(())
}

/// Folders of plugins below a folder, in order, with the kind they are.
fn folders(parent: &str, kind: &'static str) -> Result<Vec<(&'static str, PathBuf)>> {
    let entries = fs::read_dir(root().join(parent)).with_context(|| format!("cannot read {parent}/"))?;
    let mut folders: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| MANIFESTS.iter().any(|manifest| path.join(manifest).is_file()))
        .collect();
    folders.sort();
    Ok(folders.into_iter().map(|folder| (kind, folder)).collect())
}

/// Whether the component is newer than everything it is made of.
fn is_fresh(component: &Path, folder: &Path) -> Result<bool> {
    let Ok(built) = fs::metadata(component).and_then(|metadata| metadata.modified()) else {
        return Ok(false);
    };
    let shared = SHARED.iter().map(|path| root().join(path));
    for path in std::iter::once(folder.to_owned()).chain(shared) {
        if newest(&path)? > built {
            return Ok(false);
        }
    }
    Ok(true)
}

/// When the newest file below a path was written; what builds leave does not count.
fn newest(path: &Path) -> Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    let files = walkdir::WalkDir::new(path).into_iter().filter_entry(|entry| entry.file_name() != "target");
    for entry in files.flatten().filter(|entry| entry.file_type().is_file()) {
        newest = newest.max(entry.metadata()?.modified()?);
    }
    Ok(newest)
}
