//! `sluice plugin build`: from sources to a component.

mod js;
mod python;
mod rust;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::{cli, describe, tools};

/// The interfaces of HTTP functions, `wasi:http` 0.2.10 with what it uses: the
/// version StarlingMonkey is built for.
const WASI_HTTP: &[(&str, &str)] = &[
    ("http.wit", include_str!("wasi-http/http.wit")),
    ("deps/cli.wit", include_str!("wasi-http/deps/cli.wit")),
    ("deps/clocks.wit", include_str!("wasi-http/deps/clocks.wit")),
    ("deps/io.wit", include_str!("wasi-http/deps/io.wit")),
    ("deps/random.wit", include_str!("wasi-http/deps/random.wit")),
];

/// What a folder of JavaScript or Python says about itself.
struct Manifest {
    name: String,
    /// The file, or the module, that exports.
    main: String,
    kind: Guest,
}

/// What a component in JavaScript or Python exports: their tools take one world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guest {
    Filter,
    Frame,
    Function,
}

impl Guest {
    fn parse(kind: Option<&str>, place: &str) -> Result<Self> {
        match kind {
            Some("filter") => Ok(Self::Filter),
            Some("frame") => Ok(Self::Frame),
            Some("function") => Ok(Self::Function),
            Some(other) => bail!("{place}: {other:?}: filter, frame or function"),
            None => bail!("{place} is missing: filter, frame or function"),
        }
    }

    /// The world of `wit/`, or of `wasi:http`.
    fn world(self) -> &'static str {
        match self {
            Self::Filter => "sluice:plugin/http-filter@0.1.0",
            Self::Frame => "sluice:plugin/frame-filter-only@0.1.0",
            Self::Function => "wasi:http/proxy@0.2.10",
        }
    }
}

/// Builds what is at the path and writes the component.
pub(super) fn run(flags: &cli::Build) -> Result<()> {
    let begin = Instant::now();
    let folder =
        flags.path.canonicalize().with_context(|| format!("cannot open {}", flags.path.display()))?;
    let (name, component) = component(&folder)?;
    let out = flags.out.clone().unwrap_or_else(|| flags.path.join("target").join(format!("{name}.wasm")));
    write(&out, &component)?;
    let description = describe::Description::of(&component)?;
    println!(
        "built {} in {:.1} s: {}, exports {}",
        out.display(),
        begin.elapsed().as_secs_f64(),
        describe::size(component.len()),
        description.interfaces().join(", "),
    );
    Ok(())
}

/// The component and the name of what is in a folder.
pub(super) fn component(folder: &Path) -> Result<(String, Vec<u8>)> {
    let has = |file: &str| folder.join(file).is_file();
    if has("Cargo.toml") {
        rust::build(folder)
    } else if has("package.json") {
        js::build(folder)
    } else if has("pyproject.toml") {
        python::build(folder)
    } else {
        bail!(
            "{} holds no Cargo.toml, package.json or pyproject.toml; `sluice plugin new` writes a plugin to begin with",
            folder.display()
        )
    }
}

/// The interfaces of HTTP functions, as files in a folder.
fn wasi_http() -> Result<PathBuf> {
    let folder = tools::folder()?.join("wasi-http-0.2.10");
    tools::lay(&folder, WASI_HTTP)?;
    Ok(folder)
}

/// Writes beside the file and moves it there, so that a gateway that watches the
/// folder never sees half a component.
fn write(out: &Path, component: &[u8]) -> Result<()> {
    let folder = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let name = out.file_name().with_context(|| format!("{} is no file name", out.display()))?;
    let beside = folder.join(format!(".{}.new", name.to_string_lossy()));
    std::fs::write(&beside, component).with_context(|| format!("cannot write {}", beside.display()))?;
    std::fs::rename(&beside, out).with_context(|| format!("cannot write {}", out.display()))
}
