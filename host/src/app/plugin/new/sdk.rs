//! The crate `sluice-sdk` as this program brings it, for authors without the
//! sources of the gateway.

use std::path::PathBuf;

use anyhow::Result;

use super::super::tools;

macro_rules! sources {
    ($($path:literal),+ $(,)?) => {
        &[$((concat!("guest-sdk/", $path), include_str!(concat!("../../../../../guest-sdk/", $path)))),+]
    };
}

const SOURCES: &[(&str, &str)] = sources![
    "Cargo.toml",
    "src/comparison.rs",
    "src/config.rs",
    "src/exchanges.rs",
    "src/filters.rs",
    "src/frames.rs",
    "src/function.rs",
    "src/glue/convert.rs",
    "src/glue/host.rs",
    "src/glue/http.rs",
    "src/glue/mod.rs",
    "src/head.rs",
    "src/host/clock.rs",
    "src/host/events.rs",
    "src/host/fetch.rs",
    "src/host/files.rs",
    "src/host/health.rs",
    "src/host/key_value.rs",
    "src/host/log.rs",
    "src/host/metrics.rs",
    "src/host/mod.rs",
    "src/interest.rs",
    "src/lib.rs",
    "src/macros.rs",
    "src/plugin.rs",
    "src/testing/fake.rs",
    "src/testing/message.rs",
    "src/testing/mod.rs",
    "src/testing/tester.rs",
    "src/timer.rs",
    "src/transcoder.rs",
    "src/verdict.rs",
];

/// What the crate takes from the workspace it stands in.
const WORKSPACE: &str = r#"[workspace]
resolver = "3"
members = ["guest-sdk"]

[workspace.package]
version = "VERSION"
edition = "2024"
rust-version = "1.95"
license = "Apache-2.0"
publish = false

[workspace.dependencies]
serde = { version = "1", features = ["derive"] }
serde_json = "1"

[workspace.lints.rust]
"#;

/// Lays the crate and the interfaces it reads into the cache; gives its folder.
pub(super) fn lay() -> Result<PathBuf> {
    tools::wit()?;
    let root = tools::folder()?;
    tools::lay(&root, SOURCES)?;
    let workspace = WORKSPACE.replace("VERSION", env!("CARGO_PKG_VERSION"));
    tools::lay(&root, &[("Cargo.toml", workspace.as_str())])?;
    Ok(root.join("guest-sdk"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn files(folder: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files(&path, found);
            } else {
                found.insert(path);
            }
        }
    }

    #[test]
    fn every_file_of_the_crate_is_brought() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut there = BTreeSet::from([root.join("guest-sdk/Cargo.toml")]);
        files(&root.join("guest-sdk/src"), &mut there);
        let brought: BTreeSet<PathBuf> = SOURCES.iter().map(|(path, _)| root.join(path)).collect();
        assert_eq!(there, brought);
    }
}
