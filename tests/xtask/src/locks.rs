//! Every `Cargo.lock` is as its manifests want it. Builds here would catch that of
//! some workspaces; those of the fuzz targets are built by nobody for weeks.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::shell::{cargo, run};

/// Fails at the first that cargo would change.
pub(crate) fn check(root: &Path) -> Result<()> {
    for manifest in manifests(root)? {
        let manifest = manifest.to_string_lossy();
        run(cargo(&["update", "--workspace", "--locked", "--quiet", "--manifest-path", &manifest]))?;
    }
    Ok(())
}

/// Manifests that have a lock beside them, from the root.
fn manifests(root: &Path) -> Result<Vec<PathBuf>> {
    let is_source = |name: &str| !name.starts_with('.') && !["target", "node_modules"].contains(&name);
    let files = walkdir::WalkDir::new(root)
        .min_depth(1)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| is_source(&entry.file_name().to_string_lossy()));
    let mut manifests = Vec::new();
    for file in files {
        let path = file?.into_path();
        if path.ends_with("Cargo.lock") {
            manifests.push(path.strip_prefix(root)?.with_file_name("Cargo.toml"));
        }
    }
    Ok(manifests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_found_in_sources_alone() {
        let found = manifests(&crate::shell::root()).unwrap();
        for wanted in ["Cargo.toml", "plugins/Cargo.toml", "tests/fuzz-plugins/Cargo.toml"] {
            assert!(found.iter().any(|path| path == Path::new(wanted)), "{wanted} is not in {found:?}");
        }
        assert!(!found.iter().any(|path| path.components().any(|part| part.as_os_str() == "target")));
    }
}
