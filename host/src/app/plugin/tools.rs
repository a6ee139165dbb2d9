//! Programs of other registries that make components, kept in a folder of ours.
//!
//! They come from npm and PyPI at exact versions, the first time they are needed,
//! and it is said that they do.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Packages from npm, with their versions.
const NPM: &[(&str, &str)] = &[
    ("@bytecodealliance/componentize-js", "0.23.0"),
    ("@bytecodealliance/jco", "1.35.0"),
    ("componentize-qjs", "0.4.5"),
];
/// The package from PyPI, with its version.
const PYPI: (&str, &str) = ("componentize-py", "0.25.1");

/// The interfaces of plugins, as this program knows them.
const WIT: &[(&str, &str)] = &[
    ("comparison.wit", include_str!("../../../../wit/comparison.wit")),
    ("filters.wit", include_str!("../../../../wit/filters.wit")),
    ("host.wit", include_str!("../../../../wit/host.wit")),
    ("lifecycle.wit", include_str!("../../../../wit/lifecycle.wit")),
    ("transcoder.wit", include_str!("../../../../wit/transcoder.wit")),
    ("types.wit", include_str!("../../../../wit/types.wit")),
    ("worlds.wit", include_str!("../../../../wit/worlds.wit")),
];

/// The folder: `SLUICE_TOOLS`, or one in the user's cache.
pub(super) fn folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("SLUICE_TOOLS") {
        return std::path::absolute(&folder)
            .with_context(|| format!("SLUICE_TOOLS: {}", Path::new(&folder).display()));
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let cache = cache.context("neither HOME nor SLUICE_TOOLS says where tools can be kept")?;
    Ok(cache.join("sluice/tools"))
}

/// A file of the same name on the path.
pub(super) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The interfaces, as files in a folder.
pub(super) fn wit() -> Result<PathBuf> {
    let folder = folder()?.join("wit");
    lay(&folder, WIT)?;
    Ok(folder)
}

/// Writes files that are not as they should be.
pub(super) fn lay(folder: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (name, text) in files {
        let file = folder.join(name);
        if std::fs::read(&file).is_ok_and(|there| there == text.as_bytes()) {
            continue;
        }
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// The folder with npm's packages.
pub(super) fn npm() -> Result<PathBuf> {
    let folder = folder()?.join("js");
    let wanted: String = NPM.iter().map(|(name, version)| format!("{name} {version}\n")).collect();
    if is_installed(&folder, &wanted) {
        return Ok(folder);
    }
    let npm = on_path("npm").context("npm is not there; on Debian: apt-get install nodejs npm")?;
    eprintln!("installing {} from npm into {}, once", list(NPM), folder.display());
    let packages: serde_json::Map<_, _> =
        NPM.iter().map(|(name, version)| ((*name).to_owned(), (*version).into())).collect();
    let manifest = serde_json::json!({"private": true, "dependencies": packages}).to_string();
    lay(&folder, &[("package.json", manifest.as_str())])?;
    // Scripts of packages are not run: none of these needs its own.
    run(Command::new(npm).current_dir(&folder).args([
        "install",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--loglevel=error",
    ]))?;
    mark(&folder, &wanted)?;
    Ok(folder)
}

/// The program `componentize-py`.
pub(super) fn componentize_py() -> Result<PathBuf> {
    let folder = folder()?.join("python");
    let program = folder.join("bin/componentize-py");
    let (name, version) = PYPI;
    let wanted = format!("{name} {version}\n");
    if is_installed(&folder, &wanted) {
        return Ok(program);
    }
    let python =
        on_path("python3").context("python3 is not there; on Debian: apt-get install python3-venv")?;
    eprintln!("installing {name} {version} from PyPI into {}, once", folder.display());
    run(Command::new(python).args([OsStr::new("-m"), OsStr::new("venv"), folder.as_os_str()]))
        .context("cannot make an environment; on Debian: apt-get install python3-venv")?;
    run(Command::new(folder.join("bin/pip")).args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        &format!("{name}=={version}"),
    ]))?;
    mark(&folder, &wanted)?;
    Ok(program)
}

/// What says that everything in a folder was installed to its end.
const MARK: &str = ".installed";

fn is_installed(folder: &Path, wanted: &str) -> bool {
    std::fs::read(folder.join(MARK)).is_ok_and(|there| there == wanted.as_bytes())
}

fn mark(folder: &Path, wanted: &str) -> Result<()> {
    std::fs::write(folder.join(MARK), wanted)
        .with_context(|| format!("cannot write into {}", folder.display()))
}

fn list(packages: &[(&str, &str)]) -> String {
    packages.iter().map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>().join(" and ")
}

/// Runs a program; its output is shown when it fails.
pub(super) fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_owned();
    let name = Path::new(&name).file_name().unwrap_or(&name).to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        bail!("{name}: {}\n{}", output.status, String::from_utf8_lossy(&text).trim());
    }
    Ok(())
}
