//! Rust crates: cargo for the target `wasm32-unknown-unknown`, then a component
//! around the module that comes out.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

const TARGET: &str = "wasm32-unknown-unknown";
/// Debian's compiler and cargo for the web, and the sources of std.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_STD: &str = "/usr/lib/rustlib/src/rust/library/std/Cargo.toml";

/// What compiles for the target here.
enum Toolchain {
    /// The toolchain on the path has the target's std.
    Installed,
    /// Debian's, which builds std once a target folder.
    Debian { linker: PathBuf },
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    crate_types: Vec<String>,
}

/// The component and the name of the crate in `folder`.
pub(super) fn build(folder: &Path) -> Result<(String, Vec<u8>)> {
    let toolchain = Toolchain::find()?;
    let metadata = metadata(&toolchain, folder)?;
    let manifest = folder.join("Cargo.toml");
    let package =
        metadata.packages.iter().find(|package| package.manifest_path == manifest).with_context(|| {
            format!("{} is a workspace; name the folder of one plugin", manifest.display())
        })?;
    let target = package
        .targets
        .iter()
        .find(|target| target.crate_types.iter().any(|kind| kind == "cdylib"))
        .with_context(|| format!("{}: [lib] crate-type = [\"cdylib\"] is missing", manifest.display()))?;

    let mut command = toolchain.cargo(folder);
    command.args(["build", "--release", "--lib", "--target", TARGET, "--package", &package.name]);
    if let Toolchain::Debian { .. } = toolchain {
        command.arg("-Zbuild-std=std,panic_abort");
    }
    let status = command.status().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{} does not build", manifest.display());
    }
    let file = format!("{}.wasm", target.name.replace('-', "_"));
    let module = metadata.target_directory.join(TARGET).join("release").join(file);
    let module = std::fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
    Ok((package.name.clone(), wrap(&module)?))
}

/// A component around a module whose bindings describe what it imports and
/// exports.
fn wrap(module: &[u8]) -> Result<Vec<u8>> {
    let encoder = wit_component::ComponentEncoder::default().module(module);
    encoder
        .and_then(|encoder| encoder.validate(true).encode())
        .context("no component can be made of the module; does the crate call `sluice_sdk::export!`?")
}

fn metadata(toolchain: &Toolchain, folder: &Path) -> Result<Metadata> {
    let output = toolchain
        .cargo(folder)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo cannot read {}", folder.join("Cargo.toml").display());
    }
    serde_json::from_slice(&output.stdout).context("what `cargo metadata` prints cannot be read")
}

impl Toolchain {
    /// The one on the path when it has the target, else Debian's.
    fn find() -> Result<Self> {
        if has_target() {
            return Ok(Self::Installed);
        }
        let is_debian = [DEBIAN_RUSTC, DEBIAN_CARGO, DEBIAN_STD].iter().all(|path| Path::new(path).exists());
        let linker = linker();
        match (is_debian, linker) {
            (true, Some(linker)) => Ok(Self::Debian { linker }),
            _ => bail!(
                "no toolchain here compiles for {TARGET}; install one by\n  \
                 rustup target add {TARGET}\nor, on Debian,\n  \
                 apt-get install rustc-web cargo-web rust-web-src lld"
            ),
        }
    }

    fn cargo(&self, folder: &Path) -> Command {
        let mut command = match self {
            Self::Installed => Command::new("cargo"),
            Self::Debian { linker } => {
                let mut command = Command::new(DEBIAN_CARGO);
                command
                    .env("RUSTC", DEBIAN_RUSTC)
                    // What lets a release of the compiler build its own std.
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
                command
            }
        };
        // Flags for this machine's processor mean nothing to the target.
        command.current_dir(folder).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        command
    }
}

/// Whether the compiler on the path has std for the target.
fn has_target() -> bool {
    let output = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    let Ok(output) = output else { return false };
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let mut files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    output.status.success() && files.any(|file| file.file_name().to_string_lossy().starts_with("libstd-"))
}

/// A linker for WebAssembly: lld's, or the one rustup's toolchains bring.
fn linker() -> Option<PathBuf> {
    let on_path = super::super::tools::on_path("wasm-ld");
    on_path.or_else(|| {
        let print = |what: &[&str]| {
            let output = Command::new("rustc").args(what).output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let root = print(&["--print", "sysroot"])?;
        let host =
            print(&["-vV"])?.lines().find_map(|line| line.strip_prefix("host: ").map(str::to_owned))?;
        let linker = Path::new(&root).join("lib/rustlib").join(host).join("bin/rust-lld");
        linker.is_file().then_some(linker)
    })
}
